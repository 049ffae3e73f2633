"""bench/relay.py still runs and counts every delta, from a stand-in worker and through a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.quick import run_quick


@pytest.mark.slow
def test_the_relay_benchmark_counts_deltas_on_each_way(tmp_path: Path) -> None:
    cells = run_quick("relay", tmp_path)["figures"]
    assert list(cells) == [
        "flood, counting client",
        "flood, client library",
        "paced, 1 stream",
        "paced, 100 streams",
        "whole way, 1 stream",
        "whole way, 8 streams",
    ]
    for cell, found in cells.items():
        assert found["deltas/s"] > 0
        assert found["supervisor us/delta"] >= 0  # a short run may end before the kernel has counted
        assert ("worker us/delta" in found) is not cell.startswith("flood")

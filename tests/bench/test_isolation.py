"""bench/isolation.py still runs: every sort of cell, on a fifth of the load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.quick import run_quick


@pytest.mark.slow
def test_the_isolation_benchmark_times_planning_beside_every_sort_of_trouble(tmp_path: Path) -> None:
    result = run_quick("isolation", tmp_path)
    cells = result["figures"]["cells"]
    assert set(cells) == {
        "idle",
        "200 stuck",
        "200 streams",
        "200 streams, 5 MB a second",
        "its worker killed (kill -9), 200 streams",
        "one process: idle",
        "one process: 200 streams",
        "one process: 200 streams, 5 MB a second",
    }
    assert all(0 < found["p50 ms"] <= found["p99 ms"] <= found["max ms"] for found in cells.values())
    assert cells["200 streams"]["deltas/s"] > 0
    assert cells["its worker killed (kill -9), 200 streams"]["deaths"] >= 1
    assert [goal["name"] for goal in result["goals"]] == ["planning waits with a free reserved slot"]
    assert result["goals"][0]["reached"] is True

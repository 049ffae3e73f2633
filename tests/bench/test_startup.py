"""bench/startup.py still runs; what it counts, apart from time, is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.quick import run_quick


@pytest.mark.slow
def test_the_startup_benchmark_sees_everything_start_and_end(tmp_path: Path) -> None:
    found = run_quick("startup", tmp_path)["figures"]
    assert found["fresh install, workers"] == 1
    assert found["kill -9 of a worker: decided, turns"] == 100
    assert 0 < found["worker HELLO, ms"] < found["worker READY, ms"]
    assert all(value > 0 for value in found.values())

"""bench/restart.py still runs: workers and a service are killed, and what was going on goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.quick import run_quick


@pytest.mark.slow
def test_the_restart_benchmark_sees_turns_go_on(tmp_path: Path) -> None:
    figures = run_quick("restart", tmp_path)["figures"]
    assert figures.pop("turns in flight") == 10
    assert len(figures) == 6
    assert all(value > 0 for value in figures.values())
    first, last = (
        figures[f"service: {which} again, ms"] for which in ("the first accepted turn runs", "all accepted turns run")
    )
    assert first <= last

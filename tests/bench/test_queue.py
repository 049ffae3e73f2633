"""bench/queue.py still runs and measures every operation."""

from __future__ import annotations

from pathlib import Path

from tests.bench.quick import run_quick


def test_the_queue_benchmark_measures_every_operation_and_every_kind_of_ring(tmp_path: Path) -> None:
    result = run_quick("queue", tmp_path)
    assert list(result["figures"]["queue"]) == ["100", "1,000"]
    for figures in result["figures"]["queue"].values():
        assert list(figures) == [
            "offer_us",
            "assign_us",
            "limits_us",
            "gates_us",
            "cancel_us",
            "expire_us",
            "longest_cancel_us",
        ]
        assert all(value > 0 for value in figures.values())
    assert result["figures"]["used up minute"]["look_us"] > 0
    kept = result["figures"]["kept"]
    assert list(kept) == ["ring with room", "full ring", "full pool", "plain list"]
    assert all(value > 0 for value in kept.values())

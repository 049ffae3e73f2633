"""bench/journal.py still runs and measures accepts, whole lives, a slower disk and the disk itself."""

from __future__ import annotations

from pathlib import Path

from tests.bench.quick import run_quick


def test_the_journal_benchmark_measures_accepts_lives_and_the_disk(tmp_path: Path) -> None:
    figures = run_quick("journal", tmp_path)["figures"]["journal"]
    assert list(figures) == ["accept 1", "accept 16", "life 1", "life 16", "accept 1 +2 ms", "disk"]
    assert all(value > 0 for measured in figures.values() for value in measured.values())
    assert figures["accept 1 +2 ms"]["p50_ms"] >= 2
    assert figures["accept 16"]["turns_a_commit"] > 1

"""bench/readers.py still runs and measures every driver, and what it says of a goal is of a variant."""

from __future__ import annotations

from pathlib import Path

from bench.readers import REASONS
from loopforge.drivers.registry import KINDS
from tests.bench.quick import run_quick


def test_the_reader_benchmark_measures_every_driver_and_form(tmp_path: Path) -> None:
    result = run_quick("readers", tmp_path)
    streams = {f"{kind}, {form}" for kind in KINDS for form in ("text", "thinking", "tool calls")}
    streams |= {"gemini, text, array", "gemini, tool calls, array"}
    assert result["figures"]["a token a read"].keys() == streams
    assert result["figures"]["64 KiB a read"].keys() == streams | {f"{kind}, whole" for kind in KINDS}
    for variants in result["figures"].values():
        assert all(figures["MB/s"] > 0 and figures["events/s"] > 0 for figures in variants.values())
    assert {goal["name"] for goal in result["goals"]} == result["figures"]["64 KiB a read"].keys()
    assert streams >= REASONS.keys()

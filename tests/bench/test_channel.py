"""bench/channel.py still runs and measures every cell."""

from __future__ import annotations

from pathlib import Path

from tests.bench.quick import run_quick


def test_the_channel_benchmark_measures_every_depth_and_size(tmp_path: Path) -> None:
    result = run_quick("channel", tmp_path)
    cells = [f"round trips, depth {depth}" for depth in (1, 16, 256)]
    cells += [f"one way, {size}" for size in ("100 B", "1 KB", "64 KB")]
    assert list(result["figures"]) == cells
    for carriers in result["figures"].values():
        assert {"channel", "one send a message", "bare sockets, no codec"} <= carriers.keys()
        assert all(figures["rate"] > 0 and figures["cpu_us"] > 0 for figures in carriers.values())
    assert result["goals"][0]["target"] == 8

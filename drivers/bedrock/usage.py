"""Token counts in neutral accounting: `input` includes cached tokens, which this wire counts beside it. Pure.

Nothing is invented: a number that was not sent stays None. Thinking is within the output and not counted by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.turn import Usage

_LARGEST = 2**53  # no count is; a number beyond it is a bug, and no channel could carry it


def read_usage(raw: object) -> Usage | None:
    """A `usage` member in neutral numbers; None for anything else."""
    if not isinstance(raw, Mapping):
        return None
    fresh, output = _count(raw, "inputTokens"), _count(raw, "outputTokens")
    cached = _count(raw, "cacheReadInputTokens", "cacheReadInputTokenCount")
    written = _count(raw, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    return Usage(
        input=None if fresh is None else fresh + (cached or 0) + (written or 0),
        output=output,
        cache_read=cached,
        cache_write=written,
    )


def _count(raw: Mapping[str, object], *names: str) -> int | None:
    for name in names:
        value = raw.get(name)
        if isinstance(value, float) and value.is_integer() and 0 <= value <= _LARGEST:
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
            return value
    return None

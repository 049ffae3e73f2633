"""Token counts in neutral accounting: `input` includes cached tokens, which this wire counts beside it.

A stream reports twice or more, each time the totals so far: what a later report names replaces what an earlier one
said. Nothing is invented: a number that was not sent stays None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from loopforge.drivers.turn import JsonObject, Usage

_LARGEST = 2**53  # no count is; a number beyond it is a vendor's bug, and no channel could carry it


class UsageReports:
    """The reports of one answer, each put over those before it."""

    def __init__(self) -> None:
        self._latest: JsonObject = {}

    def __bool__(self) -> bool:
        return bool(self._latest)

    def add(self, raw: object) -> bool:
        """Take a `usage` member; True when it said anything new."""
        if not isinstance(raw, Mapping):
            return False
        said = {name: value for name, value in raw.items() if value is not None}
        if said.items() <= self._latest.items():
            return False
        self._latest |= said
        return True

    def total(self) -> Usage:
        return read_usage(self._latest)


def read_usage(raw: Mapping[str, object]) -> Usage:
    """One `usage` member in neutral numbers."""
    fresh, output = _count(raw, "input_tokens"), _count(raw, "output_tokens")
    cached, written = _count(raw, "cache_read_input_tokens"), _written(raw)
    thinking = _count(_inner(raw, "output_tokens_details"), "thinking_tokens")
    if thinking is not None and output is not None:
        thinking = min(thinking, output)
    cost = raw.get("cost")  # OpenRouter
    return Usage(
        input=None if fresh is None else fresh + (cached or 0) + (written or 0),
        output=output,
        cache_read=cached,
        cache_write=written,
        reasoning=thinking,
        cost_usd=float(cost) if _is_amount(cost) else None,
    )


def _written(raw: Mapping[str, object]) -> int | None:
    """Tokens put into the cache: the total, else the sum of its split by lifetime."""
    written = _count(raw, "cache_creation_input_tokens")
    if written is not None:
        return written
    split = _inner(raw, "cache_creation")
    counts = [_count(split, name) for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _inner(raw: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = raw.get(name)
    return value if isinstance(value, Mapping) else {}


def _count(raw: Mapping[str, object], name: str) -> int | None:
    value = raw.get(name)
    if isinstance(value, float) and value.is_integer() and 0 <= value <= _LARGEST:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    return None


def _is_amount(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST

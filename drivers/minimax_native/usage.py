"""Token counts in neutral accounting: `input` includes cached tokens, `output` includes reasoning."""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.turn import Usage

_LARGEST = 2**53  # no count is; a number beyond it is a bug, and no channel could carry it
_TOTALS = ("total_tokens", "prompt_tokens", "completion_tokens")


def read_usage(raw: object) -> Usage | None:
    """The usage object of a frame. None when it counts nothing, as in every frame but the last.

    Old replies have a total alone: then all is None, for what of it was input was not said.
    """
    if not isinstance(raw, Mapping) or not any(_count(raw, name) for name in _TOTALS):
        return None
    total, prompt, completion = (_count(raw, name) for name in _TOTALS)
    reasoning = _count(_inner(raw, "completion_tokens_details"), "reasoning_tokens")
    cached = _count(_inner(raw, "prompt_tokens_details"), "cached_tokens")
    output = completion
    if prompt is not None and completion is not None and reasoning is not None and reasoning > completion:
        output = completion + reasoning if total == prompt + completion + reasoning else completion
    return Usage(
        input=prompt, output=output, cache_read=_at_most(cached, prompt), reasoning=_at_most(reasoning, output)
    )


def _count(raw: Mapping[str, object], name: str) -> int | None:
    value = raw.get(name)
    if isinstance(value, float) and value.is_integer() and 0 <= value <= _LARGEST:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    return None


def _inner(raw: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = raw.get(name)
    return value if isinstance(value, Mapping) else {}


def _at_most(count: int | None, bound: int | None) -> int | None:
    return count if count is None or bound is None else min(count, bound)

"""Token counts in neutral accounting: here, too, `input` includes cached tokens and `output` includes reasoning.

Nothing is invented: a number that was not sent stays None.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.turn import Usage

_LARGEST = 2**53  # no count is; a number beyond it is a bug, and no channel could carry it


def read_usage(raw: Mapping[str, object]) -> Usage:
    """The usage object of a frame or an answer. Tokens of images, video and sound are part of the input."""
    input_, output, total = (_count(raw, name) for name in ("input_tokens", "output_tokens", "total_tokens"))
    prompt, spent = _inner(raw, "prompt_tokens_details"), _inner(raw, "output_tokens_details")
    cached = _first(_count(prompt, "cached_tokens"), _count(raw, "cached_tokens"))
    written = _first(
        _count(prompt, "cache_creation_input_tokens"),
        _count(_inner(prompt, "cache_creation"), "ephemeral_5m_input_tokens"),
    )
    reasoning = _count(spent, "reasoning_tokens")
    if reasoning and input_ is not None and output is not None and total == input_ + output + reasoning:
        output += reasoning  # counted beside the answer, as hosted models of other vendors do
    return Usage(
        input=input_,
        output=output,
        cache_read=_at_most(cached, input_),
        cache_write=written,
        reasoning=_at_most(reasoning, output),
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


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def _at_most(count: int | None, bound: int | None) -> int | None:
    return count if count is None or bound is None else min(count, bound)

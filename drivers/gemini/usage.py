"""Token counts in neutral accounting. Here thoughts stand beside the answer and the tools' prompt beside the prompt.

A count of 0 is left out on this wire: what a total makes certain is counted, all else that was not sent stays None.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.turn import Usage

_LARGEST = 2**53  # no count is; a number beyond it is a bug, and no channel could carry it


def counts_something(raw: Mapping[str, object]) -> bool:
    """Whether it holds counts: Vertex's first chunks only name the kind of traffic."""
    return "promptTokenCount" in raw or "totalTokenCount" in raw or "candidatesTokenCount" in raw


def read_usage(raw: Mapping[str, object]) -> Usage:
    """The usageMetadata of a response. A gap in the total is thinking that was not counted by name."""
    prompt, total = _count(raw, "promptTokenCount"), _count(raw, "totalTokenCount")
    answer, thoughts = _count(raw, "candidatesTokenCount"), _count(raw, "thoughtsTokenCount")
    cached = _count(raw, "cachedContentTokenCount")
    input_ = None if prompt is None else prompt + (_count(raw, "toolUsePromptTokenCount") or 0)
    output = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    if input_ is not None and total is not None and thoughts is None and total >= input_:
        gap = total - input_ - (answer or 0)
        if answer is None:
            output = total - input_
        elif gap > 0:
            output, thoughts = answer + gap, gap
    return Usage(
        input=input_,
        output=output,
        cache_read=cached if cached is None or input_ is None else min(cached, input_),
        reasoning=thoughts,
    )


def _count(raw: Mapping[str, object], name: str) -> int | None:
    value = raw.get(name)
    if isinstance(value, float) and value.is_integer() and 0 <= value <= _LARGEST:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    return None

"""Token counts in neutral accounting, which is this wire's own: prompts include cached tokens, answers reasoning.

Nothing is invented: a number that was not sent stays None, as most answers do not say how much was reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.turn import Usage

_LARGEST = 2**53  # no count is; a number beyond it is a bug, and no channel could carry it


def read_usage(raw: Mapping[str, object]) -> Usage:
    """The usage object of an answer."""
    prompt, completion, total = (_count(raw, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    cached = _count(_inner(raw, "prompt_tokens_details"), "cached_tokens")
    reasoning = _count(_inner(raw, "completion_tokens_details"), "reasoning_tokens")
    output = completion
    if reasoning is not None and completion is not None and reasoning > completion:
        beside = prompt is not None and total == prompt + completion + reasoning
        output, reasoning = (completion + reasoning, reasoning) if beside else (completion, completion)
    return Usage(
        input=prompt,
        output=output,
        cache_read=cached if cached is None or prompt is None else min(cached, prompt),
        reasoning=reasoning,
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

"""Token counts in neutral accounting: `input` includes cached tokens, `output` includes reasoning.

Vendors differ in what they count where. Nothing is invented here: a number that was not sent stays None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from loopforge.drivers.turn import Usage

_TICKS_PER_USD = 1e10  # xAI's cost_in_usd_ticks
_LARGEST = 2**53  # no count is; a number beyond it is a vendor's bug, and no channel could carry it


def read_usage(raw: Mapping[str, object], *, hidden_reasoning: bool = False) -> Usage:
    """The usage object of a response. `hidden_reasoning`: a gap in the total is reasoning (Google's endpoint)."""
    prompt, completion, total = (_count(raw, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    prompt_details, completion_details = _inner(raw, "prompt_tokens_details"), _inner(raw, "completion_tokens_details")
    reasoning = _first(_count(completion_details, "reasoning_tokens"), _count(raw, "reasoning_tokens"))
    cached = _first(
        _count(prompt_details, "cached_tokens"),
        _count(raw, "cached_tokens"),
        _count(raw, "prompt_cache_hit_tokens"),
        _count(raw, "cache_read_input_tokens"),
        _count(raw, "num_cached_tokens"),
    )
    written = _first(_count(prompt_details, "cache_write_tokens"), _count(raw, "cache_creation_input_tokens"))
    output = completion
    if prompt is not None and completion is not None and total is not None and total > prompt + completion:
        gap = total - prompt - completion
        if reasoning is not None and gap == reasoning:
            output = completion + reasoning
        elif hidden_reasoning and not reasoning:
            reasoning, output = gap, completion + gap
    return Usage(
        input=prompt,
        output=output,
        cache_read=_at_most(cached, prompt),
        cache_write=written,
        reasoning=_at_most(reasoning, output),
        cost_usd=_cost(raw),
    )


def is_empty(usage: Usage) -> bool:
    """Whether it counts nothing: MiniMax sends zeros in every chunk but the last."""
    return not (usage.input or usage.output)


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


def _cost(raw: Mapping[str, object]) -> float | None:
    """US dollars: a number (OpenRouter, Vercel), an object (Perplexity) or ticks (xAI)."""
    cost: object = raw.get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")
    if _is_amount(cost):
        return float(cost)
    ticks = raw.get("cost_in_usd_ticks")
    return float(ticks) / _TICKS_PER_USD if _is_amount(ticks) else None


def _is_amount(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST

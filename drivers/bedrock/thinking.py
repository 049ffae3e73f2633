"""How a turn's thinking is asked for: each family has a field of its own, in additionalModelRequestFields.

Claude: https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-extended-thinking.html; Nova 2:
https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html. A field that the model does not know is
refused, so models of which nothing is known are asked for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from loopforge.drivers.bedrock.draft import Draft
from loopforge.drivers.bedrock.families import Family
from loopforge.drivers.turn import Effort, JsonObject, Turn

MIN_BUDGET: Final = 1024
_BUDGETS: Mapping[Effort, int] = {"low": 2048, "medium": 10_000, "high": 16_384}
_LOW_BUDGET, _MEDIUM_BUDGET = 2048, 10_000  # tokens up to which a budget is that effort, where only efforts are taken
_OWN_FIELDS = ("reasoning_config", "reasoning_effort", "nova_effort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`fields`: of the model's own. `budget`: tokens within them. `max_tokens`: for thinking and answer together.

    `thinks`: Claude thinks. `free`: the model sets sampling and length itself while it thinks so hard.
    """

    fields: JsonObject = field(default_factory=dict)
    budget: int = 0
    max_tokens: int | None = None
    thinks: bool = False
    free: bool = False


def asks_for_budget(turn: Turn, family: Family) -> bool:
    """Whether the turn's thinking is asked for by a budget, which does not go with forced tools."""
    if turn.thinking in (None, "off", 0):
        return False
    return family.thinking == "manual" or (family.thinking == "either" and isinstance(turn.thinking, int))


def ask_to_think(turn: Turn, draft: Draft, *, prefilled: bool) -> Asked:
    """The fields that ask for the turn's thinking, and the length that leaves room for it."""
    family, wanted = draft.family, turn.thinking
    if prefilled and wanted not in (None, "off", 0):
        draft.note("a model does not think when it continues an assistant message: the thinking asked for was not sent")
        wanted = "off"
    if wanted is None:
        asked = Asked()
    elif wanted in ("off", 0):
        asked = _switched_off(draft)
    elif family.thinking == "none":
        draft.note(f"{draft.who} is not known to take a thinking effort here: it was not sent")
        asked = Asked()
    elif family.thinking in _OWN_FIELDS:
        asked = _by_own_field(wanted, draft)
    elif asks_for_budget(turn, family):
        budget = wanted if isinstance(wanted, int) else _BUDGETS[wanted]
        if budget < MIN_BUDGET:
            draft.note(f"the smallest thinking budget is {MIN_BUDGET} tokens: it was asked for")
        asked = _enabled(max(budget, MIN_BUDGET))
    else:
        asked = _adaptive(wanted, draft)
    return _with_room(asked, turn.max_output_tokens, draft)


def _enabled(budget: int) -> Asked:
    return Asked(fields={"thinking": {"type": "enabled", "budget_tokens": budget}}, budget=budget, thinks=True)


def _adaptive(wanted: Effort | int, draft: Draft) -> Asked:
    effort = _as_effort(wanted, draft)
    fields: JsonObject = {} if draft.family.thinking == "always" else {"thinking": {"type": "adaptive"}}
    if draft.family.efforts:
        fields["output_config"] = {"effort": effort}
    else:
        draft.note(f"{draft.who} takes no thinking effort here: it thinks as much as it does by itself")
    return Asked(fields=fields, thinks=True)


def _switched_off(draft: Draft) -> Asked:
    match draft.family.thinking:
        case "manual" | "either" | "adaptive":
            return Asked(fields={"thinking": {"type": "disabled"}})
        case "always":
            draft.note(f"{draft.who} cannot stop thinking here: effort 'low', its lowest, was asked for")
            return Asked(fields={"output_config": {"effort": "low"}}, thinks=True)
        case "reasoning_effort":
            draft.note(f"{draft.who} cannot stop thinking: effort 'low', its lowest, was asked for")
            return Asked(fields={"reasoning_effort": "low"})
    return Asked()  # they think only when they are asked to, or in a way of their own that nothing stops


def _by_own_field(wanted: Effort | int, draft: Draft) -> Asked:
    effort = _as_effort(wanted, draft)
    match draft.family.thinking:
        case "reasoning_config":
            if effort == "medium":
                draft.note(f"{draft.who} knows thinking efforts low and high: high was asked for")
            return Asked(fields={"reasoning_config": "low" if effort == "low" else "high"})
        case "reasoning_effort":
            return Asked(fields={"reasoning_effort": effort})
    fields = {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": effort}}
    return Asked(fields=fields, free=effort == "high")


def _as_effort(wanted: Effort | int, draft: Draft) -> Effort:
    if not isinstance(wanted, int):
        return wanted
    effort: Effort = "low" if wanted <= _LOW_BUDGET else "medium" if wanted <= _MEDIUM_BUDGET else "high"
    draft.note(f"{draft.who} takes no thinking budget here: effort {effort!r} was asked for")
    return effort


def _with_room(asked: Asked, wanted: int | None, draft: Draft) -> Asked:
    """A budget is put on top of an answer that would not fit beside it, and made smaller at the model's limit."""
    if asked.free:
        if wanted is not None:
            draft.note(f"{draft.who} takes no length while it thinks so hard: max_output_tokens was not sent")
        return asked
    most, budget = draft.family.most_tokens, asked.budget
    if most and wanted is not None and wanted > most:
        draft.note(f"{draft.who} writes at most {most} tokens: {wanted} were asked for")
        wanted = most
    answer = wanted if wanted is not None else min(_BUDGETS["low"], most // 2) if most else 0
    if budget and most and (wanted is None or wanted <= budget) and answer + budget > most:
        left = max(MIN_BUDGET, most - min(answer, most // 2))
        draft.note(f"thinking and answer share {most} tokens: the thinking budget was made {left}")
        asked = _enabled(left)
        return replace(asked, max_tokens=most)
    if budget and wanted is not None and wanted <= budget:
        draft.note(f"maxTokens counts the thinking, too: {budget} for it and {wanted} for the answer were asked for")
        wanted += budget
    return replace(asked, max_tokens=wanted)

"""What a vendor's model can carry: its profile, in the shape that all kinds share."""

from __future__ import annotations

from typing import Literal

from loopforge.drivers.capabilities import LEVELS, Capabilities, When
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort
from loopforge.drivers.vendors import Thinking, find_profile


def capabilities(settings: ProviderSettings, model: str) -> Capabilities:
    """As the provider's driver will ask this model."""
    profile = find_profile(settings.vendor, settings.base_url).for_model(model)
    thinking = profile.thinking
    forced: When = "no"
    if profile.forced_tools == "not_thinking":
        forced = _while_thinking("not_thinking", thinking)
    elif profile.forced_tools == "strings":
        forced = "yes"
    else:
        forced = profile.forced_tools
    return Capabilities(
        system=profile.system_role != "user",
        named_tool="no" if profile.forced_tools == "strings" else forced,  # the other tools are not offered instead
        required_tool=forced,
        one_call=profile.parallel_tool_calls,
        strict_tools=profile.strict_tools,
        images=profile.images,
        image_urls=profile.images and profile.image_urls,
        documents=profile.files,
        document_urls=profile.files and profile.file_urls,
        audio=profile.audio,
        thinks=_can_think(thinking),
        levels=_levels(thinking),
        budgets=bool(thinking.budget),
        thinks_with_tools=not profile.tools_switch_thinking_off,
        schema="prompt" if profile.structured == "object" else "enforced",
        schema_with_tools=profile.json_with_tools,
        cache_marks=profile.cache_marks,
        seed=bool(profile.seed),
        stops=profile.max_stops,
        temperature=_while_thinking(profile.sampling, thinking),
    )


def _can_think(thinking: Thinking) -> bool:
    return thinking.default or thinking.on is not None or bool(thinking.effort or thinking.budget)


def _can_stop(thinking: Thinking) -> bool:
    if thinking.off:
        return True
    word = thinking.efforts.get("off")
    return word == "none" if word else not thinking.default


def _levels(thinking: Thinking) -> tuple[Effort, ...]:
    """A level is done when the vendor has that very word, or tokens that stand for it."""
    by_budget = bool(thinking.budget and thinking.budgets)
    done = [level for level in LEVELS if thinking.efforts.get(level, level if by_budget else "") == level]
    return ("off", *done) if _can_stop(thinking) else tuple(done)


def _while_thinking(rule: Literal["always", "not_thinking", "never"], thinking: Thinking) -> When:
    """What becomes of a rule for models that think, for one that never does or cannot stop."""
    if rule != "not_thinking":
        return "yes" if rule == "always" else "no"
    if not _can_think(thinking):
        return "yes"
    return "not_thinking" if _can_stop(thinking) or not thinking.default else "no"

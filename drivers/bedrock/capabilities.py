"""What a model can carry: its family, in the shape that all kinds share.

A stored prompt brings its own system text, tools and settings; a turn's are left out there, which notices say.
"""

from __future__ import annotations

from loopforge.drivers.bedrock.families import Family, family_of
from loopforge.drivers.bedrock.model_ids import bare_id
from loopforge.drivers.capabilities import LEVELS, Capabilities, Schema, When
from loopforge.drivers.registry import AwsSettings, ProviderSettings
from loopforge.drivers.turn import Effort


def capabilities(settings: ProviderSettings, model: str) -> Capabilities:
    """As the provider's driver will ask this model."""
    aws = settings.aws_bedrock or AwsSettings()
    family = family_of(bare_id(model, aws.base_models))
    by_budget = family.thinking in ("manual", "either")
    # a budget is what forced calls do not go with
    forced: When = "yes" if family.forced_tools == "not_thinking" and not by_budget else family.forced_tools
    return Capabilities(
        system=family.system,
        tools=family.tools,
        named_tool=forced if "tool" in family.choices else "no",
        required_tool=forced if "any" in family.choices else "no",
        strict_tools=family.strict_tools,
        images=family.images,
        documents=family.documents,
        thinks=family.thinking != "none",
        levels=_levels(family),
        budgets=by_budget,
        schema=_schema(family),
        cache_marks="messages" in family.marks,
        temperature=_temperature(family),
        streaming="yes" if family.streamed_tools or not family.tools else "without_tools",
    )


def _levels(family: Family) -> tuple[Effort, ...]:
    match family.thinking:
        case "none":
            return ("off",)
        case "manual" | "nova_effort":
            return ("off", *LEVELS)
        case "reasoning_config":
            return ("off", "low", "high")
        case "reasoning_effort":
            return LEVELS
        case "always":
            return LEVELS if family.efforts else ()
    return ("off", *LEVELS) if family.efforts else ("off",)


def _schema(family: Family) -> Schema:
    if family.structured == "format":
        return "enforced"
    return "tool" if family.tools and family.choices and family.forced_tools != "no" else "prompt"


def _temperature(family: Family) -> When:
    if family.sampling == "never":
        return "no"
    switched = family.thinking in ("manual", "either", "adaptive")
    return "not_thinking" if family.sampling == "not_thinking" and switched else "yes"

"""What a gateway's model can carry: its profile, in the shape that all kinds share."""

from __future__ import annotations

from loopforge.drivers.anthropic.profiles import VERSION, VERSION_WITHOUT_SAMPLING, Profile, find_profile
from loopforge.drivers.capabilities import LEVELS, Capabilities, Schema, When
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort


def capabilities(settings: ProviderSettings, model: str) -> Capabilities:
    """As the provider's driver will ask this model."""
    profile = find_profile(settings.vendor, settings.base_url).for_model(model)
    headers = {name.lower(): value for name, value in settings.headers.items()}
    forced = _forced(profile)
    return Capabilities(
        named_tool=forced,
        required_tool=forced,
        one_call=profile.parallel,
        strict_tools=profile.strict_tools,
        images=profile.images,
        image_urls=profile.images and profile.image_urls,
        documents=profile.documents,
        document_urls=profile.documents,
        thinks=profile.thinking != "none",
        levels=_levels(profile),
        budgets=profile.thinking in ("manual", "either") and profile.budgets,
        schema=_schema(profile),
        cache_marks=profile.cache_marks,
        stops=None if profile.stops else 0,
        temperature=_temperature(profile, headers.get("anthropic-version", VERSION)),
    )


def _forced(profile: Profile) -> When:
    """A budget is what forced calls do not go with: models that take none think and can be forced."""
    if profile.forced_tools == "not_thinking" and profile.thinking not in ("manual", "either"):
        return "yes"
    return profile.forced_tools


def _levels(profile: Profile) -> tuple[Effort, ...]:
    match profile.thinking:
        case "none":
            return ("off",)
        case "manual":
            return ("off", *LEVELS)
        case "always":
            return LEVELS if profile.efforts else ()
    return ("off", *LEVELS) if profile.efforts else ("off",)


def _schema(profile: Profile) -> Schema:
    if profile.structured != "tool":
        return "enforced"
    return "prompt" if profile.forced_tools == "no" else "tool"


def _temperature(profile: Profile, version: str) -> When:
    if profile.sampling == "never" or version >= VERSION_WITHOUT_SAMPLING:
        return "no"
    switched = profile.thinking in ("manual", "either", "adaptive")
    return "not_thinking" if profile.sampling == "not_thinking" and switched else "yes"

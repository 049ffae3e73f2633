"""What a model can carry: its family's profile, in the shape that all kinds share."""

from __future__ import annotations

from loopforge.drivers.capabilities import LEVELS, Capabilities
from loopforge.drivers.gemini.profiles import MAX_STOPS, Profile, find_profile
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort


def capabilities(settings: ProviderSettings, model: str) -> Capabilities:  # noqa: ARG001 - the model says it all here
    """As the provider's driver will ask this model."""
    profile = find_profile(model)
    return Capabilities(
        system=profile.system,
        tools=profile.tools,
        strict_tools=profile.validated,
        images=True,
        image_urls=profile.urls,
        documents=True,
        document_urls=profile.urls,
        audio=True,
        thinks=profile.thinking != "none",
        levels=_levels(profile),
        budgets=profile.thinking != "none",
        schema="enforced" if profile.json else "prompt",
        schema_with_tools=profile.json and profile.json_with_tools,
        seed=True,
        stops=MAX_STOPS,
    )


def _levels(profile: Profile) -> tuple[Effort, ...]:
    if profile.thinking == "none":
        return ("off",)
    return ("off", *LEVELS) if profile.thinking == "budget" and profile.off else LEVELS

"""What a model can carry: its family's profile, in the shape that all kinds share."""

from __future__ import annotations

from loopforge.drivers.capabilities import LEVELS, Capabilities
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort
from loopforge.drivers.zhipu_native.profiles import Profile, find_profile


def capabilities(settings: ProviderSettings, model: str) -> Capabilities:  # noqa: ARG001 - the model says it all here
    """As the provider's driver will ask this model."""
    profile = find_profile(model)
    return Capabilities(
        named_tool="unsure",
        required_tool="no",
        images=profile.images,
        image_urls=profile.images,
        document_urls=profile.files,
        thinks=profile.thinks != "never",
        levels=_levels(profile),
        seed=True,
        stops=1 if profile.stop else 0,
    )


def _levels(profile: Profile) -> tuple[Effort, ...]:
    done = [level for level in LEVELS if profile.thinks != "never" and profile.efforts.get(level) == level]
    return tuple(done) if profile.thinks == "always" else ("off", *done)

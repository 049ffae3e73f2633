"""What a model can carry: its family's profile, in the shape that all kinds share."""

from __future__ import annotations

from loopforge.drivers.capabilities import Capabilities
from loopforge.drivers.minimax_native.profiles import find_profile
from loopforge.drivers.registry import ProviderSettings


def capabilities(settings: ProviderSettings, model: str) -> Capabilities:  # noqa: ARG001 - the model says it all here
    """As the provider's driver will ask this model. Nothing on this wire forces a call or says how much to think."""
    profile = find_profile(model)
    return Capabilities(
        named_tool="no",
        required_tool="no",
        images=profile.images,
        image_urls=profile.images,
        thinks=profile.thinking != "none",
        levels=() if profile.thinking == "always" else ("off",),
        schema="enforced" if profile.schema else "prompt",
        stops=0,
    )

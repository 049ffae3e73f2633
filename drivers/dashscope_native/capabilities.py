"""What a model can carry: its family's profile and the path it is asked on, in the shape that all kinds share."""

from __future__ import annotations

from loopforge.drivers.capabilities import LEVELS, Capabilities, Schema, When
from loopforge.drivers.dashscope_native.profiles import Path, Profile, find_profile, path_named
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort


def capabilities(settings: ProviderSettings, model: str) -> Capabilities:
    """As the provider's driver will ask this model. One that is not known is asked elsewhere in turns with media."""
    profile = find_profile(model)
    named = path_named(settings.base_url)
    with_media: Path = named or (profile.path if profile.known else "multimodal")
    with_text: Path = named or (profile.path if profile.known else "text")
    images = with_media == "multimodal" and (profile.images or not profile.known)
    forced: When = "yes"
    if profile.thinking != "none":
        forced = "not_thinking" if profile.thinking == "switch" else "no"
    return Capabilities(
        system=profile.system,
        tools=profile.tools,
        named_tool=forced,
        required_tool="no",
        one_call=True,
        images=images,
        image_urls=images,
        document_urls=profile.doc_urls,
        audio=with_media == "multimodal" and (profile.audio or not profile.known),
        thinks=profile.thinking != "none",
        levels=_levels(profile),
        budgets=profile.thinking != "none",
        schema=_schema(profile),
        cache_marks=with_text == "multimodal" and profile.cache,
        seed=True,
    )


def _levels(profile: Profile) -> tuple[Effort, ...]:
    """A level is done when the model has that very word, or takes tokens that stand for it."""
    if profile.thinking == "none":
        return ("off",)
    done = [level for level in LEVELS if profile.efforts.get(level, level) == level]
    return ("off", *done) if profile.thinking == "switch" else tuple(done)


def _schema(profile: Profile) -> Schema:
    if not (profile.json and profile.schema) or profile.thinking == "always":
        return "prompt"
    return "not_thinking" if profile.thinking == "switch" else "enforced"

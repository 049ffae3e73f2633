"""What each family of models on this wire takes, as data.

Facts: ai.google.dev's guides and error texts as of November 2026. A model that is not known is taken for a recent one
that is asked in the forms which all recent ones take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

Level = Literal["minimal", "low", "medium", "high"]
MAX_STOPS: Final = 5
_ALL_LEVELS: Final[tuple[Level, ...]] = ("minimal", "low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a model takes. The defaults are what an unknown recent one most likely does.

    `thinking`: asked for by a budget, by a level, or not at all (any thinkingConfig is an error then); `levels`: lowest
    first; `budgets`: smallest and largest but 0; `off`: a budget of 0 switches it off.
    `json_schema`: takes plain JSON Schema, else the OpenAPI subset. `json`: JSON output can be asked for, and
    `json_with_tools`: in a turn with functions, too. `validated`: mode VALIDATED holds calls to their schemas.
    `needs_signatures`: the first call of a step without a thought signature is an error.
    `result_media`: function responses hold media. `urls`: any https URL is fetched. `draws`: images may be its own.
    `server_tools`: function calls and the provider's own tools go together, when it is said that they may.
    """

    family: str = "unknown"
    thinking: Literal["none", "budget", "level"] = "budget"
    levels: tuple[Level, ...] = _ALL_LEVELS
    budgets: tuple[int, int] = (128, 24_576)
    off: bool = True
    system: bool = True
    tools: bool = True
    json: bool = True
    json_schema: bool = True
    json_with_tools: bool = True
    validated: bool = True
    needs_signatures: bool = False
    result_media: bool = False
    urls: bool = True
    draws: bool = False
    server_tools: bool = False
    max_functions: int = 512


_OLD = Profile(
    family="gemini-2.0",
    thinking="none",
    json_schema=False,
    json_with_tools=False,
    validated=False,
    urls=False,
    max_functions=128,
)
_FLASH_2_5 = Profile(family="gemini-2.5-flash", budgets=(1, 24_576), json_with_tools=False)
_FLASH_3 = Profile(
    family="gemini-3-flash",
    thinking="level",
    off=False,
    needs_signatures=True,
    result_media=True,
    server_tools=True,
)
_PRO_3 = replace(_FLASH_3, family="gemini-3-pro", levels=("low", "medium", "high"))

# The first pattern that matches counts.
_FAMILIES: Final[tuple[tuple[re.Pattern[str], Profile], ...]] = tuple(
    (re.compile(pattern), profile)
    for pattern, profile in (
        (r"gemma-3", replace(_OLD, family="gemma-3", system=False, tools=False, json=False)),
        (r"gemma", replace(_OLD, family="gemma", system=False)),
        (r"gemini-(1|2\.0|2-)|gemini-(pro|ultra)(-vision)?$|learnlm", _OLD),
        (r"gemini-2\.5-pro", replace(_FLASH_2_5, family="gemini-2.5-pro", budgets=(128, 32_768), off=False)),
        (r"gemini-2\.5-flash-lite", replace(_FLASH_2_5, family="gemini-2.5-flash-lite", budgets=(512, 24_576))),
        (r"gemini-2\.5", _FLASH_2_5),
        (r"gemini-([3-9]|\d\d)[\d.]*-pro|gemini-pro-latest", _PRO_3),
        (r"gemini-3\.7-flash", replace(_PRO_3, family="gemini-3.7-flash")),
        (r"gemini-([3-9]|\d\d)|gemini-flash(-lite)?-latest", _FLASH_3),
    )
)


@lru_cache(maxsize=256)
def find_profile(model: str) -> Profile:
    """The profile of a model by its id, with or without a path in front."""
    name = model.lower().rpartition("/")[2]
    profile = next((profile for pattern, profile in _FAMILIES if pattern.search(name)), Profile())
    if "image" not in name:
        return profile
    thinking = profile.thinking if profile.needs_signatures else "none"
    return replace(profile, family=f"{profile.family}-image", system=False, draws=True, thinking=thinking)

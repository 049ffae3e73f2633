"""What each family of MiniMax models takes, as data.

Facts: the vendor's API reference and error texts as of November 2026. Later M models are taken to be like M3, and a
name that says no family gets what M2 takes, the least that all of today's models do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`thinking`: "none", "always" (cannot be switched off) or "adaptive" (can be).

    `split`: `reasoning_split` is known. `echo`: earlier thinking is read again. `images`: parts of type image_url are
    taken. `schema`: a JSON answer can be enforced. `temperature`: lowest and highest that is taken. `max_tokens`: the
    field's name. `most_tokens`: the most that may be asked for, 0 where it is not known.
    """

    thinking: Literal["none", "always", "adaptive"] = "always"
    split: bool = True
    echo: bool = True
    images: bool = False
    schema: bool = False
    temperature: tuple[float, float] = (0.01, 1.0)
    max_tokens: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    most_tokens: int = 0


M2: Final = Profile()
LATER: Final = Profile(thinking="adaptive", images=True, temperature=(0.0, 2.0))
M3: Final = replace(LATER, most_tokens=524_288)
M1: Final = Profile(split=False, echo=False)  # thinks in reasoning_content, in its own way
TEXT_01: Final = Profile(thinking="none", split=False, echo=False, images=True, schema=True)
ROLE_PLAY: Final = Profile(thinking="none", split=False, echo=False)
ABAB: Final = replace(ROLE_PLAY, max_tokens="max_tokens")

_FAMILIES: Final = (  # the first that fits counts
    (re.compile(r"m2-her\b", re.IGNORECASE), ROLE_PLAY),
    (re.compile(r"minimax-m2(?!\d)", re.IGNORECASE), M2),
    (re.compile(r"minimax-m3(?!\d)", re.IGNORECASE), M3),
    (re.compile(r"minimax-m1(?!\d)", re.IGNORECASE), M1),
    (re.compile(r"minimax-m\d", re.IGNORECASE), LATER),
    (re.compile(r"minimax-text", re.IGNORECASE), TEXT_01),
    (re.compile(r"^abab", re.IGNORECASE), ABAB),
)


@lru_cache(maxsize=256)
def find_profile(model: str) -> Profile:
    """The profile of the family that the model's name tells."""
    return next((profile for pattern, profile in _FAMILIES if pattern.search(model)), M2)

"""What each family of GLM models takes, as data.

Facts: docs.z.ai and docs.bigmodel.cn as of November 2026, and recorded requests that were answered. A model that is not
known is asked as a recent one, in the forms which all recent ones take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

Level = Literal["off", "low", "medium", "high"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a model takes. The defaults are what an unknown one most likely does.

    `thinks`: it can be told to think and not to ("switch"), thinks whatever it is told ("always"), or not ("never").
    `efforts`: neutral level to the word for `reasoning_effort`; empty where there is no such field. `images`: of user
    messages. `files`: documents by their URL. `tool_stream`: arguments come in pieces when that is asked for, else in
    one. `stop`: takes a stop string.
    """

    family: str = "unknown"
    thinks: Literal["switch", "always", "never"] = "switch"
    efforts: Mapping[Level, str] = field(default_factory=dict)
    images: bool = True
    files: bool = True
    tool_stream: bool = False
    stop: bool = True


_EFFORTS_5_3: Final[Mapping[Level, str]] = {"off": "low", "low": "low", "medium": "high", "high": "high"}
_EFFORTS_5_2: Final[Mapping[Level, str]] = {"low": "low", "medium": "medium", "high": "high"}


def _text(family: str, *, tool_stream: bool = True, efforts: Mapping[Level, str] | None = None) -> Profile:
    return Profile(family=family, images=False, files=False, tool_stream=tool_stream, efforts=efforts or {})


# The first pattern that matches counts.
_FAMILIES: Final[tuple[tuple[re.Pattern[str], Profile], ...]] = tuple(
    (re.compile(pattern), profile)
    for pattern, profile in (
        (r"^glm-5\.3", Profile(family="glm-5.3", thinks="always", efforts=_EFFORTS_5_3, tool_stream=True)),
        (r"^glm-5\.2", _text("glm-5.2", efforts=_EFFORTS_5_2)),
        (r"^glm-(5(\.\d+)?|4\.[6-9])v", Profile(family="glm-v", tool_stream=True)),
        (r"^glm-5(\.1)?($|-)", _text("glm-5")),
        (r"^glm-4\.[6-9]", _text("glm-4.6")),
        (r"^glm-4\.5v", Profile(family="glm-4.5v")),
        (r"^glm-4\.5", _text("glm-4.5", tool_stream=False)),
        (r"^glm-4\.1v-thinking", Profile(family="glm-4.1v-thinking", thinks="always")),
        (r"^glm-z1", Profile(family="glm-z1", thinks="always", images=False, files=False)),
        (r"^glm-4v", Profile(family="glm-4v", thinks="never", files=False, stop=False)),
        (r"^(glm-[34](-|$)|charglm)", Profile(family="glm-4", thinks="never", images=False, files=False)),
    )
)


@lru_cache(maxsize=256)
def find_profile(model: str) -> Profile:
    """The profile of a model by its id, with or without a path in front."""
    name = model.lower().rpartition("/")[2]
    return next((profile for pattern, profile in _FAMILIES if pattern.search(name)), Profile())

"""What each family of models on this wire takes, and on which of its two paths it answers, as data.

Facts: the vendor's model pages and error texts, and what its clients were seen to do, as of November 2026. A model that
is not known is asked on the path for text, unless the turn holds media, which only the other one takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import urlsplit

from loopforge.drivers.turn import Effort

Path = Literal["text", "multimodal"]
Efforts = Mapping[Effort, str]

PATHS: Final[Mapping[Path, str]] = {
    "text": "/services/aigc/text-generation/generation",
    "multimodal": "/services/aigc/multimodal-generation/generation",
}

_HIGH_MAX: Final[Efforts] = {"low": "high", "medium": "high", "high": "max"}
_LOW_TO_XHIGH: Final[Efforts] = {"low": "low", "medium": "medium", "high": "xhigh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a model takes. The defaults are those of a text model that thinks when it is told to.

    `path`: the one it answers on; `known`: that is certain. `images`, `audio`: taken as content, by URL or data;
    `doc_urls`: documents by URL. `system`: takes a system message. `thinking`: switched by a flag, on for good, or not
    there; `thinks`: when nothing is said; `efforts`: its words for a level, {} where only budgets are taken. `streams`:
    refuses to answer in one piece always, while it thinks, or never. `json`: takes JSON mode; `schema`: takes a schema,
    too. `cache`: takes explicit cache marks, on parts of content. `echo`: reads its earlier reasoning unless told not
    to.
    """

    family: str = "unknown"
    path: Path = "text"
    known: bool = True
    images: bool = False
    audio: bool = False
    doc_urls: bool = False
    system: bool = True
    tools: bool = True
    thinking: Literal["switch", "always", "none"] = "switch"
    thinks: bool = False
    efforts: Efforts = field(default_factory=dict)
    streams: Literal["never", "thinking", "always"] = "never"
    json: bool = True
    schema: bool = False
    cache: bool = False
    echo: bool = False


_UNKNOWN: Final = Profile(known=False)
_PLAIN: Final = Profile(thinking="none")
_VISION: Final = Profile(path="multimodal", images=True, thinking="none")
_HYBRID: Final = Profile(path="multimodal", images=True, thinks=True, cache=True)
_ALWAYS: Final = Profile(thinking="always", thinks=True, streams="always", json=False)
_SPECIAL: Final = Profile(thinking="none", tools=False, json=False)
_HOSTED: Final = Profile(thinks=True, efforts=_HIGH_MAX)
_QWEN_3_8: Final = Profile(thinks=True, efforts=_LOW_TO_XHIGH, schema=True, cache=True, echo=True)

# The first pattern that matches counts. Names are lower-case, without a path in front.
_FAMILIES: Final[tuple[tuple[re.Pattern[str], Profile], ...]] = tuple(
    (re.compile(pattern), profile)
    for pattern, profile in (
        (r"deep-research", replace(_SPECIAL, family="deep-research", streams="always")),
        (r"^qwen-mt", replace(_SPECIAL, family="qwen-mt", system=False)),
        (r"^qwen-doc", replace(_SPECIAL, family="qwen-doc", doc_urls=True)),
        (r"omni", replace(_HYBRID, family="omni", audio=True, thinks=False, streams="always", json=False, cache=False)),
        (r"-ocr", replace(_VISION, family="ocr", tools=False, json=False)),
        (r"-asr|audio", replace(_SPECIAL, family="audio", path="multimodal", audio=True)),
        (r"^qvq", replace(_ALWAYS, family="qvq", path="multimodal", images=True, tools=False)),
        (r"-vl.*-thinking", replace(_ALWAYS, family="vl-thinking", path="multimodal", images=True)),
        (r"^qwen3-vl.*-instruct", replace(_VISION, family="qwen3-vl-instruct")),
        (r"^qwen3-vl", replace(_HYBRID, family="qwen3-vl", thinks=False)),
        (r"-vl", replace(_VISION, family="vl")),
        (r"kimi-k2\.[56]", replace(_HYBRID, family="kimi-k2.5", cache=False)),
        (r"^qwen3\.8-max", replace(_QWEN_3_8, family="qwen3.8", path="multimodal", images=True)),
        (r"^qwen3\.8", replace(_QWEN_3_8, family="qwen3.8", known=False)),
        (r"^qwen3\.(6-max-preview|7-max)", Profile(family="qwen3-max", thinks=True, schema=True)),
        (r"^qwen3\.7", replace(_HYBRID, family="qwen3.7", schema=True)),
        (r"^qwen3\.[56]", replace(_HYBRID, family="qwen3.5")),
        (r"^qwq|-thinking|deepseek-r1", replace(_ALWAYS, family="thinking")),
        (r"minimax-m", replace(_ALWAYS, family="minimax", streams="never")),
        (r"-coder|-instruct|-character|-math", replace(_PLAIN, family="instruct")),
        (r"^qwen3-max", Profile(family="qwen3-max")),
        (r"^qwen3-[\d.]+b", Profile(family="qwen3-open", thinks=True, streams="thinking")),
        (r"^qwen-(plus|flash|turbo)", Profile(family="qwen-plus", schema=True)),
        (r"^qwen-(max|long)|^qwen(1\.5|2)", replace(_PLAIN, family="qwen-max")),
        (r"deepseek-v4|glm-[5-9]|glm-4\.[5-9]", replace(_HOSTED, family="hosted")),
        (r"deepseek-v3\.[1-9]", Profile(family="deepseek-v3.1")),
        (r"deepseek|kimi", replace(_PLAIN, family="hosted-plain")),
    )
)


@lru_cache(maxsize=256)
def find_profile(model: str) -> Profile:
    """The profile of a model by its id, with or without a path in front."""
    name = model.lower().rpartition("/")[2]
    return next((profile for pattern, profile in _FAMILIES if pattern.search(name)), _UNKNOWN)


def path_named(base_url: str) -> Path | None:
    """The path that a base_url names already: it decides for all models."""
    path = urlsplit(base_url).path.rstrip("/")
    return next((name for name, ending in PATHS.items() if path.endswith(ending)), None)

"""What each family of models takes behind this wire, as data: the form is the same for all, what is refused is not.

Facts: https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-supported-models-features.html, the
pages of the models, error texts, and what other clients of this wire had to learn, as of November 2026; this changes
monthly. What is not known is sent, and the service says what it thinks of it: a family only says what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from loopforge.drivers.claude_models import claude_version, generation

Place = Literal["tools", "system", "messages"]
Thinks = Literal[
    "none", "manual", "either", "adaptive", "always", "reasoning_config", "reasoning_effort", "nova_effort"
]
Choices = frozenset[Literal["any", "tool"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What models of one family take.

    `tools`: any at all; `streamed_tools`: in a stream, too; `choices`: forms of toolChoice beside auto; `forced_tools`:
    whether a call can be forced while the model thinks.
    `system`: a system text. `leading_assistant`: the conversation may begin with the assistant. `prefill`: it may end
    with it. `images`, `documents`, `s3`: are taken, by reference.
    Results: `results_alone`: nothing stands beside toolResult in its turn; `result_status`: status is taken;
    `result_json`: content is JSON; `result_media`: what may stand in it.
    `marks`: where cache points are taken; `long_marks`: for an hour.
    `thinking`: the form in which thinking is asked for: see claude_models.py, or the name of the model's own field;
    `efforts`, `sampling`, `both_samplers`, `structured`, `strict_tools`, `most_tokens` likewise. `signatures`: thinking
    goes back with a signature.
    `profiles`: there are cross-region inference profiles.
    """

    name: str = "unknown"
    tools: bool = True
    streamed_tools: bool = True
    choices: Choices = frozenset()
    forced_tools: Literal["yes", "not_thinking", "no"] = "yes"
    system: bool = True
    leading_assistant: bool = False
    prefill: bool = True
    images: bool = True
    documents: bool = True
    s3: bool = True
    results_alone: bool = False
    result_status: bool = False
    result_json: bool = False
    result_media: frozenset[str] = frozenset({"image", "document"})
    marks: frozenset[Place] = frozenset()
    long_marks: bool = False
    thinking: Thinks = "none"
    efforts: bool = False
    sampling: Literal["always", "not_thinking", "never"] = "always"
    both_samplers: bool = True
    structured: Literal["format", "beta", "tool"] = "tool"
    strict_tools: bool = False
    most_tokens: int = 0
    signatures: bool = False
    profiles: bool = True


_ANY, _BOTH = Choices({"any"}), Choices({"any", "tool"})
_NO_MEDIA: frozenset[str] = frozenset()
_TEXT_ONLY: dict[str, Any] = {"tools": False, "images": False, "profiles": False}

CLAUDE = Family(
    name="Anthropic",
    choices=_BOTH,
    leading_assistant=True,
    s3=False,
    result_status=True,
    marks=frozenset({"tools", "system", "messages"}),
    signatures=True,
)
NOVA = Family(
    name="Amazon Nova",
    choices=_BOTH,
    result_status=True,
    marks=frozenset({"system", "messages"}),
)
LLAMA = Family(name="Meta Llama", streamed_tools=False, results_alone=True)
MISTRAL = Family(
    name="Mistral",
    choices=_ANY,
    results_alone=True,
    result_json=True,
    result_media=frozenset({"document"}),
)
OPEN = Family(name="", structured="format", profiles=False)  # models with open weights, as this service runs them
UNKNOWN = Family()

# The first row whose pattern the bare id begins with counts.
_ROWS: tuple[tuple[str, Family], ...] = (
    (r"anthropic\.claude-(v\d|instant)", replace(CLAUDE, **_TEXT_ONLY, choices=Choices(), marks=frozenset())),
    (r"anthropic\.", CLAUDE),
    (r"amazon\.nova-2", replace(NOVA, thinking="nova_effort")),
    (r"amazon\.nova-micro", replace(NOVA, images=False, documents=False)),
    (r"amazon\.nova", NOVA),
    (r"amazon\.titan", Family(name="Amazon Titan", **_TEXT_ONLY, system=False)),
    (r"meta\.llama(2|3-(8|70)b)", replace(LLAMA, **_TEXT_ONLY)),
    (r"meta\.llama3-(1|3)|meta\.llama3-2-[13]b", replace(LLAMA, images=False)),
    (r"meta\.", LLAMA),
    (
        r"mistral\.(mistral-7b|mixtral)",
        Family(name="Mistral", **_TEXT_ONLY, system=False, documents=False, results_alone=True),
    ),
    (r"mistral\.mistral-(large|small)-2", replace(MISTRAL, streamed_tools=False, images=False, profiles=False)),
    (r"mistral\.pixtral", MISTRAL),
    (
        r"mistral\.(mistral-large-3|ministral|magistral|voxtral)",
        replace(MISTRAL, structured="format", profiles=False),
    ),
    (r"mistral\.", replace(MISTRAL, profiles=False)),
    (r"ai21\.jamba-instruct|ai21\.j2", Family(name="AI21", **_TEXT_ONLY)),
    (r"ai21\.", Family(name="AI21 Jamba", images=False, profiles=False)),
    (r"cohere\.command-(text|light)", Family(name="Cohere Command", **_TEXT_ONLY, system=False)),
    (r"cohere\.", Family(name="Cohere Command", images=False, profiles=False)),
    (r"deepseek\.r1", Family(name="DeepSeek R1", tools=False, images=False)),
    (r"deepseek\.", replace(OPEN, name="DeepSeek", choices=_ANY, images=False)),
    (
        r"qwen\.",
        replace(OPEN, name="Qwen", leading_assistant=True, result_media=_NO_MEDIA, thinking="reasoning_config"),
    ),
    (r"moonshot", replace(OPEN, name="Kimi", leading_assistant=True, result_media=_NO_MEDIA)),
    (r"zai\.", Family(name="GLM", leading_assistant=True, profiles=False)),
    (r"openai\.gpt-oss", replace(OPEN, name="gpt-oss", images=False, thinking="reasoning_effort")),
    (r"writer\.", Family(name="Writer Palmyra", streamed_tools=False, results_alone=True, images=False)),
    (r"(google|minimax|nvidia)\.", replace(OPEN, name="open weights")),
)
_PATTERNS = tuple((re.compile(pattern), family) for pattern, family in _ROWS)

_OF_CLAUDE = (
    "thinking", "efforts", "sampling", "both_samplers", "forced_tools", "structured", "strict_tools", "prefill",
    "most_tokens",
)  # fmt: skip


@lru_cache(maxsize=256)
def family_of(bare: str) -> Family:
    """The family of a model by its bare id (see model_ids.py); UNKNOWN for a name that tells nothing."""
    family = next((family for pattern, family in _PATTERNS if pattern.match(bare)), UNKNOWN)
    if family is CLAUDE:
        known: Mapping[str, Any] = generation(bare)
        version = claude_version(bare)
        family = replace(
            family,
            **{name: value for name, value in known.items() if name in _OF_CLAUDE},
            long_marks=version is not None and version[1] >= (4, 5),
        )
    return family

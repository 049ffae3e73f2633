"""Profiles of the vendors behind the Chat Completions wire, as data: what each takes, calls differently or leaves out.

The driver reads leniently and writes strictly; what a vendor cannot take stands here and nowhere else. A model that
differs from its vendor's rule is one more entry in `models`. Facts: the vendors' API references and error texts as of
November 2026; a profile says what a vendor does, never what it ought to do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from loopforge.drivers.turn import JsonObject

Vendor = Literal[
    "openai", "deepseek", "kimi", "qwen", "glm", "minimax", "nvidia", "ollama", "openrouter", "groq", "mistral", "xai",
    "azure", "vllm", "llamacpp", "lmstudio", "generic",
]  # fmt: skip
Level = Literal["off", "low", "medium", "high"]
Efforts = Mapping[Level, str]

ALL_EFFORTS: Efforts = {"off": "none", "low": "low", "medium": "medium", "high": "high"}
ALWAYS_ON: Efforts = {"off": "low", "low": "low", "medium": "medium", "high": "high"}
LOW_HIGH: Efforts = {"low": "low", "medium": "high", "high": "high"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a model is told to think. All empty: it cannot be told anything.

    `on`, `off`: body fields that switch it, None where there is no such switch. `effort`: path of the field that takes
    a level, `efforts`: neutral level to the vendor's word. `budget`: path of the field that takes tokens, `budgets`:
    the tokens that stand for a level where there is no effort field. `default`: it thinks when nothing is said.
    """

    on: JsonObject | None = None
    off: JsonObject | None = None
    effort: tuple[str, ...] = ()
    efforts: Efforts = field(default_factory=dict)
    budget: tuple[str, ...] = ()
    budgets: Mapping[Level, int] = field(default_factory=dict)
    default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRule:
    """What is different for the models whose name `pattern` is found in (any case)."""

    pattern: str
    changes: Mapping[str, Any]


def _model(pattern: str, **changes: Any) -> ModelRule:
    return ModelRule(pattern=pattern, changes=changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a vendor takes and sends. The defaults are the common ground that an unknown server most likely stands on.

    Request: `system_role` ("user" where neither system nor developer is taken), `systems`: system messages stay where
    they are, or all go into one at the start; `empty_content`: what stands beside tool calls without text;
    `structured`: the strongest form of a JSON answer; `json_object`: that form exists; `json_with_tools`: JSON answers
    and tools go together; `forced_tools`: what becomes of tool_choice required or named; `required`: the word for it;
    `tool_ids`: a call id that is taken whole, with `tool_id_chars` for the others; `max_stops`: 0 where none is taken;
    `sampling`: temperature and top_p are taken always, never, or only without thinking; `stream_only`: never asked for
    a whole answer; `tools_switch_thinking_off`: function tools are only taken with effort "none".

    Answer: `think_tags`: content may begin with <think>; `trim`: leading line feeds go; `marks`: text that goes;
    `echo`: on which earlier assistant messages reasoning goes back, in the field it came in: none, those since the
    last user message, all, or all with tool calls (then also empty); `keep_thinking`: body fields that make the vendor
    read it; `hidden_reasoning`: reasoning tokens that only show as a gap in the total.
    """

    name: str = "generic"
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    include_usage: bool = True
    system_role: Literal["system", "developer", "user"] = "system"
    systems: Literal["anywhere", "first"] = "first"
    empty_content: Literal["", "null"] = "null"
    images: bool = True
    image_urls: bool = True
    files: bool = False
    file_urls: bool = False
    audio: bool = False
    structured: Literal["strict", "schema", "object"] = "schema"
    json_object: bool = True
    json_with_tools: bool = True
    strict_tools: bool = False
    forced_tools: Literal["yes", "strings", "not_thinking", "no", "unsure"] = "yes"
    required: str = "required"
    parallel_tool_calls: bool = True
    custom_tools: bool = False
    thinking: Thinking = Thinking(effort=("reasoning_effort",), efforts=ALL_EFFORTS)
    tools_switch_thinking_off: bool = False
    sampling: Literal["always", "not_thinking", "never"] = "always"
    temperature: tuple[float, float] = (0.0, 2.0)
    max_stops: int = 4
    seed: str = "seed"
    stream_only: bool = False
    tool_ids: str = r".{1,512}"
    tool_id_chars: int = 24
    tool_result_name: bool = False
    user_after_tool: bool = True
    last_assistant_prefix: bool = False
    cache_marks: bool = False
    inline_defs: bool = False
    no_type_beside_any_of: bool = False
    think_tags: bool = True
    trim: bool = False
    marks: tuple[str, ...] = ()
    echo: Literal["none", "tool_loop", "always", "with_tool_calls"] = "tool_loop"
    echo_annotations: bool = False
    keep_thinking: JsonObject = field(default_factory=dict)
    hidden_reasoning: bool = False
    extra_body: JsonObject = field(default_factory=dict)
    stream_extra: JsonObject = field(default_factory=dict)
    models: tuple[ModelRule, ...] = ()

    def for_model(self, model: str) -> Profile:
        """This profile with the first rule that fits the model applied."""
        return _for_model(self.name, model) if PROFILES.get(self.name) is self else _apply(self, model)


def _apply(profile: Profile, model: str) -> Profile:
    for rule in profile.models:
        if re.search(rule.pattern, model, re.IGNORECASE):
            return replace(profile, **rule.changes)
    return profile


@lru_cache(maxsize=256)
def _for_model(name: str, model: str) -> Profile:
    return _apply(PROFILES[name], model)


_NO_THINKING = Thinking()
_THINKING_TYPE = Thinking(on={"thinking": {"type": "enabled"}}, off={"thinking": {"type": "disabled"}}, default=True)
_EFFORT = Thinking(effort=("reasoning_effort",), efforts=ALL_EFFORTS)
_EFFORT_BY_DEFAULT = replace(_EFFORT, default=True)
_EFFORT_ALWAYS_ON = Thinking(effort=("reasoning_effort",), efforts=ALWAYS_ON, default=True)
_TEMPLATE = Thinking(
    on={"chat_template_kwargs": {"enable_thinking": True}}, off={"chat_template_kwargs": {"enable_thinking": False}}
)
_TEMPLATE_DEEPSEEK = Thinking(
    on={"chat_template_kwargs": {"thinking": True}}, off={"chat_template_kwargs": {"thinking": False}}
)

_OPENAI_MODELS = (
    _model("^o1-mini", system_role="user", max_stops=0, sampling="never", thinking=_NO_THINKING),
    _model(r"^o\d", system_role="developer", max_stops=0, sampling="never", thinking=_EFFORT_ALWAYS_ON),
    _model(r"^(gpt-5[^/]*-chat|chatgpt|gpt-4o|gpt-4\.)", thinking=_NO_THINKING),
    _model(r"^(gpt-3|gpt-4)", thinking=_NO_THINKING, structured="object"),
    _model(
        r"^gpt-5[^/]*-pro",
        system_role="developer",
        max_stops=0,
        sampling="never",
        thinking=replace(_EFFORT_BY_DEFAULT, efforts=dict.fromkeys(ALL_EFFORTS, "high")),
    ),
    _model(
        r"^gpt-5\.[5-9]",
        system_role="developer",
        max_stops=0,
        sampling="not_thinking",
        thinking=_EFFORT_BY_DEFAULT,
        tools_switch_thinking_off=True,
    ),
    _model(
        r"^gpt-5\.4",
        system_role="developer",
        max_stops=0,
        sampling="not_thinking",
        tools_switch_thinking_off=True,
    ),
    _model(r"^gpt-5\.", system_role="developer", max_stops=0, sampling="not_thinking"),
    _model(
        "^gpt-5",
        system_role="developer",
        max_stops=0,
        sampling="never",
        thinking=replace(_EFFORT_BY_DEFAULT, efforts={**ALL_EFFORTS, "off": "minimal"}),
    ),
)

OPENAI = Profile(
    name="openai",
    max_tokens="max_completion_tokens",
    systems="anywhere",
    files=True,
    audio=True,
    structured="strict",
    strict_tools=True,
    custom_tools=True,
    tool_ids=r"[^\x00-\x1f]{1,40}",
    think_tags=False,
    echo="none",
    models=_OPENAI_MODELS,
)

AZURE = replace(
    OPENAI,
    name="azure",
    think_tags=True,
    models=(
        # the model catalogue beside OpenAI's own: a tool_choice object is refused with 422
        _model(
            r"deepseek|mai-ds",
            max_tokens="max_tokens",
            systems="first",
            structured="object",
            strict_tools=False,
            custom_tools=False,
            forced_tools="strings",
            thinking=_NO_THINKING,
        ),
        *_OPENAI_MODELS,
    ),
)

DEEPSEEK = Profile(
    name="deepseek",
    images=False,
    structured="object",
    forced_tools="not_thinking",
    thinking=replace(_THINKING_TYPE, effort=("reasoning_effort",), efforts=LOW_HIGH),
    sampling="not_thinking",
    think_tags=False,
    echo="with_tool_calls",
    models=(_model("^deepseek-chat", thinking=replace(_THINKING_TYPE, default=False)),),
)

KIMI = Profile(
    name="kimi",
    max_tokens="max_completion_tokens",
    structured="object",
    forced_tools="not_thinking",
    no_type_beside_any_of=True,
    think_tags=False,
    echo="tool_loop",
    thinking=_NO_THINKING,
    models=(
        _model(
            r"^kimi-k3",
            sampling="never",
            thinking=Thinking(effort=("reasoning_effort",), efforts={**LOW_HIGH, "off": "low"}, default=True),
        ),
        _model(r"^kimi-k2\.[5-9]", sampling="never", thinking=_THINKING_TYPE),
        _model(r"thinking", thinking=replace(_NO_THINKING, default=True)),
    ),
)

QWEN = Profile(
    name="qwen",
    structured="object",
    forced_tools="not_thinking",
    inline_defs=True,
    cache_marks=True,
    think_tags=False,
    echo="none",
    thinking=Thinking(
        on={"enable_thinking": True},
        off={"enable_thinking": False},
        budget=("thinking_budget",),
        budgets={"low": 2048, "medium": 8192},  # high: as much as the model takes
    ),
    models=(
        # the oldest ones think in streams only; the open-weight ones think unless told not to
        _model(r"^(qwq|qvq)", stream_only=True, thinking=replace(_NO_THINKING, default=True)),
        _model(
            r"^qwen3-[\d.]+b(-a\d+b)?(-thinking.*)?$",
            stream_only=True,
            thinking=Thinking(
                on={"enable_thinking": True},
                off={"enable_thinking": False},
                budget=("thinking_budget",),
                budgets={"low": 2048, "medium": 8192},
                default=True,
            ),
        ),
    ),
)

GLM = Profile(
    name="glm",
    structured="object",
    forced_tools="unsure",
    temperature=(0.0, 1.0),
    max_stops=1,
    inline_defs=True,
    think_tags=True,
    trim=True,
    marks=("<|begin_of_box|>", "<|end_of_box|>"),
    echo="tool_loop",
    keep_thinking={"thinking": {"clear_thinking": False}},
    stream_extra={"tool_stream": True},
    thinking=_THINKING_TYPE,
    models=(
        _model(
            r"^glm-5\.3",
            thinking=Thinking(effort=("reasoning_effort",), efforts={**LOW_HIGH, "off": "low"}, default=True),
        ),
        _model(r"^glm-5\.2", thinking=replace(_THINKING_TYPE, effort=("reasoning_effort",), efforts=ALL_EFFORTS)),
        _model(r"^glm-4\.5", stream_extra={}),
        _model(r"^glm-(4$|4-|4v|3|z1|4\.1)", thinking=_NO_THINKING, keep_thinking={}, stream_extra={}),
    ),
)

MINIMAX = Profile(
    name="minimax",
    max_tokens="max_completion_tokens",
    structured="object",
    forced_tools="no",
    temperature=(0.01, 1.0),
    think_tags=True,
    trim=True,
    echo="always",
    extra_body={"reasoning_split": True},
    thinking=replace(_NO_THINKING, default=True),
    models=(
        _model(
            r"^minimax-m3",
            thinking=Thinking(
                on={"thinking": {"type": "adaptive"}}, off={"thinking": {"type": "disabled"}}, default=True
            ),
        ),
    ),
)

VLLM = Profile(
    name="vllm",
    empty_content="",
    thinking=_TEMPLATE,
    audio=True,
    models=(
        _model("gpt-oss", thinking=_EFFORT_ALWAYS_ON),
        _model("deepseek", thinking=_TEMPLATE_DEEPSEEK),
    ),
)
NVIDIA = replace(VLLM, name="nvidia", audio=False)
LLAMACPP = replace(
    VLLM,
    name="llamacpp",
    empty_content="null",
    thinking=replace(
        _TEMPLATE, effort=("reasoning_effort",), efforts={k: v for k, v in ALL_EFFORTS.items() if k != "off"}
    ),
    models=(_model("gpt-oss", thinking=_EFFORT_ALWAYS_ON),),
)
LMSTUDIO = Profile(name="lmstudio", empty_content="", json_object=False)
OLLAMA = Profile(
    name="ollama",
    forced_tools="unsure",
    models=(_model("gpt-oss", thinking=_EFFORT_ALWAYS_ON),),
)

OPENROUTER = Profile(
    name="openrouter",
    systems="anywhere",
    files=True,
    file_urls=True,
    audio=True,
    structured="strict",
    cache_marks=True,
    think_tags=False,
    echo="always",
    echo_annotations=True,
    thinking=Thinking(
        off={"reasoning": {"enabled": False}},
        effort=("reasoning", "effort"),
        efforts={"low": "low", "medium": "medium", "high": "high"},
        budget=("reasoning", "max_tokens"),
    ),
)

GROQ = Profile(
    name="groq",
    max_tokens="max_completion_tokens",
    systems="anywhere",
    structured="object",
    json_with_tools=False,
    think_tags=True,
    echo="none",
    thinking=_NO_THINKING,
    models=(
        _model("gpt-oss", structured="strict", thinking=_EFFORT_ALWAYS_ON),
        _model(
            "qwen3",
            thinking=Thinking(
                on={"reasoning_format": "parsed"},
                off={},
                effort=("reasoning_effort",),
                efforts={"off": "none", "low": "default", "medium": "default", "high": "default"},
                default=True,
            ),
        ),
        _model("kimi-k2|llama-4", structured="schema"),
        _model("deepseek-r1", thinking=Thinking(on={"reasoning_format": "parsed"}, default=True)),
    ),
)

MISTRAL = Profile(
    name="mistral",
    structured="strict",
    required="any",
    seed="random_seed",
    tool_ids="[A-Za-z0-9]{9}",
    tool_id_chars=9,
    tool_result_name=True,
    user_after_tool=False,
    last_assistant_prefix=True,
    audio=True,
    strict_tools=True,
    think_tags=False,
    echo="tool_loop",
    thinking=_NO_THINKING,
    models=(
        _model(
            "^mistral-(small|medium)",
            thinking=Thinking(
                effort=("reasoning_effort",), efforts={"off": "none", "low": "high", "medium": "high", "high": "high"}
            ),
        ),
        _model("^magistral", thinking=replace(_NO_THINKING, default=True)),
    ),
)

XAI = Profile(
    name="xai",
    systems="anywhere",
    structured="strict",
    think_tags=False,
    echo="none",
    thinking=Thinking(
        effort=("reasoning_effort",), efforts={"low": "low", "medium": "medium", "high": "high"}, default=True
    ),
)

GENERIC = Profile(files=True, audio=True)

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        OPENAI, DEEPSEEK, KIMI, QWEN, GLM, MINIMAX, NVIDIA, OLLAMA, OPENROUTER, GROQ, MISTRAL, XAI, AZURE, VLLM,
        LLAMACPP, LMSTUDIO, GENERIC,
    )
}  # fmt: skip

# The host itself or a domain above it.
_DOMAINS: Mapping[str, Vendor] = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
    "api.deepseek.com": "deepseek",
    "api.moonshot.ai": "kimi",
    "api.moonshot.cn": "kimi",
    "api.kimi.com": "kimi",
    "aliyuncs.com": "qwen",
    "open.bigmodel.cn": "glm",
    "api.z.ai": "glm",
    "api.minimax.io": "minimax",
    "api.minimaxi.com": "minimax",
    "api.minimax.chat": "minimax",
    "api.nvidia.com": "nvidia",
    "ollama.com": "ollama",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.x.ai": "xai",
}
_OLLAMA_PORT = 11434  # wherever it is; the other ports below are too common to mean anything beyond this machine
_LOCAL_PORTS: Mapping[int, Vendor] = {1234: "lmstudio", 8000: "vllm", 8080: "llamacpp"}
_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    # hosts without a profile of their own that differ from the generic one in what is known here
    "cerebras.ai": {"parallel_tool_calls": False, "max_tokens": "max_completion_tokens"},
    "generativelanguage.googleapis.com": {"hidden_reasoning": True, "tool_result_name": True},
    "aiplatform.googleapis.com": {"hidden_reasoning": True, "tool_result_name": True},
}


def guess_vendor(base_url: str) -> Vendor:
    """The vendor whose API answers at `base_url`, "generic" when it is not known. Never raises."""
    host, port = _host_and_port(base_url)
    if port == _OLLAMA_PORT:
        return "ollama"
    if _is_local(host):
        return _LOCAL_PORTS.get(port or 0, "generic")
    for domain, vendor in _DOMAINS.items():
        if host == domain or host.endswith(f".{domain}"):
            return vendor
    return "generic"


def find_profile(vendor: str, base_url: str) -> Profile:
    """The profile named `vendor`, or the one that `base_url` suggests where `vendor` is ""; generic for other names."""
    profile = PROFILES.get(vendor or guess_vendor(base_url), GENERIC)
    if profile is GENERIC:
        host, _ = _host_and_port(base_url)
        for domain, changes in _VARIANTS.items():
            if host == domain or host.endswith(f".{domain}"):
                return replace(profile, **changes)
    return profile


def _host_and_port(base_url: str) -> tuple[str, int | None]:
    try:
        url = urlsplit(base_url)
        return (url.hostname or "").rstrip("."), url.port
    except ValueError:
        return "", None


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".local", ".lan", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified

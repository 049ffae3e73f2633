"""What each gateway behind the Messages wire takes, as data; what each generation of Claude takes: claude_models.py.

The driver reads leniently and writes strictly: what cannot be taken stands here and nowhere else. A gateway that is
not known gets the least that all of them take. Facts: the vendors' API references and error texts as of November 2026;
a profile says what a vendor does, never what it ought to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import urlsplit

from loopforge.drivers.claude_models import claude_version, generation

Vendor = Literal[
    "anthropic", "azure", "openrouter", "minimax", "deepseek", "glm", "kimi", "qwen", "ollama", "vllm", "llamacpp",
    "lmstudio", "generic",
]  # fmt: skip

VERSION: Final = "2023-06-01"
"""The `anthropic-version` that every gateway knows."""
VERSION_WITHOUT_SAMPLING: Final = "2026-10-21"
"""From this one on, temperature, top_p and top_k are refused whatever the model."""

STREAM_TOKENS = 32_000
WHOLE_TOKENS = 16_000  # an answer that is not streamed must come within the ten minutes that connections live
GATEWAY_TOKENS = 16_384
"""`max_tokens` is required on this wire; these are asked for when a turn does not say, up to the model's limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a vendor's model takes. The defaults are what an unknown gateway most likely does.

    `thinking`: "none", "manual" (enabled with a budget), "either", "adaptive", or "always" (adaptive, and cannot be
    switched off); `efforts`: output_config.effort is taken; `budgets`: a budget is heeded.
    `sampling`: temperature and top_p are taken always, never, or only without thinking; `both_samplers`: together, too.
    `forced_tools`: tool_choice any and tool are taken always, never, or only without a thinking budget. `parallel`:
    disable_parallel_tool_use is heeded.
    `structured`: how an answer of a schema is asked for: output_config, its beta form, or a tool that must be called.
    `prefill`: the last message may be the assistant's. `late_system`: messages of role system are taken.
    `signatures`: thinking without one is refused. `claude`: models named claude are Claude.
    `default_tokens`, `most_tokens`: max_tokens when a turn does not say, and at most (0: not known).
    """

    name: Vendor = "generic"
    claude: bool = True
    thinking: Literal["none", "manual", "either", "adaptive", "always"] = "manual"
    efforts: bool = False
    budgets: bool = True
    sampling: Literal["always", "not_thinking", "never"] = "always"
    both_samplers: bool = True
    temperature: tuple[float, float] = (0.0, 1.0)
    stops: bool = True
    forced_tools: Literal["yes", "not_thinking", "no"] = "not_thinking"
    parallel: bool = True
    strict_tools: bool = False
    structured: Literal["format", "beta", "tool"] = "tool"
    prefill: bool = True
    late_system: bool = False
    signatures: bool = False
    cache_marks: bool = False
    images: bool = True
    image_urls: bool = True
    documents: bool = False
    tool_name_chars: int = 64
    default_tokens: int = GATEWAY_TOKENS
    most_tokens: int = 0

    def for_model(self, model: str) -> Profile:
        """This profile with what is known of the model applied."""
        return _for_model(self.name, model)

    def tokens(self, *, stream: bool) -> int:
        """The `max_tokens` of a turn that does not say."""
        wanted = self.default_tokens if stream else min(self.default_tokens, WHOLE_TOKENS)
        return min(wanted, self.most_tokens) if self.most_tokens else wanted


# -- gateways ---------------------------------------------------------------------------------------------------------

ANTHROPIC = Profile(
    name="anthropic",
    signatures=True,
    cache_marks=True,
    documents=True,
    tool_name_chars=128,
    default_tokens=STREAM_TOKENS,
)
GENERIC = Profile()

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        ANTHROPIC,
        replace(ANTHROPIC, name="azure"),
        # models of all vendors behind one form: those named claude are Claude
        replace(GENERIC, name="openrouter", cache_marks=True, documents=True),
        # thinks in any case; its newest can be told not to, and is the first to see
        Profile(
            name="minimax",
            claude=False,
            thinking="always",
            temperature=(0.01, 1.0),
            stops=False,
            cache_marks=True,
            images=False,
        ),
        Profile(
            name="deepseek",
            claude=False,  # it maps such names to models of its own
            efforts=True,
            budgets=False,
            temperature=(0.0, 2.0),
            parallel=False,
            images=False,
            default_tokens=8192,
        ),
        *(replace(GENERIC, name=name, claude=False) for name in ("glm", "kimi", "qwen", "ollama", "vllm", "llamacpp")),
        replace(GENERIC, name="lmstudio", claude=False),
        GENERIC,
    )
}
_MINIMAX_FROM_M3 = re.compile(r"minimax-m([3-9]|\d\d)", re.IGNORECASE)
_WITHOUT_OUTPUT_CONFIG = {"efforts": False, "structured": "tool", "strict_tools": False, "late_system": False}

_DOMAINS: Mapping[str, Vendor] = {
    "api.anthropic.com": "anthropic",
    "services.ai.azure.com": "azure",
    "openrouter.ai": "openrouter",
    "api.minimax.io": "minimax",
    "api.minimaxi.com": "minimax",
    "api.minimax.chat": "minimax",
    "api.deepseek.com": "deepseek",
    "api.z.ai": "glm",
    "open.bigmodel.cn": "glm",
    "api.moonshot.ai": "kimi",
    "api.moonshot.cn": "kimi",
    "api.kimi.com": "kimi",
    "aliyuncs.com": "qwen",
    "ollama.com": "ollama",
}
_OLLAMA_PORT = 11434


@lru_cache(maxsize=256)
def _for_model(vendor: str, model: str) -> Profile:
    profile = PROFILES[vendor]
    if vendor in ("anthropic", "azure"):
        return replace(profile, **generation(model))
    if profile.claude and claude_version(model) is not None:
        # Claude behind somebody else's gateway, which takes no more than it says
        changes = {**generation(model), **_WITHOUT_OUTPUT_CONFIG}
        return replace(profile, **changes)
    if vendor == "minimax" and _MINIMAX_FROM_M3.search(model):
        return replace(profile, thinking="adaptive", images=True)
    return profile


def find_profile(vendor: str, base_url: str) -> Profile:
    """The profile named `vendor`, or the one that `base_url` suggests where `vendor` is ""; generic for other names."""
    return PROFILES.get(vendor or guess_vendor(base_url), GENERIC)


def guess_vendor(base_url: str) -> Vendor:
    """The vendor whose API answers at `base_url`, "generic" when it is not known. Never raises."""
    if not base_url:
        return "anthropic"
    try:
        url = urlsplit(base_url)
        host, port = (url.hostname or "").rstrip("."), url.port
    except ValueError:
        return "generic"
    if port == _OLLAMA_PORT:
        return "ollama"
    return next((name for domain, name in _DOMAINS.items() if host == domain or host.endswith(f".{domain}")), "generic")

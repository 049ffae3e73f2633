"""Context windows by vendor and model family, in tokens: what is known of them without asking, as data.

`context_window` of the configuration goes before them. What is not listed is unknown (0), and unknown counts as not
larger: a local server's window is whatever it was started with, and a guess would cost an attempt. Names are matched
from the start, without case, prefixes such as `models/` or `us.anthropic.` left out; the first entry that fits counts.

Sources, as of November 2026:
  anthropic   https://platform.claude.com/docs/en/about-claude/models/overview
  gemini      https://ai.google.dev/gemini-api/docs/models (input token limit)
  deepseek    https://api-docs.deepseek.com/quick_start/pricing
  kimi        https://platform.kimi.ai/docs/models
  qwen        https://www.alibabacloud.com/help/en/model-studio/models
  glm         https://docs.z.ai/guides/overview/overview, https://docs.bigmodel.cn/cn/guide/start/model-overview
  minimax     https://platform.minimax.io/docs/guides/models-intro
  openai      https://platform.openai.com/docs/models (GPT-5: 400,000 less 128,000 kept for the answer)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from loopforge.drivers.registry import ProviderSettings

_K, _M = 1_000, 1_000_000

_CLAUDE_200K = (
    (r"claude-(opus|sonnet|haiku)-4(-[015])?(-\d{8})?(-v\d(:\d)?)?$", 200 * _K),
    (r"claude-3", 200 * _K),
)
_CLAUDE = ((r"claude-(opus|sonnet)-4-[67](-\d{8})?$", _M), *_CLAUDE_200K)
_GEMINI = (
    (r"gemini-1\.5-pro", 2_097_152),
    (r"gemini-(1\.5|2\.0|2\.5|3(\.\d+)?)-(pro|flash)", 1_048_576),
)
_DEEPSEEK = (
    (r"deepseek-v4", _M),
    (r"deepseek-(chat|reasoner)$", _M),  # names for deepseek-v4-flash since April 2026
)
_KIMI = (
    (r"moonshot-v1-8k", 8_192),
    (r"moonshot-v1-32k", 32_768),
    (r"moonshot-v1-128k", 131_072),
    (r"kimi-k2-0711", 131_072),
    (r"kimi-k2", 262_144),
)
_QWEN = (
    (r"qwen3-max", 262_144),
    (r"qwen3-vl-plus", 262_144),
    (r"qwen3\.[78]-", _M),
    (r"qwen-(plus|flash)(-latest)?$", _M),
)
_GLM = (
    (r"glm-5\.2", _M),
    (r"glm-(5(\.1)?|5-turbo|4\.7|4\.6)$", 200 * _K),
    (r"glm-4\.5(-air|-x|-airx|-flash)?$", 128 * _K),
    (r"glm-4-32b-0414-128k", 128 * _K),
)
_MINIMAX = (
    (r"minimax-m3", _M),
    (r"minimax-m2", 204_800),
    (r"m2-her", 64 * _K),
)
_OPENAI = (
    (r"gpt-4\.1", 1_047_576),
    (r"gpt-5", 272 * _K),
    (r"(o3|o4-mini)(-|$)", 200 * _K),
    (r"gpt-4o", 128 * _K),
)
# Several vendors host one another's models under their own names, and behind the same API.
_DASHSCOPE = (*_QWEN, *_DEEPSEEK[:1], *_GLM[:2], *_KIMI[4:], *_MINIMAX)

Families = tuple[tuple[str, int], ...]
BY_KIND: Mapping[str, Families] = {
    "anthropic": (*_CLAUDE, *_MINIMAX, *_DEEPSEEK, *_GLM, *_KIMI),
    "bedrock": _CLAUDE_200K,
    "gemini": _GEMINI,
    "dashscope_native": _DASHSCOPE,
    "zhipu_native": _GLM,
    "minimax_native": _MINIMAX,
}
BY_VENDOR: Mapping[str, Families] = {
    "openai": _OPENAI,
    "deepseek": _DEEPSEEK,
    "kimi": _KIMI,
    "qwen": _DASHSCOPE,
    "glm": _GLM,
    "minimax": _MINIMAX,
}
"""Of kind openai_compatible. Servers that a person runs, and hosts with windows of their own, are not here."""

# models/gemini-…, us.anthropic.claude-…, deepseek-ai/deepseek-…
_PREFIX = re.compile(r"^(?:models/|(?:[a-z]+\.)?anthropic\.|[\w-]+/)", re.IGNORECASE)


def window_of(settings: ProviderSettings, model: str) -> int:
    """Tokens that a prompt and its answer may have together at that provider; 0 when unknown."""
    return settings.context_window or _look_up(settings.kind, settings.vendor, model)


@lru_cache(maxsize=1024)
def _look_up(kind: str, vendor: str, model: str) -> int:
    families = BY_VENDOR.get(vendor, ()) if kind == "openai_compatible" else BY_KIND.get(kind, ())
    name = _PREFIX.sub("", model[:200])
    return next((window for pattern, window in families if re.match(pattern, name, re.IGNORECASE)), 0)

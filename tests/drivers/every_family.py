"""One model of every family, by kind and vendor: what tests of all of them run over.

`test_capabilities.py` checks that no row of the kinds' own tables is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from loopforge.drivers.registry import Kind, ProviderSettings

ANY = "some-model"

OPENAI_COMPATIBLE = {
    "openai": (
        "o1-mini", "o3", "gpt-4o", "gpt-4", "gpt-5-pro", "gpt-5.5", "gpt-5.4", "gpt-5.1", "gpt-5-mini", ANY,
    ),
    "azure": ("deepseek-r1", "gpt-5.5", "gpt-4o", ANY),
    "deepseek": ("deepseek-chat", "deepseek-v4-pro"),
    "kimi": ("kimi-k3", "kimi-k2.6", "kimi-k2-thinking", "moonshot-v1-8k"),
    "qwen": ("qwq-plus", "qwen3-235b-a22b", "qwen-plus"),
    "glm": ("glm-5.3", "glm-5.2", "glm-4.5", "glm-4", "glm-4.7"),
    "minimax": ("minimax-m3", "minimax-m2.5"),
    "nvidia": ("openai/gpt-oss-20b", "deepseek-ai/deepseek-v3.1", "meta/llama-3.2-3b-instruct"),
    "ollama": ("gpt-oss:20b", "llama3.2"),
    "openrouter": (ANY,),
    "groq": ("openai/gpt-oss-120b", "qwen/qwen3-32b", "moonshotai/kimi-k2", "deepseek-r1-distill", ANY),
    "mistral": ("mistral-medium-latest", "magistral-small", "codestral"),
    "xai": ("grok-4",),
    "vllm": ("gpt-oss-20b", "deepseek-v3", ANY),
    "llamacpp": ("gpt-oss-20b", ANY),
    "lmstudio": (ANY,),
    "generic": (ANY,),
}  # fmt: skip
ANTHROPIC = {
    "anthropic": (
        "claude-fable-1", "claude-opus-5-5", "claude-opus-4-8", "claude-sonnet-4-7", "claude-sonnet-4-6",
        "claude-haiku-4-5", "claude-opus-4-1", "claude-opus-4-0", "claude-sonnet-4-0", "claude-3-7-sonnet",
        "claude-3-5-haiku", "claude-3-opus", ANY,
    ),
    "azure": ("claude-sonnet-4-6",),
    "openrouter": ("anthropic/claude-sonnet-4.6", ANY),
    "minimax": ("MiniMax-M2.5", "MiniMax-M3"),
    **dict.fromkeys(("deepseek", "glm", "kimi", "qwen", "ollama", "vllm", "llamacpp", "lmstudio", "generic"), (ANY,)),
}  # fmt: skip
GEMINI = (
    "gemma-3-27b-it", "gemma-4-31b-it", "gemini-2.0-flash", "gemini-1.5-flash", "gemini-2.5-pro",
    "gemini-2.5-flash-lite", "gemini-2.5-flash", "gemini-2.5-flash-image", "gemini-3-pro-preview", "gemini-3.7-flash",
    "gemini-3-flash-preview", "gemini-3-pro-image", ANY,
)  # fmt: skip
BEDROCK = (
    "anthropic.claude-3-haiku-20240307-v1:0", "anthropic.claude-v2", "us.anthropic.claude-sonnet-4-6",
    "anthropic.claude-opus-4-8", "anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-opus-4-1-v1:0",
    "amazon.nova-2-lite-v1:0", "amazon.nova-micro-v1:0", "amazon.nova-pro-v1:0", "amazon.titan-text-express-v1",
    "meta.llama2-13b-chat-v1", "meta.llama3-1-8b-instruct-v1:0", "meta.llama4-scout-17b-instruct-v1:0",
    "mistral.mistral-7b-instruct-v0:2", "mistral.mistral-large-2402-v1:0", "mistral.pixtral-large-2502-v1:0",
    "mistral.magistral-small-2509", "mistral.devstral-2-123b",
    "ai21.j2-ultra-v1", "ai21.jamba-1-5-large-v1:0", "cohere.command-text-v14",
    "cohere.command-r-v1:0", "deepseek.r1-v1:0", "deepseek.v3-v1:0", "qwen.qwen3-32b-v1:0",
    "moonshot.kimi-k2-thinking", "zai.glm-4.7", "openai.gpt-oss-20b-1:0", "writer.palmyra-x5-v1:0",
    "google.gemma-3-27b-it", ANY,
)  # fmt: skip
DASHSCOPE_NATIVE = (
    "qwen-deep-research", "qwen-mt-plus", "qwen-doc-turbo", "qwen3-omni-flash", "qwen-vl-ocr", "qwen3-asr-flash",
    "qvq-max", "qwen3-vl-8b-thinking", "qwen3-vl-8b-instruct", "qwen3-vl-plus", "qwen-vl-max", "kimi-k2.5",
    "qwen3.8-max", "qwen3.8-plus", "qwen3.7-max", "qwen3.7-plus", "qwen3.5-plus", "qwq-plus", "minimax-m2.5",
    "qwen3-coder-plus", "qwen3-max", "qwen3-32b", "qwen-plus", "qwen-max", "glm-4.7", "deepseek-v3.2", "deepseek-v3",
    ANY,
)  # fmt: skip
ZHIPU_NATIVE = (
    "glm-5.3", "glm-5.2", "glm-4.6v", "glm-5", "glm-4.7", "glm-4.5v", "glm-4.5-air", "glm-4.1v-thinking-flash",
    "glm-z1-air", "glm-4v-plus", "glm-4", ANY,
)  # fmt: skip
MINIMAX_NATIVE = (
    "M2-her", "MiniMax-M2.5", "MiniMax-M3", "MiniMax-M1", "MiniMax-M4", "MiniMax-Text-01", "abab6.5s-chat", ANY,
)  # fmt: skip

BASE_URLS: dict[Kind, str] = {
    "openai_compatible": "https://api.example/v1",
    "anthropic": "https://api.example",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "bedrock": "",
    "dashscope_native": "https://dashscope.aliyuncs.com/api/v1",
    "zhipu_native": "https://open.bigmodel.cn/api/paas/v4",
    "minimax_native": "https://api.minimax.io/v1",
}


def settings_of(kind: Kind, vendor: str = "", base_url: str | None = None) -> ProviderSettings:
    url = BASE_URLS[kind] if base_url is None else base_url
    return ProviderSettings(name="acme", kind=kind, vendor=vendor, base_url=url)


def every_family() -> Iterator[tuple[ProviderSettings, str]]:
    """(settings, model) for one model of each family that any kind knows, and for one that none does."""
    by_vendor: dict[Kind, dict[str, tuple[str, ...]]] = {
        "openai_compatible": OPENAI_COMPATIBLE,
        "anthropic": ANTHROPIC,
    }
    for kind, vendors in by_vendor.items():
        for vendor, models in vendors.items():
            yield from ((settings_of(kind, vendor), model) for model in models)
    of_one: dict[Kind, tuple[str, ...]] = {
        "gemini": GEMINI,
        "bedrock": BEDROCK,
        "dashscope_native": DASHSCOPE_NATIVE,
        "zhipu_native": ZHIPU_NATIVE,
        "minimax_native": MINIMAX_NATIVE,
    }
    for kind, models in of_one.items():
        yield from ((settings_of(kind), model) for model in models)
    # hosts and paths that change what is taken
    yield settings_of("openai_compatible", base_url="https://api.cerebras.ai/v1"), ANY
    for path in ("text", "multimodal"):
        url = f"{BASE_URLS['dashscope_native']}/services/aigc/{path}-generation/generation"
        yield settings_of("dashscope_native", base_url=url), ANY
        yield settings_of("dashscope_native", base_url=url), "qwen3.7-plus"

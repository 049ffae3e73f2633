"""Which vendor answers at an address, and what each generation of models takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.anthropic.profiles import PROFILES, find_profile, guess_vendor
from loopforge.drivers.claude_models import claude_version


@pytest.mark.parametrize(
    ("base_url", "vendor"),
    [
        ("", "anthropic"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://acme.services.ai.azure.com/anthropic", "azure"),
        ("https://openrouter.ai/api", "openrouter"),
        ("https://api.minimax.io/anthropic", "minimax"),
        ("https://api.minimaxi.com/anthropic", "minimax"),
        ("https://api.deepseek.com/anthropic", "deepseek"),
        ("https://api.z.ai/api/anthropic", "glm"),
        ("https://api.moonshot.ai/anthropic", "kimi"),
        ("https://dashscope-intl.aliyuncs.com/apps/anthropic", "qwen"),
        ("http://127.0.0.1:11434", "ollama"),
        ("https://ollama.com", "ollama"),
        ("http://127.0.0.1:8000", "generic"),
        ("https://api.anthropic.com.evil.example", "generic"),
        ("http://[::1", "generic"),
    ],
)
def test_the_address_tells_the_vendor(base_url: str, vendor: str) -> None:
    assert guess_vendor(base_url) == vendor
    assert find_profile("", base_url).name == vendor


def test_a_vendor_that_is_named_counts_more_and_one_that_is_not_known_is_generic() -> None:
    assert find_profile("glm", "https://api.anthropic.com").name == "glm"
    assert find_profile("acme", "https://api.anthropic.com").name == "generic"


@pytest.mark.parametrize(
    ("model", "family", "version"),
    [
        ("claude-3-5-haiku-20241022", "haiku", (3, 5)),
        ("claude-3-opus-20240229", "opus", (3, 0)),
        ("claude-3-7-sonnet-latest", "sonnet", (3, 7)),
        ("claude-2.1", "", (2, 1)),
        ("claude-instant-1.2", "instant", (1, 2)),
        ("claude-sonnet-4-20250514", "sonnet", (4, 0)),
        ("claude-4-opus-20250514", "opus", (4, 0)),
        ("claude-opus-4-1-20250805", "opus", (4, 1)),
        ("claude-haiku-4-5@20251001", "haiku", (4, 5)),
        ("anthropic/claude-sonnet-4.5", "sonnet", (4, 5)),
        ("us.anthropic.claude-opus-4-6-v1:0", "opus", (4, 6)),
        ("claude-sonnet-5", "sonnet", (5, 0)),
        ("claude-fable-5-1", "fable", (5, 1)),
        ("claude-mythos-preview", "mythos", (0, 0)),
        ("Claude-Opus-5-5", "opus", (5, 5)),
        ("claude-opus-12-10", "opus", (12, 10)),
    ],
)
def test_a_models_name_tells_its_family_and_version(model: str, family: str, version: tuple[int, int]) -> None:
    assert claude_version(model) == (family, version)


@pytest.mark.parametrize("model", ["", "claude", "claude-latest", "gpt-5", "minimax-m2.5", "my-claudette-4"])
def test_another_name_tells_nothing(model: str) -> None:
    assert claude_version(model) is None


@pytest.mark.parametrize(
    ("model", "thinking", "structured", "most_tokens", "prefill"),
    [
        ("claude-3-haiku-20240307", "none", "tool", 4096, True),
        ("claude-3-5-sonnet-latest", "none", "tool", 8192, True),
        ("claude-3-7-sonnet-20250219", "manual", "tool", 64_000, True),
        ("claude-opus-4-20250514", "manual", "tool", 32_000, True),
        ("claude-sonnet-4-0", "manual", "tool", 64_000, True),
        ("claude-opus-4-1", "manual", "beta", 32_000, True),
        ("claude-haiku-4-5", "manual", "format", 64_000, True),
        ("claude-opus-4-6", "either", "format", 128_000, False),
        ("claude-opus-4-7", "adaptive", "format", 0, False),
        ("claude-sonnet-5", "adaptive", "format", 0, False),
        ("claude-haiku-5-5", "adaptive", "format", 0, False),
        ("claude-opus-5", "adaptive", "format", 0, False),
        ("claude-opus-5-5", "always", "format", 0, False),
        ("claude-fable-5", "always", "format", 0, False),
        ("claude-mythos-preview", "always", "format", 0, False),
        ("claude-opus-9", "always", "format", 0, False),
        ("my-deployment", "either", "format", 128_000, False),
        ("claude-sonnet-latest", "either", "format", 128_000, False),
    ],
)
def test_each_generation_has_its_rules(
    model: str, thinking: str, structured: str, most_tokens: int, prefill: bool
) -> None:
    for vendor in ("anthropic", "azure"):
        profile = PROFILES[vendor].for_model(model)
        assert (profile.thinking, profile.structured, profile.most_tokens, profile.prefill) == (
            thinking, structured, most_tokens, prefill,
        )  # fmt: skip
        assert profile.name == vendor
        assert profile.signatures


def test_only_the_newest_take_a_system_message_within_the_conversation() -> None:
    anthropic = PROFILES["anthropic"]
    late = ["claude-opus-4-8", "claude-opus-5", "claude-opus-5-5", "claude-fable-5-2", "claude-mythos-5"]
    early = ["claude-opus-4-7", "claude-sonnet-5", "claude-sonnet-4-6", "claude-haiku-4-5"]
    assert [anthropic.for_model(model).late_system for model in [*late, *early]] == [True] * 5 + [False] * 4


def test_claude_behind_a_gateway_keeps_its_rules_but_for_what_the_gateway_does_not_take() -> None:
    for vendor in ("generic", "openrouter"):
        profile = PROFILES[vendor].for_model("anthropic/claude-opus-4.7")
        assert (profile.thinking, profile.sampling, profile.prefill) == ("adaptive", "never", False)
        assert (profile.efforts, profile.structured, profile.strict_tools, profile.signatures) == (
            False, "tool", False, False,
        )  # fmt: skip
    assert PROFILES["openrouter"].for_model("openai/gpt-5") == PROFILES["openrouter"]
    assert PROFILES["deepseek"].for_model("claude-opus-4-7") == PROFILES["deepseek"]


def test_minimax_sees_and_can_stop_thinking_from_its_third_model_on() -> None:
    minimax = PROFILES["minimax"]
    assert (minimax.for_model("MiniMax-M2.5").thinking, minimax.for_model("MiniMax-M2.5").images) == ("always", False)
    assert (minimax.for_model("MiniMax-M3").thinking, minimax.for_model("MiniMax-M3").images) == ("adaptive", True)


@given(vendor=st.sampled_from(sorted(PROFILES)), model=st.text(max_size=40))
def test_every_name_has_a_profile(vendor: str, model: str) -> None:
    profile = PROFILES[vendor].for_model(f"claude-{model}")
    assert profile.tokens(stream=True) >= profile.tokens(stream=False) > 0
    assert not profile.most_tokens or profile.tokens(stream=True) <= profile.most_tokens

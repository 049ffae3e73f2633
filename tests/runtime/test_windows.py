from __future__ import annotations

import re
from importlib import resources

import pytest
import tomli

from loopforge.drivers.registry import KINDS, ProviderSettings
from loopforge.drivers.vendors import PROFILES
from loopforge.runtime.config.base_url import guess_vendor
from loopforge.runtime.windows import BY_KIND, BY_VENDOR, window_of


def settings(kind: str = "openai_compatible", vendor: str = "", context_window: int = 0) -> ProviderSettings:
    return ProviderSettings(name="p", kind=kind, vendor=vendor, context_window=context_window)  # type: ignore[arg-type]  # parametrize knows only str


@pytest.mark.parametrize(
    ("kind", "vendor", "model", "window"),
    [
        ("anthropic", "", "claude-sonnet-4-6", 1_000_000),
        ("anthropic", "", "claude-sonnet-4-5-20250929", 200_000),
        ("anthropic", "", "claude-3-5-sonnet-latest", 200_000),
        ("anthropic", "", "MiniMax-M2.5", 204_800),
        ("bedrock", "", "us.anthropic.claude-sonnet-4-20250514-v1:0", 200_000),
        ("gemini", "", "models/gemini-3-flash-preview", 1_048_576),
        ("gemini", "", "gemini-1.5-flash", 1_048_576),
        ("openai_compatible", "deepseek", "deepseek-chat", 1_000_000),
        ("openai_compatible", "kimi", "moonshot-v1-8k", 8_192),
        ("openai_compatible", "kimi", "kimi-k2.6", 262_144),
        ("openai_compatible", "glm", "glm-5.2", 1_000_000),
        ("openai_compatible", "glm", "GLM-4.7", 200_000),
        ("openai_compatible", "minimax", "MiniMax-M3", 1_000_000),
        ("openai_compatible", "openai", "gpt-5-mini", 272_000),
        ("openai_compatible", "openai", "gpt-4o-mini", 128_000),
        ("dashscope_native", "", "qwen-plus", 1_000_000),
        ("zhipu_native", "", "glm-4.6", 200_000),
    ],
)
def test_windows_that_are_known(kind: str, vendor: str, model: str, window: int) -> None:
    assert window_of(settings(kind, vendor), model) == window


@pytest.mark.parametrize(
    ("kind", "vendor", "model"),
    [
        ("openai_compatible", "ollama", "deepseek-chat"),
        ("openai_compatible", "vllm", "glm-5.2"),
        ("openai_compatible", "", "gpt-4o"),
        ("openai_compatible", "openrouter", "gpt-4o"),
        ("openai_compatible", "openai", "gpt-9"),
        ("anthropic", "", "claude-opus-9"),
        ("bedrock", "", "us.anthropic.claude-sonnet-4-6"),
        ("gemini", "", ""),
        ("openai_compatible", "deepseek", "x" * 1_000_000),
    ],
)
def test_windows_that_are_not_and_count_as_not_larger(kind: str, vendor: str, model: str) -> None:
    assert window_of(settings(kind, vendor), model) == 0


def test_what_the_configuration_says_goes_before_what_is_listed() -> None:
    assert window_of(settings("openai_compatible", "kimi", 4096), "kimi-k2.6") == 4096
    assert window_of(settings("openai_compatible", "ollama", 32_768), "llama3.2") == 32_768


def test_every_entry_belongs_to_a_kind_or_a_vendor_that_exists_and_can_match() -> None:
    assert set(BY_KIND) <= set(KINDS)
    assert set(BY_VENDOR) <= set(PROFILES)
    for families in (*BY_KIND.values(), *BY_VENDOR.values()):
        for pattern, window in families:
            re.compile(pattern)
            assert pattern == pattern.lower()
            assert 8_192 <= window <= 2_097_152


def test_of_the_presets_only_local_hosted_and_retired_models_are_unknown() -> None:
    raw = tomli.loads((resources.files("loopforge.runtime.config") / "presets.toml").read_text())
    unknown = {
        name
        for name, table in raw["providers"].items()
        if not window_of(settings(table["kind"], guess_vendor(table["base_url"])), table["default_model"])
    }
    assert unknown == {"ollama", "nvidia", "bedrock", "glm", "glm_native"}

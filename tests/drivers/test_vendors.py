"""Vendor profiles: found by their address, true to their models, and complete."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.vendors import GENERIC, PROFILES, Vendor, find_profile, guess_vendor


@pytest.mark.parametrize(
    ("base_url", "vendor"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://acme.openai.azure.com/openai/deployments/gpt-4o?api-version=2024-12-01-preview", "azure"),
        ("https://acme.services.ai.azure.com/models", "azure"),
        ("https://acme.cognitiveservices.azure.com/openai/v1", "azure"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.moonshot.ai/v1", "kimi"),
        ("https://api.moonshot.cn/v1", "kimi"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "qwen"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "qwen"),
        ("https://open.bigmodel.cn/api/paas/v4", "glm"),
        ("https://api.z.ai/api/coding/paas/v4", "glm"),
        ("https://api.minimax.io/v1", "minimax"),
        ("https://api.minimaxi.com/v1/", "minimax"),
        ("https://integrate.api.nvidia.com/v1", "nvidia"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.x.ai/v1", "xai"),
        ("https://API.X.AI./v1", "xai"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://10.0.0.7:11434/v1", "ollama"),
        ("https://ollama.com/v1", "ollama"),
        ("http://127.0.0.1:8000/v1", "vllm"),
        ("http://[::1]:8080/v1", "llamacpp"),
        ("http://box.local:1234/v1", "lmstudio"),
        ("http://localhost:9999/v1", "generic"),
        ("https://llm.example.com:8000/v1", "generic"),
        ("https://notapi.x.ai.example.com/v1", "generic"),
        ("https://evilapi.x.ai", "generic"),
        ("https://api.cerebras.ai/v1", "generic"),
        ("http://localhost:port/v1", "generic"),
        ("http://[oops", "generic"),
        ("nonsense", "generic"),
        ("", "generic"),
    ],
)
def test_a_vendor_is_known_by_its_address(base_url: str, vendor: str) -> None:
    assert guess_vendor(base_url) == vendor


@given(st.text())
def test_any_address_has_a_vendor(base_url: str) -> None:
    assert guess_vendor(base_url) in PROFILES


def test_every_vendor_has_a_profile_of_its_name() -> None:
    assert set(PROFILES) == set(get_args(Vendor))
    assert all(profile.name == name for name, profile in PROFILES.items())


@pytest.mark.parametrize("name", PROFILES)
def test_a_profiles_rules_can_be_applied(name: str) -> None:
    profile = PROFILES[name]
    for rule in profile.models:
        re.compile(rule.pattern)
        for field in rule.changes:
            assert hasattr(profile, field)
    for variant in (profile, *(profile.for_model(model) for model in MODELS)):
        assert bool(variant.thinking.efforts) == bool(variant.thinking.effort)
        assert not variant.thinking.budgets or variant.thinking.budget
        assert set(variant.thinking.efforts) <= {"off", "low", "medium", "high"}
        assert not (variant.echo == "with_tool_calls" and variant.think_tags)


MODELS = [
    "o1-mini", "o3", "o4-mini", "gpt-5", "gpt-5-mini", "gpt-5-pro", "gpt-5.1", "gpt-5.4", "gpt-5.6",
    "gpt-5-chat-latest", "gpt-4o", "gpt-4-turbo", "deepseek-chat", "deepseek-reasoner", "DeepSeek-R1",
    "kimi-k3", "kimi-k2.6",
    "kimi-k2-thinking", "qwq-plus", "qwen3-32b", "qwen3-max", "glm-4", "glm-4.6", "glm-5.2", "glm-5.3", "MiniMax-M3",
    "openai/gpt-oss-120b", "qwen/qwen3-32b", "magistral-medium-latest", "mistral-small-latest", "grok-4",
]  # fmt: skip


@pytest.mark.parametrize(
    ("vendor", "model", "expected"),
    [
        ("openai", "o1-mini", {"system_role": "user", "max_stops": 0, "sampling": "never"}),
        ("openai", "o3-mini", {"system_role": "developer", "max_stops": 0, "sampling": "never"}),
        ("openai", "gpt-4o-mini", {"system_role": "system", "sampling": "always", "structured": "strict"}),
        ("openai", "gpt-4.1", {"structured": "strict"}),
        ("openai", "gpt-3.5-turbo", {"structured": "object"}),
        ("openai", "gpt-5-chat-latest", {"system_role": "system", "sampling": "always"}),
        ("openai", "gpt-5.4-mini", {"tools_switch_thinking_off": True, "sampling": "not_thinking"}),
        ("openai", "gpt-5.5", {"tools_switch_thinking_off": True}),
        ("openai", "gpt-5.1", {"tools_switch_thinking_off": False, "sampling": "not_thinking"}),
        ("openai", "gpt-5-nano", {"sampling": "never"}),
        ("azure", "deepseek-r1-0528", {"forced_tools": "strings", "max_tokens": "max_tokens"}),
        ("azure", "gpt-4o", {"forced_tools": "yes", "max_tokens": "max_completion_tokens"}),
        ("qwen", "qwen3-32b", {"stream_only": True}),
        ("qwen", "qwen3-235b-a22b-thinking-2507", {"stream_only": True}),
        ("qwen", "qwen3-max", {"stream_only": False}),
        ("groq", "openai/gpt-oss-20b", {"structured": "strict"}),
        ("groq", "llama-3.3-70b-versatile", {"structured": "object"}),
    ],
)
def test_a_model_may_differ_from_its_vendor(vendor: str, model: str, expected: dict[str, object]) -> None:
    profile = PROFILES[vendor].for_model(model)
    assert {name: getattr(profile, name) for name in expected} == expected
    assert profile.name == vendor


def test_hosts_without_a_profile_may_still_differ_from_the_generic_one() -> None:
    assert not find_profile("", "https://api.cerebras.ai/v1").parallel_tool_calls
    assert find_profile("", "https://generativelanguage.googleapis.com/v1beta/openai").hidden_reasoning
    assert find_profile("openai", "https://api.cerebras.ai/v1").name == "openai"
    assert find_profile("nobody", "https://api.openai.com/v1") is GENERIC

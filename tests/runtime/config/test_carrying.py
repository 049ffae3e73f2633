from __future__ import annotations

from pathlib import Path

import pytest

from loopforge.drivers.anthropic import profiles as anthropic
from loopforge.drivers.dashscope_native.driver import VENDORS as DASHSCOPE
from loopforge.drivers.gemini.driver import VENDORS as GEMINI
from loopforge.drivers.minimax_native.driver import VENDORS as MINIMAX
from loopforge.drivers.registry import KINDS, Kind
from loopforge.drivers.zhipu_native.driver import VENDORS as ZHIPU
from loopforge.runtime.config.base_url import OTHER_VENDORS, VENDORS, VENDORS_OF_KIND, vendor_of
from loopforge.runtime.config.child import check_in_child_blocking
from loopforge.runtime.config.paths import PRESETS
from loopforge.runtime.config.values import Problem, Target
from tests.runtime.config.checking import OLLAMA, accepted, refused
from tests.runtime.config.test_resolve import ORIGINAL

PROVIDERS = f"""\
{OLLAMA}
[providers.claude]
kind = "anthropic"
base_url = "https://api.anthropic.com"
default_model = "claude-sonnet-4-6"
[providers.deepseek]
base_url = "https://api.deepseek.com"
default_model = "deepseek-v4-pro"
[providers.kimi]
base_url = "https://api.moonshot.ai/v1"
default_model = "moonshot-v1-8k"
[providers.titan]
kind = "bedrock"
default_model = "amazon.titan-text-express-v1"
"""


def found(route: str) -> list[Problem]:
    """What is said of a coding route with these lines."""
    text = f"{PROVIDERS}[router.coding]\n{route}\n"
    problems = [problem for problem in accepted(text).warnings if problem.place.startswith("router.")]
    first = text[: text.index("[router.coding]")].count("\n") + 1
    for problem in problems:
        assert problem.severity == "warning"
        line = text.splitlines()[problem.line - 1]
        assert line.startswith((problem.place.split(".")[2].partition("[")[0], '  "'))
        assert problem.line > first
    return problems


def only(route: str) -> Problem:
    (problem,) = found(route)
    return problem


@pytest.mark.parametrize(
    ("model", "thinking", "why", "instead"),
    [
        ("kimi/moonshot-v1-8k", '"high"', "is not known to think", "leave thinking out"),
        ("claude/claude-opus-5-5", '"off"', "cannot be told to stop thinking", '"low" or "medium" or "high"'),
        ("claude/claude-opus-5-5", "4000", "takes no thinking budget in tokens", '"low" or "medium" or "high"'),
        ("deepseek/deepseek-v4-pro", '"medium"', 'has no thinking effort "medium"', '"off" or "low" or "high"'),
        ("claude/claude-3-opus", "4000", "is not known to think", "leave thinking out"),
    ],
)
def test_thinking_that_a_model_does_not_do_as_asked_is_said(model: str, thinking: str, why: str, instead: str) -> None:
    provider, _, name = model.partition("/")
    problem = only(f'provider = "{provider}"\nmodel = "{name}"\nthinking = {thinking}')
    assert problem.place == "router.coding.thinking"
    assert f'"{model}" {why}' in problem.problem
    assert problem.suggestion.endswith(instead)


@pytest.mark.parametrize("thinking", ['"off"', '"low"', '"high"', "4000"])
def test_thinking_that_a_model_does_is_not_worth_a_word(thinking: str) -> None:
    assert found(f'provider = "claude"\nthinking = {thinking}') == []


def test_each_fallback_is_held_against_the_thinking_of_the_route_in_its_own_line() -> None:
    problem = only('provider = "ollama"\nfallbacks = [\n  "claude",\n  "kimi/kimi-k2-thinking",\n]\nthinking = "high"')
    assert problem.place == "router.coding.fallbacks[1]"
    assert problem.line == f"{PROVIDERS}[router.coding]".count("\n") + 5
    assert '"kimi/kimi-k2-thinking" has no thinking effort "high"' in problem.problem
    assert problem.suggestion == "leave thinking out"


def test_a_fallback_that_takes_less_than_the_first_is_said() -> None:
    (images,) = found('provider = "ollama"\nfallbacks = ["deepseek"]')
    assert images.place == "router.coding.fallbacks[0]"
    assert images.problem == '"deepseek/deepseek-v4-pro" takes no images, which "ollama/llama3.2" does'
    (both,) = found('provider = "ollama"\nfallbacks = ["claude", "titan"]')
    assert both.place == "router.coding.fallbacks[1]"
    assert both.problem.startswith('"titan/amazon.titan-text-express-v1" takes no tools and no images, which')


def test_a_fallback_that_takes_more_or_the_same_is_not_worth_a_word() -> None:
    assert found('provider = "deepseek"\nfallbacks = ["ollama", "claude"]') == []


def test_a_fallback_with_a_far_smaller_window_is_said() -> None:
    problem = only('provider = "claude"\nfallbacks = ["kimi", "ollama"]')
    assert problem.place == "router.coding.fallbacks[0]"
    assert "has a context window of 8,192 tokens" in problem.problem
    assert 'one of 1,000,000"' not in problem.problem
    assert "1,000,000" in problem.problem
    assert found('provider = "kimi"\nfallbacks = ["claude"]') == []


def test_targets_know_what_they_refuse_and_are_the_same_targets() -> None:
    routes = accepted(PROVIDERS + '[router.coding]\nprovider = "titan"\nfallbacks = ["deepseek", "claude"]\n').routes
    titan, deepseek, claude = routes["coding"].targets
    assert {"tools", "new images"} <= set(titan.lacks)
    assert "new images" in deepseek.lacks
    assert "tools" not in deepseek.lacks
    assert claude.lacks == ("new audio",)
    assert claude == Target(provider="claude", model="claude-sonnet-4-6")
    assert hash(claude) == hash(Target(provider="claude", model="claude-sonnet-4-6"))


def test_what_targets_refuse_survives_the_way_out_of_the_child(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(PROVIDERS + '[router.coding]\nprovider = "titan"\nthinking = "high"\n')
    config = check_in_child_blocking(file, {}).config
    assert config is not None
    assert "tools" in config.routes["coding"].targets[0].lacks
    assert [problem.place for problem in config.warnings] == ["router.coding.thinking"]


# -- the vendor that each kind's driver is told ------------------------------------------------------------------------


def test_a_provider_is_told_by_a_name_that_its_own_driver_knows() -> None:
    known: dict[Kind, set[str]] = {
        "openai_compatible": set(VENDORS),
        "anthropic": set(anthropic.PROFILES),
        "gemini": set(GEMINI),
        "bedrock": {""},
        "dashscope_native": set(DASHSCOPE),
        "zhipu_native": set(ZHIPU),
        "minimax_native": set(MINIMAX),
    }
    hosts = ("api.anthropic.com", "api.deepseek.com", "api.groq.com", "api.x.ai", "integrate.api.nvidia.com",
             "us-central1-aiplatform.googleapis.com", "127.0.0.1:8000", "127.0.0.1:11434", "example.com")  # fmt: skip
    for kind in KINDS:
        assert {vendor_of(kind, f"https://{host}/v1") for host in hosts} <= known[kind], kind
        writable = {name for name in (*VENDORS, *OTHER_VENDORS) if name in known[kind]}
        assert set(VENDORS_OF_KIND[kind]) == writable, kind
    assert set(OTHER_VENDORS) == {"anthropic", "google", "vertex"}


def test_the_presets_are_asked_as_what_they_are() -> None:
    vendors = {name: provider.vendor for name, provider in accepted(PRESETS.read_text()).providers.items()}
    assert {vendors[name] for name in ("anthropic", "minimax_anthropic", "gemini", "bedrock")} == {
        "anthropic", "minimax", "google", "",
    }  # fmt: skip
    assert (vendors["anthropic"], vendors["minimax_anthropic"]) == ("anthropic", "minimax")


def test_gateways_of_the_messages_wire_are_told_as_its_driver_would() -> None:
    for domain in anthropic._DOMAINS:
        url = f"https://{domain}/anthropic"
        assert vendor_of("anthropic", url) == anthropic.guess_vendor(url)


def test_vertex_is_told_by_its_host_and_may_be_written() -> None:
    assert vendor_of("gemini", "https://us-central1-aiplatform.googleapis.com/v1") == "vertex"
    assert vendor_of("gemini", "https://aiplatform.googleapis.com/v1") == "vertex"
    text = PROVIDERS + '[providers.proxy]\nkind = "gemini"\nbase_url = "https://example.com"\nvendor = "vertex"\n'
    assert accepted(text).providers["proxy"].vendor == "vertex"


def vendor_warnings(kind: str, vendor: str) -> list[Problem]:
    text = f'{OLLAMA}[providers.p]\nkind = "{kind}"\nbase_url = "https://example.com"\nvendor = "{vendor}"\n'
    problems = [problem for problem in accepted(text).warnings if problem.place == "providers.p.vendor"]
    assert {problem.line for problem in problems} <= {7}
    assert text.splitlines()[6].startswith("vendor")
    return problems


@pytest.mark.parametrize(
    ("kind", "vendor", "problem", "instead"),
    [
        ("openai_compatible", "vertex", 'kind "openai_compatible" knows no vendor "vertex"', 'write kind = "gemini";'),
        ("openai_compatible", "anthropic", 'knows no vendor "anthropic"', 'write kind = "anthropic";'),
        ("anthropic", "openai", 'kind "anthropic" knows no vendor "openai"', 'write kind = "openai_compatible";'),
        ("gemini", "openai", 'kind "gemini" knows no vendor "openai"', "vendors of this kind: google, vertex"),
        ("zhipu_native", "generic", 'knows no vendor "generic"', "vendors of this kind: glm"),
        (
            "bedrock",
            "anthropic",
            'kind "bedrock" tells no vendors apart',
            'leave vendor out, or write kind = "anthropic"',
        ),
    ],
)
def test_a_vendor_of_another_kind_is_said_in_its_line(kind: str, vendor: str, problem: str, instead: str) -> None:
    (found,) = vendor_warnings(kind, vendor)
    assert problem in found.problem
    assert instead in found.suggestion


@pytest.mark.parametrize("kind", KINDS)
def test_a_vendor_of_its_own_kind_is_not_worth_a_word(kind: Kind) -> None:
    assert [vendor_warnings(kind, vendor) for vendor in ("", *VENDORS_OF_KIND[kind])] == [[]] * (
        len(VENDORS_OF_KIND[kind]) + 1
    )


def test_a_vendor_is_not_held_against_a_kind_that_is_wrong_itself() -> None:
    problems = refused(f'{OLLAMA}[providers.p]\nkind = "gemni"\nbase_url = "https://x.test"\nvendor = "vertex"\n')
    assert [problem.place for problem in problems] == ["providers.p.kind"]


@pytest.mark.parametrize(
    ("route", "deadline"),
    [("park_max_s = 3600", "1800"), ("deadline_s = 60\npark_max_s = 60.5", "60"), ("park_max_s = 86_400", "1800")],
)
def test_a_deadline_that_ends_a_turn_before_it_was_parked_so_long_is_said(route: str, deadline: str) -> None:
    problem = only(route)
    assert problem.place == "router.coding.park_max_s"
    assert f"deadline_s is {deadline} " in problem.problem
    assert problem.suggestion.startswith("write deadline_s = ")


@pytest.mark.parametrize("route", ["park_max_s = 1800", "deadline_s = 7200\npark_max_s = 7200", "deadline_s = 5", ""])
def test_a_turn_that_may_be_parked_within_its_deadline_is_not_worth_a_word(route: str) -> None:
    assert found(route) == []


def test_neither_the_presets_nor_a_config_of_the_original_is_warned_of_vendors_or_deadlines() -> None:
    for text in (PRESETS.read_text(), ORIGINAL):
        places = {problem.place.rpartition(".")[2] for problem in accepted(text).warnings}
        assert not places & {"vendor", "park_max_s"}

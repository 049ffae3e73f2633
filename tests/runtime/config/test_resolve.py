"""What a configuration that is right means: defaults, routes, lanes, warnings."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import msgpack
import pytest

from loopforge.drivers import vendors
from loopforge.drivers.registry import KINDS, AwsSettings, Price, has_driver
from loopforge.runtime.config import base_url
from loopforge.runtime.config.model import MAX_REQUEST_MB, HttpTable, ProviderTable, RouteTable, RuntimeTable, Table
from loopforge.runtime.config.resolve import NOT_ACTED_ON
from loopforge.runtime.config.values import Checked, Config, Target
from loopforge.workers.framing import MAX_FRAME_BYTES
from loopforge.workers.packing import from_plain, to_plain
from tests.runtime.config.checking import FILE, OLLAMA, accepted

PRESETS = resources.files("loopforge.runtime.config").joinpath("presets.toml").read_text()
LOCAL = "http://127.0.0.1:11434/v1"
HOSTS = ("localhost", "127.8.8.8", "10.0.0.8", "[::1]", "ai.lan", "h.example.com")
DASHSCOPE = "https://dashscope{}.aliyuncs.com/{}"

# Kind, base URL, key variable and default model that the original LoopForge gives each name.
ORIGINAL_PRESETS = {
    "ollama": ("openai_compatible", LOCAL, "", "llama3.2"),
    "deepseek": ("openai_compatible", "https://api.deepseek.com", "DEEPSEEK_API_KEY", "deepseek-chat"),
    "kimi": ("openai_compatible", "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", "moonshot-v1-8k"),
    "kimi_cn": ("openai_compatible", "https://api.moonshot.cn/v1", "MOONSHOT_API_KEY", "moonshot-v1-8k"),
    "qwen": ("openai_compatible", DASHSCOPE.format("-us", "compatible-mode/v1"), "DASHSCOPE_API_KEY", "qwen-plus"),
    "qwen_cn": ("openai_compatible", DASHSCOPE.format("", "compatible-mode/v1"), "DASHSCOPE_API_KEY", "qwen-plus"),
    "qwen_sg": ("openai_compatible", DASHSCOPE.format("-intl", "compatible-mode/v1"), "DASHSCOPE_API_KEY", "qwen-plus"),
    "glm": ("openai_compatible", "https://open.bigmodel.cn/api/paas/v4", "ZHIPUAI_API_KEY", "glm-4"),
    "minimax": ("openai_compatible", "https://api.minimax.chat/v1", "MINIMAX_API_KEY", "MiniMax-M2.5"),
    "nvidia": (
        "openai_compatible",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_API_KEY",
        "meta/llama-3.2-3b-instruct",
    ),
    "qwen_native": ("dashscope_native", DASHSCOPE.format("-us", "api/v1"), "DASHSCOPE_API_KEY", "qwen-plus"),
    "qwen_native_cn": ("dashscope_native", DASHSCOPE.format("", "api/v1"), "DASHSCOPE_API_KEY", "qwen-plus"),
    "qwen_native_sg": ("dashscope_native", DASHSCOPE.format("-intl", "api/v1"), "DASHSCOPE_API_KEY", "qwen-plus"),
    "glm_native": ("zhipu_native", "https://open.bigmodel.cn/api/paas/v4", "ZHIPUAI_API_KEY", "glm-4"),
    "minimax_native": ("minimax_native", "https://api.minimax.chat/v1", "MINIMAX_API_KEY", "MiniMax-M2.5"),
    "minimax_anthropic": ("anthropic", "https://api.minimax.io/anthropic", "MINIMAX_API_KEY", "MiniMax-M2.5"),
    "anthropic": ("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY", "claude-3-5-sonnet-latest"),
    "gemini": (
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta",
        "GEMINI_API_KEY",
        "gemini-1.5-flash",
    ),
    "bedrock": ("bedrock", "", "", ""),
}


def test_the_presets_are_the_original_nineteen_and_everything_starts_at_ollama() -> None:
    config = accepted(PRESETS)
    presets = {
        name: (provider.kind, provider.base_url, provider.api_key_env, provider.default_model)
        for name, provider in config.providers.items()
    }
    assert presets == ORIGINAL_PRESETS
    assert {provider.kind for provider in config.providers.values()} == set(KINDS)
    assert config.providers["bedrock"].aws_bedrock == AwsSettings(region="us-east-1", cross_region="", profile="")
    assert {kind: route.targets for kind, route in config.routes.items()} == dict.fromkeys(
        ("planning", "coding", "summary"), (Target(provider="ollama", model="llama3.2"),)
    )
    assert config.warnings == ()


def test_every_key_that_the_presets_show_in_a_comment_may_be_uncommented_and_has_its_default_there() -> None:
    uncommented, times = re.subn(r"^# (?=\w+ = )", "", PRESETS, flags=re.MULTILINE)
    assert times > 10
    config, presets = accepted(uncommented), accepted(PRESETS)
    written = {name: replace(settings, adaptive=False) for name, settings in presets.providers.items()}
    assert (config.providers, config.runtime, config.http) == (written, presets.runtime, presets.http)
    planning = config.routes.pop("planning")
    assert len(planning.targets) == 3
    assert planning.thinking == "low"
    default = presets.routes.pop("planning")
    assert replace(planning, targets=default.targets, thinking=None) == default
    assert config.routes == presets.routes


ORIGINAL = """
[llm]
base_url = "http://127.0.0.1:11434/v1"
api_key_env = "OPENAI_API_KEY"
model = "gpt-4.1-mini"

[providers.bedrock]
kind = "bedrock"
base_url = ""
api_key_env = ""
default_model = ""

[providers.bedrock.aws_bedrock]
region = "eu-central-1"

[providers.ollama]
kind = "openai_compatible"
base_url = "http://127.0.0.1:11434/v1"
api_key_env = ""
default_model = "qwen3:4b"

[router.planning]
provider = "ollama"
model = "default"

[router.coding]
provider = "ollama"
model = "qwen3:32b"

[router.summary]
provider = "ollama"
model = "default"

[security.secrets]
mode = "env_first"

[security.leaks]
mode = "redact"

[[security.egress.rules]]
tool = "web_fetch"
host = "docs.rs"
path_prefix = "/"
methods = ["GET"]

[skills]
allowlist = []
require_approval = false
auto_approve_readonly = true
experimental = false
"""


def test_a_config_of_the_original_loads_unchanged_and_its_own_tables_are_named() -> None:
    config = accepted(ORIGINAL)
    assert config.routes["coding"].targets == (Target(provider="ollama", model="qwen3:32b"),)
    assert config.providers["bedrock"].aws_bedrock == AwsSettings(region="eu-central-1")
    assert config.providers["bedrock"].event_gap_timeout_s == 300
    assert [(warning.place, warning.line) for warning in config.warnings] == [
        ("llm", 2),
        ("security", 34),
        ("skills", 46),
    ]
    assert all("original" in warning.problem and warning.severity == "warning" for warning in config.warnings)


@pytest.mark.parametrize(
    ("url", "vendor", "concurrency", "first_event_s", "event_gap_s"),
    [
        ("http://127.0.0.1:11434/v1", "ollama", 2, 600, 300),
        ("http://gpu.example.com:11434/v1", "ollama", 2, 120, 60),
        ("http://localhost:8000/v1", "vllm", 8, 600, 300),
        ("http://[::1]:9999/v1", "generic", 8, 600, 300),
        ("http://0.0.0.0:1234/v1", "lmstudio", 8, 600, 300),
        ("http://192.168.1.7:8080/v1", "llamacpp", 64, 120, 60),
        ("https://api.deepseek.com", "deepseek", 64, 120, 60),
        ("https://models.example.com/v1", "generic", 64, 120, 60),
        ("https://localhost.example.com/v1", "generic", 64, 120, 60),
        ("https://notapi.openai.com.example.com/v1", "generic", 64, 120, 60),
    ],
)
def test_defaults_follow_from_where_the_base_url_leads(
    url: str, vendor: str, concurrency: int, first_event_s: float, event_gap_s: float
) -> None:
    provider = accepted(OLLAMA + f'[providers.p]\nbase_url = "{url}"\n').providers["p"]
    assert (provider.vendor, provider.max_concurrency, provider.reserve) == (vendor, concurrency, 1)
    assert (provider.first_event_timeout_s, provider.event_gap_timeout_s) == (first_event_s, event_gap_s)


def test_what_is_written_counts_more_than_what_the_base_url_suggests() -> None:
    provider = accepted(
        OLLAMA
        + '[providers.p]\nbase_url = "http://127.0.0.1:11434/v1"\nvendor = "vllm"\nmax_concurrency = 1\n'
        + "first_event_timeout_s = 5\nevent_gap_timeout_s = 2.5\n"
    ).providers["p"]
    assert (provider.vendor, provider.max_concurrency) == ("vllm", 1)
    assert provider.reserve == 0  # the only slot cannot be kept for one lane
    assert (provider.first_event_timeout_s, provider.event_gap_timeout_s) == (5, 2.5)


def test_vendors_are_those_that_the_driver_has_profiles_of_and_both_guess_alike() -> None:
    assert set(base_url.VENDORS) == set(vendors.PROFILES)
    urls = [
        *(provider[1] for provider in ORIGINAL_PRESETS.values() if provider[1]),
        *(f"https://{domain}/v1" for domain in vendors._DOMAINS),
        *(f"https://eu.{domain}/v1" for domain in vendors._DOMAINS),
        *(f"http://{host}:{port}/v1" for host in HOSTS for port in vendors._LOCAL_PORTS),
        "https://openrouter.ai/api/v1",
        "https://example.com",
    ]  # fmt: skip
    assert {url: base_url.guess_vendor(url) for url in urls} == {url: vendors.guess_vendor(url) for url in urls}


def test_lanes_follow_the_kind_unless_written() -> None:
    routes = accepted(OLLAMA + '[router.review]\n[router.coding]\nlane = "background"\n').routes
    assert {kind: route.lane for kind, route in routes.items()} == {
        "planning": "interactive",
        "coding": "background",
        "summary": "background",
        "review": "normal",
    }


def test_targets_are_the_provider_then_its_fallbacks_and_split_at_the_first_slash() -> None:
    config = accepted(
        OLLAMA
        + '[providers.router]\nbase_url = "https://openrouter.ai/api/v1"\ndefault_model = "auto"\n'
        + '[router.coding]\nmodel = "a/b"\nfallbacks = ["router", "router/x-ai/grok", "ollama/default"]\n'
    )
    assert config.routes["coding"].targets == (
        Target(provider="ollama", model="a/b"),
        Target(provider="router", model="auto"),
        Target(provider="router", model="x-ai/grok"),
        Target(provider="ollama", model="llama3.2"),
    )


def test_a_target_that_a_route_names_twice_is_tried_once_and_said() -> None:
    config = accepted(OLLAMA + '[router.coding]\nfallbacks = [\n  "ollama/x",\n  "ollama/llama3.2",\n]\n')
    assert config.routes["coding"].targets == (
        Target(provider="ollama", model="llama3.2"),
        Target(provider="ollama", model="x"),
    )
    assert ("router.coding.fallbacks[1]", 7) in {(warning.place, warning.line) for warning in config.warnings}


EVERYTHING = """
[providers.ollama]
kind = "openai_compatible"
base_url = "http://127.0.0.1:11434/v1"
api_key_env = "KEY"
default_model = "m"
vendor = "ollama"
headers = { X-Title = "t" }
extra_body = { a = [1, { b = "c" }], d = 0.5 }
context_window = 1
max_concurrency = 3
reserve = 2
max_queued = 4
max_queued_bytes = 5
requests_per_minute = 6
tokens_per_minute = 7
connect_timeout_s = 8
first_event_timeout_s = 9
event_gap_timeout_s = 10
memory_limit_mb = 111
prices = { "m.1" = { input = 0.1, output = 2, cache_read = 3, cache_write = 4 } }

[providers.aws]
kind = "bedrock"
aws_bedrock = { region = "r", cross_region = "eu", profile = "p", without_prefix = ["m"], base_models = { arn = "n" } }

[router.coding]
provider = "ollama"
model = "n"
fallbacks = ["aws/x"]
lane = "interactive"
deadline_s = 11
thinking = 12
resend = false
spill = true
park_max_s = 13
first_event_timeout_s = 14
event_gap_timeout_s = 15

[router.planning]
thinking = "off"

[runtime]
socket = "/run/x.sock"
allow_users = ["a"]
allow_groups = ["b"]
drain_s = 16
reattach_grace_s = 17
idle_worker_s = 18
max_queued_bytes = 19
journal = false
retain_days = 20
retain_mb = 21
max_request_mb = 22
max_attempts = 23

[http]
listen = "127.0.0.1:8080"
api_key_env = "HTTP_KEY"
"""


def test_every_key_there_is_reaches_the_values() -> None:
    config = accepted(EVERYTHING)
    plain: dict[str, Any] = to_plain(config, defaults=True)
    ollama = plain["providers"]["ollama"]
    assert ollama == {
        "name": "ollama",
        "kind": "openai_compatible",
        "base_url": "http://127.0.0.1:11434/v1",
        "api_key_env": "KEY",
        "default_model": "m",
        "vendor": "ollama",
        "headers": {"X-Title": "t"},
        "extra_body": {"a": [1, {"b": "c"}], "d": 0.5},
        "context_window": 1,
        "max_concurrency": 3,
        "adaptive": False,
        "reserve": 2,
        "max_queued": 4,
        "max_queued_bytes": 5,
        "requests_per_minute": 6,
        "tokens_per_minute": 7,
        "connect_timeout_s": 8,
        "first_event_timeout_s": 9,
        "event_gap_timeout_s": 10,
        "memory_limit_mb": 111,
        "prices": {"m.1": to_plain(Price(input=0.1, output=2, cache_read=3, cache_write=4), defaults=True)},
        "aws_bedrock": None,
    }
    assert config.providers["aws"].aws_bedrock == AwsSettings(
        region="r", cross_region="eu", profile="p", without_prefix=("m",), base_models={"arn": "n"}
    )
    for target in plain["routes"]["coding"]["targets"]:
        del target["lacks"]  # what the models cannot do is looked up, not written
    assert plain["routes"]["coding"] == {
        "kind": "coding",
        "targets": [{"provider": "ollama", "model": "n"}, {"provider": "aws", "model": "x"}],
        "lane": "interactive",
        "deadline_s": 11,
        "thinking": 12,
        "resend": False,
        "spill": True,
        "park_max_s": 13,
        "first_event_timeout_s": 14,
        "event_gap_timeout_s": 15,
    }
    assert config.routes["planning"].thinking == "off"
    assert plain["runtime"] == {
        "socket": "/run/x.sock",
        "allow_users": ["a"],
        "allow_groups": ["b"],
        "drain_s": 16,
        "reattach_grace_s": 17,
        "idle_worker_s": 18,
        "max_queued_bytes": 19,
        "journal": False,
        "retain_days": 20,
        "retain_mb": 21,
        "max_request_mb": 22,
        "max_attempts": 23,
    }
    assert plain["http"] == {"listen": "127.0.0.1:8080", "api_key_env": "HTTP_KEY"}


def test_every_key_is_spelled_the_same_in_the_file_and_in_the_values() -> None:
    assert set(RuntimeTable.model_fields) == set(to_plain(accepted(OLLAMA).runtime, defaults=True))
    assert set(HttpTable.model_fields) == set(to_plain(accepted(OLLAMA).http, defaults=True))
    assert set(ProviderTable.model_fields) == set(to_plain(accepted(OLLAMA).providers["ollama"], defaults=True)) - {
        "name",
        "adaptive",  # whether max_concurrency was left out
    }


def test_defaults_in_the_file_and_in_the_values_are_the_same() -> None:
    config = accepted(OLLAMA)
    assert config.runtime == type(config.runtime)()
    assert config.http == type(config.http)()
    plain = to_plain(config.routes["planning"], defaults=True)
    assert {key: plain[key] for key in ("deadline_s", "thinking", "resend", "spill", "park_max_s")} == {
        key: RouteTable.model_fields[key].default for key in ("deadline_s", "thinking", "resend", "spill", "park_max_s")
    }


def test_a_configuration_survives_the_way_out_of_the_child() -> None:
    checked = Checked(config=accepted(EVERYTHING + ORIGINAL.split("[providers", maxsplit=1)[0]))
    assert from_plain(Checked, msgpack.unpackb(msgpack.packb(to_plain(checked)))) == checked


def idle_warnings(config: Config) -> set[str]:
    return {warning.place for warning in config.warnings if warning.problem == "this key is not acted on yet"}


def test_a_key_that_nothing_acts_on_is_said_when_it_is_written_with_another_value_than_the_default() -> None:
    sections: dict[type[Table], str] = {
        ProviderTable: "providers.ollama",
        RouteTable: "router.coding",
        RuntimeTable: "runtime",
        HttpTable: "http",
    }
    expected = {f"{sections[table]}.{key}" for table, keys in NOT_ACTED_ON.items() for key in keys}
    assert idle_warnings(accepted(EVERYTHING)) == expected
    assert idle_warnings(accepted(OLLAMA + '[router.coding]\npark_max_s = 0\n[http]\nlisten = ""\n')) == set()


def test_a_route_to_a_kind_without_a_driver_is_said_and_an_unrouted_one_is_not() -> None:
    missing = next((kind for kind in KINDS if not has_driver(kind)), None)
    if missing is None:
        pytest.skip("this version has every driver")
    provider = f'[providers.p]\nkind = "{missing}"\nbase_url = "https://example.com"\ndefault_model = "m"\n'
    assert accepted(OLLAMA + provider).warnings == ()
    (warning,) = accepted(OLLAMA + provider + '[router.summary]\nprovider = "p"\n').warnings
    assert (warning.place, warning.line) == ("providers.p.kind", 5)
    assert "summary" in warning.problem
    assert "DriverMissing" in warning.problem


DEEPSEEK = '[providers.d]\nbase_url = "https://api.deepseek.com"\ndefault_model = "m"\napi_key_env = "D_KEY"\n'


def test_a_key_variable_that_is_not_set_is_said_for_providers_that_a_route_uses() -> None:
    assert accepted(OLLAMA + DEEPSEEK).warnings == ()
    routed = OLLAMA + DEEPSEEK + '[router.review]\nprovider = "d"\n'
    (warning,) = accepted(routed).warnings
    assert (warning.place, warning.line) == ("providers.d.api_key_env", 7)
    assert "D_KEY" in warning.problem
    assert "review" in warning.problem
    assert accepted(routed, {"D_KEY": "k"}).warnings == ()
    assert accepted(routed, {"D_KEY": ""}).warnings == (warning,)


def test_a_key_in_the_credentials_folder_counts_as_set(tmp_path: Path) -> None:
    routed = OLLAMA + DEEPSEEK + '[router.review]\nprovider = "d"\n'
    (tmp_path / "D_KEY").write_text("k")
    assert accepted(routed, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).warnings == ()


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("http://api.example.com/v1", True),
        ("http://8.8.8.8/v1", True),
        ("http://[2606:4700::1]/v1", True),
        ("https://api.example.com/v1", False),
        ("http://10.0.0.3/v1", False),
        ("http://gpu.lan/v1", False),
        ("http://ollama:11434/v1", False),
    ],
)
def test_a_key_that_would_cross_the_network_unencrypted_is_said(url: str, exposed: bool) -> None:
    config = accepted(OLLAMA + f'[providers.p]\nbase_url = "{url}"\napi_key_env = "K"\n')
    assert ["unencrypted" in warning.problem for warning in config.warnings] == [True] * exposed
    assert accepted(OLLAMA + f'[providers.p]\nbase_url = "{url}"\n').warnings == ()


def test_a_base_url_that_goes_on_to_the_request_is_said() -> None:
    (warning,) = accepted(OLLAMA + '[providers.p]\nbase_url = "https://h.example/v1/chat/completions"\n').warnings
    assert warning.place == "providers.p.base_url"


def test_aws_settings_on_another_kind_are_said() -> None:
    (warning,) = accepted(OLLAMA + "aws_bedrock = {}\n").warnings
    assert warning.place == "providers.ollama.aws_bedrock"


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    assert accepted(PRESETS.replace("\n", "\r\n")) == accepted(PRESETS)
    assert accepted(PRESETS).path == str(FILE)


def test_the_largest_turn_that_may_be_configured_fits_a_frame() -> None:
    largest = accepted(OLLAMA + f"[runtime]\nmax_request_mb = {MAX_REQUEST_MB}\n").runtime.max_request_mb
    assert largest << 20 < MAX_FRAME_BYTES


def test_only_a_local_server_whose_slots_nobody_wrote_down_is_found_out_about() -> None:
    providers = accepted(OLLAMA + DEEPSEEK).providers
    assert {name: settings.adaptive for name, settings in providers.items()} == {"ollama": True, "d": False}
    assert not accepted(OLLAMA + "max_concurrency = 2\n").providers["ollama"].adaptive

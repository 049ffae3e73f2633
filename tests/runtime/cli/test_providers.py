"""loopforge providers list, show, smoke: as a person runs them. What a smoke finds out: tests/runtime/smoke/."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopforge.drivers.registry import has_driver
from loopforge.runtime.cli import providers as module
from loopforge.runtime.smoke.cases import CASES
from tests.runtime.cli.running import environment, loopforge, loopforge_here, succeed
from tests.runtime.cli.service import Simulator, open_simulator, write_config
from tests.runtime.smoke.playing import presets

KEY = "sk-of-nobody-0123456789"

ACME = """
[providers.acme]
base_url = "https://api.acme.invalid/v1"
api_key_env = "ACME_KEY"
default_model = "large"
vendor = "mistral"
headers = { X-Team = "secret-team" }
requests_per_minute = 90
[providers.aws]
kind = "bedrock"
[providers.aws.aws_bedrock]
region = "eu-central-1"
[router]
planning = { provider = "acme", fallbacks = ["aws/claude"] }
coding = { provider = "acme", model = "small" }
summary = { provider = "acme" }
"""


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(ACME)
    return tmp_path


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


# ---- list, show ------------------------------------------------------------------------------------------------------


def test_list_shows_the_presets_when_nobody_has_written_a_file(tmp_path: Path) -> None:
    lines = succeed(tmp_path, "providers", "list").splitlines()
    shown = {line[2:].split()[0]: line for line in lines[1 : len(presets()) + 1]}
    assert shown.keys() == presets().keys()
    assert shown["ollama"].startswith("* ")
    assert "DEEPSEEK_API_KEY (not set)" in shown["deepseek"]
    for name, line in shown.items():
        assert ("(missing)" in line) is not has_driver(presets()[name].kind)


def test_list_as_json_tells_what_show_tells_of_each(acme: Path) -> None:
    listed = json.loads(loopforge_here(acme, "providers", "list", "--json").stdout)
    assert listed["config"] == str(acme / "config.toml")
    shown = [json.loads(loopforge_here(acme, "providers", "show", name, "--json").stdout) for name in ("acme", "aws")]
    assert listed["providers"] == shown


def test_show_tells_everything_but_the_key_and_what_is_behind_headers(acme: Path) -> None:
    text = loopforge_here(acme, "providers", "show", "acme", env={"ACME_KEY": KEY}).stdout
    said = dict(line.split(maxsplit=1) for line in text.splitlines() if not line.startswith(" "))
    assert said == {
        "provider": "acme",
        "kind": "openai_compatible",
        "vendor": "mistral",
        "address": "https://api.acme.invalid/v1",
        "key": "ACME_KEY, set",
        "model": "large; smoke tests take LOOPFORGE_ACME_MODEL first",
        "headers": "X-Team",
        "slots": "64, of which 1 for the interactive lane",
        "queue": "1000 turns, 64 MB",
        "rate": "90 requests a minute, any number of tokens a minute",
        "patience": "10 s to connect, 120 s to the first event, 60 s between two",
        "routes": "planning to large; coding to small; summary to large",
        "next": "ask it for real, which costs a few tokens: loopforge providers smoke acme",
    }
    assert KEY not in text
    assert "secret-team" not in text


def test_show_as_json_is_for_programs(acme: Path) -> None:
    run = loopforge_here(acme, "providers", "show", "acme", "--json")
    told = json.loads(run.stdout)
    assert told["key"] == {"variable": "ACME_KEY", "state": "not set"}
    assert told["routes"][0] == {"kind": "planning", "model": "large", "fallback": 0}
    assert told["limits"]["requests_per_minute"] == 90
    assert told["driver"] is True
    assert told["next_steps"][0] == "set its key where the service runs: export ACME_KEY=…"


def test_show_of_bedrock_tells_its_region_and_that_a_model_is_missing(acme: Path) -> None:
    told = json.loads(loopforge_here(acme, "providers", "show", "aws", "--json").stdout)
    assert told["aws"]["region"] == "eu-central-1"
    assert told["routes"] == [{"kind": "planning", "model": "claude", "fallback": 1}]
    assert 'name a model: default_model = "MODEL" under [providers.aws]' in told["next_steps"]
    text = loopforge_here(acme, "providers", "show", "aws").stdout
    assert "AWS credentials: variables, profile or role" in text
    assert "planning to claude (fallback 1)" in text


@pytest.mark.parametrize("command", ["show", "smoke"])
def test_a_provider_that_is_not_there_is_wrong_usage(acme: Path, command: str) -> None:
    run = loopforge_here(acme, "providers", command, "acm")
    assert run.returncode == 2
    assert "There is no provider 'acm'" in run.stderr
    assert "did you mean acme?" in run.stderr


@pytest.mark.parametrize("command", [["list"], ["show", "acme"], ["smoke", "acme"]])
def test_a_broken_configuration_ends_with_78(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "config.toml").write_text("[providers.acme]\nkind = 3\n")
    run = loopforge_here(tmp_path, "providers", *command)
    assert run.returncode == 78
    assert "config.toml:2: error: providers.acme.kind" in run.stderr


# ---- smoke -----------------------------------------------------------------------------------------------------------


def test_the_cases_on_the_command_line_are_those_there_are() -> None:
    assert module.CASES == CASES


def test_smoke_asks_three_times_and_says_how_it_went(tmp_path: Path, simulator: Simulator) -> None:
    write_config(tmp_path, simulator)
    run = loopforge(tmp_path, "providers", "smoke", "quick")
    assert (run.returncode, run.stderr) == (0, "")
    first, *cases, last = run.stdout.splitlines()
    assert first == "asking quick for m: text, stream, tool"
    assert [line.split()[:2] for line in cases] == [["ok", "text"], ["ok", "stream"], ["ok", "tool"]]
    assert last == "quick: 3 of 3 cases ok"


def test_smoke_as_json_asks_for_the_model_and_the_cases_it_is_told(tmp_path: Path, simulator: Simulator) -> None:
    write_config(tmp_path, simulator)
    before = simulator.stats("brief")["requests"]
    arguments = ["--model", "fault-401", "--case", "stream", "--json"]
    run = loopforge(tmp_path, "providers", "smoke", "brief", *arguments)
    assert run.returncode == 1
    told = json.loads(run.stdout)
    assert (told["name"], told["model"], told["status"]) == ("brief", "fault-401", "failed")
    (case,) = told["cases"]
    assert (case["case"], case["error"]) == ("stream", "CredentialsRejected")
    assert case["next_step"]
    assert simulator.stats("brief")["requests"] == before + 1


def test_smoke_of_a_provider_without_its_key_asks_nobody(acme: Path) -> None:
    run = loopforge_here(acme, "providers", "smoke", "acme")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "Error: acme cannot be asked: ACME_KEY is not set here; export ACME_KEY=…\n"


# ---- what is loaded --------------------------------------------------------------------------------------------------


def test_asking_the_service_for_a_report_loads_no_loop_no_http_and_no_pydantic(tmp_path: Path) -> None:
    code = (
        "import sys; from loopforge.runtime.cli.frame import run; run(['providers', 'report']); "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'trio', 'httpx2', 'pydantic', 'rich', 'tomli'}))"
    )
    made = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert made.stdout == "[]\n"
    assert "No service is running" in made.stderr

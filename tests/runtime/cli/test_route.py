"""loopforge route show, set: nothing is written unless everything that was asked for is well, and it can be undone."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from loopforge.runtime.config.paths import PRESETS
from tests.fakes.tcp import closed_port
from tests.runtime.cli.running import loopforge, loopforge_here, succeed
from tests.runtime.cli.service import open_service, open_simulator, write_config
from tests.runtime.config.checking import accepted

PLANNING = '[router.planning]              # lane "interactive": goes first'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The presets, as loopforge init writes them, in a home of their own."""
    tmp_path.chmod(0o700)
    path = tmp_path / "config.toml"
    path.write_bytes(PRESETS.read_bytes())
    path.chmod(0o600)
    return path


def beside(config: Path) -> set[str]:
    return {path.name for path in config.parent.iterdir()}


def goes_to(config: Path, kind: str = "planning") -> str:
    target = accepted(config.read_text()).routes[kind].targets[0]
    return f"{target.provider}/{target.model}"


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_gives_every_kind_and_where_its_turns_go(config: Path) -> None:
    assert [line.split() for line in succeed(config.parent, "route", "show").splitlines()] == [
        ["KIND", "OF", "TASK", "LANE", "DEADLINE", "GOES", "TO"],
        ["planning", "interactive", "1800", "s", "ollama/llama3.2"],
        ["coding", "normal", "1800", "s", "ollama/llama3.2"],
        ["summary", "background", "1800", "s", "ollama/llama3.2"],
    ]


def test_show_works_before_there_is_a_file_and_says_so(tmp_path: Path) -> None:
    shown = succeed(tmp_path, "route", "show", "coding")
    assert "ollama/llama3.2" in shown
    assert f"there is no {tmp_path}/config.toml yet" in shown


def test_json_is_the_routes_with_every_default_filled_in(config: Path) -> None:
    shown = json.loads(succeed(config.parent, "route", "show", "coding", "--json"))
    assert (shown["path"], list(shown["router"])) == (str(config), ["coding"])
    (target,) = shown["router"]["coding"]["targets"]
    assert target == {"provider": "ollama", "model": "llama3.2", "lacks": ["new audio", "new documents"]}
    assert shown["router"]["coding"]["lane"] == "normal"


def test_a_kind_that_is_not_there_is_wrong_usage(config: Path) -> None:
    run = loopforge_here(config.parent, "route", "show", "codng")
    assert (run.returncode, "did you mean coding?" in run.stderr) == (2, True)


# -- set -------------------------------------------------------------------------------------------------------------


def test_set_changes_the_route_keeps_everything_else_and_says_how_to_undo_it(config: Path) -> None:
    before = config.read_text()
    told = loopforge(config.parent, "route", "set", "planning", "anthropic/claude-x", env={"ANTHROPIC_API_KEY": "k"})
    assert (told.returncode, told.stderr) == (0, "")
    said, undo = told.stdout.splitlines()
    assert said == "planning goes to anthropic/claude-x now (was ollama/llama3.2)."
    after = config.read_text()
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [line.split("#")[0].strip() for line in changed] == ['provider = "anthropic"', 'model = "claude-x"']
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert beside(config) == {"config.toml", "config.toml.bak"}

    subprocess.run(shlex.split(undo.removeprefix("Undo: ")), check=True)
    assert config.read_text() == before


def test_what_the_new_route_lacks_is_said_and_is_no_reason_not_to_write_it(config: Path) -> None:
    run = loopforge_here(config.parent, "route", "set", "planning", "deepseek")
    assert run.returncode == 0
    assert "warning: providers.deepseek.api_key_env: the variable DEEPSEEK_API_KEY is not set here" in run.stdout


def test_a_new_kind_is_made_when_asked_for_and_setting_it_again_writes_nothing(config: Path) -> None:
    run = loopforge_here(config.parent, "route", "set", "review", "ollama/big", "--new")
    assert (run.returncode, run.stdout.splitlines()[0]) == (0, "review goes to ollama/big now.")
    assert goes_to(config, "review") == "ollama/big"
    run = loopforge_here(config.parent, "route", "set", "review", "ollama/big")
    assert (run.returncode, run.stdout) == (0, "review goes to ollama/big already; nothing was written.\n")
    assert beside(config) == {"config.toml", "config.toml.bak"}


@pytest.mark.parametrize("target", ["/m", "ollama/", "ollama/ "])
def test_a_target_without_a_name_is_wrong_usage(config: Path, target: str) -> None:
    run = loopforge_here(config.parent, "route", "set", "planning", target)
    assert (run.returncode, f"{target!r} is not PROVIDER or PROVIDER/MODEL." in run.stderr) == (2, True)


def test_a_change_that_would_break_the_configuration_is_not_made(config: Path) -> None:
    before = config.read_bytes()
    run = loopforge_here(config.parent, "route", "set", "planning", "bedrock")
    assert (run.returncode, run.stdout) == (78, "")
    assert f'{config}:15: error: router.planning.model: "default" means default_model of' in run.stderr
    assert run.stderr.endswith("it stays as it was\n")
    assert (config.read_bytes(), beside(config)) == (before, {"config.toml"})


# -- checks before it is written -------------------------------------------------------------------------------------


def configure(home: Path, base_url: str, provider: str = "quick") -> Path:
    home.chmod(0o700)
    path = home / "config.toml"
    path.write_text(
        '[providers.ollama]\nbase_url = "http://127.0.0.1:9/v1"\ndefault_model = "m"\n'
        f'[providers.cloud] # mine\nbase_url = "{base_url}/{provider}/v1"\n'
        'api_key_env = "CLOUD_KEY"\ndefault_model = "m"\n'
    )
    return path


def test_check_looks_rehearses_and_writes(tmp_path: Path) -> None:
    with open_simulator(tmp_path) as simulator:
        config = configure(tmp_path, simulator.url)
        run = loopforge(tmp_path, "route", "set", "planning", "cloud", "--check", env={"CLOUD_KEY": "k"})
        assert simulator.stats("quick")["requests"] <= 1  # HEAD alone: no turn was sent
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert "  ok     cloud: CLOUD_KEY is set" in run.stdout
    assert "Rehearsed: a planning turn at a simulated cloud was answered in " in run.stdout
    assert goes_to(config) == "cloud/m"


def test_check_writes_nothing_when_the_provider_cannot_serve(tmp_path: Path) -> None:
    config = configure(tmp_path, f"http://127.0.0.1:{closed_port()}")
    before = config.read_bytes()
    for env, told in [({}, "CLOUD_KEY is not set"), ({"CLOUD_KEY": "k"}, "nobody listens on 127.0.0.1:")]:
        run = loopforge_here(tmp_path, "route", "set", "planning", "cloud", "--check", env=env)
        assert run.returncode == 1
        assert told in run.stdout
        assert run.stderr.endswith("see above; the configuration stays as it was\n")
        assert "Rehearsed" not in run.stdout
        assert (config.read_bytes(), beside(config)) == (before, {"config.toml"})


def test_smoke_sends_one_real_turn_and_a_failure_of_it_changes_nothing(tmp_path: Path) -> None:
    env = {"CLOUD_KEY": "k"}
    with open_simulator(tmp_path) as simulator:
        config = configure(tmp_path, simulator.url)
        run = loopforge(tmp_path, "route", "set", "planning", "cloud", "--smoke", env=env)
        assert run.returncode == 0, run.stderr
        assert simulator.stats("quick")["requests"] in (1, 2)  # a simulator may count HEAD
        assert "Sending cloud/m one real turn …\nAnswered in " in run.stdout
        assert goes_to(config) == "cloud/m"

        config = configure(tmp_path, simulator.url, "nobody")
        before = config.read_bytes()
        run = loopforge(tmp_path, "route", "set", "planning", "cloud", "--smoke", env=env)
        assert run.returncode == 1, run.stdout
        assert "the real turn was failed: " in run.stderr
        assert config.read_bytes() == before


def test_a_running_service_that_goes_by_the_old_file_is_mentioned(tmp_path: Path) -> None:
    with open_simulator(tmp_path) as simulator:
        write_config(tmp_path, simulator).chmod(0o600)
        with open_service(tmp_path):
            run = loopforge_here(tmp_path, "route", "set", "planning", "slow")
            assert run.stdout.endswith("let it read this one: loopforge reload\n")

"""loopforge config validate, show, path: as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loopforge.drivers.registry import KINDS, has_driver
from tests.runtime.cli.running import loopforge_here, succeed
from tests.runtime.config.checking import OLLAMA

SECRET = "hunter2"


def write(home: Path, text: str) -> Path:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)
    return home / "config.toml"


def test_path_is_where_the_file_is_or_would_be(tmp_path: Path) -> None:
    assert succeed(tmp_path, "config", "path") == f"{tmp_path}/config.toml\n"
    assert succeed(tmp_path, "config", "path", "--config", "/etc/x.toml") == "/etc/x.toml\n"


def test_validate_tells_every_mistake_and_ends_with_78(tmp_path: Path) -> None:
    path = write(tmp_path, OLLAMA + '[router.coding]\nprovider = "olama"\nlane = "fast"\n')
    run = loopforge_here(tmp_path, "config", "validate")
    assert run.returncode == 78
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        f'{path}:5: error: router.coding.provider: there is no provider "olama"; did you mean "ollama"?',
        f'{path}:6: error: router.coding.lane: "fast" is not a lane; known here: interactive, normal, background',
        f"{path}: 2 errors",
    ]


def test_validate_tells_warnings_and_is_content(tmp_path: Path) -> None:
    path = write(tmp_path, OLLAMA + '[skills]\n[http]\nlisten = "127.0.0.1:8080"\n')
    assert succeed(tmp_path, "config", "validate").splitlines() == [
        f"{path}:4: warning: skills: this table of the original LoopForge is not read here; it may stay",
        f"{path}:6: warning: http.listen: this key is not acted on yet; there is no HTTP ingress",
        f"{path}: valid, 1 provider, 3 kinds of task, 2 warnings",
    ]


def test_validate_as_json_is_for_programs(tmp_path: Path) -> None:
    path = write(tmp_path, "[providers.ollama]\nmax_queued = 'many'\n")
    run = loopforge_here(tmp_path, "config", "validate", "--json")
    assert (run.returncode, run.stderr) == (78, "")
    report = json.loads(run.stdout)
    assert (report["path"], report["valid"]) == (str(path), False)
    assert report["problems"][-1] == {
        "file": str(path),
        "line": 2,
        "place": "providers.ollama.max_queued",
        "problem": '"many" is text, not a whole number',
        "suggestion": "write, for example, max_queued = 1000",
        "severity": "error",
    }

    write(tmp_path, OLLAMA + "[llm]\n")
    report = json.loads(loopforge_here(tmp_path, "config", "validate", "--json").stdout)
    assert report["valid"] is True
    assert [problem["severity"] for problem in report["problems"]] == ["warning"]


@pytest.mark.parametrize("command", ["validate", "show"])
def test_a_file_that_is_not_there_ends_with_78_and_says_how_to_get_one(tmp_path: Path, command: str) -> None:
    run = loopforge_here(tmp_path, "config", command)
    assert run.returncode == 78
    assert "loopforge init" in run.stdout + run.stderr
    run = loopforge_here(tmp_path, "config", command, "--config", "/no/such.toml")
    assert run.returncode == 78
    assert "/no/such.toml" in run.stdout + run.stderr


def test_show_refuses_what_validate_refuses(tmp_path: Path) -> None:
    write(tmp_path, "x = 1\n")
    run = loopforge_here(tmp_path, "config", "show", "--json")
    assert (run.returncode, run.stdout) == (78, "")
    assert ":1: error: x: " in run.stderr


def test_show_gives_routes_providers_and_the_state_of_keys(tmp_path: Path) -> None:
    succeed(tmp_path, "init")
    shown = succeed(tmp_path, "config", "show", env={"DEEPSEEK_API_KEY": SECRET})
    lines = [line.split() for line in shown.splitlines()]
    assert ["planning", "interactive", "1800", "s", "ollama/llama3.2"] in lines
    assert ["socket", f"{tmp_path}/run/loopforge.sock"] in lines
    ollama = next(line for line in lines if line[:2] == ["*", "ollama"])
    assert ollama[2:] == ["openai_compatible", "2", "-", "http://127.0.0.1:11434/v1", "llama3.2"]
    assert "DEEPSEEK_API_KEY (set)" in shown
    assert "MOONSHOT_API_KEY (not set)" in shown
    assert "region us-east-1" in shown
    assert SECRET not in shown


def test_show_as_json_has_every_default_filled_in(tmp_path: Path) -> None:
    succeed(tmp_path, "init")
    shown = json.loads(succeed(tmp_path, "config", "show", "--json", env={"DEEPSEEK_API_KEY": SECRET}))
    assert list(shown["router"]) == ["planning", "coding", "summary"]
    assert shown["router"]["summary"]["lane"] == "background"
    assert len(shown["providers"]) == 19
    assert shown["providers"]["ollama"]["first_event_timeout_s"] == 600
    assert shown["runtime"]["socket"] == f"{tmp_path}/run/loopforge.sock"
    assert shown["http"] == {"listen": "", "api_key_env": ""}
    assert shown["keys"]["deepseek"] == {"variable": "DEEPSEEK_API_KEY", "state": "set"}
    assert shown["keys"]["ollama"] == {"variable": "", "state": "not needed"}
    assert shown["warnings"] == []


def test_show_never_shows_what_may_be_a_key(tmp_path: Path) -> None:
    write(
        tmp_path,
        OLLAMA
        + f'api_key_env = "A_KEY"\nheaders = {{ X-Team = "{SECRET}" }}\n'
        + f'extra_body = {{ user = "me", auth = {{ token = "{SECRET}" }}, api_keys = ["{SECRET}"] }}\n',
    )
    for arguments, told in [
        ([], "A_KEY (set)"),
        (["--json"], '"user": "me"'),
        (["providers.ollama"], '"user": "me"'),
        (["providers.ollama", "--json"], '"user": "me"'),
    ]:
        run = loopforge_here(tmp_path, "config", "show", *arguments, env={"A_KEY": SECRET})
        assert (run.returncode, run.stderr) == (0, "")
        assert told in run.stdout
        assert SECRET not in run.stdout


def test_show_gives_one_table_whole(tmp_path: Path) -> None:
    write(tmp_path, OLLAMA)
    shown = succeed(tmp_path, "config", "show", "providers.ollama").splitlines()
    assert "max_concurrency = 2" in shown
    assert 'base_url = "http://127.0.0.1:11434/v1"' in shown
    shown_json = loopforge_here(tmp_path, "config", "show", "router.planning", "--json").stdout
    assert json.loads(shown_json)["lane"] == "interactive"
    assert "max_attempts = 4" in loopforge_here(tmp_path, "config", "show", "runtime").stdout


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("providers.olama", "providers.ollama"),
        ("router.codng", "router.coding"),
        ("nothing", "providers.NAME"),
        ("runtime.socket", "runtime"),
        ("providers", "providers.ollama"),
    ],
)
def test_a_place_that_is_not_there_is_wrong_usage(tmp_path: Path, place: str, told: str) -> None:
    write(tmp_path, OLLAMA)
    run = loopforge_here(tmp_path, "config", "show", place)
    assert (run.returncode, run.stdout) == (2, "")
    assert told in run.stderr


def test_a_home_too_deep_for_a_socket_is_told_as_bad_configuration(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    write(deep, OLLAMA)
    run = loopforge_here(deep, "config", "show")
    assert run.returncode == 78
    assert "LOOPFORGE_SOCKET" in run.stderr
    assert "socket  /tmp/s\n" in loopforge_here(deep, "config", "show", env={"LOOPFORGE_SOCKET": "/tmp/s"}).stdout


def test_a_kind_without_a_driver_is_marked(tmp_path: Path) -> None:
    write(
        tmp_path, OLLAMA + "".join(f'[providers.{kind}]\nkind = "{kind}"\nbase_url = "https://h"\n' for kind in KINDS)
    )
    shown = loopforge_here(tmp_path, "config", "show").stdout
    assert {kind for kind in KINDS if f"{kind} (missing)" in shown} == {kind for kind in KINDS if not has_driver(kind)}

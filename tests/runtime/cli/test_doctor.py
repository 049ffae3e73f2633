"""loopforge doctor, as a person and a program call it. What it finds out is tested in tests/runtime/doctor/."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fakes.ollama import open_ollama
from tests.fakes.tcp import closed_port
from tests.runtime.cli.running import environment, loopforge, loopforge_here
from tests.runtime.cli.service import Process, open_service, open_simulator, write_config

KEY = "sk-0123456789abcdef"
NO_OLLAMA = {"PATH": os.defpath}


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A home folder that is not there yet."""
    return tmp_path / "home"


def configure(home: Path, base_url: str, extra: str = "") -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    path = home / "config.toml"
    path.write_text(f'[providers.ollama]\nbase_url = "{base_url}"\nvendor = "ollama"\ndefault_model = "m"\n{extra}')
    path.chmod(0o600)


def document(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> dict[str, object]:
    run = loopforge_here(home, "doctor", "--json", *arguments, env=env)
    assert run.stderr == ""
    told: dict[str, object] = json.loads(run.stdout)
    return told


def test_a_newcomer_is_told_what_to_do_in_order(fresh: Path) -> None:
    if shutil.which("ollama", path=os.defpath):
        pytest.skip("Ollama is installed here")
    run = loopforge(fresh, "doctor", env=NO_OLLAMA)
    assert (run.returncode, run.stderr) == (1, "")
    assert f"there is no {fresh}/config.toml yet, so the presets count" in run.stdout
    assert run.stdout.splitlines()[-5:] == [
        *[line for line in run.stdout.splitlines() if line.endswith("Next:")],
        "  1. write a configuration to edit: loopforge init",
        "  2. install Ollama from https://ollama.com/download, then ollama pull llama3.2",
        "  3. or use a cloud provider: set its key variable, then loopforge route set planning NAME --check",
        "  4. then look again: loopforge doctor",
    ]
    assert not fresh.exists()  # it looks and changes nothing


def test_a_machine_that_is_well_ends_with_0_and_a_turn_to_send(fresh: Path) -> None:
    with open_ollama(["m:latest"]) as base_url:
        configure(fresh, base_url)
        run = loopforge_here(fresh, "doctor")
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert "  ok     ollama: m is pulled" in run.stdout
    assert run.stdout.endswith("  1. send a turn: loopforge ask hello\n")


def test_warnings_fail_only_when_asked_to(fresh: Path) -> None:
    with open_ollama(["m:latest"]) as base_url:
        configure(fresh, base_url, "[llm]\n")
        assert loopforge_here(fresh, "doctor").returncode == 0
        assert loopforge_here(fresh, "doctor", "--strict").returncode == 1


def test_an_error_ends_with_1_and_a_broken_configuration_with_78(fresh: Path) -> None:
    with open_ollama(["other:latest"]) as base_url:
        configure(fresh, base_url)
        run = loopforge_here(fresh, "doctor")
        assert (run.returncode, "ollama pull m" in run.stdout) == (1, True)
    configure(fresh, "htp://nowhere")
    run = loopforge_here(fresh, "doctor")
    assert (run.returncode, run.stderr) == (78, "")
    assert f"{fresh}/config.toml:2: providers.ollama.base_url: " in run.stdout
    assert loopforge_here(fresh, "doctor", "--config", "/no/such.toml").returncode == 78


def test_json_has_summary_checks_and_next_actions(fresh: Path) -> None:
    with open_ollama([]) as base_url:
        configure(fresh, base_url)
        told = document(fresh)
    assert list(told) == ["summary", "checks", "next_actions"]
    assert isinstance(told["checks"], list)
    assert {tuple(check) for check in told["checks"]} == {("check", "subject", "status", "message", "next_step")}
    assert told["summary"] | {"took_s": 0, "ok": 0} == {  # type: ignore[operator]  # it is a table
        "status": "error", "ok": 0, "warn": 0, "error": 1, "config": f"{fresh}/config.toml", "took_s": 0,
        "version": told["summary"]["version"],  # type: ignore[index]  # as above
    }  # fmt: skip
    host = base_url.removeprefix("http://").removesuffix("/v1")
    assert told["next_actions"][0] == f"OLLAMA_HOST={host} ollama pull m"  # type: ignore[index]  # it is a list


def test_a_missing_key_is_an_error_only_where_a_route_needs_it_and_no_key_is_shown(fresh: Path) -> None:
    extra = (
        f'[providers.near]\nbase_url = "http://127.0.0.1:{closed_port()}/v1"\napi_key_env = "NEAR_KEY"\n'
        'default_model = "m"\n[providers.idle]\nbase_url = "https://idle.invalid"\napi_key_env = "IDLE_KEY"\n'
        '[router.planning]\nprovider = "near"\n'
    )
    with open_ollama(["m:latest"]) as base_url:
        configure(fresh, base_url, extra)
        without, having = document(fresh), loopforge_here(fresh, "doctor", "--json", env={"NEAR_KEY": KEY})
    assert "NEAR_KEY is not set, and planning turns go to near" in json.dumps(without)
    assert "IDLE_KEY" not in json.dumps(without)
    assert "NEAR_KEY is set" in having.stdout
    assert KEY not in having.stdout


def test_a_server_that_says_nothing_costs_no_more_than_the_timeout(fresh: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        configure(fresh, f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        told = document(fresh, "--timeout-ms", "700")
    assert "no end of the answer within 0.7 s" in json.dumps(told)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1e9"])
def test_a_timeout_that_is_none_is_wrong_usage(fresh: Path, value: str) -> None:
    run = loopforge_here(fresh, "doctor", "--timeout-ms", value)
    assert (run.returncode, run.stdout) == (2, "")


def test_a_running_service_is_told_what_it_has_not_read_and_one_that_left_its_socket(
    fresh: Path, tmp_path: Path
) -> None:
    fresh.mkdir(mode=0o700)
    with open_simulator(tmp_path) as simulator:
        write_config(fresh, simulator).chmod(0o600)
        with open_service(fresh) as service:
            run = loopforge(fresh, "doctor")
            assert f"runs as process {service.process.pid} on {fresh}/run/loopforge.sock" in run.stdout
            assert run.returncode == 0, run.stdout

            loopforge(fresh, "route", "set", "coding", "brief")
            run = loopforge(fresh, "doctor")
            step = "loopforge reload"
            assert f"-> let it read the file again: {step}\n" in run.stdout
            assert "since it was changed: router.coding\n" in run.stdout
            service.stop(signal.SIGHUP)
            service.process.wait_for("reloaded")
            assert step not in loopforge(fresh, "doctor").stdout

            service.process.popen.kill()
            service.process.wait()
        run = loopforge(fresh, "doctor")
        assert f"nobody listens on {fresh}/run/loopforge.sock" in run.stdout
        assert run.stdout.splitlines()[-2].endswith("start the service again: loopforge serve")


def test_what_others_wrote_cannot_steer_the_terminal(fresh: Path) -> None:
    with open_ollama(["\x1b]52;c;aGk=\x07evil"]) as base_url:
        configure(fresh, base_url)
        process = Process(
            [sys.executable, "-m", "loopforge.runtime", "doctor"], environment(fresh, {"TERM": "xterm"}), terminal=True
        )
        try:
            assert process.wait() == 1
        finally:
            process.close()
    assert "\x1b]52" not in process.out
    assert "evil" in process.out
    assert "\x1b[31m" in process.out  # the colour of an error


def test_colour_is_left_out_where_nobody_wants_it(fresh: Path) -> None:
    process = Process(
        [sys.executable, "-m", "loopforge.runtime", "doctor"], environment(fresh, {"NO_COLOR": "1"}), terminal=True
    )
    try:
        process.wait()
    finally:
        process.close()
    assert "\x1b[" not in process.out


def test_the_command_loads_no_driver_no_http_client_and_no_aws(fresh: Path) -> None:
    code = (
        "import sys; from loopforge.runtime.cli.frame import run; run(['doctor', '--json']);"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(fresh), stdin=subprocess.DEVNULL
    )
    loaded = set(eval(run.stderr))  # noqa: S307 - a list of names, printed by the line above
    assert "loopforge.runtime.doctor.run" in loaded
    assert not {"httpx2", "pydantic", "botocore", "aiobotocore", "tomlkit", "rich"} & {
        name.partition(".")[0] for name in loaded
    }
    assert not {name for name in loaded if name.startswith("loopforge.drivers.openai")}

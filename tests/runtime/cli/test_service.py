"""loopforge serve, status and cancel: a real service as a person starts, watches and stops it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.cli.running import LOOPFORGE, environment, loopforge
from tests.runtime.cli.service import (
    Process,
    Simulator,
    asking,
    events_of,
    open_service,
    open_simulator,
    wait_until,
    write_config,
)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
def home(simulator: Simulator, tmp_path: Path) -> Path:
    write_config(tmp_path, simulator, "[runtime]\ndrain_s = 20\n")
    return tmp_path


def test_status_shows_a_running_turn_and_cancel_ends_it_from_another_terminal(home: Path) -> None:
    with open_service(home) as service, asking(home, "--model", "slow", "--id", "story", "--json", "hi") as ask:
        ask.wait_for('"text"')
        shown = loopforge(home, "status")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert f"pid {service.process.pid}" in shown.stdout
        lines = shown.stdout.splitlines()
        row = next(line for line in lines if line.startswith("slow "))
        assert row.split()[:3] == ["slow", "ready", str(service.provider("slow")["pid"])]
        assert "1/8" in row
        turn = next(line for line in lines if line.startswith("story "))
        assert turn.split()[1:5] == ["planning", "running", "slow/m", "interactive"]
        cancelled = loopforge(home, "cancel", "story")
        assert (cancelled.returncode, cancelled.stdout) == (0, "story is cancelled\n")
        assert ask.wait() == 1
        assert events_of(ask.out)[-1] == {"event": "cancelled", "why": "cancelled with 'loopforge cancel'"}
        again = loopforge(home, "cancel", "story")
        assert (again.returncode, again.stdout) == (0, "story had ended already\n")
        strange = loopforge(home, "cancel", "stroy")
        assert (strange.returncode, strange.stdout) == (1, "")
        assert strange.stderr.startswith("Error: there is no turn with the id 'stroy'; ")


def test_sigterm_lets_the_running_turn_end_and_takes_no_new_one(home: Path) -> None:
    with open_service(home) as service, asking(home, "--model", "brief", "--json", "hi") as ask:
        ask.wait_for('"text"')
        service.stop()
        service.process.wait_for("draining")
        assert service.status()["draining"]
        refused = loopforge(home, "ask", "hi", "--json")
        assert (refused.returncode, events_of(refused.stdout)[-1]["class"]) == (75, "Draining")
        assert ask.wait() == 0
        assert service.process.wait() == 0
        assert "stopped" in service.process.err
        assert not (home / "run" / "loopforge.sock").exists()


def test_sigterm_to_the_whole_group_is_the_services_alone(home: Path) -> None:
    """As timeout(1), terminals and process managers send it."""
    with open_service(home) as service, asking(home, "--model", "brief", "--json", "hi") as ask:
        ask.wait_for('"text"')
        os.killpg(service.process.pid, signal.SIGTERM)
        assert ask.wait() == 0
        assert events_of(ask.out)[-1]["reply"]["attempts"] == 1
        assert service.process.wait() == 0
    said = service.process.err
    assert [word for word in ("died", "is replaced", "stopping now", "WARNING", "ERROR") if word in said] == []


def test_sigterm_to_each_process_of_the_service_lets_the_running_turn_end(home: Path) -> None:
    """As systemd sends it to a control group."""
    with open_service(home) as service, asking(home, "--model", "brief", "--json", "hi") as ask:
        ask.wait_for('"text"')
        for pid in (service.process.pid, *(row["pid"] for row in service.status()["providers"] if row["pid"])):
            os.kill(pid, signal.SIGTERM)
        assert ask.wait() == 0
        assert events_of(ask.out)[-1]["reply"]["attempts"] == 1
        assert service.process.wait() == 0
    assert "died" not in service.process.err


def test_sigint_to_the_whole_group_stops_the_service_and_no_worker_says_a_word(home: Path) -> None:
    with open_service(home) as service, asking(home, "--model", "slow", "--json", "hi") as ask:
        ask.wait_for('"text"')
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait() == 0
    assert "SIGINT: stopping now" in service.process.err
    assert [word for word in ("died", "is replaced", "Traceback") if word in service.process.err] == []


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)], ids=["twice", "sigint"])
def test_a_second_sigterm_or_sigint_stops_now_and_running_turns_are_told(
    simulator: Simulator, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    write_config(tmp_path, simulator, "[runtime]\ndrain_s = 20\njournal = false\n")
    with open_service(tmp_path) as service, asking(tmp_path, "--model", "slow", "--json", "hi") as ask:
        ask.wait_for('"text"')
        for number, word in zip(signals, ("draining", "stopping now"), strict=False):
            service.stop(number)
            service.process.wait_for(word if len(signals) == 2 else "stopping now")
        assert service.process.wait() == 1
        assert ask.wait() == 75
        failed = events_of(ask.out)[-1]
        assert (failed["class"], bool(failed["text"])) == ("Draining", True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_answer_goes_on_when_the_service_is_back(home: Path, number: signal.Signals) -> None:
    with open_service(home) as service, asking(home, "--model", "brief", "--id", "kept", "--json", "hi") as ask:
        ask.wait_for('"text"')
        service.stop(number)
        assert service.process.wait() == (0 if number == signal.SIGINT else -signal.SIGKILL)
        ask.wait_for("the service went away")
        with open_service(home):
            assert ask.wait() == 0
            again = loopforge(home, "ask", "--model", "brief", "--id", "kept", "--json", "hi")
    events = events_of(ask.out)
    assert [event["event"] for event in events].count("restarted") == 1
    assert events[-1]["reply"]["attempts"] == 2
    assert events_of(again.stdout)[-1] == events[-1]


def test_a_service_that_dies_in_the_middle_is_named_and_leaves_no_worker(home: Path) -> None:
    with (
        open_service(home) as service,
        asking(home, "--model", "slow", "--json", "--reconnect-s", "0.1", "hi") as ask,
    ):
        ask.wait_for('"text"')
        workers = [provider["pid"] for provider in service.status()["providers"] if provider["pid"]]
        service.stop(signal.SIGKILL)
        assert ask.wait() == 75
        assert events_of(ask.out)[-1]["class"] == "ConnectionLost"
    assert workers
    wait_until(lambda: not any(map(runs, workers)), "the workers are gone")


def runs(pid: int) -> bool:
    """Whether the process is there and no zombie: proc_pid_stat(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_service_is_told_of_the_first(home: Path) -> None:
    with open_service(home) as service:
        second = loopforge(home, "serve")
        assert (second.returncode, second.stdout) == (1, "")
        assert f"a service is already running (pid {service.process.pid})" in second.stderr


def test_the_socket_named_on_the_command_line_goes_before_all_others(home: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "here.sock")
    with open_service(home, "--socket", path):
        assert loopforge(home, "status").returncode == 1
        assert loopforge(home, "status", env={"LOOPFORGE_SOCKET": path}).returncode == 0


def test_the_log_keeps_to_its_level(home: Path) -> None:
    process = Process([*LOOPFORGE, "serve", "--log-level", "warning"], environment(home))
    try:
        wait_until(lambda: loopforge(home, "status").returncode == 0, "the service answers")
        process.popen.send_signal(signal.SIGINT)
        assert process.wait() == 0
        assert process.err == ""
    finally:
        process.close()


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        ('[providers.a]\nkind = "opnai"\n', 78, "config.toml:2: error: "),
        ("[", 78, "config.toml:1: error: not TOML"),
        (None, 78, "there is no such file; run 'loopforge init'"),
    ],
)
def test_a_service_does_not_start_with_a_configuration_that_is_wrong(
    tmp_path: Path, config: str | None, code: int, said: str
) -> None:
    if config is not None:
        (tmp_path / "config.toml").write_text(config)
    run = loopforge(tmp_path, "serve")
    assert (run.returncode, run.stdout) == (code, "")
    assert said in run.stderr


@pytest.mark.parametrize(
    ("socket", "code", "said"),
    [
        ("/proc/nowhere/s", 1, "/proc/nowhere cannot be made, or written to: No such file"),
        ("/tmp", 1, "Is a directory"),
        ("x" * 200, 78, "shorten"),
    ],
)
def test_a_socket_that_cannot_be_made_is_told(home: Path, socket: str, code: int, said: str) -> None:
    run = loopforge(home, "serve", "--socket", socket)
    assert (run.returncode, run.stdout) == (code, "")
    assert said in run.stderr


def test_warnings_of_the_configuration_stand_in_the_log(home: Path) -> None:
    with (home / "config.toml").open("a") as file:
        file.write("\n[skills]\n")
    with open_service(home) as service:
        assert "WARNING" in service.process.err
        assert "skills" in service.process.err

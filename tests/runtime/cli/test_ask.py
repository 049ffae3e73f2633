"""loopforge ask: what it takes and refuses, and turns through a real service, its workers and a simulated provider."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopforge.drivers.turn import Reply
from loopforge.workers.packing import from_plain
from tests.runtime.cli.running import LOOPFORGE, environment, loopforge, loopforge_here
from tests.runtime.cli.service import (
    Service,
    Simulator,
    asking,
    events_of,
    open_service,
    open_simulator,
    wait_until,
    write_config,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
TOOL = {"name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture(scope="module")
def service(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    write_config(home, simulator)
    with open_service(home) as running:
        yield running


@pytest.fixture
def alone(simulator: Simulator, tmp_path: Path) -> Path:
    """A home without a service."""
    write_config(tmp_path, simulator)
    return tmp_path


def live_ids(service: Service) -> list[str]:
    return [turn["id"] for turn in service.status()["live"]]


# -- what it takes and refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing PROMPT"),
        ([""], "PROMPT is empty"),
        ([" \n"], "PROMPT is empty"),
        (["\udcff"], "PROMPT is not UTF-8 text"),
        (["hi", "there"], "unexpected extra argument"),
        (["hi", "--model", "/m"], "write PROVIDER/MODEL"),
        (["hi", "--model", ""], "--model is empty"),
        (["hi", "--kind", " "], "--kind is empty"),
        (["hi", "--id", "é" * 65], "--id has more than 128 bytes"),
        (["hi", "--thinking", "lots"], "none of off, low, medium, high and no number of tokens"),
        (["hi", "--thinking", "-1"], "no number of tokens"),
        (["hi", "--lane", "fast"], "is not one of"),
        (["hi", "--deadline-s", "0"], "not in the range"),
        (["-", "--turn", "-"], "cannot both be read from standard input"),
        (["--turn", "/nowhere/turn.json"], "--turn /nowhere/turn.json: No such file"),
        (["--turn", "/"], "--turn /: Is a directory"),
    ],
)
def test_wrong_usage_is_said_before_anything_starts(tmp_path: Path, arguments: list[str], said: str) -> None:
    run = loopforge_here(tmp_path, "ask", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr


@pytest.mark.parametrize(
    ("turn", "arguments", "said"),
    [
        ({"messages": [{"role": "usr", "content": "x"}]}, [], "messages[0].role: 'usr' is not one of"),
        ({"messages": []}, [], "The turn has no message"),
        ({}, [], "the member 'messages' is missing"),
        ({"messages": [{"role": "system", "content": "a"}]}, ["hi", "--system", "b"], "has a system message already"),
    ],
)
def test_a_turn_that_is_wrong_is_wrong_usage(tmp_path: Path, turn: Any, arguments: list[str], said: str) -> None:
    (tmp_path / "turn.json").write_text(json.dumps(turn))
    run = loopforge_here(tmp_path, "ask", "--turn", tmp_path / "turn.json", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (r"printf 'a\377'", "Standard input is not UTF-8 text: byte 0xff at offset 1"),
        ("printf '\\n'", "The prompt on standard input is empty"),
        ("yes", "The prompt on standard input has more than 32 MiB"),
        ("head -c 40000000 /dev/zero", "The prompt on standard input has more than 32 MiB"),
    ],
)
def test_standard_input_that_is_no_prompt_is_refused(tmp_path: Path, program: str, said: str) -> None:
    source = subprocess.Popen(["/bin/sh", "-c", program], stdout=subprocess.PIPE)
    assert source.stdout is not None
    run = subprocess.run(
        [*LOOPFORGE, "ask", "-"], stdin=source.stdout, capture_output=True, text=True, env=environment(tmp_path)
    )
    source.stdout.close()
    source.wait()
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr


def test_a_turn_larger_than_the_service_takes_is_a_failure(service: Service) -> None:
    run = subprocess.run(
        [*LOOPFORGE, "ask", "-", "--json"],
        input="x" * (32 * 2**20),
        capture_output=True,
        text=True,
        env=environment(service.home),
    )
    assert run.returncode == 1
    assert events_of(run.stdout)[-1]["class"] == "TooLarge"
    assert re.fullmatch(r"Error: .*MiB; send less, or raise max_request_mb in \[runtime\]\n", run.stderr)


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_the_answer_whole_from_the_service(service: Service) -> None:
    done = service.provider("quick")["outcomes"]["done"]
    run = loopforge(service.home, "ask", "hello")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.endswith("\n")
    assert len(run.stdout.split()) == 20
    assert service.provider("quick")["outcomes"]["done"] == done + 1


def test_without_a_service_the_turn_runs_in_the_command_itself(alone: Path, service: Service) -> None:
    run = loopforge(alone, "ask", "hello")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == loopforge(service.home, "ask", "hello").stdout


def test_a_prompt_comes_from_standard_input(service: Service) -> None:
    run = subprocess.run(
        [*LOOPFORGE, "ask", "-"], input="hello\n", capture_output=True, text=True, env=environment(service.home)
    )
    assert (run.returncode, run.stdout) == (0, loopforge(service.home, "ask", "hello").stdout)


def test_json_has_one_event_a_line_and_the_whole_reply_at_the_end(service: Service) -> None:
    run = loopforge(service.home, "ask", "hello", "--json", "--id", "json-1")
    assert (run.returncode, run.stderr) == (0, "")
    events = events_of(run.stdout)
    assert events[0] == {"event": "accepted", "id": "json-1"}
    assert events[1] == {"event": "started", "provider": "quick", "model": "m", "attempt": 1}
    assert [event["event"] for event in events].count("done") == 1
    done = events[-1]
    reply = from_plain(Reply, done["reply"])
    text = "".join(event["text"] for event in events if event["event"] == "text")
    assert done["text"] == reply.text == text
    assert (reply.id, reply.provider, reply.attempts, reply.usage.output) == ("json-1", "quick", 1, 20)


def test_no_stream_asks_for_one_answer(service: Service) -> None:
    run = loopforge(service.home, "ask", "hello", "--json", "--no-stream")
    texts = [event for event in events_of(run.stdout) if event["event"] == "text"]
    assert (run.returncode, len(texts)) == (0, 1)


def test_the_same_turn_under_the_same_id_runs_once(service: Service, simulator: Simulator) -> None:
    first = loopforge(service.home, "ask", "hello", "--id", "once")
    asked = simulator.stats("quick")["requests"]
    second = loopforge(service.home, "ask", "hello", "--id", "once")
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert simulator.stats("quick")["requests"] == asked
    other = loopforge(service.home, "ask", "goodbye", "--id", "once", "--json")
    assert (other.returncode, events_of(other.stdout)[-1]["class"]) == (1, "IdConflict")


def test_a_whole_turn_comes_from_a_file_with_an_image_and_a_prompt_behind_it(
    service: Service, simulator: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    turn = {
        "kind": "coding",
        "model": "m",
        "provider": "caller",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": ["What is this?", {"type": "image", "data": {"path": "cat.png"}}]},
        ],
        "tools": [TOOL],
    }
    (tmp_path / "turn.json").write_text(json.dumps(turn))
    run = loopforge(service.home, "ask", "--turn", tmp_path / "turn.json", "Quick!", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    done = events_of(run.stdout)[-1]
    assert done["reply"]["finish"] == "tool_calls"
    call = done["reply"]["message"]["content"][0]
    assert (call["name"], call["parsed"], call["invalid"]) == ("search", {"query": "cats"}, False)
    plain = loopforge(service.home, "ask", "--turn", tmp_path / "turn.json", "--model", "caller", "Quick!")
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "", '-> search({"query": "cats"})\n')


def test_options_go_before_the_members_of_the_file(service: Service, tmp_path: Path) -> None:
    (tmp_path / "turn.json").write_text(json.dumps({"kind": "coding", "provider": "quick", "id": "a"}))
    run = loopforge(
        service.home, "ask", "--turn", tmp_path / "turn.json", "--id", "b", "--model", "thinker/x", "hi", "--json"
    )
    accepted, started = events_of(run.stdout)[:2]
    assert (accepted["id"], started["provider"], started["model"]) == ("b", "thinker", "x")


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["--model", "quick/fault-429"], 75, "RateLimited"),
        (["--model", "quick/fault-500"], 75, "ProviderUnavailable"),
        (["--model", "quick/fault-quota"], 75, "QuotaExhausted"),
        (["--model", "quick/fault-401"], 1, "CredentialsRejected"),
        (["--model", "silent", "--deadline-s", "1"], 1, "DeadlineExceeded"),
        (["--kind", "codign"], 1, "NoRoute"),
        (["--session", "x" * 2000], 1, "BadTurn"),
    ],
)
def test_a_failure_has_its_class_its_exit_code_and_a_line_for_the_person(
    service: Service, arguments: list[str], code: int, name: str
) -> None:
    run = loopforge(service.home, "ask", "hello", "--json", *arguments)
    failed = events_of(run.stdout)[-1]
    assert (run.returncode, failed["event"], failed["class"]) == (code, "failed", name)
    assert run.stderr == f"Error: {failed['message']}\n"
    assert failed["message"].endswith(failed["action"])


def test_a_rate_limit_tells_when_to_try_again(service: Service) -> None:
    run = loopforge(service.home, "ask", "hello", "--json", "--model", "quick/fault-429")
    assert events_of(run.stdout)[-1]["retry_after_s"] == 1


def test_what_had_come_of_a_cut_answer_is_printed_and_the_exit_code_says_so(service: Service) -> None:
    run = loopforge(service.home, "ask", "hello", "--model", "quick/fault-cut")
    assert (run.returncode, len(run.stdout.split())) == (1, 5)
    assert run.stderr.startswith("Error: quick: ")


def test_a_worker_killed_in_the_middle_withdraws_what_was_said_and_begins_again(service: Service) -> None:
    with (
        asking(service.home, "--model", "slow", "--json", "hi") as ask,
        asking(service.home, "--model", "brief", "hi") as other,
    ):
        ask.wait_for('"text"')
        os.kill(service.provider("slow")["pid"], signal.SIGKILL)
        ask.wait_for('"restarted"')
        ask.wait_for('"started"', times=2)
        restarted = next(event for event in events_of(ask.out) if event["event"] == "restarted")
        assert "killed by SIGKILL" in restarted["why"]
        os.kill(ask.pid, signal.SIGINT)
        assert ask.wait() == 130
        assert other.wait() == 0
        assert len(other.out.split()) == 20


def test_a_worker_killed_under_a_turn_without_a_service_is_told_and_the_turn_sent_again(alone: Path) -> None:
    with asking(alone, "--model", "silent", "--json", "hi") as ask:
        ask.wait_for('"started"')
        os.kill(worker_of(ask.pid, "silent"), signal.SIGKILL)
        ask.wait_for('"started"', times=2)
        assert [event["event"] for event in events_of(ask.out)] == ["accepted", "started", "restarted", "started"]
        assert ask.err == "Note: worker silent died: killed by SIGKILL\n"


def worker_of(pid: int, provider: str) -> int:
    """The child of the process that works for this provider: proc_pid_task_children(5)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(child) for child in children if provider.encode() in Path(f"/proc/{child}/cmdline").read_bytes())


def test_a_configuration_with_errors_is_told_with_its_lines(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[providers.a]\nkind = "opnai"\n')
    run = loopforge(tmp_path, "ask", "hello", "--json")
    failed = events_of(run.stdout)[-1]
    assert (run.returncode, failed["class"]) == (78, "BadConfig")
    assert f"{tmp_path}/config.toml:2" in run.stderr


def test_a_home_that_holds_nothing_yet_is_served_from_the_presets(tmp_path: Path) -> None:
    run = loopforge(tmp_path, "ask", "hello", "--model", "nobody")
    assert run.returncode == 1
    assert f"Note: there is no {tmp_path}/config.toml yet, so the presets count" in run.stderr
    assert "ask for one of anthropic" in run.stderr


# -- service or not --------------------------------------------------------------------------------------------------


def test_a_socket_that_a_service_left_is_told_and_done_without(alone: Path) -> None:
    with open_service(alone) as killed:
        killed.stop(signal.SIGKILL)
        killed.process.wait()
    run = loopforge(alone, "ask", "hello")
    assert (run.returncode, len(run.stdout.split())) == (0, 20)
    assert run.stderr == (
        f"Note: nobody listens on {alone}/run/loopforge.sock, which a service has left; doing without one\n"
    )


def test_a_service_of_another_configuration_is_told_and_done_without(
    service: Service, simulator: Simulator, tmp_path: Path
) -> None:
    own = loopforge(service.home, "ask", "hi", "--config", service.home / "config.toml", "--json")
    assert (own.returncode, own.stderr) == (0, "")
    other = loopforge(service.home, "ask", "hi", "--config", write_config(tmp_path, simulator))
    assert (other.returncode, len(other.stdout.split())) == (0, 20)
    assert re.fullmatch(r"Note: the service at .* runs with .*; doing without it because of --config\n", other.stderr)


# -- terminals, pipes and Ctrl-C -------------------------------------------------------------------------------------


def test_a_terminal_sees_the_answer_as_it_comes_and_ctrl_c_cancels_it_at_the_provider(
    service: Service, simulator: Simulator
) -> None:
    before = simulator.stats("slow")["cancelled"]
    with asking(service.home, "--model", "slow", "hi", terminal=True) as ask:
        ask.wait_for(" ", times=3)
        ask.type("\x03")
        assert ask.wait() == 130
        assert ask.out.endswith("\nCancelled: interrupted\n")
    wait_until(lambda: simulator.stats("slow")["cancelled"] == before + 1, "the provider's connection is closed")
    assert simulator.stats("slow")["active"] == 0


def test_ctrl_c_without_a_service_ends_the_workers_and_the_turn(alone: Path, simulator: Simulator) -> None:
    before = simulator.stats("slow")["cancelled"]
    with asking(alone, "--model", "slow", "--json", "hi", terminal=True) as ask:
        ask.wait_for('"text"')
        ask.type("\x03")
        assert ask.wait() == 130
        assert '{"event":"cancelled","why":"interrupted"}\n' in ask.out
    wait_until(lambda: simulator.stats("slow")["cancelled"] == before + 1, "the provider's connection is closed")


def test_ctrl_c_before_anything_has_come_cancels_as_well(service: Service, simulator: Simulator) -> None:
    before = simulator.stats("silent")["requests"]
    with asking(service.home, "--model", "silent", "--json", "hi", "--id", "hush") as ask:
        wait_until(lambda: simulator.stats("silent")["requests"] > before, "the provider is asked")
        ask.popen.send_signal(signal.SIGINT)
        assert ask.wait() == 130
        assert events_of(ask.out)[-1] == {"event": "cancelled", "why": "interrupted"}
    assert "hush" not in live_ids(service)


def test_sigterm_cancels_the_turn_too(service: Service) -> None:
    with asking(service.home, "--model", "slow", "--json", "--id", "term", "hi") as ask:
        ask.wait_for('"text"')
        ask.popen.terminate()
        assert ask.wait() == 128 + signal.SIGTERM
    assert "term" not in live_ids(service)


def test_a_terminal_that_stands_still_does_not_keep_ctrl_c_from_working(service: Service) -> None:
    master, slave = os.openpty()
    termios.tcflow(slave, termios.TCOOFF)  # as Ctrl-S: who writes to it is blocked
    try:
        argv = [*LOOPFORGE, "ask", "--model", "slow", "--id", "still", "hi"]
        ask = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.DEVNULL, env=environment(service.home)
        )
        wait_until(lambda: "still" in live_ids(service), "the turn runs")
        with asking(service.home, "--model", "slow", "--json", "hi") as later:
            later.wait_for('"text"', times=5)  # by now the first one has had something to write
        ask.send_signal(signal.SIGINT)
        assert ask.wait(30) == 130
    finally:
        os.close(master)
        os.close(slave)
    assert "still" not in live_ids(service)


def test_an_outcome_that_is_kept_is_named_as_one_where_an_id_was_chosen(service: Service) -> None:
    """Asked again under the id, the outcome of an hour ago is given once more: nothing was tried, and --retry would."""
    again = "Note: what follows is kept under the id ended; the same command with --retry tries it again\n"
    with asking(service.home, "--model", "slow", "--json", "--id", "ended", "hi") as ask:
        ask.wait_for('"text"')
        assert loopforge(service.home, "cancel", "ended").returncode == 0
        assert (ask.wait(), again in ask.err) == (1, True)
    stored = loopforge(service.home, "ask", "--model", "slow", "--id", "ended", "hi")
    assert (stored.returncode, stored.stdout) == (1, "")
    assert stored.stderr == f"{again}Cancelled: cancelled with 'loopforge cancel'\n"
    other = loopforge(service.home, "ask", "--model", "slow", "--id", "ended", "not the same")
    assert "Note" not in other.stderr, "it is another turn, and nothing is kept of it"


def test_a_detached_turn_outlives_ctrl_c(service: Service, tmp_path: Path) -> None:
    turn = {"messages": [{"role": "user", "content": "hi"}], "provider": "slow", "detached": True, "id": "apart"}
    (tmp_path / "turn.json").write_text(json.dumps(turn))
    with asking(service.home, "--turn", str(tmp_path / "turn.json"), "--json") as ask:
        ask.wait_for('"text"')
        ask.popen.send_signal(signal.SIGINT)
        assert ask.wait() == 130
        assert ask.err == "Note: the turn goes on; 'loopforge cancel apart' ends it\n"
    assert "apart" in live_ids(service)
    assert loopforge(service.home, "cancel", "apart").stdout == "apart is cancelled\n"


@pytest.mark.parametrize("arguments", [["--json"], ["--stream"], []], ids=["json", "stream", "whole"])
def test_a_reader_that_leaves_cancels_the_turn_without_a_word(service: Service, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    ask = subprocess.Popen(
        [*LOOPFORGE, "ask", "--model", "slow", "--id", f"pipe{arguments}", *arguments, "hi"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(service.home),
    )
    os.close(writer)
    wait_until(lambda: f"pipe{arguments}" in live_ids(service), "the turn runs")
    os.close(reader)
    _, said = ask.communicate(timeout=30)
    assert (ask.returncode, said) == (1, "")
    assert f"pipe{arguments}" not in live_ids(service)
    shown = loopforge_here(service.home, "turns", "show", f"pipe{arguments}").stdout
    assert "because   whoever read the answer went away\n" in shown


def test_a_disk_without_room_is_an_error(service: Service) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        run = subprocess.run(
            [*LOOPFORGE, "ask", "hello"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment(service.home)
        )
    assert (run.returncode, run.stderr) == (1, "Error: standard output: No space left on device\n")


def test_thinking_is_dimmed_on_a_terminal_when_asked_for(service: Service) -> None:
    with asking(service.home, "--model", "thinker", "--show-thinking", "hi", terminal=True) as ask:
        assert ask.wait() == 0
        assert re.fullmatch(r"(\x1b\[2m[^\x1b]+\x1b\[0m)+\n\n[^\x1b]+\n", ask.out)
    with asking(service.home, "--model", "thinker", "hi", terminal=True) as ask:
        assert ask.wait() == 0
        assert "\x1b" not in ask.out
    env = {"NO_COLOR": "1"}
    with asking(service.home, "--model", "thinker", "--show-thinking", "hi", terminal=True, env=env) as ask:
        assert ask.wait() == 0
        assert re.fullmatch(r"[^\x1b]+\n\n[^\x1b]+\n", ask.out)


def test_a_prompt_typed_at_a_terminal_is_asked_for(service: Service) -> None:
    with asking(service.home, "-", terminal=True) as ask:
        ask.wait_for("Ctrl-D on a new line ends it.")
        ask.type("hello\n\x04")
        assert ask.wait() == 0
        assert len(ask.out.split()) > 20


# -- the slim start --------------------------------------------------------------------------------------------------


def test_help_tells_the_json_format_and_loads_no_loop(tmp_path: Path) -> None:
    program = (
        "import sys; from loopforge.runtime.cli.frame import run; code = run(['ask', '--help']); "
        "print({'trio', 'pydantic', 'httpx2'} & set(sys.modules)); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    assert '{"event": "failed", "class": NAME, "message", "action", "retry_after_s",' in run.stdout
    assert run.stdout.endswith("set()\n")
    assert max(map(len, run.stdout.splitlines())) <= 80

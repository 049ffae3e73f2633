"""loopforge status, cancel: what they print, and what they do not load. Against a real service: test_service.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.cli.columns import duration, size, table
from loopforge.runtime.cli.status import describe
from tests.runtime.cli.running import environment, loopforge, loopforge_here


def provider(name: str, **members: Any) -> dict[str, Any]:
    idle: dict[str, Any] = {
        "name": name,
        "state": "stopped",
        "pid": None,
        "generation": 0,
        "deaths": 0,
        "last_death": "",
        "down_for_s": None,
        "down_reason": "",
        "slots": 8,
        "running": 0,
        "queued": {"interactive": 0, "normal": 0, "background": 0},
        "rss_bytes": 0,
        "outcomes": {"done": 0, "failed": 0, "cancelled": 0},
    }
    return idle | members


TOLD: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 4242,
    "uptime_s": 7300.0,
    "rss_bytes": 30 * 2**20,
    "durability": "memory",
    "draining": False,
    "config": "/srv/agents/config.toml",
    "turns": {"waiting": 41, "running": 2, "done": 812, "failed": 3, "cancelled": 1},
    "routes": {"planning": ["ollama/llama3.2"], "coding": ["ollama/llama3.2", "deepseek/chat"]},
    "providers": [
        provider(
            "ollama",
            state="ready",
            pid=77,
            generation=1,
            running=2,
            slots=2,
            rss_bytes=25 * 2**20,
            queued={"interactive": 1, "normal": 40, "background": 0},
            outcomes={"done": 812, "failed": 2, "cancelled": 1},
        ),
        provider("deepseek"),
        provider("glm", state="down", generation=6, deaths=6, down_for_s=42.0, down_reason="6 deaths\x1b[2J"),
        provider("kimi"),
        provider("gemini"),
    ],
    "live": [
        {
            "id": "t1",
            "kind": "planning",
            "session": "",
            "lane": "interactive",
            "provider": "ollama",
            "model": "llama3.2",
            "phase": "running",
            "attempt": 1,
            "age_s": 1.25,
            "deadline_in_s": 1798.75,
        }
    ],
}


def test_status_shows_service_providers_and_live_turns_in_line() -> None:
    assert describe(TOLD, "/run/lf.sock") == [
        "LoopForge 0.1.0, pid 4242, up 2 h 1 min, 30.0 MB",
        "config  /srv/agents/config.toml",
        "socket  /run/lf.sock",
        "turns   2 running, 41 waiting, 812 done, 3 failed, 1 cancelled",
        "kept    in memory: a restart of the service loses turns and replies",
        "",
        "PROVIDER  STATE    PID   MEMORY  SLOTS  QUEUED                    DONE  FAILED  DEATHS",
        "ollama    ready     77  25.0 MB    2/2  1 interactive, 40 normal   812       2       0",
        "deepseek  stopped    -        -    0/8  -                            0       0       0",
        "glm       down       -        -    0/8  -                            0       0       6",
        "glm is down for 42 s more: 6 deaths␛[2J",
        "not used so far: kimi, gemini",
        "",
        "TURN  KIND      PHASE    GOES TO          LANE         SESSION  TRY    AGE    TIME LEFT",
        "t1    planning  running  ollama/llama3.2  interactive  -          1  1.2 s  29 min 59 s",
        "and 42 more",
        "Cancel one with 'loopforge cancel ID'.",
    ]


def test_only_who_died_is_said_to_have_died() -> None:
    """A worker that is stopped because nobody needs it counts as no death."""
    killed = provider("glm", state="ready", generation=2, deaths=1, last_death="killed by SIGKILL")
    idle = provider("kimi", state="stopped", generation=1, deaths=0, last_death="it was idle")
    lines = describe({**TOLD, "providers": [killed, idle]}, "s")
    assert [line for line in lines if "died" in line] == ["glm: its last worker died: killed by SIGKILL"]


def test_a_worker_that_waits_out_its_back_off_is_told_with_the_time_of_its_next_start() -> None:
    waits = provider("glm", state="stopped", generation=3, deaths=3, last_death="killed by SIGKILL", back_in_s=3.5)
    lines = describe({**TOLD, "providers": [waits]}, "s")
    assert "glm starts again in 3.5 s: its last worker died: killed by SIGKILL" in lines


def test_the_slots_are_those_that_there_are_now_and_not_those_of_the_configuration() -> None:
    """A rate limit takes some away for a while, and a local server's are found out."""
    halved = provider("glm", state="ready", generation=1, running=3, slots=8, slots_now=4)
    lines = describe({**TOLD, "providers": [halved]}, "s")
    assert next(line for line in lines if line.startswith("glm ")).split()[4] == "3/4"


@pytest.mark.parametrize(
    ("members", "note"),
    [
        ({"slots_from": "config", "slots_now": 8}, None),
        ({"slots_from": "guess", "slots_now": 2}, "ollama: 2 at once, a guess until its answers show more"),
        ({"slots_from": "server", "slots_now": 4, "slots_told": 4}, "ollama: 4 at once, as its server says"),
        (
            {"slots_from": "server", "slots_now": 32, "slots_told": 100},
            "ollama: 32 at once, the most without max_concurrency; its server says 100",
        ),
        (
            {"slots_from": "measured", "slots_now": 3, "slots_told": 4},
            "ollama: 3 at once, as its first tokens and refusals show; its server says 4",
        ),
        ({"slots_from": "server", "slots_now": 4, "slots_told": 4, "state": "retiring"}, None),
    ],
)
def test_status_says_where_a_number_of_slots_comes_from_that_nobody_wrote_down(
    members: dict[str, Any], note: str | None
) -> None:
    lines = describe({**TOLD, "providers": [provider("ollama", generation=1, **members)]}, "s")
    assert [line for line in lines if " at once" in line] == ([note] if note else [])


def test_a_service_of_another_version_is_shown_as_far_as_it_tells() -> None:
    assert describe({"version": "9.9", "pid": 1}, "s")[0] == "LoopForge 9.9, pid 1"
    strange = {"providers": [{"name": "p", "generation": 1}], "live": [{"id": "t"}], "turns": {"running": 1}}
    row = next(line for line in describe(strange, "s") if line.startswith("p "))
    assert row.split() == ["p", "?", "-", "-", "?/?", "-", "?", "?", "?"]


def test_a_draining_service_says_that_it_takes_no_turns() -> None:
    assert "draining" in describe({**TOLD, "draining": True}, "s")[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.96, "10.0 s"), (10, "10 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (5 * 2**40, "5120.0 GB")])
def test_sizes_stand_in_the_unit_that_fits(count: int, text: str) -> None:
    assert size(count) == text


def test_a_table_without_rows_is_its_head() -> None:
    assert table(("A", "B"), []) == ["A  B"]


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("cancel", "t1")])
def test_without_a_service_the_next_step_is_said_and_nothing_printed(tmp_path: Path, command: tuple[str, ...]) -> None:
    run = loopforge_here(tmp_path, *command)
    assert (run.returncode, run.stdout) == (1, "")
    socket = tmp_path / "run" / "loopforge.sock"
    assert (
        run.stderr
        == f"Error: No service is running: there is no socket at {socket}; start one with 'loopforge serve'.\n"
    )


def test_cancel_without_an_id_is_wrong_usage(tmp_path: Path) -> None:
    assert loopforge_here(tmp_path, "cancel").returncode == 2


def test_the_socket_is_looked_up_as_by_every_client(tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text('[runtime]\nsocket = "/nowhere/a.sock"\n')
    assert "/nowhere/a.sock" in loopforge_here(tmp_path, "status", "--config", config).stderr
    env = {"LOOPFORGE_SOCKET": "/nowhere/b.sock"}
    assert "/nowhere/b.sock" in loopforge_here(tmp_path, "status", "--config", config, env=env).stderr


HEAVY = ("trio", "httpx2", "h11", "pydantic", "pydantic_core", "rich", "asyncio", "loopforge.drivers.turn")


@pytest.mark.parametrize("command", [["--help"], ["status"], ["status", "--json"], ["cancel", "t1"]])
def test_commands_that_must_start_fast_load_nothing_heavy(tmp_path: Path, command: list[str]) -> None:
    program = (
        "import json, sys\n"
        "from loopforge.runtime.cli.frame import run\n"
        "run(sys.argv[1:])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, env=environment(tmp_path)
    )
    modules = json.loads(result.stdout.splitlines()[-1])
    assert "loopforge.runtime.cli.frame" in modules
    assert not set(HEAVY) & set(modules)


def test_status_as_a_process(tmp_path: Path) -> None:
    run = loopforge(tmp_path, "status")
    assert run.returncode == 1
    assert "loopforge serve" in run.stderr


HELD_UP: dict[str, Any] = {
    **TOLD,
    "durability": "disk",
    "journal": {"problem": "disk full", "owed": 2, "used_bytes": 2**20, "note": "a damaged file was moved aside"},
    "breakers": [
        {"provider": "glm", "model": "", "state": "open", "for_s": 42.0, "why": "glm: no\x1b key"},
        {"provider": "kimi", "model": "k2", "state": "half open", "for_s": None, "why": "overloaded"},
        {"provider": "gemini", "model": "pro", "state": "open", "for_s": None, "why": "quota"},
        {"provider": "ollama", "model": "", "state": "closed", "for_s": None, "why": "once"},
        {"provider": "qwen", "model": "max", "state": "closed", "for_s": 14.0, "why": "qwen: rate limit; wait 20 s"},
    ],
    "providers": [
        provider(
            "deepseek",
            state="ready",
            generation=1,
            queued={"normal": 3},
            limits={"requests": 60, "requests_limit": 60, "tokens": 1234, "tokens_limit": 50_000, "next_in_s": 12.0},
        ),
        provider("ollama", state="retiring", generation=1, running=1),
        provider("ollama", state="ready", generation=1, limits={"requests": 1, "next_in_s": None}),
        provider("kimi", generation=1, limits={"requests": 1, "requests_limit": 0, "next_in_s": 3.0}),
    ],
    "live": [
        {**TOLD["live"][0], "id": "waits", "phase": "held", "held_for": "a quota's reset", "held_s": 725.0},
        {**TOLD["live"][0], "id": "runs", "held_for": "", "held_s": None},
        {**TOLD["live"][0], "id": "later", "phase": "held", "held_for": "a quota's reset", "held_s": None},
    ],
}


def test_status_says_what_keeps_turns_from_going_on() -> None:
    lines = describe(HELD_UP, "s")
    assert [line for line in lines if line.startswith(("kept", "journal"))] == [
        "kept    on disk, 1.0 MB",
        "journal cannot write, so new turns are refused: disk full; outcomes that wait for room: 2",
        "journal a damaged file was moved aside",
    ]
    notes = lines[lines.index(next(line for line in lines if line.startswith("kimi "))) + 1 :]
    spent = "60 of 60 requests and 1,234 of 50,000 tokens"
    assert notes[: notes.index("")] == [
        f"deepseek: its limits let the next turn start in 12 s: {spent} in the last minute",
        "ollama: the retiring worker ends with the last turn it has; new ones go to another",
        "kimi: its limits let the next turn start in 3.0 s, as the provider's headers say",
        "glm gets no turns for 42 s more: no␛ key",
        "kimi/k2 is tried with one turn after it failed: overloaded",
        "gemini/pro gets no turns for the time being: quota",
        "qwen/max gets no turns for 14 s more: rate limit; wait 20 s",
    ]
    assert "held for a quota's reset: waits (12 min 5 s more), later (0.0 s more)" in lines


@pytest.mark.parametrize("width", [70, 80, 120])
def test_status_fits_the_terminal(width: int) -> None:
    assert max(len(line) for line in describe(HELD_UP, "s", width)) <= width


def test_a_table_shortens_columns_then_leaves_some_out_and_keeps_the_rest_whole() -> None:
    head, rows = ("ID", "NAME", "NOTE"), [("i" * 20, "n" * 20, "x" * 20)]
    assert table(head, rows, shrink=(2,), width=60)[1] == f"{'i' * 20}  {'n' * 20}  {'x' * 15}…"
    assert table(head, rows, shrink=(2,), drop=(2, 1), width=50)[1] == f"{'i' * 20}  {'n' * 20}"
    assert table(head, rows, shrink=(2, 1), drop=(1,), width=32)[1] == f"{'i' * 20}  {'x' * 9}…"
    assert table(head, rows, shrink=(2, 1), drop=(2, 1), width=5) == ["ID", "i" * 20]

"""The demo as scripts/demo runs it: its own process, its own workers, a pipe or a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.demo.cast import TARGETS

DEMO = [sys.executable, "-m", "loopforge.runtime.demo"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def start(*arguments: str | Path, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    own_size = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return subprocess.Popen(
        [*DEMO, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=own_size | {"TERM": "xterm-256color"},
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """One demo of three seconds: what it wrote and what it printed."""
    file = tmp_path_factory.mktemp("demo") / "figures.json"
    process = start("--seconds", "3", "--json", file)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    return json.loads(file.read_text()), out.decode()


def test_no_turn_is_lost_and_every_kind_meets_its_fate(played: tuple[dict[str, Any], str]) -> None:
    document, _ = played
    assert document["ok"] is True
    assert document["lost"] == 0
    kinds = document["kinds"]
    assert list(kinds) == list(TARGETS)
    assert all(kind["posted"] == kind["done"] + kind["failed"] > 0 for kind in kinds.values())
    assert {kind: part["failed"] for kind, part in kinds.items()} == dict.fromkeys(TARGETS, 0)


def test_planning_is_measured_alone_and_under_load(played: tuple[dict[str, Any], str]) -> None:
    planning = played[0]["planning"]
    assert planning["idle"]["count"] > 10
    assert planning["load"]["count"] > 30
    assert planning["p99_ratio"] == pytest.approx(planning["load"]["p99_s"] / planning["idle"]["p99_s"])


def test_one_worker_was_killed_and_replaced_and_no_other(played: tuple[dict[str, Any], str]) -> None:
    document, _ = played
    assert {worker["name"]: worker["deaths"] for worker in document["workers"]} == {
        "local": 0,
        "slow-cloud": 0,
        "stuck-cloud": 0,
        "crash-cloud": 1,
    }
    first, second, third = (incident["what"] for incident in document["incidents"])
    assert first.startswith("SIGKILL to worker ")
    assert second.startswith("the worker died: ")
    assert third.endswith(" is ready")


def test_a_pipe_gets_plain_lines_and_the_summary(played: tuple[dict[str, Any], str]) -> None:
    _, printed = played
    assert "\x1b" not in printed
    assert "planning alone" in printed
    assert f"{played[0]['turns']['posted']} turns posted:" in printed
    assert " 0 lost." in printed
    progress = printed[: printed.index("LoopForge runtime demo, ")]
    assert max(map(len, progress.splitlines())) <= 80


def test_a_terminal_of_eighty_columns_sees_a_live_table_without_a_wrapped_line() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    process = start("--seconds", "2", stdout=theirs)
    os.close(theirs)
    printed = read_all(ours).decode()
    assert process.wait() == 0
    assert process.communicate()[1] == b""
    assert re.search(r"\x1b\[[0-9]*A|\x1b\[1A", printed)  # the cursor goes up: the table is drawn over
    lines = ESCAPES.sub("", printed).replace("\r", "\n").splitlines()
    assert sum(line.startswith("TASK KIND") for line in lines) > 4
    assert max(len(line.rstrip()) for line in lines if "loopforge" not in line) <= 80


def test_ctrl_c_ends_it_with_the_figures_so_far() -> None:
    process = start("--seconds", "600")
    assert process.stdout is not None
    said = read_until(process, lambda text: b"planning alone" in text or text.count(b"\n") > 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert err == b""
    assert b"Interrupted: these are the figures so far." in said + out
    assert b" 0 lost." in said + out


def test_a_reader_that_leaves_ends_it_without_a_word() -> None:
    process = start("--seconds", "600")
    assert process.stdout is not None
    read_until(process, lambda text: b"\n" in text)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "1"], "'1' is not a number from 2 to 3600"),
        (["--seconds", "nan"], "'nan' is not a number from 2 to 3600"),
        (["--seconds", "soon"], "'soon' is not a number"),
        (["--json", "/no/such/folder/file.json"], "is not a file in a folder that exists"),
        (["--json", "/tmp"], "is not a file in a folder that exists"),
        (["--speed", "3"], "unrecognized arguments: --speed 3"),
    ],
)
def test_wrong_usage_is_told_before_anything_starts(arguments: list[str], said: str) -> None:
    process = start(*arguments)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert said in err.decode()


def read_all(descriptor: int) -> bytes:
    said = b""
    try:
        while data := os.read(descriptor, 65536):
            said += data
    except OSError:  # EIO: the other side of a pty is gone
        pass
    os.close(descriptor)
    return said


def read_until(process: subprocess.Popen[bytes], enough: Callable[[bytes], bool]) -> bytes:
    assert process.stdout is not None
    said = b""
    while not enough(said):
        assert select.select([process.stdout], [], [], 30)[0], f"nothing came after {said!r}"
        data = os.read(process.stdout.fileno(), 65536)
        assert data, f"it ended after {said!r}"
        said += data
    return said

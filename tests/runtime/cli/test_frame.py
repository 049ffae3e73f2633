"""The frame of the command line: help, exit codes, and that no traceback ever reaches a person."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

import loopforge as package
from loopforge.drivers.errors import CredentialsRejected, Overloaded
from loopforge.runtime.cli import exits, frame
from loopforge.runtime.config.paths import UnusablePath
from loopforge.runtime.config.values import Problem
from loopforge.runtime.errors import BadConfig, Draining, JournalFailed, NoRoute, QueueFull
from tests.runtime.cli.running import LOOPFORGE, environment, loopforge, loopforge_here, succeed

HEAVY = {"trio", "httpx2", "httpcore2", "h11", "pydantic", "rich", "tomli", "tomlkit", "msgpack", "hypothesis"}


def failing_with(exc: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise exc

    return command


def test_help_names_every_command_and_what_it_is_for(tmp_path: Path) -> None:
    shown = succeed(tmp_path, "-h")
    for name in ("init", "config"):
        assert f"{name} " in shown
        assert frame.COMMANDS[name][2] in shown
    assert "78 bad" in shown
    assert loopforge_here(tmp_path, "--help").stdout == shown
    assert "validate" in loopforge_here(tmp_path, "config", "-h").stdout
    assert "--force" in loopforge_here(tmp_path, "init", "--help").stdout


def test_the_table_names_the_commands_there_are_to_be() -> None:
    assert list(frame.COMMANDS) == [
        "init", "config", "doctor", "route", "serve", "ask", "status", "turns", "cancel", "usage", "reload",
        "providers", "rehearse",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["nonsense"]])
def test_help_loads_no_library_and_no_command(tmp_path: Path, arguments: list[str]) -> None:
    run = loopforge(tmp_path, *arguments, command=[sys.executable, "-X", "importtime", "-m", "loopforge.runtime"])
    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in loaded
    assert not {name.split(".")[0] for name in loaded} & HEAVY
    assert {name for name in loaded if name.split(".")[0] == "loopforge"} == {
        "loopforge",
        "loopforge.runtime",
        "loopforge.runtime.cli",
        "loopforge.runtime.cli.frame",
        "loopforge.runtime.cli.exits",
    }


def test_where_the_config_is_can_be_asked_without_loading_what_checks_it(tmp_path: Path) -> None:
    run = loopforge(tmp_path, "config", "path", command=[sys.executable, "-X", "importtime", "-m", "loopforge.runtime"])
    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert not {name.split(".")[0] for name in loaded} & HEAVY
    assert not {name for name in loaded if name.startswith(("loopforge.drivers", "loopforge.workers"))}


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    assert succeed(tmp_path, "--version") == f"loopforge {package.__version__}\n"


def test_the_console_script_is_the_same_command(tmp_path: Path) -> None:
    (script,) = entry_points(group="console_scripts", name="loopforge")
    code = f"import sys\nfrom {script.module} import {script.attr}\nsys.argv[0] = 'anything'\n{script.attr}()"
    run = loopforge(tmp_path, "--version", command=[sys.executable, "-c", code])
    assert (run.returncode, run.stdout) == (0, f"loopforge {package.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Usage: loopforge"),
        (["confg"], "No such command 'confg'. Did you mean 'config'?"),
        (["config", "valid"], "validate"),
        (["init", "--nope"], "No such option '--nope'"),
        (["config", "validate", "extra"], "unexpected extra argument"),
        (["config", "show", "providers.ollama", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(tmp_path: Path, arguments: list[str], told: str) -> None:
    run = loopforge_here(tmp_path, *arguments)
    assert (run.returncode, run.stdout) == (exits.USAGE, "")
    assert told in run.stderr
    assert "Traceback" not in run.stderr


def test_a_command_that_this_version_lacks_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    table = {
        "config": frame.COMMANDS["config"],
        "later": ("loopforge.runtime.cli.written_later", "later", "Comes later."),
    }
    group = frame.LazyGroup("loopforge", table=table)
    assert frame.run(["--help"], group) == exits.OK
    assert "Comes later" not in capsys.readouterr().out
    assert frame.run(["later"], group) == exits.USAGE
    assert "no command 'later' yet" in capsys.readouterr().err
    assert frame.run(["config", "--help"], group) == exits.OK


@pytest.mark.parametrize(
    ("exc", "code", "told"),
    [
        (click.ClickException("plain"), exits.FAILED, "Error: plain"),
        (exits.CommandFailed("it failed; try that"), exits.FAILED, "Error: it failed; try that"),
        (exits.TryLater("no room"), exits.TRY_LATER, "Error: no room"),
        (click.UsageError("no"), exits.USAGE, "Error: no"),
        (click.exceptions.Exit(5), 5, ""),
        (KeyboardInterrupt(), exits.INTERRUPTED, ""),
        (BaseExceptionGroup("", [ValueError(), KeyboardInterrupt()]), exits.INTERRUPTED, ""),
        (NoRoute(what="no route"), exits.FAILED, "Error: no route; see 'loopforge config show'"),
        (CredentialsRejected("p"), exits.FAILED, "Error: p: the provider rejected the API key; set the key"),
        (QueueFull("p", retry_after_s=3), exits.TRY_LATER, "post the turn again in about 3 s"),
        (JournalFailed(what="disk full", retry_after_s=5.0), exits.TRY_LATER, "Error: disk full"),
        (JournalFailed(what="its thread"), exits.FAILED, "Error: its thread"),
        (Overloaded("p"), exits.TRY_LATER, "Error: p: the provider is overloaded"),
        (ExceptionGroup("", [ExceptionGroup("", [Draining()])]), exits.TRY_LATER, "Error: the service is stopping"),
        (BadConfig(what="line 3"), exits.BAD_CONFIG, "Error: line 3"),
        (UnusablePath("too long; shorten it"), exits.BAD_CONFIG, "Error: too long; shorten it"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), exits.FAILED, "Error: /x: Permission denied"),
    ],
)
def test_what_ends_a_command_becomes_one_message_and_one_code(
    capsys: pytest.CaptureFixture[str], exc: BaseException, code: int, told: str
) -> None:
    assert frame.run([], failing_with(exc)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert "Traceback" not in err
    assert "bug" not in err


@pytest.mark.parametrize(
    "exc",
    [
        RuntimeError("two\nlines"),
        KeyError("x"),
        OSError("without a file"),
        ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
        AssertionError(),
        RecursionError("x" * 10_000),
    ],
)
def test_an_unexpected_error_is_one_line_and_says_how_to_report_it(
    capsys: pytest.CaptureFixture[str], exc: Exception
) -> None:
    assert frame.run([], failing_with(exc)) == exits.FAILED
    _, err = capsys.readouterr()
    what, how = err.splitlines()
    assert type(exc).__name__ in what
    assert len(what) < 400
    assert "LOOPFORGE_DEBUG=1" in how


def test_under_debug_an_unexpected_error_shows_where_it_came_from(tmp_path: Path) -> None:
    code = (
        "import click, sys\nfrom loopforge.runtime.cli.frame import run\n"
        "@click.command()\ndef broken(): raise KeyError('lost')\nsys.exit(run([], broken))"
    )
    for debug, traceback in [("1", True), ("0", False), ("", False)]:
        run = loopforge(tmp_path, command=[sys.executable, "-c", code], env={"LOOPFORGE_DEBUG": debug})
        assert (run.returncode, run.stdout) == (exits.FAILED, "")
        assert ("Traceback" in run.stderr) == traceback
        assert "KeyError: 'lost'" in run.stderr


@pytest.mark.parametrize("result", [0, 1, 75])
def test_a_number_that_a_command_returns_is_its_exit_code(result: int) -> None:
    @click.command()
    def command() -> int:
        return result

    assert frame.run([], command) == result


def test_problems_of_a_config_are_printed_each_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        Problem(file="f", line=3, place="a.b", problem="wrong", suggestion="right"),
        Problem(file="f", line=0, place="", problem="bad"),
    ]
    assert frame.run([], failing_with(exits.BadConfig(problems))) == exits.BAD_CONFIG
    assert capsys.readouterr().err == "f:3: error: a.b: wrong; right\nf: error: bad\n"


def test_an_interrupt_ends_a_command_quietly(tmp_path: Path) -> None:
    code = (
        "import click, sys, time\nfrom loopforge.runtime.cli.frame import run\n"
        "@click.command()\ndef waits(): print('ready', flush=True); time.sleep(1000)\nsys.exit(run([], waits))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path)
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == exits.INTERRUPTED
    assert err.strip() == b""


BUFFERED = {"PYTHONUNBUFFERED": ""}  # what is still buffered at the end is what used to complain


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("arguments", [["--help"], ["config", "show"]])
def test_a_reader_that_goes_away_is_no_reason_to_complain(tmp_path: Path, arguments: list[str]) -> None:
    succeed(tmp_path, "init")
    writer = closed_pipe()
    try:
        run = subprocess.run(
            [*LOOPFORGE, *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(tmp_path, BUFFERED),
            text=True,
        )
    finally:
        os.close(writer)
    assert (run.returncode, run.stderr) == (exits.FAILED, "")


def test_a_reader_that_goes_away_while_a_nursery_runs_is_no_reason_either(tmp_path: Path) -> None:
    code = (
        "import click, sys\nfrom loopforge.runtime.cli.frame import run\n"
        "@click.command()\ndef writes(): print('x'); raise ExceptionGroup('', [BrokenPipeError(32, 'Broken pipe')])\n"
        "sys.exit(run([], writes))"
    )
    writer = closed_pipe()
    try:
        run = subprocess.run(
            [sys.executable, "-c", code],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(tmp_path, BUFFERED),
            text=True,
        )
    finally:
        os.close(writer)
    assert (run.returncode, run.stderr) == (exits.FAILED, "")


@pytest.mark.parametrize(
    ("closed", "arguments", "code"), [(">&-", "config path", 0), ("2>&-", "nonsense", 2), ("<&- >&- 2>&-", "--help", 0)]
)
def test_closed_streams_break_nothing(tmp_path: Path, closed: str, arguments: str, code: int) -> None:
    command = f"exec {sys.executable} -m loopforge.runtime {arguments} {closed}"
    run = subprocess.run(["sh", "-c", command], capture_output=True, env=environment(tmp_path))
    assert run.returncode == code
    assert b"Traceback" not in run.stderr


def test_a_locale_without_our_characters_breaks_no_message(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('"é" = 1\n')
    run = loopforge(tmp_path, "config", "validate", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert (run.returncode, run.stderr) == (exits.BAD_CONFIG, "")
    assert "config.toml:1: error: " in run.stdout


@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals_that_want_it(tmp_path: Path, extra: dict[str, str], coloured: bool) -> None:
    (tmp_path / "config.toml").write_text("x = 1\n")
    shown = on_terminal([*LOOPFORGE, "config", "validate"], environment(tmp_path, extra))
    assert b"config.toml:1" in shown
    assert (b"\x1b[" in shown) == coloured
    assert "\x1b[" not in loopforge_here(tmp_path, "config", "validate", env=extra).stdout


def on_terminal(command: list[str], env: dict[str, str]) -> bytes:
    """What a command shows on a terminal of its own."""
    ours, theirs = os.openpty()
    try:
        subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm"})
        return os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)

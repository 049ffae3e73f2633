"""The service's log: in order, at its level, and never a reason to wait."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import termios
import threading
from pathlib import Path

import pytest

from loopforge.runtime.cli.log_thread import MAX_WAITING, logging_to_stderr
from tests.runtime.cli.running import LOOPFORGE, environment, loopforge
from tests.runtime.cli.service import PATIENCE_S, wait_until

log = logging.getLogger("loopforge")


class Terminal:
    """Takes lines; while `moving` is unset it stands still. `reached`: somebody has come to write."""

    def __init__(self, *, moving: bool) -> None:
        self.text = ""
        self.reached = threading.Event()
        self.moving = threading.Event()
        if moving:
            self.moving.set()

    def write(self, text: str) -> None:
        self.reached.set()
        self.moving.wait(PATIENCE_S)
        self.text += text


def test_lines_come_in_order_with_their_level() -> None:
    terminal = Terminal(moving=True)
    with logging_to_stderr("info", terminal.write):
        log.debug("no")
        for number in range(50):
            log.info("line %d", number)
        log.warning("last")
    lines = terminal.text.splitlines()
    assert [line.partition("INFO ")[2] for line in lines[:-1]] == [f"line {number}" for number in range(50)]
    assert lines[-1].endswith("WARNING last")


def test_the_logger_is_left_as_it_was() -> None:
    before = (log.level, list(log.handlers))
    with logging_to_stderr("debug", Terminal(moving=True).write):
        assert log.isEnabledFor(logging.DEBUG)
    assert (log.level, list(log.handlers)) == before


def test_a_terminal_that_stands_still_costs_lines_and_they_are_counted() -> None:
    terminal = Terminal(moving=False)
    with logging_to_stderr("info", terminal.write):
        log.info("first")
        assert terminal.reached.wait(PATIENCE_S)  # the thread is stuck with it
        for number in range(MAX_WAITING + 7):
            log.info("line %d", number)
        terminal.moving.set()
        wait_until(lambda: terminal.text.count("INFO line") == MAX_WAITING, "all that waited is written")
    assert "WARNING 7 log lines were lost: standard error was read too slowly" in terminal.text


@pytest.mark.parametrize("journal", ["", "8:1234"])
def test_the_journal_stamps_lines_itself(journal: str) -> None:
    program = (
        "import logging; from loopforge.runtime.cli.log_thread import logging_to_stderr\n"
        "with logging_to_stderr('info'): logging.getLogger('loopforge').info('hello')"
    )
    run = subprocess.run(
        [LOOPFORGE[0], "-c", program], capture_output=True, text=True, env={**os.environ, "JOURNAL_STREAM": journal}
    )
    assert run.stderr.endswith("INFO hello\n")
    assert (run.stderr == "INFO hello\n") == bool(journal)


def test_a_service_whose_terminal_is_stopped_goes_on_serving_and_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[providers.a]\nkind = "openai_compatible"\nbase_url = "http://127.0.0.1:1/v1"\ndefault_model = "m"\n'
        + "".join(f'[router.{kind}]\nprovider = "a"\nmodel = "default"\n' for kind in ("planning", "coding", "summary"))
    )
    master, slave = os.openpty()
    termios.tcflow(slave, termios.TCOOFF)  # as Ctrl-S
    service = subprocess.Popen(
        [*LOOPFORGE, "serve"], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=environment(tmp_path)
    )
    try:
        wait_until(lambda: "a         ready" in loopforge(tmp_path, "status").stdout, "the worker's start was logged")
        service.send_signal(signal.SIGTERM)
        assert service.wait(PATIENCE_S) == 0
    finally:
        service.kill()
        service.wait()
        os.close(slave)
        os.close(master)

"""The service's log on standard error, written by a thread: a terminal under Ctrl-S stops the lines, never the loop."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator

MAX_WAITING = 1000
"""Lines that may wait for a terminal or pipe that reads slowly; further ones are counted, and lost."""
LAST_LINES_S = 1.0
"""How long the end of the service waits for the last lines."""


def write_to_stderr(text: str) -> None:
    """Straight to the descriptor: a thread stuck inside sys.stderr would hold its lock, and so the process's end."""
    left = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # closed, or its reader is gone: there is nobody to tell
        while left:
            left = left[os.write(2, left) :]


@contextlib.contextmanager
def logging_to_stderr(level: str, write: Callable[[str], None] = write_to_stderr) -> Iterator[None]:
    """Log lines of `level` (debug, info, warning, error) and above are written while the block runs.

    `write` takes whole lines, in a thread, and may block.
    """
    logger = logging.getLogger("loopforge")
    handler = _QueueingHandler(write)
    thread = threading.Thread(target=handler.write_lines, name="log", daemon=True)
    before = logger.level
    logger.setLevel(level.upper())
    logger.addHandler(handler)
    thread.start()
    try:
        yield
    finally:
        handler.stop()
        thread.join(LAST_LINES_S)
        logger.removeHandler(handler)
        logger.setLevel(before)


class _QueueingHandler(logging.Handler):
    """Hands records over to the thread in `write_lines`; never blocks."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_WAITING)
        self._lost = 0
        stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "  # the journal stamps each line itself
        self.setFormatter(logging.Formatter(f"{stamp}%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def write_lines(self) -> None:
        """In a thread of its own, until `stop`."""
        while (record := self._records.get()) is not None:
            self._write(f"{self.format(record)}\n")
            if self._lost:
                lost, self._lost = self._lost, 0
                text = f"{lost} log lines were lost: standard error was read too slowly"
                about = logging.LogRecord("loopforge", logging.WARNING, __file__, 0, text, None, None)
                self._write(f"{self.format(about)}\n")

    def stop(self) -> None:
        with contextlib.suppress(queue.Full):  # then the thread is stuck, and ends with the process
            self._records.put_nowait(None)

"""The service's log on standard error, written by a thread: a terminal under Ctrl-S stops the lines, never the loop."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Iterator

MAX_WAITING = 1000
"""Lines that may wait for a terminal or pipe that reads slowly; further ones are counted, and lost."""
LAST_LINES_S = 1.0
"""How long the end of the service waits for the last lines."""


@contextlib.contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log lines of `level` (debug, info, warning, error) and above go to standard error while the block runs."""
    logger = logging.getLogger("loopforge")
    handler = _QueueingHandler()
    thread = threading.Thread(target=handler.write_lines, name="log", daemon=True)
    before = logger.level, logging.raiseExceptions
    logging.raiseExceptions = False  # a closed stderr is no reason to write tracebacks to it
    logger.setLevel(level.upper())
    logger.addHandler(handler)
    thread.start()
    try:
        yield
    finally:
        handler.stop()
        thread.join(LAST_LINES_S)
        logger.removeHandler(handler)
        logger.level, logging.raiseExceptions = before


class _QueueingHandler(logging.Handler):
    """Hands records over to the thread in `write_lines`; never blocks."""

    def __init__(self) -> None:
        super().__init__()
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_WAITING)
        self._lost = 0
        self._target = logging.StreamHandler()
        # The journal stamps each line itself.
        stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "
        self._target.setFormatter(logging.Formatter(f"{stamp}%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def write_lines(self) -> None:
        """In a thread of its own, until `stop`."""
        while (record := self._records.get()) is not None:
            self._target.handle(record)
            if self._lost:
                lost, self._lost = self._lost, 0
                text = f"{lost} log lines were lost: standard error was read too slowly"
                self._target.handle(logging.makeLogRecord({"levelname": "WARNING", "msg": text}))

    def stop(self) -> None:
        with contextlib.suppress(queue.Full):  # then the thread is stuck, and ends with the process
            self._records.put_nowait(None)

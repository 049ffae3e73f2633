"""Standard output and error of a command that runs a trio loop: written in order, from a thread.

A terminal under Ctrl-S, or a full pipe, blocks whoever writes to it; here that is a thread, so the loop goes on reading
events, serves its own workers and hears Ctrl-C. O_NONBLOCK would do the same but belongs to the open file, which the
shell and everything else started from it share.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import trio

MAX_WAITING_BYTES = 256 * 1024
"""What may wait for a slow reader before `write` waits, too."""
_AT_ONCE_BYTES = 65536  # the size of a pipe

OUT, ERR = 1, 2


class Piece(NamedTuple):
    """Text for one of the two descriptors."""

    fd: int
    text: str


Targets = Mapping[int, tuple[int, str]]


def standard_streams() -> Targets:
    """Descriptor and encoding of standard output and error.

    Without those that were closed when Python started: by now their numbers may be something else's.
    """
    streams = ((OUT, sys.stdout), (ERR, sys.stderr))
    return {fd: (fd, stream.encoding) for fd, stream in streams if stream is not None}


class Outlet:
    """Start `run` and `watch_reader` in a nursery.

    `targets`: OUT and ERR -> where they go, and in which encoding. `ended` is set when standard output cannot be
    written any more; `error` then says why.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self.ended = trio.Event()
        self.error: OSError | None = None
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._finishing = False
        self._news = trio.Event()
        self._room = trio.Event()
        self._drained = trio.Event()
        self._drained.set()

    async def write(self, pieces: Iterable[Piece]) -> None:
        """Queue the pieces; waits while much waits already. What comes after the end goes nowhere."""
        self.post(pieces)
        while self._bytes > MAX_WAITING_BYTES:
            await self._room.wait()

    def post(self, pieces: Iterable[Piece]) -> None:
        """As `write`, for the few words that nobody can wait with."""
        for fd, text in pieces:
            if text and fd in self._targets and not self.ended.is_set():
                data = text.encode(self._targets[fd][1], "backslashreplace")
                self._waiting.append((fd, data))
                self._bytes += len(data)
                self._news.set()
                self._drained = trio.Event() if self._drained.is_set() else self._drained

    def finish(self) -> None:
        """Nothing more will be written: once all has been, a reader that leaves is no failure."""
        self._finishing = True

    async def wait_drained(self) -> None:
        """Until all is written, or nobody reads any more."""
        await self._drained.wait()

    async def run(self) -> None:
        """Write what is queued, until cancelled or nobody reads."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._waiting:
                fd, data = self._take()
                try:
                    # A blocked write cannot be interrupted; its thread ends with the process.
                    await trio.to_thread.run_sync(_write_all, self._targets[fd][0], data, abandon_on_cancel=True)
                except OSError as exc:
                    if fd == OUT:
                        self._end(exc)
                        return
                self._bytes -= len(data)
                self._wake_writers()
            self._drained.set()

    async def watch_reader(self) -> None:
        """End as soon as the other end of a pipe is closed, not only when something is written next."""
        if OUT not in self._targets:
            return
        target = self._targets[OUT][0]
        if stat.S_ISFIFO(os.fstat(target).st_mode):
            await trio.lowlevel.wait_readable(target)  # of the write end: nothing to read, so only the closing wakes it
            if _is_broken(target):
                self._end(BrokenPipeError())

    def _take(self) -> tuple[int, bytes]:
        """Everything for the first piece's descriptor up to the next one for the other, within reason."""
        fd, data = self._waiting.popleft()
        pieces, size = [data], len(data)
        while self._waiting and self._waiting[0][0] == fd and size < _AT_ONCE_BYTES:
            pieces.append(self._waiting.popleft()[1])
            size += len(pieces[-1])
        return fd, b"".join(pieces)

    def _wake_writers(self) -> None:
        self._room.set()
        self._room = trio.Event()

    def _end(self, error: OSError) -> None:
        if not self.ended.is_set() and not (self._finishing and self._drained.is_set()):
            self.error = error
            error.filename = "standard output"
            self._waiting.clear()
            self._bytes = 0
            self._wake_writers()
            self._drained.set()
            self.ended.set()


def _is_broken(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _write_all(fd: int, data: bytes) -> None:
    """In a thread. Raises OSError."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody who shares the open file has set O_NONBLOCK
            select.select([], [fd], [])

"""Processes of the benchmarks' own. Each takes commands as lines of JSON, answers each one, and ends with its input.

async with open_child("bench.provider") as child:     # here
    url = await child.ask({"play": {...}})

trio.run(answer_commands, answer)                     # there: `answer` is awaited with each command in turn
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

END_S = 5.0


class ChildDied(Exception):
    """A process of the benchmark ended before it answered; what it said is on standard error."""


class Lines:
    """Lines out of a stream of bytes."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._begun = bytearray()

    async def next(self) -> bytes:
        """The next whole line; b"" at the end."""
        while b"\n" not in self._begun:
            data = await self._stream.receive_some()
            if not data:
                return b""
            self._begun += data
        line, _, self._begun = self._begun.partition(b"\n")
        return bytes(line)


class Child:
    """A running process that answers."""

    def __init__(self, process: subprocess.Popen[bytes], argv: list[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._process = process
        self._argv = argv
        self._stdin = trio.lowlevel.FdStream(os.dup(process.stdin.fileno()))
        self._stdout = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        process.stdin.close()
        process.stdout.close()
        self._lines = Lines(self._stdout)

    async def ask(self, command: Any) -> Any:
        """Its answer. Raises ChildDied."""
        try:
            await self._stdin.send_all(json.dumps(command).encode() + b"\n")
            line = await self._lines.next()
        except trio.BrokenResourceError:
            line = b""
        if not line:
            raise ChildDied(f"{' '.join(self._argv)} ended, asked for {command!r:.100}")
        return json.loads(line)

    async def aclose(self) -> None:
        """End its input, and see it gone."""
        await trio.aclose_forcefully(self._stdin)
        await trio.aclose_forcefully(self._stdout)
        pidfd = os.pidfd_open(self.pid)
        with trio.move_on_after(END_S, shield=True):
            await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)
        self._process.kill()  # does nothing once it has been waited for
        self._process.wait()


@asynccontextmanager
async def open_child(module: str, *arguments: str) -> AsyncIterator[Child]:
    """`python -m MODULE ARGUMENTS`, gone with the block."""
    child = _start([sys.executable, "-m", module, *arguments])
    try:
        yield child
    finally:
        await child.aclose()


def _start(argv: list[str]) -> Child:
    return Child(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE), argv)


async def answer_commands(answer: Callable[[Any], Awaitable[Any]]) -> None:
    """In the child: one command after the other, until the input ends."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        lines = Lines(stdin)
        while line := await lines.next():
            answered = await answer(json.loads(line))
            sys.stdout.write(json.dumps(answered) + "\n")
            sys.stdout.flush()


def calm_collector() -> None:
    """As every process of the runtime does once it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def raise_file_limit() -> None:
    """A thousand streams are a thousand descriptors; processes started from here inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

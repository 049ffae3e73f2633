"""The simulator's process: started with profiles, asked for its address, gone with the block. It sees no key.

How it is talked to: the docstring of drivers/simulator/__main__.py. It is known here by its command line alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import trio

START_S = 20.0
"""It listens after 0.4 s on a quiet machine."""
END_S = 2.0
MAX_WORDS = 500

COMMAND = (sys.executable, "-P", "-m", "loopforge.drivers.simulator")  # -P: nothing is imported from the cwd
_KEPT_VARIABLES = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV"}
_KEPT_PREFIXES = ("LC_", "LD_", "PYTHON", "COVERAGE_")


class SimulatorFailed(Exception):
    """The simulator did not start; the text says what it said."""


@asynccontextmanager
async def open_simulators(*groups: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[dict[str, str]]:
    """Play the providers of each group on loopback, a process a group: provider -> the base_url to give it.

    `groups`: provider -> its profile, in plain values; an empty group has no process. Raises SimulatorFailed.
    """
    base_urls: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        started = [(group, await stack.enter_async_context(_process(group))) for group in groups if group]
        for group, process in started:  # all are starting at once
            url = await process.url()
            base_urls |= {provider: f"{url}/{provider}/v1" for provider in group}
        yield base_urls


@dataclass(frozen=True, slots=True)
class _Process:
    """A simulator that is starting, or runs. `errors`: the memory file behind its stderr."""

    popen: subprocess.Popen[bytes]
    errors: int

    async def url(self) -> str:
        """Where it listens, once it does. Raises SimulatorFailed when it ends or takes too long."""
        if url := await _first_line(self.popen):
            return url
        words = os.pread(self.errors, 64 * 1024, 0).decode("utf-8", "replace").strip()
        raise SimulatorFailed(f"the simulator did not start: {words[-MAX_WORDS:] or 'it said nothing'}")


@asynccontextmanager
async def _process(profiles: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[_Process]:
    """Started, not waited for; nothing of it is left when the block is."""
    with _memory_file("profiles") as written, _memory_file("errors") as errors:
        os.write(written, json.dumps(profiles).encode())
        os.lseek(written, 0, os.SEEK_SET)
        process = _start(written, errors)
        pidfd = os.pidfd_open(process.pid)
        try:
            yield _Process(process, errors)
        finally:
            _close_pipes(process)  # the end of its input ends it
            with trio.move_on_after(END_S, shield=True):
                await trio.lowlevel.wait_readable(pidfd)
            process.kill()  # does nothing once it has been waited for
            process.wait()  # short: it has ended, or has been killed just now
            os.close(pidfd)


def _start(profiles: int, errors: int) -> subprocess.Popen[bytes]:
    """On the loop's own thread, as workers are (0.3 ms).

    In a process group of its own: the Ctrl-C of a terminal is for whoever rehearses, who then leaves the block.
    """
    return subprocess.Popen(
        [*COMMAND, "--profiles", f"/dev/fd/{profiles}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        pass_fds=(profiles,),
        env={name: value for name, value in os.environ.items() if _is_kept(name)},
        process_group=0,
    )


async def _first_line(process: subprocess.Popen[bytes]) -> str:
    """What it prints once it listens, "" when it ends or takes too long."""
    assert process.stdout is not None
    said = b""
    with trio.move_on_after(START_S):
        async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as stdout:
            while b"\n" not in said and (data := await stdout.receive_some()):
                said += data
    line, ended, _ = said.partition(b"\n")
    return line.decode("ascii", "replace") if ended else ""


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def _is_kept(name: str) -> bool:
    return name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)


@contextmanager
def _memory_file(name: str) -> Iterator[int]:
    descriptor = os.memfd_create(f"loopforge-{name}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)

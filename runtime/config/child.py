"""Checks a configuration in a child process, so that no file can stall, bloat or crash the process that asks.

The caller imports neither pydantic nor a TOML parser, and hands over no key: the child learns only the names of the
variables that are set. What goes in and comes out lies in memory files, not pipes, so nobody waits on the other end;
the kernel bounds what the child may write, and the caller how long it may take. A child that crashes, hangs or
answers garbage becomes a Checked with one Problem.

The child is spawned with subprocess on the calling thread: trio's own spawn helpers use a thread that ends early, and
children that die with their parent's thread (PR_SET_PDEATHSIG) die with it.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgpack

from loopforge.runtime.config.paths import Environment
from loopforge.runtime.config.values import Checked, Problem
from loopforge.workers.packing import Malformed, from_plain

TIME_LIMIT_S = 10.0  # a full config takes 0.15 s; the largest file allowed, full of errors, 2 s on a busy machine
MAX_ANSWER_BYTES = 8 << 20  # a file may have 1 MiB, and every table in it gets its defaults

CHILD = (sys.executable, "-P", "-m", "loopforge.runtime.config", "--names-on-stdin")  # -P: not from the current folder
_KEPT_VARIABLES = {
    "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "CREDENTIALS_DIRECTORY", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8",
    "COVERAGE_PROCESS_START",
}  # fmt: skip


async def check_in_child(
    path: Path, env: Environment, *, command: Sequence[str] = CHILD, time_limit_s: float = TIME_LIMIT_S
) -> Checked:
    """What `load.check(path, env)` says, from a child of its own. Cancelling kills the child. Needs a trio loop."""
    import trio

    with _started(command, path, env) as child:
        with trio.move_on_after(time_limit_s) as limit:
            await trio.lowlevel.wait_readable(child.pidfd)
        return child.outcome(path, timed_out=limit.cancelled_caught, time_limit_s=time_limit_s)


def check_in_child_blocking(
    path: Path, env: Environment, *, command: Sequence[str] = CHILD, time_limit_s: float = TIME_LIMIT_S
) -> Checked:
    """As `check_in_child`, for callers without a loop."""
    with _started(command, path, env) as child:
        ended, _, _ = select.select([child.pidfd], [], [], time_limit_s)
        return child.outcome(path, timed_out=not ended, time_limit_s=time_limit_s)


class _Child:
    """A running check. `answer` and `errors` are the memory files behind its stdout and stderr."""

    def __init__(self, process: subprocess.Popen[bytes], pidfd: int, answer: int, errors: int) -> None:
        self.process = process
        self.pidfd = pidfd
        self._answer = answer
        self._errors = errors

    def outcome(self, path: Path, *, timed_out: bool, time_limit_s: float) -> Checked:
        if timed_out:
            return _failed(path, f"the check took longer than {time_limit_s:g} s and was stopped")
        status = self.process.wait()  # it has ended: this only collects the status
        if status != 0:
            last_line = _read_all(self._errors, 64 << 10).decode("utf-8", "replace").strip().rpartition("\n")[2]
            return _failed(path, f"the check ended with {_name_status(status)}: {last_line[:200] or 'without a word'}")
        try:
            return from_plain(Checked, msgpack.unpackb(_read_all(self._answer, MAX_ANSWER_BYTES)))
        except (ValueError, msgpack.UnpackException, Malformed) as exc:
            return _failed(path, f"the check's answer cannot be read: {exc}"[:300])


@contextmanager
def _started(command: Sequence[str], path: Path, env: Environment) -> Iterator[_Child]:
    """The child, running; nothing of it is left afterwards."""
    with _memory_file("names") as names, _memory_file("answer") as answer, _memory_file("errors") as errors:
        with open(names, "wb", closefd=False) as file:
            file.write("\n".join(name for name, value in env.items() if value).encode("utf-8", "surrogateescape"))
        os.lseek(names, 0, os.SEEK_SET)
        process = subprocess.Popen(
            [*command, os.fspath(path)], stdin=names, stdout=answer, stderr=errors, env=_child_environment(env)
        )
        try:
            _bound_output(process.pid)
            with _pidfd(process.pid) as pidfd:
                yield _Child(process, pidfd, answer, errors)
        finally:
            process.kill()  # does nothing once it has been waited for
            process.wait()  # short: it has ended, or has been killed just now and holds nothing that could keep it


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _memory_file(name: str) -> Iterator[int]:
    descriptor = os.memfd_create(f"loopforge-check-{name}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bound_output(pid: int) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (MAX_ANSWER_BYTES, MAX_ANSWER_BYTES))
    except OSError:  # it has ended already, or a sandbox forbids limits; the time limit holds in any case
        return


def _child_environment(env: Environment) -> dict[str, str]:
    """What a Python process needs to start; no key."""
    return {name: value for name, value in env.items() if name in _KEPT_VARIABLES or name.startswith("LC_")}


def _read_all(descriptor: int, limit: int) -> bytes:
    return os.pread(descriptor, limit, 0)


def _name_status(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"signal {-status} ({signal.strsignal(-status)})"


def _failed(path: Path, problem: str) -> Checked:
    suggestion = "try 'loopforge config validate'; if that fails, too, report it as a bug together with the file"
    return Checked(
        config=None, problems=(Problem(file=str(path), line=0, place="", problem=problem, suggestion=suggestion),)
    )

"""Processes and files that a test left behind.

Read from /proc (proc(5): /proc/PID/task/TID/children, /proc/PID/fd); elsewhere nothing is found. A process whose parent
died counts too: the test process adopts it (PR_SET_CHILD_SUBREAPER), so a worker that outlives its supervisor is seen.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 2.0  # a process that was just killed, or lost its supervisor, may take a moment to be gone

_TASKS = Path("/proc/self/task")
_FILES = Path("/proc/self/fd")


@dataclass(frozen=True)
class Held:
    """What this process holds: its children's ids, and its open files as (number, what it is)."""

    children: frozenset[int]
    files: frozenset[tuple[int, str]]


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies. Linux only; elsewhere nothing happens."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def held_now() -> Held:
    return Held(_children(), _files())


def stop_left_children(before: Held) -> list[str]:
    """Kill each child that is not in `before` and does not end by itself soon; returns what they were."""
    if not _wait_until(lambda: not _alive(_children() - before.children)):
        left = _alive(_children() - before.children)
        told = [f"process {pid}: {_command(pid)}" for pid in sorted(left)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        _wait_until(lambda: not _alive(left))
        return told
    return []


def left_files(before: Held) -> list[str]:
    """Open files that are not in `before`. What only a reference cycle keeps open is collected first, not counted."""
    if not _files() - before.files:
        return []
    gc.collect()
    return [f"file {number}: {target}" for number, target in sorted(_files() - before.files)]


def _children() -> frozenset[int]:
    found: set[int] = set()
    for task in _listed(_TASKS):
        try:
            found.update(map(int, (_TASKS / task / "children").read_text().split()))
        except OSError:  # the thread ended while we looked, or the kernel does not keep the list
            continue
    return frozenset(found)


def _files() -> frozenset[tuple[int, str]]:
    found = set()
    for number in _listed(_FILES):
        try:
            if int(number) > 2:  # pytest points the standard ones elsewhere and back as it captures
                found.add((int(number), os.readlink(_FILES / number)))  # noqa: PTH115  # a third of Path's time
        except OSError:  # the one that the listing itself had open
            continue
    return frozenset(found)


def _listed(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208  # a third of Path's time


def _alive(pids: frozenset[int]) -> frozenset[int]:
    """Those of `pids` that still run. The dead are reaped: the ones we adopted have nobody else to do it."""
    alive = set()
    for pid in pids:
        try:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                alive.add(pid)
        except ChildProcessError:
            continue
    return frozenset(alive)


def _wait_until(true: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.005)
    return True


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() or "?"
    except OSError:
        return "?"

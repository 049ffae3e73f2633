"""Runs a short program and takes what it says. Cancelling kills it; nothing of it is left."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio


@dataclass(frozen=True, slots=True)
class Said:
    """`status`: exit status, negative for a signal; None when there is no such program."""

    status: int | None
    out: str = ""


class RunProgram(Protocol):
    async def __call__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
        """Wait for its end. `env`: None takes this process's own. Standard error goes nowhere."""
        ...


async def run_program(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
    """The real one. Standard input is empty."""
    try:
        done = await trio.run_process(
            list(argv),
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            env=env,
            deliver_cancel=_kill,
        )
    except OSError:
        return Said(None)
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"))


async def _kill(process: trio.Process) -> None:
    process.kill()

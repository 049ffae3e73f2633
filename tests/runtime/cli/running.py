"""Runs `loopforge` with a home folder of its own: in a process, as a person does, or here, which is quick."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from loopforge.runtime.cli.frame import run

LOOPFORGE = [sys.executable, "-m", "loopforge.runtime"]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "LOOPFORGE_HOME": str(home), **(extra or {})}


def loopforge(
    home: Path, *arguments: str | Path, env: Mapping[str, str] | None = None, command: Sequence[str] = LOOPFORGE
) -> subprocess.CompletedProcess[str]:
    """One command line with $LOOPFORGE_HOME = home; `env` comes on top."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(home, env),
    )


def succeed(home: Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
    """What a command that must succeed, and have nothing to complain about, prints."""
    run = loopforge(home, *arguments, env=env)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout


def loopforge_here(
    home: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As `loopforge`, in this process: for the many cases of a command that was tried as a process before."""
    out, err, before = io.StringIO(), io.StringIO(), dict(os.environ)
    os.environ.update(environment(home, env))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

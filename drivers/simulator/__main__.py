"""python -m loopforge.drivers.simulator [--port N] [--profiles FILE]: prints its URL on one line once it listens.

FILE holds {PROVIDER: {member of Profile: value}} as JSON, or as TOML when it is called *.toml; without it any name is
a provider. It ends with exit code 0 on SIGTERM or SIGINT, when its standard input ends (if that is a pipe or socket),
or else when its parent dies; with 2 when the profiles are wrong or the port is taken.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import signal
import stat
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import trio

from loopforge.drivers.simulator.faults import FAULTS
from loopforge.drivers.simulator.profile import Profiles, read_profiles
from loopforge.drivers.simulator.server import serve_simulator

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STDIN = 0


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        profiles = _read(asked.profiles) if asked.profiles else None
    except (OSError, ValueError) as exc:  # tomllib's, json's and pydantic's errors are ValueErrors
        sys.stderr.write(f"{asked.profiles}: {exc}\n")
        return 2
    watch_stdin = _is_pipe(_STDIN)
    if not watch_stdin:
        _die_with_parent()
    status = 0
    try:
        trio.run(_serve, profiles, asked.port, watch_stdin)
    except* OSError:
        sys.stderr.write(f"cannot listen on port {asked.port}: choose another one, or 0 for any\n")
        status = 2
    return status


async def _serve(profiles: Profiles | None, port: int, watch_stdin: bool) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            simulator = await nursery.start(_simulate, profiles, port)
            sys.stdout.write(f"{simulator.url}\n")
            sys.stdout.flush()
            # The collector's pauses are most of the tail at a thousand streams.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)
            if watch_stdin:
                nursery.start_soon(_wait_for_end_of_input, nursery.cancel_scope)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def _simulate(profiles: Profiles | None, port: int, task_status: trio.TaskStatus[object]) -> None:
    await serve_simulator(profiles, port=port, task_status=task_status)


async def _wait_for_end_of_input(scope: trio.CancelScope) -> None:
    """A pipe's other end belongs to whoever started this; when it closes, nobody is left to serve."""
    async with trio.lowlevel.FdStream(os.dup(_STDIN)) as stdin:
        try:
            async for _ in stdin:
                pass
        except trio.BrokenResourceError:
            pass
    scope.cancel()


def _is_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _die_with_parent() -> None:
    """Only without a pipe to watch: this signal also comes when the thread that started us ends, see prctl(2)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _read(path: Path) -> Profiles:
    data = path.read_bytes()
    plain = tomllib.loads(data.decode()) if path.suffix == ".toml" else json.loads(data)
    return read_profiles(plain)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loopforge.drivers.simulator",
        description="Plays model providers on 127.0.0.1: latency, rates, tool calls, and faults.",
        epilog="A model called fault-NAME meets a fault: "
        + "; ".join(f"{name} ({what})" for name, what in FAULTS.items()),
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--profiles", type=Path, help="JSON or TOML: {PROVIDER: {member: value}}")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""python -m loopforge.runtime.demo [--seconds N] [--json FILE]: needs no configuration, no key and no Ollama.

Exit code 0 when every turn got an outcome, 1 when one was lost, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path

import trio

from loopforge.drivers.errors import TurnError
from loopforge.runtime.demo.play import Scene, play
from loopforge.runtime.demo.summary import ok, opening, to_lines, to_plain, view
from loopforge.runtime.rehearsal.document import write_json
from loopforge.runtime.rehearsal.layout import width_of
from loopforge.runtime.rehearsal.quiet import quiet_stderr
from loopforge.runtime.rehearsal.run import stop_on_interrupt
from loopforge.runtime.rehearsal.screen import open_screen
from loopforge.runtime.rehearsal.simulator import SimulatorFailed
from loopforge.runtime.serve import tame_collector

DEFAULT_SECONDS = 15.0
LEAST_SECONDS, MOST_SECONDS = 2.0, 3600.0
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a locale without our characters shall not break the table
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("loopforge").addHandler(logging.NullHandler())  # what happens to workers is on the screen
    code = 0
    try:
        code = _play(asked.seconds, asked.json)
    except* KeyboardInterrupt:
        code = INTERRUPTED
    except* BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        code = 1
    except* (SimulatorFailed, TurnError, OSError) as group:
        sys.stderr.write(f"Error: {_first(group)}\n")
        code = 1
    return code


def _play(seconds: float, file: Path | None) -> int:
    """The whole demo on this terminal; the exit code."""
    with quiet_stderr(), open_screen(sys.stdout, time.monotonic) as draw:
        draw(opening())
        scene = trio.run(_until_done, seconds, lambda moment: draw(view(moment)))
    sys.stdout.write("\n".join(to_lines(scene, _command(), width_of(sys.stdout))) + "\n")
    if file is not None:
        write_json(file, to_plain(scene))
    if scene.interrupted:
        return INTERRUPTED
    return 0 if ok(scene) else 1


async def _until_done(seconds: float, show: Callable[[Scene], None]) -> Scene:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_interrupt, stop)
        tame_collector()
        scene = await play(seconds, show, stop)
        nursery.cancel_scope.cancel()
    return scene


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _command() -> str:
    """How `loopforge` is called from here: by its path when it is not the one that the shell would find."""
    beside = Path(sys.executable).with_name("loopforge")
    if not beside.exists() or shutil.which("loopforge") == str(beside):
        return "loopforge"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {LEAST_SECONDS:g} to {MOST_SECONDS:g}")
    return seconds


def _file(text: str) -> Path:
    file = Path(text)
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file in a folder that exists")
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loopforge.runtime.demo",
        description=(
            "Planning on a local provider, and three clouds: one slow, one stuck, one whose worker is killed half "
            "way. All are simulated on this machine: no key, no cost. Exit code 0 when every turn got an outcome."
        ),
    )
    parser.add_argument(
        "--seconds", metavar="N", type=_seconds, default=DEFAULT_SECONDS, help=f"about how long ({DEFAULT_SECONDS:g})"
    )
    parser.add_argument("--json", metavar="FILE", type=_file, help="write the figures to this file as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())

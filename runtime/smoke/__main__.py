"""python -m loopforge.runtime.smoke [--run]: plans the provider health report, or makes it. Exit code 1: a case failed.

Interrupted (Ctrl-C, SIGTERM), it writes down what it has, says so, and ends with 130.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import trio

from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.config import paths
from loopforge.runtime.config.child import check_in_child_blocking
from loopforge.runtime.config.paths import Environment
from loopforge.runtime.smoke.cases import CASES
from loopforge.runtime.smoke.report import FAILED, Report, key_states, plan, to_line, write
from loopforge.runtime.smoke.results import STATUSES, CaseResult, totals
from loopforge.runtime.smoke.run import JOBS, keep_quiet, smoke_all
from loopforge.runtime.smoke.targets import SKIP_OLLAMA, Target, targets_of

USAGE = 2
BAD_CONFIG = 78  # EX_CONFIG of sysexits.h, as every command of ours
INTERRUPTED = 130
MAX_TIMEOUT_S = 3600.0
MAX_JOBS = 32


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m loopforge.runtime.smoke") -> int:
    """The exit code. Prints each case as it ends, then the totals and where the report is."""
    parser = _parser(prog)
    asked = parser.parse_args(arguments)
    config = paths.PRESETS if asked.presets else paths.config_or_presets(asked.config, os.environ)
    checked = check_in_child_blocking(config, os.environ)
    if checked.config is None:
        for problem in checked.problems:
            _complain(str(problem))
        return BAD_CONFIG
    try:
        targets = _targets(checked.config.providers, asked.only, os.environ)
    except KeyError as exc:
        known = ", ".join(checked.config.providers)
        _complain(f"{prog}: there is no provider {exc} in {config}; its providers: {known}")
        return USAGE
    report = _make(targets, str(config), ran=asked.run, timeout_s=asked.timeout, jobs=asked.jobs)
    try:
        files = write(report, asked.out_dir)
    except OSError as exc:
        _complain(f"{prog}: the report cannot be written: {exc}; name another folder with --out-dir")
        return FAILED
    _say_end(report, files)
    return INTERRUPTED if report.interrupted else report.exit_code


def _targets(providers: Mapping[str, ProviderSettings], only: Sequence[str], env: Environment) -> tuple[Target, ...]:
    return targets_of(providers, env, dict.fromkeys(only) if only else None)


def _make(targets: Sequence[Target], config: str, *, ran: bool, timeout_s: float | None, jobs: int) -> Report:
    started_at, began = datetime.now(UTC), time.monotonic()
    interrupted = False
    results = plan(targets)
    if ran:
        results, interrupted = trio.run(_run, targets, timeout_s, jobs)
    else:
        tell = Telling()
        for result in results:
            tell(result)
    return Report(
        config=config,
        ran=ran,
        started_at=started_at,
        duration_s=time.monotonic() - began,
        targets=targets,
        results=results,
        keys=key_states(targets, os.environ),
        interrupted=interrupted,
    )


async def _run(targets: Sequence[Target], timeout_s: float | None, jobs: int) -> tuple[tuple[CaseResult, ...], bool]:
    keep_quiet()
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, stop)
        results = await smoke_all(targets, CASES, timeout_s=timeout_s, jobs=jobs, tell=Telling(), stop=stop)
        nursery.cancel_scope.cancel()
    return results, stop.is_set()


async def _stop_on_signal(stop: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    """The first one lets the report be written; a second Ctrl-C does not wait for that."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set() and number == signal.SIGINT:
                raise KeyboardInterrupt
            stop.set()


class Telling:
    """Prints one line a case, as it ends: for whoever watches, and for the log of a nightly run.

    What all cases of a provider are skipped for is told once.
    """

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def __call__(self, result: CaseResult) -> None:
        if result.status != "skipped":
            _say_line(to_line(result, result.place))
        elif (why := (result.provider, result.reason)) not in self._told:
            self._told.add(why)
            _say_line(to_line(result, result.provider))


def _say_end(report: Report, files: Sequence[Path]) -> None:
    counted = totals(report.results)
    said = ", ".join(f"{counted[status]} {status}" for status in STATUSES if counted[status])
    _say_line(f"{counted['cases']} cases: {said or 'none'}. Report: {files[0]}, {files[1]}")
    if not report.ran:
        _say_line("This was a plan: nothing was asked and nothing spent. Ask the providers with --run.")


def _say_line(text: str) -> None:
    """On standard output. Nobody has to read it: the report is what counts."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - os.devnull is no Path
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Asks every provider whose key is set for a text, a stream and a tool call, and writes down how it "
        "went: provider-health.json and provider-health.md. Without --run it only plans, and spends nothing.",
        epilog=f"LOOPFORGE_NAME_MODEL chooses a provider's model (LOOPFORGE_GLM_MODEL=glm-5.3); {SKIP_OLLAMA}=1 leaves "
        "Ollama out. Exit codes: 0 nothing failed, 1 something did, 2 wrong usage, 78 bad configuration, 130 "
        "interrupted.",
    )
    parser.add_argument("--out-dir", type=Path, default=Path(".tmp/provider-health"), metavar="FOLDER")
    parser.add_argument("--run", action="store_true", help="ask the providers; each case costs a few tokens")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this provider; may be repeated")
    parser.add_argument(
        "--config", metavar="FILE", help="instead of $LOOPFORGE_HOME/config.toml, or the presets where there is none"
    )
    parser.add_argument("--presets", action="store_true", help="the 19 presets, whatever config.toml says")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="S", help="seconds a case may take (default 60, local servers 180)"
    )
    parser.add_argument(
        "--jobs", type=_jobs, default=JOBS, metavar="N", help=f"providers at the same time (default {JOBS})"
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not (1.0 <= value <= MAX_TIMEOUT_S) or math.isnan(value):
        raise argparse.ArgumentTypeError(f"write 1 to {MAX_TIMEOUT_S:g} seconds")
    return value


def _jobs(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_JOBS:
        raise argparse.ArgumentTypeError(f"write 1 to {MAX_JOBS}")
    return value


if __name__ == "__main__":
    sys.exit(main())

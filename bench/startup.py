"""How long until something is there, how much memory it takes, and how soon it is gone.

Commands as a person starts them; a worker from its spawn; the service from its spawn; the first turn on a provider that
has no worker yet; memory of both at rest; how many workers a fresh install runs. Then deaths.py: a worker killed with
100 turns in flight, the supervisor killed over idle, stopped and busy workers, a turn cancelled.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

import loopforge
from bench.children import raise_file_limit
from bench.deaths import GO, IN_FLIGHT, STREAMING, cancelled, open_hang_ups, supervisor_killed, worker_killed
from bench.proc import worker_processes
from bench.report import Report, medians, open_report, options_parser, parse_options, pss_bytes
from bench.stack import INSTANT, Provider, open_service, open_stack, start_service, wait_listening
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Turn
from loopforge.runtime.process import spawn
from loopforge.workers.framing import encode
from loopforge.workers.messages import PROTOCOL, FrameType, pack
from loopforge.workers.packing import to_plain

Figures = dict[str, float]

SCRIPT = Path(sys.executable).with_name("loopforge")
LOOPFORGE = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "loopforge.runtime"]


# -- commands --------------------------------------------------------------------------------------------------------


def commands(socket: Path, times: int) -> Figures:
    """Milliseconds from spawn to exit, the median of several; one of each in turn. Blocks."""
    argvs = {
        "python -c pass": [sys.executable, "-I", "-c", "pass"],
        "loopforge --help": [*LOOPFORGE, "--help"],
        "loopforge status": [*LOOPFORGE, "status"],
    }
    env = {**os.environ, "LOOPFORGE_SOCKET": str(socket)}
    spent: dict[str, list[float]] = {name: [] for name in argvs}
    for _ in range(times):
        for name, argv in argvs.items():
            before = time.perf_counter()
            subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, check=True)
            spent[name].append((time.perf_counter() - before) * 1e3)
    return {f"{name}, ms": statistics.median(found) for name, found in spent.items()}


# -- processes -------------------------------------------------------------------------------------------------------


async def worker(url: str) -> Figures:
    """Spawn one as the supervisor does; milliseconds to its HELLO and to its READY."""
    settings = ProviderSettings(name="bench", kind="openai_compatible", base_url=url, default_model="m")
    header = pack({"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()})
    found: Figures = {}
    before = time.perf_counter()
    process = spawn(settings, os.environ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.channel.run)
        while "worker READY, ms" not in found:
            for frame in await process.channel.receive():
                if frame.type == FrameType.HELLO:
                    found["worker HELLO, ms"] = (time.perf_counter() - before) * 1e3
                    process.channel.post(encode(FrameType.WELCOME, header=header, body=pack(to_plain(settings))))
                elif frame.type == FrameType.READY:
                    found["worker READY, ms"] = (time.perf_counter() - before) * 1e3
        nursery.cancel_scope.cancel()
    await process.channel.aclose()
    await process.wait_exited()
    process.close()
    return found


async def service(config: Path) -> Figures:
    """Milliseconds until `loopforge serve` accepts a connection."""
    with tempfile.TemporaryDirectory(prefix="loopforge-bench-") as folder:
        path = Path(folder, "s")
        before = time.perf_counter()
        process = start_service(config, path)
        try:
            await wait_listening(path)
            return {"service listens, ms": (time.perf_counter() - before) * 1e3}
        finally:
            process.kill()
            process.wait()


async def memory(config: Path, rest_s: float) -> Figures:
    """MB of a service at rest, and of its one worker. Nothing where another process's pages may not be looked at."""
    with tempfile.TemporaryDirectory(prefix="loopforge-bench-") as folder:
        async with open_service(config, Path(folder, "s")) as pid:
            await trio.sleep(rest_s)
            (worker_pid,) = worker_processes(pid, "local")
            try:
                return {"supervisor PSS, MB": pss_bytes(pid) / 1e6, "worker PSS, MB": pss_bytes(worker_pid) / 1e6}
            except PermissionError:  # neither is dumpable: only root sees that much of them
                return {}


def _init(env: dict[str, str]) -> None:
    subprocess.run([*LOOPFORGE, "init"], env=env, stdout=subprocess.DEVNULL, check=True)


async def fresh_install(rest_s: float) -> Figures:
    """`loopforge init`, then `loopforge serve`: how many workers run."""
    with tempfile.TemporaryDirectory(prefix="lf-") as home:
        env = {name: value for name, value in os.environ.items() if not name.startswith("LOOPFORGE_")}
        env["LOOPFORGE_HOME"] = home
        _init(env)
        async with open_service(Path(home, "config.toml"), Path(home, "s")) as pid:
            await trio.sleep(rest_s)
            return {"fresh install, workers": len(worker_processes(pid))}


# -- one round -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effort:
    """How often a round does what varies, and how long it waits for rest."""

    commands: int = 7
    processes: int = 3
    cancels: int = 20
    rest_s: float = 1.0


QUICK = Effort(commands=1, processes=1, cancels=2, rest_s=0.5)


async def one_round(effort: Effort) -> Figures:
    return await starts(effort) | await deaths(effort)


async def starts(effort: Effort) -> Figures:
    cold = {f"cold-{number}": Provider(profile=INSTANT.profile, host="local") for number in range(effort.processes)}
    async with open_stack({"local": INSTANT, **cold}, {"planning": "local"}) as stack:
        found = commands(stack.socket, effort.commands)
        found |= medians([await worker(stack.urls["local"]) for _ in range(effort.processes)])
        found |= medians([await service(stack.config) for _ in range(effort.processes)])
        times = []
        for provider in cold:
            before = time.perf_counter()
            await stack.runtime.ask(Turn(kind="planning", messages=GO, provider=provider))
            times.append((time.perf_counter() - before) * 1e3)
        found["first turn on a cold provider, ms"] = statistics.median(times)
        found |= await memory(stack.config, effort.rest_s)
    return found | await fresh_install(effort.rest_s)


async def deaths(effort: Effort) -> Figures:
    found: Figures = {}
    async with open_hang_ups() as hang_ups:
        providers = {"cloud": STREAMING, "local": INSTANT, "held": Provider(url=hang_ups.url)}
        async with open_stack(providers, {"planning": "local", "coding": "cloud", "held": "held"}, warm=False) as stack:
            await stack.wait_ready("held")
            for name, streams in {"silent": False, "streaming": True}.items():
                cancel = partial(cancelled, stack.runtime, hang_ups, "held", streams=streams, times=effort.cancels)
                times = await cancel(by_id=True) + await cancel(by_id=False)
                found[f"cancel, {name} provider: connection closed, ms"] = statistics.median(times)
                found[f"cancel, {name} provider: the slowest of {len(times)}, ms"] = max(times)
            await stack.wait_ready("cloud")
            found |= await worker_killed(stack, "cloud", "coding")
    label = "kill -9 of the supervisor: no worker alive"
    found[f"{label}, ms"] = await supervisor_killed()
    found[f"{label}, one was stopped, ms"] = await supervisor_killed(stopped=True)
    found[f"{label}, one was at 100 % CPU, ms"] = await supervisor_killed(busy=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(options_parser("startup", (__doc__ or "").partition("\n")[0]), argv)
    with open_report(options) as report:
        raise_file_limit()
        effort = QUICK if options.quick else Effort()
        show(report, medians([trio.run(one_round, effort) for _ in range(options.rounds)]))


GOALS = {
    "loopforge --help, ms": 60,
    "loopforge status, ms": 70,
    "worker HELLO, ms": 150,
    "first turn on a cold provider, ms": 400,
    "worker PSS, MB": 30,
    "supervisor PSS, MB": 32,
    "fresh install, workers": 1,
    "kill -9 of a worker: last one decided, ms": 20,
    "kill -9 of a worker: next turn served, ms": 400,
    "kill -9 of the supervisor: no worker alive, ms": 100,
    "kill -9 of the supervisor: no worker alive, one was stopped, ms": 100,
    "kill -9 of the supervisor: no worker alive, one was at 100 % CPU, ms": 100,
    "cancel, silent provider: connection closed, ms": 50,
    "cancel, streaming provider: connection closed, ms": 50,
}


def show(report: Report, found: Figures) -> None:
    report.figures = dict(found)
    report.table(
        "Medians", ["", "value", "at most"], [[name, value, GOALS.get(name, "")] for name, value in found.items()]
    )
    for name, most in GOALS.items():
        if name in found:
            text, _, unit = name.rpartition(", ")
            report.goal(text, found[name], "<=", most, unit)
    decided = "kill -9 of a worker: decided, turns"
    report.goal(decided.rpartition(", ")[0], found[decided], ">=", IN_FLIGHT, "turns")
    if "worker PSS, MB" not in found:
        report.note("No figures of memory: neither process is dumpable, so only root sees their share of pages.")


if __name__ == "__main__":
    main()

"""How soon things go on after kill -9: the next turn of a worker's provider, and what a killed service had accepted.

A worker: killed at rest, and with turns in flight; until a turn posted in the same moment is answered. The service:
killed with turns running, which is started again in the same moment; until it answers, until the first of its turns
is at its provider again, and until all are; and until a client that was connected has its next answer. The journal is
on, in a temporary folder.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from bench.chaos import Service, open_kept_service
from bench.proc import worker_processes
from bench.report import Report, medians, open_report, options_parser, parse_options
from bench.stack import INSTANT, Played, Provider, config_text, open_played, wait_listening
from loopforge.drivers.turn import Turn, user
from loopforge.runtime.client import Runtime, connect
from loopforge.runtime.errors import ConnectionLost

Figures = dict[str, float]

GO = (user("go"),)
STREAMING = Provider(
    profile={"first_token_s": 0, "tokens_per_s": 20, "answer_tokens": 100_000}, settings={"max_concurrency": 128}
)
IN_FLIGHT = 100
QUICK_IN_FLIGHT = 10
LOOK_EVERY_S = 0.002
WAIT_S = 30.0
GOALS = {
    "worker at rest: next turn served, ms": 400,
    "worker with turns in flight: next turn served, ms": 400,
}


@dataclass
class Stage:
    """A service with its simulators and a client; `first` answers at once, `long` streams for ever."""

    service: Service
    socket: Path
    played: Played
    runtime: Runtime
    in_flight: int

    async def fill(self) -> None:
        """So many turns stream at `long`; they need no client."""
        for _ in range(self.in_flight):
            await self.runtime.post(Turn(kind="coding", messages=GO, detached=True))
        await self.played.wait_active("long", self.in_flight)

    async def wait_answering(self) -> None:
        """A new client is welcome, and served by a process that has not been killed."""
        while True:
            try:
                async with connect(self.socket, reconnect_s=0) as runtime:
                    await runtime.ping()
                    return
            except ConnectionLost:
                await trio.sleep(LOOK_EVERY_S)

    def kill_worker(self, provider: str) -> None:
        (pid,) = worker_processes(self.service.pid, provider)
        os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def open_stage(in_flight: int) -> AsyncIterator[Stage]:
    providers = {"first": INSTANT, "long": STREAMING}
    with tempfile.TemporaryDirectory(prefix="lf-bench-") as folder:
        home, socket, config = Path(folder), Path(folder, "run", "s"), Path(folder, "config.toml")
        async with open_played(providers) as played:
            _write(config, config_text(providers, {"planning": "first", "coding": "long"}, played.urls))
            async with open_kept_service(home, config, socket) as service:
                await wait_listening(socket)
                async with connect(socket) as runtime:
                    for provider in ("first", "long"):
                        turn = Turn(kind="planning", messages=GO, provider=provider, max_output_tokens=1)
                        await runtime.ask(turn)
                    yield Stage(service, socket, played, runtime, in_flight)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


async def one_round(in_flight: int) -> Figures:
    return await workers_killed(in_flight) | await service_killed(in_flight)


async def workers_killed(in_flight: int) -> Figures:
    found: Figures = {}
    async with open_stage(in_flight) as stage:
        for provider, kind, label in (("first", "planning", "at rest"), ("long", "coding", "with turns in flight")):
            if provider == "long":
                await stage.fill()
            before = time.perf_counter()
            stage.kill_worker(provider)
            await stage.runtime.ask(Turn(kind=kind, messages=GO, max_output_tokens=1))
            found[f"worker {label}: next turn served, ms"] = _ms(before)
    return found


async def service_killed(in_flight: int) -> Figures:
    """The simulators see the old connections closed, and then the new requests."""
    found: Figures = {}
    async with open_stage(in_flight) as stage, trio.open_nursery() as nursery:
        await stage.fill()
        had = (await stage.played.stats("long"))["requests"]

        async def answers() -> None:
            await stage.wait_answering()
            found["service: answers again, ms"] = _ms(before)

        async def next_answer() -> None:
            """Over the connection that broke: the client looks for the service by itself."""
            await stage.runtime.ask(Turn(kind="planning", messages=GO, max_output_tokens=1))
            found["service: a connected client's next turn served, ms"] = _ms(before)

        before = time.perf_counter()
        stage.service.kill()
        nursery.start_soon(next_answer)
        nursery.start_soon(answers)
        with trio.fail_after(WAIT_S):
            while (again := (await stage.played.stats("long"))["requests"] - had) < in_flight:
                if again:
                    found.setdefault("service: the first accepted turn runs again, ms", _ms(before))
                await trio.sleep(LOOK_EVERY_S)
        found.setdefault("service: the first accepted turn runs again, ms", _ms(before))
        found["service: all accepted turns run again, ms"] = _ms(before)
    return found


def _ms(since: float) -> float:
    return (time.perf_counter() - since) * 1e3


def show(report: Report, found: Figures, in_flight: int) -> None:
    report.figures = {**found, "turns in flight": in_flight}
    report.table(f"kill -9, {in_flight} turns in flight", ["", "ms"], [[name, took] for name, took in found.items()])
    for name, most in GOALS.items():
        report.goal(name.removesuffix(", ms"), found[name], "<=", most, "ms")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(options_parser("restart", (__doc__ or "").partition("\n")[0]), argv)
    in_flight = QUICK_IN_FLIGHT if options.quick else IN_FLIGHT
    with open_report(options) as report:
        show(report, medians([trio.run(one_round, in_flight) for _ in range(options.rounds)]), in_flight)


if __name__ == "__main__":
    main()

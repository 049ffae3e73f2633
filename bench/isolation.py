"""What a provider's trouble costs the planning turns of another, and what a busy provider costs its own.

Planning turns are posted 20 times a second to a local provider that answers at once, so that their latency is the
runtime's own. Meanwhile a cloud provider is stuck, streams 5,000 deltas a second over 200 or 1,000 turns, is posted
them all at one moment, answers with 5 MB each second, takes a whole core, or has its worker stopped or killed. Every
client, simulator and worker is a process of its own; the same load is also put on ONE process: drivers and transports
on one loop, with the collector tamed in the same way. Then the case that the default configuration makes, see
one_provider.py. The loads: bench/workloads/isolation.toml.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from bench.children import Child, calm_collector, open_child
from bench.one_provider import ORDERS, figures, simulate
from bench.play import Player, ThroughService
from bench.proc import worker_processes
from bench.report import Report, medians, open_report, options_parser, parse_options, percentile, precise_cpu_s
from bench.stack import Stack, open_stack
from bench.workload import FOLDER, read_workload
from loopforge.drivers.turn import Turn, user

FILE = str(FOLDER / "isolation.toml")
WORKLOAD = read_workload("isolation")
CELL_S = 3.5
"""70 turns: their p99 is the slowest one, and the median of three such is where 99 % of all turns lie below."""
SETTLE_S = 0.5
"""From the moment that all streams stand to the first timed turn."""
HORIZON_S = 3600.0
KILL_EVERY_S = 1.0
MAX_KILLS = 4
"""Of one cell: six deaths in 30 s take the provider down for a minute."""
STOPPED_S = 4.0
LEAD_S = 0.25
"""Timed turns before a burst, so that the burst as a whole lies among them."""

IDLE = "idle"
SINGLE = "one process: "
STREAMS, HUGE = "1,000 streams", "1,000 streams, 5 MB a second"
Figures = dict[str, float]


@dataclass
class Bench:
    """One run: what is measured, and what to measure it with. `cells`: the figures of each round, by cell.

    `load` and `bulk` are clients of their own: one that waits for 5 MB must not hold up one that reads streams.
    """

    stack: Stack
    planner: Player
    load: Child
    bulk: Child
    seconds: float
    seed: int = 0
    cells: dict[str, list[Figures]] = field(default_factory=dict)

    # -- the cells of a round ----------------------------------------------------------------------------------------

    async def idle(self) -> None:
        await self.time(IDLE)

    async def stuck(self, count: int, provider: str) -> None:
        async with self.flying(f"stuck-{count}", provider, count):
            await self.time(f"{count:,} stuck", busy=provider)

    async def streams(self, count: int, provider: str) -> None:
        """Streams that started one after the other; then the same streams with huge answers among them."""
        async with self.flying(f"staggered-{count}", provider, count):
            await self.time(f"{count:,} streams", busy=provider)
            async with self.huge(provider):
                await self.post(self.bulk, f"huge-{provider}")
                await self.time(f"{count:,} streams, 5 MB a second", busy=provider)
                await self.bulk.ask({"stop": True})

    async def burst(self, count: int, provider: str) -> None:
        """Timed from just before the burst, so with the posting of all those turns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.burst_after, f"burst-{count}", LEAD_S)
            await self.time(f"{count:,} streams in a burst", busy=provider)
        await self.land(provider)

    async def burst_after(self, load: str, lead_s: float) -> None:
        await trio.sleep(lead_s)
        await self.post(self.load, load)

    async def stopped(self) -> None:
        """It is there, and dead to the world: the supervisor would end it after 5 s."""
        async with self.flying("staggered-200", "quick", 200):
            pid = (await self.stack.worker_pids())["quick"]
            os.kill(pid, signal.SIGSTOP)
            try:
                await self.time("its worker stopped (SIGSTOP)", busy="quick", seconds=min(self.seconds, STOPPED_S))
            finally:
                os.kill(pid, signal.SIGCONT)
        await self.stack.wait_ready("quick")

    async def flood(self) -> None:
        async with self.flying("flood", "loud", 4):
            await self.time("its worker at 100 % CPU", busy="loud")

    async def killed(self) -> None:
        """The turns of a dead worker fail, and their clients post them again: that is part of the load."""
        deaths = (await self.stack.desk("quick"))["deaths"]
        async with self.flying("staggered-200", "quick", 200):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.keep_killing, "quick")
                found = await self.time("its worker killed (kill -9), 200 streams")
                nursery.cancel_scope.cancel()
            await self.stack.wait_ready("quick")
        found["deaths"] = (await self.stack.desk("quick"))["deaths"] - deaths

    async def keep_killing(self, provider: str) -> None:
        """Whatever worker of the provider there is. Found in /proc: asking the service is a load, too."""
        for _ in range(MAX_KILLS):
            for pid in worker_processes(self.stack.service_pid, provider):
                os.kill(pid, signal.SIGKILL)
            await trio.sleep(KILL_EVERY_S)

    async def single(self, count: int, provider: str) -> None:
        """The same streams, and the same planning turns, in one process."""
        async with open_child("bench.player", FILE, "here", json.dumps(dict(self.stack.urls))) as child:
            await child.ask({"measure": "planning", "seconds": 0.5, "seed": -1})  # warm
            await self.time_single(child, f"{SINGLE}{IDLE}")
            await self.post(child, f"staggered-{count}")
            await self.stack.played.wait_active(provider, count)
            await trio.sleep(SETTLE_S)
            await self.time_single(child, f"{SINGLE}{count:,} streams")
            async with self.huge(provider):
                await self.post(child, f"huge-{provider}")
                await self.time_single(child, f"{SINGLE}{count:,} streams, 5 MB a second")
        await self.stack.played.wait_active(provider, 0, 0)

    async def warm_up(self) -> None:
        """Every worker runs and has answered once."""
        for provider in WORKLOAD.providers:
            turn = Turn(kind="planning", messages=(user("warm up"),), provider=provider, max_output_tokens=1)
            await self.stack.runtime.ask(turn)
        await self.planner.measure("planning", 0.5, seed=-1)

    # -- how a cell is made ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def flying(self, load: str, provider: str, count: int) -> AsyncIterator[None]:
        """With these turns in flight at the provider."""
        await self.post(self.load, load)
        await self.stack.played.wait_active(provider, count)
        await trio.sleep(SETTLE_S)
        yield
        await self.land(provider)

    async def land(self, provider: str) -> None:
        """No turn is in flight there any more."""
        await self.load.ask({"stop": True})
        await self.stack.played.wait_active(provider, 0, 0)
        await self.stack.wait_ready(provider, running=0)

    @asynccontextmanager
    async def huge(self, provider: str) -> AsyncIterator[None]:
        """The provider's next answers have 5 MB."""
        await self.stack.played.change(provider, WORKLOAD.profiles["huge"])
        try:
            yield
        finally:
            await self.stack.played.change(provider, WORKLOAD.providers[provider].profile)

    async def post(self, client: Child, load: str) -> None:
        await client.ask({"post": [load], "seconds": HORIZON_S, "seed": self.seed})

    async def time(self, cell: str, *, busy: str = "", seconds: float | None = None) -> Figures:
        """Planning turns as things are. `busy`: the provider whose worker's CPU is told, too."""
        seconds = seconds or self.seconds
        pids = await self.stack.worker_pids()
        worker = pids.get(busy, 0)
        before, came = {pid: precise_cpu_s(pid) for pid in (self.stack.service_pid, worker) if pid}, await self.texts()
        began = time.perf_counter()
        times = await self.planner.measure("planning", seconds, seed=self.seed)
        took_s = time.perf_counter() - began
        spent = {pid: precise_cpu_s(pid) - cpu_s for pid, cpu_s in before.items()}
        found = {
            **latency(times),
            "deltas/s": (await self.texts() - came) / took_s,
            "supervisor CPU %": spent[self.stack.service_pid] / took_s * 100,
        }
        if worker:
            found["worker CPU %"] = spent[worker] / took_s * 100
        self.cells.setdefault(cell, []).append(found)
        return found

    async def texts(self) -> int:
        return int((await self.load.ask({"count": True}))["texts"])

    async def time_single(self, child: Child, cell: str) -> None:
        before, came = precise_cpu_s(child.pid), int((await child.ask({"count": True}))["texts"])
        began = time.perf_counter()
        times = await child.ask({"measure": "planning", "seconds": self.seconds, "seed": self.seed})
        took_s = time.perf_counter() - began
        spent = precise_cpu_s(child.pid) - before
        told = await child.ask({"count": True})
        found = latency(times) | {
            "deltas/s": (told["texts"] - came) / took_s,
            "worker CPU %": spent / took_s * 100,
        }
        self.cells.setdefault(cell, []).append(found)

    def scenes(self, *, small: bool) -> list[Callable[[], Awaitable[None]]]:
        if small:  # the same code, a fifth of the load
            return [
                self.idle,
                lambda: self.stuck(200, "quick"),
                lambda: self.streams(200, "quick"),
                lambda: self.single(200, "quick"),
                self.killed,
            ]
        return [
            self.idle,
            lambda: self.stuck(200, "quick"),
            lambda: self.stuck(1000, "cloud"),
            lambda: self.streams(200, "quick"),
            lambda: self.streams(1000, "cloud"),
            lambda: self.burst(200, "quick"),
            lambda: self.burst(1000, "cloud"),
            self.idle,  # again: every other cell is held against it
            self.stopped,
            self.flood,
            self.killed,
            lambda: self.single(1000, "cloud"),
        ]


def latency(times: Sequence[float]) -> Figures:
    return {"p50 ms": percentile(times, 50), "p99 ms": percentile(times, 99), "max ms": max(times)}


@asynccontextmanager
async def open_bench(seconds: float) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(open_stack(WORKLOAD.providers, WORKLOAD.routes, warm=False))
        load, bulk = [
            await exits.enter_async_context(open_child("bench.player", FILE, "service", str(stack.socket)))
            for _ in range(2)
        ]
        nursery = await exits.enter_async_context(trio.open_nursery())
        planner = Player(workload=WORKLOAD, way=ThroughService(stack.runtime), nursery=nursery)
        calm_collector()
        bench = Bench(stack=stack, planner=planner, load=load, bulk=bulk, seconds=seconds)
        await bench.warm_up()
        yield bench


def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser("isolation", (__doc__ or "").partition("\n")[0], rounds=3)
    parser.add_argument("--seconds", type=float, metavar="S", help=f"of timed turns in each cell (default {CELL_S})")
    options = parse_options(parser, argv)
    with open_report(options) as report:
        cells = trio.run(measure, options.rounds, options.seconds or (0.5 if options.quick else CELL_S), options.quick)
        show(report, {cell: summary(found) for cell, found in cells.items()})
        show_one_provider(report)


async def measure(rounds: int, seconds: float, small: bool) -> dict[str, list[Figures]]:
    """Every round plays all scenes, each time another one first."""
    async with open_bench(seconds) as bench:
        scenes = bench.scenes(small=small)
        for number in range(rounds):
            bench.seed = number
            for place in range(len(scenes)):
                await scenes[(number + place) % len(scenes)]()
        return bench.cells


def summary(rounds: Sequence[Figures]) -> Figures:
    """The medians, but of the slowest turns the slowest of all."""
    return medians(rounds) | {"max ms": max(figures["max ms"] for figures in rounds)}


def show(report: Report, cells: dict[str, Figures]) -> None:
    report.figures["cells"] = cells
    idle, single_idle = cells[IDLE], cells[SINGLE + IDLE]
    columns = ("p50 ms", "p99 ms", "max ms", "p99 / idle", "deltas/s", "worker CPU %", "supervisor CPU %")
    rows = []
    for cell, found in sorted(cells.items(), key=lambda item: item[0].startswith(SINGLE)):  # stable: these last
        base = single_idle if cell.startswith(SINGLE) else idle
        found["p99 / idle"] = found["p99 ms"] / base["p99 ms"]
        rows.append([cell, *(found.get(column, float("nan")) for column in columns)])
    report.table("Planning turns at one provider, by what another one does", ["", *columns], rows)
    for cell, most in {STREAMS: 1.5, f"{STREAMS} in a burst": 1.5, HUGE: 2.2}.items():
        if cell in cells:
            report.goal(f"planning p99 against idle, {cell}", cells[cell]["p99 / idle"], "<=", most, "x")
    for cell in (STREAMS, HUGE):
        if cell in cells:
            _against_single(report, cell, cells)


def _against_single(report: Report, cell: str, cells: dict[str, Figures]) -> None:
    ratio = cells[cell]["p99 ms"] / cells[SINGLE + cell]["p99 ms"]
    report.figures[f"against one process, {cell}"] = ratio
    if cell == HUGE:
        report.goal(f"planning p99 against one process, {cell}", ratio, "<=", 0.4, "x")
    else:
        report.note(f"Without stalls planning p99 is {ratio:.2f} x that of one process. Nothing is claimed of that.")


def show_one_provider(report: Report) -> None:
    workload = read_workload("one-provider")
    found = {order: figures(simulate(workload, order, seed) for seed in range(5)) for order in ORDERS}
    report.figures["one provider"] = found
    columns = list(found["reserved slot"])
    rows = [[order, *found[order].values()] for order in ORDERS]
    report.table("Planning behind 40 coding turns at one provider of 4 slots, virtual seconds", ["", *columns], rows)
    waits = found["reserved slot"]["no other planning turn there, max"]
    report.goal("planning waits with a free reserved slot", waits, "<=", 0, "s")


if __name__ == "__main__":
    main()

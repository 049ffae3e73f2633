"""What the runtime adds to a turn: latency over the same HTTP client called directly, and CPU of each process.

Direct: httpx2 in this process posts to the simulator and reads the answer to its end. Through: client -> service ->
worker -> the same simulator, and back. Both post the same conversation and get the same one-token stream. Turns go one
after the other (depth 1), so latency is latency and not queueing; CPU is also taken at depth 16. All of it without a
journal, then latency and CPU with one, and the disk's own fdatasync beside them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from bench.journal import disk_figures
from bench.report import Report, medians, open_report, options_parser, parse_options, percentile, precise_cpu_s
from bench.stack import INSTANT, Provider, Stack, open_stack
from loopforge.drivers.auth import open_auth
from loopforge.drivers.registry import ProviderSettings, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import Delta, Turn, assistant, user

MESSAGES = tuple(message for i in range(5) for message in (user(f"question {i} " * 40), assistant(f"answer {i} " * 40)))
TURN = Turn(kind="planning", messages=(*MESSAGES, user("What is next?")))
STREAM = Provider(profile={"first_token_s": 0, "tokens_per_s": 5000, "answer_tokens": 2000})


async def through(stack: Stack, turns: int) -> list[float]:
    times = []
    for _ in range(turns):
        before = time.perf_counter()
        await stack.runtime.ask(TURN)
        times.append(time.perf_counter() - before)
    return times


async def direct(url: str, turns: int) -> list[float]:
    """The worker's own driver and transport, in this process."""
    settings = ProviderSettings(
        name="local", kind="openai_compatible", base_url=url, default_model="m", vendor="generic"
    )
    driver, auth, turn = open_driver(settings), open_auth(settings, ""), TURN
    turn = Turn(kind="planning", messages=TURN.messages, provider="local", model="m")
    times = []

    async def drop(_: Delta) -> None:
        return

    async with open_transport(settings) as transport:
        await run_turn(driver, auth, turn, transport, drop, Watchdogs(30, 30))
        for _ in range(turns):
            before = time.perf_counter()
            await run_turn(driver, auth, turn, transport, drop, Watchdogs(30, 30))
            times.append(time.perf_counter() - before)
    return times


PROVIDERS = {"local": INSTANT, "cloud": STREAM}
ROUTES = {"planning": "local", "coding": "cloud"}


async def one_round(turns: int) -> dict[str, float]:
    async with open_stack(PROVIDERS, ROUTES, journal=False) as stack:
        figures = await latencies(stack, turns)
        figures |= await hops(stack, turns)
        workers = await stack.worker_pids()
        pids = {"client": os.getpid(), "supervisor": stack.service_pid, "worker": workers["local"]}
        for depth in (1, 16):
            figures |= await cpu_per_turn(stack, pids, turns, depth)
        figures |= await cpu_per_delta(stack, pids | {"worker": workers["cloud"]})
    async with open_stack(PROVIDERS, ROUTES, journal=True) as stack:
        journaled = await latencies(stack, turns)
        for depth in (1, 16):
            journaled |= await cpu_per_turn(stack, {"supervisor": stack.service_pid}, turns, depth)
    figures |= {f"{name}, with journal": value for name, value in journaled.items()}
    with tempfile.TemporaryDirectory(prefix="loopforge-bench-") as folder:
        figures["fdatasync p50 ms"] = disk_figures(Path(folder))["p50_ms"]
    return figures


async def latencies(stack: Stack, turns: int) -> dict[str, float]:
    alone: list[float] = []
    whole: list[float] = []
    for _ in range(10):  # in slices, turn about: the machine's speed drifts
        alone += await direct(stack.urls["local"], turns // 10)
        whole += await through(stack, turns // 10)
    direct_s, through_s = statistics.median(alone), statistics.median(whole)
    return {
        "direct p50 ms": direct_s * 1e3,
        "through p50 ms": through_s * 1e3,
        "added p50 ms": (through_s - direct_s) * 1e3,
        "added p99 ms": (percentile(whole, 99) - percentile(alone, 99)) * 1e3,
    }


async def hops(stack: Stack, turns: int) -> dict[str, float]:
    """The hop between client and supervisor, by itself: PING to the service and back."""
    times = []
    for _ in range(turns):
        before = time.perf_counter()
        await stack.runtime.ping()
        times.append(time.perf_counter() - before)
    return {"hop client-supervisor and back p50 ms": statistics.median(times) * 1e3}


async def cpu_per_turn(stack: Stack, pids: dict[str, int], turns: int, depth: int) -> dict[str, float]:
    before = {name: precise_cpu_s(pid) for name, pid in pids.items()}
    async with trio.open_nursery() as nursery:
        for _ in range(depth):
            nursery.start_soon(through, stack, turns // depth)
    count = turns // depth * depth
    return {
        f"{name} CPU us/turn, depth {depth}": (precise_cpu_s(pid) - before[name]) / count * 1e6
        for name, pid in pids.items()
    }


async def cpu_per_delta(stack: Stack, pids: dict[str, int]) -> dict[str, float]:
    """One stream of 5,000 deltas a second."""
    before = {name: precise_cpu_s(pid) for name, pid in pids.items()}
    deltas = 0
    async with stack.runtime.stream(Turn(kind="coding", messages=(user("go"),))) as events:
        async for _ in events:
            deltas += 1
    return {
        f"{name} CPU us/delta at 5,000/s": (precise_cpu_s(pid) - before[name]) / deltas * 1e6
        for name, pid in pids.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(options_parser("overhead", __doc__.partition("\n")[0]), argv)
    with open_report(options) as report:
        rounds = [trio.run(one_round, 50 if options.quick else 1000) for _ in range(options.rounds)]
        show(report, medians(rounds))


def show(report: Report, figures: dict[str, float]) -> None:
    report.table("medians", ["figure", "value"], [[name, value] for name, value in figures.items()])
    report.figures = dict(figures)
    report.goal("added per turn, p50, without journal", figures["added p50 ms"], "<=", 0.5, "ms")
    report.goal("added per turn, p50, with journal", figures["added p50 ms, with journal"], "<=", 1.2, "ms")
    report.goal("supervisor CPU a turn, depth 1", figures["supervisor CPU us/turn, depth 1"], "<=", 80, "us")
    report.goal("supervisor CPU a delta at 5,000/s", figures["supervisor CPU us/delta at 5,000/s"], "<=", 10, "us")


if __name__ == "__main__":
    main()

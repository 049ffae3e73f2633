"""Deltas a second on their way to a client, and what each one costs the processes that it passes.

Flood: a stand-in worker (flood.py) sends encoded deltas as fast as the supervisor reads them, once to a client that
counts frames and once to the client library. Paced: 5,000 a second in all through a real worker, on one stream and on a
hundred. Whole way: a provider that sends as fast as anybody takes it, through a real worker to the client library, with
everything on the same cores. A client for whom 8 MiB wait is cut off: then the figure is that of an error.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import loopforge
from bench.children import calm_collector
from bench.report import Report, medians, open_report, options_parser, parse_options, precise_cpu_s
from bench.stack import Provider, Stack, open_stack, wait_listening
from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import Failed, TextDelta, Turn, user
from loopforge.runtime.client import Runtime, connect
from loopforge.workers.channel import Channel
from loopforge.workers.framing import encode
from loopforge.workers.messages import PROTOCOL, FrameType, SubmitHeader, body_hash, pack, pack_turn, unpack_header

FLOOD_DELTAS = 600_000
"""18 MB: more than the 8 MiB that may wait for a client, so the client has kept up, or was cut off."""
LIBRARY_DELTAS = 100_000
"""3 MB: the library is slower than the relay, so all of it may have to wait."""
PACED_RATE, PACED_S = 5_000, 4.0
WHOLE_DELTAS = 40_000
STREAMS = (1, 8)

PROVIDERS = {
    "one": Provider(profile={"first_token_s": 0, "tokens_per_s": PACED_RATE, "answer_tokens": 1_000_000}),
    "many": Provider(
        profile={"first_token_s": 0, "tokens_per_s": PACED_RATE / 100, "answer_tokens": 1_000_000},
        settings={"max_concurrency": 128},
        host="one",  # never at the same time
    ),
    "loud": Provider(profile={"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 1_000_000}, host="one"),
}
ROUTES = {"one": "one", "many": "many", "loud": "loud"}
Figures = dict[str, float]


# -- flood: a stand-in worker -> supervisor -> client ----------------------------------------------------------------


@asynccontextmanager
async def flooded_service() -> AsyncIterator[tuple[Path, int]]:
    """Its socket and its pid."""
    with tempfile.TemporaryDirectory(prefix="loopforge-bench-") as folder:
        path = Path(folder, "flood.sock")
        service = _start(path)
        try:
            await wait_listening(path)
            yield path, service.pid
        finally:
            service.kill()  # its workers see the end of their channel
            service.wait()


def _start(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "bench.flood", str(path)], stdin=subprocess.DEVNULL)


async def flood_counted(path: Path, pid: int, deltas: int) -> Figures:
    """To a client that looks at nothing but a frame's type."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    channel = Channel(sock)
    count, began, cpu_s = 0, 0.0, 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        channel.post(hello())
        channel.post(submit(1, Turn(kind="coding", messages=(user("go"),), max_output_tokens=deltas)))
        ended = False
        while not ended:
            frames = await channel.receive()
            if not frames:
                raise RuntimeError("the service hung up")
            if not began and frames[-1].type == FrameType.DELTA:  # what has come so far is not counted
                began, cpu_s, count = time.perf_counter(), precise_cpu_s(pid), -len(frames)
            for frame in frames:
                if frame.type == FrameType.DELTA:
                    count += 1
                elif frame.type in (FrameType.DONE, FrameType.ERROR):
                    ended = True
                    check(frame.type, frame.header)
        took_s = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    await channel.aclose()
    return {"deltas/s": count / took_s, "supervisor us/delta": (precise_cpu_s(pid) - cpu_s) / count * 1e6}


def check(kind: int, header: bytes) -> None:
    """Raises TurnError: SlowConsumer when this client did not keep up."""
    if kind == FrameType.ERROR:
        raise TurnError.from_fields(unpack_header(header)["fields"])


def hello() -> bytes:
    return encode(
        FrameType.HELLO, header=pack({"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()})
    )


def submit(number: int, turn: Turn) -> bytes:
    """As the client library writes it."""
    body = pack_turn(turn)
    header: SubmitHeader = {
        "id": f"flood-{time.monotonic_ns()}",
        "hash": body_hash(body),
        "kind": turn.kind,
        "session": "",
        "lane": "",
        "remaining_ms": None,
        "features": [],
        "size": 0,
        "provider": "",
        "model": "",
        "detached": False,
        "resend_safe": True,
    }
    return encode(FrameType.SUBMIT, number, header=pack(header), body=body)


async def flood_library(path: Path, pid: int, deltas: int) -> Figures:
    """To the client library, which makes an event of each and folds it into the answer."""
    async with connect(path) as runtime:
        turn = Turn(kind="coding", messages=(user("go"),), max_output_tokens=deltas)
        meter = Meter({"supervisor": pid, "client": os.getpid()})
        await read_texts(runtime, turn, meter)
        return meter.figures()


# -- through a real worker -------------------------------------------------------------------------------------------


class Meter:
    """Deltas while all `streams` flow, and the CPU of the processes that they passed meanwhile."""

    def __init__(self, pids: Mapping[str, int], streams: int = 1) -> None:
        self._pids = pids
        self._missing = streams
        self._open = False
        self._count = 0
        self._began = 0.0
        self._cpu_s: dict[str, float] = {}
        self._figures: Figures = {}

    def first(self) -> None:
        """A stream's first delta is here."""
        self._missing -= 1
        if not self._missing:
            self._open = True
            self._began, self._cpu_s = time.perf_counter(), self._spent()

    def delta(self) -> None:
        """Any further one."""
        self._count += self._open

    def ended(self) -> None:
        """A stream is over; the first one to end closes the measurement."""
        if self._open:
            self._open = False
            took_s = time.perf_counter() - self._began
            costs = {name: spent_s - self._cpu_s[name] for name, spent_s in self._spent().items()}
            self._figures = {f"{name} us/delta": cost_s / self._count * 1e6 for name, cost_s in costs.items()}
            self._figures["deltas/s"] = self._count / took_s

    def figures(self) -> Figures:
        if not self._figures:
            raise RuntimeError("a stream had ended before the last one began: take more deltas")
        return self._figures

    def _spent(self) -> dict[str, float]:
        return {name: precise_cpu_s(pid) for name, pid in self._pids.items()}


async def read_texts(runtime: Runtime, turn: Turn, meter: Meter) -> None:
    """Read a turn's events to their end."""
    begun = False
    async with runtime.stream(turn) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                if begun:
                    meter.delta()
                else:
                    begun = True
                    meter.first()
            elif isinstance(event, Failed):
                raise event.error
    meter.ended()


async def through_worker(stack: Stack, provider: str, streams: int, *, tokens: int, pids: Mapping[str, int]) -> Figures:
    """Streams of so many tokens each, at once."""
    meter = Meter(pids, streams)
    turn = Turn(kind=provider, messages=(user("go"),), max_output_tokens=tokens)
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(read_texts, stack.runtime, turn, meter)
    return meter.figures()


async def one_round(stack: Stack, flooded: tuple[Path, int], share: float) -> dict[str, Figures]:
    """`share`: of the deltas of a full run."""
    workers = await stack.worker_pids()
    found = {
        "flood, counting client": await flood_counted(*flooded, int(FLOOD_DELTAS * share)),
        "flood, client library": await flood_library(*flooded, int(LIBRARY_DELTAS * share)),
    }
    ours = {"supervisor": stack.service_pid, "client": os.getpid()}
    for provider, streams in {"one": 1, "many": 100}.items():
        pids = {"provider": stack.played.pid(provider), "worker": workers[provider], **ours}
        tokens = int(PACED_RATE * PACED_S * share / streams)
        label = f"paced, {streams} stream{'s' * (streams > 1)}"
        found[label] = await through_worker(stack, provider, streams, tokens=tokens, pids=pids)
    pids = {"provider": stack.played.pid("loud"), "worker": workers["loud"], **ours}
    for streams in STREAMS:
        tokens = int(WHOLE_DELTAS * share / streams)
        label = f"whole way, {streams} stream{'s' * (streams > 1)}"
        found[label] = await through_worker(stack, "loud", streams, tokens=tokens, pids=pids)
    return found


async def measure(rounds: int, share: float) -> list[dict[str, Figures]]:
    async with open_stack(PROVIDERS, ROUTES) as stack, flooded_service() as flooded:
        async with connect(flooded[0]) as runtime:
            await runtime.ask(Turn(kind="coding", messages=(user("go"),), max_output_tokens=1))  # its worker is up
        calm_collector()
        return [await one_round(stack, flooded, share) for _ in range(rounds)]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(options_parser("relay", (__doc__ or "").partition("\n")[0]), argv)
    with open_report(options) as report:
        rounds = trio.run(measure, options.rounds, 0.1 if options.quick else 1.0)
        show(report, {cell: medians([found[cell] for found in rounds]) for cell in rounds[0]})


def show(report: Report, cells: dict[str, Figures]) -> None:
    report.figures = dict(cells)
    names = ("provider", "worker", "supervisor", "client")
    columns = ("deltas/s", *(f"{name} us/delta" for name in names))
    rows = [[cell, *(found.get(column, float("nan")) for column in columns)] for cell, found in cells.items()]
    report.table("Deltas a second, and CPU of each process for one", ["", *columns], rows)
    report.goal("relayed in a flood", cells["flood, counting client"]["deltas/s"], ">=", 150_000, "deltas/s")
    for cell in ("paced, 1 stream", "paced, 100 streams"):
        report.goal(f"supervisor CPU a delta, {cell}", cells[cell]["supervisor us/delta"], "<=", 10, "us")
    for cell in (f"whole way, {streams} stream{'s' * (streams > 1)}" for streams in STREAMS):
        report.goal(f"provider to client, {cell}", cells[cell]["deltas/s"], ">=", 15_000, "deltas/s")


if __name__ == "__main__":
    main()

"""What a channel carries between two processes: round trips by depth, one-way messages a second by size.

The channel as it runs, against the same frames sent one at a time, and against pyzmq where it is installed: these
encode each message and look at each one received. Above them bare blocking sockets without a codec: what the kernel and
Python allow at best.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import trio

from bench.report import Report, interleaved, medians, open_report, options_parser, parse_options
from loopforge.workers.channel import Channel
from loopforge.workers.framing import Framer, encode
from loopforge.workers.messages import FrameType

DEPTHS = (1, 16, 256)
SMALL = 100
SIZES = {"100 B": SMALL, "1 KB": 1024, "64 KB": 65536}
ECHO, TAKE, FINISH = FrameType.SUBMIT, FrameType.DELTA, FrameType.PING
"""The peer sends an ECHO back, drops a TAKE, and answers FINISH: then it has seen all before it."""

BATCHES = {size: max(min(64, 32768 // size), 1) for size in SIZES.values()}
"""One-way messages between two looks at the clock and at what waits."""

_BODIES = {size: bytes(size) for size in (*SIZES.values(), 0)}


@dataclass(frozen=True)
class Figures:
    """Messages a second, and this process's CPU for each, in microseconds."""

    rate: float
    cpu_us: float


@dataclass(frozen=True)
class Carrier:
    """One way to carry messages. `link` makes the two ends; `peer` serves the second in another process."""

    peer: Callable[[Any], None]
    round_trips: Callable[[Any, int, float], Figures]
    one_way: Callable[[Any, int, float], Figures]
    link: Callable[[], tuple[Any, Any]] = socket.socketpair


class Meter:
    """Measures from its making until `figures`."""

    def __init__(self, seconds: float) -> None:
        self._began, self._cpu = perf_counter(), process_time()
        self.until = self._began + seconds

    def figures(self, messages: int) -> Figures:
        cpu_s = process_time() - self._cpu
        return Figures(messages / (perf_counter() - self._began), cpu_s / messages * 1e6)


def message(kind: FrameType, number: int, size: int) -> bytes:
    return encode(kind, 1, attempt=1, seq=number & 0xFFFFFFFF, body=_BODIES[size])


# -- the channel -----------------------------------------------------------------------------------------------------


def channel_peer(sock: socket.socket) -> None:
    async def main() -> None:
        channel = Channel(sock)
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            while frames := await channel.receive():
                for frame in frames:
                    if frame.type != TAKE:
                        channel.post(frame.raw)
            nursery.cancel_scope.cancel()
        await channel.aclose()

    trio.run(main)


def channel_round_trips(sock: socket.socket, depth: int, seconds: float) -> Figures:
    async def main() -> Figures:
        channel = Channel(sock)
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            meter, done = Meter(seconds), 0
            for number in range(depth):
                channel.post(message(ECHO, number, SMALL))
            while perf_counter() < meter.until:
                for frame in await channel.receive():
                    done += 1
                    channel.post(message(ECHO, frame.seq + depth, SMALL))
            figures = meter.figures(done)
            nursery.cancel_scope.cancel()
        await channel.aclose()
        return figures

    return trio.run(main)


def channel_one_way(sock: socket.socket, size: int, seconds: float) -> Figures:
    async def main() -> Figures:
        channel = Channel(sock)
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            meter, sent = Meter(seconds), 0
            while perf_counter() < meter.until:
                for _ in range(BATCHES[size]):
                    channel.post(message(TAKE, sent, size))
                    sent += 1
                if channel.buffered_bytes > 256 * 1024:
                    await channel.wait_drained(64 * 1024)
            channel.post(message(FINISH, 0, 0))
            await channel.receive()
            figures = meter.figures(sent)
            nursery.cancel_scope.cancel()
        await channel.aclose()
        return figures

    return trio.run(main)


# -- the same frames, one send each ----------------------------------------------------------------------------------


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def single_peer(sock: socket.socket) -> None:
    async def main() -> None:
        async with _stream(sock) as stream:
            framer = Framer()
            while data := await stream.receive_some(65536):
                for frame in framer.feed(bytes(data)):
                    if frame.type != TAKE:
                        await stream.send_all(frame.raw)

    trio.run(main)


def single_round_trips(sock: socket.socket, depth: int, seconds: float) -> Figures:
    async def main() -> Figures:
        async with _stream(sock) as stream:
            framer, meter, done = Framer(), Meter(seconds), 0
            for number in range(depth):
                await stream.send_all(message(ECHO, number, SMALL))
            while perf_counter() < meter.until:
                for frame in framer.feed(bytes(await stream.receive_some(65536))):
                    done += 1
                    await stream.send_all(message(ECHO, frame.seq + depth, SMALL))
            return meter.figures(done)

    return trio.run(main)


def single_one_way(sock: socket.socket, size: int, seconds: float) -> Figures:
    async def main() -> Figures:
        async with _stream(sock) as stream:
            meter, sent = Meter(seconds), 0
            while perf_counter() < meter.until:
                for _ in range(BATCHES[size]):
                    await stream.send_all(message(TAKE, sent, size))
                    sent += 1
            await stream.send_all(message(FINISH, 0, 0))
            await stream.receive_some(65536)
            return meter.figures(sent)

    return trio.run(main)


# -- bare sockets ----------------------------------------------------------------------------------------------------


def bare_peer(sock: socket.socket) -> None:
    """The first byte says what to do: echo, or take until the end and say so."""
    echo = sock.recv(1) == b"E"
    while data := sock.recv(65536):
        if echo:
            sock.sendall(data)
    if not echo:
        sock.sendall(b".")


def bare_round_trips(sock: socket.socket, depth: int, seconds: float) -> Figures:
    one = bytes(SMALL)
    sock.sendall(b"E")
    meter, done, come = Meter(seconds), 0, 0
    sock.sendall(one * depth)
    while perf_counter() < meter.until:
        come += len(sock.recv(65536))
        whole, come = divmod(come, SMALL)
        sock.sendall(one * whole)
        done += whole
    figures = meter.figures(done)
    sock.close()
    return figures


def bare_one_way(sock: socket.socket, size: int, seconds: float) -> Figures:
    at_once = max(65536 // size, 1)
    data = bytes(size) * at_once
    sock.sendall(b"T")
    meter, sent = Meter(seconds), 0
    while perf_counter() < meter.until:
        sock.sendall(data)
        sent += at_once
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)
    figures = meter.figures(sent)
    sock.close()
    return figures


# -- pyzmq, where it is installed ------------------------------------------------------------------------------------


def zmq_link() -> tuple[Path, Path]:
    path = Path(tempfile.mkdtemp(prefix="lf-")) / "zmq"
    return path, path


@contextmanager
def _zmq_pair(path: Path, *, bind: bool) -> Iterator[Any]:
    import zmq  # type: ignore[import-not-found, unused-ignore]  # optional: never a dependency

    with zmq.Context() as context, context.socket(zmq.PAIR) as pair:
        pair.set_hwm(10_000)
        (pair.bind if bind else pair.connect)(f"ipc://{path}")
        yield pair


def zmq_peer(path: Path) -> None:
    with _zmq_pair(path, bind=False) as pair:
        while True:
            (frame,) = Framer().feed(pair.recv())
            if frame.type != TAKE:
                pair.send(frame.raw)
            if frame.type == FINISH:
                return


def zmq_round_trips(path: Path, depth: int, seconds: float) -> Figures:
    with _zmq_pair(path, bind=True) as pair:
        pair.send(message(ECHO, 0, SMALL))
        pair.recv()  # the connection stands
        meter, done = Meter(seconds), 0
        for number in range(depth):
            pair.send(message(ECHO, number, SMALL))
        while perf_counter() < meter.until:
            (frame,) = Framer().feed(pair.recv())
            pair.send(message(ECHO, frame.seq + depth, SMALL))
            done += 1
        figures = meter.figures(done)
        pair.send(message(FINISH, 0, 0))
        while Framer().feed(pair.recv())[0].type != FINISH:
            continue
    _remove(path)
    return figures


def zmq_one_way(path: Path, size: int, seconds: float) -> Figures:
    with _zmq_pair(path, bind=True) as pair:
        pair.send(message(ECHO, 0, SMALL))
        pair.recv()
        meter, sent = Meter(seconds), 0
        while perf_counter() < meter.until:
            for _ in range(BATCHES[size]):
                pair.send(message(TAKE, sent, size))
                sent += 1
        pair.send(message(FINISH, 0, 0))
        pair.recv()
        figures = meter.figures(sent)
    _remove(path)
    return figures


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.parent.rmdir()


# -- the measurement -------------------------------------------------------------------------------------------------

CARRIERS = {
    "channel": Carrier(channel_peer, channel_round_trips, channel_one_way),
    "one send a message": Carrier(single_peer, single_round_trips, single_one_way),
    "bare sockets, no codec": Carrier(bare_peer, bare_round_trips, bare_one_way),
    "pyzmq PAIR": Carrier(zmq_peer, zmq_round_trips, zmq_one_way, zmq_link),
}
OURS, UNCOALESCED, ZMQ = "channel", "one send a message", "pyzmq PAIR"


def measure(carrier: Carrier, run: Callable[[Any], Figures]) -> dict[str, float]:
    """One run with the peer in a process of its own."""
    ours, theirs = carrier.link()
    child = os.fork()  # before any loop or thread of this run: nothing to inherit but the socket
    if child == 0:
        try:
            if isinstance(ours, socket.socket):
                ours.close()
            carrier.peer(theirs)
        finally:
            os._exit(0)
    if isinstance(theirs, socket.socket):
        theirs.close()
    figures = run(ours)
    os.waitpid(child, 0)
    return asdict(figures)


def main(argv: list[str] | None = None) -> None:
    parser = options_parser("channel", __doc__ or "", rounds=7)
    options = parse_options(parser, argv)
    seconds = 0.02 if options.quick else 0.4
    carriers = {name: carrier for name, carrier in CARRIERS.items() if name != ZMQ or find_spec("zmq")}
    with open_report(options) as report:
        compare(report, carriers, options.rounds, seconds)


def compare(report: Report, carriers: dict[str, Carrier], rounds: int, seconds: float) -> None:
    cells: dict[str, dict[str, dict[str, float]]] = {}
    for depth in DEPTHS:
        runs = {
            name: partial(measure, carrier, partial(_call, carrier.round_trips, depth, seconds))
            for name, carrier in carriers.items()
        }
        cells[f"round trips, depth {depth}"] = _medians(runs, rounds)
    for label, size in SIZES.items():
        runs = {
            name: partial(measure, carrier, partial(_call, carrier.one_way, size, seconds))
            for name, carrier in carriers.items()
        }
        cells[f"one way, {label}"] = _medians(runs, rounds)
    report.figures = cells
    for title, unit in (("Messages a second", "rate"), ("This process's CPU a message, µs", "cpu_us")):
        rows = [[name, *(cells[cell][name][unit] for cell in cells)] for name in carriers]
        report.table(title, ["", *cells], rows)
    _set_goals(report, cells)


def _call(measured: Callable[[Any, int, float], Figures], number: int, seconds: float, end: Any) -> Figures:
    return measured(end, number, seconds)


def _medians(runs: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, dict[str, float]]:
    return {name: medians(figures) for name, figures in interleaved(runs, rounds).items()}


def _set_goals(report: Report, cells: dict[str, dict[str, dict[str, float]]]) -> None:
    def ratio(cell: str, unit: str, other: str) -> float:
        return cells[cell][OURS][unit] / cells[cell][other][unit]

    report.goal("one way 100 B against one send a message", ratio("one way, 100 B", "rate", UNCOALESCED), ">=", 8, "x")
    if ZMQ in cells["one way, 100 B"]:
        report.goal("one way 100 B against pyzmq", ratio("one way, 100 B", "rate", ZMQ), ">=", 1, "x")
    deep = "round trips, depth 256"
    report.goal("round trips at depth 256 against one send a message", ratio(deep, "rate", UNCOALESCED), ">=", 4, "x")
    lone = "round trips, depth 1"
    report.goal(
        "CPU of a lone round trip against one send a message", ratio(lone, "cpu_us", UNCOALESCED), "<=", 1.2, "x"
    )


if __name__ == "__main__":
    main()

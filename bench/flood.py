"""A service whose workers are stand-ins: they send deltas that were encoded before, as fast as they are read.

    python -m bench.flood SOCKET         the real supervisor and listener, whose workers are the processes below
    python -m bench.flood --worker FD    one such process: it sends as many deltas as a turn's max_output_tokens says

What a supervisor can relay shows only when nobody before it is slower. For relay.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import loopforge
from bench.children import calm_collector
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Message, Reply, TextDelta
from loopforge.runtime.config.values import Config, Route, RuntimeSettings, Target
from loopforge.runtime.listener import bound_socket, listen
from loopforge.runtime.process import Worker
from loopforge.runtime.supervisor import Supervisor
from loopforge.workers.channel import Channel
from loopforge.workers.framing import Frame, Framer, encode
from loopforge.workers.messages import PROTOCOL, FrameType, pack, pack_delta, pack_reply, unpack_turn

PROVIDER = ProviderSettings(name="flood", kind="openai_compatible", default_model="m")
TEXT = pack_delta(TextDelta(" word"))
SEND_BYTES = 64 * 1024


# -- the service -----------------------------------------------------------------------------------------------------


async def serve(path: Path) -> None:
    routes = {"coding": Route(kind="coding", targets=(Target(provider=PROVIDER.name, model="m"),))}
    config = Config(path="", providers={PROVIDER.name: PROVIDER}, routes=routes, runtime=RuntimeSettings())
    supervisor = Supervisor(config=config, launch=open_stand_in)
    with bound_socket(path, config.runtime) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await nursery.start(listen, listener, supervisor.dispatcher)
            calm_collector()


@asynccontextmanager
async def open_stand_in(settings: ProviderSettings) -> AsyncIterator[Worker]:  # noqa: ARG001 - as OpenWorker has it
    """As runtime.process.open_worker, but of this module."""
    ours, theirs = socket.socketpair()
    process = _start(theirs)
    theirs.close()
    worker = Worker(process, Channel(ours))
    try:
        yield worker
    finally:
        with trio.CancelScope(shield=True):
            await worker.channel.aclose()
            worker.kill()
            await worker.wait_exited()
        worker.close()


def _start(sock: socket.socket) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "bench.flood", "--worker", str(sock.fileno())]
    return subprocess.Popen(argv, pass_fds=[sock.fileno()], stdin=subprocess.DEVNULL)


# -- the stand-in ----------------------------------------------------------------------------------------------------


def work(sock: socket.socket) -> None:
    """Blocking: nothing here but the flood."""
    header = pack({"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()})
    sock.sendall(encode(FrameType.HELLO, header=header))
    framer = Framer()
    while data := sock.recv(SEND_BYTES):
        for frame in framer.feed(data):
            match frame.type:
                case FrameType.WELCOME:
                    sock.sendall(encode(FrameType.READY))
                case FrameType.PING:
                    sock.sendall(encode(FrameType.PONG, header=pack({"rss_bytes": 0, "cpu_s": 0.0})))
                case FrameType.SUBMIT:
                    for piece in answer(frame):
                        sock.sendall(piece)


def answer(submit: Frame) -> Iterator[bytes]:
    """All frames of a turn, made before the first one leaves."""
    count = unpack_turn(submit.body).max_output_tokens or 1
    number, attempt = submit.turn, submit.attempt
    started = encode(FrameType.STARTED, number, attempt=attempt, header=pack({"provider": PROVIDER.name, "model": "m"}))
    deltas = [encode(FrameType.DELTA, number, attempt=attempt, seq=seq, body=TEXT) for seq in range(1, count + 1)]
    per_send = max(SEND_BYTES // len(deltas[0]), 1)
    pieces = [b"".join(deltas[first : first + per_send]) for first in range(0, count, per_send)]
    reply = pack_reply(Reply(message=Message(role="assistant", content=()), finish="stop"))
    done = encode(FrameType.DONE, number, attempt=attempt, seq=count + 1, header=pack({"finish": "stop"}), body=reply)
    return iter([started, *pieces, done])


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        with contextlib.suppress(ConnectionError):  # the service is gone
            work(socket.socket(fileno=int(sys.argv[2])))
    else:
        trio.run(serve, Path(sys.argv[1]))

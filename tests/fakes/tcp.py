"""Small servers on loopback that do what no HTTP server would: each connection is handed to a function of the test."""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

Handler = Callable[[trio.SocketStream], Awaitable[None]]
_READ_BYTES = 65536


class TcpServer:
    """`accepted`: connections so far. `ended`: told when a client's end was seen, EOF or reset, in `read_to_end`.

    `closed`: told when a connection was closed from here.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.accepted = 0
        self._received: defaultdict[trio.SocketStream, bytearray] = defaultdict(bytearray)
        self.ended = trio.Event()
        self.closed = trio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def read_request(self, stream: trio.SocketStream) -> bytes:
        """The head of the next request, once its body has come, too; b"" when the client left."""
        received = self._received[stream]
        while b"\r\n\r\n" not in received:
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                return b""
            received += data
        head = bytes(received.partition(b"\r\n\r\n")[0])
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = len(head) + 4 + int(lines.get(b"content-length", b"0"))
        while len(received) < length:
            received += await stream.receive_some(_READ_BYTES)
        del received[:length]
        return head

    async def read_to_end(self, stream: trio.SocketStream) -> None:
        try:
            while await stream.receive_some(_READ_BYTES):
                pass
        except trio.BrokenResourceError:
            pass
        self.ended.set()


@asynccontextmanager
async def open_server(handle: Callable[[TcpServer, trio.SocketStream], Awaitable[None]]) -> AsyncIterator[TcpServer]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = TcpServer(listeners[0].socket.getsockname()[1])

    async def one(stream: trio.SocketStream) -> None:
        server.accepted += 1
        async with stream:
            try:
                await handle(server, stream)
            except trio.BrokenResourceError:
                server.ended.set()
        server.closed.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, one, listeners))
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()


def closed_port() -> int:
    """A port of 127.0.0.1 that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def reset_on_close(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

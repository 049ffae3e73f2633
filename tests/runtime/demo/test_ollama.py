"""Against servers of its own on loopback: what runs on Ollama's real port is nobody's business here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from loopforge.runtime.demo.ollama import TIMEOUT_S, answers

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[tuple[str, int]]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, handler, listeners))
        yield listeners[0].socket.getsockname()
        nursery.cancel_scope.cancel()


def saying(*pieces: bytes) -> Handler:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        for piece in pieces:
            await stream.send_all(piece)
        await stream.aclose()

    return handle


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((b"HTTP/1.1 200 OK\r\n\r\nOllama is running",), True),
        ((b"HTTP/1.1 200 OK\r\n\r\nOllama is", b" running"), True),
        ((b"HTTP/1.1 200 OK\r\n\r\n<html>another server</html>",), False),
        ((b"x" * 100_000,), False),
        ((), False),
    ],
)
async def test_only_ollamas_own_front_page_counts(pieces: tuple[bytes, ...], *, expected: bool) -> None:
    async with served(saying(*pieces)) as address:
        assert await answers(address) is expected


async def test_nobody_there_is_no() -> None:
    async with served(silent) as address:
        pass
    assert await answers(address) is False


async def test_a_server_that_says_nothing_is_given_up_soon() -> None:
    async with served(silent) as address:
        with trio.fail_after(TIMEOUT_S + 5):
            assert await answers(address) is False

"""Asking through the real transport, for its tests: with a key that no error may show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from loopforge.drivers.errors import DriverError
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.transport import open_transport
from loopforge.drivers.wire import HttpRequest, Response, Transport
from tests.fakes.tcp import TcpServer

KEY = "sk-4f9a-secret"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@asynccontextmanager
async def transport_to(url: str, *, connect_timeout_s: float = 5, max_concurrency: int = 4) -> AsyncIterator[Transport]:
    settings = ProviderSettings(
        name="acme",
        kind="openai_compatible",
        base_url=url,
        connect_timeout_s=connect_timeout_s,
        max_concurrency=max_concurrency,
    )
    async with open_transport(settings) as transport:
        yield transport


def asking(url: str, **headers: str) -> HttpRequest:
    return HttpRequest(url=url, headers={"authorization": f"Bearer {KEY}", **headers}, body=b"{}")


async def whole(response: Response) -> bytes:
    return b"".join([data async for data in response])


async def ask(transport: Transport, url: str, **headers: str) -> bytes:
    async with transport.open(asking(url, **headers)) as response:
        return await whole(response)


async def failure(url: str, **how: float) -> DriverError:
    """What asking there raises, with the key looked for in all that it says."""
    async with transport_to(url, **how) as transport:  # type: ignore[arg-type] # handed on as they are
        with pytest.raises(DriverError) as caught:
            await ask(transport, url)
    error = caught.value
    assert error.provider == "acme"
    assert error.action
    for shown in (str(error), repr(error), str(error.to_fields())):
        assert "secret" not in shown
    return error


async def answer_all(server: TcpServer, stream: trio.SocketStream) -> None:
    while await server.read_request(stream):
        await stream.send_all(OK)

"""The real transport on loopback: what its connections do, what it sends, and what it reads."""

from __future__ import annotations

import gzip
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers import transport as module
from loopforge.drivers.errors import StreamBroken, TurnRefused, WireMismatch
from loopforge.drivers.transport import HttpTransport
from loopforge.drivers.wire import HttpRequest
from tests.drivers.asking import OK, PROXIES, STREAM_HEAD, answer_all, ask, asking, failure, transport_to, whole
from tests.fakes.tcp import TcpServer, open_server


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.lower() for name in PROXIES)):
        monkeypatch.delenv(name, raising=False)


# -- connections ------------------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again_after_a_body_read_to_its_end() -> None:
    async with open_server(answer_all) as server, transport_to(server.url) as transport:
        for _ in range(5):
            assert await ask(transport, server.url) == b"hello"
        assert server.accepted == 1


async def test_a_connection_is_used_again_after_the_body_of_an_error() -> None:
    async def refuse(server: TcpServer, stream: trio.SocketStream) -> None:
        while await server.read_request(stream):
            await stream.send_all(OK.replace(b"200 OK", b"500 Oh"))

    async with open_server(refuse) as server, transport_to(server.url) as transport:
        for _ in range(3):
            async with transport.open(asking(server.url)) as response:
                assert (response.status, await response.read_all()) == (500, b"hello")
        assert server.accepted == 1


async def test_a_connection_left_in_the_middle_is_closed_and_not_used_again() -> None:
    async def stream_on(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(STREAM_HEAD + b"5\r\nhello\r\n")
        await server.read_to_end(stream)

    async with open_server(stream_on) as server, transport_to(server.url) as transport:
        async with transport.open(asking(server.url)) as response:
            assert await anext(aiter(response)) == b"hello"
        with trio.fail_after(5):
            await server.ended.wait()
        async with transport.open(asking(server.url)):
            pass
        assert server.accepted == 2


async def test_pieces_already_received_do_not_keep_a_left_connection() -> None:
    async def pour(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(STREAM_HEAD + b"5\r\nhello\r\n" * 2000)
        await server.read_to_end(stream)

    async with open_server(pour) as server, transport_to(server.url) as transport:
        async with transport.open(asking(server.url)) as response:
            assert await anext(aiter(response)) == b"hello"
        with trio.fail_after(5):
            await server.ended.wait()


async def test_a_compressed_body_left_in_the_middle_is_closed_too() -> None:
    async def stream_on(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        packed = gzip.compress(os.urandom(100_000))[:50_000]
        await stream.send_all(STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"))
        await stream.send_all(b"%x\r\n%b\r\n" % (len(packed), packed))
        await server.read_to_end(stream)

    async with open_server(stream_on) as server, transport_to(server.url) as transport:
        async with transport.open(asking(server.url)) as response:
            assert await anext(aiter(response))
        with trio.fail_after(5):
            await server.ended.wait()


async def test_cancelling_closes_the_connection_while_the_head_is_awaited() -> None:
    async def silence(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        asked.set()
        await server.read_to_end(stream)

    asked = trio.Event()
    async with open_server(silence) as server, transport_to(server.url) as transport, trio.open_nursery() as nursery:
        nursery.start_soon(ask, transport, server.url)
        await asked.wait()
        nursery.cancel_scope.cancel()
        with trio.fail_after(5, shield=True):
            await server.ended.wait()


async def test_cancelling_closes_the_connection_inside_the_body() -> None:
    async def stall(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(STREAM_HEAD + b"5\r\nhello\r\n")
        await server.read_to_end(stream)

    async with open_server(stall) as server, transport_to(server.url) as transport:
        with trio.CancelScope() as scope:
            async with transport.open(asking(server.url)) as response:
                async for _ in response:
                    scope.cancel()
        with trio.fail_after(5):
            await server.ended.wait()


async def test_a_cancelled_turn_gives_its_place_in_the_pool_to_the_next() -> None:
    async def first_silent(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        if server.accepted == 1:
            asked.set()
            await server.read_to_end(stream)
        else:
            await stream.send_all(OK)

    asked = trio.Event()
    async with open_server(first_silent) as server, transport_to(server.url, max_concurrency=1) as transport:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, transport, server.url)
            await asked.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            assert await ask(transport, server.url) == b"hello"


async def test_no_more_connections_than_allowed_and_the_rest_wait() -> None:
    async def once_two_have_come(server: TcpServer, stream: trio.SocketStream) -> None:
        if server.accepted == 2:
            both.set()
        while await server.read_request(stream):
            await both.wait()
            await stream.send_all(OK)

    both = trio.Event()
    async with open_server(once_two_have_come) as server, transport_to(server.url, max_concurrency=2) as transport:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask, transport, server.url)
        assert server.accepted == 2


async def test_leaving_the_transport_closes_its_connections() -> None:
    async def one_then_wait(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(OK)
        await server.read_to_end(stream)

    async with open_server(one_then_wait) as server:
        async with transport_to(server.url) as transport:
            await ask(transport, server.url)
        with trio.fail_after(5):
            await server.ended.wait()


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async def one_each(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(OK)
        served.append(1)

    served: list[int] = []
    async with open_server(one_each) as server, transport_to(server.url) as transport:
        assert await ask(transport, server.url) == b"hello"
        await server.closed.wait()
        assert await ask(transport, server.url) == b"hello"
        assert len(served) == 2


# -- what goes out ----------------------------------------------------------------------------------------------------


async def heads_of(*requests: HttpRequest) -> list[bytes]:
    async def keep(server: TcpServer, stream: trio.SocketStream) -> None:
        while head := await server.read_request(stream):
            heads.append(head)
            await stream.send_all(OK)

    heads: list[bytes] = []
    async with open_server(keep) as server, transport_to(server.url) as transport:
        for request in requests:
            url = f"{server.url}{request.url}"
            async with transport.open(HttpRequest(url=url, headers=request.headers, body=request.body)) as response:
                await whole(response)
    return heads


async def test_what_is_sent_is_the_request_and_little_else() -> None:
    (head,) = await heads_of(HttpRequest(url="/v1/chat", headers={"content-type": "application/json"}, body=b"{}"))
    first, *lines = head.split(b"\r\n")
    names = {line.split(b":")[0].lower() for line in lines}
    assert first == b"POST /v1/chat HTTP/1.1"
    assert names == {b"host", b"content-length", b"content-type", b"accept-encoding", b"user-agent"}
    assert b"user-agent: loopforge-runtime/" in head.lower()


async def test_no_log_shows_the_key_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_server(answer_all) as server, transport_to(server.url) as transport:
        await ask(transport, server.url)
    assert "send_request_headers" in caplog.text  # httpcore2 does log
    assert "secret" not in caplog.text


@pytest.mark.parametrize("name", ["user-agent", "accept-encoding"])
async def test_a_drivers_own_header_stays(name: str) -> None:
    (head,) = await heads_of(HttpRequest(url="/", headers={name: "other"}))
    assert head.lower().count(name.encode()) == 1
    assert f"{name}: other".encode() in head


async def test_cookies_are_neither_sent_back_nor_kept() -> None:
    async def keep(server: TcpServer, stream: trio.SocketStream) -> None:
        while head := await server.read_request(stream):
            heads.append(head)
            await stream.send_all(OK.replace(b"content-type", b"set-cookie: session=1\r\ncontent-type"))

    heads: list[bytes] = []
    async with open_server(keep) as server, transport_to(server.url) as transport:
        for _ in range(2):
            await ask(transport, server.url)
        assert isinstance(transport, HttpTransport)
        assert [len(client.cookies) for client in transport._clients.values()] == [0]
    assert b"cookie" not in b"".join(heads).lower()


async def test_headers_of_latin_1_are_sent_as_such() -> None:
    (head,) = await heads_of(HttpRequest(url="/", headers={"x-title": "Müller"}))
    assert "Müller".encode("latin-1") in head


@pytest.mark.parametrize(
    ("name", "value"), [("x-a", "se\ncret"), ("x-a", "secret€"), ("x a", "secret"), ("x-a", "secret "), ("é", "secret")]
)
async def test_headers_that_http_cannot_carry_are_refused_unquoted(name: str, value: str) -> None:
    async with transport_to("http://127.0.0.1:9") as transport:
        with pytest.raises(TurnRefused) as caught:
            await ask(transport, "http://127.0.0.1:9", **{name: value})
    assert caught.value.scope == "provider"
    assert "cret" not in f"{caught.value} {caught.value.__context__!r}"
    assert "headers in config.toml" in str(caught.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1", "ftp://host/x", "http://", "http://[::1/x", "http://h:99999/x"])
async def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    async with transport_to(url) as transport:
        with pytest.raises(TurnRefused) as caught:
            await ask(transport, url)
    assert str(caught.value).endswith("correct base_url in config.toml")


# -- bodies -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def body_server(head: bytes, *pieces: bytes) -> AsyncIterator[TcpServer]:
    async def answer(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        for piece in pieces:
            await stream.send_all(piece)

    async with open_server(answer) as server:
        yield server


@asynccontextmanager
async def failing_server(head: bytes, body: bytes) -> AsyncIterator[TcpServer]:
    """Answers 500, and goes silent after these bytes."""

    async def fail(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 500 Oh\r\n" + head + b"\r\n\r\n" + body)
        await server.read_to_end(stream)

    async with open_server(fail) as server:
        yield server


async def test_no_more_of_an_error_is_read_than_is_kept() -> None:
    head = b"content-length: 1000000"
    async with failing_server(head, bytes(70_000)) as server, transport_to(server.url) as transport:
        with trio.fail_after(module.ERROR_BODY_S / 2):
            async with transport.open(asking(server.url)) as response:
                assert len(await response.read_all()) == module.MAX_ERROR_BYTES


async def test_an_error_whose_body_stops_coming_is_told_with_what_had_come(mock_clock: MockClock) -> None:
    mock_clock.rate = 100  # the sockets are real, so time must pass: 5 s in 50 ms
    async with failing_server(b"content-length: 100", b"overloa") as server, transport_to(server.url) as transport:
        with trio.fail_after(module.ERROR_BODY_S * 10):
            async with transport.open(asking(server.url)) as response:
                assert await response.read_all() == b"overloa"
        assert trio.current_time() >= module.ERROR_BODY_S


async def test_an_error_whose_compressed_body_is_damaged_is_told_all_the_same() -> None:
    head = b"content-encoding: gzip\r\ncontent-length: 5"
    async with (
        failing_server(head, b"hello") as server,
        transport_to(server.url) as transport,
        transport.open(asking(server.url)) as response,
    ):
        assert (response.status, await response.read_all()) == (500, b"")


async def test_a_compressed_body_is_read() -> None:
    packed = gzip.compress(b"hello" * 1000)
    head = b"content-encoding: gzip\r\ncontent-length: %d" % len(packed)
    async with body_server(head, packed[:20], packed[20:]) as server, transport_to(server.url) as transport:
        assert await ask(transport, server.url) == b"hello" * 1000


async def test_a_damaged_compressed_body_is_a_wire_mismatch() -> None:
    async with body_server(b"content-encoding: gzip\r\ncontent-length: 5", b"hello") as server:
        assert type(await failure(server.url)) is WireMismatch


async def test_a_small_body_that_unpacks_to_a_huge_one_is_left_at_the_bound() -> None:
    packed = gzip.compress(bytes(module.MAX_ANSWER_BYTES + 2**20))
    head = b"content-encoding: gzip\r\ncontent-length: %d" % len(packed)
    async with body_server(head, packed) as server:
        error = await failure(server.url)
    assert type(error) is WireMismatch
    assert "longer than 64 MiB" in error.what


async def test_a_body_announced_beyond_the_bound_is_not_read() -> None:
    async with body_server(b"content-length: %d" % (module.MAX_ANSWER_BYTES + 1)) as server:
        assert "longer than 64 MiB" in (await failure(server.url)).what


async def test_a_stream_may_be_longer_than_a_whole_answer() -> None:
    block = b"%x\r\n" % 2**20 + bytes(2**20) + b"\r\n"
    pieces = [block] * 66 + [b"0\r\n\r\n"]
    head = b"content-type: text/event-stream\r\ntransfer-encoding: chunked"
    async with body_server(head, *pieces) as server, transport_to(server.url) as transport:
        assert len(await ask(transport, server.url)) == 66 * 2**20


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with body_server(b"content-type: text/plain", b"hel", b"lo") as server, transport_to(server.url) as transport:
        assert await ask(transport, server.url) == b"hello"


async def test_a_body_shorter_than_announced_is_a_broken_stream() -> None:
    async with body_server(b"content-length: 10", b"hello") as server:
        assert type(await failure(server.url)) is StreamBroken


def test_only_the_transport_loads_the_http_library() -> None:
    code = "import sys, loopforge.drivers.run, loopforge.drivers.auth; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

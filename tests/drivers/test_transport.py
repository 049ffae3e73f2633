"""The real transport on loopback: what connections do, and what each failure of the network is called."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers import transport as module
from loopforge.drivers.errors import DriverError, ProviderUnavailable, StreamBroken, TurnRefused, WireMismatch
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.transport import HttpTransport, open_transport
from loopforge.drivers.wire import HttpRequest, Response, Transport
from tests.fakes.tcp import TcpServer, closed_port, open_server, reset_on_close

KEY = "sk-4f9a-secret"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.lower() for name in PROXIES)):
        monkeypatch.delenv(name, raising=False)


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


# -- what a failure is called -----------------------------------------------------------------------------------------


async def test_a_refused_connection_says_to_start_the_server() -> None:
    port = closed_port()
    error = await failure(f"http://127.0.0.1:{port}/v1")
    assert type(error) is ProviderUnavailable
    assert str(error).startswith(f"acme: 127.0.0.1:{port} refuses the connection; start the server")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_refused_connection_at_ollamas_port_says_to_start_ollama(host: str) -> None:
    try:
        await trio.open_tcp_stream(host.strip("[]"), 11434)
    except OSError:
        error = await failure(f"http://{host}:11434/v1")
        assert error.action == "start Ollama: ollama serve"
    else:
        pytest.skip("an Ollama runs here")


class NoNames(trio.abc.HostnameResolver):
    """A resolver that knows no name, as without a network."""

    async def getaddrinfo(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_args: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_a_name_that_does_not_exist_is_told_as_such() -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    error = await failure("http://no-such-host.invalid/v1")
    assert type(error) is ProviderUnavailable
    assert "no-such-host.invalid could not be resolved" in error.what
    assert "DNS" in error.action


async def test_a_connection_that_takes_too_long_names_the_setting() -> None:
    with trio.socket.socket() as full:
        await full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port):  # the queue of one is taken: the next SYN is dropped
            error = await failure(f"http://127.0.0.1:{port}", connect_timeout_s=0.05)
    assert type(error) is ProviderUnavailable
    assert error.what == f"no connection to 127.0.0.1:{port} within 0.05 s"
    assert "connect_timeout_s" in error.action


async def test_a_slow_head_is_waited_for_as_long_as_the_caller_does(mock_clock: MockClock) -> None:
    async def think(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await trio.sleep(3600)
        await stream.send_all(OK)

    mock_clock.rate = 100_000  # the sockets are real, so time must pass: an hour in 36 ms
    async with open_server(think) as server, transport_to(server.url, connect_timeout_s=3000) as transport:
        assert await ask(transport, server.url) == b"hello"


async def test_a_reset_before_the_head_is_an_unavailable_provider() -> None:
    async def reset(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        reset_on_close(stream)

    async with open_server(reset) as server:
        error = await failure(server.url)
    assert type(error) is ProviderUnavailable
    assert "before it answered" in error.what


async def test_half_a_head_is_an_unavailable_provider() -> None:
    async def half(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(OK[:30])

    async with open_server(half) as server:
        assert type(await failure(server.url)) is ProviderUnavailable


@pytest.mark.parametrize(
    "words", [b"SSH-2.0-OpenSSH_9.9\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n", b"x" * 200_000]
)
async def test_what_is_not_http_is_a_wire_mismatch(words: bytes) -> None:
    async def babble(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(words)

    async with open_server(babble) as server:
        error = await failure(server.url)
    assert type(error) is WireMismatch
    assert "does not answer in HTTP" in error.what
    assert "base_url" in error.action


async def test_a_server_that_echoes_the_request_gives_no_key_away() -> None:
    async def echo(server: TcpServer, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nbad header " + await server.read_request(stream) + b"\r\n\r\n")

    async with open_server(echo) as server:
        assert type(await failure(server.url)) is WireMismatch


async def test_chunks_that_are_not_chunks_break_the_stream() -> None:
    async def garble(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(STREAM_HEAD + b"zz\r\nhello\r\n")

    async with open_server(garble) as server:
        assert type(await failure(server.url)) is StreamBroken


async def test_a_redirect_is_not_followed_and_names_where_to() -> None:
    async def redirect(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        target = b"https://user:secret@api.acme.test/v2?key=secret"
        await stream.send_all(b"HTTP/1.1 308 Moved\r\nlocation: " + target + b"\r\ncontent-length: 0\r\n\r\n")

    async with open_server(redirect) as server:
        error = await failure(server.url)
        assert server.accepted == 1
    assert type(error) is WireMismatch
    assert error.status == 308
    assert "redirects to https://api.acme.test:443/v2" in error.what
    assert "base_url" in error.action


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


# -- proxies and TLS --------------------------------------------------------------------------------------------------


async def test_requests_go_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(server: TcpServer, stream: trio.SocketStream) -> None:
        heads.append(await server.read_request(stream))
        await stream.send_all(OK)

    heads: list[bytes] = []
    async with open_server(proxy) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:word@127.0.0.1:{server.port}")
        async with transport_to("http://api.acme.test/v1") as transport:
            assert await ask(transport, "http://api.acme.test/v1") == b"hello"
    assert heads[0].startswith(b"POST http://api.acme.test/v1 HTTP/1.1")
    assert b"proxy-authorization: basic" in heads[0].lower()


async def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("NO_PROXY", "api.invalid")
    trio.socket.set_custom_hostname_resolver(NoNames())
    assert "could not be resolved" in (await failure("http://api.invalid/v1")).what


async def test_this_machine_is_not_asked_for_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{closed_port()}")
    async with open_server(answer_all) as server:
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{server.port}"
            async with transport_to(url) as transport:
                assert await ask(transport, url) == b"hello"


async def test_a_proxy_that_refuses_is_named_as_possible_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@127.0.0.1:{closed_port()}")
    error = await failure("http://api.acme.test/v1")
    assert type(error) is ProviderUnavailable
    assert "or the proxy" in error.what


async def test_a_proxy_that_will_not_connect_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")

    async with open_server(proxy) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
        error = await failure("https://api.acme.test/v1")
    assert type(error) is ProviderUnavailable
    assert "407" in error.what
    assert "HTTPS_PROXY" in error.action


async def test_a_proxy_that_cannot_be_used_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://user:secret@proxy.acme.test")
    error = await failure("http://api.acme.test/v1")
    assert type(error) is ProviderUnavailable
    assert "HTTP_PROXY" in error.action


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, crt, both = folder / "key.pem", folder / "crt.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", crt, *subject], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    both.write_bytes(key.read_bytes() + crt.read_bytes())
    return both


@asynccontextmanager
async def tls_server(certificate: Path) -> AsyncIterator[TcpServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def answer(server: TcpServer, stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            async for data in secure:
                if data.endswith(b"{}"):  # the end of what `asking` sends
                    await secure.send_all(OK)
        except trio.BrokenResourceError:
            pass
        server.ended.set()

    async with open_server(answer) as server:
        yield server


async def test_the_certificates_of_the_environment_are_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with tls_server(certificate) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with transport_to(url) as transport:
            for _ in range(3):
                assert await ask(transport, url) == b"hello"
        assert server.accepted == 1
        with trio.fail_after(5):
            await server.ended.wait()


async def test_a_certificate_that_nobody_vouches_for_is_told_as_such(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    async with tls_server(certificate) as server:
        error = await failure(f"https://127.0.0.1:{server.port}")
    assert type(error) is ProviderUnavailable
    assert "is not trusted: self-signed certificate" in error.what
    assert "SSL_CERT_FILE" in error.action


async def test_https_to_a_server_without_tls_is_told_as_such() -> None:
    async def plain(server: TcpServer, stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with open_server(plain) as server:
        error = await failure(f"https://127.0.0.1:{server.port}")
    assert type(error) is ProviderUnavailable
    assert "no TLS with" in error.what
    assert "http or https" in error.action


async def test_a_file_of_certificates_that_is_missing_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    error = await failure("https://127.0.0.1:9")
    assert type(error) is ProviderUnavailable
    assert "certificates could not be read: No such file" in error.what
    assert "SSL_CERT_FILE" in error.action


async def test_plain_http_does_not_read_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    async with open_server(answer_all) as server, transport_to(server.url) as transport:
        assert await ask(transport, server.url) == b"hello"


def test_only_the_transport_loads_the_http_library() -> None:
    code = "import sys, loopforge.drivers.run, loopforge.drivers.auth; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""The real transport on loopback: what each failure of the network, a proxy or TLS is called."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import ProviderUnavailable, StreamBroken, WireMismatch
from tests.drivers.asking import OK, PROXIES, STREAM_HEAD, answer_all, ask, failure, transport_to
from tests.fakes.tcp import TcpServer, closed_port, open_server, reset_on_close


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.lower() for name in PROXIES)):
        monkeypatch.delenv(name, raising=False)


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

"""One request over real sockets of loopback: each way in which it can end, told by its stage and with what to do."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from loopforge.runtime.doctor.dial import Contact, NetworkDial, NoContact, Progress
from tests.fakes.certificates import Authority, make_authority
from tests.fakes.tcp import TcpServer, closed_port, open_server

ANSWER = b"HTTP/1.1 401 No key\r\nDate: Sun, 22 Nov 2026 17:00:00 GMT\r\nX-Two: b\r\nContent-Length: 5\r\n\r\n"
NAME = "api.acme.test"


async def dial(
    url: str, env: Mapping[str, str] | None = None, method: Literal["HEAD", "GET"] = "HEAD"
) -> tuple[Contact, Progress]:
    progress = Progress()
    with trio.fail_after(20):
        return await NetworkDial(env=env or {}, clock=lambda: 7.0)(method, url, progress), progress


async def failure(url: str, env: Mapping[str, str] | None = None) -> NoContact:
    with pytest.raises(NoContact) as caught:
        await dial(url, env)
    assert caught.value.next_step
    return caught.value


async def answering(server: TcpServer, stream: trio.abc.Stream) -> None:
    head = await server.read_request(stream)  # type: ignore[arg-type]  # it only reads
    if head:
        await stream.send_all(ANSWER + (b"" if head.startswith(b"HEAD") else b"hello"))


# -- plain -----------------------------------------------------------------------------------------------------------


async def test_the_head_of_an_answer_is_told_with_its_times() -> None:
    async with open_server(answering) as server:
        contact, progress = await dial(f"{server.url}/v1")
    assert (contact.status, contact.headers["date"], contact.headers["x-two"]) == (
        401, "Sun, 22 Nov 2026 17:00:00 GMT", "b",
    )  # fmt: skip
    assert (contact.sent_at, contact.received_at, contact.body, contact.tls, contact.via) == (7.0, 7.0, b"", "", "")
    assert progress.place == f"127.0.0.1:{server.port}"


async def test_a_get_brings_the_body_and_neither_carries_a_key() -> None:
    heads: list[bytes] = []

    async def record(server: TcpServer, stream: trio.SocketStream) -> None:
        heads.append(await server.read_request(stream))
        await stream.send_all(ANSWER + b"hello")

    async with open_server(record) as server:
        contact, _ = await dial(f"{server.url}/api/tags", {"KEY": "k"}, "GET")
    assert contact.body == b"hello"
    assert heads[0].startswith(b"GET /api/tags HTTP/1.1\r\n")
    assert b"authorization" not in heads[0].lower()


async def test_nobody_there_is_told_as_such() -> None:
    error = await failure(f"http://127.0.0.1:{closed_port()}/v1")
    assert (error.stage, "nobody listens on 127.0.0.1:" in error.what) == ("connection", True)


async def test_a_server_that_hangs_up_is_told_as_such() -> None:
    async def hang_up(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)

    async with open_server(hang_up) as server:
        error = await failure(server.url)
    assert (error.stage, error.what) == ("answer", f"127.0.0.1:{server.port} closed the connection without an answer")


async def test_what_does_not_speak_http_is_told_as_such() -> None:
    async def mail(server: TcpServer, stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail ESMTP ready\r\n\r\n")
        await server.read_to_end(stream)

    async with open_server(mail) as server:
        error = await failure(server.url)
    assert (error.stage, error.what) == ("answer", f"127.0.0.1:{server.port} does not answer in HTTP")


async def test_a_silent_server_holds_nobody_who_looks_at_the_clock() -> None:
    async with open_server(lambda server, stream: server.read_to_end(stream)) as server:
        progress = Progress()
        with trio.move_on_after(0.05) as scope:
            await NetworkDial(env={}, clock=lambda: 0.0)("HEAD", server.url, progress)
        assert scope.cancelled_caught
        assert progress.stage == "answer"
        with trio.fail_after(5):
            await server.ended.wait()  # the connection went with it


class Names(trio.abc.HostnameResolver):
    """A name server: `error` for every name, or this machine's address."""

    def __init__(self, error: int | None = None) -> None:
        self._error = error

    async def getaddrinfo(self, _host: bytes | None, port: Any, *_kind: object) -> list[Any]:
        if self._error is not None:
            raise socket.gaierror(self._error, "told by the test")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, *_address: object) -> tuple[str, str]:
        raise AssertionError("nobody asks for the name of an address")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (socket.EAI_NONAME, f"there is no host {NAME}"),
        (socket.EAI_AGAIN, f"no name server answers when asked for {NAME}"),
    ],
)
async def test_a_name_that_is_not_found_is_told_apart_from_a_name_server_that_is_away(code: int, what: str) -> None:
    trio.socket.set_custom_hostname_resolver(Names(code))
    error = await failure(f"https://{NAME}/v1")
    assert (error.stage, error.what) == ("name look-up", what)


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    return authority.issue("127.0.0.1")


@asynccontextmanager
async def tls_server(certificate: Path) -> AsyncIterator[TcpServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def answer(server: TcpServer, stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await answering(server, secure)

    async with open_server(answer) as server:
        yield server


async def test_the_authority_of_the_environment_is_trusted(authority: Authority, certificate: Path) -> None:
    async with tls_server(certificate) as server:
        contact, _ = await dial(f"https://127.0.0.1:{server.port}/v1", {"SSL_CERT_FILE": str(authority.file)})
    assert (contact.status, contact.tls) == (401, "TLSv1.3")


@pytest.fixture
def folder_of_authorities(authority: Authority, tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_bytes(authority.file.read_bytes())
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, capture_output=True)
    return tmp_path


async def test_a_folder_of_authorities_is_trusted_too(certificate: Path, folder_of_authorities: Path) -> None:
    async with tls_server(certificate) as server:
        contact, _ = await dial(f"https://127.0.0.1:{server.port}/v1", {"SSL_CERT_DIR": str(folder_of_authorities)})
    assert contact.status == 401


@pytest.mark.parametrize(
    ("env", "step"),
    [
        ({}, "name your network's CA bundle in SSL_CERT_FILE"),
        (
            {"REQUESTS_CA_BUNDLE": "/x"},
            'REQUESTS_CA_BUNDLE is not read here: export SSL_CERT_FILE="$REQUESTS_CA_BUNDLE"',
        ),
    ],
)
async def test_an_unknown_authority_is_told_as_such(certificate: Path, env: dict[str, str], step: str) -> None:
    async with tls_server(certificate) as server:
        error = await failure(f"https://127.0.0.1:{server.port}/v1", env)
    assert (error.stage, error.next_step) == ("TLS", step)
    assert f"the certificate of 127.0.0.1:{server.port} is not trusted: " in error.what


async def test_a_certificate_for_another_host_is_told_as_such(authority: Authority) -> None:
    async with tls_server(authority.issue("other.test")) as server:
        error = await failure(f"https://127.0.0.1:{server.port}/v1", {"SSL_CERT_FILE": str(authority.file)})
    assert (error.stage, "IP address mismatch" in error.what) == ("TLS", True)


async def test_an_expired_certificate_makes_one_look_at_the_date_first(authority: Authority) -> None:
    async with tls_server(authority.issue("127.0.0.1", days=-1)) as server:
        error = await failure(f"https://127.0.0.1:{server.port}/v1", {"SSL_CERT_FILE": str(authority.file)})
    assert "is not valid today: certificate has expired" in error.what
    assert error.next_step.startswith("check this machine's date")


async def test_https_to_a_server_without_tls_is_told_as_such() -> None:
    async def plain(server: TcpServer, stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with open_server(plain) as server:
        error = await failure(f"https://127.0.0.1:{server.port}/v1")
    assert (error.stage, error.what.startswith("no TLS with")) == ("TLS", True)


async def test_certificates_that_cannot_be_read_are_told_with_their_variable() -> None:
    async with open_server(lambda server, stream: server.read_to_end(stream)) as server:
        error = await failure(f"https://127.0.0.1:{server.port}/v1", {"SSL_CERT_FILE": "/nonexistent/ca.pem"})
    assert error.what == "the certificates that SSL_CERT_FILE names cannot be read: No such file or directory"
    assert error.next_step == "correct SSL_CERT_FILE, or unset it"


# -- proxies ---------------------------------------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy that connects to `port` of this machine, whatever it is asked for."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.heads: list[bytes] = []

    async def __call__(self, server: TcpServer, stream: trio.SocketStream) -> None:
        self.heads.append(await server.read_request(stream))
        if not self.heads[-1].startswith(b"CONNECT "):
            await stream.send_all(ANSWER)
            return
        await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, far, stream)
            await _copy(stream, far)
            nursery.cancel_scope.cancel()


async def _copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
    except trio.BrokenResourceError:
        pass


async def test_a_proxy_tunnels_to_a_host_that_it_alone_can_find(authority: Authority) -> None:
    async with tls_server(authority.issue(NAME)) as server:
        proxy = Proxy(server.port)
        async with open_server(proxy) as front:
            env = {"HTTPS_PROXY": f"http://me:pw@127.0.0.1:{front.port}", "SSL_CERT_FILE": str(authority.file)}
            contact, _ = await dial(f"https://{NAME}/v1", env)
    assert (contact.status, contact.via) == (401, f"127.0.0.1:{front.port}")
    assert proxy.heads[0].startswith(f"CONNECT {NAME}:443 HTTP/1.1\r\n".encode())
    assert b"proxy-authorization: Basic bWU6cHc=" in proxy.heads[0]


async def test_a_proxy_may_be_reached_by_tls_itself(authority: Authority) -> None:
    certificate = authority.issue("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    heads: list[bytes] = []

    async def refuse(server: TcpServer, stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        heads.append(await server.read_request(secure))  # type: ignore[arg-type]  # it only reads
        await secure.send_all(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")

    async with open_server(refuse) as front:
        env = {"HTTPS_PROXY": f"https://127.0.0.1:{front.port}", "SSL_CERT_FILE": str(authority.file)}
        error = await failure(f"https://{NAME}/v1", env)
    assert (error.stage, heads[0].startswith(b"CONNECT ")) == ("proxy", True)


async def test_a_proxy_is_told_the_whole_url_of_plain_http() -> None:
    proxy = Proxy(0)
    async with open_server(proxy) as front:
        contact, _ = await dial(f"http://{NAME}/v1", {"http_proxy": f"http://127.0.0.1:{front.port}"})
    assert contact.status == 401
    assert proxy.heads[0].startswith(f"HEAD http://{NAME}/v1 HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("url", "status", "what"),
    [
        (f"https://{NAME}/v1", 407, "wants a user name and password"),
        (f"http://{NAME}/v1", 407, "wants a user name and password"),
        (f"https://{NAME}/v1", 403, "does not let this through (status 403)"),  # over http it may be the server's own
    ],
)
async def test_a_proxy_that_refuses_is_told_as_such(url: str, status: int, what: str) -> None:
    async with open_server(_answer_with(status)) as front:
        error = await failure(url, {"ALL_PROXY": f"http://127.0.0.1:{front.port}"})
    assert (error.stage, what in error.what, "ALL_PROXY" in error.next_step) == ("proxy", True, True)


def _answer_with(status: int) -> Callable[[TcpServer, trio.SocketStream], Awaitable[None]]:
    async def answer(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % status)

    return answer


async def test_a_proxy_that_is_not_there_and_one_that_is_none_are_told_with_their_variable() -> None:
    error = await failure(f"https://{NAME}/v1", {"HTTPS_PROXY": f"http://127.0.0.1:{closed_port()}"})
    assert error.what.startswith("the proxy 127.0.0.1:")
    assert "HTTPS_PROXY" in error.next_step

    async def silent(server: TcpServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)

    async with open_server(silent) as front:
        error = await failure(f"https://{NAME}/v1", {"HTTPS_PROXY": f"http://127.0.0.1:{front.port}"})
    assert (error.stage, "is no HTTP proxy" in error.what) == ("proxy", True)
    error = await failure(f"https://{NAME}/v1", {"HTTPS_PROXY": "socks5://me:hunter2@127.0.0.1"})
    assert (error.stage, error.next_step) == ("the environment", "correct HTTPS_PROXY, or unset it")
    assert "hunter2" not in str(error)

"""One request without a key, step by step, so that a failure can be named: look-up, connection, proxy, TLS, answer.

The workers' own client (drivers/transport.py) is not asked: it belongs to another process, and tells a failure as one
error of a turn. What it honours is honoured here: proxies and certificates of the environment, no proxy for this
machine, no redirects. HTTP/1.1 by h11.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import h11
import trio

import loopforge
from loopforge.runtime.config.base_url import is_loopback
from loopforge.runtime.config.paths import Environment
from loopforge.runtime.doctor.proxies import Proxy, UnusableProxy, proxy_for

Stage = Literal["the environment", "name look-up", "connection", "proxy", "TLS", "answer"]

MAX_BODY_BYTES = 4 * 2**20
"""A list of models; Ollama's has 400 B a model."""
_READ_BYTES = 65536
_USER_AGENT = f"loopforge-doctor/{loopforge.__version__}"
# Where Linux distributions keep their certificates, for an OpenSSL whose own places are empty; as httpcore2 has them.
_CA_FILES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)
_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_*: man 3 X509_STORE_CTX_get_error

E = TypeVar("E", bound=BaseException)
ByteStream = trio.SocketStream | trio.SSLStream[Any]


class NoContact(Exception):
    """Nothing came back. `what` is a clause, `next_step` what to do, `stage` where it ended."""

    def __init__(self, stage: Stage, what: str, next_step: str) -> None:
        super().__init__(f"{what}; {next_step}")
        self.stage, self.what, self.next_step = stage, what, next_step


@dataclass(slots=True)
class Progress:
    """Where an attempt is, for whoever runs out of patience with it."""

    stage: Stage = "the environment"
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """An answer. `sent_at`, `received_at`: wall clock, seconds. `headers`: names in lower case; `via`: proxy or ""."""

    status: int
    headers: Mapping[str, str]
    sent_at: float
    received_at: float
    body: bytes = field(default=b"", repr=False)
    tls: str = ""
    via: str = ""


class Dial(Protocol):
    async def __call__(self, method: Literal["HEAD", "GET"], url: str, progress: Progress) -> Contact:
        """Ask once, without a key. `url` is a usable one (config/base_url.py). Raises NoContact. No limit of time."""
        ...


@dataclass(slots=True)
class NetworkDial:
    """The real one. `clock`: wall clock in seconds. Certificates are read once, on first use (20 ms, in a thread)."""

    env: Environment
    clock: Callable[[], float]
    _trust: ssl.SSLContext | None = None
    _reading: trio.Lock = field(default_factory=trio.Lock)

    async def __call__(self, method: Literal["HEAD", "GET"], url: str, progress: Progress) -> Contact:
        parts = urlsplit(url)
        place = _place(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        progress.place = place
        try:
            proxy = proxy_for(url, self.env)
        except UnusableProxy as exc:
            raise NoContact("the environment", str(exc), f"correct {exc.variable}, or unset it") from exc
        stream = await self._open(url, proxy, progress)
        try:
            progress.stage = "answer"
            forward = proxy if proxy is not None and parts.scheme == "http" else None
            contact = await self._ask(stream, _request(method, url, forward), place)
            if forward is not None and contact.status == 407:
                raise _proxy_refuses(forward, 407)
            return replace(contact, tls=_tls_version(stream), via=proxy.place if proxy else "")
        finally:
            await trio.aclose_forcefully(stream)

    async def _open(self, url: str, proxy: Proxy | None, progress: Progress) -> ByteStream:
        """A stream that reaches the URL's server, or the proxy that forwards plain HTTP to it."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        if proxy is None:
            stream: ByteStream = await _connect(host, port, url, "", progress)
        else:
            stream = await _connect(proxy.host, proxy.port, url, proxy.variable, progress)
            if proxy.scheme == "https":
                stream = await self._secure(stream, proxy.host, proxy.place, progress)
            if parts.scheme == "https":
                progress.stage = "proxy"
                await _tunnel(stream, host, port, proxy)
        if parts.scheme == "https":
            stream = await self._secure(stream, host, _place(host, port), progress)
        return stream

    async def _secure(self, stream: ByteStream, host: str, place: str, progress: Progress) -> ByteStream:
        progress.stage = "TLS"
        try:
            secure = trio.SSLStream(stream, await self._certificates(), server_hostname=host, https_compatible=True)
            await secure.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as exc:
            await trio.aclose_forcefully(stream)
            raise _no_tls(exc, place, self.env) from exc
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure

    async def _certificates(self) -> ssl.SSLContext:
        async with self._reading:
            if self._trust is None:
                try:
                    self._trust = await trio.to_thread.run_sync(_trust, self.env)
                except OSError as exc:  # ssl.SSLError is one
                    variable = "SSL_CERT_FILE" if self.env.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
                    why = exc.strerror or type(exc).__name__
                    raise NoContact(
                        "TLS",
                        f"the certificates that {variable} names cannot be read: {why}",
                        f"correct {variable}, or unset it",
                    ) from exc
            return self._trust

    async def _ask(self, stream: ByteStream, request: h11.Request, place: str) -> Contact:
        """One request and its answer; the body of a GET alone."""
        connection = h11.Connection(h11.CLIENT)
        sent_at = self.clock()
        try:
            await stream.send_all((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            response = await _response(connection, stream)
            received_at = self.clock()
            body = await _body(connection, stream) if request.method == b"GET" else b""
        except h11.RemoteProtocolError as exc:
            raise NoContact("answer", f"{place} does not answer in HTTP", "check base_url") from exc
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise NoContact("answer", f"{place} closed the connection without an answer", "try again later") from exc
        names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Contact(status=response.status_code, headers=names, sent_at=sent_at, received_at=received_at, body=body)


def _request(method: str, url: str, forward: Proxy | None) -> h11.Request:
    """`forward`: the proxy that is to pass plain HTTP on; it is told the whole URL."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [("host", parts.netloc), ("user-agent", _USER_AGENT), ("accept", "*/*"), ("connection", "close")]
    if forward is not None:
        target = url if parts.path else f"{url}/"
        if forward.authorization:
            headers.append(("proxy-authorization", forward.authorization))
    return h11.Request(method=method, target=target, headers=headers)


# -- steps -----------------------------------------------------------------------------------------------------------


async def _connect(host: str, port: int, url: str, proxy_variable: str, progress: Progress) -> trio.SocketStream:
    """Look the name up, then connect. `proxy_variable`: which variable named the host, "" when base_url did."""
    place = _place(host, port)
    named = f"the proxy {place}" if proxy_variable else place
    check = f"check {proxy_variable}" if proxy_variable else "check base_url"
    progress.stage = "name look-up"
    try:
        await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        if exc.errno == socket.EAI_AGAIN:
            what = f"no name server answers when asked for {host}"
            raise NoContact("name look-up", what, "check this machine's network and DNS") from exc
        raise NoContact("name look-up", f"there is no host {host}", f"{check} and this machine's DNS") from exc
    except UnicodeError as exc:
        raise NoContact("name look-up", f"{host} is no host name", check) from exc
    progress.stage = "connection"
    try:
        return await trio.open_tcp_stream(host, port)
    except OSError as exc:
        if _origin(exc, ConnectionRefusedError):
            if is_loopback(url) and not proxy_variable:
                what, action = f"nobody listens on {place}", "start the server that base_url names, or correct base_url"
            else:
                what, action = f"{named} refuses the connection", f"{check} and that the server runs"
            raise NoContact("connection", what, action) from exc
        reason = _origin(exc, OSError, lambda found: bool(found.strerror))
        why = f": {reason.strerror}" if reason else ""
        raise NoContact("connection", f"no connection to {named}{why}", f"{check} and the network") from exc


async def _tunnel(stream: ByteStream, host: str, port: int, proxy: Proxy) -> None:
    """Let the proxy connect to the server. Raises NoContact; the stream is closed then."""
    target = _place(host, port)
    headers = [("host", target), ("user-agent", _USER_AGENT)]
    if proxy.authorization:
        headers.append(("proxy-authorization", proxy.authorization))
    connection = h11.Connection(h11.CLIENT)
    try:
        request = h11.Request(method="CONNECT", target=target, headers=headers)
        await stream.send_all((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        response = await _response(connection, stream)
    except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        await trio.aclose_forcefully(stream)
        what = f"what listens on {proxy.place} is no HTTP proxy"
        raise NoContact("proxy", what, f"check {proxy.variable}") from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    if not 200 <= response.status_code < 300:
        await trio.aclose_forcefully(stream)
        raise _proxy_refuses(proxy, response.status_code)


def _proxy_refuses(proxy: Proxy, status: int) -> NoContact:
    if status == 407:
        return NoContact(
            "proxy",
            f"the proxy {proxy.place} wants a user name and password, or other ones",
            f"write {proxy.variable}=http://USER:PASSWORD@HOST:PORT",
        )
    return NoContact(
        "proxy",
        f"the proxy {proxy.place} does not let this through (status {status})",
        f"ask whoever runs it, or except the host in NO_PROXY; {proxy.variable} names the proxy",
    )


async def _response(connection: h11.Connection, stream: ByteStream) -> h11.Response:
    """The head of the answer. Raises h11.RemoteProtocolError, trio.BrokenResourceError."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(_READ_BYTES)
            if not data and connection.trailing_data[0] == b"":
                raise trio.BrokenResourceError
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.Response):
            return event
        elif isinstance(event, h11.ConnectionClosed):
            raise trio.BrokenResourceError


async def _body(connection: h11.Connection, stream: ByteStream) -> bytes:
    """At most MAX_BODY_BYTES of it."""
    body = bytearray()
    while len(body) < MAX_BODY_BYTES:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            break
    return bytes(body)


# -- TLS -------------------------------------------------------------------------------------------------------------


def _trust(env: Environment) -> ssl.SSLContext:
    """What the workers trust: SSL_CERT_FILE, else SSL_CERT_DIR, else the system. Raises OSError."""
    if file := env.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=file)
    if folder := env.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=folder)
    places = ssl.get_default_verify_paths()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    file = places.openssl_cafile if Path(places.openssl_cafile).is_file() else None
    folder = places.openssl_capath if _holds_certificates(Path(places.openssl_capath)) else None
    if not file and not folder:
        file = next((name for name in _CA_FILES if Path(name).is_file()), None)
    if file or folder:
        context.load_verify_locations(file, folder)
    return context


def _holds_certificates(folder: Path) -> bool:
    """Whether OpenSSL would find any in it: it looks for names that are hashes."""
    return folder.is_dir() and any(re.fullmatch(r"[0-9a-fA-F]{8}\.\d", entry.name) for entry in folder.iterdir())


def _no_tls(exc: BaseException, place: str, env: Environment) -> NoContact:
    if refused := _origin(exc, ssl.SSLCertVerificationError):
        if refused.verify_code in (_NOT_YET_VALID, _EXPIRED):
            what = f"the certificate of {place} is not valid today: {refused.verify_message}"
            return NoContact("TLS", what, "check this machine's date first, then whose server that is")
        hint = "name your network's CA bundle in SSL_CERT_FILE"
        if env.get("REQUESTS_CA_BUNDLE") and not env.get("SSL_CERT_FILE"):
            hint = 'REQUESTS_CA_BUNDLE is not read here: export SSL_CERT_FILE="$REQUESTS_CA_BUNDLE"'
        return NoContact("TLS", f"the certificate of {place} is not trusted: {refused.verify_message}", hint)
    broken = _origin(exc, ssl.SSLError)
    why = (broken.reason if broken and broken.reason else "the handshake failed").replace("_", " ").lower()
    return NoContact("TLS", f"no TLS with {place}: {why}", "check that base_url says http or https as the server does")


def _tls_version(stream: ByteStream) -> str:
    return str(stream.version() or "") if isinstance(stream, trio.SSLStream) else ""


# -- exceptions ------------------------------------------------------------------------------------------------------


def _origin(exc: BaseException, kind: type[E], fits: Callable[[E], bool] = lambda _found: True) -> E | None:
    """The first of `kind` among what `exc` came from."""
    return next((found for found in _origins(exc) if isinstance(found, kind) and fits(found)), None)


def _origins(exc: BaseException) -> Iterator[BaseException]:
    todo: list[BaseException | None] = [exc]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        todo += [found.__context__, found.__cause__]
        if isinstance(found, BaseExceptionGroup):
            todo += found.exceptions


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

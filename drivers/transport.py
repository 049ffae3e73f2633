"""The only HTTP client: a request goes out, the head of its answer comes back, the body arrives piece by piece.

Owns connections, TLS, proxies, size bounds, and what a failure of the network is called. Leaves to run.py every
time limit but the one on connecting, to drivers what a status means, to the runtime whether to send again: nothing
here retries, and no redirect is followed. The names of errors hold no URL path, header or body: a key may be there.

httpx2 over trio. Facts about its insides that this file leans on are marked [2.16].
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from typing import TypeVar
from urllib.request import getproxies

import h11
import httpx2
import trio

from loopforge import __version__
from loopforge.drivers.errors import DriverError, ProviderUnavailable, StreamBroken, TurnRefused, WireMismatch
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.wire import HttpRequest, Response, Transport

# What one turn may bring. A whole answer is held in memory before it is parsed; a stream is not, but nothing that a
# model says in one turn is anywhere near half a gigabyte.
MAX_ANSWER_BYTES = 64 * 2**20
MAX_STREAM_BYTES = 512 * 2**20
MAX_ERROR_BYTES = 64 * 2**10
ERROR_BODY_S = 5.0  # an error's status is known already: its text is not worth a longer wait
CLOSE_S = 2.0  # closing a socket needs no peer; this only keeps a bug below us from hanging a worker

# How long an unused connection is kept. Shorter than what servers keep theirs, else a request meets a connection that
# is being closed: uvicorn (vLLM) and llama.cpp 5 s, Amazon's load balancers 60 s. A plain one costs nothing to reopen.
IDLE_S = {"http": 4.0, "https": 50.0}

_STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson")
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_PORT = 65535
_USER_AGENT = f"loopforge-runtime/{__version__}"
_OLLAMA_PORT = 11434
_NO_COOKIES = DefaultCookiePolicy(allowed_domains=[])
_CORRECT_URL = "correct base_url in config.toml"

# RFC 9110 §5: what may stand in a header. h11 checks it too, but quotes the value, which may be a key.
_HEADER_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?|")

# Traffic to this machine never takes the proxy, as in Go's net/http: with HTTP_PROXY set for the office's sake and
# NO_PROXY forgotten, a local model would be asked for through a machine that cannot reach it.
_LOOPBACK_PATTERNS = ("all://localhost", "all://127.0.0.0/8", "all://[::1]")


E = TypeVar("E", bound=BaseException)


@asynccontextmanager
async def open_transport(settings: ProviderSettings) -> AsyncIterator[Transport]:
    """The transport of one provider. Leaving the block closes every connection, also those in use.

    Proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) and certificates (SSL_CERT_FILE, SSL_CERT_DIR) come from
    the environment. At most as many connections as the provider may ever get turns at once; a request beyond them
    waits, without a limit of its own, as admission is the queue's business.
    """
    transport = HttpTransport(settings)
    await transport.prepare()
    try:
        yield transport
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await transport.aclose()


class HttpTransport:
    """One httpx2 client. For https it is made on first use, as it reads certificates (18 to 39 ms, 1 MB)."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._clients: dict[str, httpx2.AsyncClient] = {}  # by scheme: in practice the one of base_url
        self._making = trio.Lock()
        self._timeout = httpx2.Timeout(None, connect=settings.connect_timeout_s).as_dict()

    async def prepare(self) -> None:
        """Make a plain http client ahead of the first turn, which else waits 20 ms for what httpx2 imports late."""
        if self._settings.base_url.startswith("http://"):
            with suppress(DriverError):  # the first turn will be told
                await self._client("http")

    def open(self, request: HttpRequest) -> AbstractAsyncContextManager[Response]:
        """See wire.Transport. A redirect is a WireMismatch that names where to; a body over its bound one as well."""
        return self._open(request)

    @asynccontextmanager
    async def _open(self, request: HttpRequest) -> AsyncIterator[Response]:
        url = self._url(request.url)
        client = await self._client(url.scheme)
        encodings = client.headers["accept-encoding"]  # those that httpx2 can undo
        headers = self._headers({"accept-encoding": encodings, "user-agent": _USER_AGENT, **request.headers})
        outgoing = httpx2.Request(
            request.method,
            url,
            headers=headers,
            content=request.body,
            extensions={"timeout": self._timeout},
        )
        try:
            answer = await client.send(outgoing, stream=True)
        except httpx2.LocalProtocolError:
            raise self._unusable("the request is not valid HTTP", "correct headers in config.toml") from None
        except httpx2.HTTPError as exc:
            raise self._no_answer(exc, url) from exc
        response = _HttpResponse(answer, self._settings.name, _place(url))
        try:
            response.check_head()
            yield response
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await response.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.aclose()

    async def _client(self, scheme: str) -> httpx2.AsyncClient:
        if scheme not in self._clients:
            async with self._making:  # reading certificates awaits: the second turn waits for the first one's client
                if scheme not in self._clients:
                    self._clients[scheme] = self._new_client(scheme, await self._tls(scheme))
        return self._clients[scheme]

    async def _tls(self, scheme: str) -> ssl.SSLContext:
        """The certificates to trust. For plain http a context that trusts nobody: httpx2 would make a full one."""
        if scheme == "http":
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            return await trio.to_thread.run_sync(httpx2.create_ssl_context)
        except OSError as exc:  # ssl.SSLError is one
            raise ProviderUnavailable(
                self._settings.name,
                f"the trusted certificates could not be read: {exc.strerror or type(exc).__name__}",
                action="correct SSL_CERT_FILE or SSL_CERT_DIR and restart the service",
            ) from exc

    def _new_client(self, scheme: str, tls: ssl.SSLContext) -> httpx2.AsyncClient:
        size = self._settings.most_at_once
        if self._settings.adaptive:
            size += 1  # the server is asked for its slots beside the turns: none of them shall wait for that
        try:
            client = httpx2.AsyncClient(
                verify=tls,
                limits=httpx2.Limits(
                    max_connections=size, max_keepalive_connections=size, keepalive_expiry=IDLE_S[scheme]
                ),
                timeout=httpx2.Timeout(None, connect=self._settings.connect_timeout_s),
                mounts=dict.fromkeys(_LOOPBACK_PATTERNS),
            )
        except (ValueError, ImportError, httpx2.InvalidURL):  # their text may hold the proxy's password
            raise ProviderUnavailable(
                self._settings.name,
                "the proxy named in the environment cannot be used",
                action="correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY (http:// and https:// work) and restart",
            ) from None
        # Turns share nothing with each other; and a jar that nobody reads would only grow.
        client.cookies.jar.set_policy(_NO_COOKIES)
        return client

    def _url(self, text: str) -> httpx2.URL:
        try:
            url = httpx2.URL(text)
        except (httpx2.InvalidURL, ValueError):
            raise self._unusable("the URL cannot be parsed", _CORRECT_URL) from None
        if url.scheme not in IDLE_S or not url.host or (url.port or 1) > _MAX_PORT:
            raise self._unusable("the URL is not of the form http(s)://host/path", _CORRECT_URL)
        return url

    def _headers(self, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        encoded: list[tuple[bytes, bytes]] = []
        for name, value in headers.items():
            try:
                pair = (name.encode("ascii"), value.encode("latin-1"))
            except UnicodeEncodeError:
                pair = (b"", b"")
            if not (_HEADER_NAME.fullmatch(pair[0]) and _HEADER_VALUE.fullmatch(pair[1])):
                raise self._unusable(f"header {name!r} holds what HTTP cannot carry", "correct headers in config.toml")
            encoded.append(pair)
        return encoded

    def _unusable(self, what: str, action: str) -> TurnRefused:
        return TurnRefused(self._settings.name, what, action=action, scope="provider")

    def _no_answer(self, exc: httpx2.HTTPError, url: httpx2.URL) -> DriverError:
        """What it means that no head came."""
        name, place = self._settings.name, _place(url)
        match exc:
            case httpx2.ConnectTimeout():
                return ProviderUnavailable(
                    name,
                    f"no connection to {place}{_or_proxy(url)} within {self._settings.connect_timeout_s:g} s",
                    action="check base_url and the network; connect_timeout_s sets the limit",
                )
            case httpx2.ConnectError():
                return self._no_connection(exc, url)
            case httpx2.ProxyError():
                return ProviderUnavailable(
                    name,
                    f"the proxy would not connect to {place} ({exc})",
                    action="check HTTPS_PROXY and NO_PROXY and restart the service",
                )
            case httpx2.RemoteProtocolError() if _cause(exc, h11.RemoteProtocolError):
                return WireMismatch(name, f"{place}{_or_proxy(url)} does not answer in HTTP", action=_CORRECT_URL)
            case httpx2.UnsupportedProtocol():
                return self._unusable("the URL is not of the form http(s)://host/path", _CORRECT_URL)
            case httpx2.TransportError():
                return ProviderUnavailable(name, f"{place} closed the connection before it answered")
        return ProviderUnavailable(name, f"{place} could not be asked ({type(exc).__name__})")

    def _no_connection(self, exc: httpx2.HTTPError, url: httpx2.URL) -> ProviderUnavailable:
        name, place = self._settings.name, _place(url)
        if _cause(exc, ConnectionRefusedError):
            return ProviderUnavailable(
                name, f"{place}{_or_proxy(url)} refuses the connection", action=_start_server(url)
            )
        if _cause(exc, socket.gaierror):
            return ProviderUnavailable(
                name,
                f"the name {url.host}{_or_proxy(url)} could not be resolved",
                action="check base_url and this machine's DNS, or resend after a back-off",
            )
        if refused := _cause(exc, ssl.SSLCertVerificationError):
            return ProviderUnavailable(
                name,
                f"the certificate of {place} is not trusted: {refused.verify_message}",
                action="check base_url, or name your network's CA bundle in SSL_CERT_FILE and restart the service",
            )
        if broken := _cause(exc, ssl.SSLError):
            return ProviderUnavailable(
                name,
                f"no TLS with {place}: {(broken.reason or 'handshake failed').replace('_', ' ').lower()}",
                action="check that base_url says http or https as the server does, or resend after a back-off",
            )
        reason = _cause(exc, OSError)
        return ProviderUnavailable(
            name,
            f"no connection to {place}{_or_proxy(url)}"
            + (f": {reason.strerror}" if reason and reason.strerror else ""),
            action="check base_url and the network, or resend after a back-off",
        )


class _Body(httpx2.AsyncByteStream):
    """The stream of a response, in one object that can be left at any time.

    httpx2's own is a pile of async generators that do not close one another [2.16, AsyncResponseStream]: left in the
    middle, trio finds an unfinished one in the garbage.
    """

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream
        self._pieces: AsyncIterator[bytes] | None = None
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces is None:
            self._pieces = aiter(self._stream)
        try:
            return await anext(self._pieces)
        except BaseException:
            self._ended = True  # a generator that has raised has finished, and so have those below it
            raise

    async def aclose(self) -> None:
        """Give the connection back when the body was read to its end, close it otherwise."""
        await self._stream.aclose()
        if self._pieces is None or self._ended:
            return
        self._ended = True
        # The socket is closed, so this runs out after what h11 had buffered.
        with suppress(httpx2.HTTPError, httpx2.StreamError):
            async for _ in self._pieces:
                pass


class _HttpResponse:
    """A response whose head has come: an iterator of its body, once. Counts what it hands on."""

    def __init__(self, answer: httpx2.Response, provider: str, place: str) -> None:
        self.status = answer.status_code
        self.headers: Mapping[str, str] = dict(answer.headers.items())
        self._answer = answer
        self._provider = provider
        self._place = place
        kind = self.headers.get("content-type", "").lower()
        self._bound = MAX_STREAM_BYTES if kind.startswith(_STREAMS) else MAX_ANSWER_BYTES
        self._left = self._bound
        assert isinstance(answer.stream, httpx2.AsyncByteStream)
        answer.stream = self._body = _Body(answer.stream)
        # Only a body with an encoding to undo goes through the two layers that httpx2 puts on top.
        self._decoded = answer.aiter_bytes() if "content-encoding" in self.headers else None

    def check_head(self) -> None:
        """Refuse what no driver should see. Raises WireMismatch."""
        if self.status in _REDIRECTS and (target := self.headers.get("location")):
            raise WireMismatch(
                self._provider,
                f"{self._place} redirects to {_redirect_target(self._answer.url, target)}",
                action="set base_url to where the provider really is; redirects are not followed, a key could leak",
                status=self.status,
            )
        length = self.headers.get("content-length", "")
        if self.status == 200 and length.isdecimal() and int(length) > self._bound:
            raise self._too_long()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await anext(self._decoded or self._body)
        except httpx2.DecodingError as exc:
            raise WireMismatch(self._provider, f"the compressed body from {self._place} is damaged") from exc
        except httpx2.TransportError as exc:
            raise StreamBroken(self._provider, f"{self._place} closed the connection inside the answer") from exc
        self._left -= len(data)
        if self._left < 0:
            raise self._too_long()
        return data

    async def read_all(self) -> bytes:
        """See wire.Response. Also ends after ERROR_BODY_S, and where the body is cut: the status says enough."""
        body = bytearray()
        with trio.move_on_after(ERROR_BODY_S):
            try:
                async for data in self:
                    body += data
                    if len(body) > MAX_ERROR_BYTES:
                        break
            except (StreamBroken, WireMismatch):
                pass
        return bytes(body[:MAX_ERROR_BYTES])

    async def aclose(self) -> None:
        """Give the connection back when the body was read to its end, close it otherwise."""
        if self._decoded is not None:
            await self._decoded.aclose()
        await self._answer.aclose()

    def _too_long(self) -> WireMismatch:
        return WireMismatch(
            self._provider,
            f"the body from {self._place} is longer than {self._bound >> 20} MiB",
            action="ask for a shorter answer, or check base_url and kind",
        )


def _place(url: httpx2.URL) -> str:
    """host:port, which is all of a URL that an error may show."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def _redirect_target(asked: httpx2.URL, location: str) -> str:
    """Where to, without query or user: a server may have put back there what it was sent."""
    try:
        target = asked.join(location)
    except (httpx2.InvalidURL, ValueError):
        return "an unusable URL"
    return f"{target.scheme}://{_place(target)}{target.path}"


def _is_loopback(url: httpx2.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def _start_server(url: httpx2.URL) -> str:
    if not _is_loopback(url):
        return "check base_url and that the server runs, or resend after a back-off"
    if url.port == _OLLAMA_PORT:
        return "start Ollama: ollama serve"
    return "start the server that base_url names, or correct base_url in config.toml"


def _or_proxy(url: httpx2.URL) -> str:
    """A hint for texts: with a proxy in the environment, a failure to connect may be the proxy's."""
    proxies = getproxies()
    return " (or the proxy)" if not _is_loopback(url) and (url.scheme in proxies or "all" in proxies) else ""


def _cause(exc: BaseException, kind: type[E]) -> E | None:
    """The first of `kind` among what `exc` came from. httpcore2 hides causes with `from None` [2.16]: look anyway."""
    return next((found for found in _origins(exc) if isinstance(found, kind)), None)


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

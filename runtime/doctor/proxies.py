"""Which proxy a request takes, read from the environment as the workers' HTTP client reads it. Pure.

HTTP_PROXY, HTTPS_PROXY and ALL_PROXY name one, the lower-case names count first; NO_PROXY lists hosts, domains and
networks that take none: https://curl.se/libcurl/c/CURLOPT_NOPROXY.html, as httpx2 2.16 understands it. Traffic to this
machine never takes one (drivers/transport.py).
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from loopforge.runtime.config.base_url import is_loopback
from loopforge.runtime.config.paths import Environment


class UnusableProxy(Exception):
    """The environment names a proxy that cannot be used; the text names the variable, never its value."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"{variable} names no proxy of the form http://HOST:PORT")
        self.variable = variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """`variable`: which one named it. `authorization`: value of a Proxy-Authorization header, "" for none."""

    variable: str
    scheme: str
    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(url: str, env: Environment) -> Proxy | None:
    """The proxy for a usable URL; None when it is asked directly. Raises UnusableProxy."""
    if is_loopback(url) or _is_excepted(url, _value("no_proxy", env)[1]):
        return None
    for name in (f"{urlsplit(url).scheme}_proxy", "all_proxy"):
        variable, value = _value(name, env)
        if value:
            return _read(variable, value)
    return None


def _value(name: str, env: Environment) -> tuple[str, str]:
    """(the variable that counts, its value): the lower-case one if it is there, even empty, as in urllib."""
    variable = name if name in env else name.upper()
    return variable, env.get(variable, "").strip()


def _read(variable: str, value: str) -> Proxy:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, None
    if url is None or not host or url.scheme not in ("http", "https"):
        raise UnusableProxy(variable)
    credentials = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    basic = base64.b64encode(credentials.encode()).decode("ascii")
    return Proxy(
        variable=variable,
        scheme=url.scheme,
        host=host,
        port=port or (443 if url.scheme == "https" else 80),
        authorization=f"Basic {basic}" if url.username else "",
    )


def _is_excepted(url: str, no_proxy: str) -> bool:
    host = (urlsplit(url).hostname or "").rstrip(".")
    return any(_covers(entry.strip().lower(), url, host) for entry in no_proxy.split(",") if entry.strip())


def _covers(entry: str, url: str, host: str) -> bool:
    if entry == "*":
        return True
    scheme, sign, rest = entry.partition("://")
    if sign:  # as the client's own patterns are written: this host, not what is below it
        exact = rest.startswith("*") or _bare(rest) == host
        return scheme in ("all", urlsplit(url).scheme) and exact and _covers(rest, url, host)
    if (network := _network(entry)) is not None:
        address = _address(host)
        return address is not None and address.version == network.version and address in network
    name, _, port = entry.rpartition(":")
    if name and port.isdecimal():
        parts = urlsplit(url)
        return int(port) == (parts.port or (443 if parts.scheme == "https" else 80)) and _covers(name, url, host)
    if entry.startswith("*."):
        return host.endswith(entry[1:])
    if entry.startswith("."):
        return host.endswith(entry)
    return host == entry or host.endswith(f".{entry}")


def _bare(entry: str) -> str:
    """The host of an entry, without its port."""
    name, sign, port = entry.rpartition(":")
    return name if sign and port.isdecimal() else entry


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

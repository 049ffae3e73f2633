"""Refuses every connection off this machine and every name lookup, whichever library asks for it.

Audit hooks see what the socket module does below the standard library, asyncio and trio alike; facts from
https://docs.python.org/3/library/audit_events.html and CPython's Modules/socketmodule.c.
The test process installs this by hand. A Python child that inherits its environment installs it on its own: it finds
this file on PYTHONPATH by its name. A process started with a filtered environment, as the workers are, or in another
language does not: namespace.py is there for those.

Code under test may catch the error that a refusal raises, so each one is written down as well (in the file that
LOOPFORGE_TEST_REFUSALS names) and fails the test that was running, see tests/conftest.py.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
REFUSALS = "LOOPFORGE_TEST_REFUSALS"

# Families that cannot leave the machine; getattr: not every build of Python has each.
LOCAL_FAMILIES = {socket.AF_UNIX, getattr(socket, "AF_NETLINK", socket.AF_UNIX)}
LOCAL_NAMES = {"localhost", "ip6-localhost"}  # /etc/hosts answers, no server is asked

_asking_for_numbers = threading.local()


class NetworkRefused(RuntimeError):
    """A test wanted to leave the machine. Not an OSError: code that expects those must not take it for one."""


def install() -> None:
    """Refuse from now on, until this process ends: an audit hook cannot be taken out. A second call changes nothing."""
    if getattr(socket, "_loopforge_guard", False):
        return
    socket._loopforge_guard = True  # type: ignore[attr-defined]  # on the module, which this file's two names share
    socket.getaddrinfo = _telling_numbers_from_names(socket.getaddrinfo)
    for name in ("connect", "connect_ex", "bind", "sendto"):
        setattr(socket.socket, name, _checking_first(f"socket.{name}", getattr(socket.socket, name)))
    sys.addaudithook(_on_event)


def take_refusals() -> list[str]:
    """What was refused since the last call, in this process and in guarded children, oldest first."""
    path = Path(os.environ.get(REFUSALS, os.devnull))
    if not path.exists() or not (lines := path.read_text().splitlines()):
        return []
    path.unlink()
    return lines


def _on_event(event: str, args: tuple[Any, ...]) -> None:
    if check := _CHECKS.get(event):  # thousands of other events pass here: one look-up each
        check(event, *args)


def _check_address(event: str, sock: socket.socket, address: Any) -> None:
    if address is None or sock.family in LOCAL_FAMILIES:
        return  # sendmsg without an address goes to where a checked connect went
    if not isinstance(address, tuple) or not _is_local(address[0]):
        _refuse(event, address)


def _check_name(event: str, host: Any, *_rest: Any) -> None:
    if host is None or getattr(_asking_for_numbers, "now", False) or _is_number(host) or _text(host) in LOCAL_NAMES:
        return
    _refuse(event, host)


def _check_reverse(event: str, address: Any, *_rest: Any) -> None:
    host = address[0] if isinstance(address, tuple) else address
    if not _is_local(host):
        _refuse(event, host)


_CHECKS: dict[str, Callable[..., None]] = {
    "socket.bind": _check_address,
    "socket.connect": _check_address,
    "socket.sendto": _check_address,
    "socket.sendmsg": _check_address,
    "socket.getaddrinfo": _check_name,
    "socket.gethostbyname": _check_name,
    "socket.gethostbyaddr": _check_reverse,
    "socket.getnameinfo": _check_reverse,
}


def _telling_numbers_from_names(getaddrinfo: Callable[P, T]) -> Callable[P, T]:
    """Let AI_NUMERICHOST through: it looks nothing up (trio asks so first, of every host), but its event hides it."""

    @functools.wraps(getaddrinfo)
    def ask(*args: P.args, **kwargs: P.kwargs) -> T:
        flags = kwargs.get("flags", args[5] if len(args) > 5 else 0)
        _asking_for_numbers.now = isinstance(flags, int) and bool(flags & socket.AI_NUMERICHOST)
        try:
            return getaddrinfo(*args, **kwargs)
        finally:
            _asking_for_numbers.now = False

    return ask


def _checking_first(event: str, method: Callable[..., T]) -> Callable[..., T]:
    """Look at the address before the call: a name in it is looked up before its event comes."""

    @functools.wraps(method)
    def call(sock: socket.socket, *args: Any) -> T:
        _check_address(event, sock, args[-1] if args else None)
        return method(sock, *args)

    return call


def _text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)


def _is_number(host: Any) -> bool:
    try:
        ipaddress.ip_address(_text(host))
    except ValueError:
        return False
    return True


def _is_local(host: Any) -> bool:
    if _text(host) in LOCAL_NAMES:
        return True
    if not _is_number(host):
        return False
    address = ipaddress.ip_address(_text(host))
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _refuse(event: str, target: Any) -> None:
    line = f"{event} {target!r} in process {os.getpid()}: {' '.join(sys.argv)}"
    if path := os.environ.get(REFUSALS):
        with Path(path).open("a") as file:
            file.write(line.replace("\n", " ") + "\n")
    raise NetworkRefused(f"tests stay on this machine, but: {line}. Use a server on 127.0.0.1, or a fake")


if __name__ == "sitecustomize":
    install()

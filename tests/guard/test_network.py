"""Nothing leaves the machine from a test. 192.0.2.0/24 and 2001:db8::/32 are for documentation; no host has them."""

from __future__ import annotations

import _socket
import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from tests.guard.on_path import sitecustomize as network
from tests.guard.on_path.sitecustomize import NetworkRefused


@pytest.fixture
def refused() -> Iterator[Callable[[], list[str]]]:
    """Call it for what was refused. What is left at the end was expected, too."""
    yield network.take_refusals
    network.take_refusals()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


ELSEWHERE = ["192.0.2.1", "255.255.255.255", "::ffff:192.0.2.1", "2001:db8::1", "example.com", "0.0.0.0"]  # noqa: S104  # refused


@pytest.mark.parametrize("address", ELSEWHERE)
@pytest.mark.parametrize("way", ["connect", "connect_ex", "sendto", "bind"])
def test_a_socket_cannot_leave_the_machine(address: str, way: str, refused: Callable[[], list[str]]) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind, args = (socket.SOCK_DGRAM, (b"",)) if way == "sendto" else (socket.SOCK_STREAM, ())
    with socket.socket(family, kind) as sock, pytest.raises(NetworkRefused, match=r"on 127\.0\.0\.1"):
        getattr(sock, way)(*args, (address, 9))
    (line,) = refused()
    assert address in line


@pytest.mark.parametrize("way", ["connect", "bind"])
def test_a_socket_below_the_standard_librarys_cannot_either(way: str, refused: Callable[[], list[str]]) -> None:
    sock = _socket.socket()
    with pytest.raises(NetworkRefused):
        getattr(sock, way)(("192.0.2.1", 9))
    sock.close()
    assert refused()


@pytest.mark.parametrize(
    "look_up",
    [
        lambda: socket.getaddrinfo("example.com", 443),
        lambda: socket.getaddrinfo(b"example.com", 443),
        lambda: socket.gethostbyname("example.com"),
        lambda: socket.gethostbyname_ex("example.com"),
        lambda: socket.gethostbyaddr("192.0.2.1"),
        lambda: socket.getnameinfo(("192.0.2.1", 80), 0),
        lambda: socket.create_connection(("example.com", 443)),
        lambda: asyncio.run(asyncio.open_connection("example.com", 443)),
        lambda: trio.run(trio.open_tcp_stream, "example.com", 443),
        lambda: trio.run(trio.socket.getaddrinfo, "example.com", 443),
    ],
)
def test_no_name_is_looked_up(look_up: Callable[[], object], refused: Callable[[], list[str]]) -> None:
    with pytest.raises(NetworkRefused):
        look_up()
    assert refused()


async def test_trio_cannot_leave_the_machine(refused: Callable[[], list[str]]) -> None:
    with pytest.RaisesGroup(NetworkRefused, flatten_subgroups=True):
        await trio.open_tcp_stream("192.0.2.1", 443)
    assert refused()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::ffff:127.0.0.1"])
async def test_loopback_is_open(host: str, listener: socket.socket) -> None:
    async with await trio.open_tcp_stream(host, listener.getsockname()[1]):
        listener.accept()[0].close()


async def test_a_resolver_of_the_tests_own_may_answer(listener: socket.socket) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: bytes | None, *_: Any, **__: Any) -> list[Any]:
            assert host == b"provider.example"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", listener.getsockname())]

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError("nobody asks")

    trio.socket.set_custom_hostname_resolver(Resolver())  # this run's alone: trio keeps it with the event loop
    async with await trio.open_tcp_stream("provider.example", 443):
        listener.accept()[0].close()


def test_a_python_child_is_kept_on_the_machine_and_what_it_tried_is_told(refused: Callable[[], list[str]]) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 443))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 1
    assert "NetworkRefused" in child.stderr
    (line,) = refused()
    assert "192.0.2.1" in line


def test_a_child_that_has_no_environment_finds_loopback_alone(pytestconfig: pytest.Config) -> None:
    code = "import socket; print([name for _, name in socket.if_nameindex()])"
    child = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, env={}, check=True)
    if child.stdout.strip() != "['lo']":
        pytest.skip("this user may not make a network namespace, see tests/guard/namespace.py")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:  # lo is up, IPv6 too
        socket.create_connection(server.getsockname()[:2]).close()

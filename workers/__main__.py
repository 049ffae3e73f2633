"""python -m loopforge.workers NAME --fd FD --parent PID [--key-fd FD]: the worker process of one provider.

Owns what is special about being a process: it dies with its supervisor, nobody reads its memory, it says HELLO before
it loads anything heavy, it takes its key out of the environment. The work itself is serve.py's.

FD: this end of a socketpair. PID: the supervisor. --key-fd: a file with the key, for credentials that are no variable.
Exit codes: 0 drained or the channel ended, 78 starting again would not help (sysexits.h EX_CONFIG), 1 anything else.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import getopt
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

    from loopforge.drivers.registry import ProviderSettings
    from loopforge.workers.serve import Equipment

USAGE = "usage: python -m loopforge.workers NAME --fd FD --parent PID [--key-fd FD]; the supervisor starts workers"
EXIT_USAGE = 2
EXIT_HOPELESS = 78
MAX_KEY_BYTES = 64 * 1024

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_DUMPABLE = 4


def main() -> int:
    try:
        options, (name,) = getopt.gnu_getopt(sys.argv[1:], "", ["fd=", "parent=", "key-fd="])
        given = {option: int(value) for option, value in options}
        fd, parent = given["--fd"], given["--parent"]
    except (getopt.GetoptError, KeyError, ValueError):
        sys.stderr.write(f"{USAGE}\n")
        return EXIT_USAGE
    if not _bind_to(parent):
        return 1
    faulthandler.enable()  # the supervisor's SIGABRT to a hung worker prints the line that blocks it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; it is the supervisor's
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # whoever spawns workers blocks both for the beginning
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    if not _say_hello(sock, name):
        return EXIT_HOPELESS
    return _work(sock, name, given.get("--key-fd"))


def _bind_to(parent: int) -> bool:
    """Die when the supervisor does, even while the loop is blocked, and be unreadable for others of the same user.

    PR_SET_PDEATHSIG is about the *thread* that spawned us, and comes too late for a parent already dead: then another
    process has adopted us. Compared with the expected pid and not with 1, because a subreaper may be the one.
    PR_SET_DUMPABLE 0 closes /proc/PID/environ and /proc/PID/mem, which hold the key, to the same user's processes.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_DUMPABLE, 0)):
        if prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
    return os.getppid() == parent


def _say_hello(sock: socket.socket, name: str) -> bool:
    """HELLO, before anything heavy is loaded: the supervisor's clock for a boot that hangs then measures just that."""
    import msgpack

    import loopforge
    from loopforge.workers.frame_types import PROTOCOL, FrameType, pack
    from loopforge.workers.framing import encode

    if msgpack.Packer.__module__ == "msgpack.fallback":
        sys.stderr.write(
            f"worker {name}: msgpack lacks its C extension, and in pure Python it is 16 times slower; "
            "unset MSGPACK_PUREPYTHON, or install msgpack from a wheel or with a C compiler\n"
        )
        return False
    header = pack({"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()})
    sock.setblocking(True)
    try:
        sock.sendall(encode(FrameType.HELLO, header=header))
    except OSError:
        return True  # the supervisor is gone; the channel's end says so in a moment
    return True


def _work(sock: socket.socket, name: str, key_fd: int | None) -> int:
    import logging

    import trio

    logging.basicConfig(format=f"worker {name}: %(message)s", level=logging.WARNING)
    return trio.run(_serve, sock, name, key_fd)


async def _serve(sock: socket.socket, name: str, key_fd: int | None) -> int:
    import trio

    from loopforge.workers.channel import Channel
    from loopforge.workers.framing import FrameError
    from loopforge.workers.serve import ProtocolMismatch, serve

    drain = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drain_on_sigterm, drain)
        try:
            await serve(Channel(sock), open_everything=partial(open_everything, key_fd=key_fd), drain=drain)
        except (ProtocolMismatch, FrameError) as exc:
            sys.stderr.write(f"worker {name}: {exc}; restart the service\n")
            return EXIT_HOPELESS
        finally:
            nursery.cancel_scope.cancel()
    return 0


async def _drain_on_sigterm(drain: trio.Event) -> None:
    import trio

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # one that came earlier comes now
        async for _ in signals:
            drain.set()


@asynccontextmanager
async def open_everything(settings: ProviderSettings, *, key_fd: int | None) -> AsyncIterator[Equipment]:
    """The provider's driver, auth and transport. Raises DriverMissing."""
    from loopforge.drivers.registry import open_driver

    key = take_key(settings.api_key_env, key_fd)  # before anything that may fail: it is to be gone from here on
    driver = open_driver(settings)
    from loopforge.drivers.auth import Prepared, open_auth
    from loopforge.drivers.transport import open_transport
    from loopforge.workers.serve import Equipment

    auth = open_auth(settings, key)
    async with open_transport(settings) as transport:
        if isinstance(auth, Prepared):
            await auth.prepare()
        calm_collector()
        yield Equipment(driver, auth, transport)


def take_key(variable: str, key_fd: int | None) -> str:
    """The provider's key, "" when there is none; afterwards neither the environment nor the descriptor is there.

    The variable comes before the descriptor: what a person exported overrides what the machine was set up with.
    """
    from_environment = os.environ.pop(variable, "") if variable else ""
    from_file = ""
    if key_fd is not None:
        with os.fdopen(key_fd, "rb") as file:
            from_file = file.read(MAX_KEY_BYTES).decode("utf-8", "replace").strip()
    return from_environment or from_file


def calm_collector() -> None:
    """With a thousand live streams a full collection stops the loop for 30 to 190 ms; freezing alone leaves 31."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


if __name__ == "__main__":
    sys.exit(main())

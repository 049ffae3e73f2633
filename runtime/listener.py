"""The Unix socket: who may connect, one connection a client, many turns a connection.

Frames in go to dispatch.py, frames out are posted by it. A client that reads too slowly loses its connection, never
anybody else's time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import trio

import loopforge
from loopforge.drivers.errors import PermissionDenied, TurnError
from loopforge.runtime.config.on_disk import trouble_with
from loopforge.runtime.config.values import RuntimeSettings
from loopforge.runtime.dispatch import Dispatcher
from loopforge.runtime.errors import BadTurn, SlowConsumer, VersionMismatch
from loopforge.runtime.outbox import Outbox
from loopforge.runtime.records import TurnRecord
from loopforge.runtime.refusals import error_header
from loopforge.workers.channel import BufferFull, Channel, ChannelClosed
from loopforge.workers.framing import Frame, FrameError, encode
from loopforge.workers.messages import PROTOCOL, FrameType, pack, unpack_header
from loopforge.workers.packing import Malformed

log = logging.getLogger("loopforge")

MAX_OUTBOUND_BYTES = 8 * 2**20
"""A whole turn's text is about 100 KB: only a stuck client ever has this much waiting."""
MAX_CLIENTS = 500
"""Half of the usual limit of 1,024 descriptors: workers and files need some, too."""
HELLO_S = 10.0
LAST_WORDS_S = 5.0
"""How long a slow client may take to read what it has before its connection is closed."""


class SocketBusy(Exception):
    """Another service holds the socket; the text names it and says what to do."""


class UnusableSocket(Exception):
    """No socket can be made at this place; the text says why, and what to do."""


class Link:
    """One connected client: where dispatch.py posts its frames."""

    def __init__(self, channel: Channel, outbox: Outbox) -> None:
        self.turns: dict[int, TurnRecord] = {}
        self.overflowed = trio.Event()
        self._channel = channel
        self._outbox = outbox
        self._largest = 0  # bytes of the largest frame among those that wait

    def send(self, frame: bytes) -> None:
        """Queue one frame. Never raises and never blocks: a client that is gone or too slow misses it."""
        if self.overflowed.is_set():
            return
        waiting = self._channel.buffered_bytes
        if not waiting:
            self._largest = 0
        elif waiting - self._largest > MAX_OUTBOUND_BYTES:  # one large reply does not make a client slow
            self.overflowed.set()
            return
        self._largest = max(self._largest, len(frame))
        try:
            self._outbox.post(self._channel, frame)
        except (ChannelClosed, BufferFull):
            return


async def serve_client(sock: socket.socket, dispatcher: Dispatcher) -> None:
    """Serve one connection until either side ends it; closes `sock`. Raises no Exception: one client ends alone."""
    try:
        await _serve(Channel(sock), dispatcher)
    except Exception:
        log.exception("a client's connection was closed through a bug of ours")


async def _serve(channel: Channel, dispatcher: Dispatcher) -> None:
    link = Link(channel, dispatcher.outbox)
    dispatcher.clients += 1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run)
            nursery.start_soon(_end_slow_client, channel, link, nursery.cancel_scope)
            try:
                await _converse(channel, link, dispatcher)
            except FrameError as exc:  # whoever it is could not read an answer in our frames
                log.warning("a connection was closed: %s", exc)
            except (Malformed, TurnError) as exc:
                error = exc if isinstance(exc, TurnError) else BadTurn(what=f"not a LoopForge client: {exc}")
                await _last_words(channel, error)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # short: closing a socket does not wait
            await channel.aclose()
        dispatcher.clients -= 1
        dispatcher.client_gone(link)


async def _converse(channel: Channel, link: Link, dispatcher: Dispatcher) -> None:
    greeted = False
    with trio.move_on_after(HELLO_S) as hello_scope:
        while frames := await channel.receive():
            with dispatcher.outbox:
                for frame in frames:
                    if not greeted:
                        _greet(link, frame)
                        greeted = True
                        hello_scope.deadline = float("inf")
                    else:
                        _handle(link, dispatcher, frame)


def _greet(link: Link, frame: Frame) -> None:
    """Answer HELLO with WELCOME. Raises VersionMismatch, Malformed."""
    if frame.type != FrameType.HELLO:
        raise Malformed("", "the first frame must be HELLO")
    hello = unpack_header(frame.header)
    if hello.get("protocol") != PROTOCOL:
        what = f"the client speaks protocol {str(hello.get('protocol'))[:20]!r}, the service {PROTOCOL}"
        raise VersionMismatch(what=f"{what} (version {loopforge.__version__})")
    welcome = {"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()}
    link.send(encode(FrameType.WELCOME, header=pack(welcome)))


def _handle(link: Link, dispatcher: Dispatcher, frame: Frame) -> None:
    match frame.type:
        case FrameType.SUBMIT:
            dispatcher.submit(link, frame)
        case FrameType.CANCEL:
            dispatcher.cancel(link, frame)
        case FrameType.LEAVE:
            dispatcher.leave(link, frame)
        case FrameType.ATTACH:
            dispatcher.attach(link, frame)
        case FrameType.STATUS:
            link.send(encode(FrameType.STATUS, frame.turn, body=pack(dispatcher.status())))
        case FrameType.PING:
            link.send(encode(FrameType.PONG, frame.turn))
        case FrameType.QUERY:
            dispatcher.query(link, frame)
        case FrameType.RELOAD:
            dispatcher.ask_reload(link, frame)
        case _:
            raise Malformed("", f"a client does not send frames of type {frame.type}")


async def _end_slow_client(channel: Channel, link: Link, scope: trio.CancelScope) -> None:
    await link.overflowed.wait()
    waiting = f"{MAX_OUTBOUND_BYTES // 2**20} MiB wait for a client that reads slowly"
    await _last_words(channel, SlowConsumer(what=waiting))
    scope.cancel()


async def _last_words(channel: Channel, error: TurnError) -> None:
    """Let the client read what it has, then an ERROR of turn 0: the connection's own."""
    with trio.move_on_after(LAST_WORDS_S), contextlib.suppress(ChannelClosed, BufferFull):
        await channel.wait_drained(MAX_OUTBOUND_BYTES // 2)
        channel.post(encode(FrameType.ERROR, header=error_header(error)))
        await channel.wait_drained(0)


# -- the socket ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bound_socket(path: Path, settings: RuntimeSettings) -> Iterator[socket.socket]:
    """A listening socket at `path`; its file goes when the block is left.

    Folder 0700 and file 0600; with allow_users or allow_groups others must get as far as the check of their
    credentials: 0711 and 0666. Raises SocketBusy, UnusableSocket, OSError.
    """
    shared = bool(settings.allow_users or settings.allow_groups)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid == os.getuid() and path.parent.name == "run":
            path.parent.chmod(0o711 if shared else 0o700)
    except OSError as exc:
        raise _unusable(path, exc) from exc
    with _lock(path.with_name(path.name + ".lock")):
        path.unlink(missing_ok=True)  # stale: whoever made it no longer holds the lock
        with socket.socket(socket.AF_UNIX) as listener:
            before = os.umask(0o177)
            try:
                listener.bind(str(path))
            except OSError as exc:  # the system does not say which socket
                raise OSError(exc.errno, exc.strerror, str(path)) from exc
            finally:
                os.umask(before)
            try:
                path.chmod(0o666 if shared else 0o600)
                listener.setblocking(False)
                listener.listen(128)
                yield listener
            finally:
                path.unlink(missing_ok=True)


def _unusable(path: Path, exc: OSError) -> UnusableSocket:
    return UnusableSocket(trouble_with(path.parent, exc, "name another place with LOOPFORGE_HOME or --socket"))


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        file = path.open("a+")
    except OSError as exc:
        raise _unusable(path, exc) from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise SocketBusy(
                f"{path}: a service is already running (pid {holder}); see 'loopforge status', or stop that one first"
            ) from exc
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        yield


async def listen(
    listener: socket.socket, dispatcher: Dispatcher, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Accept clients until cancelled; each is served in a task of its own."""
    async with trio.open_nursery() as nursery:
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    await trio.sleep(0.1)  # no descriptor is free: those who have one go on, newcomers wait
                continue
            sock.setblocking(False)
            problem = _refusal(sock, dispatcher.config.runtime, dispatcher.clients)
            if problem is None:
                nursery.start_soon(serve_client, sock, dispatcher)
            else:
                nursery.start_soon(_turn_away, sock, problem)


def _refusal(sock: socket.socket, settings: RuntimeSettings, clients: int) -> TurnError | None:
    """Why this peer may not connect, None when it may."""
    if clients >= MAX_CLIENTS:
        return PermissionDenied(what=f"{MAX_CLIENTS} clients are connected", action="close some, then connect again")
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if may_connect(uid, gid, settings):
        return None
    return PermissionDenied(
        what=f"user {_user_name(uid)} may not use this service",
        action="ask its owner to add you to allow_users in [runtime] and restart it",
    )


def may_connect(uid: int, gid: int, settings: RuntimeSettings) -> bool:
    """The owner, root, allow_users, and members of allow_groups."""
    if uid in (0, os.getuid()):
        return True
    name = _user_name(uid)
    if name in settings.allow_users or str(uid) in settings.allow_users:
        return True
    try:
        groups = {gid, *os.getgrouplist(name, gid)}
    except OSError:
        groups = {gid}
    return any(_group_name(group) in settings.allow_groups or str(group) in settings.allow_groups for group in groups)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


async def _turn_away(sock: socket.socket, error: TurnError) -> None:
    channel = Channel(sock)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run)
            await _last_words(channel, error)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # short: closing a socket does not wait
            await channel.aclose()

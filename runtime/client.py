"""The client's end: post turns, follow their events, wait, cancel. `connect` to the service, or `open_runtime` here.

    async with loopforge.open_runtime() as runtime:
        reply = await runtime.ask(Turn(kind="planning", messages=(user("What next?"),)))

One connection carries any number of turns at once; every method may be called from any number of tasks.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

import loopforge
from loopforge.drivers.errors import PermissionDenied, TurnError
from loopforge.drivers.turn import Reply, Turn
from loopforge.runtime.body_error import BodyError
from loopforge.runtime.config import paths
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import (
    BadConfig,
    BadTurn,
    ConnectionLost,
    QueueFull,
    SlowConsumer,
    TooLarge,
    UnknownTurn,
    VersionMismatch,
)
from loopforge.runtime.stream import OUTCOMES, EventStream, Inbox, again
from loopforge.runtime.submission import submit_header, with_id
from loopforge.workers.channel import BufferFull, Channel, ChannelClosed
from loopforge.workers.framing import MAX_FRAME_BYTES, Frame, FrameError, encode
from loopforge.workers.messages import PROTOCOL, FrameType, pack, pack_turn, unpack, unpack_header
from loopforge.workers.packing import Malformed

QUIET = 1
WELCOME_S = 10.0
"""A service whose loop is healthy answers within milliseconds, however busy its workers are."""
CONNECT_AGAIN_S = 0.05
RECONNECT_S = 30.0
"""How long a lost service is looked for: it holds the turns of a client that is away for as long (reattach_grace_s)."""
MAX_RECONNECT_PAUSE_S = 1.0
MAX_POSTED = 10_000
"""Posted turns whose outcomes this connection keeps for `wait`; an older one is asked for by its id."""

_FOR_GOOD = (PermissionDenied, VersionMismatch, SlowConsumer)  # another connection would end the same way


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Where a service is, how long it is looked for when it is lost, and who is told of that."""

    path: Path
    reconnect_s: float
    on_lost: Callable[[TurnError], None] | None = None

    async def redial(self, give_up_at: float) -> socket.socket:
        """A new socket to it. Raises ConnectionLost when there is none until that time."""
        pause_s = CONNECT_AGAIN_S
        while True:
            try:
                return await _dial(self.path)
            except ConnectionLost:
                if trio.current_time() + pause_s >= give_up_at:
                    raise
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_RECONNECT_PAUSE_S)


@dataclass(slots=True, eq=False)
class _Open:
    """A turn number in use. `turn_id`: "" for a question, which does not outlive its connection.

    `submit`: the frame that posts the turn, until it is accepted. `resumed`: asked for again on a later connection.
    `observer`, `wanted`: see AttachHeader.
    """

    inbox: Inbox = field(default_factory=Inbox)
    turn_id: str = ""
    flags: int = 0
    submit: bytes = b""
    resumed: bool = False
    observer: bool = False
    wanted: bool = True
    accepted: bool = False


class Runtime:
    """A connection to a service, or to the runtime inside this process. Made by `connect` and `open_runtime`.

    A connection along a `line` that is lost is made again: turns go on where they were, what was posted meanwhile is
    posted then.
    """

    def __init__(self, line: Line | None = None) -> None:
        self._channel: Channel | None = None  # None while there is no connection
        self._line = line
        self._open: dict[int, _Open] = {}
        self._posted: OrderedDict[str, tuple[int, Inbox]] = OrderedDict()
        self._next_number = 1
        self._lost: TurnError | None = None
        self._welcomes = 0

    async def ask(self, turn: Turn, *, retry: bool = False) -> Reply:
        """Post a turn and wait for its reply. Raises TurnError; cancelling this call cancels the turn.

        The same turn posted twice under one id is served once. `retry`: when it failed or was cancelled, try again.
        """
        async with self._following(turn, flags=QUIET, retry=retry) as events:
            return await events.reply()

    @asynccontextmanager
    async def stream(self, turn: Turn, *, retry: bool = False) -> AsyncIterator[EventStream]:
        """Post a turn and iterate over its events. Leaving the block early cancels the turn, unless it is detached."""
        async with self._following(turn, flags=0, retry=retry) as events:
            yield events

    async def post(self, turn: Turn, *, retry: bool = False) -> str:
        """Post a turn and go on; returns its id once it is accepted. Raises TurnError when it is not."""
        turn = with_id(turn)
        number, inbox = self._submit(turn, QUIET, retry=retry)
        try:
            first = await inbox.get()
        except trio.Cancelled:  # nobody will ask for it: whether it was accepted is not known
            self._leave(number, cancel=True)
            raise
        if first.type != FrameType.ACCEPTED:
            raise TurnError.from_fields(unpack_header(first.header)["fields"])
        self._posted[turn.id] = (number, inbox)
        if len(self._posted) > MAX_POSTED:
            _, (oldest, _) = self._posted.popitem(last=False)
            self._open.pop(oldest, None)
        return turn.id

    async def wait(self, turn_id: str) -> Reply:
        """The reply of a posted turn, posted here or elsewhere. Raises TurnError; UnknownTurn for a strange id.

        Cancelling this call leaves the turn running.
        """
        if (posted := self._posted.get(turn_id)) is not None:
            inbox = await posted[1].wait_whole()
            self._posted.pop(turn_id, None)  # from now on the service's own copy answers
            return await EventStream(turn_id, inbox).reply()
        async with self.attach(turn_id, quiet=True) as events:
            return await events.reply()

    @asynccontextmanager
    async def attach(
        self, turn_id: str, *, after: tuple[int, int] = (0, 0), quiet: bool = False, wanted: bool = True
    ) -> AsyncIterator[EventStream]:
        """Follow a turn that runs already, from behind `after` = (attempt, seq) on. Leaving cancels nothing.

        `wanted`: a turn that is held for its client goes on, for here somebody wants its outcome; False only looks on.
        """
        opened = _Open(turn_id=turn_id, flags=QUIET if quiet else 0, observer=True, wanted=wanted)
        opened.inbox.position = after
        number = self._begin(opened, _attach_frame)
        try:
            yield EventStream(turn_id, opened.inbox)
        finally:
            self._leave(number, cancel=False)

    async def cancel(self, turn_id: str, why: str = "") -> bool:
        """Cancel a turn by its id, whoever posted it. False when it had ended already. Raises UnknownTurn."""
        frame = await self._request(FrameType.CANCEL, header=pack({"id": turn_id, "why": why}))
        return bool(unpack_header(frame.header)["live"])

    async def ping(self) -> None:
        """There and back: the service answers."""
        await self._request(FrameType.PING)

    async def status(self) -> dict[str, Any]:
        """What `loopforge status --json` prints."""
        status: dict[str, Any] = unpack((await self._request(FrameType.STATUS)).body)
        return status

    @asynccontextmanager
    async def _following(self, turn: Turn, *, flags: int, retry: bool) -> AsyncIterator[EventStream]:
        turn = with_id(turn)
        number, inbox = self._submit(turn, flags, retry=retry)
        events = EventStream(turn.id, inbox)
        try:
            yield events
        finally:
            self._leave(number, cancel=True)

    def _leave(self, number: int, *, cancel: bool) -> None:
        """Follow this turn no longer; with `cancel` it ends, too, unless it is detached or somebody else follows it."""
        if self._open.pop(number, None) is not None:
            with contextlib.suppress(TurnError):
                self._send(encode(FrameType.LEAVE, number, header=pack({"cancel": cancel})))

    def _submit(self, turn: Turn, flags: int, *, retry: bool) -> tuple[int, Inbox]:
        try:
            body = pack_turn(turn)
            header = submit_header(turn, body, retry=retry)
        except (ValueError, OverflowError, TypeError, RecursionError) as exc:
            raise BadTurn(
                what=f"the turn cannot be sent: {exc}", action="look at its texts, schemas, options and deadline_s"
            ) from exc
        if len(body) + len(header) > MAX_FRAME_BYTES - 1024:
            raise TooLarge(what=f"the turn has {len(body) / 2**20:.1f} MiB")
        opened = _Open(turn_id=turn.id, flags=flags)

        def frame(number: int, opened: _Open) -> bytes:
            opened.submit = encode(FrameType.SUBMIT, number, flags=flags, header=header, body=body)
            return opened.submit

        return self._begin(opened, frame), opened.inbox

    def _begin(self, opened: _Open, frame: Callable[[int, _Open], bytes]) -> int:
        """Open a turn number and send its first frame; without a connection that is done by the next one."""
        number = self._next_number
        self._next_number += 1
        self._open[number] = opened
        try:
            first = frame(number, opened)
            if self._channel is not None or self._lost is not None:
                self._send(first)
        except BaseException:
            self._forget(number)
            raise
        return number

    async def _request(self, kind: FrameType, header: bytes = b"") -> Frame:
        opened = _Open()
        if self._channel is None and self._lost is None:
            raise ConnectionLost(what="there is no connection to the service at the moment")
        number = self._begin(opened, lambda number, _: encode(kind, number, header=header))
        try:
            frame = await opened.inbox.get()
        finally:
            self._forget(number)
        if frame.type == FrameType.ERROR:
            raise TurnError.from_fields(unpack_header(frame.header)["fields"])
        return frame

    def _forget(self, number: int) -> None:
        self._open.pop(number, None)

    def _send(self, frame: bytes) -> None:
        """Raises the error that ended the connection, QueueFull when the service does not read."""
        if self._lost is not None:
            raise again(self._lost)
        if self._channel is None:
            raise ConnectionLost
        try:
            self._channel.post(frame)
        except ChannelClosed:
            if self._line is None:
                raise ConnectionLost from None
        except BufferFull as exc:
            raise QueueFull(what=f"the service does not read: {exc}", action="post the turn again later") from None

    # -- the connection ----------------------------------------------------------------------------------------------

    async def _stay_connected(self, sock: socket.socket, *, task_status: trio.TaskStatus[None]) -> None:
        """Hand frames to their turns until the service is lost for good; then every open turn learns why."""
        error = await self._converse(sock, task_status.started)
        if self._line is not None and self._welcomes:
            error = await self._reconnect(self._line, error)
        self._lost = error
        for opened in self._open.values():
            opened.inbox.fail(error)
        self._open.clear()

    async def _reconnect(self, line: Line, error: TurnError) -> TurnError:
        """Connect again, as often as the service comes back in time. The error that ends that."""
        give_up_at = trio.current_time() + line.reconnect_s
        lost = True
        while not isinstance(error, _FOR_GOOD) and trio.current_time() < give_up_at:
            self._end_questions(error)
            if lost and line.on_lost is not None:
                line.on_lost(error)
            await trio.sleep(CONNECT_AGAIN_S)  # a process that dies may still take a connection
            try:
                sock = await line.redial(give_up_at)
            except ConnectionLost:
                break
            before = self._welcomes
            error = await self._converse(sock, self._resume)
            lost = self._welcomes > before
            if lost:
                give_up_at = trio.current_time() + line.reconnect_s
        return error

    async def _converse(self, sock: socket.socket, welcomed: Callable[[], None]) -> TurnError:
        """One connection, to its end; closes `sock`. Why it ended."""
        channel = Channel(sock)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.run)
                hello = {"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()}
                channel.post(encode(FrameType.HELLO, header=pack(hello)))
                error = await self._read(channel, welcomed)
                nursery.cancel_scope.cancel()
        finally:
            self._channel = None
            with trio.CancelScope(shield=True):  # short: closing a socket does not wait
                await channel.aclose()
        return error

    async def _read(self, channel: Channel, welcomed: Callable[[], None]) -> TurnError:
        error: TurnError = ConnectionLost()
        with trio.move_on_after(WELCOME_S) as patience:
            try:
                while frames := await channel.receive():
                    for frame in frames:
                        if frame.turn:
                            self._deliver(frame)
                        elif frame.type == FrameType.WELCOME:
                            patience.deadline = float("inf")
                            self._channel = channel
                            self._welcomes += 1
                            welcomed()
                        elif frame.type == FrameType.ERROR:
                            error = TurnError.from_fields(unpack_header(frame.header)["fields"])
            except (FrameError, Malformed) as exc:
                error = ConnectionLost(what=f"the service sent something else than frames: {exc}")
        if patience.cancelled_caught:
            error = ConnectionLost(what=f"the service does not answer within {WELCOME_S:g} s")
        return error

    def _deliver(self, frame: Frame) -> None:
        if (opened := self._open.get(frame.turn)) is None:
            return
        if frame.type == FrameType.ACCEPTED:
            opened.submit = b""
            if opened.resumed and opened.accepted:
                return  # posted twice, because nobody could tell whether the first one had arrived
            opened.accepted = True
        if frame.type in OUTCOMES:
            del self._open[frame.turn]
            if opened.resumed and frame.type == FrameType.ERROR and _class_of(frame) == UnknownTurn.__name__:
                opened.inbox.fail(ConnectionLost(what="the service was restarted and does not know this turn any more"))
                return
        opened.inbox.put(frame)

    def _resume(self) -> None:
        """On a new connection: what was not accepted is posted again, the same id is served once; the rest goes on."""
        for number, opened in self._open.items():
            opened.resumed = True
            with contextlib.suppress(TurnError):
                self._send(opened.submit or _attach_frame(number, opened))

    def _end_questions(self, error: TurnError) -> None:
        for number, opened in list(self._open.items()):
            if not opened.turn_id:
                del self._open[number]
                opened.inbox.fail(error)


def _attach_frame(number: int, opened: _Open) -> bytes:
    asked = {"after": list(opened.inbox.position), "observer": opened.observer, "wanted": opened.wanted}
    return encode(FrameType.ATTACH, number, flags=opened.flags, header=pack({"id": opened.turn_id, **asked}))


def _class_of(frame: Frame) -> str:
    return str(unpack_header(frame.header).get("fields", {}).get("class", ""))


# -- opening ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _over(sock: socket.socket, line: Line | None = None) -> AsyncIterator[Runtime]:
    """A runtime over a connected socket; closes it. Raises TurnError when the other side turns us away."""
    runtime = Runtime(line)
    body = BodyError()
    try:
        async with trio.open_nursery() as nursery:
            with body:
                try:
                    await nursery.start(runtime._stay_connected, sock)  # noqa: SLF001 - the constructor
                except RuntimeError:  # it returned without started(): the service hung up before WELCOME
                    raise runtime._lost or ConnectionLost() from None  # noqa: SLF001
                yield runtime
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if not body.is_all_of(group):
            raise
    if body.error is not None:  # raised here, it keeps its own cause and context
        raise body.error


@asynccontextmanager
async def connect(
    socket_path: str | Path | None = None,
    *,
    reconnect_s: float = RECONNECT_S,
    on_lost: Callable[[TurnError], None] | None = None,
) -> AsyncIterator[Runtime]:
    """A connection to the running service, made again when it is lost: see Runtime.

    `reconnect_s`: how long a lost service is looked for, 0 not at all. `on_lost`: told each time, and why.
    `socket_path`: None looks in the usual places (LOOPFORGE_SOCKET, [runtime] socket, $LOOPFORGE_HOME/run,
    /run/loopforge). Raises ConnectionLost when no service answers, PermissionDenied, VersionMismatch.
    """
    path = Path(socket_path or paths.client_socket(paths.config_path(None, os.environ), os.environ))
    line = Line(path=path, reconnect_s=reconnect_s, on_lost=on_lost)
    async with _over(await _dial(path), line) as runtime:
        yield runtime


async def _dial(path: Path) -> socket.socket:
    """Raises ConnectionLost."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        await _connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, path: Path) -> None:
    """A Unix socket connects at once, or not at all: EAGAIN says that the backlog is full. Raises ConnectionLost."""
    sock.setblocking(False)
    give_up_at = trio.current_time() + WELCOME_S
    while True:
        try:
            sock.connect(str(path))
        except BlockingIOError:
            if trio.current_time() >= give_up_at:
                raise ConnectionLost(what=f"{path}: the service takes no connection within {WELCOME_S:g} s") from None
            await trio.sleep(CONNECT_AGAIN_S)
        except OSError as exc:
            why = exc.strerror or type(exc).__name__
            raise ConnectionLost(what=f"{path}: {why}", action="start the service with 'loopforge serve'") from exc
        else:
            return


@asynccontextmanager
async def open_runtime(config: Config | str | Path | None = None) -> AsyncIterator[Runtime]:
    """A runtime inside this process; its workers are processes all the same. Nothing outlives the block.

    `config`: a checked Config, a file, or None for the usual one. Raises BadConfig naming every problem. The host
    program's garbage collector and signal handlers are left alone.
    """
    from loopforge.runtime.listener import serve_client
    from loopforge.runtime.supervisor import Supervisor

    checked = config if isinstance(config, Config) else await load_config(config)
    supervisor = Supervisor(config=checked)
    body = BodyError()
    try:
        async with trio.open_nursery() as nursery:
            with body:
                await nursery.start(supervisor.run)
                ours, theirs = socket.socketpair()
                nursery.start_soon(serve_client, theirs, supervisor.dispatcher)
                async with _over(ours) as runtime:
                    yield runtime
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if not body.is_all_of(group):
            raise
    if body.error is not None:  # raised here, it keeps its own cause and context
        raise body.error


async def load_config(path: str | Path | None = None) -> Config:
    """Check a configuration file in a short-lived child. Raises BadConfig with every problem in its text."""
    from loopforge.runtime.config.child import check_in_child

    checked = await check_in_child(paths.config_or_presets(path, os.environ), os.environ)
    if checked.config is None:
        raise BadConfig(what="\n".join(str(problem) for problem in checked.problems))
    return checked.config

"""The client's end: post turns, follow their events, wait, cancel. `connect` to the service, or `open_runtime` here.

    async with loopforge.open_runtime() as runtime:
        reply = await runtime.ask(Turn(kind="planning", messages=(user("What next?"),)))

One connection carries any number of turns at once; every method may be called from any number of tasks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

import loopforge
from loopforge.drivers.errors import TurnError
from loopforge.drivers.fold import Fold
from loopforge.drivers.turn import (
    Accepted,
    Audio,
    Cancelled,
    Document,
    Done,
    Event,
    Failed,
    Gap,
    Image,
    JsonSchema,
    Part,
    Reply,
    Restarted,
    Started,
    Timings,
    ToolResult,
    Turn,
)
from loopforge.runtime.config import paths
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import (
    BadConfig,
    BadTurn,
    ConnectionLost,
    QueueFull,
    SlowConsumer,
    TooLarge,
    TurnCancelled,
)
from loopforge.workers.channel import BufferFull, Channel, ChannelClosed
from loopforge.workers.framing import MAX_FRAME_BYTES, Frame, FrameError, encode
from loopforge.workers.messages import (
    PROTOCOL,
    FrameType,
    body_hash,
    pack,
    pack_turn,
    unpack,
    unpack_delta,
    unpack_header,
    unpack_message,
    unpack_reply,
)
from loopforge.workers.packing import Malformed

QUIET = 1
MAX_UNREAD_BYTES = 8 * 2**20
"""Events of one stream that nobody has read yet; above it that stream alone fails with SlowConsumer."""
WELCOME_S = 10.0
"""A service whose loop is healthy answers within milliseconds, however busy its workers are."""
CONNECT_AGAIN_S = 0.05
MAX_POSTED = 10_000
"""Posted turns whose outcomes this connection keeps for `wait`; an older one is asked for by its id."""

_OUTCOMES = frozenset({FrameType.DONE, FrameType.ERROR, FrameType.CANCELLED})
_BYTES_PER_TOKEN = 4


class _Inbox:
    """The frames of one turn that have come and nobody has read."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._news = trio.Event()
        self._error: TurnError | None = None
        self._ended = trio.Event()

    def put(self, frame: Frame) -> None:
        if self._error is None:
            self._frames.append(frame)
            self._bytes += len(frame.raw)
            if self._bytes > MAX_UNREAD_BYTES and len(self._frames) > 1 and frame.type not in _OUTCOMES:
                self.fail(SlowConsumer(what="the events of this turn were not read"))
            self._news.set()
            if frame.type in _OUTCOMES:
                self._ended.set()

    def fail(self, error: TurnError) -> None:
        """What has come can still be read; then this is raised."""
        self._error = self._error or error
        self._news.set()
        self._ended.set()

    async def wait_whole(self) -> _Inbox:
        """All frames up to the outcome, in an inbox of the caller's own: several may wait for one turn."""
        await self._ended.wait()
        copy = _Inbox()
        copy._frames, copy._error = deque(self._frames), self._error
        return copy

    async def get(self) -> Frame:
        """The next frame. Raises the error that ended the connection or the stream."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._frames:
            if self._error is not None:
                raise _again(self._error)
            if self._news.is_set():
                self._news = trio.Event()
            await self._news.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame.raw)
        return frame


class EventStream:
    """Iterate over one turn's events; the last is Done, Failed or Cancelled.

    `id`: the turn's. `position`: (attempt, seq) of the last event read, where `attach` would go on.
    """

    def __init__(self, turn_id: str, inbox: _Inbox) -> None:
        self.id = turn_id
        self.position = (0, 0)
        self.ended = False
        self._inbox = inbox
        self._fold = Fold()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        if self.ended:
            raise StopAsyncIteration
        try:
            frame = await self._inbox.get()
        except TurnError as exc:  # of the connection or the stream; a copy, for each stream has its own partial answer
            raise TurnError.from_fields(exc.to_fields(), self._fold.partial()) from exc
        if frame.attempt:
            self.position = (frame.attempt, frame.seq)
        self.ended = frame.type in _OUTCOMES
        return self._read(frame)

    async def reply(self) -> Reply:
        """Read on to the outcome. Raises the TurnError that it is, TurnCancelled among them."""
        async for event in self:
            match event:
                case Done(reply):
                    return reply
                case Failed(error):
                    raise error
                case Cancelled(why):
                    raise TurnCancelled(what=why or TurnCancelled.default_what)
        raise TurnCancelled(what="the outcome has been read already")

    def _read(self, frame: Frame) -> Event:
        match frame.type:
            case FrameType.DELTA:
                delta = unpack_delta(frame.body)
                self._fold.add(delta)
                return delta
            case FrameType.ACCEPTED:
                return Accepted(str(unpack_header(frame.header)["id"]))
            case FrameType.STARTED:
                header = unpack_header(frame.header)
                self._fold = Fold()
                return Started(header["provider"], header["model"], frame.attempt)
            case FrameType.RESTARTED:
                header = unpack_header(frame.header)
                return Restarted(header["why"], header["provider"])
            case FrameType.GAP:
                return Gap()
            case FrameType.DONE:
                return Done(_whole_reply(frame))
            case FrameType.CANCELLED:
                return Cancelled(str(unpack_header(frame.header).get("why", "")))
            case FrameType.ERROR:
                partial = unpack_message(frame.body) or self._fold.partial()
                return Failed(TurnError.from_fields(unpack_header(frame.header)["fields"], partial))
        raise Malformed("", f"the service sent a frame of type {frame.type}; restart the service")


class Runtime:
    """A connection to a service, or to the runtime inside this process. Made by `connect` and `open_runtime`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inboxes: dict[int, _Inbox] = {}
        self._posted: OrderedDict[str, tuple[int, _Inbox]] = OrderedDict()
        self._next_number = 1
        self._lost: TurnError | None = None

    async def ask(self, turn: Turn) -> Reply:
        """Post a turn and wait for its reply. Raises TurnError; cancelling this call cancels the turn."""
        async with self._following(turn, flags=QUIET) as events:
            return await events.reply()

    @asynccontextmanager
    async def stream(self, turn: Turn) -> AsyncIterator[EventStream]:
        """Post a turn and iterate over its events. Leaving the block early cancels the turn, unless it is detached."""
        async with self._following(turn, flags=0) as events:
            yield events

    async def post(self, turn: Turn) -> str:
        """Post a turn and go on; returns its id once it is accepted. Raises TurnError when it is not."""
        turn = _with_id(turn)
        number, inbox = self._submit(turn, QUIET)
        try:
            first = await inbox.get()
        except trio.Cancelled:  # nobody will ask for it: whether it was accepted is not known
            self._leave(number, turn)
            raise
        if first.type != FrameType.ACCEPTED:
            raise TurnError.from_fields(unpack_header(first.header)["fields"])
        self._posted[turn.id] = (number, inbox)
        if len(self._posted) > MAX_POSTED:
            _, (oldest, _) = self._posted.popitem(last=False)
            self._inboxes.pop(oldest, None)
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
        self, turn_id: str, *, after: tuple[int, int] = (0, 0), quiet: bool = False
    ) -> AsyncIterator[EventStream]:
        """Follow a turn that runs already, from behind `after` = (attempt, seq) on. Leaving cancels nothing."""
        number, inbox = self._open_inbox()
        header = pack({"id": turn_id, "after": list(after)})
        try:
            self._send(encode(FrameType.ATTACH, number, flags=QUIET if quiet else 0, header=header))
            yield EventStream(turn_id, inbox)
        finally:
            self._forget(number)

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
    async def _following(self, turn: Turn, *, flags: int) -> AsyncIterator[EventStream]:
        turn = _with_id(turn)
        number, inbox = self._submit(turn, flags)
        events = EventStream(turn.id, inbox)
        try:
            yield events
        finally:
            if events.ended:
                self._forget(number)
            else:
                self._leave(number, turn)

    def _leave(self, number: int, turn: Turn) -> None:
        self._forget(number)
        if not turn.detached:
            with contextlib.suppress(TurnError):
                self._send(encode(FrameType.CANCEL, number, header=pack({"why": "its client left the turn"})))

    def _submit(self, turn: Turn, flags: int) -> tuple[int, _Inbox]:
        try:
            body = pack_turn(turn)
            header = _submit_header(turn, body)
        except (ValueError, OverflowError, TypeError, RecursionError) as exc:
            raise BadTurn(
                what=f"the turn cannot be sent: {exc}", action="look at its texts, schemas, options and deadline_s"
            ) from exc
        if len(body) + len(header) > MAX_FRAME_BYTES - 1024:
            raise TooLarge(what=f"the turn has {len(body) / 2**20:.1f} MiB")
        number, inbox = self._open_inbox()
        try:
            self._send(encode(FrameType.SUBMIT, number, flags=flags, header=header, body=body))
        except BaseException:
            self._forget(number)
            raise
        return number, inbox

    async def _request(self, kind: FrameType, header: bytes = b"") -> Frame:
        number, inbox = self._open_inbox()
        try:
            self._send(encode(kind, number, header=header))
            frame = await inbox.get()
        finally:
            self._forget(number)
        if frame.type == FrameType.ERROR:
            raise TurnError.from_fields(unpack_header(frame.header)["fields"])
        return frame

    def _open_inbox(self) -> tuple[int, _Inbox]:
        number, inbox = self._next_number, _Inbox()
        self._next_number += 1
        self._inboxes[number] = inbox
        return number, inbox

    def _forget(self, number: int) -> None:
        self._inboxes.pop(number, None)

    def _send(self, frame: bytes) -> None:
        """Raises the error that ended the connection, QueueFull when the service does not read."""
        if self._lost is not None:
            raise _again(self._lost)
        try:
            self._channel.post(frame)
        except ChannelClosed:
            raise ConnectionLost from None
        except BufferFull as exc:
            raise QueueFull(what=f"the service does not read: {exc}", action="post the turn again later") from None

    async def _read(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Hand frames to their turns until the connection ends; then every open turn learns why."""
        error: TurnError = ConnectionLost()
        try:
            while frames := await self._channel.receive():
                for frame in frames:
                    if frame.turn:
                        if (inbox := self._inboxes.get(frame.turn)) is not None:
                            inbox.put(frame)
                            if frame.type in _OUTCOMES:
                                del self._inboxes[frame.turn]
                    elif frame.type == FrameType.WELCOME:
                        task_status.started()
                    elif frame.type == FrameType.ERROR:
                        error = TurnError.from_fields(unpack_header(frame.header)["fields"])
        except (FrameError, Malformed) as exc:
            error = ConnectionLost(what=f"the service sent something else than frames: {exc}")
        self._lost = error
        for inbox in self._inboxes.values():
            inbox.fail(error)
        self._inboxes.clear()


def _again(error: TurnError) -> TurnError:
    """A copy: one error raised in several tasks would grow all their tracebacks."""
    return TurnError.from_fields(error.to_fields(), error.partial)


def _submit_header(turn: Turn, body: bytes) -> bytes:
    """Raises ValueError, OverflowError, TypeError."""
    return pack({
        "id": turn.id,
        "hash": body_hash(body),
        "kind": turn.kind,
        "session": turn.session,
        "lane": turn.lane or "",
        "remaining_ms": None if turn.deadline_s is None else max(int(turn.deadline_s * 1000), 0),
        "features": sorted(_features(turn)),
        "size": len(body) // _BYTES_PER_TOKEN,
        "provider": turn.provider,
        "model": turn.model,
        "detached": turn.detached,
        "resend_safe": True,
    })  # fmt: skip


def _with_id(turn: Turn) -> Turn:
    return turn if turn.id else replace(turn, id=f"t{secrets.token_hex(8)}")


def _features(turn: Turn) -> set[str]:
    """What the turn asks of a route, for SUBMIT's header."""
    features = {"tools"} if turn.tools else set()
    if isinstance(turn.output, JsonSchema):
        features.add("schema")
    if turn.thinking not in (None, "off"):
        features.add("thinking")
    for message in turn.messages:
        for part in message.content:
            features |= _part_features(part)
    return features


def _part_features(part: Part) -> set[str]:
    match part:
        case Image():
            return {"images"}
        case Document():
            return {"documents"}
        case Audio():
            return {"audio"}
        case ToolResult(content=content):
            return set().union(*(_part_features(inner) for inner in content))
    return set()


def _whole_reply(frame: Frame) -> Reply:
    """The worker's reply with what the supervisor added in the header."""
    header = unpack_header(frame.header)
    reply = unpack_reply(frame.body)
    timings = header.get("timings", {})
    return replace(
        reply,
        attempts=header.get("attempts", 1),
        provider=header.get("provider", reply.provider),
        model=header.get("model", reply.model),
        warnings=(*reply.warnings, *header.get("warnings", ())),
        timings=Timings(
            queued_s=timings.get("queued_s", 0.0),
            first_token_s=timings.get("first_token_s"),
            total_s=timings.get("total_s", 0.0),
        ),
    )


# -- opening ---------------------------------------------------------------------------------------------------------


class _BodyError:
    """Carries the caller's own exception past the nursery: it leaves as itself, not inside a group.

    A Cancelled, or a group of nothing else, is not the caller's own: what stands beside it says what went wrong.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None) -> None:
        cancelled = isinstance(exc, trio.Cancelled) or _is_all_cancelled(exc)
        self.error = None if cancelled else exc

    def is_all_of(self, group: BaseExceptionGroup[BaseException]) -> bool:
        """Whether nothing else went wrong: a crash of ours is not hidden behind what the caller made of it."""
        if self.error is None:
            return False
        own = {id(leaf) for leaf in _leaves(self.error)}  # nurseries make groups anew; what is in them stays
        return _is_all_cancelled(group.split(lambda exc: id(exc) in own)[1])


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
    return [exc]


def _is_all_cancelled(exc: BaseException | None) -> bool:
    return exc is None or (isinstance(exc, BaseExceptionGroup) and exc.split(trio.Cancelled)[1] is None)


@asynccontextmanager
async def _over(sock: socket.socket) -> AsyncIterator[Runtime]:
    """A runtime over a connected socket; closes it. Raises TurnError when the other side turns us away."""
    channel = Channel(sock)
    runtime = Runtime(channel)
    body = _BodyError()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run)
            hello = {"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()}
            channel.post(encode(FrameType.HELLO, header=pack(hello)))
            with body:
                with trio.move_on_after(WELCOME_S) as patience:
                    try:
                        await nursery.start(runtime._read)  # noqa: SLF001 - the constructor
                    except RuntimeError:  # _read returned without started(): the service hung up before WELCOME
                        raise runtime._lost or ConnectionLost() from None  # noqa: SLF001
                if patience.cancelled_caught:
                    raise ConnectionLost(what=f"the service does not answer within {WELCOME_S:g} s")
                yield runtime
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if not body.is_all_of(group):
            raise
    finally:
        with trio.CancelScope(shield=True):  # short: closing a socket does not wait
            await channel.aclose()
    if body.error is not None:  # raised here, it keeps its own cause and context
        raise body.error


@asynccontextmanager
async def connect(socket_path: str | Path | None = None) -> AsyncIterator[Runtime]:
    """A connection to the running service.

    `socket_path`: None looks in the usual places (LOOPFORGE_SOCKET, [runtime] socket, $LOOPFORGE_HOME/run,
    /run/loopforge). Raises ConnectionLost when no service answers, PermissionDenied, VersionMismatch.
    """
    path = Path(socket_path or paths.client_socket(paths.config_path(None, os.environ), os.environ))
    sock = socket.socket(socket.AF_UNIX)
    try:
        await _connect(sock, path)
    except BaseException:
        sock.close()
        raise
    async with _over(sock) as runtime:
        yield runtime


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
    body = _BodyError()
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

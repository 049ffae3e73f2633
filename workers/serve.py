"""The worker's loop: frames in, turns run, frames out.

Owns the promise that each SUBMIT gets exactly one outcome (DONE, ERROR or CANCELLED), the numbering of what a turn
emits, and the bound on what waits for the supervisor. Leaves the order and number of turns to the supervisor's queue,
sending one turn to drivers/run.py, and what is special about being a process to __main__.py.

Numbers: STARTED is seq 0 of its attempt, deltas count from 1, the outcome follows the last one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

import trio

from loopforge.drivers.errors import TurnError, TurnRefused, WireMismatch, WorkerLost
from loopforge.drivers.fold import Fold
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.slots import ask_slots, slots_request
from loopforge.drivers.turn import Delta, Effort, Reply, Turn, Usage, UsageDelta
from loopforge.drivers.wire import Auth, Driver, Transport
from loopforge.workers.channel import BufferFull, Channel, ChannelClosed
from loopforge.workers.framing import MAX_FRAME_BYTES, Frame, FrameError, encode
from loopforge.workers.messages import (
    PROTOCOL,
    AssignHeader,
    FrameType,
    Malformed,
    pack,
    pack_delta,
    pack_message,
    pack_reply,
    unpack,
    unpack_header,
    unpack_turn,
)
from loopforge.workers.packing import from_plain, to_plain
from loopforge.workers.slots_watch import SlotsWatch

ROOM_BYTES = 1024 * 1024
"""While more than this waits for the supervisor, turns emit nothing: so a slow reader slows the providers' streams."""
RESUME_BYTES = ROOM_BYTES // 4
LAG_EVERY_S = 0.25
"""Four wake-ups a second see each stall longer than this, and cost an idle worker 0.05 % of a core."""
MAX_HEADER_TEXT = 2000
"""Texts of a provider's making in a header, in characters: the whole header has 64 KiB."""

log = logging.getLogger(__name__)


class ProtocolMismatch(Exception):
    """The supervisor speaks another version of the channel's messages."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a turn needs."""

    driver: Driver
    auth: Auth
    transport: Transport


OpenEverything = Callable[[ProviderSettings], AbstractAsyncContextManager[Equipment]]


async def serve(channel: Channel, *, open_everything: OpenEverything, drain: trio.Event | None = None) -> None:
    """Work for the supervisor at the other end, to whom HELLO has been said, until drained or until the channel ends.

    `drain`: set from outside, it means the same as a DRAIN frame. A TurnError of `open_everything` does not end the
    worker: it answers each turn with it. Raises ProtocolMismatch, and FrameError when the other end is no supervisor
    at all. Closes the channel.
    """
    try:
        welcome, frames = await _wait_welcome(channel)
        if welcome is None:
            return
        settings = _read_welcome(welcome)
        async with AsyncExitStack() as stack:
            try:
                equipment: Equipment | TurnError = await stack.enter_async_context(open_everything(settings))
            except TurnError as exc:
                log.warning("%s", exc)
                equipment = exc
            worker = _Worker(channel, settings, equipment)
            channel.post(encode(FrameType.READY))
            await worker.run(frames, trio.Event() if drain is None else drain)
    except ChannelClosed:
        return  # the supervisor went away before the first turn
    finally:
        await channel.aclose()


async def _wait_welcome(channel: Channel) -> tuple[Frame | None, list[Frame]]:
    """WELCOME and the frames that came with it; None when the channel ended before."""
    while frames := await channel.receive():
        for index, frame in enumerate(frames):
            if frame.type == FrameType.WELCOME:
                return frame, frames[index + 1 :]
            log.warning("ignored a frame of type %d before WELCOME", frame.type)
    return None, []


def _read_welcome(frame: Frame) -> ProviderSettings:
    """Raises ProtocolMismatch."""
    try:
        protocol = unpack_header(frame.header).get("protocol")
        if protocol != PROTOCOL:
            raise ProtocolMismatch(f"the supervisor speaks protocol {protocol}, this worker {PROTOCOL}")
        return from_plain(ProviderSettings, unpack(frame.body))
    except Malformed as exc:
        raise ProtocolMismatch(f"the supervisor's settings cannot be read: {exc}") from exc


class _Worker:
    """One served channel. Its turns are tasks of one nursery; a turn is known by its number until its outcome left."""

    def __init__(self, channel: Channel, settings: ProviderSettings, equipment: Equipment | TurnError) -> None:
        self._channel = channel
        self._settings = settings
        self._equipment = equipment
        self._turns: dict[int, _RunningTurn] = {}
        self._draining = False
        self._drained = trio.Event()
        self._lag_s = 0.0
        self._slots = SlotsWatch(self._ask_slots, self._pong)

    async def run(self, frames: list[Frame], drain: trio.Event) -> None:
        """Until drained, or until the channel ends: then whatever runs is cancelled at once."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._channel.run)
            nursery.start_soon(self._measure_lag)
            nursery.start_soon(self._read, frames, nursery)
            nursery.start_soon(self._drain_when, drain)
            if slots_request(self._settings) is not None:
                nursery.start_soon(self._slots.run)
            await self._drained.wait()
            await self._channel.wait_drained()
            nursery.cancel_scope.cancel()

    # -- frames in ---------------------------------------------------------------------------------------------------

    async def _read(self, frames: list[Frame], nursery: trio.Nursery) -> None:
        try:
            while True:
                for frame in frames:
                    self._take(frame, nursery)
                frames = await self._channel.receive()
                if not frames:
                    break
        except FrameError as exc:
            log.error("gave up: %s", exc)  # noqa: TRY400 - the text says it all
        nursery.cancel_scope.cancel()

    def _take(self, frame: Frame, nursery: trio.Nursery) -> None:
        match frame.type:
            case FrameType.SUBMIT:
                self._submit(frame, nursery)
            case FrameType.CANCEL:
                self._cancel(frame)
            case FrameType.PING:
                self._pong(frame.turn, frame.seq)
            case FrameType.DRAIN:
                self._drain()
            case _:  # a newer supervisor may say more
                log.warning("ignored a frame of unknown type %d", frame.type)

    def _submit(self, frame: Frame, nursery: trio.Nursery) -> None:
        if frame.turn in self._turns:  # its one outcome is still to come; a second would end the wrong turn
            log.error("ignored a second SUBMIT of turn number %d", frame.turn)
            return
        turn = _RunningTurn(self._channel, self._settings, frame.turn, frame.attempt)
        self._turns[frame.turn] = turn
        refusal = self._read_turn(turn, frame)
        nursery.start_soon(self._run_turn, turn, refusal)

    def _read_turn(self, turn: _RunningTurn, frame: Frame) -> TurnError | None:
        """Read what the frame asks for; the error when this worker cannot do it. The frame's bytes are not kept."""
        name = self._settings.name
        if self._draining:
            return WorkerLost(name, "the provider's worker is stopping", action="post the turn again")
        if isinstance(self._equipment, TurnError):
            return self._equipment
        try:
            turn.read(frame)
        except Malformed as exc:
            return TurnRefused(name, f"the turn is malformed: {exc}", action="correct the turn")
        return None

    def _cancel(self, frame: Frame) -> None:
        if (turn := self._turns.get(frame.turn)) is None:
            return  # its outcome is on the way already
        try:
            turn.why_cancelled = str(unpack_header(frame.header).get("why", "")) if frame.header else ""
        except Malformed as exc:
            log.warning("the header of a CANCEL is malformed: %s", exc)
        turn.scope.cancel()

    def _pong(self, number: int = 0, seq: int = 0) -> None:
        header = {
            "rss_bytes": _rss_bytes(),
            "cpu_s": time.process_time(),
            "running": len(self._turns),
            "lag_s": self._lag_s,
        }
        if self._slots.slots is not None:
            header["slots"] = self._slots.slots
        self._lag_s = 0.0
        try:
            self._channel.post(encode(FrameType.PONG, number, seq=seq, header=pack(header)))
        except (ChannelClosed, BufferFull):
            return  # who does not read learns nothing from a further line

    async def _ask_slots(self) -> int | None:
        if isinstance(self._equipment, TurnError):
            return None
        return await ask_slots(self._settings, self._equipment.auth, self._equipment.transport)

    def _drain(self) -> None:
        self._draining = True
        if not self._turns:
            self._drained.set()

    async def _drain_when(self, drain: trio.Event) -> None:
        await drain.wait()
        self._channel.post(encode(FrameType.DRAIN))  # so that nothing new is sent here
        self._drain()

    async def _measure_lag(self) -> None:
        """How late the loop comes back to a task that is due: the largest since the last PONG."""
        while True:
            due = trio.current_time() + LAG_EVERY_S
            await trio.sleep_until(due)
            self._lag_s = max(self._lag_s, trio.current_time() - due)

    # -- one turn ----------------------------------------------------------------------------------------------------

    async def _run_turn(self, turn: _RunningTurn, refusal: TurnError | None) -> None:
        try:
            with turn.scope:
                outcome = await self._attempt(turn, refusal)
            if turn.scope.cancelled_caught:
                outcome = turn.cancelled()
            await turn.wait_room()  # outside the scope: from here on the turn has its outcome
            self._channel.post(outcome)
        except ChannelClosed:
            return  # nobody is left to tell; the reader ends the worker
        del self._turns[turn.number]
        if self._draining and not self._turns:
            self._drained.set()

    async def _attempt(self, turn: _RunningTurn, refusal: TurnError | None) -> bytes:
        """The frame of the turn's outcome."""
        if refusal is not None or isinstance(self._equipment, TurnError):
            return turn.failed(cast("TurnError", refusal or self._equipment))
        use = self._equipment
        try:
            with trio.CancelScope(deadline=trio.current_time() + turn.remaining_s) as deadline:
                await turn.start()
                reply = await run_turn(
                    use.driver, use.auth, turn.turn, use.transport, turn.emit, turn.watchdogs, book=turn.book
                )
                self._slots.turn_done()
                return turn.done(reply)
            assert deadline.cancelled_caught
            return turn.deadline_exceeded()
        except ChannelClosed:
            raise
        except TurnError as exc:
            if isinstance(exc, WireMismatch):
                log.warning("turn %s: %s", turn.id, exc, exc_info=exc.__cause__)
            self._slots.turn_failed(exc)
            return turn.failed(exc)
        except Exception as exc:
            log.exception("turn %s failed through a bug of ours", turn.id)
            return turn.failed(_bug(self._settings.name, exc))


@dataclass(slots=True)
class _RunningTurn:
    """One SUBMIT: what it asks, and the frames it gives."""

    channel: Channel
    settings: ProviderSettings
    number: int
    attempt: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    why_cancelled: str = ""
    seq: int = 0
    fold: Fold = field(default_factory=Fold)  # run_turn's own is gone when a deadline or a bug ends the turn
    turn: Turn = field(default_factory=lambda: Turn(kind="", messages=()))
    remaining_s: float = 0.0
    watchdogs: Watchdogs = field(default_factory=lambda: Watchdogs(0.0, 0.0))

    @property
    def id(self) -> str:
        return self.turn.id

    def read(self, frame: Frame) -> None:
        """Take the turn from its SUBMIT, with what the router and the route decided. Raises Malformed."""
        assign = _read_assignment(frame.header)
        turn = unpack_turn(frame.body)
        self.turn = replace(
            turn,
            id=assign["id"],
            provider=self.settings.name,
            model=assign["model"],
            thinking=cast("Effort | int | None", assign["thinking"]) if turn.thinking is None else turn.thinking,
        )
        self.remaining_s = assign["remaining_ms"] / 1000
        self.watchdogs = Watchdogs(assign["first_event_timeout_s"], assign["event_gap_timeout_s"])

    async def start(self) -> None:
        """STARTED. It waits for company: of a short turn everything leaves in one send."""
        header = pack({"provider": self.settings.name, "model": self.turn.model})
        await self.wait_room()
        self.channel.post_soon(encode(FrameType.STARTED, self.number, attempt=self.attempt, header=header))

    async def emit(self, delta: Delta) -> None:
        frame = encode(FrameType.DELTA, self.number, attempt=self.attempt, seq=self.seq + 1, body=pack_delta(delta))
        self.fold.add(delta)  # not before it was packed: what cannot be would spoil the partial answer, too
        if len(frame) > MAX_FRAME_BYTES:
            raise self._too_large(len(frame))
        await self.wait_room()
        self.seq += 1
        self.channel.post_soon(frame)

    def book(self, usage: Usage) -> None:
        """What the provider had counted when an attempt ended that gives no reply."""
        self.fold.add(UsageDelta(usage))

    async def wait_room(self) -> None:
        """Until the supervisor has read most of what it was sent. Of many that wait one at a time finds the room."""
        if self.channel.buffered_bytes > ROOM_BYTES:
            await self.channel.wait_drained(RESUME_BYTES)

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def done(self, reply: Reply) -> bytes:
        header = {
            "finish": reply.finish,
            "usage": to_plain(reply.usage),
            "model_reported": _clip(reply.model_reported),
            "request_id": _clip(reply.request_id),
            "limits": to_plain(reply.limits),
            "timings": to_plain(reply.timings),
            "has_tool_calls": bool(reply.tool_calls),
        }
        frame = self._outcome(FrameType.DONE, header, pack_reply(reply))
        return frame if len(frame) <= MAX_FRAME_BYTES else self.failed(self._too_large(len(frame)))

    def failed(self, error: TurnError) -> bytes:
        fields = error.to_fields()
        if self.seq:
            fields["started"] = True
        return self._failed(fields)

    def deadline_exceeded(self) -> bytes:
        """As plain fields: the class is runtime/errors.py's, which a worker does not load."""
        what = f"the turn's deadline passed after {self.remaining_s:.3g} s at the provider"
        fields = {"class": "DeadlineExceeded", "what": what, "provider": self.settings.name, "model": self.turn.model}
        return self._failed({**fields, "scope": "turn", "started": self.seq > 0})

    def cancelled(self) -> bytes:
        why = {"why": _clip(self.why_cancelled)} if self.why_cancelled else {}
        return self._outcome(FrameType.CANCELLED, {**why, **self._books()})

    def _books(self) -> dict[str, Any]:
        """What an attempt without an answer is known to have cost, and what the provider said of its limits."""
        books = {"usage": to_plain(self.fold.usage), "limits": to_plain(self.fold.limits)}
        return {name: plain for name, plain in books.items() if plain}

    def _failed(self, fields: dict[str, Any]) -> bytes:
        """ERROR, with what had come; without it when it is more than a frame carries."""
        header = {"fields": {name: _clip(value) for name, value in fields.items()}, **self._books()}
        frame = self._outcome(FrameType.ERROR, header, pack_message(self.fold.partial()))
        return frame if len(frame) <= MAX_FRAME_BYTES else self._outcome(FrameType.ERROR, header)

    def _outcome(self, kind: FrameType, header: dict[str, Any], body: bytes = b"") -> bytes:
        packed = pack(header) if header else b""
        return encode(kind, self.number, attempt=self.attempt, seq=self.seq + 1, header=packed, body=body)

    def _too_large(self, size: int) -> WireMismatch:
        what = f"the answer has a part of {size / 2**20:.1f} MiB, more than a channel carries"
        return WireMismatch(self.settings.name, what, action="ask for less in one turn", model=self.turn.model)


_ASSIGN_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "model": (str,),
    "remaining_ms": (int,),
    "thinking": (str, int, type(None)),
    "first_event_timeout_s": (float, int),
    "event_gap_timeout_s": (float, int),
}


def _read_assignment(data: bytes) -> AssignHeader:
    """Raises Malformed."""
    header = unpack_header(data)
    for name, accepted in _ASSIGN_TYPES.items():
        if not isinstance(header.get(name, ...), accepted):
            raise Malformed(f"SUBMIT.{name}", "missing or of another type; worker and service differ in version")
    return cast("AssignHeader", header)


def _bug(provider: str, exc: Exception) -> WireMismatch:
    return WireMismatch(
        provider,
        f"the worker failed with {type(exc).__name__}",
        action="report this as a bug of LoopForge; its log has the traceback",
    )


def _clip(value: Any) -> Any:
    """The value, a text as a header can bear it: not longer, and without half surrogate pairs."""
    return value[:MAX_HEADER_TEXT].encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _rss_bytes() -> int:
    """Resident memory of this process; 0 when no descriptor is free to look it up with."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:  # noqa: PTH123 - unbuffered: a line a second, 10 us
            return int(statm.read(200).split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

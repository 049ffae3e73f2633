"""What a client reads of one turn: its frames as they come, and the events they stand for. For client.py."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import trio

from loopforge.drivers.errors import TurnError
from loopforge.drivers.fold import Fold
from loopforge.drivers.turn import Accepted, Cancelled, Done, Event, Failed, Gap, Reply, Restarted, Started, Timings
from loopforge.runtime.errors import SlowConsumer, TurnCancelled
from loopforge.workers.framing import Frame
from loopforge.workers.messages import FrameType, unpack_delta, unpack_header, unpack_message, unpack_reply
from loopforge.workers.packing import Malformed

MAX_UNREAD_BYTES = 8 * 2**20
"""Events of one stream that nobody has read yet; above it that stream alone fails with SlowConsumer."""
OUTCOMES = frozenset({FrameType.DONE, FrameType.ERROR, FrameType.CANCELLED})


class Inbox:
    """The frames of one turn that have come and nobody has read."""

    def __init__(self) -> None:
        self.position = (0, 0)
        """(attempt, seq) of the last frame that came; from there a new connection goes on."""
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._news = trio.Event()
        self._error: TurnError | None = None
        self._ended = trio.Event()

    def put(self, frame: Frame) -> None:
        if self._error is None:
            self._frames.append(frame)
            if frame.attempt:
                self.position = (frame.attempt, frame.seq)
            self._bytes += len(frame.raw)
            if self._bytes > MAX_UNREAD_BYTES and len(self._frames) > 1 and frame.type not in OUTCOMES:
                self.fail(SlowConsumer(what="the events of this turn were not read"))
            self._news.set()
            if frame.type in OUTCOMES:
                self._ended.set()

    def fail(self, error: TurnError) -> None:
        """What has come can still be read; then this is raised."""
        self._error = self._error or error
        self._news.set()
        self._ended.set()

    async def wait_whole(self) -> Inbox:
        """All frames up to the outcome, in an inbox of the caller's own: several may wait for one turn."""
        await self._ended.wait()
        copy = Inbox()
        copy._frames, copy._error = deque(self._frames), self._error
        return copy

    async def get(self) -> Frame:
        """The next frame. Raises the error that ended the connection or the stream."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._frames:
            if self._error is not None:
                raise again(self._error)
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

    def __init__(self, turn_id: str, inbox: Inbox) -> None:
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
        self.ended = frame.type in OUTCOMES
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


def again(error: TurnError) -> TurnError:
    """A copy: one error raised in several tasks would grow all their tracebacks."""
    return TurnError.from_fields(error.to_fields(), error.partial)


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

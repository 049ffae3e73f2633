"""A worker's loop over memory streams, and the supervisor's half of its channel, as small as it can be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from loopforge.drivers.errors import TurnError
from loopforge.drivers.registry import Price, ProviderSettings
from loopforge.drivers.turn import Message, Turn, user
from loopforge.workers.channel import Channel
from loopforge.workers.framing import Frame, encode
from loopforge.workers.messages import (
    FrameType,
    pack,
    pack_turn,
    unpack_header,
    unpack_message,
)
from loopforge.workers.packing import to_plain
from loopforge.workers.serve import Equipment, serve
from tests.fakes.streams import WatchedStream, watched_stream_pair

OUTCOMES = {FrameType.DONE, FrameType.ERROR, FrameType.CANCELLED}
SETTINGS = ProviderSettings(
    name="cloud", kind="openai_compatible", prices={"m": Price(input=1.5)}, first_event_timeout_s=9
)


def welcome(protocol: int = 1, settings: ProviderSettings = SETTINGS) -> bytes:
    header = pack({"protocol": protocol, "version": "0.1.0", "pid": 1})
    return encode(FrameType.WELCOME, header=header, body=pack(to_plain(settings)))


@dataclass
class Supervisor:
    """The other half, as small as it can be."""

    channel: Channel
    stream: WatchedStream
    worker: Channel
    seen: list[Frame] = field(default_factory=list)
    returned: trio.Event = field(default_factory=trio.Event)

    def submit(self, number: int, text: str, **assigned: Any) -> None:
        turn = Turn(kind="coding", messages=(user(text),), **assigned.pop("turn", {}))
        self.submit_body(number, pack_turn(turn), **assigned)

    def submit_body(self, number: int, body: bytes, attempt: int = 1, **assigned: Any) -> None:
        header = {
            "id": f"turn-{number}",
            "model": "large",
            "remaining_ms": 60_000,
            "thinking": None,
            "first_event_timeout_s": 30.0,
            "event_gap_timeout_s": 10.0,
            **assigned,
        }
        self.channel.post(encode(FrameType.SUBMIT, number, attempt=attempt, header=pack(header), body=body))

    def cancel(self, number: int, why: str = "") -> None:
        self.channel.post(encode(FrameType.CANCEL, number, header=pack({"why": why}) if why else b""))

    async def read_until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            frames = await self.channel.receive()
            assert frames, "the worker ended early"
            self.seen += frames

    async def outcome(self, number: int) -> Frame:
        await self.read_until(lambda: bool(self.outcomes(number)))
        (frame,) = self.outcomes(number)
        return frame

    async def error(self, number: int) -> tuple[TurnError, Message | None]:
        frame = await self.outcome(number)
        assert frame.type == FrameType.ERROR
        partial = unpack_message(frame.body)
        return TurnError.from_fields(unpack_header(frame.header)["fields"], partial), partial

    async def read_to_the_end(self) -> None:
        while frames := await self.channel.receive():
            self.seen += frames

    def of(self, number: int) -> list[Frame]:
        return [frame for frame in self.seen if frame.turn == number]

    def outcomes(self, number: int) -> list[Frame]:
        return [frame for frame in self.of(number) if frame.type in OUTCOMES]


@asynccontextmanager
async def open_worker(
    open_everything: Callable[[ProviderSettings], AbstractAsyncContextManager[Equipment]],
    drain: trio.Event | None = None,
    settings: ProviderSettings = SETTINGS,
) -> AsyncIterator[Supervisor]:
    """A worker that has said READY."""
    theirs, ours = watched_stream_pair()
    supervisor = Supervisor(Channel(ours), theirs, Channel(theirs))

    async def work() -> None:
        await serve(supervisor.worker, open_everything=open_everything, drain=drain)
        supervisor.returned.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await nursery.start(supervisor.channel.run)
        supervisor.channel.post(welcome(settings=settings))
        await supervisor.read_until(lambda: bool(supervisor.seen))
        assert supervisor.seen.pop(0).type == FrameType.READY
        yield supervisor
        await supervisor.channel.aclose()
        with trio.fail_after(5):
            await supervisor.returned.wait()


def kinds(frames: list[Frame]) -> list[str]:
    return [FrameType(frame.type).name for frame in frames]

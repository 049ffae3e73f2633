"""A worker without a process: the worker's half of the channel over memory streams, doing what each turn's script says.

A script is a list of steps (`Say`, `Wait`, `Finish`, `Break`, `Die`, `Hang`), one script an attempt. Works in virtual
time, so an hour of back-off costs milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import trio
import trio.testing

import loopforge
from loopforge.drivers.errors import TurnError, WorkerLost
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Finished, Message, Reply, Text, TextDelta, Turn
from loopforge.workers.channel import Channel, ChannelClosed
from loopforge.workers.framing import Frame, encode
from loopforge.workers.messages import (
    PROTOCOL,
    FrameType,
    pack,
    pack_delta,
    pack_reply,
    unpack_header,
    unpack_turn,
)


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Finish:
    """End the turn with what was said."""


@dataclass(frozen=True)
class Break:
    """End the turn with an error."""

    error: TurnError


@dataclass(frozen=True)
class Die:
    """The whole worker dies, as by SIGKILL."""


@dataclass(frozen=True)
class Hang:
    """The worker stops answering, as under SIGSTOP."""


@dataclass(frozen=True)
class Garble:
    """The worker sends bytes that are no frame."""


@dataclass(frozen=True)
class Cling:
    """For so long the turn does not let go, cancelled or not."""

    seconds: float


@dataclass(frozen=True)
class Send:
    """The worker sends a frame of its own making; a `turn` of None is this one's number."""

    kind: FrameType
    header: bytes = b""
    body: bytes = b""
    turn: int | None = None


Step: TypeAlias = Say | Wait | Finish | Break | Die | Hang | Garble | Cling | Send
Script: TypeAlias = tuple[Step, ...]
ANSWER: Script = (Say("hello"), Finish())


@dataclass
class FakeWorkers:
    """Hands out fake workers. `scripts`: by turn id, one script an attempt; the last one repeats.

    `at`: by provider, what becomes there of turns that have no script of their own; `default`: at all others.
    `refuse_boot`: how many workers die before they are ready. `boots`: when each started, on the trio clock.
    `boot_s`: from WELCOME to READY. `exit_s`: from a worker's hanging up to its end as a process.
    `refuse_start`: raised instead of starting one. `slots`: by provider, what a PONG says that its server told.
    """

    scripts: dict[str, list[Script]] = field(default_factory=dict)
    at: dict[str, Script] = field(default_factory=dict)
    default: Script = ANSWER
    refuse_boot: int = 0
    refuse_start: Exception | None = None
    boot_s: float = 0.0
    exit_s: float = 0.0
    exit_code: int = -9
    slots: dict[str, Any] = field(default_factory=dict)
    boots: list[float] = field(default_factory=list)
    attempts: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    alive: dict[str, FakeWorker] = field(default_factory=dict)
    most_running: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @asynccontextmanager
    async def open(self, settings: ProviderSettings) -> AsyncIterator[FakeWorker]:
        self.boots.append(trio.current_time())
        if self.refuse_start is not None:
            raise self.refuse_start
        ours, theirs = trio.testing.memory_stream_pair()
        worker = FakeWorker(self, settings, Channel(ours), Channel(theirs), len(self.boots))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            self.alive[settings.name] = worker
            try:
                yield worker
            finally:
                worker.kill()
                nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await worker.channel.aclose()


class FakeWorker:
    def __init__(
        self, workers: FakeWorkers, settings: ProviderSettings, channel: Channel, inner: Channel, pid: int
    ) -> None:
        self.pid = pid
        self.rss_bytes = 1  # what its PONG says
        self.late_s = 0.0  # so long it does not look at what it has received
        self.channel = channel
        self._workers = workers
        self._settings = settings
        self._inner = inner
        self._dead = trio.Event()
        self._died_at = 0.0
        self._hung = False
        self._scopes: dict[int, trio.CancelScope] = {}
        self._draining = False

    # -- the supervisor's handle

    def kill(self) -> None:
        if not self._dead.is_set():
            self._died_at = trio.current_time()
        self._dead.set()

    def abort(self) -> None:
        if not self._hung:
            self.kill()

    async def wait_exited(self) -> int:
        await self._dead.wait()
        await trio.sleep_until(self._died_at + self._workers.exit_s)
        return self._workers.exit_code

    # -- the process

    async def terminate(self) -> None:
        """SIGTERM by hand: it says so, ends with the turns that it has, and refuses what it reads from here on."""
        self._post(encode(FrameType.DRAIN))
        self._draining = True
        if not self._scopes:
            await self._inner.wait_drained()
            self.kill()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._inner.run)
            nursery.start_soon(self._serve, nursery)
            await self._dead.wait()
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._inner.aclose()

    def _post(self, frame: bytes) -> None:
        try:
            self._inner.post(frame)
        except ChannelClosed:
            self.kill()

    async def _serve(self, nursery: trio.Nursery) -> None:
        hello = {"protocol": PROTOCOL, "version": loopforge.__version__, "pid": self.pid}
        self._post(encode(FrameType.HELLO, header=pack(hello)))
        while frames := await self._inner.receive():
            await trio.sleep(self.late_s)
            for frame in frames:
                if self._hung:
                    continue
                match frame.type:
                    case FrameType.WELCOME:
                        if self._workers.refuse_boot > 0:
                            self._workers.refuse_boot -= 1
                            self.kill()
                            return
                        await trio.sleep(self._workers.boot_s)
                        self._post(encode(FrameType.READY))
                    case FrameType.PING:
                        pong = {"rss_bytes": self.rss_bytes, "cpu_s": 0.0, "running": len(self._scopes), "lag_s": 0.0}
                        if (slots := self._workers.slots.get(self._settings.name)) is not None:
                            pong["slots"] = slots
                        self._post(encode(FrameType.PONG, header=pack(pong)))
                    case FrameType.SUBMIT if self._draining:
                        self._refuse(frame)
                    case FrameType.SUBMIT:
                        self._scopes[frame.turn] = trio.CancelScope()  # at once: CANCEL may be in the same batch
                        nursery.start_soon(self._run_turn, frame)
                    case FrameType.CANCEL:
                        if (scope := self._scopes.get(frame.turn)) is not None:
                            scope.cancel()
                    case FrameType.DRAIN:
                        self._draining = True
            if self._draining and not self._scopes:
                with suppress(ChannelClosed):
                    await self._inner.wait_drained()
                break
        self.kill()

    def _refuse(self, frame: Frame) -> None:
        lost = WorkerLost(self._settings.name, "the provider's worker is stopping", action="post the turn again")
        fields = pack({"fields": lost.to_fields()})
        self._post(encode(FrameType.ERROR, frame.turn, attempt=frame.attempt, seq=1, header=fields))

    async def _run_turn(self, frame: Frame) -> None:
        header = unpack_header(frame.header)
        turn = unpack_turn(frame.body)
        workers = self._workers
        workers.attempts[header["id"]].append((self._settings.name, header["model"]))
        scripts = workers.scripts.get(header["id"]) or [workers.at.get(self._settings.name, workers.default)]
        script = scripts[min(frame.attempt, len(scripts)) - 1]
        with self._scopes[frame.turn] as scope:
            workers.most_running[self._settings.name] = max(
                workers.most_running[self._settings.name], len(self._scopes)
            )
            await self._act(frame, turn, header, script)
        del self._scopes[frame.turn]
        if scope.cancelled_caught and not self._hung:
            self._post(encode(FrameType.CANCELLED, frame.turn, attempt=frame.attempt))

    async def _act(self, frame: Frame, turn: Turn, header: dict[str, object], script: Script) -> None:
        seq = 1

        def post(kind: FrameType, plain: dict[str, object] | None = None, body: bytes = b"") -> None:
            nonlocal seq
            packed = b"" if plain is None else pack(plain)
            self._post(encode(kind, frame.turn, attempt=frame.attempt, seq=seq, header=packed, body=body))
            seq += 1

        post(FrameType.STARTED, {"provider": self._settings.name, "model": header["model"]})
        said: list[str] = []
        for step in script:
            match step:
                case Say(text):
                    said.append(text)
                    post(FrameType.DELTA, body=pack_delta(TextDelta(text)))
                case Wait(seconds):
                    await trio.sleep(seconds)
                case Finish():
                    post(FrameType.DELTA, body=pack_delta(Finished("stop")))
                    message = Message(role="assistant", content=(Text(text="".join(said)),))
                    reply = Reply(id=turn.id, message=message, finish="stop", model=str(header["model"]))
                    done = {"finish": "stop", "usage": {}, "timings": {"total_s": 0.0}, "has_tool_calls": False}
                    post(FrameType.DONE, done, pack_reply(reply))
                case Break(error):
                    post(FrameType.ERROR, {"fields": error.to_fields()})
                case Die():
                    await self._inner.wait_drained()
                    self.kill()
                    await trio.sleep_forever()
                case Garble():
                    self._post(b"GET / HTTP/1.1\r\n\r\n")
                case Cling(seconds):
                    with trio.move_on_after(seconds, shield=True):
                        await self._dead.wait()
                case Send(kind, packed, body, number):
                    number = frame.turn if number is None else number
                    self._post(encode(kind, number, attempt=frame.attempt, seq=seq, header=packed, body=body))
                    seq += 1
                case Hang():
                    self._hung = True
                    await trio.sleep_forever()

"""A provider without a network: a driver, an auth and a transport that play scripts. Works in virtual time.

The wire is one line an event: `say TEXT`, `think TEXT`, `call NAME`, `count INPUT OUTPUT`, `end`, `: comment`. A script
is a list of steps, chosen by the text of the turn's last message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from loopforge.drivers.errors import DriverError, RateLimited, StreamBroken
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import (
    Delta,
    Finished,
    ResponseInfo,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    Turn,
    Usage,
    UsageDelta,
)
from loopforge.drivers.wire import HttpRequest, Response
from loopforge.workers.serve import Equipment

Step: TypeAlias = str | float | trio.Event | Exception
"""A line to send, seconds to wait, an event after which it says `go`, or what goes wrong."""

ANSWER: tuple[Step, ...] = ("say hello", "say  world", "end")


@dataclass
class FakeProvider:
    """`scripts`: by the turn's text. `requests`: the turns that arrived. `hung_up`: those whose caller left early."""

    scripts: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    requests: list[Turn] = field(default_factory=list)
    hung_up: list[str] = field(default_factory=list)
    open_now: int = 0
    settings: list[ProviderSettings] = field(default_factory=list)
    closed: bool = False

    @asynccontextmanager
    async def open_everything(self, settings: ProviderSettings) -> AsyncIterator[Equipment]:
        self.settings.append(settings)
        try:
            yield Equipment(FakeDriver(self), FakeAuth(), FakeTransport(self))
        finally:
            self.closed = True

    def script(self, text: str) -> tuple[Step, ...]:
        return self.scripts.get(text, ANSWER)


@dataclass
class FakeAuth:
    async def sign(self, request: HttpRequest) -> HttpRequest:
        return request


@dataclass
class FakeDriver:
    provider: FakeProvider

    def build_request(self, turn: Turn) -> HttpRequest:
        self.provider.requests.append(turn)
        return HttpRequest(url="http://provider", body=turn.messages[-1].text.encode())

    def notices(self, turn: Turn) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's
        return self.provider.notices

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> FakeReader:  # noqa: ARG002 - the protocol's
        return FakeReader()

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        assert status == 429
        assert headers == {}
        return RateLimited(turn.provider, retry_after_s=float(body))


@dataclass
class FakeReader:
    events: int = 0
    calls: int = 0
    ended: bool = False
    counted: Usage | None = None

    def feed(self, data: bytes) -> list[Delta]:
        return [delta for line in data.decode().splitlines() for delta in self._read(line)]

    def _read(self, line: str) -> Iterator[Delta]:
        self.events += not line.startswith(":")
        match line.split(" ", 1):
            case ["say", text]:
                yield TextDelta(text)
            case ["think", text]:
                yield ThinkingDelta(text)
            case ["call", name]:
                yield ToolCallStart(self.calls, f"call-{self.calls}", name)
                yield ToolCallEnd(self.calls, ToolCall(id=f"call-{self.calls}", name=name, parsed={}))
                self.calls += 1
            case ["count", counts]:  # no delta says it before the end
                asked, answered = counts.split()
                self.counted = Usage(input=int(asked), output=int(answered))
            case ["flood", count]:
                for number in range(int(count)):
                    yield TextDelta(f"{number:0100d}")
            case ["huge", size]:
                yield TextDelta("x" * int(size))
            case ["half"]:  # of a surrogate pair, which UTF-8 cannot spell
                yield TextDelta("\ud800")
            case ["end"]:
                self.ended = True
                yield ResponseInfo(model="reported", request_id="r" * 5000)
                yield Finished("tool_calls" if self.calls else "stop", "raw")
                self.counted = Usage(input=7, output=3)
                yield UsageDelta(self.counted)
            case ["bug"]:
                raise ZeroDivisionError

    def close(self) -> list[Delta]:
        if not self.ended:
            raise StreamBroken("")
        return []

    def known_usage(self) -> Usage | None:
        return self.counted


@dataclass
class FakeTransport:
    provider: FakeProvider

    def open(self, request: HttpRequest) -> AbstractAsyncContextManager[Response]:
        return self._open(request.body.decode())

    @asynccontextmanager
    async def _open(self, text: str) -> AsyncIterator[Response]:
        self.provider.open_now += 1
        whole = False
        try:
            await trio.lowlevel.checkpoint()
            steps = self.provider.script(text)
            yield FakeResponse(429 if text.startswith("429") else 200, steps, text.removeprefix("429 ").encode())
            whole = True
        finally:
            self.provider.open_now -= 1
            if not whole:
                self.provider.hung_up.append(text)


@dataclass
class FakeResponse:
    status: int
    steps: tuple[Step, ...]
    error_body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return FakeBody(iter(self.steps))

    async def read_all(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.error_body


@dataclass
class FakeBody:
    """An iterator and no generator: a cancelled turn leaves it half read."""

    steps: Iterator[Step]

    def __aiter__(self) -> FakeBody:
        return self

    async def __anext__(self) -> bytes:
        for step in self.steps:
            match step:
                case str(line):
                    await trio.lowlevel.checkpoint()
                    return f"{line}\n".encode()
                case Exception() as error:
                    raise error
                case trio.Event() as event:
                    await event.wait()
                    return b"say go\n"  # in the very tick of the event: no further checkpoint
                case seconds:
                    await trio.sleep(seconds)
        raise StopAsyncIteration

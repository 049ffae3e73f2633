"""The smallest wire there is, one line an event, and a driver for it: for tests of what drivers have in common.

say TEXT · think TEXT · usage IN OUT · end WORD (the end sign) · last WORD (the end, told at close()) · fail WORD (the
answer is an error) · doom WORD (the same, told at close()) · nothing (an answer without deltas) · crash (a bug) ·
: comment (no event).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loopforge.drivers.errors import DriverError, GenerationFailed, Overloaded, StreamBroken, TurnRefused
from loopforge.drivers.turn import (
    Delta,
    Finished,
    ResponseInfo,
    TextDelta,
    ThinkingDelta,
    Turn,
    Usage,
    UsageDelta,
    user,
)
from loopforge.drivers.wire import HttpRequest

TURN = Turn(kind="planning", messages=(user("hello"),), id="turn-1", provider="acme", model="m-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LineDriver:
    url: str = "http://fake/v1"
    says: tuple[str, ...] = ()  # its notices
    refuses: bool = False
    broken: str = ""  # the method that has a bug

    def build_request(self, turn: Turn) -> HttpRequest:
        self._maybe_crash("build_request")
        if self.refuses:
            raise TurnRefused(what="this wire has no such thing")
        return HttpRequest(url=self.url, body=turn.messages[-1].text.encode())

    def notices(self, turn: Turn) -> tuple[str, ...]:  # noqa: ARG002 - wire.Driver's
        self._maybe_crash("notices")
        return self.says

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> LineReader:  # noqa: ARG002 - wire.Driver's
        self._maybe_crash("new_reader")
        return LineReader(headers, broken=self.broken)

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:  # noqa: ARG002
        self._maybe_crash("explain")
        return Overloaded(what=f"status {status}: {body.decode()}", status=status)

    def _maybe_crash(self, method: str) -> None:
        if self.broken == method:
            raise LookupError(method)


class LineReader:
    def __init__(self, headers: Mapping[str, str], *, broken: str) -> None:
        self.events = 0
        self._rest = b""
        self._ended = False
        self._at_close: Finished | DriverError | None = None
        self._request_id = headers.get("x-request-id", "")
        self._usage: Usage | None = None
        self._broken = broken

    def feed(self, data: bytes) -> list[Delta]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [delta for line in lines if line for delta in self._on_line(line.decode())]

    def close(self) -> list[Delta]:
        if self._broken == "close":
            raise LookupError("close")
        if isinstance(self._at_close, DriverError):
            raise self._at_close
        if self._at_close is not None:
            return [self._at_close]
        if not self._ended:
            raise StreamBroken(what="no end sign")
        return []

    def known_usage(self) -> Usage | None:
        if self._broken == "known_usage":
            raise LookupError("known_usage")
        return self._usage

    def _on_line(self, line: str) -> list[Delta]:
        word, _, rest = line.partition(" ")
        if word == ":":
            return []
        self.events += 1
        match word:
            case "say":
                return [TextDelta(rest)]
            case "think":
                return [ThinkingDelta(rest)]
            case "usage" | "count":  # a count is held back, for a later one to replace it
                asked, answered = rest.split()
                self._usage = Usage(input=int(asked), output=int(answered))
                return [UsageDelta(self._usage)] if word == "usage" else []
            case "end":
                self._ended = True
                return [ResponseInfo(request_id=self._request_id), Finished("stop", rest)]
            case "nothing":
                self._ended = True
                return []
            case "last":
                self._at_close = Finished("stop", rest)
                return []
            case "doom":
                self._at_close = GenerationFailed(what=rest)
                return []
            case "fail":
                raise GenerationFailed(what=rest)
        raise LookupError(line)

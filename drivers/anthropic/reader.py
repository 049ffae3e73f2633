"""One response as deltas: a stream of events, or one JSON answer, whichever came, whatever was asked for.

Reads leniently: an unknown member is passed by, a missing one is missing. Keeps of the answer only what its end needs:
tool arguments, signatures, opaque blocks, the last usage. An error that comes in the same piece of bytes as deltas
before it is raised by the next call, so that deltas, partial answer and error do not depend on where the cut was.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.answer_body import AnswerBody
from loopforge.drivers.anthropic.answer import Answer
from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch, quote
from loopforge.drivers.fold import Fold
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import parse_json
from loopforge.drivers.sse import SseEvent
from loopforge.drivers.turn import Delta, JsonObject, Turn, Usage

_KEEP_ALIVE = frozenset({"ping", "keepalive", "keep-alive", "heartbeat"})
_DONE = "[DONE]"  # of gateways that think of another wire


class MessagesReader:
    """Reads the response to one turn. `answer_tool`: the tool whose input is the answer, "" when there is none.

    `events` as wire.py says: pings and comments are none, each piece of a JSON answer is one.
    """

    def __init__(self, asked: Asked, turn: Turn, headers: Mapping[str, str], *, answer_tool: str = "") -> None:
        self._asked = asked
        self._body = AnswerBody(asked.provider)
        self._answer = Answer(asked, turn, headers, answer_tool)
        self.events = 0
        self._failure: DriverError | None = None
        self._first = ""

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that `data` completes. Raises DriverError."""
        if self._failure is not None:
            raise self._failure
        if self._answer.ended:
            return []
        out: list[Delta] = []
        try:
            self._read_events(self._body.feed(data), out)
            if self._body.form == "json":
                self.events = self._body.json_pieces
        except DriverError as exc:
            if not out:
                raise
            self._failure = exc
        return out

    def close(self) -> list[Delta]:
        """The body ended. Raises StreamBroken if that cut the answer short, or what the answer turned out to be."""
        if self._failure is not None:
            raise self._failure
        if self._body.form == "json":
            return self._read_json()
        out: list[Delta] = []
        if not self._answer.ended:
            self._read_events(self._body.close(), out)
        if self._answer.ended:
            return out
        if not self.events:
            raise self._body.nothing_came()
        if not self._answer.begun:
            raise self._mismatch("the stream holds no event of this wire", self._first)
        if not self._answer.complete:
            raise StreamBroken(self._asked.provider, "the stream ended before the answer did")
        self._answer.end(out)
        return out

    def known_usage(self) -> Usage | None:
        """The latest count that the answer has told; None while it has told none."""
        return self._answer.usage

    def _read_events(self, events: list[SseEvent], out: list[Delta]) -> None:
        answer = self._answer
        for name, text in events:
            if name in _KEEP_ALIVE:
                continue
            event = self._parse(text)
            if event is None:
                continue
            kind = event.get("type") or name
            if kind == "content_block_delta":  # nearly all of them
                self.events += 1
                answer.read_delta(event, out)
                continue
            if not isinstance(kind, str):
                kind = name
            if kind in _KEEP_ALIVE:
                continue
            self.events += 1
            self._first = self._first or text[:500]
            answer.read_event(kind, event, out)
            if answer.ended:
                return

    def _parse(self, text: str) -> JsonObject | None:
        """The JSON of one event, None for what says nothing. Raises StreamBroken or WireMismatch."""
        if text[:1] != "{":
            text = text.strip()
            if text in (_DONE, "null"):
                return None
        try:
            event = parse_json(text)
        except ValueError as exc:
            if self._answer.complete:  # cut off behind the end, or a gateway's last words: nothing is missing
                return None
            self.events += 1
            what = f"a line of the stream is no JSON: {quote(text, 200)}"
            raise StreamBroken(self._asked.provider, what) from exc
        if not isinstance(event, dict):
            self.events += 1
            raise self._mismatch("an event of the stream is no JSON object", text)
        return event

    def _read_json(self) -> list[Delta]:
        body = self._body.take_json()
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        if not isinstance(body, dict):
            raise self._mismatch("the answer is no JSON object", str(body))
        out: list[Delta] = []
        try:
            self._answer.read_whole(body, out)
        except DriverError as exc:
            fold = Fold()
            for delta in out:
                fold.add(delta)
            exc.partial = fold.partial()
            raise
        return out

    def _mismatch(self, what: str, seen: str) -> WireMismatch:
        return WireMismatch(self._asked.provider, f"{what}: {quote(seen, 200)}", model=self._asked.model)

"""One response as deltas: a stream of frames, or one JSON answer, whichever came, whatever was asked for.

Reads leniently: an unknown member is passed by, a missing one is missing. Keeps of the answer only what its end needs:
tool arguments, signatures, opaque blocks. An error that comes in the same piece of bytes as deltas before it is raised
by the next call, so that deltas, partial answer and error do not depend on where the cut was.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.bedrock.answer import Answer
from loopforge.drivers.bedrock.failures import Asked, explain_frame
from loopforge.drivers.bedrock.frames import Body, Frame
from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch, quote
from loopforge.drivers.fold import Fold
from loopforge.drivers.json_values import parse_json
from loopforge.drivers.turn import Delta, JsonObject, Turn, Usage

_KEEP_ALIVE = frozenset({"ping", "keepAlive", "heartbeat", "initial-response"})
"""Not seen on this wire so far; other event streams of AWS have them. They are no events, and silence."""


class ConverseReader:
    """Reads the response to one turn. `answer_tool`: the tool whose input is the answer, "" when there is none.

    `events` as wire.py says: each frame but keep-alives, each piece of a JSON answer.
    """

    def __init__(self, asked: Asked, turn: Turn, headers: Mapping[str, str], *, answer_tool: str = "") -> None:
        self._asked = asked
        self._headers = headers
        self._body = Body(asked.provider)
        self._answer = Answer(asked, turn, headers, answer_tool)
        self.events = 0
        self._failure: DriverError | None = None
        self._over = False

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that `data` completes. Raises DriverError."""
        if self._failure is not None:
            raise self._failure
        out: list[Delta] = []
        if self._over:
            return out
        try:
            for frame in self._body.feed(data):
                self._read_frame(frame, out)
            if self._body.form == "text":
                self.events = self._body.text.json_pieces
        except DriverError as exc:
            if self._answer.stopped:  # the answer is whole: what is damaged behind it is missed by nobody
                self._over = True
                return out
            self._failure = exc
            if not out:
                raise
        return out

    def close(self) -> list[Delta]:
        """The body ended. Raises StreamBroken if that cut the answer short, or what the answer turned out to be."""
        if self._failure is not None:
            raise self._failure
        if self._body.form == "text" and self._body.text.form == "json":
            return self._read_json()
        if not self.events:
            raise self._body.nothing_came()
        if not self._answer.begun:
            raise WireMismatch(self._asked.provider, "the stream holds no event of this wire", model=self._asked.model)
        if not self._answer.stopped:
            raise StreamBroken(self._asked.provider, "the stream ended before the answer did")
        return []

    def known_usage(self) -> Usage | None:
        """The latest count that the answer has told; None while it has told none."""
        return self._answer.usage

    def _read_frame(self, frame: Frame, out: list[Delta]) -> None:
        answer = self._answer
        if frame.kind != "event":
            self.events += 1
            if not answer.stopped:
                raise explain_frame(
                    self._asked, frame.name, frame.payload, frame.message, self._headers, started=answer.started
                )
            return
        if frame.name in _KEEP_ALIVE:
            return
        self.events += 1
        answer.read_event(frame.name, self._parse(frame.payload), out)

    def _parse(self, payload: bytes) -> JsonObject:
        """The JSON of one event. Raises StreamBroken."""
        if not payload:
            return {}
        text = payload.decode("utf-8", "replace")
        try:
            event = parse_json(text)
        except ValueError:
            event = None
        if isinstance(event, dict):
            return event
        what = f"an event of the stream is no JSON object: {quote(text, 200)}"
        raise StreamBroken(self._asked.provider, what)

    def _read_json(self) -> list[Delta]:
        body = self._body.text.take_json()
        if not isinstance(body, dict):
            seen = quote(str(body), 200)
            raise WireMismatch(self._asked.provider, f"the answer is no JSON object: {seen}", model=self._asked.model)
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

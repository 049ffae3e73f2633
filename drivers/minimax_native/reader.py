"""One response as deltas: a stream of frames, or one JSON answer, whichever came, whatever was asked for.

Frames come as server-sent events, from older hosts as bare lines of JSON. Reads leniently: an unknown member is passed
by, a missing one is missing. An error that comes in the same piece of bytes as deltas before it is raised by the next
call, so that deltas, partial answer and error do not depend on where the bytes were cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.answer_body import AnswerBody
from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch, quote
from loopforge.drivers.fold import Fold
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import parse_json
from loopforge.drivers.minimax_native.answer import Answer, is_frame
from loopforge.drivers.sse import SseEvent
from loopforge.drivers.turn import Delta, JsonObject, Turn, Usage

_KEEP_ALIVE = frozenset({"ping", "keepalive", "keep-alive", "heartbeat"})
_DONE = "[DONE]"  # rare on this wire


class ChatReader:
    """Reads the response to one turn. `events` as wire.py says: each network piece of a JSON answer is one."""

    def __init__(self, turn: Turn, headers: Mapping[str, str], asked: Asked) -> None:
        self.events = 0
        self._asked = asked
        self._answer = Answer(turn, asked, headers)
        self._body = AnswerBody(asked.provider, json_lines=True)
        self._failure: DriverError | None = None
        self._first = ""
        self._done = False

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that `data` completes. Raises DriverError."""
        if self._failure is not None:
            raise self._failure
        out: list[Delta] = []
        if self._done:
            return out
        try:
            self._read_events(self._body.feed(data), out)
        except DriverError as exc:
            self._answer.flush(out)
            if not out:
                raise
            self._failure = exc
        if self._body.form == "json":
            self.events = self._body.json_pieces
        return out

    def close(self) -> list[Delta]:
        """The body ended. Raises StreamBroken if that cut the answer short, or what the answer turned out to be."""
        if self._failure is not None:
            raise self._failure
        if self._done:
            return []
        self._done = True
        out: list[Delta] = []
        try:
            if self._body.form == "json":
                self._read_json(out)
            else:
                self._close_stream(out)
        except DriverError as exc:
            self._answer.flush(out)
            fold = Fold()  # the last words of the answer: its partial message where they are all there is of it
            for delta in out:
                fold.add(delta)
            exc.partial = fold.partial()
            raise
        return out

    def known_usage(self) -> Usage | None:
        """The latest count that the answer has told; None while it has told none."""
        return self._answer.usage

    def _read_json(self, out: list[Delta]) -> None:
        body = self._body.take_json()
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        if not isinstance(body, dict):
            raise self._mismatch("the answer is no JSON object", str(body)[:200])
        if is_frame(body):  # the first line of a stream of lines that was cut behind it
            self._answer.read_frame(body, out)
            self._end_stream(out)
        else:
            self._answer.read_whole(body, out)

    def _close_stream(self, out: list[Delta]) -> None:
        self._read_events(self._body.close(), out)
        if not self.events:
            raise self._body.nothing_came()
        self._end_stream(out)

    def _end_stream(self, out: list[Delta]) -> None:
        if self._answer.ended:
            return
        if not self._answer.begun:
            raise self._mismatch("the stream holds no frame of this wire", self._first)
        if not self._answer.complete:
            raise StreamBroken(self._asked.provider, "the stream ended before the answer did")
        self._answer.end(out)

    def _read_events(self, events: list[SseEvent], out: list[Delta]) -> None:
        for name, text in events:
            if name in _KEEP_ALIVE:
                continue
            self.events += 1
            if text[:1] != "{" and text.strip() == _DONE:
                self._done = True
                self._answer.end(out)
                return
            frame = self._parse(text)
            if frame is not None:
                self._answer.read_frame(frame, out)

    def _parse(self, text: str) -> JsonObject | None:
        """The JSON of one frame, None for what says nothing. Raises StreamBroken or WireMismatch."""
        try:
            frame = parse_json(text if text[:1] == "{" else text.strip())
        except ValueError as exc:
            if self._answer.complete:  # cut off behind the end, or a gateway's last words: nothing is missing
                return None
            what = f"a line of the stream is no JSON: {quote(text, 200)}"
            raise StreamBroken(self._asked.provider, what) from exc
        if not self._first:
            self._first = text[:200]
        if frame is not None and not isinstance(frame, dict):
            raise self._mismatch("a frame of the stream is no JSON object", text)
        return frame

    def _mismatch(self, what: str, seen: str) -> WireMismatch:
        return WireMismatch(self._asked.provider, f"{what}: {quote(seen, 200)}", model=self._asked.model)

"""One response as deltas: a stream of chunks, or one JSON answer, whichever came, whatever was asked for.

Reads leniently: an unknown member is passed by, a missing one is missing. Keeps of the answer only what its end needs:
tool arguments, opaque reasoning items, the last usage. An error that comes in the same piece of bytes as deltas before
it is raised by the next call, so that deltas, partial answer and error do not depend on where the bytes were cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.answer_body import AnswerBody
from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch, quote
from loopforge.drivers.fold import Fold
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import parse_json
from loopforge.drivers.openai_compatible.answer import Answer
from loopforge.drivers.openai_compatible.failures import explain_inside, is_error
from loopforge.drivers.sse import SseEvent
from loopforge.drivers.turn import Delta, Turn, Usage
from loopforge.drivers.vendors import Profile

_KEEP_ALIVE_EVENTS = frozenset({"ping", "keepalive", "keep-alive", "heartbeat"})


class ChatReader:
    """Reads the response to one turn. `events` as wire.py says; `done`: the answer's own end has been read."""

    def __init__(self, turn: Turn, headers: Mapping[str, str], asked: Asked, profile: Profile) -> None:
        self.events = 0
        self.done = False
        self._asked = asked
        self._headers = headers
        self._answer = Answer(turn, asked, profile, headers)
        self._body = AnswerBody(asked.provider)
        self._failure: DriverError | None = None

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that `data` completes. Raises DriverError."""
        if self._failure is not None:
            raise self._failure
        out: list[Delta] = []
        if self.done:
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
        if self._body.form == "json":
            return self._read_json()
        return [] if self.done else self._close_stream()

    def known_usage(self) -> Usage | None:
        """The latest count that the answer has told; None while it has told none."""
        return self._answer.usage

    def _read_json(self) -> list[Delta]:
        body = self._body.take_json()
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        if not isinstance(body, dict):
            raise self._mismatch("the answer is no JSON object", str(body)[:200])
        out: list[Delta] = []
        try:
            self._answer.read_whole(body, out)
        except DriverError as exc:
            fold = Fold()
            for delta in out:
                fold.add(delta)
            exc.partial = fold.partial()
            raise
        self.done = True
        return out

    def _read_events(self, events: list[SseEvent], out: list[Delta]) -> None:
        for name, text in events:
            if name in _KEEP_ALIVE_EVENTS:
                continue
            self.events += 1
            self._on_event(name, text, out)
            if self.done:
                return

    def _on_event(self, name: str, text: str, out: list[Delta]) -> None:
        if text[:1] != "{":
            text = text.strip()
            if text == "[DONE]":
                self.done = True
                self._answer.end(out)
                return
        try:
            chunk = parse_json(text)
        except ValueError as exc:
            if self._answer.finished:  # cut off behind the end, or a gateway's last words: nothing is missing
                return
            what = f"a line of the stream is no JSON: {quote(text, 200)}"
            raise StreamBroken(self._asked.provider, what) from exc
        if isinstance(chunk, list) and len(chunk) == 1:
            chunk = chunk[0]
        if not isinstance(chunk, dict):
            if chunk is None:
                return
            raise self._mismatch("a chunk of the stream is no JSON object", text)
        if name == "error" or (
            ("choices" not in chunk or "error" in chunk or "base_resp" in chunk) and is_error(chunk)
        ):
            self._answer.note_usage(chunk)
            raise explain_inside(self._asked, chunk, self._headers, started=self._answer.started)
        self._answer.read_chunk(chunk, out)

    def _close_stream(self) -> list[Delta]:
        out: list[Delta] = []
        self._read_events(self._body.close(), out)
        if not self.events:
            raise self._body.nothing_came()
        if not self.done:
            if not self._answer.complete:
                raise StreamBroken(self._asked.provider, "the stream ended before the answer did")
            self.done = True
            self._answer.end(out)
        return out

    def _mismatch(self, what: str, seen: str | bytes) -> WireMismatch:
        return WireMismatch(self._asked.provider, f"{what}: {quote(seen, 200)}", model=self._asked.model)

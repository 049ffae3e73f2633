"""One response as deltas: server-sent events, a JSON array that arrives in pieces, or one JSON answer, whichever came.

Reads leniently: an unknown member is passed by, a missing one is missing. An error that comes in the same piece of
bytes as deltas before it is raised by the next call, so that deltas, partial answer and error do not depend on where
the bytes were cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch, quote
from loopforge.drivers.fold import Fold
from loopforge.drivers.gemini.answer import Answer
from loopforge.drivers.gemini.splitter import JsonSplitter
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import parse_json, parse_json_at
from loopforge.drivers.sse import MAX_EVENT_BYTES, SseReader
from loopforge.drivers.turn import Delta, Turn, Usage

MAX_BODY_BYTES = 64 * 1024 * 1024  # of a whole answer; the transport has its own, configured bound
_HEAD_BYTES = 512  # kept to quote from when the body turns out to be none of this wire
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_BARE = (b"\n{", b"\n[")
"""A line that begins with JSON: Google writes an error into a running stream without `data:` in front."""


class GeminiReader:
    """Reads the response to one turn. `events` as wire.py says. `answer_name` as calls.py says."""

    def __init__(self, turn: Turn, headers: Mapping[str, str], asked: Asked, answer_name: str = "") -> None:
        self.events = 0
        self._asked = asked
        self._answer = Answer(turn, asked, headers, answer_name)
        self._sse = SseReader(asked.provider)
        self._objects = JsonSplitter(asked.provider, max_bytes=MAX_EVENT_BYTES)
        self._mode: Literal["", "events", "objects", "whole"] = ""
        self._lead = b""
        self._head = b""
        self._body = bytearray()
        self._after_line = False  # the bytes so far end with a line's end
        self._failure: DriverError | None = None
        self._emitted = False
        self._closed = False

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that `data` completes. Raises DriverError."""
        if self._failure is not None:
            raise self._failure
        if not self._mode:
            data = self._choose_mode(data)
        if not data:
            return []
        if self._mode == "whole":
            return self._keep(data)
        if not self.events and len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
        out: list[Delta] = []
        try:
            if self._mode == "events":
                self._feed_events(data, out)
            else:
                self._feed_objects(data, out)
        except DriverError as exc:
            self._answer.flush(out)
            if not out:
                raise
            self._failure = exc
        self._emitted = self._emitted or bool(out)
        return out

    def close(self) -> list[Delta]:
        """The body ended. Raises StreamBroken if that cut the answer short, or what the answer turned out to be."""
        if self._failure is not None:
            raise self._failure
        if self._closed:
            return []
        self._closed = True
        out: list[Delta] = []
        try:
            self._end(out)
        except DriverError as exc:
            if not self._emitted:  # else the caller has the answer so far, and these are only its last words
                fold = Fold()
                for delta in out:
                    fold.add(delta)
                exc.partial = fold.partial()
            raise
        return out

    def known_usage(self) -> Usage | None:
        """The latest count that the answer has told; None while it has told none."""
        return self._answer.usage

    def _choose_mode(self, data: bytes) -> bytes:
        """By the first byte: JSON begins with a bracket, nothing of an event stream does. Content types lie."""
        data = (self._lead + data).lstrip(_BLANK)
        self._lead = b""
        if data.startswith(_BOM):
            data = data[len(_BOM) :].lstrip(_BLANK)
        elif _BOM.startswith(data):
            self._lead, data = data, b""
        if data:
            self._mode = "whole" if data[:1] == b"{" else "objects" if data[:1] == b"[" else "events"
        return data

    def _keep(self, data: bytes) -> list[Delta]:
        if data.strip():
            self.events += 1
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            raise WireMismatch(self._asked.provider, f"the answer is larger than {MAX_BODY_BYTES} bytes")
        return []

    def _feed_events(self, data: bytes, out: list[Delta]) -> None:
        bare = 0 if self._after_line and data[:1] in (b"{", b"[") else -1
        if bare < 0 and any(start in data for start in _BARE):
            bare = min(place + 1 for start in _BARE if (place := data.find(start)) >= 0)
        self._after_line = data[-1:] == b"\n"
        for _, text in self._sse.feed(data if bare < 0 else data[:bare] + b"\n\n"):
            self._on_event(text, out)
        if bare >= 0:
            self._mode = "objects"
            self._feed_objects(data[bare:], out)

    def _feed_objects(self, data: bytes, out: list[Delta]) -> None:
        if self._objects.unfinished:
            first, data = self._objects.finish(data)
            if first is not None:
                self._on_event(first.decode("utf-8", "replace"), out)
        data = self._read_whole_objects(data, out)
        for item in self._objects.feed(data):
            self._on_event(item.decode("utf-8", "replace"), out)

    def _read_whole_objects(self, data: bytes, out: list[Delta]) -> bytes:
        """Read the objects at the start of `data` that are whole in it, and give the rest, for the splitter.

        Parsing tells where an object ends, and looking for its end first takes twice as long as that.
        """
        until = data.rfind(b"}") + 1
        if until > MAX_EVENT_BYTES:
            return data
        try:
            text = data[:until].decode()
        except UnicodeDecodeError:
            return data
        at = 0
        while (start := text.find("{", at)) >= 0:
            try:
                chunk, at = parse_json_at(text, start)
            except ValueError:
                break
            self.events += 1
            self._answer.read_chunk(chunk, out)
        return data[at if text.isascii() else len(text[:at].encode()) :]

    def _on_event(self, text: str, out: list[Delta]) -> None:
        self.events += 1
        if text[:1] != "{":
            text = text.strip()
            if text == "[DONE]":  # of gateways; the end is the end of the body
                return
        try:
            chunk = parse_json(text)
        except ValueError as exc:
            what = f"a line of the stream is no JSON: {quote(text, 200)}"
            raise StreamBroken(self._asked.provider, what) from exc
        if isinstance(chunk, list) and len(chunk) == 1:
            chunk = chunk[0]
        if not isinstance(chunk, dict):
            raise self._mismatch("a chunk of the stream is no JSON object", text)
        self._answer.read_chunk(chunk, out)

    # -- the end of the body ------------------------------------------------------------------------------------------

    def _end(self, out: list[Delta]) -> None:
        if self._mode == "whole":
            self._answer.read_chunk(self._read_body(), out)
            self._answer.end(out, whole=True)
            return
        if self._mode == "events":
            for _, text in self._sse.close():
                if self._answer.complete and not _is_json(text):
                    break  # cut off behind the end: nothing is missing
                self._on_event(text, out)
        if not self.events:
            raise self._nothing_came()
        if self._objects.unfinished and not self._answer.complete:
            raise StreamBroken(self._asked.provider, "the answer ends inside its JSON")
        self._answer.end(out, whole=False)

    def _read_body(self) -> dict[str, object]:
        text = bytes(self._body).decode("utf-8", "replace").strip()
        self._body.clear()
        try:
            body = parse_json(text)
        except ValueError as exc:
            if text[-1:] not in ("}", "]"):
                raise StreamBroken(self._asked.provider, "the answer ends inside its JSON") from exc
            raise self._mismatch("the answer is no JSON", text) from exc
        if not isinstance(body, dict) or not body.keys() & {"candidates", "promptFeedback", "error", "usageMetadata"}:
            raise self._mismatch("the answer is none of this wire", text)
        return body

    def _nothing_came(self) -> DriverError:
        head = self._head.strip()
        if head and not head.startswith((b":", b"data", b"event", b"id", b"retry", b"[{")) and head != b"[":
            return self._mismatch("the answer is neither JSON nor a stream", head)
        return StreamBroken(self._asked.provider, "the body ended before the answer began")

    def _mismatch(self, what: str, seen: str | bytes) -> WireMismatch:
        return WireMismatch(self._asked.provider, f"{what}: {quote(seen, 200)}", model=self._asked.model)


def _is_json(text: str) -> bool:
    try:
        parse_json(text.strip())
    except ValueError:
        return False
    return True

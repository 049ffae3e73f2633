"""One response as deltas: a stream of frames, or one JSON answer, whichever came, whatever was asked for.

Reads leniently: an unknown member is passed by, a missing one is missing. An error that comes in the same piece of
bytes as deltas before it is raised by the next call, so that deltas, partial answer and error do not depend on where
the bytes were cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from loopforge.drivers.dashscope_native.answer import Answer
from loopforge.drivers.dashscope_native.failures import Asked, explain_inside, is_error
from loopforge.drivers.dashscope_native.frames import Frame, FrameReader
from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch, quote
from loopforge.drivers.fold import Fold
from loopforge.drivers.json_values import ends_early, parse_json
from loopforge.drivers.turn import Delta, JsonObject, Turn, Usage

MAX_BODY_BYTES: Final = 64 * 1024 * 1024  # of a whole answer; the transport has its own, configured bound
_HEAD_BYTES: Final = 512  # kept to quote from when the body turns out to be none of this wire
_BLANK: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b":", b"data", b"event", b"id", b"retry")


class DashScopeReader:
    """Reads the response to one turn. `events` as wire.py says. `repeats`: frames were asked for that do."""

    def __init__(self, turn: Turn, headers: Mapping[str, str], asked: Asked, *, repeats: bool = False) -> None:
        self.events = 0
        self._asked = asked
        self._headers = headers
        self._answer = Answer(turn, asked, headers, repeats=repeats)
        self._frames = FrameReader(asked.provider)
        self._form: Literal["", "frames", "json"] = ""
        self._lead = b""
        self._head = b""
        self._body = bytearray()
        self._failure: DriverError | None = None
        self._emitted = False
        self._closed = False

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that `data` completes. Raises DriverError."""
        if self._failure is not None:
            raise self._failure
        if not self._form:
            data = self._choose_form(data)
        if not data:
            return []
        if self._form == "json":
            return self._keep(data)
        if not self.events and len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
        out: list[Delta] = []
        try:
            for frame in self._frames.feed(data):
                self._on_frame(frame, out)
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

    def _choose_form(self, data: bytes) -> bytes:
        """By the first byte: JSON begins with a bracket, nothing of a stream does. Content types lie."""
        data = (self._lead + data).lstrip(_BLANK)
        self._lead = b""
        while data.startswith(_BOM):
            data = data[len(_BOM) :].lstrip(_BLANK)
        if _BOM.startswith(data):
            self._lead, data = data, b""
        if data:
            self._form = "json" if data[:1] in (b"{", b"[") else "frames"
        return data

    def _keep(self, data: bytes) -> list[Delta]:
        self.events += bool(data.strip())
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            raise WireMismatch(self._asked.provider, f"the answer is larger than {MAX_BODY_BYTES} bytes")
        return []

    def _on_frame(self, frame: Frame, out: list[Delta]) -> None:
        name, status, text = frame
        self.events += 1
        try:
            value = parse_json(text if text[:1] == "{" else text.strip())
        except ValueError as exc:
            if self._answer.finished or text.strip() == "[DONE]":  # a gateway's last words
                return
            what = f"a line of the stream is no JSON: {quote(text, 200)}"
            raise StreamBroken(self._asked.provider, what) from exc
        if not isinstance(value, dict):
            if value is None:
                return
            raise self._mismatch("a frame of the stream is no JSON object", text)
        if (name == "error" or not value.get("output")) and not self._answer.finished:
            self._raise_error(name, status, value)
        if not self._answer.read_frame(value, out):
            self.events -= 1  # it keeps the connection alive, and is no progress

    def _raise_error(self, name: str, status: int, value: JsonObject) -> None:
        if name == "error" or status >= 400 or is_error(value):
            started = self._answer.started
            raise explain_inside(self._asked, value, self._headers, status=status, started=started)

    def _end(self, out: list[Delta]) -> None:
        if self._form == "json":
            body = self._read_body()
            self._raise_error("", 0, body)
            if not isinstance(body.get("output"), dict):
                raise self._mismatch("the answer has no output", str(body)[:200])
            self._answer.read_whole(body, out)
            return
        for frame in self._frames.close():
            self._on_frame(frame, out)
        if not self._answer.finished:
            if not self.events:
                raise self._nothing_came()
            self._answer.flush(out)
            raise StreamBroken(self._asked.provider, "the stream ended before the answer did")

    def _read_body(self) -> JsonObject:
        text = bytes(self._body).decode("utf-8", "replace").strip()
        self._body.clear()
        try:
            body = parse_json(text)
        except ValueError as exc:
            if ends_early(text, exc):
                raise StreamBroken(self._asked.provider, "the answer ends inside its JSON") from exc
            raise self._mismatch("the answer is no JSON", text) from exc
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        if not isinstance(body, dict):
            raise self._mismatch("the answer is no JSON object", text)
        return body

    def _nothing_came(self) -> DriverError:
        head = self._head.strip()
        if head and not head.startswith(_FIELDS):
            return self._mismatch("the answer is neither JSON nor a stream", head)
        return StreamBroken(self._asked.provider, "the body ended before the answer began")

    def _mismatch(self, what: str, seen: str | bytes) -> WireMismatch:
        return WireMismatch(self._asked.provider, f"{what}: {quote(seen, 200)}", model=self._asked.model)

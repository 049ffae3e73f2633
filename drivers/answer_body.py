"""A response body as what it turns out to be: server-sent events, or one JSON text, whatever was asked for. Sans-IO.

Servers answer a request for a stream with plain JSON, and the other way round, and content types lie; the first byte
does not. For wires that know them, lines of JSON are events, too. Knows nothing of what events and JSON mean.
"""

from __future__ import annotations

from typing import Any, Final

from loopforge.drivers.errors import StreamBroken, WireMismatch, quote
from loopforge.drivers.json_values import ends_early, parse_json
from loopforge.drivers.sse import SseEvent, SseReader

MAX_JSON_BYTES: Final = 64 * 1024 * 1024  # of a whole answer; the transport has its own, configured bound
_HEAD_BYTES = 512  # kept to quote from when the body turns out to be none of its wire
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b":", b"data", b"event", b"id", b"retry")


class AnswerBody:
    """Feed bytes in any cut. `form`: "" until the first byte that is not blank, then "events" or "json".

    With `json_lines`, a text whose first line is a JSON object of its own has the form "lines" from its second line
    on: each line is an event without a name.
    `json_pieces`: network pieces of a JSON text so far, for a reader's count of events: each of them is progress.
    """

    def __init__(self, provider: str, *, max_json_bytes: int = MAX_JSON_BYTES, json_lines: bool = False) -> None:
        self.form = ""
        self.json_pieces = 0
        self._provider = provider
        self._max = max_json_bytes
        self._sse = SseReader(provider)
        self._lead = b""
        self._head = b""
        self._json = bytearray()
        self._may_be_lines = json_lines
        self._first_end = -1  # where the first line of a JSON text ends

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completes; none while it is JSON, which is kept. Raises WireMismatch at the bounds."""
        if self.form != "events":
            before = self.form
            data = self._read_start(data)
            if self.form == "lines":
                return self._take_lines() if before != "lines" or b"\n" in data else []
            if self.form != "events":
                return []
        if len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
        return self._sse.feed(data)

    def close(self) -> list[SseEvent]:
        """The body ended: the event that it ended in without an empty line."""
        return self._take_lines(last=True) if self.form == "lines" else self._sse.close()

    def take_json(self) -> Any:
        """The value of a body that is JSON, once it has ended. Raises StreamBroken when it was cut, or WireMismatch."""
        text = bytes(self._json).decode("utf-8", "replace").strip()
        self._json.clear()
        try:
            return parse_json(text)
        except ValueError as exc:
            if ends_early(text, exc):
                raise StreamBroken(self._provider, "the answer ends inside its JSON") from exc
            raise WireMismatch(self._provider, f"the answer is no JSON: {quote(text, 200)}") from exc

    def nothing_came(self) -> StreamBroken | WireMismatch:
        """What a body without a single event was: cut before it began, or something else altogether."""
        head = self._head.strip()
        if head and not head.startswith(_FIELDS):
            return WireMismatch(self._provider, f"the answer is neither JSON nor a stream: {quote(head, 200)}")
        return StreamBroken(self._provider, "the body ended before the answer began")

    def _read_start(self, data: bytes) -> bytes:
        """Decide on the form at the first byte: JSON begins with a bracket, nothing of an event stream does.

        Blank lines before it keep the connection alive while the model thinks; they are dropped.
        """
        if not self.form:
            data = (self._lead + data).lstrip(_BLANK)
            self._lead = b""
            while data.startswith(_BOM):
                data = data[len(_BOM) :].lstrip(_BLANK)
            if _BOM.startswith(data):
                self._lead, data = data, b""
            if not data:
                return b""
            self.form = "json" if data[:1] in (b"{", b"[") else "events"
        if self.form in ("json", "lines"):
            self.json_pieces += bool(data.strip())
            before = len(self._json)
            self._json += data
            if len(self._json) > self._max:
                raise WireMismatch(self._provider, f"the answer is larger than {self._max} bytes")
            if self._may_be_lines:
                self._look_for_lines(before)
        return data

    def _look_for_lines(self, before: int) -> None:
        """Decide, at the first byte behind the first line, whether that line was an object by itself."""
        if self._first_end < 0:
            before = self._first_end = self._json.find(b"\n", before)
        if self._first_end < 0 or not self._json[before:].strip():
            return
        self._may_be_lines = False
        try:
            value = parse_json(bytes(self._json[: self._first_end]).decode("utf-8", "replace"))
        except ValueError:
            return
        if isinstance(value, dict):
            self.form = "lines"

    def _take_lines(self, *, last: bool = False) -> list[SseEvent]:
        end = len(self._json) if last else self._json.rfind(b"\n") + 1
        text = bytes(self._json[:end]).decode("utf-8", "replace")
        del self._json[:end]
        return [SseEvent("", stripped) for line in text.split("\n") if (stripped := line.strip())]

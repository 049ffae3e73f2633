"""Server-sent events, sans-IO: bytes in any cut become events. Knows nothing of what the events mean.

Grammar: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream. Beyond it, for the
providers' sake: an event that the body ends in without an empty line is still an event, and lines are bounded.
`id` and `retry` are for clients that reconnect; a turn is never resumed that way, so they are dropped.
"""

from __future__ import annotations

from typing import NamedTuple

from loopforge.drivers.errors import WireMismatch

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""An image or sound in an answer comes as base64 in one event; nothing sensible is larger."""
_PIECE_BYTES = 64  # what keeping one more string costs beside its characters

_BOM = "\ufeff"


class SseEvent(NamedTuple):
    """`name`: the `event` field, "" when there was none. `data`: its `data` lines, joined with line feeds."""

    name: str
    data: str


class LineReader:
    """Cuts a byte stream into lines of text, without their ends. Keeps one unfinished line, in bounded memory.

    Bytes that are not UTF-8 become U+FFFD. `too_long`: a line beyond the bound came behind the lines returned so far;
    nothing more can be read.
    """

    def __init__(self, *, max_line_bytes: int) -> None:
        self.too_long = False
        self._max = max_line_bytes
        self._line = bytearray()  # of the line under way; a bytearray, so that one-byte reads stay linear
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, up to one that is too long."""
        if self.too_long:
            return []
        if b"\r" in data or self._after_cr:
            data = self._with_line_feeds(data)
        end = data.rfind(b"\n") + 1
        if not end:
            self._line += data
            self.too_long = len(self._line) > self._max
            return []
        block = data[:end]
        if self._line:
            self._line += block
            block = bytes(self._line)
            self._line.clear()
        if end < len(data):
            self._line += data[end:]
        if len(block) > self._max and any(len(line) > self._max for line in block.split(b"\n")):
            self.too_long = True
            block = self._before_long_line(block)
        else:
            self.too_long = len(self._line) > self._max
        text = block.decode("utf-8", "replace")
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix(_BOM)
        lines = text.split("\n")
        lines.pop()
        return lines

    def _with_line_feeds(self, data: bytes) -> bytes:
        """Every CR, LF and CRLF as one LF. A CR ends its line at once; an LF next is its tail."""
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if data.endswith(b"\r"):
            self._after_cr = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _before_long_line(self, block: bytes) -> bytes:
        kept = 0
        for line in block.split(b"\n"):
            if len(line) > self._max:
                break
            kept += len(line) + 1
        return block[:kept]


class SseReader:
    """Cuts a byte stream into events. Keeps one unfinished event, never more than `max_event_bytes` of it.

    Comments, which servers send to keep the connection alive, and events without data yield nothing. `provider` is
    named in the error.
    """

    def __init__(self, provider: str = "", *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._provider = provider
        self._max = max_event_bytes
        self._lines = LineReader(max_line_bytes=max_event_bytes)
        self._name = ""
        self._data: list[str] = []
        self._data_size = 0
        self._too_long = False

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completes. Raises WireMismatch at a line or event beyond the bound.

        Events before such a line are returned first and the error is raised by the next call, so that what a caller
        sees does not depend on where the bytes were cut.
        """
        events = [] if self._too_long else self._read(self._lines.feed(data))
        if (self._too_long or self._lines.too_long) and not events:
            what = f"an event of the stream is larger than {self._max} bytes"
            raise WireMismatch(self._provider, what, action="ask for a smaller answer, or check base_url and kind")
        return events

    def close(self) -> list[SseEvent]:
        """The body ended: the event that was under way, if it had data. Raises WireMismatch as `feed` does."""
        return self.feed(b"\n\n")

    def _read(self, lines: list[str]) -> list[SseEvent]:
        """The events of whole lines. The hot loop: nearly all lines are `data: ...` or empty."""
        events: list[SseEvent] = []
        pending, name = self._data, self._name
        for line in lines:
            if line[:5] == "data:" or line == "data":
                value = line[6:] if line[5:6] == " " else line[5:]
                if pending:
                    self._data_size += len(value) + _PIECE_BYTES
                    if self._data_size > self._max:
                        self._too_long = True
                        break
                else:
                    self._data_size = len(value)
                pending.append(value)
            elif not line:
                if pending:
                    value = pending[0] if len(pending) == 1 else "\n".join(pending)
                    if value:
                        events.append(SseEvent(name, value))
                    pending.clear()
                name = ""
            elif line[:6] == "event:":
                name = line[6:].removeprefix(" ")
        self._name = name
        return events

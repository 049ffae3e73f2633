"""The frames of a DashScope stream, sans-IO: server-sent events, whose empty lines some gateways lose.

Each `data:` line that holds an object is a frame by itself; JSON over several lines ends at an empty line or where the
next frame's `id:` or `event:` begins. The service notes a frame's HTTP status in a comment before it. Other comments
keep the connection alive and are no frames. Knows nothing of what frames mean.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.sse import MAX_EVENT_BYTES, LineReader

_STATUS: Final = ":HTTP_STATUS/"
_PIECE_BYTES: Final = 64  # what keeping one more string costs beside its characters


class Frame(NamedTuple):
    """`name`: the `event` field, "" when there was none. `status`: the HTTP status noted for it, 0 for none."""

    name: str
    status: int
    data: str


class FrameReader:
    """Cuts a byte stream into frames. Keeps one unfinished frame, never more than `max_frame_bytes` of it."""

    def __init__(self, provider: str = "", *, max_frame_bytes: int = MAX_EVENT_BYTES) -> None:
        self._provider = provider
        self._max = max_frame_bytes
        self._lines = LineReader(max_line_bytes=max_frame_bytes)
        self._name = ""
        self._status = 0
        self._data: list[str] = []
        self._data_size = 0
        self._too_long = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises WireMismatch at a line or frame beyond the bound.

        Frames before it are returned first and the error is raised by the next call, so that what a caller sees does
        not depend on where the bytes were cut.
        """
        frames = [] if self._too_long else self._read(self._lines.feed(data))
        if (self._too_long or self._lines.too_long) and not frames:
            what = f"a frame of the stream is larger than {self._max} bytes"
            raise WireMismatch(self._provider, what, action="ask for a smaller answer, or check base_url and kind")
        return frames

    def close(self) -> list[Frame]:
        """The body ended: the frame that was under way, if it had data. Raises WireMismatch as `feed` does."""
        return self.feed(b"\n\n")

    def _read(self, lines: list[str]) -> list[Frame]:
        """The frames of whole lines. The hot loop: a frame is four lines and an empty one."""
        frames: list[Frame] = []
        pending, name, status = self._data, self._name, self._status
        for line in lines:
            if line[:5] == "data:":
                value = line[6:] if line[5:6] == " " else line[5:]
                if not pending and value[:1] == "{" and value[-1:] == "}":
                    frames.append(Frame(name, status, value))
                    name, status = "", 0
                elif value:
                    self._data_size += len(value) + _PIECE_BYTES
                    if self._data_size > self._max:
                        self._too_long = True
                        break
                    pending.append(value)
            elif line[:1] == ":":
                if line.startswith(_STATUS):
                    status = _number(line[len(_STATUS) :])
            elif not line or line[:3] == "id:" or line[:6] == "event:":
                if pending:
                    frames.append(Frame(name, status, "\n".join(pending)))
                    pending.clear()
                    self._data_size = 0
                    name, status = "", 0
                if line[:6] == "event:":
                    name = line[6:].strip()
                else:
                    name, status = "", 0
        self._name, self._status = name, status
        return frames


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if len(text) == 3 and text.isascii() and text.isdecimal() else 0

"""A response body as what it turns out to be: AWS event-stream frames, or one JSON text, whatever was asked for.

Frames are read by botocore's EventStreamBuffer, which checks both sums of each. It is handed one whole frame at a time:
it copies what it holds with every piece it is given, so that a large frame in small pieces would take for ever.
Format: https://docs.aws.amazon.com/transcribe/latest/dg/streaming-http2.html#http2-event-stream
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final, NamedTuple

from loopforge.drivers.answer_body import AnswerBody
from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch, quote

MAX_FRAME_BYTES: Final = 24 * 1024 * 1024
"""What botocore takes, too; the largest frames hold media, all others some hundred bytes."""

_PRELUDE_BYTES = 12
_LEAST_FRAME_BYTES = 16
_LARGEST_FIRST_BYTE = 1  # a frame begins with its length, which is below 2**25; text begins with anything else
_HEAD_BYTES = 200
_length_of = Struct(">I").unpack_from


class Frame(NamedTuple):
    """`kind`: "event", "exception" or "error"; `name`: of the event, or the code of what went wrong."""

    kind: str
    name: str
    payload: bytes
    message: str = ""


class Body:
    """Feed bytes in any cut. `form`: "" until the first byte that tells, then "frames" or "text"."""

    def __init__(self, provider: str) -> None:
        self.form = ""
        self.text = AnswerBody(provider)
        self._provider = provider
        self._data = bytearray()
        self._frames = 0
        self._checked = False  # the prelude of the frame that is still incomplete
        self._head = b""
        self._buffer = _new_buffer()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes; none of a text, which `text` keeps. Raises StreamBroken, WireMismatch."""
        if not self.form and data:
            self.form = "frames" if data[0] <= _LARGEST_FIRST_BYTE else "text"
        if len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
        if self.form == "text":
            self.text.feed(data)
            return
        held = self._data
        held += data
        start = 0
        try:
            while len(held) - start >= _PRELUDE_BYTES:
                length = _length_of(held, start)[0]
                end = start + length
                if end > len(held) or length < _LEAST_FRAME_BYTES:
                    self._check_prelude(bytes(held[start : start + _PRELUDE_BYTES]), length)
                    break
                frame = self._read(bytes(held[start:end]))
                start = end
                yield frame
        finally:
            del held[:start]

    def nothing_came(self) -> StreamBroken | WireMismatch:
        """What a body without a single frame was."""
        if self.form == "text" and (head := self._head.strip()):
            return WireMismatch(self._provider, f"the answer is neither JSON nor a stream of AWS: {quote(head, 200)}")
        return StreamBroken(self._provider, "the body ended before the answer began")

    def _check_prelude(self, prelude: bytes, length: int) -> None:
        """A length that is damaged is noticed at once, and not after so many bytes have come."""
        if self._checked:
            return
        if not _LEAST_FRAME_BYTES <= length <= MAX_FRAME_BYTES:
            raise self._damaged(f"a frame of {length} bytes")
        try:
            probe = _new_buffer()
            probe.add_data(prelude)
            next(probe, None)
        except _parser_error() as exc:
            raise self._damaged(str(exc)) from exc
        self._checked = True

    def _read(self, data: bytes) -> Frame:
        self._checked = False
        try:
            self._buffer.add_data(data)
            found = next(self._buffer)
        except (_parser_error(), KeyError, UnicodeDecodeError, ValueError) as exc:
            raise self._damaged(str(exc) or type(exc).__name__) from exc
        except StopIteration:  # its own idea of the length is another one
            raise self._damaged("lengths that contradict each other") from None
        self._frames += 1
        headers: dict[str, Any] = found.headers
        kind = str(headers.get(":message-type", "event"))
        if kind == "error":
            message = str(headers.get(":error-message", ""))
            return Frame(kind, str(headers.get(":error-code", "")), found.payload, message)
        name = headers.get(":exception-type") if kind == "exception" else headers.get(":event-type")
        return Frame(kind, str(name or ""), found.payload)

    def _damaged(self, what: str) -> DriverError:
        if self._frames:
            return StreamBroken(self._provider, f"the stream is damaged: {quote(what, 200)}")
        seen = quote(self._head, _HEAD_BYTES)
        return WireMismatch(self._provider, f"the answer is no event stream of AWS ({quote(what, 200)}): {seen}")


def _new_buffer() -> Any:
    """Loaded with the first answer and not before: botocore is for the worker of this kind alone."""
    from botocore.eventstream import EventStreamBuffer

    return EventStreamBuffer()


def _parser_error() -> type[Exception]:
    from botocore.eventstream import ParserError

    error: type[Exception] = ParserError
    return error

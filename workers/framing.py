"""Bytes <-> frames, sans-IO: the layout of what travels on a channel, and nothing of what it means.

    u32 length | u8 type | u8 flags | u16 header length | u64 turn | u16 attempt | u32 seq | header | body

Big endian; the length counts all that follows it. The turn number stands at a fixed place, so a relay rewrites it
without reading on; header and body are sliced out only when somebody asks. messages.py says which types there are and
what header and body hold. A prefix and not a self-delimiting codec: a streaming msgpack reader fed with
`GET / HTTP/1.1` yields 71, 69, 84 without an error, cannot bound a message before it has it, and cannot forward one
unread.
"""

from __future__ import annotations

import struct
from typing import NoReturn

MAX_FRAME_BYTES = 33 * 1024 * 1024
"""A turn may be max_request_mb = 32 MiB; the rest is room for the head, the header and msgpack's own bytes."""

MAX_HEADER_BYTES = 0xFFFF

_HEAD = struct.Struct(">IBBHQHI")
_LENGTH = struct.Struct(">I")
_TURN = struct.Struct(">Q")
_TURN_AT, _TURN_END = 8, 16
HEAD_BYTES = _HEAD.size
_LENGTH_BYTES = _LENGTH.size
_FIXED_BYTES = HEAD_BYTES - _LENGTH_BYTES  # what the length counts of every frame
_HIGHEST_TYPE = 63  # room for newer types, which a receiver skips; above it the bytes are no frame of ours
_BIG = 4096  # from here on a second copy costs more than a memoryview: 22 against 800 us for 1 MiB


class FrameError(Exception):
    """The bytes are no frames, or the last one is cut. The connection cannot be used any further."""


class Frame:
    """One frame as it came. `raw`: all its bytes, ready to be sent on. `type` is a number: it may be a newer one."""

    __slots__ = ("_header_bytes", "attempt", "flags", "raw", "seq", "turn", "type")

    def __init__(self, head: tuple[int, ...], raw: bytes) -> None:
        _, self.type, self.flags, self._header_bytes, self.turn, self.attempt, self.seq = head
        self.raw = raw

    @property
    def header(self) -> bytes:
        return self.raw[HEAD_BYTES : HEAD_BYTES + self._header_bytes]

    @property
    def body(self) -> bytes:
        return self.raw[HEAD_BYTES + self._header_bytes :]

    def __repr__(self) -> str:  # neither header nor body: a turn's text belongs in no log
        return f"<Frame type={self.type} turn={self.turn} attempt={self.attempt} seq={self.seq} {len(self.raw)} bytes>"


def encode(
    frame_type: int,
    turn: int = 0,
    *,
    attempt: int = 0,
    seq: int = 0,
    flags: int = 0,
    header: bytes = b"",
    body: bytes = b"",
) -> bytes:
    """One frame. Raises ValueError when a number or the header does not fit its place in the head."""
    try:
        head = _HEAD.pack(_FIXED_BYTES + len(header) + len(body), frame_type, flags, len(header), turn, attempt, seq)
    except struct.error as exc:
        raise ValueError(
            f"a frame cannot hold {frame_type=} {turn=} {attempt=} {seq=} {flags=} "
            f"with a header of {len(header)} bytes (at most {MAX_HEADER_BYTES})"
        ) from exc
    return head + header + body


def renumber(raw: bytes, turn: int) -> bytes:
    """The frame `raw` under another turn number."""
    if len(raw) < _BIG:
        return raw[:_TURN_AT] + _TURN.pack(turn) + raw[_TURN_END:]
    return b"".join((raw[:_TURN_AT], _TURN.pack(turn), memoryview(raw)[_TURN_END:]))


class Framer:
    """Cuts a byte stream into frames. Holds at most one unfinished frame, and no byte of one that is too large.

    Never reserves what a length announces: memory grows with the bytes that really came, each copied at most twice.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._begun = bytearray()  # the unfinished frame
        self._missing = 0  # bytes until it can be looked at again; 0 when none is begun
        self._error: FrameError | None = None

    @property
    def broken(self) -> bool:
        """Whether the next `feed` raises, whatever it is fed."""
        return self._error is not None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order.

        Raises FrameError for bytes that are no frame: from this call when it completes none before them, else from
        the next one or `close`, so that no good frame is lost.
        """
        if self._error is not None:
            raise self._error
        at = 0
        frames: list[Frame] = []
        try:
            while self._missing:  # twice at most: for the head, then for the frame
                piece = data[at : at + self._missing]
                at += len(piece)
                self._begun += piece
                self._missing -= len(piece)
                if self._missing:
                    self._check_start(self._begun, 0)
                    return frames
                self._missing = self._still_missing()
                if not self._missing:
                    whole = bytes(self._begun)
                    self._begun.clear()
                    frames.append(Frame(_HEAD.unpack_from(whole), whole))
            self._cut(data, at, frames)
        except FrameError as exc:
            self._error = exc
            if not frames:
                raise
        return frames

    def close(self) -> None:
        """The stream ended. Raises FrameError when it ended inside a frame, or what `feed` still had to raise."""
        if self._error is not None:
            raise self._error
        if self._missing:
            raise FrameError(f"the stream ended inside a frame: {len(self._begun)} bytes of it had come")

    def _cut(self, data: bytes, at: int, frames: list[Frame]) -> None:
        """Append the whole frames of `data` from `at` on; keep the rest."""
        unpack, end, most = _HEAD.unpack_from, len(data), self._max_frame_bytes
        while end - at >= HEAD_BYTES:
            head = unpack(data, at)
            length = head[0]
            if not (head[3] + _FIXED_BYTES <= length <= most and 0 < head[1] <= _HIGHEST_TYPE):
                self._refuse(data[at : at + HEAD_BYTES])
            stop = at + _LENGTH_BYTES + length
            if stop > end:
                break
            frames.append(Frame(head, data[at:stop]))
            at = stop
        if at < end:
            self._check_start(data, at)
            self._begun += data[at:]
            self._missing = self._still_missing()

    def _still_missing(self) -> int:
        """Bytes until the begun frame's head, or after that the frame, is whole."""
        come = len(self._begun)
        if come < HEAD_BYTES:
            return HEAD_BYTES - come
        if come == HEAD_BYTES:
            self._check_start(self._begun, 0)
        return int(_LENGTH.unpack_from(self._begun)[0]) + _LENGTH_BYTES - come

    def _check_start(self, data: bytes | bytearray, at: int) -> None:
        """Raise FrameError as soon as the bytes from `at` on cannot be the start of a frame."""
        come = len(data) - at
        if come < _LENGTH_BYTES:
            return
        length = _LENGTH.unpack_from(data, at)[0]
        header_bytes = int.from_bytes(data[at + 6 : at + 8], "big") if come >= _TURN_AT else 0
        good_type = come == _LENGTH_BYTES or 0 < data[at + _LENGTH_BYTES] <= _HIGHEST_TYPE
        if not (header_bytes + _FIXED_BYTES <= length <= self._max_frame_bytes and good_type):
            self._refuse(bytes(data[at : at + HEAD_BYTES]))

    def _refuse(self, start: bytes) -> NoReturn:
        """Name what came instead of a frame's head."""
        if (who := _stranger(start)) is not None:
            raise FrameError(f"{who} ({start!r}): this socket speaks LoopForge's own frames")
        length = _LENGTH.unpack_from(start)[0]
        if length > self._max_frame_bytes:
            raise FrameError(f"a frame of {length} bytes was announced, at most {self._max_frame_bytes} are taken")
        if length < _FIXED_BYTES:
            raise FrameError(f"a frame of {length} bytes was announced, the fixed part alone has {_FIXED_BYTES}")
        raise FrameError(f"the head {start!r} is none of ours: unknown type, or a header longer than its frame")


_HTTP_STARTS = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"PATC", b"OPTI", b"CONN", b"TRAC", b"PRI ", b"HTTP")


def _stranger(start: bytes) -> str | None:
    """Who opens a conversation with these bytes, when it is a well-known protocol."""
    if start.startswith(_HTTP_STARTS):
        return "this is HTTP"
    if start.startswith(b"\x16\x03"):
        return "this is a TLS handshake"
    if start.startswith(b"SSH-"):
        return "this is SSH"
    return None

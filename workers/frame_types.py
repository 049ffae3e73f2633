"""Frame types, protocol version, and msgpack of plain values: the part of messages.py that knows no turn.

On its own because the classes of a turn cost 30 ms to import, and `loopforge status` answers within 70. messages.py
offers the same names and says what each frame carries.
"""

from __future__ import annotations

import enum
from typing import Any, cast

import msgpack

from loopforge.workers.packing import Malformed

PROTOCOL = 1


class FrameType(enum.IntEnum):
    HELLO = 1
    WELCOME = 2
    READY = 3
    SUBMIT = 4
    ACCEPTED = 5
    STARTED = 6
    DELTA = 7
    RESTARTED = 8
    GAP = 9
    DONE = 10
    ERROR = 11
    CANCELLED = 12
    CANCEL = 13
    ATTACH = 14
    STATUS = 15
    PING = 16
    PONG = 17
    DRAIN = 18
    RELOAD = 19
    QUERY = 20
    LEAVE = 21


_packer = msgpack.Packer(use_bin_type=True)


def pack(value: object) -> bytes:
    """msgpack of plain values."""
    return cast("bytes", _packer.pack(value))


def unpack(data: bytes | memoryview) -> Any:
    """Plain values. Raises Malformed for anything that is not one whole msgpack value."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as exc:  # msgpack raises its own, ValueError, TypeError and UnicodeDecodeError
        raise Malformed("", f"not msgpack: {type(exc).__name__}") from exc


def unpack_header(data: bytes | memoryview) -> dict[str, Any]:
    """A header. Raises Malformed when it is no map."""
    header = unpack(data)
    if not isinstance(header, dict):
        raise Malformed("", "a header is a map")
    return header

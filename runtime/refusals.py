"""What a client's words must be, and the ERROR frame that refuses them. For dispatch.py and listener.py."""

from __future__ import annotations

from loopforge.drivers.errors import TurnError, quote
from loopforge.drivers.turn import LANES, MAX_ID_BYTES, Lane
from loopforge.runtime.errors import BadTurn, UnknownTurn
from loopforge.runtime.records import ClientLink
from loopforge.workers.framing import Frame, encode
from loopforge.workers.messages import FrameType, pack

MAX_TEXT = 2000
"""Characters of each text in an error's header: the whole header has 64 KiB."""


def read_lane(name: str) -> Lane | None:
    """The lane a turn asks for, None when it leaves that to its route. Raises BadTurn."""
    for lane in LANES:
        if lane == name:
            return lane
    if name:
        raise BadTurn(what=f"{quote(name, MAX_ID_BYTES)!r} is no lane; write one of {', '.join(LANES)}")
    return None


def check_number(client: ClientLink, frame: Frame) -> None:
    if frame.turn in client.turns or frame.turn == 0:
        raise BadTurn(what=f"the turn number {frame.turn} is in use on this connection")


def unknown_turn(turn_id: object) -> UnknownTurn:
    shown = repr(turn_id[:MAX_ID_BYTES]) if isinstance(turn_id, str) else f"of type {type(turn_id).__name__}"
    return UnknownTurn(what=f"there is no turn with the id {shown}")


def error_frame(number: int, error: TurnError) -> bytes:
    return encode(FrameType.ERROR, number, header=error_header(error))


def error_header(error: TurnError, *, attempts: int = 0) -> bytes:
    """ERROR's header. A text that somebody else wrote may be as long as a whole header: each is cut to MAX_TEXT."""
    fields = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in error.to_fields().items()}
    return pack({"fields": fields, "attempts": attempts})

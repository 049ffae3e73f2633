"""Which of a turn's prompt-cache marks are sent, for the wire takes four and has an opinion on their order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from loopforge.drivers.turn import CacheMark, JsonObject

MAX_MARKS: Final = 4
Place = Literal["tools", "system", "messages"]
_PREFIX: tuple[Place, ...] = ("tools", "system", "messages")


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark asked for behind `block`, which is in the body already."""

    block: JsonObject
    ttl: CacheMark
    place: Place


def place_marks(marks: Sequence[Mark], most: int = MAX_MARKS) -> list[str]:
    """Write `cache_control` into the blocks; returns what could not be done. `marks` of one place: in its order.

    With too many of them the last tool, the last of the system text and the last ones of the conversation are kept: a
    prefix that ends later holds those that end before it.
    """
    notes = []
    kept = _most_telling(sorted(marks, key=lambda mark: _PREFIX.index(mark.place)), most)
    if len(kept) < len(marks):
        notes.append(f"this wire takes {most} cache marks: {len(marks) - len(kept)} earlier ones were not sent")
    short_seen = False
    for mark in kept:
        if mark.ttl == "1h" and short_seen:
            notes.append("a cache mark of 1h cannot follow one of 5m: it was sent as 5m")
        long = mark.ttl == "1h" and not short_seen
        short_seen = not long
        mark.block["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if long else {"type": "ephemeral"}
    return notes


def _most_telling(marks: Sequence[Mark], most: int) -> list[Mark]:
    if len(marks) <= most:
        return list(marks)
    conversation = [mark for mark in marks if mark.place == "messages"]
    fronts = [[mark for mark in marks if mark.place == place][-1:] for place in ("tools", "system")]
    front = [mark for last in fronts for mark in last][-most:]
    left = most - len(front)
    return front + (conversation[-left:] if left else [])

"""Thinking in fields of its own: a text that a stray tag may end, and items beside it that go back as they came.

Thinking in tags in front of the content is the business of drivers/answer_text.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loopforge.drivers.answer_text import CLOSE_TAG
from loopforge.drivers.json_values import is_portable, to_json
from loopforge.drivers.turn import JsonObject

_MAX_BLANKS = 1024  # white space held back behind a tag; models that lost their way send it without end
_PIECE = 64  # what keeping one more string costs beside its characters


class FieldReader:
    """Feed reasoning of a field in order; get its text without the stray </think> that may end it, in pieces, too."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that is certain."""
        if not self._held and "<" not in text:
            return text
        text, self._held = self._held + text, ""
        start = text.rfind("<")
        tail = text[start:]
        if start >= 0 and len(tail) < _MAX_BLANKS and (CLOSE_TAG.startswith(tail) or tail.rstrip() == CLOSE_TAG):
            self._held = tail
            return text[:start]
        return text

    def end(self) -> str:
        """The thinking is over: what was held back, unless it is that tag."""
        held, self._held = self._held, ""
        return "" if held.startswith(CLOSE_TAG) else held


@dataclass(slots=True)
class _Item:
    members: JsonObject
    pieces: list[str] = field(default_factory=list)

    def takes(self, piece: JsonObject) -> bool:
        """Whether the piece goes on with this item: of the same type and index, and of no other id."""
        mine = self.members
        if (mine.get("type"), mine.get("index")) != (piece.get("type"), piece.get("index")):
            return False
        return not (mine.get("id") and piece.get("id") and mine["id"] != piece["id"])

    def add(self, piece: JsonObject) -> int:
        """Take the piece. Returns about how many bytes that keeps: most pieces bring nothing new but text."""
        members, size = self.members, 0
        for name, value in piece.items():
            if name == "text" and isinstance(value, str):
                members.setdefault(name, "")  # keeps its place among the members
                self.pieces.append(value)
                size += _PIECE + len(value)
            elif name not in members or (members[name] != value and value not in (None, "")):
                members[name] = value
                size += _PIECE + len(name) + len(str(value))
        return size

    def whole(self) -> JsonObject:
        return {**self.members, "text": "".join(self.pieces)} if self.pieces else self.members


class Details:
    """The `reasoning_details` items of one part, put together from a stream's pieces in the order they began."""

    def __init__(self) -> None:
        self._items: list[_Item] = []

    def add(self, details: list[object], *, whole: bool) -> int:
        """Take a list of items or pieces; `whole`: they are complete. Returns about how many bytes that keeps."""
        size = 0
        for piece in details:
            if not isinstance(piece, dict):
                continue
            item = None if whole else next((item for item in reversed(self._items) if item.takes(piece)), None)
            if item is None:
                item = _Item({})
                self._items.append(item)
                size += _PIECE
            size += item.add(piece)
        return size

    def take(self) -> list[JsonObject]:
        """The items so far, but for those that no request could carry; they are not kept."""
        items, self._items = self._items, []
        return [whole for item in items if _can_be_sent(whole := item.whole())]


def details_text(details: object) -> str:
    """The thinking that can be read of the items, in order."""
    if not isinstance(details, list):
        return ""
    pieces = (item.get("text") for item in details if isinstance(item, dict))
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _can_be_sent(value: JsonObject) -> bool:
    """Whether a channel and a request can carry it: Infinity is read and is no JSON, integers have a size."""
    if not is_portable(value):
        return False
    try:
        to_json(value)
    except ValueError:
        return False
    return True

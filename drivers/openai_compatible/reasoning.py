"""Reasoning items of gateways (`reasoning_details`), put together from a stream's pieces to be sent back whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopforge.drivers.json_values import is_portable
from loopforge.drivers.turn import JsonObject

_JOINED = ("text", "summary", "data")
"""Members whose pieces follow one another; of all others the last one that says something counts."""
_PIECE = 64  # what keeping one more string costs beside its characters


@dataclass(slots=True)
class _Item:
    members: JsonObject
    pieces: dict[str, list[str]] = field(default_factory=dict)

    def add(self, piece: JsonObject) -> None:
        for name, value in piece.items():
            if name in _JOINED and isinstance(value, str):
                self.pieces.setdefault(name, []).append(value)
                self.members.setdefault(name, "")  # keeps its place among the members
            elif value not in (None, "") or name not in self.members:
                self.members[name] = value

    def takes(self, piece: JsonObject) -> bool:
        """Whether the piece goes on with this item: of the same type and index, and of no other id."""
        mine, its = self.members, piece
        if mine.get("type") != its.get("type") or mine.get("index") != its.get("index"):
            return False
        return not (mine.get("id") and its.get("id") and mine["id"] != its["id"])

    def whole(self) -> JsonObject:
        return {**self.members, **{name: "".join(pieces) for name, pieces in self.pieces.items()}}


class ReasoningItems:
    """The items of one answer, in the order they began."""

    def __init__(self) -> None:
        self._items: list[_Item] = []

    def add(self, details: list[object], *, whole: bool) -> int:
        """Take a `reasoning_details` list; `whole`: its items are complete. Returns about how many bytes that keeps."""
        size = 0
        for piece in details:
            if not isinstance(piece, dict) or not is_portable(piece):
                continue
            size += sum(_PIECE + len(value) for value in piece.values() if isinstance(value, str))
            item = None if whole else next((item for item in reversed(self._items) if item.takes(piece)), None)
            if item is None:
                item = _Item({})
                self._items.append(item)
            item.add(piece)
        return size

    def take(self) -> list[JsonObject]:
        """The items so far, put together; they are not kept."""
        items, self._items = self._items, []
        return [item.whole() for item in items]


def details_text(details: object) -> str:
    """The reasoning that can be read of them: text or summary, in order."""
    if not isinstance(details, list):
        return ""
    pieces = (item.get("text") or item.get("summary") for item in details if isinstance(item, dict))
    return "".join(piece for piece in pieces if isinstance(piece, str))

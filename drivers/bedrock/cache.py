"""Which of a turn's prompt-cache marks are sent, and where: the wire takes four cache points, and not anywhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from loopforge.drivers.bedrock.draft import Draft
from loopforge.drivers.bedrock.families import Place
from loopforge.drivers.turn import JsonObject

MAX_POINTS: Final = 4
_PREFIX: tuple[Place, ...] = ("tools", "system", "messages")
_NOT_BEHIND = ("document", "video")


def settle_points(lists: Sequence[list[JsonObject]], draft: Draft) -> None:
    """Decide on the points of `draft`, which stand in `lists`, and take the others out.

    With too many of them the last of the tools, the last of the system text and the last ones of the conversation stay:
    a prefix that ends later holds those that end before it.
    """
    if not draft.points:
        return
    for blocks in lists:
        _move_from_behind_documents(blocks, draft)
    there = {id(block) for blocks in lists for block in blocks}
    points = sorted(draft.points, key=lambda point: _PREFIX.index(point[0]))
    asked = [point for point in points if id(point[1]) in there]
    kept = _most_telling(asked)
    if len(kept) < len(asked):
        draft.note(f"this wire takes {MAX_POINTS} cache marks: {len(asked) - len(kept)} earlier ones were not sent")
    _settle_lifetimes([block for _, block in kept], draft)
    _keep_only({id(block) for _, block in kept}, lists)


def _move_from_behind_documents(blocks: list[JsonObject], draft: Draft) -> None:
    """A point may stand neither directly behind a document nor first, nor two in a row."""
    settled: list[JsonObject] = []
    for block in blocks:
        if "cachePoint" not in block:
            settled.append(block)
            continue
        place = len(settled)
        while place and any(name in settled[place - 1] for name in _NOT_BEHIND):
            place -= 1
        if place < len(settled):
            draft.note("a cache mark behind a document was put before it: this wire takes none there")
        if place and "cachePoint" not in settled[place - 1]:
            settled.insert(place, block)
    blocks[:] = settled


def _most_telling(points: Sequence[tuple[Place, JsonObject]]) -> list[tuple[Place, JsonObject]]:
    if len(points) <= MAX_POINTS:
        return list(points)
    conversation = [point for point in points if point[0] == "messages"]
    front = [
        point
        for place in ("tools", "system")
        for point in [point for point in points if point[0] == place][-1:]
    ]  # fmt: skip
    return front + conversation[-(MAX_POINTS - len(front)) :]


def _settle_lifetimes(blocks: Sequence[JsonObject], draft: Draft) -> None:
    """Five minutes are not said: they are what every model does. An hour cannot follow them."""
    short = False
    for block in blocks:
        point = block["cachePoint"]
        if point.get("ttl") == "1h" and not short and draft.family.long_marks:
            continue
        if point.pop("ttl", "5m") == "1h":
            draft.note("a cache mark of 1h was sent as 5m: the model does not take it there")
        short = True


def _keep_only(ids: Collection[int], lists: Sequence[list[JsonObject]]) -> None:
    for blocks in lists:
        blocks[:] = [block for block in blocks if "cachePoint" not in block or id(block) in ids]

"""What the tests of the task queue share: settings and turns in one line each, and starting them."""

from __future__ import annotations

import math

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Lane
from loopforge.runtime.taskqueue import Item, TaskQueue

BIG = 1_000_000


def settings(
    max_concurrency: int = 1, reserve: int = 0, *, max_queued: int = 1000, max_queued_bytes: int = BIG
) -> ProviderSettings:
    return ProviderSettings(
        name="ollama",
        kind="openai_compatible",
        max_concurrency=max_concurrency,
        reserve=reserve,
        max_queued=max_queued,
        max_queued_bytes=max_queued_bytes,
    )


def turn(
    turn_id: str, lane: Lane = "normal", session: str = "", *, size_bytes: int = 1, deadline: float = math.inf
) -> Item:
    return Item(id=turn_id, session=session, lane=lane, size_bytes=size_bytes, deadline=deadline)


def start(queue: TaskQueue, now: float = 0.0, *, generation: int = 1) -> list[str]:
    return [assignment.item.id for assignment in queue.assign(now, generation=generation)]


def serve_all(queue: TaskQueue, now: float = 0.0) -> list[str]:
    """Start and end turns at one moment until none waits: the order in which they start."""
    order = []
    while started := start(queue, now):
        order += started
        for turn_id in started:
            queue.release(1, turn_id)
    return order

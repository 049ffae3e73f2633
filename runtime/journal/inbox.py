"""What waits for the journal's thread, in two lanes: a burst of one kind of turns must not hold up those of another.

Put in by the loop's thread, taken in groups by the journal's own. Operations of one turn all go through one lane, so
each turn's stay in order. bench/isolation.py: behind a burst of 1,000 turns in one lane an interactive turn waited for
all their commits, twice.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from loopforge.runtime.journal.operations import Operation

MAX_GROUP = 256
MAX_GROUP_BYTES = 8 * 2**20
"""One commit writes at most about that much; a single larger turn is a group of its own."""
MIXED_GROUP = 64
MIXED_GROUP_BYTES = 256 * 1024
"""A group that has urgent operations takes others only up to here: its commit is what somebody waits for."""
OTHERS_EVERY = 4
"""While both lanes have something, every so many places of a group are for those that are not urgent."""


class Posted(NamedTuple):
    """An operation, who is called with its answer, and what it holds while it waits."""

    operation: Operation[Any]
    done: Callable[[Any], None]
    weight_bytes: int


class Inbox:
    """Two lanes and a bell: one stroke for each operation, the last one for the end."""

    def __init__(self) -> None:
        self._urgent: deque[Posted] = deque()
        self._others: deque[Posted] = deque()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def put(self, posted: Posted, *, urgent: bool = False) -> None:
        """Queue it. Never blocks."""
        (self._urgent if urgent else self._others).append(posted)
        self._bell.put(True)

    def close(self) -> None:
        """Nothing is put any more: `take` tells so once all is taken."""
        self._bell.put(False)

    def take(self, patience_s: float) -> tuple[list[Posted], bool]:
        """The next group, and whether more may come. Raises queue.Empty when nothing came for so many seconds."""
        more = self._bell.get(timeout=patience_s)
        urgent, others = self._urgent, self._others
        group: list[Posted] = []
        weight, mixed = 0, False
        try:
            while more:
                if urgent and not (others and len(group) % OTHERS_EVERY == OTHERS_EVERY - 1):
                    posted, mixed = urgent.popleft(), True
                else:
                    posted = others.popleft()
                group.append(posted)
                weight += posted.weight_bytes
                if len(group) >= MAX_GROUP or weight >= MAX_GROUP_BYTES:
                    break
                if (mixed and others and not urgent) and (
                    len(group) >= MIXED_GROUP or weight + others[0].weight_bytes > MIXED_GROUP_BYTES
                ):
                    break
                more = self._bell.get_nowait()
        except queue.Empty:
            pass
        return group, more

    def take_all(self) -> list[Posted]:
        """What is left when nobody takes groups any more."""
        left = [*self._urgent, *self._others]
        self._urgent.clear()
        self._others.clear()
        return left

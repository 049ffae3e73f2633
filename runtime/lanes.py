"""What a task queue is made of: the turns that wait, in lanes, behind a time, or behind a gate. Pure.

Who is next among them, and why, is taskqueue.py's. Every turn that waits is at exactly one place (`Waiting.place`), so
it can be taken out from wherever it is. Each operation is O(1), or O(log n) where an order by time or age is kept.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from loopforge.drivers.turn import Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A turn as the queue sees it. `size_bytes`: what it occupies while it waits. `deadline`: math.inf for none.

    `model`: whose gate it has to pass, `pinned`: it passes any. `tokens`: estimate of its prompt. `alone`: it starts
    only while no other turn holds a slot, and none starts beside it.
    """

    id: str
    session: str = ""
    lane: Lane = "normal"
    size_bytes: int = 0
    deadline: float = math.inf
    model: str = ""
    pinned: bool = False
    tokens: int = 0
    alone: bool = False


class Place(Protocol):
    """Where a turn waits."""

    def remove(self, waiting: Waiting) -> None:
        """Take it out. It must be here."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A turn that waits. `number` orders turns by arrival, `returned` ones go before all others of their lane.

    `not_before`: the time that it was to wait for. `left`: it waits no longer; entries of Times that are stale are told
    by it.
    """

    item: Item
    since: float
    number: int
    returned: bool = False
    not_before: float = -math.inf
    left: bool = False
    place: Place | None = None


@dataclass(slots=True, eq=False)
class TurnLane:
    """The turns of one lane that may start, in that order. `passed_over_since`: math.inf when it was not.

    `places`: bytes by turn, of those that are not here yet. `aside`: turns of this lane that wait elsewhere.
    """

    sessions: OrderedDict[str, OrderedDict[str, Waiting]] = field(default_factory=OrderedDict)  # next session first
    returned: OrderedDict[str, Waiting] = field(default_factory=OrderedDict)
    places: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    aside: int = 0
    passed_over_since: float = math.inf

    def append(self, waiting: Waiting) -> None:
        """At the end: of those returned, or of its session; a session that had none joins behind the others."""
        item = waiting.item
        if waiting.returned:
            self.returned[item.id] = waiting
        else:
            session = self.sessions.get(item.session)
            if session is None:
                session = self.sessions[item.session] = OrderedDict()
            session[item.id] = waiting
        waiting.place = self
        self.waiting += 1

    def restore(self, turns: list[Waiting]) -> None:
        """Back to where they would stand if they had never been taken aside; a session that had none comes first."""
        by_session: dict[str, list[Waiting]] = {}
        for waiting in turns:
            waiting.place = self
            if not waiting.returned:
                by_session.setdefault(waiting.item.session, []).append(waiting)
        self.waiting += len(turns)
        returned = [waiting for waiting in turns if waiting.returned]
        if returned:
            self.returned = _in_order([*self.returned.values(), *returned])
        for name, restored in by_session.items():
            is_new = name not in self.sessions
            self.sessions[name] = _in_order([*self.sessions.get(name, {}).values(), *restored])
            if is_new:
                self.sessions.move_to_end(name, last=False)

    def peek(self) -> Waiting | None:
        """The next turn."""
        for waiting in self.returned.values():
            return waiting
        for session in self.sessions.values():
            for waiting in session.values():
                return waiting
        return None

    def pop(self) -> Waiting:
        """Take out the next turn; its session goes behind the others. The lane must not be empty."""
        if self.returned:
            waiting = self.returned.popitem(last=False)[1]
        else:
            name, session = self.sessions.popitem(last=False)
            waiting = session.popitem(last=False)[1]
            if session:
                self.sessions[name] = session
        self._one_less(waiting)
        return waiting

    def remove(self, waiting: Waiting) -> None:
        item = waiting.item
        if waiting.returned:
            del self.returned[item.id]
        else:
            session = self.sessions[item.session]
            del session[item.id]
            if not session:
                del self.sessions[item.session]
        self._one_less(waiting)

    def _one_less(self, waiting: Waiting) -> None:
        waiting.place = None
        self.waiting -= 1
        if not self.waiting:
            self.passed_over_since = math.inf


def _in_order(turns: list[Waiting]) -> OrderedDict[str, Waiting]:
    turns.sort(key=lambda waiting: waiting.number)
    return OrderedDict((waiting.item.id, waiting) for waiting in turns)


class Times:
    """Waiting turns by a time. A turn that left stays in the heap as a stale entry until it comes up or is swept out.

    A sweep happens when more than half of the entries are stale, so its cost is spread over the turns that left: the
    rule of trio's own deadlines. An entry holds an Item, never a body.
    """

    SPARE = 64  # stale entries that are never worth a sweep

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiting]] = []

    def add(self, waiting: Waiting, at: float) -> None:
        if at < math.inf:
            heapq.heappush(self._heap, (at, waiting.number, waiting))

    def first(self) -> float:
        """The earliest time; math.inf when there is none."""
        while self._heap and self.is_stale(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_until(self, now: float) -> list[Waiting]:
        """Take out the turns whose time is not after `now`, earliest first."""
        due = []
        while self.first() <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due

    def until(self, at: float, most: int) -> list[Waiting]:
        """The turns whose time is not after `at`, earliest first, at most so many. They stay."""
        found: list[Waiting] = []
        ahead = [(self._heap[0], 0)] if self._heap else []  # a heap of places in the heap: a child is never before it
        while ahead and len(found) < most:
            (due, _, waiting), place = heapq.heappop(ahead)
            if due > at:
                break
            if not self.is_stale(waiting):
                found.append(waiting)
            for child in (2 * place + 1, 2 * place + 2):
                if child < len(self._heap):
                    heapq.heappush(ahead, (self._heap[child], child))
        return found

    def sweep_if_stale(self, waiting: int) -> None:
        """`waiting`: how many turns wait, with or without such a time."""
        if len(self._heap) > 2 * waiting + self.SPARE:
            self._heap = [entry for entry in self._heap if not self.is_stale(entry[2])]
            heapq.heapify(self._heap)

    def is_stale(self, waiting: Waiting) -> bool:
        return waiting.left


class Later(Times):
    """Turns that may start from a time on, and are nowhere else until then."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def add(self, waiting: Waiting, at: float) -> None:
        heapq.heappush(self._heap, (at, waiting.number, waiting))
        waiting.place = self
        self.count += 1

    def pop_until(self, now: float) -> list[Waiting]:
        due = super().pop_until(now)
        for waiting in due:
            waiting.place = None
        self.count -= len(due)
        return due

    def remove(self, waiting: Waiting) -> None:
        waiting.place = None
        self.count -= 1
        self.sweep_if_stale(self.count)

    def is_stale(self, waiting: Waiting) -> bool:
        return waiting.place is not self


class Held:
    """Turns that wait behind the gate of their model, by lane and age."""

    def __init__(self) -> None:
        self._heaps: dict[tuple[str, Lane], list[tuple[bool, int, Waiting]]] = {}
        self._counts: dict[tuple[str, Lane], int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def models(self) -> set[str]:
        return {model for model, _ in self._counts}

    def add(self, waiting: Waiting) -> None:
        key = waiting.item.model, waiting.item.lane
        heapq.heappush(self._heaps.setdefault(key, []), (not waiting.returned, waiting.number, waiting))
        self._counts[key] = self._counts.get(key, 0) + 1
        waiting.place = self

    def take(self, model: str, lane: Lane, most: float) -> list[Waiting]:
        """Take out the first ones of that lane, at most so many."""
        taken: list[Waiting] = []
        heap = self._heaps.get((model, lane), [])
        while heap and len(taken) < most:
            waiting = heapq.heappop(heap)[2]
            if waiting.place is self:
                self.remove(waiting)
                taken.append(waiting)
        return taken

    def remove(self, waiting: Waiting) -> None:
        key = waiting.item.model, waiting.item.lane
        waiting.place = None
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
            heap = self._heaps[key]
            if len(heap) > 2 * left + Times.SPARE:
                heap[:] = [entry for entry in heap if entry[2].place is self]
                heapq.heapify(heap)
        else:
            del self._counts[key], self._heaps[key]


class Alone:
    """Turns that start while nobody else runs, in the order they came."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    def add(self, waiting: Waiting) -> None:
        self._turns[waiting.item.id] = waiting
        waiting.place = self

    def restore(self, turns: list[Waiting]) -> None:
        """Back to where they would stand if they had never been taken aside."""
        for waiting in turns:
            waiting.place = self
        self._turns = _in_order([*self._turns.values(), *turns])

    def peek(self) -> Waiting | None:
        return next(iter(self._turns.values()), None)

    def remove(self, waiting: Waiting) -> None:
        waiting.place = None
        del self._turns[waiting.item.id]

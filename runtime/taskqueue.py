"""The queue of ONE provider: which turns wait, which hold a slot, and what starts now. Pure: `now` is an argument.

Bodies, channels and workers are dispatch.py's; it calls `assign` after every change and acts on the answer. All times
are seconds on one clock of the caller's choice, all sizes bytes.

Who is next. A slot that comes free goes to
1. the interactive lane, while fewer interactive turns run than there are reserved slots: nobody else may use those;
2. otherwise a lane that was passed over for PASSED_OVER_S, the longest first (aging);
3. otherwise the first lane, interactive before normal before background, that has a turn waiting.
A lane counts as passed over from the moment a turn of a lane before it takes a slot that it could have had; a start of
its own, or running empty, ends that. So a lane that waits for slots nobody else takes does not age: forty long coding
turns behind one slot do not make planning wait behind them. And yet no lane starves: when a slot that all may have
comes free, a lane whose turns wait is passed over at most for PASSED_OVER_S, and then for one turn of each other lane.
Aging only chooses among turns for a free slot; a free slot never waits for it, so there is no time at which aging
alone lets something start.
Inside a lane sessions take turns, one turn each; turns without a session are one session. Turns put back (resends) go
before all others of their lane, in the order they were put back.

Every operation on a turn is O(1), or O(log n) where deadlines are involved (amortised, see _Deadlines).
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import LANES, Lane
from loopforge.runtime.errors import QueueFull, TooLarge

# A lane gets a slot at least this often while others take all of them. Long against a turn of a chat model (a few
# seconds), so that priority means something; short against the default deadline (1,800 s), so that none waits it out.
PASSED_OVER_S = 30.0
STARTS_KEPT = 64  # the last starts, from which the rate at which places come free is estimated
MIN_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A turn as the queue sees it. `size_bytes`: what it occupies while it waits. `deadline`: math.inf for none."""

    id: str
    session: str = ""
    lane: Lane = "normal"
    size_bytes: int = 0
    deadline: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`item` starts now and holds a slot on worker `generation` until released. `waited_s`: since offer or put_back."""

    item: Item
    generation: int
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """The queue at one moment. `waiting`: turns by lane; `places`: kept for turns that are being written down.

    `running`: ids by worker generation, in order of start. `queued_bytes`: of `waiting` and `places`.
    `oldest_wait_s`: of the turn that waits longest, 0 when none does.
    """

    waiting: dict[Lane, int]
    places: int
    queued_bytes: int
    running: dict[int, tuple[str, ...]]
    max_concurrency: int
    reserve: int
    oldest_wait_s: float


class TaskQueue:
    """Turns waiting for, and slots held at, the provider that `settings` describes.

    Of the settings only name, max_concurrency, reserve, max_queued and max_queued_bytes matter here. At least one slot
    stays open to all lanes, whatever `reserve` says.
    """

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        self._slots = _Slots(settings.max_concurrency, min(settings.reserve, settings.max_concurrency - 1))
        self._lanes = {lane: _Lane() for lane in LANES}
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()  # longest wait first
        self._overdue: dict[str, _Waiting] = {}  # of the waiting: in no lane any more, until expire() hands them out
        self._deadlines = _Deadlines()
        self._bytes = 0
        self._entered = 0
        self._starts: deque[float] = deque(maxlen=STARTS_KEPT)

    def __len__(self) -> int:
        """Turns that wait."""
        return len(self._waiting)

    @property
    def free_slots(self) -> int:
        """Slots nobody holds, the reserved ones among them."""
        return self._slots.free

    # -- coming in ---------------------------------------------------------------------------------------------------

    def reserve_place(self, turn_id: str, size_bytes: int, lane: Lane, now: float) -> None:
        """Keep a place for a turn that is not ready to be offered; `offer` uses it, `forget` gives it back.

        Raises QueueFull when max_queued or max_queued_bytes is reached, TooLarge when the turn alone is larger than
        max_queued_bytes. An interactive turn that a reserved slot is free for is not refused as QueueFull: it will not
        wait. The bounds can be passed by that many turns, `reserve`, and no more.
        """
        self._check_new(turn_id)
        self._check_bounds(size_bytes, self._lanes[lane], now)
        self._lanes[lane].places[turn_id] = size_bytes
        self._bytes += size_bytes

    def forget(self, turn_id: str) -> None:
        """Give back the place of a turn that will not be offered. Does nothing when there is none."""
        for lane in self._lanes.values():
            self._bytes -= lane.places.pop(turn_id, 0)

    def offer(self, item: Item, now: float) -> None:
        """The turn waits from now on, in the place reserved for it if there is one.

        Raises QueueFull or TooLarge, as reserve_place does, when there is none and the bounds are reached.
        """
        if any(item.id in lane.places for lane in self._lanes.values()):
            self.forget(item.id)
        else:
            self._check_new(item.id)
            self._check_bounds(item.size_bytes, self._lanes[item.lane], now)
        self._lanes[item.lane].append(self._enter(item, now))

    def put_back(self, item: Item, now: float) -> None:
        """A turn that was assigned and released waits again, before the other turns of its lane.

        Never refused: it was accepted before. Turns put back one after the other keep that order.
        """
        self._check_new(item.id)
        self._lanes[item.lane].put_back(self._enter(item, now))

    # -- going out ---------------------------------------------------------------------------------------------------

    def assign(self, now: float, *, generation: int) -> list[Assignment]:
        """What starts now on the worker `generation`, in this order: as many as free slots and lanes allow.

        Each holds its slot from here on. Turns whose deadline has passed are not among them: see expire.
        """
        self._set_overdue_aside(now)
        assignments = []
        while (lane := self._next_lane(now)) is not None:
            waiting = lane.pop()
            self._leave(waiting)
            self._slots.take(waiting.item, generation)
            self._starts.append(now)
            assignments.append(Assignment(item=waiting.item, generation=generation, waited_s=now - waiting.since))
        return assignments

    def expire(self, now: float) -> list[Item]:
        """Take out the waiting turns whose deadline is not after `now`, earliest deadline first."""
        self._set_overdue_aside(now)
        overdue = list(self._overdue.values())
        self._overdue.clear()
        for waiting in overdue:
            self._leave(waiting)
        return [waiting.item for waiting in overdue]

    def next_look(self, now: float) -> float:
        """When to call expire and assign again if nothing else happens before: the first deadline, or math.inf.

        Only deadlines pass by themselves; a start also needs an offer, a release or a put_back, and whoever makes one
        calls assign.
        """
        if self._overdue:
            return now
        return max(now, self._deadlines.first())

    def cancel(self, turn_id: str) -> Item | None:
        """Take a waiting turn out. None when it does not wait: it holds a slot, has only a place, or is not here."""
        if (waiting := self._waiting.get(turn_id)) is None:
            return None
        if self._overdue.pop(turn_id, None) is None:
            self._lanes[waiting.item.lane].remove(waiting)
        self._leave(waiting)
        return waiting.item

    def drain(self) -> list[Item]:
        """Take out every waiting turn, longest wait first. Slots and places stay with their owners."""
        return [item for turn_id in list(self._waiting) if (item := self.cancel(turn_id))]

    # -- slots -------------------------------------------------------------------------------------------------------

    def release(self, generation: int, turn_id: str) -> bool:
        """The turn's scope on that worker ended: its slot is free. False, and nothing changes, when it held none there.

        So a late release cannot free the slot that the same turn holds on a newer worker.
        """
        return self._slots.release(generation, turn_id)

    def release_generation(self, generation: int) -> list[Item]:
        """The worker is gone: all its slots are free. The turns that held them, in order of start."""
        return self._slots.release_generation(generation)

    def snapshot(self, now: float) -> QueueStatus:
        return QueueStatus(
            waiting={name: lane.waiting for name, lane in self._lanes.items()},
            places=sum(len(lane.places) for lane in self._lanes.values()),
            queued_bytes=self._bytes,
            running=self._slots.by_generation(),
            max_concurrency=self._slots.total,
            reserve=self._slots.reserve,
            oldest_wait_s=max(0.0, now - next(iter(self._waiting.values())).since) if self._waiting else 0.0,
        )

    # -- inside ------------------------------------------------------------------------------------------------------

    def _next_lane(self, now: float) -> _Lane | None:
        """The lane whose next turn starts now, or None. Notes who was passed over, so its turn must be started."""
        interactive = self._lanes["interactive"]
        if interactive.waiting and self._slots.reserved_free > 0:
            return interactive  # the others could not have had this slot: they are not passed over
        if self._slots.common_free <= 0:
            return None
        candidates = [lane for lane in self._lanes.values() if lane.waiting]
        if not candidates:
            return None
        chosen = min(candidates, key=lambda lane: lane.passed_over_since)  # the first lane when none was passed over
        if now - chosen.passed_over_since < PASSED_OVER_S:
            chosen = candidates[0]
        for lane in candidates[candidates.index(chosen) + 1 :]:
            lane.passed_over_since = min(lane.passed_over_since, now)
        chosen.passed_over_since = math.inf
        return chosen

    def _check_new(self, turn_id: str) -> None:
        if (
            turn_id in self._waiting
            or turn_id in self._slots
            or any(turn_id in lane.places for lane in self._lanes.values())
        ):
            raise ValueError(f"turn {turn_id!r} is in the queue of {self._settings.name} already")

    def _check_bounds(self, size_bytes: int, lane: _Lane, now: float) -> None:
        """Raises QueueFull, TooLarge."""
        settings = self._settings
        if size_bytes > settings.max_queued_bytes:
            raise TooLarge(
                settings.name,
                f"the turn has {size_bytes} bytes, the whole queue may hold {settings.max_queued_bytes}",
                action=f"send less, or raise max_queued_bytes in [providers.{settings.name}]",
            )
        depth = len(self._waiting) + sum(len(lane.places) for lane in self._lanes.values())
        bytes_over = self._bytes + size_bytes - settings.max_queued_bytes
        if depth < settings.max_queued and bytes_over <= 0:
            return
        if lane is self._lanes["interactive"] and lane.waiting + len(lane.places) < self._slots.reserved_free:
            return
        starts_needed = 1 if bytes_over <= 0 else math.ceil(depth * bytes_over / self._bytes)
        raise _queue_full(settings, depth, bytes_over, self._retry_after_s(starts_needed, now))

    def _retry_after_s(self, starts_needed: int, now: float) -> float | None:
        """When that many places may be free: by the recent rate of starts, or when the first deadline passes."""
        by_deadline = self._deadlines.first() - now
        by_rate = math.inf
        if self._starts:
            by_rate = starts_needed * (now - self._starts[0]) / len(self._starts)
        estimate = min(by_deadline, by_rate)
        return None if estimate == math.inf else max(MIN_RETRY_AFTER_S, estimate)

    def _enter(self, item: Item, now: float) -> _Waiting:
        self._entered += 1
        waiting = self._waiting[item.id] = _Waiting(item, now, self._entered)
        self._bytes += item.size_bytes
        self._deadlines.add(waiting)
        return waiting

    def _leave(self, waiting: _Waiting) -> None:
        del self._waiting[waiting.item.id]
        self._bytes -= waiting.item.size_bytes
        waiting.left = True
        self._deadlines.sweep_if_stale(len(self._waiting))

    def _set_overdue_aside(self, now: float) -> None:
        for waiting in self._deadlines.pop_until(now):
            self._lanes[waiting.item.lane].remove(waiting)
            self._overdue[waiting.item.id] = waiting


def _queue_full(settings: ProviderSettings, depth: int, bytes_over: int, retry_after_s: float | None) -> QueueFull:
    key, bound = (
        ("max_queued_bytes", settings.max_queued_bytes) if bytes_over > 0 else ("max_queued", settings.max_queued)
    )
    when = "later" if retry_after_s is None else f"in about {retry_after_s:.0f} s"
    return QueueFull(
        settings.name,
        f"the queue is full: {depth} turns wait, {key} is {bound}",
        action=f"post the turn again {when}, or raise {key} in [providers.{settings.name}]",
        retry_after_s=retry_after_s,
    )


@dataclass(slots=True, eq=False)
class _Waiting:
    """A turn that waits. `number` orders turns of equal deadline; `left` marks entries of _Deadlines as stale."""

    item: Item
    since: float
    number: int
    left: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """The turns of one lane, in the order they start. `passed_over_since`: math.inf when it was not."""

    sessions: OrderedDict[str, OrderedDict[str, _Waiting]] = field(default_factory=OrderedDict)  # next session first
    returned: OrderedDict[str, _Waiting] = field(default_factory=OrderedDict)
    places: dict[str, int] = field(default_factory=dict)  # bytes by turn
    waiting: int = 0
    passed_over_since: float = math.inf

    def append(self, waiting: _Waiting) -> None:
        """At the end of its session; a session that had none joins behind the others."""
        session = self.sessions.get(waiting.item.session)
        if session is None:
            session = self.sessions[waiting.item.session] = OrderedDict()
        session[waiting.item.id] = waiting
        self.waiting += 1

    def put_back(self, waiting: _Waiting) -> None:
        self.returned[waiting.item.id] = waiting
        self.waiting += 1

    def pop(self) -> _Waiting:
        """Take out the next turn; its session goes behind the others. The lane must not be empty."""
        if self.returned:
            waiting = self.returned.popitem(last=False)[1]
        else:
            name, session = self.sessions.popitem(last=False)
            waiting = session.popitem(last=False)[1]
            if session:
                self.sessions[name] = session
        self._one_less()
        return waiting

    def remove(self, waiting: _Waiting) -> None:
        item = waiting.item
        if self.returned.pop(item.id, None) is None:
            session = self.sessions[item.session]
            del session[item.id]
            if not session:
                del self.sessions[item.session]
        self._one_less()

    def _one_less(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.passed_over_since = math.inf


class _Slots:
    """Who runs. A slot in use is an entry of these dicts and nothing else: there is no number that could drift.

    `reserve` slots are for interactive turns alone. Interactive turns fill those first: as many common slots are in
    use as other turns run, plus the interactive turns beyond the reserve.
    """

    def __init__(self, total: int, reserve: int) -> None:
        self.total = total
        self.reserve = max(0, reserve)
        self._generations: dict[str, int] = {}  # by turn
        self._turns: dict[int, dict[str, Item]] = {}  # by generation
        self._interactive: set[str] = set()

    def __contains__(self, turn_id: str) -> bool:
        return turn_id in self._generations

    @property
    def free(self) -> int:
        return self.total - len(self._generations)

    @property
    def reserved_free(self) -> int:
        """Reserved slots that an interactive turn can have now."""
        return max(0, self.reserve - len(self._interactive))

    @property
    def common_free(self) -> int:
        """Slots that a turn of any lane can have now."""
        return self.free - self.reserved_free

    def take(self, item: Item, generation: int) -> None:
        self._generations[item.id] = generation
        self._turns.setdefault(generation, {})[item.id] = item
        if item.lane == "interactive":
            self._interactive.add(item.id)

    def release(self, generation: int, turn_id: str) -> bool:
        if self._generations.get(turn_id) != generation:
            return False
        turns = self._turns[generation]
        del turns[turn_id]
        if not turns:
            del self._turns[generation]
        del self._generations[turn_id]
        self._interactive.discard(turn_id)
        return True

    def release_generation(self, generation: int) -> list[Item]:
        turns = self._turns.pop(generation, {})
        for turn_id in turns:
            del self._generations[turn_id]
            self._interactive.discard(turn_id)
        return list(turns.values())

    def by_generation(self) -> dict[int, tuple[str, ...]]:
        return {generation: tuple(turns) for generation, turns in self._turns.items()}


class _Deadlines:
    """Waiting turns by deadline. A turn that left stays in the heap as a stale entry until it comes up or is swept out.

    A sweep happens when more than half of the entries are stale, so its cost is spread over the turns that left: the
    rule of trio's own deadlines. An entry holds an Item, never a body.
    """

    SPARE = 64  # stale entries that are never worth a sweep

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Waiting]] = []

    def add(self, waiting: _Waiting) -> None:
        if waiting.item.deadline < math.inf:
            heapq.heappush(self._heap, (waiting.item.deadline, waiting.number, waiting))

    def first(self) -> float:
        """The earliest deadline of a waiting turn; math.inf when there is none."""
        while self._heap and self._heap[0][2].left:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_until(self, now: float) -> list[_Waiting]:
        """Take out the turns whose deadline is not after `now`, earliest first."""
        overdue = []
        while self.first() <= now:
            overdue.append(heapq.heappop(self._heap)[2])
        return overdue

    def sweep_if_stale(self, waiting: int) -> None:
        """`waiting`: how many turns wait, with or without a deadline."""
        if len(self._heap) > 2 * waiting + self.SPARE:
            self._heap = [entry for entry in self._heap if not entry[2].left]
            heapq.heapify(self._heap)


class ByteBudget:
    """A bound in bytes over all queues ([runtime] max_queued_bytes). What is held is held by turn: nothing can leak."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._sizes: dict[str, int] = {}
        self._held = 0

    @property
    def held_bytes(self) -> int:
        return self._held

    def take(self, turn_id: str, size_bytes: int) -> None:
        """Hold the bytes of a new turn. Raises QueueFull when that passes the bound, TooLarge when it never fits."""
        if size_bytes > self.max_bytes:
            raise TooLarge(
                what=f"the turn has {size_bytes} bytes, all queues together may hold {self.max_bytes}",
                action="send less, or raise max_queued_bytes in [runtime]",
            )
        if self._held + size_bytes > self.max_bytes:
            raise QueueFull(
                what=f"the queues are full: {len(self._sizes)} turns of {self._held} bytes wait, "
                f"max_queued_bytes is {self.max_bytes}",
                action="post the turn again later, or raise max_queued_bytes in [runtime]",
            )
        self.put_back(turn_id, size_bytes)

    def put_back(self, turn_id: str, size_bytes: int) -> None:
        """Hold the bytes of a turn that waits again. Never refused: it was accepted before."""
        if turn_id in self._sizes:
            raise ValueError(f"turn {turn_id!r} holds bytes already")
        self._sizes[turn_id] = size_bytes
        self._held += size_bytes

    def give_back(self, turn_id: str) -> None:
        """The turn waits no longer. Does nothing when it holds none."""
        self._held -= self._sizes.pop(turn_id, 0)

"""The queue of ONE provider: which turns wait, which hold a slot, and what starts now. Pure: `now` is an argument.

Bodies, channels and workers are the dispatcher's; it calls `assign` after every change and acts on the answer. What a
lane holds and where else a turn may wait is lanes.py's, who runs is slots.py's, the minute's limits are rates.py's. All
times are seconds on one clock of the caller's choice, all sizes bytes.

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

Limits a minute. The turn whose turn it is waits until they allow it, and nobody of its lane or a lower one passes it,
however small. Where there are limits, a start in a reserved slot passes the others over too, because it takes of what
they share; and while a lane that was passed over for PASSED_OVER_S waits for the limits, interactive turns start only
out of the share that is theirs alone.

Elsewhere than in their lane, and in nobody's way, wait: turns whose time has not come (`not_before`), turns whose
model's gate is closed (breakers.py), and turns that must run alone. While one of those runs nothing else starts; to let
it start the others stop starting, and after it they have the provider for as long as they stood back for it.

Every operation on a turn is O(1), or O(log n) where times are involved (amortised, see lanes.py).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import LANES, Lane, Limits
from loopforge.runtime.breakers import EVERY_MODEL, Gate
from loopforge.runtime.errors import QueueFull, TooLarge
from loopforge.runtime.lanes import Alone, Held, Item, Later, Times, TurnLane, Waiting
from loopforge.runtime.rates import MINUTE_S, Rates, RatesStatus
from loopforge.runtime.slots import Slots

__all__ = ["PASSED_OVER_S", "Assignment", "ByteBudget", "Item", "QueueStatus", "TaskQueue"]

# A lane gets a slot at least this often while others take all of them. Long against a turn of a chat model (a few
# seconds), so that priority means something; short against the default deadline (1,800 s), so that none waits it out.
PASSED_OVER_S = 30.0
STARTS_KEPT = 64  # the last starts, from which the rate at which places come free is estimated
MIN_RETRY_AFTER_S = 1.0
MOST_TOO_LATE = 64  # turns looked at for that in one look, which comes each second


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`item` starts now and holds a slot on worker `generation` until released. `waited_s`: since offer or put_back."""

    item: Item
    generation: int
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """The queue at one moment. `waiting`: turns by lane; `places`: kept for turns that are being written down.

    `later`, `held`, `alone`: of those that wait, how many wait for a time, for a gate, and for the others to end.
    `running`: ids by worker generation, in order of start. `queued_bytes`: of `waiting` and `places`.
    `oldest_wait_s`: of the turn that waits longest, 0 when none does. `limited_until`: the next turn starts then, when
    the limits a minute are all that keeps it; -math.inf otherwise.
    """

    waiting: dict[Lane, int]
    places: int
    queued_bytes: int
    running: dict[int, tuple[str, ...]]
    max_concurrency: int
    reserve: int
    oldest_wait_s: float
    later: int
    held: int
    alone: int
    limited_until: float
    rates: RatesStatus


_NO_GATES: Mapping[str, Gate] = {}
_OPEN = Gate(allow=1 << 60, until=-math.inf)


class TaskQueue:
    """Turns waiting for, and slots held at, the provider that `settings` describes.

    Of the settings only name, max_concurrency, reserve, the bounds max_queued and max_queued_bytes, and the limits a
    minute matter here. At least one slot stays open to all lanes, whatever `reserve` says. `minute`: of another queue
    whose turns count against the same limits; both go on with it, by the limits of these settings.
    """

    def __init__(self, settings: ProviderSettings, *, minute: Rates | None = None) -> None:
        self._settings = settings
        self._slots = Slots(settings.max_concurrency, settings.reserve)
        limits = settings.requests_per_minute, settings.tokens_per_minute
        if minute is None:
            minute = Rates(*limits, keeps_share=self._slots.reserve > 0)
        else:
            minute.set_limits(*limits, keeps_share=self._slots.reserve > 0)
        self.minute = self._rates = minute
        self._lanes = {lane: TurnLane() for lane in LANES}
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()  # longest wait first
        self._overdue: dict[str, Waiting] = {}  # of the waiting: at no place any more, until expire() hands them out
        self._later = Later()
        self._held = Held()
        self._alone = Alone()
        self._deadlines = Times()
        self._bytes = 0
        self._entered = 0
        self._starts: deque[float] = deque(maxlen=STARTS_KEPT)
        self._gates = _NO_GATES
        self._allowed: dict[str, int] = {}  # of the gates that are not open: how many may still pass
        self._limited_until = -math.inf
        self._runs_alone = ""
        self._stand_back_since = math.inf  # while the others make room for a turn that runs alone
        self._alone_from = -math.inf

    def __len__(self) -> int:
        """Turns that wait."""
        return len(self._waiting)

    @property
    def free_slots(self) -> int:
        """Slots nobody holds, the reserved ones among them."""
        return max(0, self._slots.free)

    def idle_for(self, lane: Lane, tokens: int, now: float) -> bool:
        """Whether a turn of that lane and prompt would start at once, as far as slots, limits and others go.

        Gates are not looked at.
        """
        slots = self._slots.common_free + (self._slots.reserved_free if lane == "interactive" else 0)
        before = sum(self._lanes[name].waiting for name in LANES[: LANES.index(lane) + 1])
        if self._runs_alone or len(self._alone) or before or slots <= 0:
            return False
        return self.earliest(lane, tokens, now) <= now

    def earliest(self, lane: Lane, tokens: int, now: float) -> float:
        """Before that moment the limits a minute let no such turn start, even if nobody else waits."""
        return self._rates.when(tokens, now, interactive=lane == "interactive")

    def too_late(self, now: float) -> list[tuple[Item, float]]:
        """Waiting turns that the limits a minute let not start before their deadline, and when they would.

        They keep their places (see cancel). Of very many those with the earliest deadlines are told, the others later.
        """
        if not self._rates.active:
            return []
        soon = (waiting.item for waiting in self._deadlines.until(now + MINUTE_S, MOST_TOO_LATE))
        starts = ((item, self.earliest(item.lane, item.tokens, now)) for item in soon)
        return [(item, at) for item, at in starts if at >= item.deadline > now]

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
        self._place(self._enter(item, now))

    def put_back(self, item: Item, now: float, *, not_before: float = -math.inf) -> None:
        """A turn that was accepted before, here or at another provider, waits (again) before the others of its lane.

        `not_before`: it stays out of the others' way until then. Never refused. Turns put back one after the other
        keep that order.
        """
        self._check_new(item.id)
        waiting = self._enter(item, now)
        waiting.returned, waiting.not_before = True, not_before
        if not_before > now:
            self._lanes[item.lane].aside += 1
            self._later.add(waiting, not_before)
        else:
            self._place(waiting)

    # -- going out ---------------------------------------------------------------------------------------------------

    def assign(self, now: float, *, generation: int, gates: Mapping[str, Gate] = _NO_GATES) -> list[Assignment]:
        """What starts now on the worker `generation`, in this order: as many as slots, lanes, limits and gates allow.

        Each holds its slot from here on. Turns whose deadline has passed are not among them: see expire. `gates`: of
        this provider, from breakers.py; they hold until the next call.
        """
        self._set_overdue_aside(now)
        self._limited_until = -math.inf
        self._mark_end_of_alone(now)
        tried = self._use_gates(gates)
        for waiting in self._later.pop_until(now):
            self._lanes[waiting.item.lane].aside -= 1
            self._place(waiting)
        assignments = []
        while (next_one := self._next(now)) is not None:
            waiting, item = next_one, next_one.item
            if item.alone:
                self._remove(waiting)
            else:
                self._lanes[item.lane].pop()  # its session goes behind the others
            self._leave(waiting)
            self._slots.take(item, generation)
            if self._rates.active:
                self._rates.take(item.id, item.tokens, now, interactive=item.lane == "interactive")
            if self._allowed and not item.pinned:
                self._pass_gates(item.model)
            self._starts.append(now)
            assignments.append(Assignment(item=item, generation=generation, waited_s=now - waiting.since))
        for waiting in tried:
            if waiting.place not in (None, self._held):  # another one probes, or none can: next time it is chosen anew
                self._hold(waiting)
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
        """When to call expire and assign again if nothing else happens before; math.inf for never.

        Deadlines and times to start from pass by themselves, and so do limits and gates as the last assign met them; a
        start also needs an offer, a release or a put_back, and whoever makes one calls assign.
        """
        if self._overdue:
            return now
        if not self._waiting:
            return math.inf
        times = [self._later.first(), self._limited_until]
        if len(self._held):
            times += [gate.until for gate in self._gates.values() if not gate.allow]
        if len(self._alone):
            times.append(self._alone_from)
        # What passed already waits for the next assign, which comes with whatever kept the caller from it.
        return max(now, min([self._deadlines.first(), *(at for at in times if at > now)]))

    def cancel(self, turn_id: str) -> Item | None:
        """Take a waiting turn out. None when it does not wait: it holds a slot, has only a place, or is not here."""
        if (waiting := self._waiting.get(turn_id)) is None:
            return None
        if self._overdue.pop(turn_id, None) is None:
            self._remove(waiting)
        self._leave(waiting)
        return waiting.item

    def waiting(self, model: str | None = None) -> list[Item]:
        """Every waiting turn, or every one for `model`, longest wait first. They keep their places: see cancel."""
        return [waiting.item for waiting in self._waiting.values() if model in (None, waiting.item.model)]

    def not_before(self, turn_id: str) -> float:
        """What `put_back` was told for a waiting turn; -math.inf when it was told nothing."""
        return self._waiting[turn_id].not_before

    def drain(self, model: str | None = None) -> list[Item]:
        """Take out every waiting turn, or every one for `model`, longest wait first. Slots and places stay."""
        items = self.waiting(model)
        for item in items:
            self.cancel(item.id)
        return items

    # -- slots -------------------------------------------------------------------------------------------------------

    def release(self, generation: int, turn_id: str) -> bool:
        """The turn's scope on that worker ended: its slot is free. False, and nothing changes, when it held none there.

        So a late release cannot free the slot that the same turn holds on a newer worker.
        """
        return self._slots.release(generation, turn_id)

    def release_generation(self, generation: int) -> list[Item]:
        """The worker is gone: all its slots are free. The turns that held them, in order of start."""
        return self._slots.release_generation(generation)

    def set_concurrency(self, slots: int) -> None:
        """So many slots from now on, at least one. Turns that hold more keep them until they end."""
        self._slots.resize(max(1, slots), self._settings.reserve)

    # -- limits a minute ---------------------------------------------------------------------------------------------

    def correct(self, turn_id: str, input_tokens: int | None, output_tokens: int | None) -> None:
        """What the turn's attempt really cost; None: the provider did not say, the estimate stays."""
        self._rates.correct(turn_id, input_tokens, output_tokens)

    def refund(self, turn_id: str, *, request: bool = False) -> None:
        """The turn's attempt cost no tokens; with `request` it never reached the provider at all."""
        self._rates.refund(turn_id, request=request)

    def learn(self, limits: Limits, at: float, now: float) -> None:
        """What the provider's rate-limit headers said. `at`: about when they came, the attempt's first event."""
        self._rates.learn(limits, at, now)

    def snapshot(self, now: float) -> QueueStatus:
        return QueueStatus(
            waiting={name: lane.waiting + lane.aside for name, lane in self._lanes.items()},
            places=sum(len(lane.places) for lane in self._lanes.values()),
            queued_bytes=self._bytes,
            running=self._slots.by_generation(),
            max_concurrency=self._slots.total,
            reserve=self._slots.reserve,
            oldest_wait_s=max(0.0, now - next(iter(self._waiting.values())).since) if self._waiting else 0.0,
            later=self._later.count,
            held=len(self._held),
            alone=len(self._alone),
            limited_until=self._limited_until if self._waiting else -math.inf,
            rates=self._rates.snapshot(now),
        )

    # -- inside ------------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> Waiting | None:
        """The turn that starts now, or None. Notes who was passed over, so it must be started."""
        if self._runs_alone:
            return None
        if len(self._alone):
            while (first := self._alone.peek()) is not None and self._is_shut(first.item):
                self._hold(first)
            if first is not None and self._is_alones_turn(now):
                return self._start_alone(first, now)
        if self._allowed:
            for lane in self._lanes.values():
                self._hold_shut(lane)
        waiting = [name for name, lane in self._lanes.items() if lane.waiting]
        if not waiting:
            return None
        reserved = waiting[0] == "interactive" and self._slots.reserved_free > 0
        common = self._slots.common_free > 0
        if not self._rates.active:
            if reserved:
                return self._lanes["interactive"].peek()  # the others could not have had this slot: not passed over
            return self._start_in_common(self._choose(waiting, now)[0], waiting, now) if common else None
        chosen, aged = self._choose(waiting, now) if common else (None, False)
        if chosen is not None and aged and chosen != "interactive":
            if self._is_allowed(self._lanes[chosen], now):
                return self._start_in_common(chosen, waiting, now)
            lane = self._lanes["interactive"]
            return lane.peek() if lane.waiting and self._is_in_share(lane, now) else None
        name: Lane | None = "interactive" if reserved else chosen
        if name is None or not self._is_allowed(self._lanes[name], now):
            return None
        return self._start_in_common(name, waiting, now) if common else self._lanes[name].peek()

    def _choose(self, waiting: list[Lane], now: float) -> tuple[Lane, bool]:
        """The lane that a slot which all may have goes to, and whether it is so by its age."""
        chosen, since = waiting[0], math.inf
        for name in waiting:
            if self._lanes[name].passed_over_since < since:
                chosen, since = name, self._lanes[name].passed_over_since
        return (chosen, True) if now - since >= PASSED_OVER_S else (waiting[0], False)

    def _start_in_common(self, chosen: Lane, waiting: list[Lane], now: float) -> Waiting | None:
        for name in waiting[waiting.index(chosen) + 1 :]:
            if self._lanes[name].passed_over_since == math.inf:
                self._lanes[name].passed_over_since = now
        self._lanes[chosen].passed_over_since = math.inf
        return self._lanes[chosen].peek()

    def _is_allowed(self, turns: TurnLane | Alone, now: float) -> bool:
        """The next of them, by the limits a minute; when not, notes from when on."""
        first = turns.peek()
        assert first is not None
        at = self._rates.when(first.item.tokens, now, interactive=first.item.lane == "interactive")
        if at > now:
            self._limited_until = at
        return at <= now

    def _is_in_share(self, lane: TurnLane, now: float) -> bool:
        """Beside one that waits for the limits, an interactive turn takes only what nobody else may have."""
        first = lane.peek()
        assert first is not None
        at = self._rates.when_in_share(first.item.tokens, now)
        if at > now:
            self._limited_until = min(self._limited_until, at)
        return at <= now

    # -- turns that run alone ----------------------------------------------------------------------------------------

    def _is_alones_turn(self, now: float) -> bool:
        return now >= self._alone_from or not any(lane.waiting for lane in self._lanes.values())

    def _start_alone(self, first: Waiting, now: float) -> Waiting | None:
        """None while others still run: they are not followed by any until this one has run."""
        self._stand_back_since = min(self._stand_back_since, now)
        if self._slots.in_use or not self._is_allowed(self._alone, now):
            return None
        self._runs_alone = first.item.id
        return first

    def _mark_end_of_alone(self, now: float) -> None:
        """The others have the provider for as long now as they stood back."""
        if self._runs_alone and self._runs_alone not in self._slots:
            self._runs_alone = ""
            self._alone_from = now + (now - self._stand_back_since)
            self._stand_back_since = math.inf

    # -- gates -------------------------------------------------------------------------------------------------------

    def _use_gates(self, gates: Mapping[str, Gate]) -> list[Waiting]:
        """Let turns back into their lanes whose gate is open again; of those that may only probe as many of each lane.

        Returns the latter.
        """
        self._gates = gates
        self._allowed = {model: gate.allow for model, gate in gates.items()}
        tried = []
        for model in self._held.models() if len(self._held) else ():
            if most := self._most(model):
                for name, lane in self._lanes.items():
                    if turns := self._held.take(model, name, most):
                        self._restore(lane, turns)
                        tried += turns if most < math.inf else []
        return tried

    def _most(self, model: str) -> float:
        return min(self._allowed.get(EVERY_MODEL, math.inf), self._allowed.get(model, math.inf))

    def _is_shut(self, item: Item) -> bool:
        return bool(self._allowed) and not item.pinned and self._most(item.model) <= 0

    def _pass_gates(self, model: str) -> None:
        for name in {EVERY_MODEL, model}:
            if name in self._allowed:
                self._allowed[name] -= 1

    def _hold_shut(self, lane: TurnLane) -> None:
        """Until the lane's next turn is one whose gate is open."""
        while (waiting := lane.peek()) is not None and self._is_shut(waiting.item):
            self._hold(waiting)

    def _hold(self, waiting: Waiting) -> None:
        self._remove(waiting)
        self._lanes[waiting.item.lane].aside += 1
        self._held.add(waiting)

    # -- places ------------------------------------------------------------------------------------------------------

    def _place(self, waiting: Waiting) -> None:
        """Where a turn waits whose time has come."""
        if waiting.item.alone:
            self._lanes[waiting.item.lane].aside += 1
            self._alone.add(waiting)
        else:
            self._lanes[waiting.item.lane].append(waiting)

    def _restore(self, lane: TurnLane, turns: list[Waiting]) -> None:
        """From behind a gate."""
        alone = [waiting for waiting in turns if waiting.item.alone]
        lane.aside -= len(turns) - len(alone)
        lane.restore([waiting for waiting in turns if not waiting.item.alone])
        if alone:
            self._alone.restore(alone)

    def _remove(self, waiting: Waiting) -> None:
        """From its place."""
        lane = self._lanes[waiting.item.lane]
        assert waiting.place is not None
        if waiting.place is not lane:
            lane.aside -= 1
        waiting.place.remove(waiting)

    def _check_new(self, turn_id: str) -> None:
        if (
            turn_id in self._waiting
            or turn_id in self._slots
            or any(turn_id in lane.places for lane in self._lanes.values())
        ):
            raise ValueError(f"turn {turn_id!r} is in the queue of {self._settings.name} already")

    def _check_bounds(self, size_bytes: int, lane: TurnLane, now: float) -> None:
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
        if (
            lane is self._lanes["interactive"]
            and lane.waiting + lane.aside + len(lane.places) < self._slots.reserved_free
        ):
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

    def _enter(self, item: Item, now: float) -> Waiting:
        self._entered += 1
        waiting = self._waiting[item.id] = Waiting(item, now, self._entered)
        self._bytes += item.size_bytes
        self._deadlines.add(waiting, item.deadline)
        return waiting

    def _leave(self, waiting: Waiting) -> None:
        del self._waiting[waiting.item.id]
        self._bytes -= waiting.item.size_bytes
        waiting.left = True
        self._deadlines.sweep_if_stale(len(self._waiting))

    def _set_overdue_aside(self, now: float) -> None:
        for waiting in self._deadlines.pop_until(now):
            self._remove(waiting)
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

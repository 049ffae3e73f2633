"""Queue, slots, limits a minute, gates and turns that run alone, under whatever hypothesis can think of.

The machine keeps books of its own (a list of every start, its cost and time) and compares after every step. The order
inside the lanes is test_taskqueue_model.py's; here it is what may start at all, and that nothing is lost or leaked.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import LANES, Lane, Limits
from loopforge.runtime.breakers import EVERY_MODEL, Gate
from loopforge.runtime.errors import QueueFull, TooLarge
from loopforge.runtime.rates import MINUTE_S
from loopforge.runtime.taskqueue import ByteBudget, Item, TaskQueue

LANE: st.SearchStrategy[Lane] = st.sampled_from(LANES)
MODEL = st.sampled_from(["m", "n"])
OPEN: dict[str, Gate] = {}
GATES = st.just(OPEN) | st.dictionaries(
    st.sampled_from([EVERY_MODEL, "m", "n"]), st.sampled_from([Gate(0, math.inf), Gate(1, math.inf)]), max_size=2
)


@dataclass(frozen=True)
class Arrival:
    lane: Lane
    session: str
    model: str
    size_bytes: int
    tokens: int
    lives_s: float
    pinned: bool


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        lane=LANE,
        session=st.sampled_from(["", "a", "b"]),
        model=MODEL,
        size_bytes=st.integers(0, 20),
        tokens=st.sampled_from([0, 100, 1000, 20_000]),
        lives_s=st.sampled_from([5.0, 100.0, math.inf, math.inf]),
        pinned=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=6,
)


@dataclass(eq=False)
class Start:
    """An attempt, as the machine remembers it. `tokens`: its estimate until it is corrected."""

    item: Item
    generation: int
    at: float
    tokens: int
    requests: int = 1
    running: bool = True
    output_unknown: bool = True

    @property
    def interactive(self) -> bool:
        return self.item.lane == "interactive"


class LimitsMachine(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(1, 4),
        reserve=st.integers(0, 2),
        requests=st.sampled_from([0, 0, 1, 2, 5, 30]),
        tokens=st.sampled_from([0, 0, 600, 2000, 9000]),
    )
    def begin(self, slots: int, reserve: int, requests: int, tokens: int) -> None:
        self.settings = ProviderSettings(
            name="p",
            kind="openai_compatible",
            max_concurrency=slots,
            reserve=reserve,
            max_queued=20,
            max_queued_bytes=200,
            requests_per_minute=requests,
            tokens_per_minute=tokens,
        )
        self.queue = TaskQueue(self.settings)
        self.queue._deadlines.SPARE = self.queue._later.SPARE = 1
        self.budget = ByteBudget(150)
        self.slots = slots
        self.now = 0.0
        self.generation = 1
        self.made = 0
        self.waiting: dict[str, tuple[Item, float]] = {}  # and from when on it may start
        self.starts: list[Start] = []
        self.arrivals: dict[tuple[str, Lane, str], list[str]] = {}  # turns of a session, model and lane, in order
        self.gates: dict[str, Gate] = {}
        self.left_until: tuple[int, float] | None = None  # requests the provider's headers still allow
        self.accepted: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    # -- the books ---------------------------------------------------------------------------------------------------

    @property
    def reserve(self) -> int:
        return max(0, min(self.settings.reserve, self.slots - 1))

    @property
    def keeps_share(self) -> bool:
        return min(self.settings.reserve, self.settings.max_concurrency - 1) > 0

    def share(self, limit: int, least: int) -> int:
        return min(max(least, limit // 10), limit - 1) if self.keeps_share and limit else 0

    def running(self) -> list[Start]:
        return [start for start in self.starts if start.running]

    def recent(self) -> list[Start]:
        return [start for start in self.starts if start.at + MINUTE_S > self.now]

    def check_start(self, item: Item, before: list[Start]) -> None:
        """Whether it may start beside `before`, which run, and after all in self.starts."""
        assert self.waiting[item.id][1] <= self.now
        assert item.deadline > self.now
        assert not any(start.item.alone for start in before)
        if item.alone:
            assert not before
        assert len(before) < self.slots
        if item.lane != "interactive":
            others = sum(not start.interactive for start in before)
            beyond = max(0, len(before) - others - self.reserve)
            assert others + beyond < self.slots - self.reserve
        for name in {EVERY_MODEL, item.model}:
            if name in self.gates and not item.pinned:
                gate = self.gates[name]
                assert gate.allow > 0
                self.gates[name] = Gate(gate.allow - 1, gate.until)
        order = self.arrivals.get((item.session, item.lane, item.model), [])
        in_time = [turn_id for turn_id in order if self.waiting[turn_id][0].deadline > self.now]
        if item.id in in_time and not item.pinned:
            assert in_time[0] == item.id

    def check_minute(self, start: Start) -> None:
        """The minute before it, and what it takes, stay within the limits; others leave the interactive share."""
        before = [other for other in self.recent() if other is not start]
        for limit, least, costs, mine in (
            (self.settings.requests_per_minute, 1, [other.requests for other in before], 1),
            (self.settings.tokens_per_minute, 0, [other.tokens for other in before], start.tokens),
        ):
            if not limit:
                continue
            share = 0 if start.interactive else self.share(limit, least)
            used = sum(costs)
            theirs = sum(cost for cost, other in zip(costs, before, strict=True) if other.interactive)
            assert used + max(0, share - theirs) + min(mine, limit - share) <= limit
        if self.left_until is not None and self.now < self.left_until[1]:
            left, until = self.left_until
            assert left >= 1
            self.left_until = left - 1, until

    # -- what happens ------------------------------------------------------------------------------------------------

    @rule(arrivals=ARRIVALS, gates=GATES)
    def offer(self, arrivals: list[Arrival], gates: dict[str, Gate]) -> None:
        for arrival in arrivals:
            self.offer_one(arrival)
        self.assign(gates)

    def offer_one(self, arrival: Arrival) -> None:
        self.made += 1
        item = Item(
            id=f"t{self.made}",
            session=arrival.session,
            lane=arrival.lane,
            size_bytes=arrival.size_bytes,
            deadline=self.now + arrival.lives_s,
            model=arrival.model,
            pinned=arrival.pinned,
            tokens=arrival.tokens,
        )
        try:
            self.budget.take(item.id, item.size_bytes)
        except QueueFull:
            return
        try:
            self.queue.offer(item, self.now)
        except (QueueFull, TooLarge):
            self.budget.give_back(item.id)
            return
        self.waiting[item.id] = item, self.now
        self.arrivals.setdefault((item.session, item.lane, item.model), []).append(item.id)
        self.accepted[item.id] += 1

    @rule(after_s=st.sampled_from([0.1, 1.0, 7.0, 30.0, 61.0]), gates=GATES)
    def pass_time(self, after_s: float, gates: dict[str, Gate]) -> None:
        self.now += after_s
        self.assign(gates)

    @rule(gates=GATES)
    def pass_time_to_the_next_look(self, gates: dict[str, Gate]) -> None:
        at = self.queue.next_look(self.now)
        if at < math.inf:
            self.now = max(self.now, at)
        self.assign(gates)

    def assign(self, gates: dict[str, Gate]) -> None:
        self.gates = dict(gates)
        assignments = self.queue.assign(self.now, generation=self.generation, gates=gates)
        for assignment in assignments:
            item = assignment.item
            assert assignment.generation == self.generation
            self.check_start(item, self.running())
            use = self.queue._rates._by_turn.get(item.id)
            assert (use is not None) == self.queue._rates.active
            start = Start(item, self.generation, self.now, 0 if use is None else use.tokens)
            assert use is None or use.tokens >= item.tokens
            self.starts.append(start)
            self.check_minute(start)
            self.no_longer_waits(item.id)
        again = self.queue.assign(self.now, generation=self.generation, gates=self.gates)
        assert again == []
        self.nobody_was_forgotten()

    def nobody_was_forgotten(self) -> None:
        """Without limits or turns that run alone, a slot stays free only when nobody may have it."""
        if self.queue._rates.active or any(item.alone for item, _ in self.waiting.values()):
            return
        running = self.running()
        if any(start.item.alone for start in running):
            return
        for item, not_before in self.waiting.values():
            shut = any(self.gates.get(name, Gate(1, 0)).allow < 1 for name in (EVERY_MODEL, item.model))
            if not_before > self.now or (shut and not item.pinned) or item.deadline <= self.now:
                continue
            assert not self.queue.idle_for(item.lane, item.tokens, self.now)
            others = sum(not start.interactive for start in running)
            beyond = max(0, len(running) - others - self.reserve)
            assert others + beyond >= self.slots - self.reserve or len(running) >= self.slots

    def no_longer_waits(self, turn_id: str) -> None:
        item, _ = self.waiting.pop(turn_id)
        order = self.arrivals.get((item.session, item.lane, item.model), [])
        if turn_id in order:
            order.remove(turn_id)
        self.budget.give_back(turn_id)
        self.left[turn_id] += 1

    @precondition(lambda self: self.running())
    @rule(
        data=st.data(),
        how=st.sampled_from(["answer", "failed", "failed", "no usage", "not sent"]),
        cost=st.sampled_from([(50, 10), (5000, 900)]),
        again=st.sampled_from([True, True, False]),
        alone=st.booleans(),
        wait_s=st.sampled_from([0.0, 3.0, 50.0]),
        left=st.sampled_from([None, None, None, 0, 2]),
        gates=GATES,
    )
    def end_an_attempt(
        self,
        *,
        data: st.DataObject,
        how: str,
        cost: tuple[int, int],
        again: bool,
        alone: bool,
        wait_s: float,
        left: int | None,
        gates: dict[str, Gate],
    ) -> None:
        start = data.draw(st.sampled_from(self.running()))
        turn_id, start.running = start.item.id, False
        assert not self.queue.release(start.generation + 1, turn_id)
        assert self.queue.release(start.generation, turn_id)
        named = self.queue._rates._by_turn.get(turn_id) is not None
        match how:
            case "answer":
                self.queue.correct(turn_id, *cost)
                start.tokens = sum(cost) if named else start.tokens
                if left is not None:
                    self.queue.learn(Limits(requests_remaining=left, requests_reset_s=20.0), self.now, self.now)
                    self.left_until = left, self.now + 20.0
            case "no usage":
                self.queue.correct(turn_id, None, None)
            case "failed":
                self.queue.refund(turn_id)
                start.tokens = 0 if named else start.tokens
            case _:
                self.queue.refund(turn_id, request=True)
                if named:
                    start.tokens = start.requests = 0
                    if self.left_until is not None:
                        self.left_until = self.left_until[0] + 1, self.left_until[1]
        if how in {"failed", "not sent"} and again:
            item = Item(
                id=turn_id,
                session=start.item.session,
                lane=start.item.lane,
                size_bytes=start.item.size_bytes,
                deadline=start.item.deadline,
                model=start.item.model,
                pinned=start.item.pinned,
                tokens=start.item.tokens,
                alone=alone,
            )
            self.budget.put_back(turn_id, item.size_bytes)
            self.queue.put_back(item, self.now, not_before=self.now + wait_s)
            self.waiting[turn_id] = item, self.now + wait_s
            self.accepted[turn_id] += 1
        self.assign(gates)

    @precondition(lambda self: self.running())
    @rule()
    def lose_the_worker(self) -> None:
        lost = self.queue.release_generation(self.generation)
        mine = [start for start in self.running() if start.generation == self.generation]
        assert sorted(item.id for item in lost) == sorted(start.item.id for start in mine)
        for start in mine:
            start.running = False
        self.generation += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        turn_id = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.cancel(turn_id) is self.waiting[turn_id][0]
        self.no_longer_waits(turn_id)

    @rule()
    def expire(self) -> None:
        expired = self.queue.expire(self.now)
        due = [turn_id for turn_id, (item, _) in self.waiting.items() if item.deadline <= self.now]
        assert sorted(item.id for item in expired) == sorted(due)
        for turn_id in due:
            self.no_longer_waits(turn_id)

    @rule(model=MODEL)
    def drain_a_model(self, model: str) -> None:
        drained = self.queue.drain(model)
        assert {item.id for item in drained} == {
            turn_id for turn_id, (item, _) in self.waiting.items() if item.model == model
        }
        for item in drained:
            self.no_longer_waits(item.id)

    @rule(slots=st.integers(1, 5))
    def set_concurrency(self, slots: int) -> None:
        self.slots = slots
        self.queue.set_concurrency(slots)

    # -- after every step --------------------------------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        status = self.queue.snapshot(self.now)
        overdue = len(self.queue._overdue)
        assert sum(status.waiting.values()) + overdue == len(self.queue) == len(self.waiting)
        assert status.queued_bytes == sum(item.size_bytes for item, _ in self.waiting.values())
        assert self.budget.held_bytes == status.queued_bytes
        running = sorted((generation, turn_id) for generation, ids in status.running.items() for turn_id in ids)
        assert running == sorted((start.generation, start.item.id) for start in self.running())
        assert self.queue.free_slots == max(0, self.slots - len(running))
        assert status.later + status.held + status.alone <= len(self.waiting)

    @invariant()
    def tokens_and_requests_are_neither_lost_nor_made(self) -> None:
        rates = self.queue.snapshot(self.now).rates
        if self.settings.requests_per_minute or self.settings.tokens_per_minute:
            assert rates.requests == sum(start.requests for start in self.recent())
            assert rates.tokens == sum(start.tokens for start in self.recent())
        assert rates.requests >= 0
        assert rates.tokens >= 0
        assert len(self.queue._rates._by_turn) <= len(self.queue._rates._uses) <= len(self.recent())

    @invariant()
    def what_left_leaves_nothing_behind(self) -> None:
        for times, count in ((self.queue._deadlines, len(self.queue)), (self.queue._later, self.queue._later.count)):
            assert len(times._heap) <= 2 * count + times.SPARE

    def teardown(self) -> None:
        """With gates open everybody starts within a bounded time, each as often as it was accepted; nothing is left."""
        if not hasattr(self, "queue"):
            return
        rounds = 0
        while len(self.queue):
            rounds += 1
            assert rounds < 500
            for item in self.queue.expire(self.now):
                self.no_longer_waits(item.id)
            for assignment in self.queue.assign(self.now, generation=self.generation):
                self.no_longer_waits(assignment.item.id)
            for generation in self.queue.snapshot(self.now).running:
                self.queue.release_generation(generation)
            self.now = min(self.queue.next_look(self.now), self.now + 61)
        for generation in self.queue.snapshot(self.now).running:
            self.queue.release_generation(generation)
        assert self.left == self.accepted
        assert self.budget.held_bytes == 0
        status = self.queue.snapshot(self.now + MINUTE_S)
        assert (status.queued_bytes, status.running, status.later, status.held, status.alone) == (0, {}, 0, 0, 0)
        assert (status.rates.requests, status.rates.tokens) == (0, 0)
        assert self.queue.next_look(self.now) == math.inf


class ManyStepsMachine(LimitsMachine):
    """The same; a machine of its own has settings of its own."""


TestLimits = LimitsMachine.TestCase
TestLimits.settings = hypothesis_settings(max_examples=150, stateful_step_count=50, deadline=None)
TestOneHundredThousandSteps = pytest.mark.slow(ManyStepsMachine.TestCase)
TestOneHundredThousandSteps.settings = hypothesis_settings(max_examples=1300, stateful_step_count=100, deadline=None)

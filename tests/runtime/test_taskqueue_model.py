"""The task queue against a model that keeps one flat list, and finds everything by looking at all of it each time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import LANES, Lane
from loopforge.runtime.errors import QueueFull, TooLarge
from loopforge.runtime.taskqueue import PASSED_OVER_S, Item, TaskQueue

LANE: st.SearchStrategy[Lane] = st.sampled_from(LANES)
SESSION = st.sampled_from(["", "a", "b", "c"])
SIZE_BYTES = st.integers(0, 25)
LIVES_S = st.sampled_from([0.0, 5.0, 50.0, 500.0, math.inf])


@dataclass
class Waiting:
    item: Item
    since: float
    order: int
    returned: bool = False
    aside: bool = False  # its deadline had passed when somebody looked: it waits for expire, in no lane


@dataclass
class Model:
    """What the docstring of taskqueue.py says, as slowly as it reads."""

    settings: ProviderSettings
    waiting: list[Waiting] = field(default_factory=list)
    places: dict[str, tuple[int, Lane]] = field(default_factory=dict)
    running: list[tuple[int, Item]] = field(default_factory=list)
    session_order: dict[tuple[Lane, str], int] = field(default_factory=dict)
    passed_over_since: dict[Lane, float] = field(default_factory=dict)
    events: int = 0

    @property
    def reserve(self) -> int:
        return min(self.settings.reserve, self.settings.max_concurrency - 1)

    def count(self, *lanes: Lane) -> int:
        return sum(item.lane in lanes for _, item in self.running)

    def of_lane(self, lane: Lane) -> list[Waiting]:
        return [entry for entry in self.waiting if entry.item.lane == lane and not entry.aside]

    def bytes(self) -> int:
        return sum(entry.item.size_bytes for entry in self.waiting) + sum(size for size, _ in self.places.values())

    def refuses(self, size_bytes: int, lane: Lane) -> type[Exception] | None:
        if size_bytes > self.settings.max_queued_bytes:
            return TooLarge
        depth = len(self.waiting) + len(self.places)
        if depth < self.settings.max_queued and self.bytes() + size_bytes <= self.settings.max_queued_bytes:
            return None
        places = sum(kept_lane == "interactive" for _, kept_lane in self.places.values())
        if lane == "interactive" and self.count(lane) + len(self.of_lane(lane)) + places < self.reserve:
            return None
        return QueueFull

    def enter(self, item: Item, now: float, *, returned: bool) -> None:
        self.events += 1
        self.waiting.append(Waiting(item, now, self.events, returned))
        if not returned:
            self.session_order.setdefault((item.lane, item.session), self.events)

    def leave(self, entry: Waiting) -> None:
        self.waiting.remove(entry)
        self.forget_empty()

    def forget_empty(self) -> None:
        """A session without a turn in a lane has no place there; a lane without turns is not passed over."""
        alive = {(entry.item.lane, entry.item.session) for entry in self.waiting if not (entry.aside or entry.returned)}
        self.session_order = {key: order for key, order in self.session_order.items() if key in alive}
        for lane in LANES:
            if not self.of_lane(lane):
                self.passed_over_since.pop(lane, None)

    def set_overdue_aside(self, now: float) -> None:
        for entry in self.waiting:
            entry.aside = entry.aside or entry.item.deadline <= now
        self.forget_empty()

    def next_lane(self, now: float) -> Lane | None:
        free = self.settings.max_concurrency - len(self.running)
        others = self.count("normal", "background")
        waiting = [lane for lane in LANES if self.of_lane(lane)]
        if "interactive" in waiting and free and self.count("interactive") < self.reserve:
            return "interactive"
        beyond_reserve = max(0, self.count("interactive") - self.reserve)
        if not waiting or others + beyond_reserve >= self.settings.max_concurrency - self.reserve:
            return None
        aged = [lane for lane in waiting if now - self.passed_over_since.get(lane, math.inf) >= PASSED_OVER_S]
        chosen = min(aged, key=lambda lane: self.passed_over_since[lane]) if aged else waiting[0]
        for lane in waiting:
            if LANES.index(lane) > LANES.index(chosen):
                self.passed_over_since.setdefault(lane, now)
        self.passed_over_since.pop(chosen, None)
        return chosen

    def assign(self, now: float, generation: int) -> list[Item]:
        self.set_overdue_aside(now)
        started = []
        while (lane := self.next_lane(now)) is not None:
            entry = min(
                self.of_lane(lane),
                key=lambda entry: (
                    not entry.returned,
                    0 if entry.returned else self.session_order[entry.item.lane, entry.item.session],
                    entry.order,
                ),
            )
            if not entry.returned:
                self.events += 1
                self.session_order[lane, entry.item.session] = self.events
            self.leave(entry)
            self.running.append((generation, entry.item))
            started.append(entry.item)
        return started


class QueueAgainstModel(RuleBasedStateMachine):
    @initialize(
        max_concurrency=st.integers(1, 4),
        reserve=st.integers(0, 3),
        max_queued=st.integers(1, 12),
        max_queued_bytes=st.sampled_from([20, 60, 1000]),
    )
    def begin(self, max_concurrency: int, reserve: int, max_queued: int, max_queued_bytes: int) -> None:
        provider = ProviderSettings(
            name="p",
            kind="openai_compatible",
            max_concurrency=max_concurrency,
            reserve=reserve,
            max_queued=max_queued,
            max_queued_bytes=max_queued_bytes,
        )
        self.queue = TaskQueue(provider)
        self.queue._deadlines.SPARE = 1  # so that a dozen turns are enough for a sweep
        self.model = Model(provider)
        self.now = 0.0
        self.generation = 1
        self.made = 0
        self.accepted: Counter[str] = Counter()  # offered or put back
        self.left: Counter[str] = Counter()  # assigned, expired, cancelled or drained

    def new_item(self, lane: Lane, session: str, size_bytes: int, lives_s: float) -> Item:
        self.made += 1
        deadline = self.now + lives_s
        return Item(id=f"t{self.made}", session=session, lane=lane, size_bytes=size_bytes, deadline=deadline)

    @rule(lane=LANE, session=SESSION, size_bytes=SIZE_BYTES, lives_s=LIVES_S)
    def offer(self, lane: Lane, session: str, size_bytes: int, lives_s: float) -> None:
        item = self.new_item(lane, session, size_bytes, lives_s)
        if refused := self.model.refuses(size_bytes, lane):
            with pytest.raises(refused):
                self.queue.offer(item, self.now)
        else:
            self.queue.offer(item, self.now)
            self.model.enter(item, self.now, returned=False)
            self.accepted[item.id] += 1

    @rule(lane=LANE, size_bytes=SIZE_BYTES)
    def reserve_place(self, lane: Lane, size_bytes: int) -> None:
        self.made += 1
        if refused := self.model.refuses(size_bytes, lane):
            with pytest.raises(refused):
                self.queue.reserve_place(f"t{self.made}", size_bytes, lane, self.now)
        else:
            self.queue.reserve_place(f"t{self.made}", size_bytes, lane, self.now)
            self.model.places[f"t{self.made}"] = size_bytes, lane

    @precondition(lambda self: self.model.places)
    @rule(data=st.data(), session=SESSION, lives_s=LIVES_S)
    def offer_in_its_place(self, data: st.DataObject, session: str, lives_s: float) -> None:
        turn_id = data.draw(st.sampled_from(sorted(self.model.places)))
        size_bytes, lane = self.model.places.pop(turn_id)
        item = Item(id=turn_id, session=session, lane=lane, size_bytes=size_bytes, deadline=self.now + lives_s)
        self.queue.offer(item, self.now)
        self.model.enter(item, self.now, returned=False)
        self.accepted[item.id] += 1

    @precondition(lambda self: self.model.places)
    @rule(data=st.data())
    def forget_a_place(self, data: st.DataObject) -> None:
        turn_id = data.draw(st.sampled_from(sorted(self.model.places)))
        del self.model.places[turn_id]
        self.queue.forget(turn_id)

    @rule(after_s=st.sampled_from([0.0, 0.1, 5.0, PASSED_OVER_S, 100.0]))
    def pass_time(self, after_s: float) -> None:
        self.now += after_s

    @rule()
    def assign(self) -> None:
        assignments = self.queue.assign(self.now, generation=self.generation)
        assert [assignment.item for assignment in assignments] == self.model.assign(self.now, self.generation)
        for assignment in assignments:
            assert assignment.generation == self.generation
            assert assignment.item.deadline > self.now
            self.left[assignment.item.id] += 1

    @rule()
    def expire(self) -> None:
        expired = self.queue.expire(self.now)
        self.model.set_overdue_aside(self.now)
        gone = [entry for entry in self.model.waiting if entry.aside]
        for entry in gone:
            self.model.leave(entry)
        assert sorted(item.id for item in expired) == sorted(entry.item.id for entry in gone)
        self.left.update(item.id for item in expired)

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.model.waiting))
        self.model.leave(entry)
        assert self.queue.cancel(entry.item.id) is entry.item
        self.left[entry.item.id] += 1

    @rule(number=st.integers(0, 100))
    def cancel_what_does_not_wait(self, number: int) -> None:
        if all(entry.item.id != f"t{number}" for entry in self.model.waiting):
            assert self.queue.cancel(f"t{number}") is None

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.model.running))
        generation, item = held
        assert not self.queue.release(generation + 1, item.id)
        assert self.queue.release(generation, item.id)
        assert not self.queue.release(generation, item.id)
        self.model.running.remove(held)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data(), resend=st.booleans())
    def lose_a_worker(self, data: st.DataObject, resend: bool) -> None:
        """An old worker that drains, or the present one; what it had is put back or given up."""
        generation = data.draw(st.sampled_from(sorted({generation for generation, _ in self.model.running})))
        lost = self.queue.release_generation(generation)
        assert lost == [item for holder, item in self.model.running if holder == generation]
        self.model.running = [held for held in self.model.running if held[0] != generation]
        self.generation = max(self.generation, generation + 1)
        for item in lost if resend else ():
            self.queue.put_back(item, self.now)
            self.model.enter(item, self.now, returned=True)
            self.accepted[item.id] += 1

    @rule()
    def start_another_worker(self) -> None:
        self.generation += 1

    @precondition(lambda self: len(self.model.waiting) > 6)
    @rule()
    def drain(self) -> None:
        items = self.queue.drain()
        assert items == [entry.item for entry in self.model.waiting]
        for entry in list(self.model.waiting):
            self.model.leave(entry)
        self.left.update(item.id for item in items)

    @invariant()
    def the_books_agree(self) -> None:
        model, status = self.model, self.queue.snapshot(self.now)
        assert status.waiting == {lane: len(model.of_lane(lane)) for lane in LANES}
        assert len(self.queue) == len(model.waiting)
        assert status.places == len(model.places)
        assert status.queued_bytes == model.bytes()
        running: dict[int, tuple[str, ...]] = {}
        for generation, item in model.running:
            running[generation] = (*running.get(generation, ()), item.id)
        assert status.running == running
        assert status.oldest_wait_s == (self.now - model.waiting[0].since if model.waiting else 0.0)

    @invariant()
    def slots_are_not_overrun(self) -> None:
        model = self.model
        assert len(model.running) <= model.settings.max_concurrency
        assert model.count("normal", "background") <= model.settings.max_concurrency - model.reserve
        assert self.queue.free_slots == model.settings.max_concurrency - len(model.running)

    @invariant()
    def the_next_look_is_the_first_deadline(self) -> None:
        deadlines = [entry.item.deadline for entry in self.model.waiting]
        assert self.queue.next_look(self.now) == max(self.now, min(deadlines, default=math.inf))

    def teardown(self) -> None:
        """Serve what is left: each turn leaves as often as it was accepted, and nothing stays on the books."""
        if not hasattr(self, "queue"):
            return
        for turn_id in list(self.model.places):
            self.queue.forget(turn_id)
        rounds = 0
        while len(self.queue):
            rounds += 1
            assert rounds < 10_000
            self.left.update(item.id for item in self.queue.expire(self.now))
            assignments = self.queue.assign(self.now, generation=self.generation)
            self.left.update(assignment.item.id for assignment in assignments)
            for generation in self.queue.snapshot(self.now).running:
                self.queue.release_generation(generation)
        for generation in self.queue.snapshot(self.now).running:
            self.queue.release_generation(generation)
        assert self.left == self.accepted
        status = self.queue.snapshot(self.now)
        assert (status.places, status.queued_bytes, status.running) == (0, 0, {})
        assert set(status.waiting.values()) == {0}
        assert self.queue.free_slots == self.model.settings.max_concurrency
        assert self.queue.next_look(self.now) == math.inf


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = hypothesis_settings(max_examples=300, stateful_step_count=60, deadline=None)

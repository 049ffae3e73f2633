"""Turns that wait elsewhere than in their lane: for a time, behind a gate, for the limits a minute, to run alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Lane, Limits
from loopforge.runtime.breakers import EVERY_MODEL, Gate
from loopforge.runtime.errors import QueueFull
from loopforge.runtime.lanes import Times, Waiting
from loopforge.runtime.taskqueue import PASSED_OVER_S, Item, TaskQueue
from tests.runtime.queueing import settings, start, turn

SHUT = Gate(allow=0, until=50.0)
PROBE = Gate(allow=1, until=math.inf)


def limited(requests: int = 0, tokens: int = 0, slots: int = 10, reserve: int = 0) -> TaskQueue:
    return TaskQueue(replace(settings(slots, reserve), requests_per_minute=requests, tokens_per_minute=tokens))


def of(turn_id: str, model: str = "m", lane: Lane = "normal", session: str = "", *, pinned: bool = False) -> Item:
    return Item(id=turn_id, lane=lane, session=session, model=model, pinned=pinned)


def assign(queue: TaskQueue, now: float = 0.0, **gates: Gate) -> list[str]:
    named = {EVERY_MODEL if name == "all" else name: gate for name, gate in gates.items()}
    return [assignment.item.id for assignment in queue.assign(now, generation=1, gates=named)]


# -- until a time ----------------------------------------------------------------------------------------------------


def test_a_turn_put_back_for_later_starts_at_its_time_before_the_others() -> None:
    queue = TaskQueue(settings())
    queue.put_back(turn("later"), 0.0, not_before=10.0)
    queue.offer(turn("a"), 0.0)
    assert start(queue, 0.0) == ["a"]
    queue.offer(turn("b"), 0.0)
    queue.release(1, "a")
    assert queue.next_look(0.0) == 10.0
    assert start(queue, 10.0) == ["later"]


def test_it_is_counted_shown_cancelled_and_expires_like_the_others() -> None:
    queue = TaskQueue(settings(max_queued=2))
    queue.put_back(turn("a", size_bytes=5), 0.0, not_before=10.0)
    queue.put_back(turn("b", size_bytes=5, deadline=8.0), 0.0, not_before=10.0)
    with pytest.raises(QueueFull):
        queue.offer(turn("c"), 0.0)
    status = queue.snapshot(0.0)
    assert (status.waiting["normal"], status.later, status.queued_bytes) == (2, 2, 10)
    assert [item.id for item in queue.expire(8.0)] == ["b"]
    assert queue.cancel("a") is not None
    assert queue.next_look(9.0) == math.inf


def test_a_time_that_has_passed_does_not_make_a_caller_look_in_circles_who_cannot_assign() -> None:
    queue = TaskQueue(settings())
    queue.put_back(turn("t"), 0.0, not_before=10.0)
    assert queue.next_look(11.0) == math.inf
    assert start(queue, 12.0) == ["t"]


def test_times_of_turns_that_left_are_swept_out() -> None:
    queue = TaskQueue(settings())
    for number in range(1000):
        queue.put_back(turn(str(number)), 0.0, not_before=10.0 + number)
    for number in range(990):
        queue.cancel(str(number))
    assert len(queue._later._heap) <= 2 * 10 + queue._later.SPARE
    assert queue.next_look(0.0) == 1000.0


# -- gates -----------------------------------------------------------------------------------------------------------


def test_turns_of_a_model_whose_gate_is_shut_are_in_nobodys_way() -> None:
    queue = TaskQueue(settings(10))
    for item in (of("m0"), of("n0", "n"), of("m1"), of("pinned", pinned=True)):
        queue.offer(item, 0.0)
    assert assign(queue, m=SHUT) == ["n0", "pinned"]
    assert queue.snapshot(0.0).held == 2
    assert queue.snapshot(0.0).waiting["normal"] == 2
    assert queue.next_look(0.0) == 50.0
    assert assign(queue, 50.0) == ["m0", "m1"]


def test_the_gate_of_a_provider_is_that_of_all_its_models() -> None:
    queue = TaskQueue(settings(10))
    queue.offer(of("m0"), 0.0)
    queue.offer(of("n0", "n"), 0.0)
    assert assign(queue, all=SHUT) == []
    assert assign(queue, all=PROBE) == ["m0"]
    assert assign(queue, all=SHUT) == []
    assert assign(queue) == ["n0"]


def test_one_turn_of_the_first_lane_probes_and_the_others_stay_as_they_were() -> None:
    queue = TaskQueue(settings(10))
    for number in range(3):
        queue.offer(of(f"n{number}", session="s"), 0.0)
    queue.offer(of("b", lane="background"), 0.0)
    assert assign(queue, m=SHUT) == []
    queue.offer(of("i", lane="interactive"), 0.0)
    assert assign(queue, m=PROBE) == ["i"]
    assert assign(queue, m=Gate(0, math.inf)) == []
    assert queue.next_look(0.0) == math.inf
    assert assign(queue) == ["n0", "n1", "n2", "b"]


def test_behind_a_gate_sessions_keep_their_turns_and_turns_their_order() -> None:
    queue = TaskQueue(settings())
    for item in (of("a0", session="a"), of("a1", session="a"), of("b0", session="b")):
        queue.offer(item, 0.0)
    assert assign(queue, m=SHUT) == []
    queue.offer(of("a2", session="a"), 1.0)
    order = []
    while started := assign(queue, 2.0):
        order += started
        queue.release(1, started[0])
    assert sorted(order) == ["a0", "a1", "a2", "b0"]
    assert [turn_id for turn_id in order if turn_id.startswith("a")] == ["a0", "a1", "a2"]
    assert order.index("b0") < 3


def test_a_held_turn_can_be_cancelled_expire_and_be_drained_by_its_model() -> None:
    queue = TaskQueue(settings(10))
    for item in (of("m0"), of("m1"), replace(of("m2"), deadline=5.0), of("n0", "n")):
        queue.offer(item, 0.0)
    assert assign(queue, all=SHUT) == []
    assert queue.cancel("m0") is not None
    assert [item.id for item in queue.expire(5.0)] == ["m2"]
    assert [item.id for item in queue.waiting()] == ["m1", "n0"]
    assert [item.id for item in queue.waiting("m")] == ["m1"]
    assert [item.id for item in queue.drain("m")] == ["m1"]
    assert assign(queue, 6.0) == ["n0"]


# -- limits a minute -------------------------------------------------------------------------------------------------


def test_turns_start_as_the_limits_allow_and_the_next_look_says_when() -> None:
    queue = limited(requests=2)
    for number in range(3):
        queue.offer(turn(f"t{number}"), 0.0)
    assert start(queue, 0.0) == ["t0", "t1"]
    assert queue.next_look(0.0) == 60.0
    assert queue.snapshot(0.0).limited_until == 60.0
    assert queue.earliest("normal", 0, 1.0) == 60.0
    assert start(queue, 59.9) == []
    assert start(queue, 60.0) == ["t2"]


def test_nobody_passes_a_turn_that_waits_for_its_tokens_however_small() -> None:
    queue = limited(tokens=3000)
    queue.offer(replace(turn("first"), tokens=1000), 0.0)
    queue.offer(replace(turn("large"), tokens=2000), 0.0)
    queue.offer(replace(turn("small"), tokens=0), 0.0)
    assert start(queue, 0.0) == ["first"]
    assert start(queue, 59.0) == []
    assert start(queue, 60.0) == ["large", "small"]


def test_the_interactive_lane_keeps_its_share_of_the_minute() -> None:
    queue = limited(requests=10, slots=20, reserve=1)
    for number in range(20):
        queue.offer(turn(f"n{number}"), 0.0)
    assert len(start(queue, 0.0)) == 9
    queue.offer(turn("i0", "interactive"), 1.0)
    assert start(queue, 1.0) == ["i0"]
    queue.offer(turn("i1", "interactive"), 2.0)
    assert start(queue, 2.0) == []
    assert queue.next_look(2.0) == 60.0


@pytest.mark.parametrize("reserve", [0, 1])
def test_interactive_turns_that_could_use_up_every_minute_do_not_starve_the_others(reserve: int) -> None:
    queue = limited(requests=3, slots=4, reserve=reserve)
    queue.offer(turn("n"), 0.0)
    now, number, longest = 0.0, 0, 0.0
    waits_since = 0.0
    while now < 2000:
        while queue.snapshot(now).waiting["interactive"] < 3:
            number += 1
            queue.offer(turn(f"i{number}", "interactive"), now)
        for started in start(queue, now):
            queue.release(1, started)
            if started.startswith("n"):
                longest, waits_since = max(longest, now - waits_since), now
                queue.offer(turn(f"n{now}"), now)
        now += 1.0
    assert max(longest, now - waits_since) <= 120  # the minute it came in, and the one in which it has aged


def test_a_lane_that_has_aged_gets_a_request_that_comes_free_before_the_reserved_slot_does() -> None:
    queue = limited(requests=2, slots=2, reserve=1)
    for number, at in enumerate((0.0, 30.0)):
        queue.offer(turn(f"i{number}", "interactive"), at)
        assert start(queue, at) == [f"i{number}"]
        queue.release(1, f"i{number}")
    queue.offer(turn("n"), 31.0)
    queue.offer(turn("i2", "interactive"), 31.0)
    assert start(queue, 60.0) == ["i2"]
    queue.release(1, "i2")
    queue.offer(turn("i3", "interactive"), 60.0)
    assert start(queue, 60.0 + PASSED_OVER_S) == ["n"]


def test_what_was_not_used_and_what_never_left_lets_others_start() -> None:
    queue = limited(requests=1, tokens=5000)
    queue.offer(replace(turn("a"), tokens=100), 0.0)
    queue.offer(turn("b"), 0.0)
    assert start(queue, 0.0) == ["a"]
    queue.release(1, "a")
    queue.refund("a", request=True)
    assert start(queue, 0.0) == ["b"]


def test_a_providers_headers_hold_its_turns_back() -> None:
    queue = limited()
    queue.learn(Limits(requests_remaining=0, requests_reset_s=12.0), 0.0, 0.0)
    queue.offer(turn("t"), 0.0)
    assert start(queue, 0.0) == []
    assert queue.next_look(0.0) == 12.0
    assert start(queue, 12.0) == ["t"]


@pytest.mark.parametrize(
    ("lane", "tokens", "idle"), [("normal", 0, False), ("interactive", 0, True), ("interactive", 10**6, False)]
)
def test_idle_means_that_slot_limits_and_order_let_such_a_turn_start(lane: Lane, tokens: int, idle: bool) -> None:
    queue = limited(tokens=5000, slots=2, reserve=1)
    queue.offer(turn("n"), 0.0)
    assert queue.idle_for("normal", 0, 0.0) is False  # somebody waits before it
    start(queue, 0.0)
    assert queue.idle_for(lane, tokens, 0.0) is idle


# -- turns that run alone --------------------------------------------------------------------------------------------


def alone(turn_id: str) -> Item:
    return Item(id=turn_id, alone=True)


def test_a_turn_that_runs_alone_waits_for_the_others_to_end_and_none_starts_beside_it() -> None:
    queue = TaskQueue(settings(4))
    queue.offer(turn("n0"), 0.0)
    assert start(queue, 0.0) == ["n0"]
    queue.put_back(alone("x"), 0.0)
    queue.offer(turn("n1"), 0.0)
    assert start(queue, 0.0) == []
    assert not queue.idle_for("interactive", 0, 0.0)
    queue.release(1, "n0")
    assert start(queue, 5.0) == ["x"]
    assert start(queue, 6.0) == []
    queue.release(1, "x")
    assert start(queue, 7.0) == ["n1"]


def test_suspects_run_one_after_the_other_and_the_rest_has_the_provider_for_as_long_in_between() -> None:
    queue = TaskQueue(settings(2))
    queue.put_back(alone("x"), 0.0)
    queue.put_back(alone("y"), 0.0)
    assert start(queue, 0.0) == ["x"]
    queue.offer(turn("n0"), 1.0)
    queue.offer(turn("n1"), 1.0)
    queue.offer(turn("n2"), 1.0)
    queue.release(1, "x")
    assert start(queue, 10.0) == ["n0", "n1"]
    queue.release(1, "n0")
    assert queue.next_look(10.0) == 20.0
    assert start(queue, 19.9) == ["n2"]
    queue.offer(turn("n3"), 19.9)
    queue.release(1, "n1")
    assert start(queue, 20.0) == []
    queue.release(1, "n2")
    assert start(queue, 21.0) == ["y"]
    queue.release(1, "y")
    assert start(queue, 22.0) == ["n3"]


def test_a_suspect_does_not_wait_for_others_that_are_not_there() -> None:
    queue = TaskQueue(settings(2))
    queue.put_back(alone("x"), 0.0)
    queue.put_back(alone("y"), 0.0)
    assert start(queue, 0.0) == ["x"]
    queue.release_generation(1)
    assert start(queue, 50.0) == ["y"]


def test_a_suspect_behind_a_shut_gate_keeps_nobody_waiting() -> None:
    queue = TaskQueue(settings(2))
    queue.put_back(Item(id="x", model="m", alone=True), 0.0)
    queue.offer(of("n0", "n"), 0.0)
    assert assign(queue, m=SHUT) == ["n0"]
    assert queue.snapshot(0.0).held == 1
    queue.release(1, "n0")
    assert assign(queue, 1.0) == ["x"]


# -- concurrency -----------------------------------------------------------------------------------------------------


def test_fewer_slots_let_running_turns_end_and_start_nobody_until_there_is_room() -> None:
    queue = TaskQueue(settings(4, reserve=1))
    for number in range(3):
        queue.offer(turn(f"n{number}"), 0.0)
    assert len(start(queue)) == 3
    queue.set_concurrency(2)
    queue.offer(turn("i", "interactive"), 0.0)
    assert queue.free_slots == 0
    assert start(queue) == []
    queue.release(1, "n0")
    assert start(queue) == []
    queue.release(1, "n1")
    assert start(queue) == ["i"]


def test_the_reserve_never_takes_the_last_slot_and_comes_back_with_more_of_them() -> None:
    queue = TaskQueue(settings(4, reserve=2))
    queue.set_concurrency(0)
    queue.offer(turn("n0"), 0.0)
    queue.offer(turn("n1"), 0.0)
    queue.offer(turn("n2"), 0.0)
    assert start(queue) == ["n0"]
    queue.set_concurrency(4)
    assert queue.snapshot(0.0).reserve == 2
    assert start(queue) == ["n1"]


def test_turns_that_the_minute_lets_not_start_in_time_are_told_with_their_moment() -> None:
    queue = limited(requests=1)
    queue.offer(turn("first", deadline=500.0), 0.0)
    assert start(queue, 0.0) == ["first"]
    for name, deadline in (("late", 59.0), ("later", 60.0), ("in time", 60.5), ("patient", 500.0)):
        queue.offer(turn(name, deadline=deadline), 1.0)

    assert [(item.id, at) for item, at in queue.too_late(1.0)] == [("late", 60.0), ("later", 60.0)]
    assert len(queue) == 4, "they keep their places"

    queue.cancel("late")
    assert [item.id for item, _ in queue.too_late(1.0)] == ["later"]
    assert queue.too_late(60.0) == [], "what is overdue is for expire"


def test_nothing_is_too_late_without_limits() -> None:
    queue = TaskQueue(settings(1))
    queue.offer(turn("a", deadline=1.0), 0.0)
    assert queue.too_late(0.0) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=60), st.integers(0, 60), st.integers(1, 70))
def test_the_earliest_times_are_found_without_taking_them_out(
    turns: list[tuple[int, bool]], until: int, most: int
) -> None:
    times = Times()
    for number, (at, left) in enumerate(turns):
        waiting = Waiting(turn(str(number)), 0.0, number)
        waiting.left = left
        times.add(waiting, at)

    found = [waiting.number for waiting in times.until(until, most)]

    due = sorted((at, number) for number, (at, left) in enumerate(turns) if at <= until and not left)
    assert found == [number for _, number in due][:most]
    assert sorted(waiting.number for waiting in times.pop_until(until)) == sorted(number for _, number in due)


def test_a_provider_without_limits_keeps_no_minute() -> None:
    queue = TaskQueue(ProviderSettings(name="p", kind="openai_compatible", max_concurrency=1))
    queue.offer(turn("t"), 0.0)
    assert start(queue) == ["t"]
    assert queue.snapshot(0.0).rates.requests == 0

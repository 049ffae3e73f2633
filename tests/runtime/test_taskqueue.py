from __future__ import annotations

import math

import pytest

from loopforge.drivers.turn import Lane
from loopforge.runtime.taskqueue import PASSED_OVER_S, Assignment, TaskQueue
from tests.runtime.queueing import serve_all, settings, start, turn

# -- lanes and sessions ----------------------------------------------------------------------------------------------


def test_lanes_start_interactive_before_normal_before_background() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("b", "background"), 0)
    queue.offer(turn("n", "normal"), 0)
    queue.offer(turn("i", "interactive"), 0)
    assert serve_all(queue) == ["i", "n", "b"]


def test_turns_of_one_session_start_in_the_order_they_came() -> None:
    queue = TaskQueue(settings())
    for number in range(5):
        queue.offer(turn(str(number), session="s"), 0)
    assert serve_all(queue) == ["0", "1", "2", "3", "4"]


def test_sessions_take_turns_so_that_none_owns_the_queue() -> None:
    queue = TaskQueue(settings())
    for number in range(3):
        queue.offer(turn(f"a{number}", session="a"), 0)
    for number in range(2):
        queue.offer(turn(f"b{number}", session="b"), 0)
    queue.offer(turn("c0", session="c"), 0)
    assert serve_all(queue) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_turns_without_a_session_share_one() -> None:
    queue = TaskQueue(settings())
    for turn_id in ("x0", "x1", "x2"):
        queue.offer(turn(turn_id), 0)
    queue.offer(turn("s0", session="s"), 0)
    assert serve_all(queue) == ["x0", "s0", "x1", "x2"]


def test_a_session_that_comes_again_goes_behind_those_that_wait() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("a0", session="a"), 0)
    queue.offer(turn("b0", session="b"), 0)
    assert start(queue) == ["a0"]
    queue.offer(turn("a1", session="a"), 0)
    queue.release(1, "a0")
    assert serve_all(queue) == ["b0", "a1"]


def test_a_session_has_its_own_place_in_each_lane() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("a-normal", session="a"), 0)
    queue.offer(turn("b-normal", session="b"), 0)
    queue.offer(turn("a-interactive", "interactive", session="a"), 0)
    assert serve_all(queue) == ["a-interactive", "a-normal", "b-normal"]


def test_an_assignment_tells_the_worker_and_how_long_the_turn_waited() -> None:
    queue = TaskQueue(settings())
    item = turn("t")
    queue.offer(item, 2.0)
    assert queue.assign(5.5, generation=7) == [Assignment(item=item, generation=7, waited_s=3.5)]


# -- reserved slots --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["normal", "background"])
def test_reserved_slots_are_for_the_interactive_lane_alone(lane: Lane) -> None:
    queue = TaskQueue(settings(4, reserve=2))
    for number in range(4):
        queue.offer(turn(f"o{number}", lane), 0)
    assert start(queue) == ["o0", "o1"]
    for number in range(3):
        queue.offer(turn(f"i{number}", "interactive"), 0)
    assert start(queue) == ["i0", "i1"]
    queue.release(1, "o0")
    assert start(queue) == ["i2"]


def test_interactive_turns_fill_the_reserved_slots_first_so_that_common_ones_stay_open() -> None:
    queue = TaskQueue(settings(3, reserve=1))
    queue.offer(turn("i0", "interactive"), 0)
    assert start(queue) == ["i0"]
    for number in range(3):
        queue.offer(turn(f"n{number}"), 0)
    assert start(queue) == ["n0", "n1"]


def test_a_second_interactive_turn_counts_as_reserved_once_the_first_has_ended() -> None:
    queue = TaskQueue(settings(2, reserve=1))
    queue.offer(turn("i0", "interactive"), 0)
    queue.offer(turn("i1", "interactive"), 0)
    assert start(queue) == ["i0", "i1"]
    queue.offer(turn("n0"), 0)
    assert start(queue) == []
    queue.release(1, "i0")
    assert start(queue) == ["n0"]


@pytest.mark.parametrize(("max_concurrency", "reserve"), [(1, 1), (1, 5), (3, 3), (3, 99)])
def test_one_slot_always_stays_open_to_all_lanes(max_concurrency: int, reserve: int) -> None:
    queue = TaskQueue(settings(max_concurrency, reserve))
    queue.offer(turn("b0", "background"), 0)
    queue.offer(turn("b1", "background"), 0)
    assert start(queue) == ["b0"]


# -- aging -----------------------------------------------------------------------------------------------------------


def flood(queue: TaskQueue, lane: Lane, *, until: float, each_s: float = 1.0) -> list[tuple[float, str]]:
    """One slot, a turn of `each_s`, and always another turn of `lane` waiting: (time, turn) of each start."""
    now, number, starts = 0.0, 0, []
    while now < until:
        queue.offer(turn(f"{lane}{number}", lane), now)
        number += 1
        (started,) = start(queue, now)
        starts.append((now, started))
        now += each_s
        queue.release(1, started)
    return starts


@pytest.mark.parametrize(
    ("busy", "patient"), [("interactive", "normal"), ("interactive", "background"), ("normal", "background")]
)
def test_a_lane_that_is_passed_over_gets_one_start_each_time_it_was_long_enough(busy: Lane, patient: Lane) -> None:
    queue = TaskQueue(settings())
    for number in range(3):
        queue.offer(turn(f"patient{number}", patient), 0)
    patient_starts = [(at, started) for at, started in flood(queue, busy, until=100) if started.startswith("patient")]
    # passed over from the busy lane's first start after its own one, so 1 s later than the one before
    assert patient_starts == [
        (PASSED_OVER_S, "patient0"),
        (2 * PASSED_OVER_S + 1, "patient1"),
        (3 * PASSED_OVER_S + 2, "patient2"),
    ]


def test_of_two_lanes_passed_over_the_one_that_was_so_for_longer_is_first() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("background", "background"), 0)
    queue.offer(turn("i0", "interactive"), 0)
    assert start(queue, 0) == ["i0"]
    queue.offer(turn("normal"), 1)
    queue.offer(turn("i1", "interactive"), 1)
    queue.offer(turn("i2", "interactive"), 1)
    queue.release(1, "i0")
    assert start(queue, 1) == ["i1"]
    queue.release(1, "i1")
    assert serve_all(queue, 1 + PASSED_OVER_S) == ["background", "normal", "i2"]


def test_waiting_alone_does_not_age_a_lane_so_planning_is_next_after_one_running_turn() -> None:
    queue = TaskQueue(settings())
    for number in range(40):
        queue.offer(turn(f"coding{number}", session=str(number)), 0)
    assert start(queue, 0) == ["coding0"]
    queue.offer(turn("planning", "interactive"), 599)
    queue.release(1, "coding0")
    assert start(queue, 600) == ["planning"]


def test_turns_in_reserved_slots_pass_over_nobody() -> None:
    queue = TaskQueue(settings(2, reserve=1))
    queue.offer(turn("n0"), 0)
    queue.offer(turn("n1"), 0)
    assert start(queue, 0) == ["n0"]
    for number in range(100):
        queue.offer(turn(f"i{number}", "interactive"), float(number))
        assert start(queue, float(number)) == [f"i{number}"]
        queue.release(1, f"i{number}")
    queue.offer(turn("i100", "interactive"), 100)
    queue.offer(turn("i101", "interactive"), 100)
    queue.release(1, "n0")
    assert start(queue, 100) == ["i100", "i101"]


def test_a_lane_that_ran_empty_has_forgotten_that_it_was_passed_over() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("n0"), 0)
    queue.offer(turn("i0", "interactive"), 0)
    assert start(queue, 0) == ["i0"]
    queue.cancel("n0")
    queue.offer(turn("n1"), 100)
    queue.offer(turn("i1", "interactive"), 100)
    queue.release(1, "i0")
    assert start(queue, 100) == ["i1"]


def test_a_higher_lane_does_not_count_as_passed_over_by_an_aged_one() -> None:
    queue = TaskQueue(settings())
    for number in range(2):
        queue.offer(turn(f"b{number}", "background"), 0)
    queue.offer(turn("n0"), 0)
    assert start(queue, 0) == ["n0"]
    queue.release(1, "n0")
    queue.offer(turn("n1"), PASSED_OVER_S)
    assert start(queue, PASSED_OVER_S) == ["b0"]
    queue.release(1, "b0")
    queue.offer(turn("i0", "interactive"), 2 * PASSED_OVER_S)
    assert start(queue, 2 * PASSED_OVER_S) == ["i0"]


# -- slots -----------------------------------------------------------------------------------------------------------


def test_a_slot_is_free_once_its_turn_is_released_and_a_second_release_changes_nothing() -> None:
    queue = TaskQueue(settings(2))
    for turn_id in ("a", "b", "c", "d"):
        queue.offer(turn(turn_id), 0)
    assert start(queue) == ["a", "b"]
    assert queue.release(1, "a")
    assert not queue.release(1, "a")
    assert not queue.release(1, "unknown")
    assert not queue.release(1, "c")
    assert start(queue) == ["c"]
    assert queue.free_slots == 0


def test_a_late_release_does_not_free_the_slot_of_the_same_turn_on_a_newer_worker() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("t"), 0)
    start(queue, generation=1)
    (item,) = queue.release_generation(1)
    queue.put_back(item, 0)
    assert start(queue, generation=2) == ["t"]
    assert not queue.release(1, "t")
    assert queue.free_slots == 0
    assert queue.release(2, "t")
    assert queue.free_slots == 1


def test_a_dead_worker_gives_back_its_slots_and_no_other_workers() -> None:
    queue = TaskQueue(settings(3))
    for turn_id in ("a", "b"):
        queue.offer(turn(turn_id), 0)
    start(queue, generation=1)
    queue.offer(turn("c"), 0)
    start(queue, generation=2)
    assert [item.id for item in queue.release_generation(1)] == ["a", "b"]
    assert queue.release_generation(1) == []
    assert queue.snapshot(0).running == {2: ("c",)}


def test_slots_of_a_dead_workers_interactive_turns_are_reserved_again() -> None:
    queue = TaskQueue(settings(2, reserve=1))
    queue.offer(turn("i", "interactive"), 0)
    start(queue)
    queue.release_generation(1)
    for turn_id in ("a", "b"):
        queue.offer(turn(turn_id), 0)
    assert start(queue) == ["a"]


# -- cancel, put back, deadlines, drain ------------------------------------------------------------------------------


def test_a_cancelled_turn_never_starts_and_its_session_keeps_its_place() -> None:
    queue = TaskQueue(settings())
    items = [turn("a0", session="a"), turn("b0", session="b"), turn("a1", session="a")]
    for item in items:
        queue.offer(item, 0)
    assert queue.cancel("a0") is items[0]
    assert queue.cancel("a0") is None
    assert serve_all(queue) == ["a1", "b0"]


def test_only_waiting_turns_can_be_cancelled() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("running"), 0)
    start(queue)
    queue.reserve_place("place", 1, "normal", 0)
    assert [queue.cancel(turn_id) for turn_id in ("running", "place", "unknown")] == [None, None, None]


def test_turns_put_back_go_before_the_others_of_their_lane_in_the_order_they_came_back() -> None:
    queue = TaskQueue(settings(2))
    for number in range(4):
        queue.offer(turn(f"n{number}", session=str(number)), 0)
    assert start(queue) == ["n0", "n1"]
    for item in queue.release_generation(1):
        queue.put_back(item, 0)
    queue.offer(turn("i", "interactive"), 0)
    queue.cancel("n3")
    assert serve_all(queue) == ["i", "n0", "n1", "n2"]


def test_a_turn_put_back_can_be_cancelled() -> None:
    queue = TaskQueue(settings())
    queue.put_back(turn("t"), 0)
    assert queue.cancel("t") is not None
    assert start(queue) == []


def test_a_turn_put_back_is_taken_by_a_full_queue() -> None:
    queue = TaskQueue(settings(max_queued=1, max_queued_bytes=10))
    queue.offer(turn("a", size_bytes=10), 0)
    queue.put_back(turn("b", size_bytes=10), 0)
    assert serve_all(queue) == ["b", "a"]


def test_a_turn_cannot_be_in_the_queue_twice() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("running"), 0)
    start(queue)
    queue.offer(turn("waiting"), 0)
    queue.reserve_place("place", 1, "normal", 0)
    for turn_id in ("running", "waiting", "place"):
        with pytest.raises(ValueError, match="already"):
            queue.reserve_place(turn_id, 1, "normal", 0)
        with pytest.raises(ValueError, match="already"):
            queue.put_back(turn(turn_id), 0)
    for turn_id in ("running", "waiting"):
        with pytest.raises(ValueError, match="already"):
            queue.offer(turn(turn_id), 0)


def test_turns_expire_at_their_deadline_earliest_first() -> None:
    queue = TaskQueue(settings())
    for turn_id, deadline in (("c", 30.0), ("a", 10.0), ("b", 20.0), ("never", math.inf)):
        queue.offer(turn(turn_id, deadline=deadline), 0)
    assert queue.next_look(0) == 10.0
    assert queue.expire(9.999) == []
    assert [item.id for item in queue.expire(20.0)] == ["a", "b"]
    assert queue.expire(20.0) == []
    assert queue.next_look(20.0) == 30.0
    assert [item.id for item in queue.expire(1e9)] == ["c"]
    assert queue.next_look(1e9) == math.inf
    assert len(queue) == 1


def test_a_turn_whose_deadline_has_passed_never_starts_even_when_nobody_expired_it() -> None:
    queue = TaskQueue(settings(3))
    queue.offer(turn("late", deadline=10.0), 0)
    queue.offer(turn("in time", deadline=10.001), 0)
    assert start(queue, 10.0) == ["in time"]
    assert queue.next_look(10.0) == 10.0
    assert len(queue) == 1
    assert [item.id for item in queue.expire(10.0)] == ["late"]
    assert len(queue) == 0


def test_a_turn_that_is_late_but_not_yet_expired_can_be_cancelled() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("late", deadline=10.0), 0)
    assert start(queue, 11.0) == []
    assert queue.cancel("late") is not None
    assert queue.expire(12.0) == []
    assert queue.snapshot(12.0).queued_bytes == 0


def test_a_running_turn_does_not_expire_here() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("t", deadline=10.0), 0)
    assert start(queue, 0) == ["t"]
    assert queue.expire(11.0) == []
    assert queue.next_look(11.0) == math.inf


def test_the_time_to_look_again_is_never_in_the_past() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("t", deadline=10.0), 0)
    assert queue.next_look(50.0) == 50.0


def test_deadlines_of_turns_that_left_are_swept_out_and_the_others_still_come_in_order() -> None:
    queue = TaskQueue(settings(max_queued=2000))
    deadlines = {str(number): 1000.0 + number * 7919 % 2000 for number in range(2000)}
    for turn_id, deadline in deadlines.items():
        queue.offer(turn(turn_id, deadline=deadline), 0)
    first = min(deadlines, key=deadlines.__getitem__)  # it stays, so that none of the others comes up to be skipped
    for number in range(1, 2000):
        if number % 20 and str(number) != first:
            queue.cancel(str(number))
            del deadlines[str(number)]
            assert len(queue._deadlines._heap) <= 2 * len(queue) + queue._deadlines.SPARE
    expired = [queue.expire(deadline) for deadline in sorted(deadlines.values())]
    assert [item.id for items in expired for item in items] == sorted(deadlines, key=deadlines.__getitem__)
    assert all(len(items) == 1 for items in expired)


def test_draining_takes_out_whoever_waits_and_leaves_slots_and_places() -> None:
    queue = TaskQueue(settings())
    queue.offer(turn("running"), 0)
    start(queue)
    for turn_id, lane, deadline in (("n", "normal", math.inf), ("late", "normal", 1.0), ("i", "interactive", math.inf)):
        queue.offer(turn(turn_id, lane, deadline=deadline), 0)  # type: ignore[arg-type]  # a tuple of str, here lanes
    queue.reserve_place("place", 5, "normal", 0)
    start(queue, 2.0)
    assert [item.id for item in queue.drain()] == ["n", "late", "i"]
    status = queue.snapshot(2.0)
    assert status.waiting == {"interactive": 0, "normal": 0, "background": 0}
    assert (status.places, status.queued_bytes, status.running) == (1, 5, {1: ("running",)})
    assert queue.drain() == []
    assert queue.expire(2.0) == []

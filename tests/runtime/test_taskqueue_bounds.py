from __future__ import annotations

import pytest

from loopforge.runtime.errors import QueueFull, TooLarge
from loopforge.runtime.taskqueue import ByteBudget, TaskQueue
from tests.runtime.queueing import settings, start, turn


def test_a_queue_of_max_queued_turns_refuses_the_next_with_its_depth_and_what_to_do() -> None:
    queue = TaskQueue(settings(max_queued=2))
    queue.offer(turn("a"), 0)
    queue.reserve_place("b", 1, "background", 0)
    with pytest.raises(QueueFull) as caught:
        queue.offer(turn("c"), 0)
    assert caught.value.provider == "ollama"
    assert "2 turns wait, max_queued is 2" in str(caught.value)
    assert caught.value.action == "post the turn again later, or raise max_queued in [providers.ollama]"
    with pytest.raises(QueueFull):
        queue.reserve_place("c", 1, "normal", 0)
    queue.cancel("a")
    queue.offer(turn("c"), 0)


def test_a_queue_of_max_queued_bytes_refuses_what_would_pass_it() -> None:
    queue = TaskQueue(settings(max_queued_bytes=100))
    queue.offer(turn("a", size_bytes=60), 0)
    queue.reserve_place("b", 30, "normal", 0)
    queue.reserve_place("exact", 10, "normal", 0)
    with pytest.raises(QueueFull) as caught:
        queue.offer(turn("c", size_bytes=1), 0)
    assert "max_queued_bytes is 100" in str(caught.value)
    assert "raise max_queued_bytes in [providers.ollama]" in caught.value.action
    queue.forget("b")
    queue.offer(turn("c", size_bytes=30), 0)


def test_running_turns_count_neither_as_turns_nor_as_bytes_that_wait() -> None:
    queue = TaskQueue(settings(max_queued=1, max_queued_bytes=10))
    queue.offer(turn("a", size_bytes=10), 0)
    start(queue)
    queue.offer(turn("b", size_bytes=10), 0)


def test_a_turn_larger_than_the_whole_queue_is_told_so_instead_of_to_come_again() -> None:
    queue = TaskQueue(settings(2, reserve=1, max_queued_bytes=100))
    with pytest.raises(TooLarge, match=r"raise max_queued_bytes in \[providers.ollama\]"):
        queue.offer(turn("t", "interactive", size_bytes=101), 0)


def test_a_place_is_used_by_its_turn_although_the_queue_is_full_by_then() -> None:
    queue = TaskQueue(settings(max_queued=1))
    queue.reserve_place("t", 7, "normal", 0)
    assert queue.snapshot(0).queued_bytes == 7
    queue.offer(turn("t", size_bytes=9), 0)
    status = queue.snapshot(0)
    assert (status.places, status.waiting["normal"], status.queued_bytes) == (0, 1, 9)


def test_a_forgotten_place_is_free_again() -> None:
    queue = TaskQueue(settings(max_queued=1))
    queue.reserve_place("t", 7, "background", 0)
    queue.forget("t")
    queue.forget("t")
    queue.forget("unknown")
    assert queue.snapshot(0).queued_bytes == 0
    queue.reserve_place("u", 7, "normal", 0)


def test_an_interactive_turn_with_a_reserved_slot_free_is_taken_by_a_full_queue() -> None:
    queue = TaskQueue(settings(2, reserve=1, max_queued=3, max_queued_bytes=30))
    for number in range(3):
        queue.offer(turn(f"n{number}", size_bytes=10), 0)
    queue.offer(turn("i0", "interactive", size_bytes=10), 0)
    for refused in (turn("i1", "interactive"), turn("n3"), turn("b", "background")):
        with pytest.raises(QueueFull):
            queue.offer(refused, 0)
    assert start(queue) == ["i0", "n0"]
    queue.offer(turn("n3", size_bytes=10), 0)
    with pytest.raises(QueueFull):  # its reserved slot is taken now
        queue.offer(turn("i1", "interactive"), 0)
    queue.release(1, "i0")
    queue.reserve_place("i1", 10, "interactive", 0)
    with pytest.raises(QueueFull):  # a place counts as much as a turn that waits
        queue.reserve_place("i2", 10, "interactive", 0)


def test_the_time_to_try_again_follows_the_recent_rate_of_starts() -> None:
    queue = TaskQueue(settings(max_queued=2))
    for number in range(10):  # one start each 5 s
        queue.offer(turn(str(number)), number * 5.0)
        assert start(queue, number * 5.0) == [str(number)]
        queue.release(1, str(number))
    queue.offer(turn("hold"), 50.0)
    start(queue, 50.0)
    for turn_id in ("a", "b"):
        queue.offer(turn(turn_id), 50.0)
    with pytest.raises(QueueFull) as caught:
        queue.offer(turn("c"), 55.0)
    assert caught.value.retry_after_s == pytest.approx(5.0)
    assert "in about 5 s" in str(caught.value)


def test_the_time_to_try_again_grows_with_the_bytes_that_must_go_first() -> None:
    queue = TaskQueue(settings(max_queued_bytes=100))
    queue.offer(turn("running"), 0)
    start(queue, 0.0)
    for number in range(10):
        queue.offer(turn(str(number), size_bytes=10), 0)
    with pytest.raises(QueueFull) as caught:
        queue.offer(turn("big", size_bytes=50), 4.0)
    assert caught.value.retry_after_s == pytest.approx(5 * 4.0)


def test_the_time_to_try_again_is_at_most_that_of_the_first_deadline() -> None:
    queue = TaskQueue(settings(max_queued=1))
    queue.offer(turn("a", deadline=100.0), 0)
    with pytest.raises(QueueFull) as caught:
        queue.offer(turn("b"), 58.0)
    assert caught.value.retry_after_s == 42.0
    with pytest.raises(QueueFull) as caught:
        queue.offer(turn("b"), 99.9)
    assert caught.value.retry_after_s == 1.0


def test_a_snapshot_shows_who_waits_and_who_runs() -> None:
    queue = TaskQueue(settings(3, reserve=1))
    for turn_id, at in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0)):
        queue.offer(turn(turn_id, size_bytes=10), at)
    start(queue, 4.0, generation=3)
    queue.offer(turn("i", "interactive", size_bytes=10), 5.0)
    queue.reserve_place("p", 1, "normal", 5.0)
    status = queue.snapshot(6.0)
    assert status.waiting == {"interactive": 1, "normal": 2, "background": 0}
    assert status.running == {3: ("a", "b")}
    assert (status.places, status.queued_bytes, status.oldest_wait_s) == (1, 31, 3.0)
    assert (status.max_concurrency, status.reserve, queue.free_slots, len(queue)) == (3, 1, 1, 3)
    assert TaskQueue(settings()).snapshot(9.0).oldest_wait_s == 0.0


# -- the byte budget -------------------------------------------------------------------------------------------------


def test_the_byte_budget_is_held_by_turns_and_given_back_once() -> None:
    budget = ByteBudget(100)
    budget.take("a", 60)
    budget.take("b", 40)
    assert budget.held_bytes == 100
    with pytest.raises(QueueFull) as caught:
        budget.take("c", 1)
    assert "2 turns of 100 bytes wait" in str(caught.value)
    assert "raise max_queued_bytes in [runtime]" in caught.value.action
    budget.give_back("a")
    budget.give_back("a")
    budget.give_back("c")
    assert budget.held_bytes == 40
    budget.take("c", 60)


def test_the_byte_budget_takes_back_a_turn_that_was_accepted_before() -> None:
    budget = ByteBudget(100)
    budget.take("a", 100)
    budget.put_back("b", 50)
    assert budget.held_bytes == 150
    with pytest.raises(ValueError, match="already"):
        budget.put_back("b", 50)
    budget.give_back("b")
    assert budget.held_bytes == 100


def test_a_turn_larger_than_the_whole_budget_is_told_so() -> None:
    with pytest.raises(TooLarge, match=r"raise max_queued_bytes in \[runtime\]"):
        ByteBudget(100).take("a", 101)

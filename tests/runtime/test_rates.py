from __future__ import annotations

import math

import pytest

from loopforge.drivers.turn import Limits
from loopforge.runtime.rates import FIRST_OUTPUT_TOKENS, MINUTE_S, Rates

OUTPUT = round(FIRST_OUTPUT_TOKENS)


def rates(requests: int = 0, tokens: int = 0, *, keeps_share: bool = False) -> Rates:
    return Rates(requests, tokens, keeps_share=keeps_share)


def start(minute: Rates, count: int, now: float, tokens: int = 0, *, interactive: bool = False) -> None:
    for number in range(count):
        minute.take(f"{now}-{number}", tokens, now, interactive=interactive)


def when(minute: Rates, now: float, tokens: int = 0, *, interactive: bool = False) -> float:
    return minute.when(tokens, now, interactive=interactive)


def test_without_limits_every_turn_may_start_and_nothing_is_kept() -> None:
    minute = rates()
    start(minute, 1000, 0.0)
    assert when(minute, 0.0, 10**9) == 0.0
    assert not minute._uses


def test_requests_of_a_minute_are_counted_wherever_it_begins() -> None:
    minute = rates(requests=3)
    start(minute, 1, 0.0)
    start(minute, 2, 30.0)
    assert when(minute, 59.0) == 60.0
    start(minute, 1, 60.0)
    assert when(minute, 60.0) == 90.0


def test_a_turn_waits_until_so_many_tokens_are_a_minute_old_as_it_needs() -> None:
    minute = rates(tokens=2000)
    start(minute, 1, 0.0, 100)
    start(minute, 1, 10.0, 300)
    assert when(minute, 20.0, 2000 - 600 - 800 - OUTPUT) == 20.0
    assert when(minute, 20.0, 200) == 60.0
    assert when(minute, 20.0, 1200) == 70.0


def test_a_turn_that_is_larger_than_the_limit_has_a_minute_to_itself() -> None:
    minute = rates(tokens=1000)
    assert when(minute, 0.0, 50_000) == 0.0
    start(minute, 1, 0.0, 50_000)
    assert when(minute, 1.0, 0) == 60.0
    assert when(minute, 1.0, 50_000) == 60.0


def test_what_a_turn_did_not_use_is_free_at_once() -> None:
    minute = rates(tokens=2000)
    minute.take("t", 1500, 0.0, interactive=False)
    assert when(minute, 1.0, 100) == 60.0
    minute.correct("t", 400, 100)
    assert when(minute, 1.0, 100) == 1.0
    assert minute.snapshot(1.0).tokens == 500


def test_what_a_turn_used_beyond_its_estimate_counts_too() -> None:
    minute = rates(tokens=2000)
    minute.take("t", 0, 0.0, interactive=False)
    minute.correct("t", 1000, 900)
    assert when(minute, 1.0, 0) == 60.0


def test_a_failed_attempt_gives_its_tokens_back_and_one_that_never_left_its_request_too() -> None:
    minute = rates(requests=1, tokens=10_000)
    minute.take("t", 5000, 0.0, interactive=False)
    minute.refund("t", request=False)
    assert (minute.snapshot(0.0).requests, minute.snapshot(0.0).tokens) == (1, 0)
    minute.refund("t", request=True)
    minute.refund("t", request=True)
    assert (minute.snapshot(0.0).requests, minute.snapshot(0.0).tokens) == (0, 0)
    assert when(minute, 0.0) == 0.0


def test_of_a_turn_that_was_sent_again_the_latest_attempt_is_corrected() -> None:
    minute = rates(tokens=10_000)
    for _ in range(2):
        minute.take("t", 1000, 0.0, interactive=False)
    minute.correct("t", 1, 1)
    assert minute.snapshot(0.0).tokens == 1000 + OUTPUT + 2


def test_a_correction_that_comes_after_the_minute_changes_nothing() -> None:
    minute = rates(tokens=1000)
    minute.take("t", 100, 0.0, interactive=False)
    assert minute.snapshot(MINUTE_S).tokens == 0
    minute.correct("t", 700, 200)
    minute.refund("t", request=True)
    assert (minute.snapshot(MINUTE_S).requests, minute.snapshot(MINUTE_S).tokens) == (0, 0)
    assert not minute._by_turn


def test_the_estimate_of_an_answer_follows_the_latest_answers() -> None:
    minute = rates(tokens=1)
    assert minute.estimate(7) == 7 + OUTPUT
    for _ in range(100):
        minute.correct("t", None, 2000)
    assert minute.estimate(7) == pytest.approx(2007, abs=2)
    minute.correct("t", None, None)
    assert minute.estimate(7) == pytest.approx(2007, abs=2)


# -- the interactive lane --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "others"), [(100, 90), (10, 9), (2, 1), (1, 1)])
def test_other_lanes_leave_a_tenth_of_the_requests_to_the_interactive_one(limit: int, others: int) -> None:
    minute = rates(requests=limit, keeps_share=True)
    start(minute, others, 0.0)
    assert when(minute, 1.0) == 60.0
    assert when(minute, 1.0, interactive=True) == (60.0 if others == limit else 1.0)


def test_interactive_turns_use_their_own_share_first() -> None:
    minute = rates(requests=20, keeps_share=True)
    start(minute, 2, 0.0, interactive=True)
    start(minute, 17, 1.0)
    assert when(minute, 2.0) == 2.0
    start(minute, 1, 2.0)
    assert when(minute, 3.0) == 61.0  # what runs out at 60 is the interactive lane's own
    assert when(minute, 3.0, interactive=True) == 60.0


def test_other_lanes_leave_a_tenth_of_the_tokens_too() -> None:
    minute = rates(tokens=10_000, keeps_share=True)
    start(minute, 1, 0.0, 8000)
    assert when(minute, 0.0, 0) == 0.0
    assert when(minute, 0.0, 1) == 60.0
    assert when(minute, 0.0, 1, interactive=True) == 0.0


def test_within_its_share_an_interactive_turn_takes_nothing_from_the_others() -> None:
    minute = rates(requests=20, tokens=20_000, keeps_share=True)
    assert minute.when_in_share(100, 0.0) == 0.0
    start(minute, 2, 0.0, interactive=True)
    assert minute.when_in_share(100, 1.0) == 60.0
    assert minute.when_in_share(5000, 1.0) == math.inf


# -- what the provider says ------------------------------------------------------------------------------------------


def test_headers_allow_no_more_starts_than_they_say_are_left_until_their_reset() -> None:
    minute = rates()
    minute.learn(Limits(requests_remaining=2, requests_reset_s=20.0), 5.0, 5.0)
    start(minute, 2, 6.0)
    assert when(minute, 7.0) == 25.0
    assert minute.snapshot(7.0).held_until == 25.0
    assert when(minute, 25.0) == 25.0


def test_what_started_after_the_headers_came_is_taken_off_what_they_say() -> None:
    minute = rates(requests=100)
    start(minute, 1, 4.0)
    start(minute, 2, 6.0)
    minute.learn(Limits(requests_remaining=2, requests_reset_s=20.0), 5.0, 8.0)
    assert when(minute, 8.0) == 25.0


def test_tokens_that_are_left_allow_the_turns_that_need_no_more() -> None:
    minute = rates()
    minute.learn(Limits(tokens_remaining=1000, tokens_reset_s=30.0), 0.0, 0.0)
    assert when(minute, 0.0, 1000 - OUTPUT) == 0.0
    assert when(minute, 0.0, 1001 - OUTPUT) == 30.0
    minute.take("t", 500, 0.0, interactive=False)
    minute.correct("t", 100, 100)
    assert when(minute, 1.0, 800 - OUTPUT - 50) == 1.0


def test_headers_hold_the_interactive_lane_too() -> None:
    minute = rates(requests=100, keeps_share=True)
    minute.learn(Limits(requests_remaining=0, requests_reset_s=20.0), 0.0, 0.0)
    assert when(minute, 0.0, interactive=True) == 20.0
    assert minute.when_in_share(0, 0.0) == 20.0


def test_headers_are_believed_for_a_minute_at_most() -> None:
    minute = rates()
    minute.learn(Limits(requests_remaining=0, requests_reset_s=86_400.0), 0.0, 0.0)
    assert when(minute, 0.0) == 60.0


def test_older_headers_than_the_last_and_such_that_say_nothing_of_the_kind() -> None:
    minute = rates()
    minute.learn(Limits(requests_remaining=0, requests_reset_s=30.0), 10.0, 10.0)
    minute.learn(Limits(requests_remaining=50, requests_reset_s=30.0), 9.0, 11.0)
    assert when(minute, 11.0) == 40.0
    minute.learn(Limits(requests_limit=50), 12.0, 12.0)
    assert when(minute, 12.0) == 12.0

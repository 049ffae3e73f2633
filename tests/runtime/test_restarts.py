from __future__ import annotations

import math
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.restarts import (
    EXIT_CONFIGURATION,
    Down,
    RestartDecision,
    RestartHistory,
    RestartPolicy,
    after_death,
    after_ready,
)

POLICY = RestartPolicy()
PATIENT = RestartPolicy(limit=1000)


def restarted(
    history: RestartHistory, now: float, policy: RestartPolicy = POLICY, jitter: float = 0.0
) -> RestartDecision:
    decision = after_death(history, now, policy, jitter)
    assert isinstance(decision, RestartDecision)
    return decision


def test_restarts_wait_0_then_half_a_second_doubled_up_to_30_s() -> None:
    history, now, delays = RestartHistory(), 100.0, []
    for _ in range(10):
        decision = restarted(history, now, PATIENT)
        delays.append(decision.start_at - now)
        history, now = after_ready(decision.history, decision.start_at), decision.start_at
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_jitter_shortens_a_delay_by_at_most_half() -> None:
    history = RestartHistory(streak=4)
    assert [restarted(history, 0.0, jitter=jitter).start_at for jitter in (0.0, 0.5, 1.0)] == [4.0, 3.0, 2.0]


def test_jitter_leaves_the_first_restart_at_once() -> None:
    assert restarted(RestartHistory(), 5.0, jitter=1.0).start_at == 5.0


def test_the_sixth_death_within_30_s_puts_the_provider_down_for_60_s() -> None:
    history = RestartHistory()
    for death in (0.0, 1.0, 2.0, 3.0, 4.0):
        history = restarted(history, death).history
    decision = after_death(history, 29.9, POLICY, 0.0)
    assert isinstance(decision, Down)
    assert decision.until == 29.9 + 60
    assert decision.why == "crashes"


def test_deaths_older_than_the_window_do_not_count() -> None:
    history = RestartHistory()
    for death in (0.0, 1.0, 2.0, 3.0, 4.0):
        history = restarted(history, death).history
    assert restarted(history, 30.0).history.deaths == (1.0, 2.0, 3.0, 4.0, 30.0)


def test_after_60_s_of_health_the_sequence_starts_anew() -> None:
    history = after_ready(RestartHistory(streak=3), 100.0)
    assert restarted(history, 159.9).start_at == pytest.approx(161.9)
    assert restarted(history, 160.0).start_at == 160.0
    assert restarted(history, 160.0).history.streak == 1


def test_a_worker_that_never_became_ready_was_not_healthy() -> None:
    decision = restarted(RestartHistory(), 0.0)
    assert decision.history.ready_at is None
    assert restarted(decision.history, 1000.0).start_at == 1000.5


def test_health_is_that_of_the_present_worker_not_of_one_before() -> None:
    first = restarted(after_ready(RestartHistory(streak=2), 0.0), 10.0)
    assert restarted(first.history, 100.0).start_at == 102.0


def test_a_probe_that_dies_puts_the_provider_down_again_at_once() -> None:
    probing = Down(history=RestartHistory(probing=True), until=0.0).history
    for history in (probing, after_ready(probing, 100.0)):
        decision = after_death(history, 159.0, POLICY, 0.0)
        assert isinstance(decision, Down)
        assert decision.until == 219.0
        assert decision.history.probing


def test_a_provider_comes_down_and_back_in_full() -> None:
    history: RestartHistory = RestartHistory()
    for death in range(5):
        history = restarted(history, death / 10).history
    down = after_death(history, 1.0, POLICY, 0.0)
    assert isinstance(down, Down)
    probe = after_ready(down.history, down.until)
    healthy_death = restarted(probe, down.until + 60)
    assert healthy_death.start_at == down.until + 60
    assert not healthy_death.history.probing
    assert isinstance(after_death(healthy_death.history, down.until + 61, POLICY, 0.0), RestartDecision)


def test_a_worker_that_cannot_run_with_its_settings_is_not_started_again() -> None:
    decision = after_death(RestartHistory(), 5.0, POLICY, 0.0, exit_code=EXIT_CONFIGURATION)
    assert decision == Down(until=math.inf, why="configuration")


@pytest.mark.parametrize("exit_code", [None, 0, 1, -signal.SIGKILL, -EXIT_CONFIGURATION])
def test_every_other_end_is_a_death(exit_code: int | None) -> None:
    assert isinstance(after_death(RestartHistory(), 5.0, POLICY, 0.0, exit_code=exit_code), RestartDecision)


@given(
    lives=st.lists(st.floats(0, 200), max_size=60),
    ready=st.lists(st.booleans(), min_size=60, max_size=60),
    jitter=st.floats(0, 1),
)
def test_a_worker_is_never_started_more_often_than_the_limit_allows(
    lives: list[float], ready: list[bool], jitter: float
) -> None:
    history, start, starts = RestartHistory(), 0.0, [0.0]
    for life, was_ready in zip(lives, ready, strict=False):
        if was_ready:
            history = after_ready(history, start)
        death = start + life
        decision = after_death(history, death, POLICY, jitter)
        history = decision.history
        start = decision.until if isinstance(decision, Down) else decision.start_at
        assert start >= death
        starts.append(start)
        assert len(history.deaths) <= POLICY.limit + 1
    for first, after_limit in zip(starts, starts[POLICY.limit + 1 :], strict=False):
        assert after_limit - first >= POLICY.window_s


def test_an_endless_row_of_rare_deaths_keeps_the_longest_delay() -> None:
    assert restarted(RestartHistory(streak=100_000), 0.0).start_at == 30.0

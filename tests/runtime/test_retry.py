from __future__ import annotations

import math

import pytest

from loopforge.drivers.errors import ProviderUnavailable, RateLimited, StreamBroken, TurnError, WorkerLost
from loopforge.runtime.errors import DeadlineExceeded
from loopforge.runtime.retry import Failure, GiveUp, ResendSame, decide

NOW = 1000.0


def failure(
    error: TurnError,
    *,
    attempt: int = 1,
    max_attempts: int = 4,
    relayed: bool = False,
    resend_safe: bool = True,
    deadline: float = NOW + 60,
) -> Failure:
    return Failure(
        error=error,
        attempt=attempt,
        max_attempts=max_attempts,
        relayed=relayed,
        resend_safe=resend_safe,
        deadline=deadline,
    )


LOST = WorkerLost("ollama")


@pytest.mark.parametrize("deadline", [NOW + 1e-6, NOW + 60, math.inf])
def test_a_turn_lost_in_silence_is_resent_at_once(deadline: float) -> None:
    assert decide(failure(LOST, deadline=deadline), NOW) == ResendSame(at=NOW)


@pytest.mark.parametrize(
    "lost",
    [
        failure(LOST, relayed=True),
        failure(LOST, resend_safe=False),
        failure(LOST, attempt=2),
        failure(LOST, max_attempts=1),
        failure(LOST, deadline=NOW),
        failure(LOST, deadline=NOW - 1),
    ],
    ids=["relayed", "not safe", "second loss", "one attempt allowed", "deadline reached", "deadline passed"],
)
def test_a_lost_turn_is_given_up_when_it_must_not_be_resent(lost: Failure) -> None:
    assert decide(lost, NOW) == GiveUp(error=LOST)


@pytest.mark.parametrize(
    "error",
    [RateLimited("ollama", retry_after_s=1.0), ProviderUnavailable(), StreamBroken(), DeadlineExceeded(), TurnError()],
    ids=lambda error: type(error).__name__,
)
def test_every_other_error_ends_the_turn_with_that_error(error: TurnError) -> None:
    decision = decide(failure(error), NOW)
    assert isinstance(decision, GiveUp)
    assert decision.error is error

"""When a dead worker is started again, and when its provider is declared down. Pure: no clock, no randomness.

The supervisor's keeper of a worker feeds in what happened and does what the answer says.
Sources: restart intensity as in OTP, https://www.erlang.org/doc/apps/stdlib/supervisor.html, but it quarantines one
provider, never the service; "equal jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: the worker cannot run with these settings, another start is no help
JITTER_SHARE = 0.5  # of a delay; the rest is fixed, so that a delay is never near zero
_MAX_DOUBLINGS = 64  # beyond any cap; keeps 2**n a float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """More than `limit` deaths within `window_s` put the provider down for `down_s`; then one start is a probe.

    The first restart is at once; the next ones wait `first_delay_s` doubled each time, at most `max_delay_s`. A worker
    that was ready for `healthy_s` starts the sequence anew. All in seconds.
    """

    limit: int = 5
    window_s: float = 30.0
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    healthy_s: float = 60.0
    down_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartHistory:
    """What is remembered of one provider's workers. Times are seconds on the caller's clock.

    `deaths`: those within the window, oldest first. `streak`: deaths since a worker was last healthy.
    `ready_at`: since when the present worker is ready, None while it starts. `probing`: the provider was down, and
    no worker has been healthy since.
    """

    deaths: tuple[float, ...] = ()
    streak: int = 0
    ready_at: float | None = None
    probing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartDecision:
    """Start the worker again, not before `start_at`."""

    history: RestartHistory
    start_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """The provider is down until `until`; the next turn after that starts its worker as a probe.

    `why` configuration: `until` is math.inf, only another configuration helps.
    """

    history: RestartHistory = field(default_factory=RestartHistory)
    until: float
    why: Literal["crashes", "configuration"] = "crashes"


AfterDeath: TypeAlias = RestartDecision | Down


def after_ready(history: RestartHistory, now: float) -> RestartHistory:
    """The worker said that it is ready."""
    return replace(history, ready_at=now)


def after_death(
    history: RestartHistory, now: float, policy: RestartPolicy, jitter: float, *, exit_code: int | None = None
) -> AfterDeath:
    """What follows the death of a worker, whether it was ready or still starting.

    `jitter`: a random number 0..1; 0 waits the full delay, 1 half of it. `exit_code`: of the process, negative for a
    signal, None when unknown. Without jitter restarts come after 0, 0.5, 1, 2, ... s; a probe that dies before it was
    healthy puts the provider down again at once.
    """
    if exit_code == EXIT_CONFIGURATION:
        return Down(until=math.inf, why="configuration")
    was_healthy = history.ready_at is not None and now - history.ready_at >= policy.healthy_s
    streak = 0 if was_healthy else history.streak
    probing = history.probing and not was_healthy
    deaths = (*(death for death in history.deaths if now - death < policy.window_s), now)
    if probing or len(deaths) > policy.limit:
        return Down(history=RestartHistory(deaths=deaths, probing=True), until=now + policy.down_s)
    return RestartDecision(
        history=RestartHistory(deaths=deaths, streak=streak + 1),
        start_at=now + _delay_s(streak, policy) * (1 - JITTER_SHARE * jitter),
    )


def _delay_s(streak: int, policy: RestartPolicy) -> float:
    """Before the restart that follows `streak` earlier ones."""
    if streak == 0:
        return 0.0
    return min(policy.first_delay_s * 2.0 ** min(streak - 1, _MAX_DOUBLINGS), policy.max_delay_s)

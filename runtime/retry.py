"""The one place that decides what happens after a failed attempt. Drivers, transport and workers never resend.

A decision is a function of what failed, what was tried before, what every candidate can take now, and the time. It
sends nothing: the dispatcher acts on it. The table, which is also the table of the tests:

    error                                   same provider again    next candidate                  breaker
    ------------------------------------------------------------------------------------------------------
    RateLimited, Overloaded                 waits                  yes                             counts
    ProviderUnavailable                     twice, after back-off  yes                             counts
    StreamBroken, Stalled                   once                   yes                             counts
    QuotaExhausted                          parks                  yes                             opens
    CredentialsRejected, PermissionDenied   no                     yes, with a warning             opens
    ModelNotFound, DriverMissing            no                     yes, with a warning             opens
    ContextTooLong                          no                     to a larger window              no
    ContentFiltered, TurnRefused            no                     to one that did not refuse it   no
    GenerationFailed                        once                   yes                             no
    WireMismatch                            no                     yes                             no
    WorkerLost                              as a suspect           yes                             counts
    ProviderDown                            no                     yes                             no
    all others                              no                     no                              no

What holds for every row:
- Attempts are bounded, and nothing is sent at or past the deadline.
- After an error a turn never waits while a healthy candidate is idle. It waits a moment (SHORT_WAIT_S) for the same
  provider rather than joining another one's queue, and joins that queue rather than waiting longer.
- A time that a provider named is honoured; where it named none, a back-off with jitter takes its place.
- A failure that says something of a whole provider (its scope) rules out that provider's other models too.
- "parks" waits for a quota's reset if the route allows it, for at most its park_max_s in all.
- "as a suspect": a turn that was in flight at two deaths of a provider's worker goes there again alone, and nowhere
  else. If the worker dies of it then, it is poison: it fails, and kills no other provider's worker.
- A resend that follows events the client has seen says so (`restarted`): they must be withdrawn first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from loopforge.drivers.errors import (
    ContentFiltered,
    ContextTooLong,
    CredentialsRejected,
    DriverMissing,
    GenerationFailed,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Stalled,
    StreamBroken,
    TurnError,
    TurnRefused,
    WireMismatch,
    WorkerLost,
)
from loopforge.runtime.errors import ProviderDown

# A person at a terminal waits that long without wondering; in most cases it costs less than another provider's prompt
# cache, or its place in a queue.
SHORT_WAIT_S = 5.0
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 60.0
JITTER_SHARE = 0.5  # of a back-off: "equal jitter", as in restarts.py
# Turns that were told the same time do not come back in the same instant; never earlier than told.
SPREAD_SHARE, MAX_SPREAD_S = 0.1, 1.0
PARK_MARGIN_S = 1.0  # a provider's clock is not ours; a moment early costs another attempt
SUSPECT_AFTER_LOSSES = 2
RESENDS_AFTER_LOSS = 1  # used while a caller shows no options, see _decide_blindly


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table. `resends`: how often the same provider gets the turn again after this error.

    `to`: who else may take the turn. `warn`: the reply says why the candidate was left: a person has to mend something.
    `breaker`: what breakers.py makes of the error.
    """

    same: Literal["no", "waits", "backs off", "at once", "parks", "suspect"] = "no"
    resends: float = math.inf
    to: Literal["nobody", "anybody", "larger window", "others"] = "nobody"
    warn: bool = False
    breaker: Literal["no", "counts", "opens"] = "no"


_LIMITED = Rule(same="waits", to="anybody", breaker="counts")
_CUT = Rule(same="at once", resends=1, to="anybody", breaker="counts")
_TO_MEND = Rule(to="anybody", warn=True, breaker="opens")
_REFUSED = Rule(to="others")
RULES: Mapping[type[TurnError], Rule] = {
    RateLimited: _LIMITED,
    Overloaded: _LIMITED,
    ProviderUnavailable: Rule(same="backs off", resends=2, to="anybody", breaker="counts"),
    StreamBroken: _CUT,
    Stalled: _CUT,
    QuotaExhausted: Rule(same="parks", to="anybody", breaker="opens"),
    CredentialsRejected: _TO_MEND,
    PermissionDenied: _TO_MEND,
    ModelNotFound: _TO_MEND,
    DriverMissing: _TO_MEND,
    ContextTooLong: Rule(to="larger window"),
    ContentFiltered: _REFUSED,
    TurnRefused: _REFUSED,
    GenerationFailed: Rule(same="at once", resends=1, to="anybody"),
    WireMismatch: Rule(to="anybody"),
    WorkerLost: Rule(same="suspect", to="anybody", breaker="counts"),
    ProviderDown: Rule(to="anybody"),
}
_FINAL = Rule()


def rule_for(error: TurnError) -> Rule:
    """The error's row."""
    return RULES.get(type(error), _FINAL)


# -- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One failed attempt of a turn. `at`: when it failed. `alone`: no other turn was in flight at that worker."""

    provider: str
    model: str
    error: TurnError
    at: float
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A candidate of the turn's plan as it stands now.

    `idle`: the turn would start there at once: a slot that its lane may have is free, the per-minute limits allow it,
    nobody waits before it, and no other turn is probing there. A provider whose worker is not started yet is idle.
    `closed_until`: it takes no turn before (open breaker, worker down or waiting to be restarted, a named time to come
    back); -math.inf when nothing holds it back, math.inf until the configuration changes. `closed_by`: the error
    behind that. `window`: tokens, 0 when unknown. `lacks`: what the turn asks for and it cannot carry.
    """

    provider: str
    model: str
    idle: bool = True
    closed_until: float = -math.inf
    closed_by: TurnError | None = None
    window: int = 0
    lacks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt, and what bounds a further one. Times are seconds on the clock of `now`.

    `error`: why `options[current]` failed. `attempt`: its number, 1 is the first; `max_attempts`: [runtime]
    max_attempts. `options`: every candidate of the turn's plan, in its order. `tries`: the failed attempts so far,
    oldest first, this one last; without it when nothing was sent (the provider went down while the turn waited).
    `relayed`: events after `started` had reached the client. `resend_safe`: turn and route both allow another attempt
    after this one was lost with its worker. `deadline`: of the turn; math.inf for none.
    `size`: estimate of the prompt in tokens. `wall_offset`: unix time minus this clock, for `reset_at`.
    `park_max_s`: the route's; 0 does not park. `parked_s`: how long the turn was parked before.
    """

    error: TurnError
    attempt: int
    max_attempts: int
    relayed: bool
    resend_safe: bool
    deadline: float
    options: tuple[Option, ...] = ()
    current: int = 0
    tries: tuple[Try, ...] = ()
    size: int = 0
    wall_offset: float = 0.0
    park_max_s: float = 0.0
    parked_s: float = 0.0


# -- what is answered ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendSame:
    """Send the turn again to the same provider and model, not before `at`.

    `alone`: while no other turn is in flight there (Item.alone). `restarted`: withdraw what the client has seen.
    """

    at: float
    alone: bool = False
    restarted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTo:
    """Send the turn to `options[candidate]`, not before `at`. `warning`: for the reply, "" for none."""

    candidate: int
    at: float
    warning: str = ""
    restarted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkUntil:
    """The turn waits until `at` for a quota's reset and then goes to `options[candidate]`."""

    candidate: int
    at: float
    restarted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The turn has failed with `error`."""

    error: TurnError


Decision: TypeAlias = ResendSame | SendTo | ParkUntil | GiveUp


def decide(failure: Failure, now: float, *, jitter: float = 0.0) -> Decision:
    """What to do after `failure`. `jitter`: a random number 0..1; 0 waits the full back-off, 1 half of it.

    Never a resend at or past the deadline, nor beyond `max_attempts`.
    """
    if not failure.options:
        return _decide_blindly(failure, now)
    raise NotImplementedError  # the table is filled in by the next change


def leave_closed(failure: Failure, now: float) -> SendTo | None:
    """Where a turn goes that waits for `options[current]` when that one closes (its breaker opened): None, it stays.

    `failure.error`: what closed it. The turn itself did not fail: nothing is added to its tries.
    """
    raise NotImplementedError  # with the table


def _decide_blindly(failure: Failure, now: float) -> Decision:
    """For a caller that shows no options: one resend of a silent loss."""
    lost = isinstance(failure.error, WorkerLost) and failure.resend_safe and not failure.relayed
    may_go_on = failure.attempt < failure.max_attempts and now < failure.deadline
    if lost and may_go_on and failure.attempt <= RESENDS_AFTER_LOSS:
        return ResendSame(at=now)
    return GiveUp(error=failure.error)

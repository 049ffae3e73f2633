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
from collections import Counter
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
    options: tuple[Option, ...]
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


@dataclass(frozen=True, slots=True)
class SendTo:
    """Send the turn to `options[candidate]`, not before `at`. `warning`: for the reply, "" for none."""

    candidate: int
    at: float
    warning: str = ""
    restarted: bool = False


@dataclass(frozen=True, slots=True)
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
    rule, restarted = rule_for(failure.error), failure.relayed
    if isinstance(failure.error, WorkerLost) and _is_poison(failure):
        return GiveUp(error=_poison(failure))
    ways = [_way(failure, index, now, jitter) for index in range(len(failure.options))]
    if not _may_go_on(failure, rule, now):
        return GiveUp(error=_summary(failure, ways, now))
    own = ways[failure.current]
    alone = _losses(failure, own.option.provider) >= SUSPECT_AFTER_LOSSES
    if own.at <= now and rule.same in {"at once", "suspect"}:
        return ResendSame(at=now, alone=alone, restarted=restarted)
    others = [way for way in ways if way.index != failure.current and way.at <= now]
    if (other := next((way for way in others if way.option.idle), None)) is not None:
        return SendTo(other.index, now, _warning(failure), restarted=restarted)
    if own.at <= now + SHORT_WAIT_S and own.at < failure.deadline and not own.parked:
        return ResendSame(at=own.at, alone=alone, restarted=restarted)
    if others:
        return SendTo(others[0].index, now, _warning(failure), restarted=restarted)
    soonest = min(ways, key=lambda way: way.at)
    if not soonest.at < failure.deadline:
        return GiveUp(error=_summary(failure, ways, now))
    if soonest.parked:
        return ParkUntil(soonest.index, soonest.at, restarted=restarted)
    if soonest is own:
        return ResendSame(at=own.at, alone=alone, restarted=restarted)
    return SendTo(soonest.index, soonest.at, _warning(failure), restarted=restarted)


def leave_closed(failure: Failure, now: float) -> SendTo | None:
    """Where a turn goes that waits for `options[current]` when that one closes (its breaker opened): None, it stays.

    `failure.error`: what closed it. The turn itself did not fail: nothing is added to its tries.
    """
    ways = (_way(failure, index, now, 0.0) for index in range(len(failure.options)) if index != failure.current)
    open_ways = [way for way in ways if way.at <= now]
    if not open_ways or now >= failure.deadline:
        return None
    chosen = next((way for way in open_ways if way.option.idle), open_ways[0])
    return SendTo(chosen.index, now, _warning(failure))


def _may_go_on(failure: Failure, rule: Rule, now: float) -> bool:
    if failure.attempt >= failure.max_attempts or now >= failure.deadline:
        return False
    if isinstance(failure.error, WorkerLost) and not failure.resend_safe:
        return False
    return rule.same != "no" or rule.to != "nobody"


def _warning(failure: Failure) -> str:
    if not rule_for(failure.error).warn:
        return ""
    option = failure.options[failure.current]
    return f"{option.provider} was left for another provider: {failure.error.what}; {failure.error.action}"


# -- when a candidate can take the turn ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    """`at`: from when on the turn may be sent to `option`, math.inf for never. `parked`: that is a quota's reset.

    `named`: the same, but only by times that a provider or breaker named, whether or not the turn may wait so long.
    """

    index: int
    option: Option
    at: float
    parked: bool = False
    named: float = math.inf


def _way(failure: Failure, index: int, now: float, jitter: float) -> _Way:
    option = failure.options[index]
    if option.lacks or not _fits(failure, option) or _is_ruled_out(failure, option):
        return _Way(index, option, math.inf)
    at, named, parked = now, -math.inf, False
    own = [attempt for attempt in failure.tries if _is_at(attempt, option)]
    if own:
        last, rule = own[-1], rule_for(own[-1].error)
        like_it = sum(rule_for(attempt.error) == rule for attempt in own)
        if rule.same == "no":
            return _Way(index, option, math.inf)
        named = _named_time(last, failure.wall_offset)
        parked = rule.same == "parks"
        at = max(now, _again_at(last, rule, like_it, named, jitter))
        if like_it > rule.resends:
            at = math.inf
    if option.closed_until > now:
        closed_rule = _FINAL if option.closed_by is None else rule_for(option.closed_by)
        at, named = max(at, option.closed_until), max(named, option.closed_until)
        parked = parked or closed_rule.same == "parks"
        if closed_rule.same == "no" and option.closed_by is not None:  # waiting mends no key, and a worker that is down
            return _Way(index, option, math.inf, named=math.inf if closed_rule.warn else named)  # fails fast
    if parked and failure.parked_s + (at - now) > failure.park_max_s:
        at = math.inf
    return _Way(index, option, at, parked and at > now, math.inf if named == -math.inf else named)


def _again_at(last: Try, rule: Rule, like_it: int, named: float, jitter: float) -> float:
    """When the provider may have the turn again after `like_it` failures of this kind; math.inf when nobody knows."""
    if rule.same == "parks":
        return named + PARK_MARGIN_S if named > -math.inf else math.inf
    if named > -math.inf and rule.same in {"waits", "backs off"}:
        return named + min((named - last.at) * SPREAD_SHARE, MAX_SPREAD_S) * jitter
    if rule.same in {"waits", "backs off"}:
        full = min(FIRST_BACKOFF_S * 2.0 ** min(like_it - 1, 32), MAX_BACKOFF_S)
        return last.at + full * (1 - JITTER_SHARE * jitter)
    return -math.inf


def _named_time(attempt: Try, wall_offset: float) -> float:
    """When the provider said the turn may come again; -math.inf when it did not."""
    if attempt.error.reset_at is not None:
        return attempt.error.reset_at - wall_offset
    return -math.inf if attempt.error.retry_after_s is None else attempt.at + attempt.error.retry_after_s


def _fits(failure: Failure, option: Option) -> bool:
    """Larger than every window that was too small; where none of those is known, than the turn's own size."""
    too_small = [attempt for attempt in failure.tries if isinstance(attempt.error, ContextTooLong)]
    if not too_small:
        return True
    windows = {(other.provider, other.model): other.window for other in failure.options}
    known = max(windows.get((attempt.provider, attempt.model), 0) for attempt in too_small)
    return option.window > (known or failure.size)


def _is_ruled_out(failure: Failure, option: Option) -> bool:
    """By what happened elsewhere: at another model of its provider, or because the turn may kill workers."""
    for attempt in failure.tries:
        elsewhere = attempt.provider != option.provider
        if elsewhere:
            if _losses(failure, attempt.provider) >= SUSPECT_AFTER_LOSSES:
                return True
        elif attempt.model != option.model:
            if attempt.error.scope == "provider":
                return True
            if rule_for(attempt.error).to == "others" and attempt.error.scope == "turn":
                return True
    return False


def _is_at(attempt: Try, option: Option) -> bool:
    return (attempt.provider, attempt.model) == (option.provider, option.model)


def _losses(failure: Failure, provider: str) -> int:
    return sum(attempt.provider == provider and isinstance(attempt.error, WorkerLost) for attempt in failure.tries)


def _is_poison(failure: Failure) -> bool:
    """It was a suspect, went to the worker alone, and the worker died again."""
    provider = failure.options[failure.current].provider
    return bool(failure.tries) and failure.tries[-1].alone and _losses(failure, provider) > SUSPECT_AFTER_LOSSES


# -- what is said when nobody is left --------------------------------------------------------------------------------


def _poison(failure: Failure) -> TurnError:
    error = failure.error
    return WorkerLost(
        error.provider,
        f"the worker died {_losses(failure, error.provider)} times with this turn in flight, "
        f"the last time with no other turn ({error.what})",
        action="do not post it again as it is; the worker's log may show the line that failed",
        model=error.model,
        started=error.started,
        partial=error.partial,
    )


def _summary(failure: Failure, ways: list[_Way], now: float) -> TurnError:
    """The turn's error: the class and action of the most useful one, and the names of all who failed or were not asked.

    Its `retry_after_s` is the first time at which somebody can take the turn, as far as one was named.
    """
    soonest = min(ways, key=lambda way: way.named)
    chosen = _most_useful(failure, soonest)
    retry_after_s = chosen.retry_after_s
    if soonest.named < math.inf and not _is_last_word(failure):
        retry_after_s = max(0.0, soonest.named - now)
    candidates = _each(failure, now)
    if len(candidates) == 1 and math.isclose(retry_after_s or 0.0, chosen.retry_after_s or 0.0, abs_tol=0.01):
        return chosen
    fields = chosen.to_fields()
    if len(candidates) > 1:
        fields["what"] = f"{chosen.what} ({', '.join(candidates)})"
    if retry_after_s is not None:
        fields["retry_after_s"] = retry_after_s
        if chosen.action == chosen.next_step():
            fields["action"] = ""  # it is made anew, with the time
    return TurnError.from_fields(fields, failure.error.partial)


def _is_last_word(failure: Failure) -> bool:
    """Whatever happened before, the turn ended of this."""
    lost_for_good = isinstance(failure.error, WorkerLost) and not failure.resend_safe
    return lost_for_good or rule_for(failure.error) is _FINAL


def _most_useful(failure: Failure, soonest: _Way) -> TurnError:
    """Of whoever can take the turn first; else the last one that passes by itself; else the first, the route's own."""
    if _is_last_word(failure):
        return failure.error
    errors = [attempt.error for attempt in failure.tries] or [failure.error]
    if soonest.named < math.inf:
        option = soonest.option
        own = [attempt.error for attempt in failure.tries if _is_at(attempt, option)]
        return own[-1] if own else option.closed_by or errors[-1]
    passing = [error for error in errors if rule_for(error).same not in {"no", "parks"}]
    return passing[-1] if passing else errors[0]


def _each(failure: Failure, now: float) -> list[str]:
    """One short clause a candidate: what it failed with, or why it was not asked."""
    clauses = []
    for index, option in enumerate(failure.options):
        is_own_model = sum(other.provider == option.provider for other in failure.options) > 1
        name = f"{option.provider}/{option.model}" if is_own_model else option.provider
        own = [type(attempt.error).__name__ for attempt in failure.tries if _is_at(attempt, option)]
        if not own and index == failure.current:
            own = [type(failure.error).__name__]
        if own:
            clauses.append(f"{name}: {' and '.join(_counted(own))}")
        elif option.lacks:
            clauses.append(f"{name}: cannot carry {', '.join(sorted(option.lacks))}")
        elif option.closed_until > now:
            why = type(option.closed_by).__name__ if option.closed_by else "closed"
            clauses.append(f"{name}: not asked, {why} before")
    return clauses


def _counted(names: list[str]) -> list[str]:
    return [name if count == 1 else f"{name} {count} times" for name, count in Counter(names).items()]

"""Who takes no turns for a while, because too many failed there. Pure: `now` is an argument, turns are names.

A breaker belongs to a provider (a wrong key, no connection: the error's scope) or to one model of a provider. It is
closed; open until a time; then half open: exactly one turn that waits is sent as a probe, never a request of our own.
Its success closes the breaker, its failure opens it for longer. Which error counts and which opens at once is the last
column of the table in retry.py. A provider that names a time to come back (Retry-After) is left alone until then, also
while its breaker is closed.

The probe belongs to the turn that is in flight: it ends with `done`, `failed` or `gone` of that turn, and there is no
other record of it. So whoever calls one of these three at the end of every attempt cannot leak it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from loopforge.drivers.errors import ContentFiltered, ContextTooLong, QuotaExhausted, TurnError, TurnRefused, WorkerLost
from loopforge.runtime.retry import rule_for

EVERY_MODEL = ""
"""In place of a model's name: the provider as a whole."""

_MAX_DOUBLINGS = 32  # beyond any bound; keeps 2**n small
_MAX_QUOTA_S = 31 * 86_400.0  # no plan resets later; a time beyond is a provider's mistake
_ANSWERED = (ContextTooLong, ContentFiltered, TurnRefused)  # the provider is well: it read the turn and said no


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """`failures` counted ones within `window_s` open a breaker for `open_s`; each failed probe doubles that, at most
    to `max_open_s`. `max_hold_s` bounds a Retry-After. Seconds.
    """

    failures: int = 5
    window_s: float = 30.0
    open_s: float = 60.0
    max_open_s: float = 600.0
    max_hold_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Gate:
    """How many turns of a model may start now: 0, or 1 as the probe. `until`: math.inf when no time is known."""

    allow: int
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Why a provider or model takes no turns. `until`: -math.inf when it does; `probing`: by one turn at the moment."""

    until: float = -math.inf
    by: TurnError | None = None
    probing: bool = False


NOT_CLOSED = Closed()


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStatus:
    """For `loopforge status`. `model`: "" for the whole provider. `until`: when it is half open, or comes back."""

    provider: str
    model: str
    state: Literal["closed", "open", "half open"]
    failures: int
    until: float
    why: str
    probing: str


class Breakers:
    """All breakers of a running configuration. `turn`: the attempt's name, such as the turn's place in its queue."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._providers: dict[str, dict[str, _Breaker]] = {}  # by provider, then by model
        self._in_flight: dict[str, _Attempt] = {}
        self._events = 0  # orders what was sent and what opened; two of them may share a moment

    # -- attempts ----------------------------------------------------------------------------------------------------

    def sent(self, turn: str, provider: str, model: str, generation: int, now: float, *, pinned: bool = False) -> None:
        """The turn goes to that worker generation now. Takes the probe of each half-open breaker on its way.

        `pinned`: the client chose provider or model. Such a turn is not held up, never opens a breaker, and can
        close one.
        """
        self._events += 1
        self._in_flight[turn] = _Attempt(provider, model, generation, self._events, pinned)
        if not pinned:
            for _, breaker in self._on_the_way(provider, model):
                if breaker.state(now) == "half open" and breaker.probe is None:
                    breaker.probe = turn

    def done(self, turn: str, now: float) -> bool:
        """The attempt brought an answer. True: a breaker closed, so more turns may start (assign again)."""
        if (attempt := self._in_flight.pop(turn, None)) is None:
            return False
        closed = False
        for _, breaker in self._on_the_way(attempt.provider, attempt.model):
            breaker.end_probe(turn)
            if breaker.opened and attempt.number > breaker.opened:  # an older attempt tells of the time before
                breaker.close(now)
                closed = True
        return closed

    def failed(self, turn: str, error: TurnError, now: float, *, wall_offset: float) -> bool:
        """The attempt failed. True: a breaker opened, so turns that wait may want to leave (leave_closed).

        All losses of one worker generation count as one. `wall_offset`: unix time minus this clock.
        """
        if (attempt := self._in_flight.pop(turn, None)) is None or attempt.pinned:
            return False
        effect = rule_for(error).breaker
        key = {"provider": EVERY_MODEL, "model": attempt.model}.get(error.scope)
        for model, breaker in self._on_the_way(attempt.provider, attempt.model):
            was_probe = breaker.end_probe(turn)
            if was_probe and (isinstance(error, _ANSWERED) or (model == EVERY_MODEL and error.scope == "model")):
                breaker.close(now)
            elif was_probe and model == key and effect != "no":
                self._open(breaker, error, now, wall_offset)
                return True
        if key is None or effect == "no":
            return False
        models = self._providers.setdefault(attempt.provider, {})
        breaker = models.setdefault(key, _Breaker())
        if rule_for(error).same == "waits" and error.retry_after_s:
            breaker.hold(error, now + min(error.retry_after_s, self._policy.max_hold_s))
        if breaker.opened:
            if effect == "opens" and breaker.state(now) == "open":  # the same again, with a later time perhaps
                breaker.open_until = max(breaker.open_until, _reset(error, now, wall_offset))
            return False
        if isinstance(error, WorkerLost):
            if breaker.lost_generation == attempt.generation:
                return False
            breaker.lost_generation = attempt.generation
        breaker.count(now, self._policy.window_s)
        if effect == "counts" and len(breaker.failures) < self._policy.failures:
            return False
        self._open(breaker, error, now, wall_offset)
        return True

    def gone(self, turn: str) -> None:
        """The attempt ended without a verdict (cancelled, overdue, never left). Does nothing for one not sent."""
        if (attempt := self._in_flight.pop(turn, None)) is not None:
            for _, breaker in self._on_the_way(attempt.provider, attempt.model):
                breaker.end_probe(turn)

    # -- views -------------------------------------------------------------------------------------------------------

    def look(self, provider: str, model: str, now: float) -> Closed:
        """For router.py and retry.py: whether and until when that model, or its provider, takes no turns."""
        closed = NOT_CLOSED
        if provider not in self._providers:
            return closed
        for _, breaker in self._on_the_way(provider, model):
            until, by = breaker.closed(now)
            probing = closed.probing or breaker.probe is not None
            if until > closed.until:
                closed = Closed(until=until, by=by, probing=probing)
            elif probing:
                closed = Closed(until=closed.until, by=closed.by, probing=True)
        return closed

    def gates(self, provider: str, now: float) -> Mapping[str, Gate]:
        """For TaskQueue.assign: by model, EVERY_MODEL among them. What is not named may start freely."""
        gates = {}
        for model, breaker in self._providers.get(provider, _NONE).items():
            until, _ = breaker.closed(now)
            if until > now:
                gates[model] = Gate(allow=0, until=until)
            elif breaker.opened:
                gates[model] = Gate(allow=1 if breaker.probe is None else 0, until=math.inf)
        return gates

    def snapshot(self, now: float) -> list[BreakerStatus]:
        """Every breaker that is not closed, has counted failures, or holds turns back."""
        rows = []
        for provider, models in self._providers.items():
            for model, breaker in models.items():
                breaker.forget(now, self._policy.window_s)
                until, by = breaker.closed(now)
                if breaker.opened or breaker.failures or until > now:
                    rows.append(
                        BreakerStatus(
                            provider=provider,
                            model=model,
                            state=breaker.state(now),
                            failures=len(breaker.failures),
                            until=until,
                            why=by.describe() if by else "",
                            probing=breaker.probe or "",
                        )
                    )
        return rows

    def reload(self, providers: Collection[str] | None = None) -> None:
        """Another configuration: close those of the providers whose entry changed or is gone; None: all.

        What is in flight there tells of the old configuration: it no longer counts.
        """
        for provider in list(self._providers) if providers is None else providers:
            self._providers.pop(provider, None)
        for turn, attempt in list(self._in_flight.items()):
            if providers is None or attempt.provider in providers:
                del self._in_flight[turn]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _on_the_way(self, provider: str, model: str) -> Iterator[tuple[str, _Breaker]]:
        """The breakers that a turn to that model passes: its provider's, and its own."""
        models = self._providers.get(provider, _NONE)
        for name in (EVERY_MODEL, model):
            if (breaker := models.get(name)) is not None:
                yield name, breaker

    def _open(self, breaker: _Breaker, error: TurnError, now: float, wall_offset: float) -> None:
        policy = self._policy
        self._events += 1
        breaker.opened = self._events
        breaker.failures.clear()
        open_s = min(policy.open_s * 2.0 ** min(breaker.openings, _MAX_DOUBLINGS), policy.max_open_s)
        breaker.openings += 1
        reset = _reset(error, now, wall_offset)
        breaker.open_until = reset if reset > now else now + open_s
        breaker.by = TurnError.from_fields(error.to_fields())  # a copy without partial answer and traceback


def _reset(error: TurnError, now: float, wall_offset: float) -> float:
    """When the quota is whole again, -math.inf when that is not known or the error is about something else."""
    if not isinstance(error, QuotaExhausted):
        return -math.inf
    if error.reset_at is not None:
        return min(error.reset_at - wall_offset, now + _MAX_QUOTA_S)
    return -math.inf if error.retry_after_s is None else now + min(error.retry_after_s, _MAX_QUOTA_S)


@dataclass(frozen=True, slots=True)
class _Attempt:
    provider: str
    model: str
    generation: int
    number: int
    pinned: bool


@dataclass(slots=True, eq=False)
class _Breaker:
    """`opened`: the event's number, 0 while closed. `openings`: in a row. `hold_until`: a named time to come back."""

    failures: deque[float] = field(default_factory=deque)
    opened: int = 0
    openings: int = 0
    open_until: float = -math.inf
    by: TurnError | None = None
    hold_until: float = -math.inf
    hold_by: TurnError | None = None
    probe: str | None = None
    lost_generation: int = -1

    def state(self, now: float) -> Literal["closed", "open", "half open"]:
        if not self.opened:
            return "closed"
        return "open" if now < self.open_until else "half open"

    def closed(self, now: float) -> tuple[float, TurnError | None]:
        """Until when it takes no turn, and why; -math.inf when it takes some. A half-open one takes its probe."""
        if now < self.hold_until and self.hold_until >= self.open_until:
            return self.hold_until, self.hold_by
        if now < self.open_until:
            return self.open_until, self.by
        return -math.inf, self.by if self.opened else None

    def count(self, now: float, window_s: float) -> None:
        self.failures.append(now)
        self.forget(now, window_s)

    def forget(self, now: float, window_s: float) -> None:
        while self.failures and now - self.failures[0] >= window_s:
            self.failures.popleft()

    def hold(self, error: TurnError, until: float) -> None:
        if until > self.hold_until:
            self.hold_until, self.hold_by = until, TurnError.from_fields(error.to_fields())

    def close(self, now: float) -> None:
        self.opened = self.openings = 0
        self.open_until, self.by, self.probe = -math.inf, None, None
        self.hold_until = min(self.hold_until, now)
        self.failures.clear()

    def end_probe(self, turn: str) -> bool:
        """Whether the turn was the probe; it is no longer."""
        if self.probe != turn:
            return False
        self.probe = None
        return True


_NONE: Mapping[str, _Breaker] = {}

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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from loopforge.drivers.errors import TurnError

EVERY_MODEL = ""
"""In place of a model's name: the provider as a whole."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
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

    def __init__(self, policy: BreakerPolicy | None = None) -> None: ...

    # -- attempts ----------------------------------------------------------------------------------------------------

    def sent(self, turn: str, provider: str, model: str, generation: int, now: float, *, pinned: bool = False) -> None:
        """The turn goes to that worker generation now. Takes the probe of each half-open breaker on its way.

        `pinned`: the client chose provider or model. Such a turn is not held up, never opens a breaker, and can
        close one.
        """

    def done(self, turn: str, now: float) -> bool:
        """The attempt brought an answer. True: a breaker closed, so more turns may start (assign again)."""
        raise NotImplementedError

    def failed(self, turn: str, error: TurnError, now: float, *, wall_offset: float) -> bool:
        """The attempt failed. True: a breaker opened, so turns that wait may want to leave (leave_closed).

        All losses of one worker generation count as one. `wall_offset`: unix time minus this clock.
        """
        raise NotImplementedError

    def gone(self, turn: str) -> None:
        """The attempt ended without a verdict (cancelled, overdue, never left). Does nothing for one not sent."""

    # -- views -------------------------------------------------------------------------------------------------------

    def look(self, provider: str, model: str, now: float) -> Closed:
        """For router.py and retry.py: whether and until when that model, or its provider, takes no turns."""
        raise NotImplementedError

    def gates(self, provider: str, now: float) -> Mapping[str, Gate]:
        """For TaskQueue.assign: by model, EVERY_MODEL among them. What is not named may start freely."""
        raise NotImplementedError

    def snapshot(self, now: float) -> list[BreakerStatus]:
        """Every breaker that is not closed, has counted failures, or holds turns back."""
        raise NotImplementedError

    def reload(self, providers: Collection[str] | None = None) -> None:
        """Another configuration: close those of the providers whose entry changed or is gone; None: all."""

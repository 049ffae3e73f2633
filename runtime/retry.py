"""The one place that decides what happens after a failed attempt. Drivers, transport and workers never resend.

A decision is a function of the error's class and fields, what was already done for the turn, and the time. It sends
nothing: dispatch.py acts on it. Rows of the table, in the order of `decide`:

    error        resent                                                           otherwise
    WorkerLost   once, at once, when nothing of the answer was relayed            give up
    all others   never                                                            give up
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from loopforge.drivers.errors import TurnError, WorkerLost

# A turn that was in flight when its worker died may be what killed it: one resend, so that a poisonous turn
# costs two workers and no more.
RESENDS_AFTER_LOSS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed attempt, and what bounds a further one.

    `attempt`: its number, 1 is the first. `max_attempts`: [runtime] max_attempts.
    `relayed`: events after `started` had reached the client. `resend_safe`: turn and route both allow another attempt
    after this one was lost. `deadline`: of the turn, seconds on the clock of `now`.
    """

    error: TurnError
    attempt: int
    max_attempts: int
    relayed: bool
    resend_safe: bool
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendSame:
    """Send the turn again to the same provider and model, not before `at` (seconds on the clock of `now`)."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The turn has failed with `error`."""

    error: TurnError


Decision: TypeAlias = ResendSame | GiveUp


def decide(failure: Failure, now: float) -> Decision:
    """What to do after `failure`. Never a resend at or past the deadline, nor beyond `max_attempts`."""
    may_go_on = failure.attempt < failure.max_attempts and now < failure.deadline
    if may_go_on and isinstance(failure.error, WorkerLost) and _silent_loss(failure):
        return ResendSame(at=now)
    return GiveUp(error=failure.error)


def _silent_loss(failure: Failure) -> bool:
    """The client has seen nothing of the lost attempt, and another one does no harm."""
    return failure.resend_safe and not failure.relayed and failure.attempt <= RESENDS_AFTER_LOSS

"""What the tests of the retry brain share: candidates, failed attempts, every class of error."""

from __future__ import annotations

from dataclasses import replace

from loopforge.drivers import errors as driver_errors
from loopforge.drivers.errors import (
    TurnError,
)
from loopforge.runtime import errors as runtime_errors
from loopforge.runtime.retry import (
    Decision,
    Failure,
    GiveUp,
    Option,
    Try,
)

NOW = 1000.0
HOME = Option(provider="home", model="m")
CLOUD = Option(provider="cloud", model="m")
THIRD = Option(provider="third", model="m")
BUSY_CLOUD = replace(CLOUD, idle=False)


def tried(option: Option, error: TurnError, *, at: float = NOW, alone: bool = False) -> Try:
    error.provider, error.model = option.provider, option.model
    return Try(provider=option.provider, model=option.model, error=error, at=at, alone=alone)


def failed(
    *tries: Try,
    options: tuple[Option, ...] = (HOME, CLOUD),
    attempt: int | None = None,
    max_attempts: int = 100,
    deadline: float = NOW + 1800,
    relayed: bool = False,
    resend_safe: bool = True,
    size: int = 0,
    wall_offset: float = 0.0,
    park_max_s: float = 0.0,
    parked_s: float = 0.0,
) -> Failure:
    """The last of the tries has just failed."""
    places = [(option.provider, option.model) for option in options]
    return Failure(
        error=tries[-1].error,
        attempt=len(tries) if attempt is None else attempt,
        max_attempts=max_attempts,
        relayed=relayed,
        resend_safe=resend_safe,
        deadline=deadline,
        options=options,
        current=places.index((tries[-1].provider, tries[-1].model)),
        tries=tries,
        size=size,
        wall_offset=wall_offset,
        park_max_s=park_max_s,
        parked_s=parked_s,
    )


def gave_up(decision: Decision) -> TurnError:
    assert isinstance(decision, GiveUp)
    return decision.error


CLASSES = {
    name: cls
    for module in (driver_errors, runtime_errors)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and issubclass(cls, TurnError)
}

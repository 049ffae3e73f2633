"""Turns with fallbacks in virtual time: configurations, and what came of a turn. For the tests of fallbacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from loopforge.drivers.errors import (
    TurnError,
)
from loopforge.drivers.turn import (
    Event,
)
from loopforge.runtime.config.values import Config, Target
from loopforge.runtime.errors import ProviderDown
from tests.fakes.worker import Break, Die, Script
from tests.runtime.core import Core, config, provider, turn
from tests.runtime.retrying import CLASSES

EPOCH = 1_000_000_000.0
"""What wall clocks show when the virtual one shows 0."""
NARROW, WIDE = 10_000, 100_000
HOME = provider("home", context_window=NARROW)
CLOUD = provider("cloud", context_window=WIDE)
THIRD = provider("third", context_window=WIDE)


def chain(*names: str, max_attempts: int = 4, busy: str = "", **route: Any) -> Config:
    """planning goes to these providers in this order. `busy`: the one that has a single slot, for coding too."""
    settings = {item.name: item for item in (HOME, CLOUD, THIRD)}
    chosen = [
        replace(settings[name], max_concurrency=1, reserve=0) if name == busy else settings[name] for name in names
    ]
    made = config(*chosen, max_attempts=max_attempts)
    targets = tuple(Target(provider=item.name, model=item.default_model) for item in chosen)
    planning = replace(made.routes["planning"], targets=targets, **route)
    return replace(made, routes={**made.routes, "planning": planning})


def on_virtual_time(core: Core) -> None:
    """Wall time goes as the virtual clock does, from EPOCH on."""
    core.supervisor.dispatcher.ledger.wall = lambda: EPOCH + trio.current_time()


def failing(name: str, **members: Any) -> Script:
    """An attempt that ends with this class of error; a lost worker is one that dies."""
    if name == "WorkerLost":
        return (Die(),)
    if name == "ProviderDown":
        return (Break(ProviderDown("home", **members)),)
    return (Break(CLASSES[name]("home", **members)),)


def asked(core: Core, turn_id: str = "t1") -> list[str]:
    """Who was sent the turn, one word an attempt."""
    return [provider for provider, _ in core.workers.attempts[turn_id]]


def assert_nothing_is_left(core: Core) -> None:
    dispatcher = core.supervisor.dispatcher
    assert dispatcher.ledger.live == {}
    assert dispatcher.ledger.budget.held_bytes == 0
    for desk in dispatcher.desks.values():
        assert (desk.running, len(desk.queue)) == ({}, 0)
        assert desk.queue.free_slots == desk.settings.max_concurrency
    assert not [row for row in dispatcher.floor.breakers.snapshot(trio.current_time()) if row.probing]


async def events_of(core: Core, turn_id: str = "t1", **members: Any) -> list[Event]:
    async with core.runtime.stream(turn(turn_id, **members)) as stream:
        return [event async for event in stream]


async def failure_of(core: Core, turn_id: str = "t1", **members: Any) -> TurnError:
    with pytest.raises(TurnError) as caught:
        await core.runtime.ask(turn(turn_id, **members))
    return caught.value

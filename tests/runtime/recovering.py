"""A journal that survives its service, in virtual time. For the tests of recovery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

from loopforge.drivers.errors import (
    TurnError,
)
from loopforge.runtime.client import Runtime
from loopforge.runtime.config.values import Config
from loopforge.runtime.journal.operations import Show, StoredTurn
from loopforge.runtime.journal.store import Store
from tests.fakes.journal import SteppedJournal
from tests.fakes.worker import FakeWorkers, Say, Script, Wait
from tests.fakes.worker import Finish as End
from tests.runtime.core import Core, config, open_core, provider
from tests.runtime.journal.sample import do

EPOCH = 1_000_000_000.0
SLOW: Script = (Say("slow"), Wait(100), End())
LOCAL = provider("local", max_concurrency=2, reserve=0)
SETUP = config(LOCAL, reattach_grace_s=30)


def wall() -> float:
    """Wall clocks go on as the virtual clock does, over a crash, too."""
    return EPOCH + trio.current_time()


@dataclass
class Disk:
    """What survives."""

    store: Store

    @asynccontextmanager
    async def service(
        self, workers: FakeWorkers | None = None, *, setup: Config = SETUP, **journal: Any
    ) -> AsyncIterator[tuple[Core, SteppedJournal]]:
        opened = SteppedJournal(self.store, **journal)
        async with open_core(setup, workers, journal=opened, wall=wall) as core:
            yield core, opened
            opened.crash()  # also at the end of a test: nothing of a stop is tested here

    def turn(self, turn_id: str) -> StoredTurn:
        [found] = do(self.store, Show(id=turn_id))
        assert found.turn is not None
        stored: StoredTurn = found.turn
        return stored


def on_route(setup: Config, **changes: Any) -> Config:
    return replace(setup, routes={**setup.routes, "planning": replace(setup.routes["planning"], **changes)})


async def outcome_of(runtime: Runtime, turn_id: str) -> TurnError | str:
    try:
        return (await runtime.wait(turn_id)).text
    except TurnError as exc:
        return exc


def assert_nothing_is_left(core: Core) -> None:
    dispatcher = core.supervisor.dispatcher
    assert dispatcher.ledger.live == {}
    assert dispatcher.ledger._by_id == {}
    assert dispatcher.ledger.budget.held_bytes == 0
    for desk in dispatcher.desks.values():
        assert (desk.running, len(desk.queue)) == ({}, 0)
        assert desk.queue.free_slots == desk.settings.max_concurrency

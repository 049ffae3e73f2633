"""What signals mean to a service: how long it goes on, and with what it ends."""

from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import MockClock

from loopforge.runtime.errors import Draining
from loopforge.runtime.serve import SAME_SIGNAL_S, until_stopped
from tests.fakes.worker import FakeWorkers, Finish, Say, Wait
from tests.runtime.core import config, open_core, provider, turn


async def test_sigterm_that_comes_twice_at_a_time_is_one(autojump_clock: MockClock) -> None:
    """As timeout(1) sends it: to its child, and then to the group that this is in."""
    workers = FakeWorkers(scripts={"long": [(Say("begun"), Wait(10), Finish())]})
    failed: list[int] = []
    async with open_core(config(provider("local"), drain_s=20), workers) as core, trio.open_nursery() as nursery:

        async def stop() -> None:
            failed.append(await until_stopped(core.supervisor))

        nursery.start_soon(stop)
        await core.runtime.post(turn("long"))
        await trio.sleep(1)
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(SAME_SIGNAL_S / 2)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Draining):
            await core.runtime.ask(turn("new"))
        assert (await core.runtime.wait("long")).text == "begun"
    assert failed == [0]


async def test_a_second_sigterm_later_than_that_stops_now(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"long": [(Say("begun"), Wait(10), Finish())]})
    failed: list[int] = []
    async with open_core(config(provider("local"), drain_s=20), workers) as core, trio.open_nursery() as nursery:

        async def stop() -> None:
            failed.append(await until_stopped(core.supervisor))

        nursery.start_soon(stop)
        await core.runtime.post(turn("long"))
        await trio.sleep(1)
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(SAME_SIGNAL_S * 1.5)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Draining):
            await core.runtime.wait("long")
        assert trio.current_time() < 2
    assert failed == [1]

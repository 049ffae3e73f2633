"""A worker that somebody ends by hand: it finishes what it has, and what comes meanwhile is another one's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from loopforge.drivers.turn import Accepted, Done, Started
from loopforge.runtime.errors import NoRoute, TurnCancelled
from tests.fakes.worker import FakeWorkers, Finish, Say, Wait
from tests.runtime.core import Core, config, open_core, provider, turn
from tests.runtime.recovering import Disk, on_route

LOCAL = provider("local", max_concurrency=2, reserve=0, requests_per_minute=2)
SETUP = on_route(config(LOCAL, provider("cloud"), max_attempts=1), resend=False)
"""Here an attempt that is lost is the last one."""


def workers() -> FakeWorkers:
    return FakeWorkers(scripts={"long": [(Say("begun"), Wait(30), Finish())]})


@contextmanager
def assert_nobody_failed(core: Core) -> Iterator[None]:
    dispatcher = core.supervisor.dispatcher
    yield
    desk = dispatcher.desks["local"]
    assert (desk.deaths, desk.outcomes["failed"]) == (0, 0)
    assert desk.traffic.snapshot(trio.current_time())["failed"] == {}
    assert dispatcher.floor.breakers.snapshot(trio.current_time()) == []
    assert dispatcher.ledger.live == {}
    assert dispatcher.ledger.budget.held_bytes == 0
    assert desk.queue.free_slots == 2


async def test_a_turn_that_crossed_with_the_end_of_its_worker_is_the_next_ones(autojump_clock: MockClock) -> None:
    """It was on its way when the worker was told to end: nothing of it has begun, and no attempt is counted."""
    async with open_core(SETUP, workers()) as core:
        with assert_nobody_failed(core):
            await core.runtime.post(turn("long"))
            await trio.sleep(1)
            old = core.workers.alive["local"]
            old.late_s = 1
            async with core.runtime.stream(turn("crosses")) as stream:
                await trio.sleep(0.5)
                await old.terminate()
                events = [event async for event in stream]
            accepted, started, *_, done = events
            assert isinstance(accepted, Accepted)
            assert isinstance(started, Started)
            assert isinstance(done, Done)
            assert (done.reply.text, done.reply.attempts) == ("hello", 1)
            assert trio.current_time() < 5, "of the two requests a minute it took one"
            assert len(core.workers.attempts["crosses"]) == 1
            assert (await core.runtime.wait("long")).text == "begun"


async def test_a_turn_that_crossed_and_was_cancelled_is_cancelled(autojump_clock: MockClock) -> None:
    async with open_core(SETUP, workers()) as core:
        with assert_nobody_failed(core):
            await core.runtime.post(turn("long"))
            await trio.sleep(1)
            old = core.workers.alive["local"]
            old.late_s = 1
            await core.runtime.post(turn("crosses"))
            await old.terminate()
            await core.runtime.cancel("crosses")
            with pytest.raises(TurnCancelled):
                await core.runtime.wait("crosses")
            await core.runtime.wait("long")


async def test_a_turn_that_crossed_fails_by_name_when_its_provider_has_left_the_configuration(
    autojump_clock: MockClock,
) -> None:
    async with open_core(SETUP, workers()) as core:
        await core.runtime.post(turn("long"))
        await trio.sleep(1)
        old = core.workers.alive["local"]
        old.late_s = 1
        await core.runtime.post(turn("crosses"))
        await old.terminate()
        await wait_all_tasks_blocked()
        providers = {"cloud": SETUP.providers["cloud"]}
        core.supervisor.adopt(replace(SETUP, providers=providers, routes={"coding": SETUP.routes["coding"]}))
        with pytest.raises(NoRoute):
            await core.runtime.wait("crosses")
        assert (await core.runtime.wait("long")).text == "begun"


async def test_a_turn_whose_attempt_is_being_written_down_as_its_worker_is_ended_goes_to_the_next(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(workers(), setup=SETUP) as (core, journal):
        with assert_nobody_failed(core):
            await core.runtime.post(turn("long"))
            await trio.sleep(1)
            journal.hold()
            texts: list[str] = []

            async def ask() -> None:
                texts.append((await core.runtime.ask(turn("next"))).text)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await wait_all_tasks_blocked()
                await core.workers.alive["local"].terminate()
                await trio.sleep(1)
                journal.release()
            assert texts == ["hello"]
            assert disk.turn("next").attempts == 1
            assert (await core.runtime.wait("long")).text == "begun"
            await trio.sleep(1)


async def test_an_idle_worker_that_is_ended_by_hand_is_followed_by_another_and_is_no_death(
    autojump_clock: MockClock,
) -> None:
    async with open_core(SETUP) as core:
        with assert_nobody_failed(core):
            await trio.sleep(1)
            for _ in range(10):
                await core.workers.alive["local"].terminate()
                await trio.sleep(0.1)
            assert (await core.runtime.ask(turn())).text == "hello"
            assert len(core.supervisor.dispatcher.floor.all_desks) == 2

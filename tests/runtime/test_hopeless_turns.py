"""A turn that cannot start before its deadline is refused as soon as that is known, and nobody is asked for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import RateLimited, StreamBroken
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import open_simulator
from loopforge.drivers.turn import Limits, Turn, user
from loopforge.runtime.client import open_runtime
from loopforge.runtime.errors import DeadlineExceeded
from loopforge.workers.messages import FrameType, pack
from loopforge.workers.packing import to_plain
from tests.fakes.worker import Break, FakeWorkers, Finish, Say, Script, Send, Wait
from tests.runtime.core import config, open_core, provider, turn, with_fallback

QUICK = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=3)


def answer_that_uses_up(reset_s: float) -> Script:
    """5 s of answer, whose headers say that there is no request left until `reset_s` later."""
    used_up = Limits(requests_limit=10, requests_remaining=0, requests_reset_s=reset_s)
    header = {"finish": "stop", "usage": {}, "timings": {"total_s": 0.0}, "has_tool_calls": False}
    return (Say("x"), Wait(5), Send(FrameType.DONE, pack({**header, "limits": to_plain(used_up)}), b"\x80"))


async def test_a_turn_whose_minute_is_used_up_is_refused_at_once_with_the_time(autojump_clock: MockClock) -> None:
    async with open_core(config(provider("local", requests_per_minute=1))) as core:
        await core.runtime.ask(turn("t1"))
        asked_at = trio.current_time()
        with pytest.raises(RateLimited) as caught:
            await core.runtime.ask(turn("t2", deadline_s=30))
        assert trio.current_time() == asked_at
        assert caught.value.retry_after_s is not None
        assert 59 < caught.value.retry_after_s <= 60
        assert (await core.runtime.ask(turn("t3", deadline_s=90))).text == "hello"
        assert trio.current_time() - asked_at >= 59
        assert "t2" not in core.workers.attempts


async def test_a_turn_goes_at_once_to_the_candidate_that_can_start_it_in_time(autojump_clock: MockClock) -> None:
    """The first one's minute is used up until behind the deadline, the second one is idle."""
    home, cloud = provider("home", requests_per_minute=1), provider("cloud")
    async with open_core(with_fallback(config(home, cloud), "planning", cloud, spill=False)) as core:
        assert (await core.runtime.ask(turn("t1"))).provider == "home"
        assert (await core.runtime.ask(turn("t2", deadline_s=30))).provider == "cloud"


async def test_a_turn_that_waits_leaves_for_a_candidate_that_can_start_it_in_time(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [answer_that_uses_up(50.0)]})
    home, cloud = provider("home", max_concurrency=1, reserve=0), provider("cloud")
    async with open_core(with_fallback(config(home, cloud), "planning", cloud, spill=False), workers) as core:
        await core.runtime.post(turn("t1", detached=True))
        assert (await core.runtime.ask(turn("t2", deadline_s=20))).provider == "cloud"


async def test_a_turn_that_waits_learns_at_once_that_the_provider_lets_it_not_start_in_time(
    autojump_clock: MockClock,
) -> None:
    """What the answer before it says of the limits: the rest of its deadline is not spent on waiting in vain."""
    workers = FakeWorkers(scripts={"t1": [answer_that_uses_up(50.0)]})
    async with open_core(config(provider("local", max_concurrency=1, reserve=0)), workers) as core:
        await core.runtime.post(turn("t1", detached=True))
        await core.runtime.post(turn("late", deadline_s=20))
        await core.runtime.post(turn("patient", deadline_s=200))
        with pytest.raises((RateLimited, DeadlineExceeded)):
            await core.runtime.wait("late")
        assert trio.current_time() < 7, "it was told when the provider had said so, and not at its deadline"
        assert (await core.runtime.wait("patient")).text == "hello"
        assert "late" not in core.workers.attempts


async def test_of_turns_that_wait_for_the_minute_those_learn_at_once_whose_turn_comes_too_late(
    autojump_clock: MockClock,
) -> None:
    """One request a minute, two turns with a deadline in 70 s: the second one has no chance once the first waits."""
    async with open_core(config(provider("local", requests_per_minute=1))) as core:
        await core.runtime.ask(turn("t1"))
        began = trio.current_time()
        await core.runtime.post(turn("t2", deadline_s=70))
        with pytest.raises((RateLimited, DeadlineExceeded)):
            await core.runtime.ask(turn("t3", deadline_s=70))
        assert trio.current_time() - began < 62, "at the latest as t2 took the minute"
        assert (await core.runtime.wait("t2")).text == "hello"
        assert "t3" not in core.workers.attempts


async def test_an_answer_that_was_cut_counts_as_a_whole_one_against_the_minute(autojump_clock: MockClock) -> None:
    """What had come of it when it was cut is no more than its provider had told so far."""
    books = {"fields": StreamBroken("local").to_fields(), "usage": {"input": 20, "output": 1}}
    workers = FakeWorkers(scripts={"t1": [(Say("x"), Send(FrameType.ERROR, pack(books))), (Say("x"), Finish())]})
    async with open_core(config(provider("local", tokens_per_minute=100_000)), workers) as core:
        await core.runtime.ask(turn("t1"))
        minute = core.supervisor.dispatcher.desks["local"].queue.minute.snapshot(trio.current_time())
        assert minute.requests == 2
        assert minute.tokens > 20 + 2 * 490


async def test_no_attempt_is_begun_whose_wait_ends_behind_the_deadline(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Break(RateLimited("local", retry_after_s=40.0)),), (Say("x"), Finish())]})
    async with open_core(config(provider("local")), workers) as core:
        with pytest.raises(RateLimited):
            await core.runtime.ask(turn("t1", deadline_s=30))
        assert trio.current_time() < 5
        assert len(core.workers.attempts["t1"]) == 1


async def test_a_refused_turn_never_reaches_a_real_provider() -> None:
    async with open_simulator({"local": QUICK}) as simulator:
        limited = provider("local", base_url=simulator.base_url("local"), requests_per_minute=1)
        with trio.fail_after(30):
            async with open_runtime(config(limited)) as runtime:
                asked = Turn(kind="coding", messages=(user("hello"),))
                await runtime.ask(asked)
                with pytest.raises(RateLimited) as caught:
                    await runtime.ask(replace(asked, deadline_s=20.0))
                assert "deadline" in str(caught.value)
                desk = (await runtime.status())["providers"][0]
                assert (desk["running"], desk["queued_bytes"]) == (0, 0)
        assert simulator.stats.requests == 1

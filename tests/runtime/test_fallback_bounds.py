"""How often, how long and where a turn is tried again at most, and parking: through the whole runtime, virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import (
    Overloaded,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    StreamBroken,
    WorkerLost,
)
from loopforge.runtime.errors import TurnCancelled
from tests.fakes.worker import ANSWER, Break, Die, FakeWorkers, Wait
from tests.runtime.chains import (
    EPOCH,
    asked,
    assert_nothing_is_left,
    chain,
    failing,
    failure_of,
    on_virtual_time,
)
from tests.runtime.core import open_core, turn

# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1, 2, 3])
async def test_no_turn_is_sent_more_often_than_max_attempts(autojump_clock: MockClock, bound: int) -> None:
    workers = FakeWorkers(default=(Break(StreamBroken("x")),))
    async with open_core(chain("home", "cloud", max_attempts=bound), workers) as core:
        assert isinstance(await failure_of(core), StreamBroken)
        assert asked(core) == ["home", "home", "cloud"][:bound]


async def test_nothing_is_waited_for_that_comes_after_the_deadline(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(at={"home": failing("RateLimited", retry_after_s=100)})
    async with open_core(chain("home"), workers) as core:
        await trio.sleep(1)
        before = trio.current_time()
        error = await failure_of(core, deadline_s=50)
        assert isinstance(error, RateLimited)
        assert error.retry_after_s == pytest.approx(100)
        assert trio.current_time() == before


async def test_no_second_attempt_begins_after_the_deadline(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(at={"home": (Wait(11), Break(ProviderUnavailable("home")))})
    async with open_core(chain("home", "cloud"), workers) as core:
        assert isinstance(await failure_of(core, deadline_s=10), ProviderUnavailable)
        assert asked(core) == ["home"]
        assert_nothing_is_left(core)


async def test_a_turn_in_its_back_off_can_be_cancelled(autojump_clock: MockClock) -> None:
    scripts = {"t1": [failing("Overloaded", retry_after_s=60)]}
    async with open_core(chain("home"), FakeWorkers(scripts=scripts)) as core:
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        assert await core.runtime.cancel("t1")
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("t1")
        assert trio.current_time() < 2
        assert_nothing_is_left(core)


async def test_a_turn_whose_route_forbids_it_is_not_sent_again_after_a_death(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Die(),), ANSWER]})
    async with open_core(chain("home", "cloud", resend=False), workers) as core:
        assert isinstance(await failure_of(core), WorkerLost)
        assert asked(core) == ["home"]


# -- parking ---------------------------------------------------------------------------------------------------------


async def test_a_turn_parks_until_the_quota_is_whole_again(autojump_clock: MockClock) -> None:
    scripts = {"t1": [failing("QuotaExhausted", reset_at=EPOCH + 600), ANSWER]}
    async with open_core(chain("home", park_max_s=3600), FakeWorkers(scripts=scripts)) as core:
        on_virtual_time(core)
        await core.runtime.post(turn("t1"))
        await trio.sleep(10)
        (shown,) = (await core.runtime.status())["live"]
        assert (shown["phase"], shown["held_for"]) == ("held", "a quota's reset")
        assert shown["held_s"] == pytest.approx(591)
        reply = await core.runtime.wait("t1")
        assert (reply.text, reply.attempts) == ("hello", 2)
        assert trio.current_time() == pytest.approx(601)  # a second later than the provider said
        assert_nothing_is_left(core)


async def test_a_parked_turn_can_be_cancelled(autojump_clock: MockClock) -> None:
    scripts = {"t1": [failing("QuotaExhausted", reset_at=EPOCH + 600)]}
    async with open_core(chain("home", park_max_s=3600), FakeWorkers(scripts=scripts)) as core:
        on_virtual_time(core)
        await core.runtime.post(turn("t1"))
        await trio.sleep(10)
        assert await core.runtime.cancel("t1")
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("t1")
        assert trio.current_time() == pytest.approx(10)
        await trio.sleep(1000)
        assert asked(core) == ["home"]
        assert_nothing_is_left(core)


@pytest.mark.parametrize(("park_max_s", "deadline_s"), [(300, 1800), (0, 1800), (3600, 300)])
async def test_a_turn_does_not_park_for_longer_than_its_route_and_deadline_allow(
    autojump_clock: MockClock, park_max_s: float, deadline_s: float
) -> None:
    scripts = {"t1": [failing("QuotaExhausted", reset_at=EPOCH + 600)]}
    async with open_core(
        chain("home", park_max_s=park_max_s, deadline_s=deadline_s), FakeWorkers(scripts=scripts)
    ) as core:
        on_virtual_time(core)
        error = await failure_of(core)
        assert isinstance(error, QuotaExhausted)
        assert error.retry_after_s == pytest.approx(600, abs=2)
        assert trio.current_time() < 1


async def test_nobody_parks_while_another_candidate_can_take_the_turn(autojump_clock: MockClock) -> None:
    scripts = {"t1": [failing("QuotaExhausted", reset_at=EPOCH + 600), ANSWER]}
    async with open_core(chain("home", "cloud", park_max_s=3600), FakeWorkers(scripts=scripts)) as core:
        on_virtual_time(core)
        assert (await core.runtime.ask(turn("t1"))).provider == "cloud"
        assert trio.current_time() < 1
        assert (await core.runtime.ask(turn("t2"))).provider == "cloud"
        assert asked(core, "t2") == ["cloud"]


async def test_a_turn_that_comes_while_the_quota_is_used_up_waits_for_the_reset_too(autojump_clock: MockClock) -> None:
    scripts = {"t1": [failing("QuotaExhausted", reset_at=EPOCH + 600), ANSWER]}
    async with open_core(chain("home", park_max_s=3600), FakeWorkers(scripts=scripts)) as core:
        on_virtual_time(core)
        await core.runtime.post(turn("t1"))
        await trio.sleep(5)
        assert (await core.runtime.ask(turn("t2"))).text == "hello"
        assert trio.current_time() == pytest.approx(600, abs=5)
        assert asked(core, "t2") == ["home"]


async def test_overloaded_providers_share_their_turns_until_one_recovers(autojump_clock: MockClock) -> None:
    """Twenty turns, both providers refusing for ten seconds: each turn gets its answer, and none is lost on the way."""
    busy = (Break(Overloaded("x")),)
    async with open_core(chain("home", "cloud", max_attempts=20), FakeWorkers(default=busy)) as core:
        for i in range(20):
            await core.runtime.post(turn(f"t{i}"))
        await trio.sleep(10)
        core.workers.default = ANSWER
        for i in range(20):
            assert (await core.runtime.wait(f"t{i}")).text == "hello"
        assert_nothing_is_left(core)

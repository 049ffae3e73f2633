"""A local server's own slots: from what its worker hears to the limit of its queue, over fake workers and real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import Overloaded
from loopforge.drivers.registry import MOST_ADAPTIVE
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import open_simulator
from loopforge.runtime.client import open_runtime
from loopforge.workers.messages import FrameType, pack
from tests.fakes.worker import Break, FakeWorkers, Finish, Say, Send, Wait
from tests.runtime.core import Core, config, open_core, provider, turn

GUESS = 8
LOCAL = provider("local", adaptive=True, max_concurrency=GUESS, reserve=0)
LONG = (Say("so"), Wait(20), Finish())
HEARD_S = 2.5
"""Later than the second ping, whose answer brings what the first one's may have come too early for."""
PATIENCE_S = 30.0


@asynccontextmanager
async def told(slots: Any, settings: Any = LOCAL, **workers: Any) -> AsyncIterator[Core]:
    """A runtime whose worker has said that much of its server's slots."""
    async with open_core(config(settings), FakeWorkers(slots={"local": slots}, **workers)) as core:
        await trio.sleep(HEARD_S)
        yield core


async def shown(core: Core) -> tuple[int, str, int | None]:
    """The number of slots, where it comes from, and what the server said."""
    (desk,) = (desk for desk in (await core.runtime.status())["providers"] if desk["state"] == "ready")
    return desk["slots_now"], desk["slots_from"], desk["slots_told"]


async def test_the_limit_begins_at_the_slots_that_the_server_told(autojump_clock: MockClock) -> None:
    async with told(3, default=LONG) as core:
        assert await shown(core) == (3, "server", 3)
        async with trio.open_nursery() as nursery:
            for _ in range(3 * 3):
                nursery.start_soon(core.runtime.ask, turn())
        assert core.workers.most_running["local"] == 3


async def test_a_server_that_tells_nothing_gets_the_guess(autojump_clock: MockClock) -> None:
    async with told(None) as core:
        assert await shown(core) == (GUESS, "guess", None)


@pytest.mark.parametrize("nonsense", [0, -3, True, 4.0, "4", [4], {"slots": 4}, float("inf")])
async def test_what_is_no_sensible_number_of_slots_is_ignored(autojump_clock: MockClock, nonsense: Any) -> None:
    async with told(nonsense) as core:
        assert await shown(core) == (GUESS, "guess", None)
        assert core.workers.boots == [0.0]  # nobody was killed for it


async def test_more_slots_than_it_is_worth_are_not_begun_with(autojump_clock: MockClock) -> None:
    async with told(1000) as core:
        assert await shown(core) == (MOST_ADAPTIVE, "server", 1000)


async def test_a_number_in_the_configuration_wins(autojump_clock: MockClock) -> None:
    async with told(3, provider("local", max_concurrency=5)) as core:
        assert await shown(core) == (5, "config", None)


async def test_turns_that_wait_start_at_once_when_the_server_tells_of_more_slots(autojump_clock: MockClock) -> None:
    news = Send(FrameType.PONG, pack({"rss_bytes": 1, "cpu_s": 0.0, "running": 1, "lag_s": 0.0, "slots": 4}), turn=0)
    async with told(1, scripts={"t0": [(Wait(0.2), news, *LONG)]}, default=LONG) as core:
        core.workers.slots.clear()
        for number in range(5):
            await core.runtime.post(turn(f"t{number}"))
        await trio.sleep(0.1)
        assert core.workers.most_running["local"] == 1
        await trio.sleep(0.2)  # before anybody else looks at the queue
        assert core.workers.most_running["local"] == 4


async def test_a_refusal_lowers_the_limit_and_the_same_slots_told_again_do_not_raise_it(
    autojump_clock: MockClock,
) -> None:
    refused = (Break(Overloaded("local", "too many")),)
    async with told(4, scripts={"refused": [refused, (Say("hello"), Finish())]}) as core:
        await core.runtime.ask(turn("refused"))
        await trio.sleep(HEARD_S)
        assert await shown(core) == (3, "measured", 4)
        core.workers.slots["local"] = 6
        await trio.sleep(HEARD_S)
        assert await shown(core) == (6, "server", 6)


async def test_turns_on_replaced_workers_hold_their_slots_when_the_limit_changes(autojump_clock: MockClock) -> None:
    """Two workers that grew too large end a turn each; meanwhile the third one gets what these leave of the slots."""
    settings = provider("local", adaptive=True, max_concurrency=GUESS, reserve=0, memory_limit_mb=64)
    late = (Say("so"), Wait(300), Finish())
    async with told(None, settings, scripts={name: [late] for name in ("a", "b")}, default=LONG) as core:
        for name in ("a", "b"):
            await core.runtime.post(turn(name, deadline_s=600))
            await trio.sleep(20)
            core.workers.alive["local"].rss_bytes = 65 * 2**20
            await trio.sleep(5)
        new, first, second = core.supervisor.dispatcher.floor.all_desks
        assert [len(desk.running) for desk in (new, first, second)] == [0, 1, 1]
        core.workers.slots["local"] = 3
        await trio.sleep(HEARD_S)
        assert await shown(core) == (3, "server", 3)
        for number in range(4):
            await core.runtime.post(turn(f"t{number}", deadline_s=600))
        await trio.sleep(1)
        assert [len(desk.running) for desk in (new, first, second)] == [1, 1, 1]
        for name in ("a", "b", "t0", "t1", "t2", "t3"):
            await core.runtime.wait(name)
        await trio.sleep(HEARD_S)
        assert core.supervisor.dispatcher.floor.all_desks == [new]
        assert new.queue.free_slots == 3


# -- with real workers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["llamacpp", "lmstudio"])
async def test_a_service_goes_by_the_slots_of_its_local_server(vendor: str) -> None:
    """A worker process, a server on loopback: what it tells is the limit that status shows."""
    profiles = {
        "local": Profile(slots=3, first_token_s=0, tokens_per_s=0, answer_tokens=5),
        "written": Profile(slots=3),
        "dumb": Profile(first_token_s=0, tokens_per_s=0, answer_tokens=5),
    }
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator:
            members = {"vendor": vendor, "max_concurrency": GUESS, "reserve": 0}
            local, dumb, written = (
                provider(name, base_url=simulator.base_url(name), adaptive=name != "written", **members)
                for name in ("local", "dumb", "written")
            )
            async with open_runtime(config(local, dumb, written)) as runtime:

                async def slots() -> dict[str, tuple[int, str]]:
                    desks = (await runtime.status())["providers"]
                    return {desk["name"]: (desk["slots_now"], desk["slots_from"]) for desk in desks}

                await runtime.ask(turn(kind="coding"))  # at the one that does not tell
                await runtime.ask(turn(provider="written"))
                while (now := await slots())["local"][1] != "server":  # noqa: ASYNC110 - status does not tell
                    await trio.sleep(0.02)
                assert now == {"local": (3, "server"), "dumb": (GUESS, "guess"), "written": (GUESS, "config")}
                assert simulator.stats.of("written").requests == 1  # the turn, and no question
                assert (await runtime.ask(turn())).finish == "stop"

"""Another configuration while turns run: who is swapped, what goes on where it is, what is routed again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import RateLimited, TurnRefused, WorkerLost
from loopforge.drivers.turn import Message, Reply
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import NoRoute
from loopforge.runtime.reload import compare
from loopforge.workers.messages import FrameType, pack, pack_reply
from tests.fakes.worker import ANSWER, Break, Cling, FakeWorkers, Finish, Say, Script, Send, Wait
from tests.runtime.core import Core, config, open_core, provider, turn

LOCAL, CLOUD, SPARE = provider("local"), provider("cloud"), provider("spare")
LONG = (Say("begun"), Wait(100), Finish())


def desk_states(core: Core) -> dict[str, list[str]]:
    rows = core.supervisor.dispatcher.status()["providers"]
    return {row["name"]: [other["state"] for other in rows if other["name"] == row["name"]] for row in rows}


def slower(setup: Config, name: str) -> Config:
    """The same with another timeout at one provider."""
    changed = replace(setup.providers[name], first_event_timeout_s=7.0)
    return replace(setup, providers={**setup.providers, name: changed})


def test_what_differs_is_named() -> None:
    old = config(LOCAL, CLOUD, drain_s=1)
    new = replace(slower(old, "cloud"), runtime=replace(old.runtime, socket="/elsewhere", drain_s=2))
    new = replace(new, providers={**new.providers, "spare": SPARE}, routes={"planning": old.routes["planning"]})
    changes = compare(old, new)
    assert (changes.added, changes.changed, changes.removed) == (("spare",), ("cloud",), ())
    assert (changes.kinds, changes.settings, changes.at_start) == (("coding", "summary"), ("drain_s",), ("socket",))
    assert compare(new, old).removed == ("spare",)
    assert str(compare(old, old)) == "nothing changed"


def test_who_may_connect_counts_at_once_unless_the_socket_has_to_be_made_for_others_first() -> None:
    own, two, three = (config(LOCAL, allow_users=users) for users in ((), ("ann", "bob"), ("ann", "bob", "cy")))
    assert compare(two, three).settings == ("allow_users",)
    assert compare(own, two).at_start == ("allow_users",)
    assert compare(two, own).at_start == ("allow_users",)


async def test_only_the_worker_of_a_changed_provider_is_swapped(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, CLOUD)
    async with open_core(setup) as core:
        await core.runtime.ask(turn())
        await core.runtime.ask(turn(kind="coding"))
        core.supervisor.adopt(slower(setup, "cloud"))
        await trio.sleep(5)
        assert (await core.runtime.ask(turn(kind="coding"))).text == "hello"
        assert [desk.deaths for desk in core.supervisor.dispatcher.desks.values()] == [0, 0]
        assert len(core.workers.boots) == 3
        assert desk_states(core) == {"local": ["ready"], "cloud": ["ready"]}


async def test_a_running_turn_ends_on_the_old_worker_while_new_ones_go_to_the_new_one(
    autojump_clock: MockClock,
) -> None:
    setup = config(LOCAL, CLOUD)
    workers = FakeWorkers(scripts={"long": [LONG]})
    async with open_core(setup, workers) as core:
        await core.runtime.post(turn("long", kind="coding"))
        await trio.sleep(1)
        core.supervisor.adopt(slower(setup, "cloud"))
        before = trio.current_time()
        assert (await core.runtime.ask(turn(kind="coding"))).text == "hello"
        assert trio.current_time() - before < 10
        assert desk_states(core)["cloud"] == ["ready", "retiring"]
        reply = await core.runtime.wait("long")
        assert (reply.text, reply.attempts) == ("begun", 1)
        await trio.sleep(5)
        assert desk_states(core)["cloud"] == ["ready"]


async def test_turns_that_wait_go_where_the_new_routes_lead(autojump_clock: MockClock) -> None:
    one_slot = provider("cloud", max_concurrency=1, reserve=0)
    setup = config(LOCAL, one_slot)
    workers = FakeWorkers(scripts={"long": [LONG]})
    async with open_core(setup, workers) as core:
        await core.runtime.post(turn("long", kind="coding"))
        await trio.sleep(1)
        for number in range(3):
            await core.runtime.post(turn(f"waits{number}", kind="coding"))
        local_only = {**setup.routes, "coding": replace(setup.routes["planning"], kind="coding")}
        core.supervisor.adopt(replace(setup, routes=local_only))
        assert [(await core.runtime.wait(f"waits{number}")).provider for number in range(3)] == ["local"] * 3
        assert (await core.runtime.wait("long")).provider == "cloud"


async def test_a_turn_that_waits_fails_when_no_route_leads_any_more(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, provider("cloud", max_concurrency=1, reserve=0))
    workers = FakeWorkers(scripts={"long": [LONG]})
    async with open_core(setup, workers) as core:
        await core.runtime.post(turn("long", kind="coding"))
        await trio.sleep(1)
        await core.runtime.post(turn("waits", kind="coding"))
        without = replace(
            setup,
            providers={"local": LOCAL},
            routes={kind: route for kind, route in setup.routes.items() if kind != "coding"},
        )
        core.supervisor.adopt(without)
        with pytest.raises(NoRoute):
            await core.runtime.wait("waits")
        assert (await core.runtime.wait("long")).text == "begun"
        await trio.sleep(5)
        assert desk_states(core) == {"local": ["ready"]}


async def test_the_death_of_an_old_worker_sends_its_turn_to_the_new_one(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, CLOUD)
    workers = FakeWorkers(scripts={"long": [LONG, (Say("again"), Finish())]})
    async with open_core(setup, workers) as core:
        await core.runtime.post(turn("long", kind="coding"))
        await trio.sleep(1)
        old = core.workers.alive["cloud"]
        core.supervisor.adopt(slower(setup, "cloud"))
        await core.runtime.ask(turn(kind="coding"))
        old.kill()
        reply = await core.runtime.wait("long")
        assert (reply.text, reply.attempts) == ("again", 2)


async def test_a_turn_of_a_removed_provider_whose_worker_dies_fails_by_name(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, CLOUD)
    workers = FakeWorkers(scripts={"long": [LONG]})
    async with open_core(setup, workers) as core:
        await core.runtime.post(turn("long", kind="coding"))
        await trio.sleep(1)
        old = core.workers.alive["cloud"]
        core.supervisor.adopt(replace(setup, providers={"local": LOCAL}, routes={"planning": setup.routes["planning"]}))
        old.kill()
        with pytest.raises(WorkerLost):
            await core.runtime.wait("long")


async def test_a_provider_that_was_down_for_good_gets_another_chance(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, CLOUD)
    workers = FakeWorkers(refuse_boot=2, exit_code=78)
    async with open_core(setup, workers) as core:
        await trio.sleep(1)
        assert desk_states(core) == {"local": ["down"], "cloud": ["down"]}
        core.supervisor.adopt(slower(slower(setup, "cloud"), "local"))
        assert (await core.runtime.ask(turn())).text == "hello"
        assert (await core.runtime.ask(turn(kind="coding"))).text == "hello"


def with_cloud(setup: Config, **changes: Any) -> Config:
    """The same with another table of "cloud"."""
    return replace(setup, providers={**setup.providers, "cloud": replace(setup.providers["cloud"], **changes)})


@pytest.mark.parametrize(
    ("changes", "goes_on"),
    [
        ({"first_event_timeout_s": 7.0}, True),
        ({"requests_per_minute": 3}, True),
        ({"base_url": "http://127.0.0.1:2/v1"}, False),
        ({"api_key_env": "ANOTHER_KEY"}, False),
    ],
)
async def test_the_minute_of_a_changed_provider_goes_on_while_it_is_the_same_account(
    autojump_clock: MockClock, changes: dict[str, Any], goes_on: bool
) -> None:
    setup = config(LOCAL, provider("cloud", requests_per_minute=2, reserve=0))
    async with open_core(setup) as core:
        for _ in range(2):
            await core.runtime.ask(turn(kind="coding"))
        core.supervisor.adopt(with_cloud(setup, **changes))
        await core.runtime.ask(turn(kind="coding"))
        await core.runtime.ask(turn(kind="coding"))
        assert (trio.current_time() >= 60) == goes_on


async def test_what_a_turn_at_the_old_worker_cost_counts_at_the_new_one(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, provider("cloud", tokens_per_minute=1000, reserve=0, max_concurrency=2))
    cost = pack({"finish": "stop", "usage": {"input": 900, "output": 50}, "timings": {}})
    reply = Reply(id="dear", message=Message(role="assistant", content=()), finish="stop", model="cloud-model")
    dear = (Wait(5), Send(FrameType.DONE, cost, pack_reply(reply)))
    async with open_core(setup, FakeWorkers(scripts={"dear": [dear]})) as core:
        await core.runtime.post(turn("dear", kind="coding"))
        await trio.sleep(1)
        core.supervisor.adopt(slower(setup, "cloud"))
        await core.runtime.wait("dear")
        assert (await core.runtime.ask(turn(kind="coding"))).text == "hello"
        assert trio.current_time() >= 60


@pytest.mark.parametrize("same", [True, False])
async def test_a_turn_that_waits_for_a_time_waits_for_it_after_a_reload_at_the_same_account(
    autojump_clock: MockClock, same: bool
) -> None:
    setup = config(LOCAL, CLOUD)
    workers = FakeWorkers(scripts={"limited": [(Break(RateLimited("cloud", retry_after_s=60)),), ANSWER]})
    async with open_core(setup, workers) as core:
        await core.runtime.post(turn("limited", provider="cloud"))
        await trio.sleep(5)
        change: dict[str, Any] = {"first_event_timeout_s": 7.0} if same else {"base_url": "http://127.0.0.1:2/v1"}
        core.supervisor.adopt(with_cloud(setup, **change))
        assert (await core.runtime.wait("limited")).attempts == 2
        assert (trio.current_time() >= 60) == same


def told_of(core: Core, name: str) -> dict[str, Any]:
    """The row of the provider's present desk in what status tells."""
    rows: list[dict[str, Any]] = core.supervisor.dispatcher.status()["providers"]
    return next(row for row in rows if row["name"] == name and row["state"] != "retiring")


async def test_what_a_changed_provider_has_done_stays_and_goes_on(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, CLOUD)
    scripts: dict[str, list[Script]] = {"long": [LONG], "late": [(Wait(50), Break(TurnRefused("cloud", "no")))]}
    async with open_core(setup, FakeWorkers(scripts=scripts)) as core:
        for _ in range(2):
            await core.runtime.ask(turn(kind="coding"))
        core.workers.alive["cloud"].kill()
        await trio.sleep(2)
        await core.runtime.post(turn("long", kind="coding"))
        await core.runtime.post(turn("late", kind="coding"))
        await trio.sleep(1)
        core.supervisor.adopt(with_cloud(setup, default_model="other"))
        row = told_of(core, "cloud")
        assert row["outcomes"] == {"done": 2, "failed": 0, "cancelled": 0}
        assert (row["deaths"], row["last_death"]) == (1, "killed by SIGKILL")
        assert row["traffic"]["done"] == 2
        await core.runtime.ask(turn(kind="coding"))
        with pytest.raises(TurnRefused):
            await core.runtime.wait("late")
        await core.runtime.wait("long")  # both ended on the old worker
        row = told_of(core, "cloud")
        assert row["outcomes"] == {"done": 4, "failed": 1, "cancelled": 0}
        assert (row["traffic"]["done"], row["traffic"]["failed"]) == (4, {"TurnRefused": 1})
        told = core.supervisor.dispatcher.status()["turns"]
        assert (told["done"], told["failed"]) == (4, 1)


async def test_what_a_removed_provider_has_done_stays_in_the_totals_of_the_service(autojump_clock: MockClock) -> None:
    setup = config(LOCAL, CLOUD)
    async with open_core(setup, FakeWorkers(scripts={"long": [LONG]})) as core:
        await core.runtime.ask(turn())
        await core.runtime.ask(turn(kind="coding"))
        await core.runtime.post(turn("long", kind="coding"))
        await trio.sleep(1)
        core.supervisor.adopt(replace(setup, providers={"local": LOCAL}, routes={"planning": setup.routes["planning"]}))
        assert core.supervisor.dispatcher.status()["turns"]["done"] == 2
        await core.runtime.wait("long")
        await trio.sleep(5)
        assert desk_states(core) == {"local": ["ready"]}
        assert core.supervisor.dispatcher.status()["turns"]["done"] == 3
        core.supervisor.adopt(setup)
        assert told_of(core, "cloud")["outcomes"]["done"] == 2
        assert core.supervisor.dispatcher.status()["turns"]["done"] == 3


@pytest.mark.parametrize("same", [True, False])
async def test_what_was_seen_of_a_server_goes_on_while_it_is_the_same(autojump_clock: MockClock, same: bool) -> None:
    setup = config(LOCAL, provider("cloud", adaptive=True, max_concurrency=2, reserve=0))
    async with open_core(setup, FakeWorkers(slots={"cloud": 5})) as core:
        await core.runtime.ask(turn(kind="coding"))
        await trio.sleep(3)
        assert told_of(core, "cloud")["slots_now"] == 5
        core.workers.slots.clear()
        change: dict[str, Any] = {"default_model": "other"} if same else {"base_url": "http://127.0.0.1:2/v1"}
        core.supervisor.adopt(with_cloud(setup, **change))
        row = told_of(core, "cloud")
        assert (row["slots_now"], row["slots_told"], row["traffic"]["done"]) == ((5, 5, 1) if same else (2, None, 0))
        assert row["outcomes"]["done"] == 1
        assert core.supervisor.dispatcher.desks["cloud"].queue.free_slots == row["slots_now"]


async def test_a_worker_that_grew_too_large_is_replaced_without_losing_its_turn(autojump_clock: MockClock) -> None:
    setup = config(provider("local", memory_limit_mb=64, max_concurrency=2, reserve=0))
    workers = FakeWorkers(scripts={"long": [LONG]})
    async with open_core(setup, workers) as core:
        await core.runtime.post(turn("long"))
        await trio.sleep(20)
        core.workers.alive["local"].rss_bytes = 65 * 2**20
        await trio.sleep(3)
        assert desk_states(core) == {"local": ["ready", "retiring"]}
        before = trio.current_time()
        assert (await core.runtime.ask(turn())).text == "hello"
        assert trio.current_time() - before < 1
        assert (await core.runtime.wait("long")).attempts == 1
        await trio.sleep(5)
        assert desk_states(core) == {"local": ["ready"]}
        assert core.supervisor.dispatcher.desks["local"].queue.snapshot(0.0).max_concurrency == 2


# -- a worker that is replaced ---------------------------------------------------------------------------------------


async def outgrow(core: Core) -> None:
    """The worker of "local" gets too large, and another one is there when this returns."""
    await trio.sleep(max(0.0, 12 - trio.current_time()))  # a worker that has just begun is left alone
    old = core.workers.alive["local"]
    old.rss_bytes = 65 * 2**20
    await trio.sleep(3)
    assert core.workers.alive["local"] is not old
    assert desk_states(core)["local"][0] == "ready"


def growing(max_concurrency: int, **members: Any) -> Config:
    return config(
        provider("local", memory_limit_mb=64, max_concurrency=max_concurrency, reserve=0, **members), provider("cloud")
    )


async def test_a_slot_that_a_retiring_worker_frees_goes_to_the_next_turn_at_once(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"long": [(Say("begun"), Wait(30.4), Finish())], "old": [LONG], "new": [LONG]})
    async with open_core(growing(3), workers) as core:
        for name in ("long", "old"):
            await core.runtime.post(turn(name))
        await outgrow(core)
        for name in ("new", "next"):
            await core.runtime.post(turn(name))
        await trio.sleep(5)
        assert core.workers.attempts.keys() == {"long", "old", "new"}
        await core.runtime.wait("long")
        ended = trio.current_time()
        assert (await core.runtime.wait("next")).text == "hello"
        assert trio.current_time() == ended


async def test_the_slots_of_a_retiring_worker_that_dies_go_to_the_next_turns_at_once(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"stuck": [(Cling(1000),)]})
    async with open_core(growing(1), workers) as core:
        await core.runtime.post(turn("stuck", detached=True))
        await trio.sleep(12)
        old = core.workers.alive["local"]
        await outgrow(core)
        await core.runtime.post(turn("next"))
        await core.runtime.cancel("stuck")
        await trio.sleep(4.4)
        assert core.supervisor.dispatcher.ledger.get("stuck") is None
        assert core.workers.attempts["next"] == []
        old.kill()
        with trio.fail_after(0.1):
            assert (await core.runtime.wait("next")).text == "hello"


async def test_status_shows_who_waits_at_a_replaced_worker_once(autojump_clock: MockClock) -> None:
    async with open_core(growing(1, requests_per_minute=5), FakeWorkers(scripts={"long": [LONG]})) as core:
        await core.runtime.post(turn("long"))
        await outgrow(core)
        await core.runtime.post(turn("waits"))
        rows = [row for row in core.supervisor.dispatcher.status()["providers"] if row["name"] == "local"]
        assert [row["state"] for row in rows] == ["ready", "retiring"]
        assert [row["running"] for row in rows] == [0, 1]
        assert [row["queued"]["interactive"] for row in rows] == [1, 0]
        assert [row["limits"]["requests"] for row in rows] == [1, 0]


async def test_as_many_turns_as_the_provider_takes_run_on_a_retiring_worker_and_the_next_waits(
    autojump_clock: MockClock,
) -> None:
    async with open_core(growing(1), FakeWorkers(scripts={"long": [LONG]})) as core:
        await core.runtime.post(turn("long"))
        await outgrow(core)
        assert (await core.runtime.ask(turn("next"))).text == "hello"
        assert trio.current_time() == 100


async def test_workers_that_are_replaced_again_and_again_share_the_slots(autojump_clock: MockClock) -> None:
    lasting: dict[str, list[Script]] = {name: [LONG] for name in ("a", "b", "c")}
    async with open_core(growing(3), FakeWorkers(scripts=lasting)) as core:
        for at, name in enumerate(lasting):
            await core.runtime.post(turn(name))
            await trio.sleep(12 * (at + 1) - trio.current_time())
            await outgrow(core)
        await core.runtime.post(turn("next"))
        await trio.sleep(40)
        assert core.workers.attempts["next"] == [], "three turns run, on three workers that are retiring"
        assert (await core.runtime.wait("a")).attempts == 1
        assert (await core.runtime.wait("next")).text == "hello"
        await core.runtime.wait("c")
        await trio.sleep(5)
        assert core.supervisor.dispatcher.desks["local"].queue.free_slots == 3


async def test_a_turn_that_waits_for_a_time_waits_for_it_also_at_the_next_worker(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"limited": [(Break(RateLimited("local", retry_after_s=60)),), ANSWER]})
    async with open_core(growing(2), workers) as core:
        await core.runtime.post(turn("limited", provider="local"))  # one that names its provider passes every breaker
        await outgrow(core)
        assert (await core.runtime.wait("limited")).attempts == 2
        assert trio.current_time() >= 60


async def test_the_minute_of_a_provider_goes_on_when_its_worker_is_replaced(autojump_clock: MockClock) -> None:
    async with open_core(growing(4, requests_per_minute=2)) as core:
        for _ in range(2):
            await core.runtime.ask(turn())
        await outgrow(core)
        assert (await core.runtime.ask(turn())).text == "hello"
        assert trio.current_time() >= 60

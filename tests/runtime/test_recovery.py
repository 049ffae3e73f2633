"""What a service finds in its journal and makes of it; and what happens between an operation and its commit.

Virtual time, fake workers, the journal's real store. A crash is a journal that writes and answers nothing any more.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import (
    CredentialsRejected,
    QuotaExhausted,
    TurnError,
    WorkerLost,
)
from loopforge.drivers.turn import Cancelled, Done, Event, Restarted, Started, TextDelta
from loopforge.runtime.cli.turns_text import describe
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import DeadlineExceeded, IdConflict, NoRoute, TurnCancelled, UnknownTurn
from loopforge.runtime.journal.operations import Usage
from loopforge.runtime.queries import answer_of
from tests.fakes.worker import ANSWER, Break, FakeWorkers, Script, Wait
from tests.fakes.worker import Finish as End
from tests.runtime.core import Core, config, provider, turn
from tests.runtime.journal.sample import do
from tests.runtime.recovering import (
    EPOCH,
    SETUP,
    SLOW,
    Disk,
    assert_nothing_is_left,
    on_route,
    outcome_of,
)

# -- what a new service takes up -------------------------------------------------------------------------------------


async def test_accepted_and_running_turns_go_on_in_the_next_service(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        for name in ("r1", "r2", "waiting"):
            await core.runtime.post(turn(name, detached=True))
        await trio.sleep(1)
        assert core.workers.attempts.keys() == {"r1", "r2"}
        journal.crash()
    async with disk.service() as (core, _):
        replies = {name: await core.runtime.wait(name) for name in ("r1", "r2", "waiting")}
        assert {name: reply.text for name, reply in replies.items()} == dict.fromkeys(replies, "hello")
        assert {name: reply.attempts for name, reply in replies.items()} == {"r1": 2, "r2": 2, "waiting": 1}
        assert_nothing_is_left(core)
    lost = disk.turn("r1").lost
    assert [(one.attempt.number, one.error, one.ambiguous) for one in lost] == [(1, "WorkerLost", True)]
    assert disk.turn("waiting").lost == ()


async def test_a_client_that_comes_back_sees_that_the_running_attempt_is_void(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        journal.crash()
    async with disk.service() as (core, _), core.runtime.attach("t1", after=(1, 2)) as stream:
        events: list[Event] = [event async for event in stream]
    restarted, again, text, *_, done = events
    assert isinstance(restarted, Restarted)
    assert "service died" in restarted.why
    assert isinstance(again, Started)
    assert again.attempt == 2
    assert text == TextDelta("hello")
    assert isinstance(done, Done)
    assert (done.reply.text, done.reply.attempts) == ("hello", 2)


async def test_an_attached_turn_waits_for_its_client_and_is_cancelled_without(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        for name in ("comes", "stays away"):
            await core.runtime.post(turn(name))
        await trio.sleep(1)
        journal.crash()
    async with disk.service() as (core, _):
        began = trio.current_time()
        await trio.sleep(20)
        assert core.workers.attempts == {}, "nothing is bought for a client that may not come"
        assert (await core.runtime.wait("comes")).text == "hello"
        assert trio.current_time() - began == pytest.approx(20)
        await trio.sleep(9)
        assert core.supervisor.dispatcher.ledger.get("stays away") is not None
        await trio.sleep(2)
        assert core.supervisor.dispatcher.ledger.get("stays away") is None
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("stays away")
        assert "stays away" not in core.workers.attempts
        assert_nothing_is_left(core)
    assert disk.turn("stays away").state == "cancelled"


async def test_who_only_looks_on_neither_revives_nor_ends_a_turn_that_waits_for_its_client(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        for name in ("comes", "stays away"):
            await core.runtime.post(turn(name))
        await trio.sleep(1)
        journal.crash()
    async with disk.service() as (core, _), core.another_client() as onlooker:
        async with onlooker.attach("comes", wanted=False):
            await trio.sleep(10)
            assert core.workers.attempts == {}
        await trio.sleep(5)
        assert (await core.runtime.wait("comes")).text == "hello"
        async with onlooker.attach("stays away", wanted=False) as stream:
            events = [event async for event in stream]
        assert isinstance(events[-1], Cancelled)
        assert trio.current_time() == pytest.approx(31, abs=0.5), "its time is that of a turn nobody looks at"
        assert core.workers.attempts.keys() == {"comes"}
        assert_nothing_is_left(core)
    assert disk.turn("stays away").state == "cancelled"


async def test_posting_again_is_coming_back(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        await core.runtime.post(turn("t1"))
        journal.crash()
    async with disk.service() as (core, _):
        assert (await core.runtime.ask(turn("t1"))).text == "hello"
        assert len(core.workers.attempts["t1"]) == 1


async def test_a_route_that_forbids_it_sends_no_running_turn_again(autojump_clock: MockClock, disk: Disk) -> None:
    setup = on_route(SETUP, resend=False)
    async with disk.service(FakeWorkers(default=SLOW), setup=setup) as (core, journal):
        for name in ("r1", "r2", "waiting"):
            await core.runtime.post(turn(name, detached=True))
        await trio.sleep(1)
        journal.crash()
    async with disk.service(setup=setup) as (core, _):
        with pytest.raises(WorkerLost, match="the service died during the turn"):
            await core.runtime.wait("r1")
        assert (await core.runtime.wait("waiting")).text == "hello"
        assert core.workers.attempts.keys() == {"waiting"}
        assert_nothing_is_left(core)


async def test_no_turn_is_taken_up_beyond_max_attempts(autojump_clock: MockClock, disk: Disk) -> None:
    setup = replace(SETUP, runtime=replace(SETUP.runtime, max_attempts=3))
    async with disk.service(FakeWorkers(default=SLOW), setup=setup) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(1)
        journal.crash()
    for _ in range(2):
        async with disk.service(FakeWorkers(default=SLOW), setup=setup) as (core, journal):
            await trio.sleep(1)
            assert len(core.workers.attempts["t1"]) == 1
            journal.crash()
    async with disk.service(setup=setup) as (core, _):
        with pytest.raises(WorkerLost):
            await core.runtime.wait("t1")
        assert core.workers.attempts == {}
    assert [one.attempt.number for one in disk.turn("t1").lost] == [1, 2]
    assert disk.turn("t1").attempts == 3


async def test_a_turn_whose_deadline_passed_meanwhile_fails(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        await core.runtime.post(turn("short", detached=True, deadline_s=50))
        await core.runtime.post(turn("long", detached=True, deadline_s=500))
        await trio.sleep(1)
        journal.crash()
    await trio.sleep(60)
    workers = FakeWorkers(default=(Wait(1000), End()))
    async with disk.service(workers) as (core, _):
        with pytest.raises(DeadlineExceeded, match="while there was no service"):
            await core.runtime.wait("short")
        with pytest.raises(DeadlineExceeded):
            await core.runtime.wait("long")
        assert trio.current_time() == pytest.approx(500, abs=5), "the deadline is counted from when it was accepted"
        assert "short" not in workers.attempts


async def test_a_turn_that_no_route_takes_any_more_fails_with_that(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        for name, kind in (("t1", "planning"), ("t2", "coding")):
            await core.runtime.post(turn(name, kind=kind, detached=True))
        journal.crash()
    routes = {kind: route for kind, route in SETUP.routes.items() if kind != "planning"}
    async with disk.service(setup=replace(SETUP, routes=routes)) as (core, _):
        with pytest.raises(NoRoute, match="planning"):
            await core.runtime.wait("t1")
        assert (await core.runtime.wait("t2")).text == "hello"
        assert_nothing_is_left(core)
    assert disk.turn("t1").state == "failed"


async def test_a_turn_goes_to_the_provider_that_the_new_configuration_names(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(1)
        journal.crash()
    async with disk.service(setup=config(provider("other"))) as (core, _):
        reply = await core.runtime.wait("t1")
        assert (reply.provider, reply.attempts) == ("other", 2)


async def test_turns_survive_as_many_crashes_as_come(autojump_clock: MockClock, disk: Disk) -> None:
    setup = replace(SETUP, runtime=replace(SETUP.runtime, max_attempts=100))
    names = [f"t{i}" for i in range(5)]
    async with disk.service(FakeWorkers(default=SLOW), setup=setup) as (core, journal):
        for name in names:
            await core.runtime.post(turn(name, detached=True))
        journal.crash()
    for _ in range(20):
        async with disk.service(FakeWorkers(default=SLOW), setup=setup) as (core, journal):
            await trio.sleep(0.5)
            journal.crash()
    async with disk.service(setup=setup) as (core, _):
        assert [await outcome_of(core.runtime, name) for name in names] == ["hello"] * 5
        assert_nothing_is_left(core)


# -- the books -------------------------------------------------------------------------------------------------------


def booked(disk: Disk) -> list[tuple[tuple[str, ...], int, int, int]]:
    """By provider: turns, those that failed, and attempts."""
    [table] = do(disk.store, Usage(by=("provider",)))
    return [(row.key, row.turns, row.failed, row.attempts) for row in table.rows]


async def test_an_attempt_that_died_with_its_service_is_in_the_books_of_where_it_was_sent(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=SLOW)) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(1)
        journal.crash()
    async with disk.service(setup=config(provider("other"))) as (core, _):
        assert (await core.runtime.wait("t1")).attempts == 2
    assert sorted(booked(disk)) == [(("local",), 0, 0, 1), (("other",), 1, 0, 1)]


@pytest.mark.parametrize(
    ("ends", "setup"),
    [
        ("its route forbids another", on_route(SETUP, resend=False)),
        ("its deadline has passed", SETUP),
        ("no route is left", replace(SETUP, routes={})),
    ],
)
async def test_the_last_attempt_of_a_turn_that_a_restart_ends_is_in_the_books(
    autojump_clock: MockClock, disk: Disk, ends: str, setup: Config
) -> None:
    first = setup if setup.routes else SETUP
    async with disk.service(FakeWorkers(default=SLOW), setup=first) as (core, journal):
        await core.runtime.post(turn("t1", detached=True, deadline_s=50))
        await trio.sleep(1)
        journal.crash()
    await trio.sleep(60 if "deadline" in ends else 1)
    async with disk.service(setup=setup) as (core, _):
        assert isinstance(await outcome_of(core.runtime, "t1"), TurnError)
    assert booked(disk) == [(("local",), 1, 1, 1)]


@pytest.mark.parametrize(
    ("setup", "tries"),
    [(SETUP, ["-", "0.0 s"]), (on_route(SETUP, resend=False), ["-"]), (replace(SETUP, routes={}), ["-"])],
)
async def test_no_time_is_told_of_a_try_during_which_the_service_died(
    autojump_clock: MockClock, disk: Disk, setup: Config, tries: list[str]
) -> None:
    first = setup if setup.routes else SETUP
    async with disk.service(FakeWorkers(default=SLOW), setup=first) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(1)
        journal.crash()
    await trio.sleep(100)
    async with disk.service(setup=setup) as (core, _):
        await outcome_of(core.runtime, "t1")
    lines = describe(answer_of(disk.turn("t1")), EPOCH + 200, 0)
    rows = lines[next(at for at, line in enumerate(lines) if line.startswith("TRY ")) + 1 :]
    assert [re.split("  +", row.strip())[3] for row in rows if row.startswith("  ")] == tries


async def test_a_try_that_ended_with_its_worker_has_its_time(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=(Wait(7), End()))) as (core, _):
        await core.runtime.ask(turn("t1"))
    assert any(" 7.0 s " in line for line in describe(answer_of(disk.turn("t1")), EPOCH + 200, 0))


# -- parked turns ----------------------------------------------------------------------------------------------------

PARKS = on_route(SETUP, park_max_s=3600)
SPENT: Script = (Break(QuotaExhausted("local", reset_at=EPOCH + 600)),)


async def test_a_parked_turn_waits_for_the_same_reset_after_a_crash(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=SPENT), setup=PARKS) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(100)
        journal.crash()
    assert disk.turn("t1").state == "parked"
    async with disk.service(setup=PARKS) as (core, _):
        (shown,) = (await core.runtime.status())["live"]
        assert (shown["held_for"], shown["held_s"]) == ("a quota's reset", pytest.approx(501))
        assert (await core.runtime.wait("t1")).attempts == 2
        assert trio.current_time() == pytest.approx(601)


async def test_a_parked_turn_can_be_cancelled_after_a_crash(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=SPENT), setup=PARKS) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(100)
        journal.crash()
    async with disk.service(setup=PARKS) as (core, _):
        assert await core.runtime.cancel("t1")
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("t1")
        await trio.sleep(1000)
        assert core.workers.attempts == {}
        assert_nothing_is_left(core)


async def test_a_quota_that_was_reset_while_there_was_no_service_is_waited_for_no_longer(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=SPENT), setup=PARKS) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(10)
        journal.crash()
    await trio.sleep(1000)
    async with disk.service(setup=PARKS) as (core, _):
        before = trio.current_time()
        assert (await core.runtime.wait("t1")).text == "hello"
        assert trio.current_time() - before < 1


@pytest.mark.parametrize("way", ["attaches", "posts it again"])
@pytest.mark.parametrize(("comes_after_s", "goes_on_at"), [(1, 600), (20, 612)])
async def test_a_parked_turn_whose_client_is_back_goes_on_at_the_reset(
    autojump_clock: MockClock, disk: Disk, way: str, comes_after_s: float, goes_on_at: float
) -> None:
    async with disk.service(FakeWorkers(default=SPENT), setup=PARKS) as (core, journal):
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        journal.crash()
    await trio.sleep(591)
    async with disk.service(setup=PARKS) as (core, _), core.another_client() as onlooker:
        async with onlooker.attach("t1", wanted=False):
            await trio.sleep(comes_after_s)
            reply = await (core.runtime.wait("t1") if way == "attaches" else core.runtime.ask(turn("t1")))
        assert reply.attempts == 2
        assert trio.current_time() == pytest.approx(goes_on_at, abs=2)
        assert_nothing_is_left(core)


@pytest.mark.parametrize("away_s", [5, 595])
async def test_a_parked_turn_is_not_bought_for_a_client_that_stays_away(
    autojump_clock: MockClock, disk: Disk, away_s: float
) -> None:
    async with disk.service(FakeWorkers(default=SPENT), setup=PARKS) as (core, journal):
        for name in ("comes", "stays away"):
            await core.runtime.post(turn(name))
        await trio.sleep(1)
        journal.crash()
    await trio.sleep(away_s)
    async with disk.service(setup=PARKS) as (core, _):
        await trio.sleep(10)  # the one that was away for long comes after the reset, and within its grace
        assert (await core.runtime.wait("comes")).text == "hello"
        await trio.sleep(700)
        assert "stays away" not in core.workers.attempts
        assert_nothing_is_left(core)
    assert disk.turn("stays away").state == "cancelled"


async def test_a_parked_turn_is_not_bought_for_who_only_looks_on(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=SPENT), setup=PARKS) as (core, journal):
        await core.runtime.post(turn("t1"))
        await trio.sleep(100)
        journal.crash()
    async with disk.service(setup=PARKS) as (core, _):
        async with core.runtime.attach("t1", wanted=False) as stream:
            events = [event async for event in stream]
        assert isinstance(events[-1], Cancelled)
        assert trio.current_time() == pytest.approx(601, abs=1)
        assert core.workers.attempts == {}
        assert_nothing_is_left(core)


# -- ids -------------------------------------------------------------------------------------------------------------


async def test_outcomes_of_an_earlier_service_are_answered_from_disk(autojump_clock: MockClock, disk: Disk) -> None:
    workers = FakeWorkers(scripts={"bad": [(Break(CredentialsRejected("local")),)]})
    async with disk.service(workers) as (core, journal):
        first = await core.runtime.ask(turn("good"))
        with pytest.raises(CredentialsRejected):
            await core.runtime.ask(turn("bad"))
        journal.crash()
    async with disk.service() as (core, _):
        assert await core.runtime.ask(turn("good")) == first
        assert await core.runtime.wait("good") == first
        with pytest.raises(CredentialsRejected):
            await core.runtime.ask(turn("bad"))
        with pytest.raises(UnknownTurn):
            await core.runtime.wait("never")
        assert not await core.runtime.cancel("good")
        assert core.workers.attempts == {}
        assert_nothing_is_left(core)


@pytest.mark.parametrize("state", ["ended", "waiting for its client", "running"])
async def test_another_turn_under_the_same_id_is_refused_after_a_crash(
    autojump_clock: MockClock, disk: Disk, state: str
) -> None:
    async with disk.service(FakeWorkers(default=ANSWER if state == "ended" else SLOW)) as (core, journal):
        await core.runtime.post(turn("t1", detached=state == "running"))
        await trio.sleep(1)
        journal.crash()
    async with disk.service(FakeWorkers(default=SLOW)) as (core, _):
        with pytest.raises(IdConflict):
            await core.runtime.ask(turn("t1", detached=state == "running", temperature=1.0))


@pytest.mark.parametrize("crashes", [True, False])
async def test_retry_runs_a_failed_turn_again_and_nothing_else(
    autojump_clock: MockClock, disk: Disk, crashes: bool
) -> None:
    scripts: dict[str, list[Script]] = {"bad": [(Break(CredentialsRejected("local")),)]}
    workers = FakeWorkers(scripts=scripts)

    async def try_again(core: Core) -> None:
        scripts.clear()
        if crashes:
            with pytest.raises(CredentialsRejected):
                await core.runtime.ask(turn("bad"))
        core.supervisor.dispatcher.floor.breakers.reload()
        assert (await core.runtime.ask(turn("bad"), retry=True)).text == "hello"
        assert (await core.runtime.ask(turn("bad"), retry=True)).text == "hello"
        assert (await core.runtime.ask(turn("good"), retry=True)).text == "hello"
        with pytest.raises(IdConflict):
            await core.runtime.ask(turn("good", temperature=1.0), retry=True)
        assert_nothing_is_left(core)

    async with disk.service(workers) as (core, journal):
        await core.runtime.ask(turn("good"))
        with pytest.raises(CredentialsRejected):
            await core.runtime.ask(turn("bad"))
        if not crashes:
            await try_again(core)
        journal.crash()
    if crashes:
        async with disk.service(workers) as (core, _):
            await try_again(core)
    assert {name: len(attempts) for name, attempts in workers.attempts.items()} == {"good": 1, "bad": 2}

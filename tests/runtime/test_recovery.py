"""What a service finds in its journal and makes of it; and what happens between an operation and its commit.

Virtual time, fake workers, the journal's real store. A crash is a journal that writes and answers nothing any more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from loopforge.drivers.errors import (
    CredentialsRejected,
    ProviderUnavailable,
    QuotaExhausted,
    StreamBroken,
    TurnError,
    WorkerLost,
)
from loopforge.drivers.turn import Done, Event, Restarted, Started, TextDelta
from loopforge.runtime.client import Runtime
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import DeadlineExceeded, IdConflict, JournalFailed, NoRoute, TurnCancelled, UnknownTurn
from loopforge.runtime.journal.operations import Accept, Finish, Running, Show, StoredTurn
from loopforge.runtime.journal.store import Store
from tests.fakes.journal import SteppedJournal
from tests.fakes.worker import ANSWER, Break, Die, FakeWorkers, Say, Script, Wait
from tests.fakes.worker import Finish as End
from tests.runtime.core import Core, config, disconnect, open_core, provider, turn
from tests.runtime.journal.sample import do, open_store

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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with open_store(tmp_path / "journal.db") as store:
        yield Disk(store)


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


# -- between an operation and its commit -----------------------------------------------------------------------------


async def test_a_turn_is_accepted_once_it_is_on_disk_and_sent_once_its_attempt_is(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service() as (core, journal):
        await trio.sleep(1)
        journal.hold()
        posted = trio.Event()

        async def post() -> None:
            await core.runtime.post(turn("t1"))
            posted.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post)
            await trio.sleep(10)
            assert not posted.is_set()
            assert core.workers.attempts == {}
            journal.release()
        assert (await core.runtime.wait("t1")).text == "hello"
        kinds = [type(operation) for operation in journal.committed]
        assert kinds.index(Accept) < kinds.index(Running) < kinds.index(Finish)


async def test_an_outcome_is_told_once_it_is_on_disk(autojump_clock: MockClock, disk: Disk) -> None:
    async with disk.service(FakeWorkers(default=(Wait(5), Say("hello"), End()))) as (core, journal):
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        journal.hold()
        with trio.move_on_after(10) as early:
            await core.runtime.wait("t1")
        assert early.cancelled_caught
        journal.release()
        assert (await core.runtime.wait("t1")).text == "hello"


async def test_a_turn_that_cannot_be_written_down_is_refused_and_leaves_nothing(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service() as (core, journal):
        journal.refuses = (Accept,)
        for _ in range(3):
            with pytest.raises(JournalFailed, match="no space"):
                await core.runtime.ask(turn("t1"))
        await trio.sleep(1)
        assert core.workers.attempts == {}
        assert_nothing_is_left(core)
        with pytest.raises(UnknownTurn):
            await core.runtime.wait("t1")
        journal.refuses = ()
        assert (await core.runtime.ask(turn("t1"))).text == "hello"


async def test_accepted_turns_go_on_while_the_disk_takes_nothing_more(autojump_clock: MockClock, disk: Disk) -> None:
    scripts: dict[str, list[Script]] = {"t1": [(Wait(5), Break(StreamBroken("local"))), ANSWER]}
    async with disk.service(FakeWorkers(scripts=scripts)) as (core, journal):
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        journal.refuses = (Accept, Running)
        reply = await core.runtime.wait("t1")
        assert (reply.text, reply.attempts) == ("hello", 2)


@pytest.mark.parametrize("refused", [True, False])
async def test_a_turn_cancelled_before_its_commit_is_cancelled_and_sent_nowhere(
    autojump_clock: MockClock, disk: Disk, refused: bool
) -> None:
    async with disk.service() as (core, journal):
        await trio.sleep(1)
        journal.hold()
        journal.refuses = (Accept,) if refused else ()
        outcomes: list[TurnError] = []

        async def ask() -> None:
            with pytest.raises(TurnError) as caught:
                await core.runtime.ask(turn("t1"))
            outcomes.append(caught.value)

        async with trio.open_nursery() as nursery, core.another_client() as other:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            assert await other.cancel("t1")
            journal.release()
        assert isinstance(outcomes[0], JournalFailed if refused else TurnCancelled)
        await trio.sleep(10)
        assert core.workers.attempts == {}
        assert_nothing_is_left(core)
    [found] = do(disk.store, Show(id="t1"))
    assert (found.turn is None) == refused
    assert refused or disk.turn("t1").state == "cancelled"


@pytest.mark.parametrize("detached", [True, False])
async def test_a_client_that_leaves_before_the_commit_leaves_only_what_goes_on_without_it(
    autojump_clock: MockClock, disk: Disk, detached: bool
) -> None:
    async with disk.service() as (core, journal):
        await trio.sleep(1)
        journal.hold()
        async with trio.open_nursery() as nursery, core.another_client() as leaving:

            async def post() -> None:
                with pytest.raises(TurnError):
                    await leaving.post(turn("t1", detached=detached))

            nursery.start_soon(post)
            await wait_all_tasks_blocked()
            await disconnect(leaving)
            await wait_all_tasks_blocked()
            journal.release()
        await trio.sleep(10)
        assert_nothing_is_left(core)
        assert len(core.workers.attempts["t1"]) == int(detached)
    assert disk.turn("t1").state == ("done" if detached else "cancelled")


async def test_two_clients_with_one_turn_are_both_told_when_it_is_on_disk(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service() as (core, journal), core.another_client() as other:
        await trio.sleep(1)
        journal.hold()
        texts: list[str] = []

        async def ask(runtime: Runtime) -> None:
            texts.append((await runtime.ask(turn("t1"))).text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, core.runtime)
            nursery.start_soon(ask, other)
            await wait_all_tasks_blocked()
            assert texts == []
            journal.release()
        assert texts == ["hello", "hello"]
        assert len(core.workers.attempts["t1"]) == 1


async def test_a_worker_that_dies_before_the_attempt_is_on_disk_costs_no_attempt(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service() as (core, journal):
        await trio.sleep(1)
        journal.hold()
        replies: list[int] = []

        async def ask() -> None:
            replies.append((await core.runtime.ask(turn("t1"))).attempts)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            core.workers.alive["local"].kill()
            await trio.sleep(2)
            assert len(core.workers.boots) == 2
            journal.release()
        assert replies == [1]
        assert len(core.workers.attempts["t1"]) == 1
        assert_nothing_is_left(core)


async def test_an_outcome_that_was_not_on_disk_at_the_crash_is_worked_out_again_and_said_so(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=(Wait(5), Say("first"), End()))) as (core, journal):
        await core.runtime.post(turn("t1", detached=True))
        await trio.sleep(1)
        journal.hold()
        await trio.sleep(10)
        journal.crash()
    async with disk.service() as (core, _):
        reply = await core.runtime.wait("t1")
        assert (reply.text, reply.attempts) == ("hello", 2)
    assert [one.ambiguous for one in disk.turn("t1").lost] == [True]


# -- a crash at any commit -------------------------------------------------------------------------------------------

LOAD: dict[str, list[Script]] = {
    "plain": [ANSWER],
    "cut": [(Say("half"), Break(StreamBroken("local"))), ANSWER],
    "down": [(Break(ProviderUnavailable("local")),), ANSWER],
    "parked": [(Break(QuotaExhausted("home", reset_at=EPOCH + 30)),), ANSWER],
    "killed": [(Say("half"), Wait(0.1), Die()), ANSWER],
    "wrong": [(Break(CredentialsRejected("local")),)],
}
COMMITS = 29
"""What a service that lives on commits less than, from the look at what there is to the last outcome."""


@pytest.mark.parametrize("crash_after", range(2, COMMITS + 1))
async def test_whatever_was_accepted_has_one_outcome_wherever_the_service_crashed(
    autojump_clock: MockClock, disk: Disk, crash_after: int
) -> None:
    local, home, key = LOCAL, provider("home"), provider("key")
    setup = config(local, home, reattach_grace_s=30, max_attempts=10)
    routes = {**setup.routes, "coding": replace(setup.routes["coding"], park_max_s=3600)}
    setup = replace(setup, providers={**setup.providers, "key": key}, routes=routes)
    members: dict[str, dict[str, Any]] = {"parked": {"kind": "coding"}, "wrong": {"provider": "key"}}
    turns = {name: turn(name, detached=True, **members.get(name, {})) for name in LOAD}
    workers = FakeWorkers(scripts=dict(LOAD))
    accepted: set[str] = set()
    told: dict[str, str] = {}

    async def follow(runtime: Runtime, name: str) -> None:
        await runtime.post(turns[name])
        accepted.add(name)
        told[name] = repr(await outcome_of(runtime, name))

    async with disk.service(workers, setup=setup, crash_after=crash_after) as (core, journal):
        with trio.move_on_after(100) as until_crash:
            async with trio.open_nursery() as nursery:
                for name in turns:
                    nursery.start_soon(follow, core.runtime, name)
                await journal.crashed.wait()
                nursery.cancel_scope.cancel()
        assert until_crash.cancelled_caught == (crash_after >= COMMITS), (
            "change COMMITS when the load does more or less"
        )
    recovered = FakeWorkers(scripts={name: scripts[-1:] for name, scripts in LOAD.items()})
    async with disk.service(recovered, setup=setup) as (core, _):
        for name in accepted:
            again = repr(await outcome_of(core.runtime, name))
            assert told.get(name, again) == again
            assert again == ("'hello'" if name != "wrong" else again)
            assert ("CredentialsRejected" in again) == (name == "wrong")
            if name in told:
                assert recovered.attempts[name] == []
        await trio.sleep(100)  # of those not known to be accepted, each may have come to the disk
        for name in turns:
            assert repr(await outcome_of(core.runtime, name)) != "", name
        assert_nothing_is_left(core)
    for name in turns:
        [found] = do(disk.store, Show(id=name))
        assert found.turn is not None or name not in accepted
        if found.turn is not None:
            sent = len(workers.attempts[name]) + len(recovered.attempts[name])
            assert found.turn.attempts == sent or found.turn.attempts == sent + 1  # on disk, and not yet sent
            assert found.turn.ending is not None

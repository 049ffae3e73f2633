"""What happens between an operation of the journal and its commit, and a crash at any commit. Virtual time."""

from __future__ import annotations

from dataclasses import replace
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
)
from loopforge.runtime.client import Runtime
from loopforge.runtime.errors import JournalFailed, TurnCancelled, UnknownTurn
from loopforge.runtime.journal.operations import Accept, Finish, Running, Show
from tests.fakes.worker import ANSWER, Break, Die, FakeWorkers, Say, Script, Wait
from tests.fakes.worker import Finish as End
from tests.runtime.core import config, disconnect, provider, turn
from tests.runtime.journal.sample import do
from tests.runtime.recovering import (
    EPOCH,
    LOCAL,
    Disk,
    assert_nothing_is_left,
    outcome_of,
)

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

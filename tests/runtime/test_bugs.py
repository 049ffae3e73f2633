"""A bug of ours in what follows an answer of the journal: the turn it meets ends, once, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from loopforge.drivers.errors import TurnError, WireMismatch
from loopforge.runtime.journal.operations import Accept
from loopforge.runtime.records import TurnRecord, Watcher
from tests.fakes.worker import FakeWorkers, Finish, Say, Wait
from tests.runtime.core import Core, turn
from tests.runtime.recovering import Disk, assert_nothing_is_left, outcome_of


class BrokenLink:
    """A client whose connection breaks its promise that `send` never raises."""

    def __init__(self) -> None:
        self.turns: dict[int, TurnRecord] = {}

    def send(self, frame: bytes) -> None:  # noqa: ARG002 - it comes nowhere
        raise RuntimeError("the bug")


class NoText:
    """What no frame can carry."""


def live(core: Core, turn_id: str) -> TurnRecord:
    record = core.supervisor.dispatcher.ledger.get(turn_id)
    assert record is not None
    return record


async def refusal_of_asking(core: Core) -> TurnError:
    with pytest.raises(TurnError) as caught:
        await core.runtime.ask(turn("t1"))
    return caught.value


async def test_a_turn_that_cannot_be_sent_fails_at_once_and_by_name(
    autojump_clock: MockClock, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async with disk.service(FakeWorkers(default=(Wait(5), Say("x"), Finish()))) as (core, _):
        for name in ("a", "b"):
            await core.runtime.post(turn(name))
        await trio.sleep(1)
        await core.runtime.post(turn("bad"))
        await core.runtime.post(turn("next"))
        record = live(core, "bad")
        bug: Any = NoText()
        record.plan = replace(record.plan, thinking=bug)
        with pytest.raises(WireMismatch, match="the service failed with TypeError; report this as a bug") as caught:
            await core.runtime.wait("bad")
        assert trio.current_time() < 10
        assert caught.value.provider == ""
        assert (await core.runtime.wait("next")).text == "x"
        assert trio.current_time() < 12, "its slot goes on to the next turn"
        assert_nothing_is_left(core)
        assert disk.turn("bad").state == "failed"
    assert "Traceback" in caplog.text
    assert "bug of ours" in caplog.text


async def test_a_turn_that_cannot_be_taken_from_where_it_waits_fails_all_the_same(
    autojump_clock: MockClock, disk: Disk
) -> None:
    """One bug after the other."""
    async with disk.service() as (core, journal):
        await trio.sleep(1)
        journal.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refusal_of_asking, core)
            await wait_all_tasks_blocked()
            record = live(core, "t1")
            bug: Any = NoText()
            record.plan, outcomes, record.desk.outcomes = replace(record.plan, thinking=bug), record.desk.outcomes, bug
            journal.release()
        record.desk.outcomes = outcomes
        assert_nothing_is_left(core)
        assert (await core.runtime.ask(turn("t2"))).text == "hello"


async def test_a_turn_whose_acceptance_cannot_be_told_ends_for_whoever_else_asked_for_it(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=(Wait(5), Finish()))) as (core, journal):
        await trio.sleep(1)
        journal.hold()
        outcomes: list[TurnError] = []

        async def ask() -> None:
            outcomes.append(await refusal_of_asking(core))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            live(core, "t1").unanswered.insert(0, Watcher(BrokenLink(), 1, quiet=False))
            journal.release()
        assert isinstance(outcomes[0], WireMismatch)
        assert_nothing_is_left(core)
        assert disk.turn("t1").state == "failed"


async def test_a_client_that_cannot_be_told_of_an_outcome_keeps_it_from_no_other(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service(FakeWorkers(default=(Wait(5), Say("hello"), Finish()))) as (core, _):
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        live(core, "t1").watchers.insert(0, Watcher(BrokenLink(), 1, quiet=True))
        with trio.fail_after(20):
            assert await outcome_of(core.runtime, "t1") == "hello"
            assert await outcome_of(core.runtime, "t1") == "hello"
        assert_nothing_is_left(core)


async def test_a_turn_that_was_not_accepted_says_so_to_all_but_the_client_that_cannot_be_told(
    autojump_clock: MockClock, disk: Disk
) -> None:
    async with disk.service() as (core, journal):
        await trio.sleep(1)
        journal.hold()
        outcomes: list[TurnError] = []

        async def ask() -> None:
            outcomes.append(await refusal_of_asking(core))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            live(core, "t1").unanswered.insert(0, Watcher(BrokenLink(), 1, quiet=False))
            journal.refuses = (Accept,)
            journal.release()
        assert isinstance(outcomes[0], WireMismatch)
        journal.refuses = ()
        assert_nothing_is_left(core)
        assert (await core.runtime.ask(turn("t1"))).text == "hello"

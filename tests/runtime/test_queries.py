"""What a client may ask of past turns, and a turn tried again from its stored request.

Virtual time, fake workers, the journal's real store. With real services: tests/runtime/cli/test_turns.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import TurnError, TurnRefused
from loopforge.runtime.errors import BadTurn, Draining, TurnCancelled, UnknownTurn
from loopforge.runtime.journal.disk import open_journal
from loopforge.runtime.journal.operations import List
from loopforge.runtime.queries import MAX_LISTED, operation_of
from loopforge.workers.messages import FrameType, pack, unpack
from loopforge.workers.packing import Malformed
from tests.fakes.journal import SteppedJournal
from tests.fakes.worker import Break, FakeWorkers, Finish, Say, Wait
from tests.runtime.core import Core, disconnect, open_core, turn
from tests.runtime.journal.sample import open_store

REFUSED = (Break(TurnRefused("local")),)
LONG = (Say("again"), Wait(100), Finish())


@asynccontextmanager
async def open_journaled(tmp_path: Path, **scripts: Any) -> AsyncIterator[tuple[Core, SteppedJournal]]:
    with open_store(tmp_path / "journal.db") as store:
        journal = SteppedJournal(store)
        async with open_core(workers=FakeWorkers(scripts=scripts), journal=journal) as core:
            yield core, journal


async def ask(core: Core, what: str, **members: Any) -> Any:
    frame = await core.runtime._request(FrameType.QUERY, pack({"what": what, **members}))
    return unpack(frame.body) if frame.type == FrameType.QUERY else frame.type


@pytest.mark.parametrize("limit", [-5, 0, 10**12])
def test_no_client_makes_the_loop_list_without_a_bound(limit: int) -> None:
    operation = operation_of({"what": "turns", "limit": limit})
    assert isinstance(operation, List)
    assert 1 <= operation.limit <= MAX_LISTED


@pytest.mark.parametrize("header", [{"what": "nonsense"}, {}, {"what": "retry"}, {"what": "turn", "id": 5}])
def test_a_question_that_nobody_knows_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises((Malformed, ValueError)):
        operation_of(header)


async def test_a_failed_turn_runs_again_under_its_id_and_outlives_who_asked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with open_journaled(tmp_path, t=[REFUSED]) as (core, _):
        with pytest.raises(TurnRefused):
            await core.runtime.ask(turn("t"))
        core.workers.scripts["t"] = [LONG]
        assert await ask(core, "retry", id="t") == FrameType.ACCEPTED
        async with core.another_client() as other:
            await disconnect(core.runtime)
            assert (await other.wait("t")).text == "again"


async def test_what_cannot_be_tried_again_is_refused_with_what_to_do_instead(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with open_journaled(tmp_path, long=[LONG], bad=[REFUSED]) as (core, _):
        await core.runtime.ask(turn("done"))
        await core.runtime.post(turn("long"))
        with pytest.raises(TurnRefused):
            await core.runtime.ask(turn("bad"))
        for turn_id, error, said in (
            ("done", BadTurn, "it is done"),
            ("long", BadTurn, "it is under way"),
            ("other", UnknownTurn, "'other'"),
        ):
            with pytest.raises(error, match=said):
                await ask(core, "retry", id=turn_id)
        core.supervisor.dispatcher.drain()
        with pytest.raises(Draining):
            await ask(core, "retry", id="bad")


async def test_a_turn_that_two_ask_for_at_once_runs_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_journaled(tmp_path, t=[REFUSED]) as (core, journal):
        with pytest.raises(TurnRefused):
            await core.runtime.ask(turn("t"))
        core.workers.scripts["t"] = [LONG]
        answers: list[object] = []

        async def retry() -> None:
            try:
                answers.append(await ask(core, "retry", id="t"))
            except TurnError as exc:
                answers.append(type(exc))

        journal.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retry)
            nursery.start_soon(retry)
            await trio.sleep(1)
            journal.release()
        assert sorted(map(str, answers)) == sorted(map(str, (FrameType.ACCEPTED, BadTurn)))
        assert (await core.runtime.wait("t")).text == "again"


async def test_a_cancelled_turn_keeps_its_request_and_a_done_one_does_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with open_journaled(tmp_path, c=[LONG]) as (core, _):
        await core.runtime.ask(turn("d"))
        await core.runtime.post(turn("c"))
        await trio.sleep(1)
        await core.runtime.cancel("c")
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("c")
        kept = {}
        for turn_id in ("d", "c"):
            told = await ask(core, "turn", id=turn_id, with_body=True)
            kept[turn_id] = bool(told["turn"].get("body"))
        assert kept == {"d": False, "c": True}


@pytest.mark.parametrize("which", [{"ids": ["t", "never"]}, {"all_ended": True}])
async def test_a_turn_that_was_deleted_is_known_nowhere_any_more(tmp_path: Path, which: dict[str, Any]) -> None:
    async with (
        open_journal(tmp_path / "journal.db", retain_days=7, retain_mb=512) as journal,
        open_core(journal=journal) as core,
    ):
        assert (await core.runtime.ask(turn("t"))).text == "hello"
        core.workers.scripts["t"] = [(Say("again"), Finish())]
        assert (await core.runtime.ask(turn("t"))).text == "hello", "the stored reply"
        assert await ask(core, "purge", **which) == {"turns": 1}
        with pytest.raises(UnknownTurn):
            await core.runtime.wait("t")
        assert (await core.runtime.ask(turn("t"))).text == "again"


async def test_purging_what_ended_before_a_time_forgets_those_replies_and_no_later_ones(tmp_path: Path) -> None:
    walls = {"now": 1000.0}
    async with (
        open_journal(tmp_path / "journal.db", retain_days=10**6, retain_mb=512) as journal,
        open_core(journal=journal, wall=lambda: walls["now"]) as core,
    ):
        await core.runtime.ask(turn("old"))
        walls["now"] = 2000.0
        await core.runtime.ask(turn("new"))
        assert await ask(core, "purge", ended_before=1500.0) == {"turns": 1}
        with pytest.raises(UnknownTurn):
            await core.runtime.wait("old")
        assert (await core.runtime.wait("new")).text == "hello"
        core.workers.scripts |= {name: [(Say("again"), Finish())] for name in ("old", "new")}
        assert (await core.runtime.ask(turn("old"))).text == "again"
        assert (await core.runtime.ask(turn("new"))).text == "hello"

"""The journal's thread: what is posted comes back once, in order, after the commit; and it ends when it should."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.disk import SqliteJournal, open_journal
from loopforge.runtime.journal.files import UnusableJournal, connect
from loopforge.runtime.journal.inbox import MAX_GROUP
from loopforge.runtime.journal.memory import MemoryJournal
from loopforge.runtime.journal.operations import (
    Accepted,
    Found,
    Journal,
    Known,
    List,
    Listing,
    Lookup,
    Operation,
    Purge,
    Purged,
    Recover,
    Recovered,
    Show,
    Usage,
    UsageTable,
    Written,
    ask_journal,
    weight_bytes,
)
from tests.runtime.journal.sample import T0, accept, attempt, finish, lost, park, running

LIMIT_S = 20.0
FOR_EVER = 1e6  # days; the sample turns are years old


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "journal.db"


class Gate:
    """A connection whose commits wait until the gate is open: a disk that takes its time."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()
        self.commits = 0

    def connect(self, path: Path) -> sqlite3.Connection:
        connection = connect(path)

        def at_commit(statement: str) -> None:
            if statement == "COMMIT":
                self.commits += 1
                self.arrived.set()
                assert self.open.wait(LIMIT_S)

        connection.set_trace_callback(at_commit)
        return connection

    async def wait_arrived(self) -> None:
        await trio.to_thread.run_sync(self.arrived.wait, LIMIT_S)


async def ask(journal: Journal, *operations: Operation[Any]) -> list[Any]:
    """Post all at once; the answers in the order in which they came."""
    answers: list[Any] = []
    came = trio.Event()

    def done(answer: object) -> None:
        answers.append(answer)
        if len(answers) == len(operations):
            came.set()

    for operation in operations:
        journal.post(operation, done)
    with trio.fail_after(LIMIT_S):
        await came.wait()
    return answers


async def test_what_was_posted_is_answered_in_order_and_is_there_after_a_restart(path: Path) -> None:
    async with open_journal(path, retain_days=FOR_EVER) as journal:
        assert journal.durability == "disk"
        answers = await ask(journal, accept("a"), running("a"), accept("b"), finish("a"), Lookup(id="a"), running("x"))
        assert [type(answer) for answer in answers] == [Accepted, Written, Accepted, Written, Found, Written]
        assert answers[-1] == Written(changed=False)
    async with open_journal(path, retain_days=FOR_EVER) as journal:
        recovered = await ask_journal(journal, Recover())
        assert [turn.id for turn in recovered.turns] == ["b"]
        assert isinstance(await ask_journal(journal, accept("a")), Known)


async def test_an_answer_does_not_come_before_the_commit(path: Path) -> None:
    gate = Gate()
    async with open_journal(path, connect=gate.connect) as journal:
        answers: list[object] = []
        gate.arrived.clear()
        gate.open.clear()
        journal.post(accept("a"), answers.append)
        await gate.wait_arrived()
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        gate.open.set()
        assert isinstance((await ask(journal, accept("a")))[0], Known)
        assert answers == [Accepted()]


async def test_all_that_waits_for_a_slow_disk_goes_in_one_commit_and_is_counted_until_then(path: Path) -> None:
    gate = Gate()
    async with open_journal(path, connect=gate.connect) as journal:
        answers: list[object] = []
        gate.arrived.clear()
        gate.open.clear()
        first = accept("first")
        journal.post(first, answers.append)
        await gate.wait_arrived()
        others = [accept(f"t{number}", body=bytes(100)) for number in range(MAX_GROUP)]
        for operation in others:
            journal.post(operation, answers.append)
        weight = sum(map(weight_bytes, [first, *others]))
        assert journal.backlog == (MAX_GROUP + 1, weight)
        assert weight > 100 * MAX_GROUP
        assert journal.status()["waiting"] == MAX_GROUP + 1
        assert journal.busy_s > 0
        before = gate.commits
        gate.open.set()
        await ask(journal, Lookup(id="first"))
        assert answers == [Accepted()] * (MAX_GROUP + 1)
        assert gate.commits - before <= 2
        assert journal.backlog == (0, 0)


async def test_everything_posted_is_answered_before_the_journal_is_closed(path: Path) -> None:
    answers: list[object] = []
    async with open_journal(path) as journal:
        for number in range(1000):
            journal.post(accept(f"t{number}"), answers.append)
    assert answers == [Accepted()] * 1000
    refused: list[Any] = []
    journal.post(accept("late"), refused.append)
    assert isinstance(refused[0], JournalFailed)
    assert "stopping" in str(refused[0])
    await journal.aclose()


async def test_a_cancelled_service_still_closes_its_journal(path: Path) -> None:
    answers: list[object] = []
    with trio.CancelScope() as scope:
        async with open_journal(path) as journal:
            for number in range(100):
                journal.post(accept(f"t{number}"), answers.append)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert answers == [Accepted()] * 100
    assert not path.with_name("journal.db-wal").exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "journal"]


async def test_a_call_back_that_fails_is_logged_and_the_others_are_called(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(answer: object) -> None:
        raise RuntimeError("a bug")

    async with open_journal(path) as journal:
        journal.post(accept("a"), fail)
        assert await ask(journal, accept("b")) == [Accepted()]
        assert journal.backlog == (0, 0)
    assert "a call-back of the journal failed" in caplog.text


async def test_an_operation_may_be_posted_from_the_call_back_of_another(path: Path) -> None:
    async with open_journal(path) as journal:
        ended = trio.Event()
        answers: list[object] = []

        def accepted(answer: object) -> None:
            answers.append(answer)
            journal.post(finish("a"), finished)

        def finished(answer: object) -> None:
            answers.append(answer)
            ended.set()

        journal.post(accept("a", running=attempt()), accepted)
        with trio.fail_after(LIMIT_S):
            await ended.wait()
        assert answers == [Accepted(), Written()]


async def test_a_long_purge_lets_other_operations_pass(path: Path) -> None:
    async with open_journal(path) as journal:
        names = [f"t{number}" for number in range(500)]
        await ask(journal, *(accept(name) for name in names))
        await ask(journal, *(finish(name) for name in names))
        order = await ask(journal, Purge(all_ended=True), Lookup(id="t499"), accept("new"))
        assert order[-1] == Purged(500)
        assert {type(answer) for answer in order[:-1]} == {Found, Accepted}
        assert [turn.id for turn in (await ask_journal(journal, List())).turns] == ["new"]


async def test_old_turns_leave_without_being_asked_to(path: Path) -> None:
    async with open_journal(path) as journal:
        await ask(journal, accept("old"), accept("alive"), finish("old", ended_at=T0))
    async with open_journal(path, retain_days=1) as journal:
        with trio.fail_after(LIMIT_S):
            while (await ask_journal(journal, Lookup(id="old"))).turn is not None:
                pass
        assert (await ask_journal(journal, Lookup(id="alive"))).turn is not None
        assert (await ask_journal(journal, Usage(by=("kind",)))).rows[0].turns == 1


async def test_a_second_journal_at_the_same_place_is_refused(path: Path) -> None:
    async with open_journal(path):
        with pytest.raises(UnusableJournal, match="in use"):
            async with open_journal(path):
                pass
    async with open_journal(path) as again:
        assert again.status()["problem"] == ""


@pytest.fixture
def damaged(path: Path) -> Path:
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 1000)
    return path


async def test_a_damaged_journal_is_told_of_in_the_status(damaged: Path) -> None:
    async with open_journal(damaged) as journal:
        assert "corrupt" in journal.status()["note"]
        assert await ask(journal, accept("a")) == [Accepted()]


async def test_a_journal_whose_thread_fails_answers_everything_with_an_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Unheard(KeyboardInterrupt):
        """What no handler expects."""

    class Breaks(Lookup):
        def __init__(self) -> None:
            """Without the id."""

        @property
        def id(self) -> str:  # a bug that nobody thought of
            raise Unheard

    gate = Gate()
    async with open_journal(path, connect=gate.connect) as journal:
        gate.arrived.clear()
        gate.open.clear()
        early: list[object] = []
        journal.post(accept("a"), early.append)
        await gate.wait_arrived()
        gate.open.set()
        answers = await ask(journal, accept("b"), Breaks(), accept("c"), Purge(all_ended=True))
        assert early == [Accepted()]
        assert {type(answer) for answer in [*answers, *(await ask(journal, accept("d")))]} == {JournalFailed}
        assert journal.backlog == (0, 0)
        assert "restart the service" in str(answers[0])
        assert "has failed" in journal.status()["problem"]
    assert "the journal's thread failed" in caplog.text


async def test_memory_answers_at_once_with_what_keeps_nothing() -> None:
    journal = MemoryJournal()
    assert journal.durability == "memory"
    assert journal.status() == {"durability": "memory", "problem": ""}
    operations = [accept("a"), running("a"), lost("a"), park("a"), finish("a"), Lookup(id="a"), Show(id="a")]
    answers: list[Any] = []
    for operation in [*operations, List(), Usage(by=("day",)), Purge(all_ended=True), Recover()]:
        journal.post(operation, answers.append)
    assert answers == [
        Accepted(),
        *[Written()] * 4,
        *[Found(None)] * 2,
        Listing((), more=False),
        UsageTable((), (), more=False),
        Purged(0),
        Recovered(()),
    ]
    assert journal.backlog == (0, 0)
    await journal.aclose()


def _is_a_journal(memory: MemoryJournal, disk: SqliteJournal) -> tuple[Journal, Journal]:
    """For the type checker."""
    return memory, disk

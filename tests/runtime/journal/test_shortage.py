"""A disk that takes nothing more: new turns are refused, running ones end, no outcome is lost, and it heals itself.

Most of it with SQLite's own limit on the pages of a file, which fails as a full disk does; once on a real one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.disk import SqliteJournal, open_journal
from loopforge.runtime.journal.operations import (
    Accepted,
    Deferred,
    Known,
    List,
    Lookup,
    Purge,
    Purged,
    Recover,
    Usage,
    Written,
    ask_journal,
)
from loopforge.runtime.journal.shortage import AGAIN_S
from loopforge.runtime.journal.store import Store
from tests.fakes.recording_disk import RecordingDisk
from tests.runtime.journal.sample import accept, attempt, do, ending, finish, lost, open_store, running

MIB = 1 << 20


def fill(store: Store) -> None:
    """The file may not grow from here on."""
    pages = store.connection.execute("PRAGMA page_count").fetchone()[0]
    store.connection.execute(f"PRAGMA max_page_count = {pages}")


def free(store: Store) -> None:
    store.connection.execute("PRAGMA max_page_count = 1000000")


BIG = b"x" * 40_000


def test_a_full_disk_refuses_new_turns_says_what_to_do_and_takes_them_again(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        fill(store)
        small, large = do(store, running("nobody"), accept("a", body=BIG))
        assert small == Written(changed=False)
        assert isinstance(large, JournalFailed)
        assert large.retry_after_s is not None
        assert "full" in str(large)
        assert "free space" in str(large)
        free(store)
        assert isinstance(do(store, accept("a", body=BIG))[0], JournalFailed), "the disk is not asked at every turn"
        assert do(store, accept("a", body=BIG), now=AGAIN_S) == [Accepted()]
        assert not store.shortage.active
        assert store.shortage.problem == ""


def test_the_log_names_the_folder_whose_disk_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(tmp_path / "journal.db") as store:
        fill(store)
        do(store, accept("a", body=BIG))
    assert f"the journal in {tmp_path} cannot write" in caplog.text
    assert "ballast" not in caplog.text


def test_a_turn_that_does_not_fit_takes_no_other_of_its_group_down(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        do(store, accept("a"), accept("b"))
        fill(store)
        answers = do(store, running("a"), accept("c", body=BIG), finish("a", body=b""), accept("a"))
        assert [type(answer) for answer in answers] == [Written, JournalFailed, Written, Known]


def test_an_outcome_without_room_is_kept_found_and_written_later(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    outcome = finish("a", body=BIG)
    with open_store(path) as store:
        do(store, accept("a", running=attempt()), accept("b"))
        fill(store)
        assert do(store, outcome) == [Deferred()]
        assert do(store, finish("a", "failed")) == [Written(changed=False)], "a turn ends once"
        found, listing, again = do(store, Lookup(id="a"), List(states=()), accept("a"))
        assert found.turn.ending == ending(outcome)
        assert [turn.state for turn in listing.turns] == ["accepted", "done"]
        assert isinstance(again, Known)
        assert again.turn.state == "done"
        free(store)
        assert do(store, Lookup(id="a"), now=1.0)[0].turn.ending == ending(outcome)
        assert store.shortage.owed == []
    with open_store(path) as store:
        assert do(store, Lookup(id="a"))[0].turn.ending == ending(outcome)
        assert [turn.id for turn in do(store, Recover())[0].turns] == ["b"]
        assert do(store, Usage(by=("provider",)))[0].rows[0].turns == 1


def test_outcomes_that_wait_are_bounded_and_each_is_answered(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        names = [f"t{number}" for number in range(6)]
        do(store, *(accept(name) for name in names))
        store.shortage.max_owed_bytes = 3 * (len(BIG) + 2_000)
        fill(store)
        answers = do(store, *(finish(name, body=BIG) for name in names))
        assert [type(answer) for answer in answers] == [Deferred] * 3 + [JournalFailed] * 3


def test_what_is_still_owed_is_written_as_the_journal_closes(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        do(store, accept("a"))
        fill(store)
        do(store, finish("a", body=BIG))
        assert store.settle_debts(1.0) == 1
        free(store)
        assert store.settle_debts(2.0) == 0


def test_a_damaged_page_stops_new_turns_until_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with open_store(path) as store:
        do(store, *(accept(f"t{number}") for number in range(200)))
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        store.connection.execute("PRAGMA shrink_memory")
        store.connection.execute("PRAGMA cache_size = 0")
        [refused] = do(store, accept("new"))
        assert isinstance(refused, JournalFailed)
        assert "restart the service" in str(refused)
        assert refused.retry_after_s is None, "no time brings a damaged file back"
        assert isinstance(do(store, accept("new"), now=100.0)[0], JournalFailed)
        assert (tmp_path / "journal.suspect").exists()
    with open_store(path) as store:
        assert do(store, accept("new")) == [Accepted()]
        assert not (tmp_path / "journal.suspect").exists()
    assert [file for file in tmp_path.glob("journal.db.corrupt-*") if not file.name.endswith("-wal")]


# -- a real disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Sixteen MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=16m") != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield place
    finally:
        assert libc.umount2(os.fsencode(place), 2) == 0  # MNT_DETACH


def hog(place: Path, name: str = "hog", *, but: int = 0) -> Path:
    """Somebody else fills the disk, but for so many bytes."""
    file = place / name
    with file.open("wb", buffering=0) as out:
        size = MIB
        while size:
            try:
                out.write(b"\0" * size)
            except OSError:
                size //= 2
        out.truncate(out.tell() - but)
    return file


def test_on_a_full_disk_all_accepted_turns_end_within_the_ballast(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    with open_store(path, ballast_bytes=2 * MIB) as store:
        ballast = small_disk / "journal.ballast"
        assert ballast.stat().st_blocks * 512 == 2 * MIB
        names = [f"t{number}" for number in range(100)]
        assert do(store, *(accept(name, running=attempt()) for name in names)) == [Accepted()] * 100
        hog_file = hog(small_disk)
        refused = [do(store, accept(f"x{number}", body=BIG))[0] for number in range(50)]
        assert all(isinstance(answer, JournalFailed) for answer in refused[1:])
        taken = [f"x{number}" for number, answer in enumerate(refused) if isinstance(answer, Accepted)]
        assert not ballast.exists()
        answers = [do(store, lost(name), running(name, 2), finish(name, body=BIG[:4_000])) for name in names]
        assert answers == [[Written()] * 3] * 100, "each outcome found room, nothing had to wait in memory"
        assert isinstance(do(store, accept("y"), now=10.0)[0], JournalFailed)
        hog_file.unlink()
        assert do(store, accept("y"), now=20.0) == [Accepted()]
        assert ballast.stat().st_blocks * 512 == 2 * MIB
    with open_store(path) as store:
        assert sorted(turn.id for turn in do(store, Recover())[0].turns) == sorted([*taken, "y"])
        assert all(do(store, Lookup(id=name))[0].turn.state == "done" for name in names)


def test_outcomes_beyond_the_ballast_wait_and_none_is_lost(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    with open_store(path, ballast_bytes=MIB) as store:
        names = [f"t{number}" for number in range(100)]
        do(store, *(accept(name, running=attempt()) for name in names))
        hog_file = hog(small_disk)
        answers = [do(store, finish(name, body=BIG))[0] for name in names]
        assert {type(answer) for answer in answers} == {Written, Deferred}
        hog_file.unlink()
        assert do(store, accept("y"), now=20.0) == [Accepted()]
        assert store.shortage.owed == []
    with open_store(path) as store:
        assert all(do(store, Lookup(id=name))[0].turn.ending == ending(finish(name, body=BIG)) for name in names)


def test_a_disk_that_is_full_at_the_start_still_tells_what_is_stored(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    with open_store(path, ballast_bytes=MIB) as store:
        do(store, accept("a"), accept("b"), finish("b"))
    (small_disk / "journal.ballast").unlink()
    hog_file = hog(small_disk)
    with open_store(path, ballast_bytes=MIB) as store:
        assert [turn.id for turn in do(store, Recover())[0].turns] == ["a"]
        assert do(store, Lookup(id="b"))[0].turn.state == "done"
        assert isinstance(do(store, accept("c"))[0], JournalFailed)
        hog_file.unlink()
        assert do(store, accept("c"), now=10.0) == [Accepted()]


# -- purges while the disk is short ----------------------------------------------------------------------------------

LIMIT_S = 20.0
SECURE_DELETE_FAST = 2
FOR_EVER = 1e6  # days; the sample turns are years old


async def asked(journal: SqliteJournal, *operations: Any) -> list[Any]:
    """One after the other, so that each is a group of its own; refusals are answers."""
    answers: list[Any] = []
    with trio.fail_after(LIMIT_S):
        for operation in operations:
            try:
                answers.append(await ask_journal(journal, operation))
            except JournalFailed as exc:
                answers.append(exc)
    return answers


async def use_up(journal: SqliteJournal) -> None:
    """Post turns until one is refused."""
    for number in range(200):
        if isinstance((await asked(journal, accept(f"use{number}", body=BIG)))[0], JournalFailed):
            return
    raise AssertionError("the disk is not full")


async def keep_history(path: Path, names: Sequence[str]) -> None:
    """A journal with these turns, ended, and its log copied."""
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=0) as journal:
        await asked(journal, *(accept(name) for name in names), *(finish(name, body=BIG) for name in names))


async def test_a_purge_on_a_full_disk_gives_it_room_and_turns_are_taken_again(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    await keep_history(path, [f"old{number}" for number in range(100)])
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=2 * MIB) as journal:
        await asked(journal, accept("alive"))
        hog(small_disk)
        await use_up(journal)
        assert journal.status()["problem"]
        assert await asked(journal, Purge(all_ended=True)) == [Purged(100)]
        assert journal.status()["problem"] == ""
        assert (small_disk / "journal.ballast").stat().st_blocks * 512 == 2 * MIB
        assert await asked(journal, accept("after"), finish("alive")) == [Accepted(), Written()]
    with open_store(path) as store:
        assert store.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store.connection.execute("PRAGMA secure_delete").fetchone()[0] != SECURE_DELETE_FAST


async def test_pages_that_a_purge_frees_take_the_outcomes_that_are_owed_first(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    old = [f"old{number}" for number in range(60)]
    large = [finish(name, body=bytes(MIB // 2)) for name in ("a", "b")]
    await keep_history(path, old)
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=4 * MIB) as journal:
        await asked(journal, accept("a"), accept("b"))
        hog(small_disk)
        await use_up(journal)
        hog(small_disk, "another", but=MIB // 4)
        assert await asked(journal, *large) == [Deferred(), Deferred()]
        assert await asked(journal, Purge(ids=tuple(old))) == [Purged(60)]
        assert journal.status()["owed"] == 0
        assert journal.status()["problem"], "less was freed than the ballast needs"
    with open_store(path) as store:
        assert [do(store, Lookup(id=one.id))[0].turn.ending for one in large] == [ending(one) for one in large]


async def test_outcomes_end_turns_in_the_pages_that_a_purge_has_freed(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    old, new = [f"old{number}" for number in range(60)], [f"new{number}" for number in range(50)]
    await keep_history(path, old)
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=4 * MIB) as journal:
        await asked(journal, *(accept(name) for name in new))
        hog(small_disk)
        await use_up(journal)
        hog(small_disk, "another", but=MIB // 4)
        assert await asked(journal, Purge(all_ended=True)) == [Purged(60)]
        assert await asked(journal, *(finish(name, body=BIG) for name in new)) == [Written()] * 50


async def test_a_purge_for_which_there_is_no_room_at_all_is_refused_at_once(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=MIB) as journal:
        await asked(journal, accept("a"), finish("a"))
    (small_disk / "journal.ballast").unlink()
    hog_file = hog(small_disk)
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=MIB) as journal:
        [refused] = await asked(journal, Purge(ids=("a",)))
        assert isinstance(refused, JournalFailed)
        assert refused.retry_after_s is not None
        assert f"free space on the disk of {small_disk}" in str(refused)
        hog_file.unlink()
        assert await asked(journal, Purge(ids=("a",))) == [Purged(1)]


async def test_a_journal_that_closes_on_a_full_disk_answers_its_purges(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    hog(small_disk, but=MIB)
    answers: list[object] = []
    with trio.fail_after(LIMIT_S):
        async with open_journal(path, ballast_bytes=2 * MIB) as journal:
            for _ in range(3):
                journal.post(Purge(all_ended=True), answers.append)
    await trio.testing.wait_all_tasks_blocked()
    assert {type(answer) for answer in answers} <= {JournalFailed, Purged}
    assert len(answers) == 3


async def test_a_purge_on_a_disk_that_fails_is_refused_after_few_tries_and_done_once_it_works(
    disk: RecordingDisk, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    await keep_history(path, ["old"])
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=0, connect=disk.connect) as journal:
        disk.tried, disk.broken = 0, lambda _: True
        answers = await asked(journal, accept("new"), Purge(all_ended=True), accept("new"), Purge(all_ended=True))
        assert {type(answer) for answer in answers} == {JournalFailed}
        assert disk.tried < 50
        disk.broken = lambda _: False
        assert await asked(journal, Purge(all_ended=True)) == [Purged(1)]


async def test_a_purge_of_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await keep_history(path, [f"old{number}" for number in range(200)])
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=0) as journal:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        answers = await asked(journal, Purge(all_ended=True), Purge(all_ended=True), accept("new"))
        assert {type(answer) for answer in answers} == {JournalFailed}
        assert all("restart the service" in str(answer) and answer.retry_after_s is None for answer in answers)

"""What leaves the journal: by age, by size, by wish; never a turn that lives, never its usage."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from loopforge.runtime.journal.operations import List, Purge, Recover, Show, Usage
from loopforge.runtime.journal.retention import (
    SPARE_PAGES,
    STEP_LOOKS,
    STEP_TURNS,
    USAGE_DETAIL_DAYS,
    PurgeJob,
    Retention,
    used_bytes,
)
from loopforge.runtime.journal.store import Store
from loopforge.runtime.journal.usage import DAY_S
from tests.fakes.recording_disk import RecordingDisk
from tests.runtime.journal.sample import T0, accept, do, finish, lost, open_store, spent


def names(store: Store) -> set[str]:
    return {turn.id for turn in do(store, List(limit=10_000))[0].turns}


def settle(retention: Retention, store: Store, now: float) -> int:
    """How many steps there were to do."""
    steps = 0
    while retention.step(store, now):
        steps += 1
        assert steps < 1000
    return steps


def test_turns_leave_when_they_have_been_over_for_long_enough(tmp_path: Path) -> None:
    retention = Retention(max_age_s=7 * DAY_S)
    with open_store(tmp_path / "journal.db") as store:
        do(store, *(accept(name) for name in ("old", "late", "alive")), lost("old"))
        do(store, finish("old", ended_at=T0), finish("late", ended_at=T0 + DAY_S))
        settle(retention, store, T0 + 7 * DAY_S)
        assert names(store) == {"old", "late", "alive"}
        settle(retention, store, T0 + 7 * DAY_S + 1)
        assert names(store) == {"late", "alive"}
        settle(retention, store, T0 + 100 * DAY_S)
        assert names(store) == {"alive"}
        assert store.connection.execute("SELECT count(*) FROM attempts").fetchone() == (0,)
        [table] = do(store, Usage(by=("kind",)))
        assert [(row.turns, row.attempts) for row in table.rows] == [(2, 3)]


def test_requests_kept_for_another_try_count_and_leave_with_their_turns(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        do(store, *(accept(name, body=bytes(300_000)) for name in ("failed", "cancelled", "done")))
        do(store, finish("failed", "failed"), finish("cancelled", "cancelled"), finish("done"))
        assert 600_000 < used_bytes(store) < 800_000
        shown = do(store, *(Show(id=name, with_body=True) for name in ("failed", "cancelled", "done")))
        assert [len(found.turn.body) for found in shown] == [300_000, 300_000, 0]
        assert do(store, Show(id="failed"))[0].turn.body == b""
        settle(Retention(max_bytes=500_000), store, T0)
        assert used_bytes(store) < 100_000
        assert names(store) == set()


def test_the_oldest_leave_when_the_file_is_too_large(tmp_path: Path) -> None:
    limit = 1 << 20
    retention = Retention(max_bytes=limit)
    with open_store(tmp_path / "journal.db") as store:
        do(store, accept("alive", body=bytes(300_000)))
        ids = [f"t{number:03}" for number in range(400)]
        do(store, *(accept(name) for name in ids))
        do(store, *(finish(name, body=bytes(5_000)) for name in ids))
        assert used_bytes(store) > 2 * limit
        settle(retention, store, T0)
        assert limit * 0.6 < used_bytes(store) <= limit
        left = sorted(names(store) - {"alive"})
        assert left == ids[-len(left) :]
        assert [turn.id for turn in do(store, Recover())[0].turns] == ["alive"]


def test_a_step_is_short_and_the_file_gives_its_pages_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with open_store(path) as store:
        ids = [f"t{number}" for number in range(1000)]
        do(store, *(accept(name) for name in ids))
        do(store, *(finish(name, body=bytes(40_000)) for name in ids))
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        before = path.stat().st_size
        steps = settle(Retention(max_age_s=1), store, T0 + 1000)
        assert steps > 1000 / STEP_TURNS
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert path.stat().st_size <= before / 4 + SPARE_PAGES * 4096


def test_a_purge_deletes_what_was_named_and_ended(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        ids = [f"t{number}" for number in range(200)]
        do(store, *(accept(name) for name in ids))
        do(store, *(finish(name, ended_at=T0 + number) for number, name in enumerate(ids[:150])))
        for purge, left in (
            (Purge(), 200),
            (Purge(ids=("t0", "t1", "t199", "nobody")), 198),
            (Purge(ended_before=T0 + 10), 190),
            (Purge(all_ended=True), 50),
        ):
            job = PurgeJob(purge)
            before = len(names(store))
            while job.step(store):
                pass
            assert len(names(store)) == left
            assert job.deleted == before - left
        assert names(store) == set(ids[150:])


@pytest.mark.parametrize("purge", [Purge(all_ended=True), Purge(ids=tuple(f"t{number}" for number in range(100)))])
def test_a_step_of_a_purge_that_failed_is_done_again_and_counted_once(
    purge: Purge, disk: RecordingDisk, tmp_path: Path
) -> None:
    with open_store(tmp_path / "journal.db", connect=disk.connect) as store:
        ids = [f"t{number}" for number in range(100)]
        do(store, *(accept(name) for name in ids), *(finish(name) for name in ids))
        job, failed = PurgeJob(purge), 0
        while not job.over:
            disk.tried = 0
            disk.broken = (lambda tried: tried == 0) if failed < 3 else (lambda _: False)
            try:
                job.step(store)
            except sqlite3.OperationalError:
                failed += 1
                assert job.spare() == (failed < 3), "64 turns, 8, 1"
        assert failed == 3
        assert job.deleted == 100
        assert names(store) == set()


def test_a_purge_looks_through_the_journal_in_short_steps(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        for number in range(3):
            do(store, accept(f"t{number}"), finish(f"t{number}", ended_at=T0 + number))
            store._next_number += STEP_LOOKS  # as if so many others had been purged
        job = PurgeJob(Purge(ended_before=T0 + 2))
        steps = 1
        while job.step(store):
            steps += 1
        assert steps == 3
        assert names(store) == {"t2"}


def test_old_usage_loses_its_sessions_and_keeps_its_sums(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        for number in range(30):
            name = f"t{number}"
            ended_at = T0 + number % 3 * DAY_S
            books = spent(session=f"s{number}", input=number)
            do(store, accept(name), finish(name, ended_at=ended_at, spent=books))
        by_day = do(store, Usage(by=("day", "provider")))
        assert settle(Retention(max_age_s=10_000 * DAY_S), store, T0 + (USAGE_DETAIL_DAYS + 2) * DAY_S) == 2
        assert do(store, Usage(by=("day", "provider"))) == by_day
        [table] = do(store, Usage(by=("session",)))
        kept = [f"s{number}" for number in (29, 26, 23, 20, 17, 14, 11, 8, 5, 2)]
        assert [row.key for row in table.rows] == [("",), *((name,) for name in kept)]

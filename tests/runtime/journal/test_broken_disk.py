"""A disk on which some writes and syncs fail, at every place in turn: each answer is true, now and after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.operations import Accepted, Deferred, Finish, Lookup, Operation
from tests.fakes.recording_disk import RecordingDisk
from tests.runtime.journal.sample import Model, accept, attempt, do, ending, finish, lost, open_store, play, running

LONG = b"\xaa" * 9_000
IDS = ("a", "b", "c", "d", "e")
GROUPS: list[list[Operation[Any]]] = [
    [accept("a"), accept("b", body=LONG, running=attempt())],
    [running("a"), accept("c")],
    [finish("b", body=LONG), lost("a")],
    [running("a", 2), accept("d"), running("c")],
    [finish("a", "failed"), finish("c", body=LONG), accept("e")],
    [finish("d"), finish("e", "cancelled")],
]


def count_events(disk: RecordingDisk, folder: Path) -> tuple[int, int]:
    """How many there are until the journal is open, and until all groups are done, on a disk that works."""
    with open_store(folder / "journal.db", connect=disk.connect) as store:
        opened = disk.tried
        for group in GROUPS:
            do(store, *group)
            store.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return opened, disk.tried


@pytest.mark.parametrize("failures", [1, 4, 40])
def test_each_answer_is_true_wherever_the_disk_fails_and_for_however_long(
    disk: RecordingDisk, tmp_path: Path, failures: int
) -> None:
    first, end = count_events(disk, tmp_path)
    refused = deferred = 0
    for at in range(first, end, 3):
        folder = tmp_path / str(at)
        folder.mkdir()
        model = Model()
        owed: list[Finish] = []
        disk.tried = 0
        disk.broken = range(at, at + failures).__contains__
        with open_store(folder / "journal.db", connect=disk.connect) as store:
            for number, group in enumerate(GROUPS):
                for operation, answer in zip(group, do(store, *group, now=float(number)), strict=True):
                    if isinstance(answer, JournalFailed):  # then it is as if it had never been asked for
                        refused += 1
                        assert "look after the disk" in str(answer)
                        assert not isinstance(operation, Finish)
                    elif isinstance(answer, Deferred):
                        assert isinstance(operation, Finish)
                        owed.append(operation)
                        deferred += 1
                    else:
                        assert answer == model.do(operation)
                store.shortage.reuse_log(store.connection)
            disk.broken = lambda _: False
            assert do(store, accept("last"), now=100.0) == [Accepted()]
            play(model, [*owed, accept("last")])
            assert not store.shortage.active
            questions = [Lookup(id=name) for name in (*IDS, "last")]
            assert do(store, *questions) == play(model, questions)
        with open_store(folder / "journal.db") as store:
            assert do(store, *questions) == play(model, questions)
    assert (refused > 0) == (deferred > 0) == (failures > 1), "a write that fails once is tried once more"


def test_an_outcome_waits_for_a_disk_that_does_not_sync(disk: RecordingDisk, tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db", connect=disk.connect) as store:
        do(store, accept("a"))
        disk.broken = lambda _: True
        assert do(store, finish("a")) == [Deferred()]
        assert do(store, Lookup(id="a"), now=10.0)[0].turn.ending == ending(finish("a"))
        disk.broken = lambda _: False
        do(store, Lookup(id="a"), now=20.0)
        assert store.shortage.owed == []

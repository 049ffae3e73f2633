"""A crash between any two writes: what was acknowledged is there, and no group is there by half.

Groups of operations run once on a disk that records; then each moment in between is made again, as a killed process
leaves it and as a loss of power does, and opened as a starting service opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from loopforge.runtime.journal.operations import Operation, Purge
from loopforge.runtime.journal.retention import PurgeJob
from tests.fakes.recording_disk import Event, Files, RecordingDisk, after_kill, after_power_loss
from tests.runtime.journal.sample import T0, accept, attempt, do, everything, finish, lost, open_store, park, running

LONG = b"\xaa" * 9_000  # of overflow pages

GROUPS: Sequence[Sequence[Operation[Any]]] = (
    [accept("a")],
    [accept("b", body=LONG, running=attempt()), accept("c"), accept("d", session="s2")],
    [finish("b", body=LONG), running("c")],
    [lost("c", ambiguous=True), finish("a", "failed"), accept("e", running=attempt())],
    [accept("a"), accept("f"), running("c", 2)],  # the first is known: each in a savepoint
    [park("d"), accept("a", retry=True, body=LONG)],
    [finish("c"), finish("e", "cancelled"), finish("f")],
)
CHECKPOINT_BEHIND = {2, 5}
PURGE_BEHIND = {6}
States = list[tuple[int, object]]


def record(disk: RecordingDisk, folder: Path) -> States:
    """Run GROUPS; what the store told after each commit, and how many events there were by then."""
    states: States = []

    def acknowledged() -> None:
        states.append((len(disk.events), everything(store)))

    with open_store(folder / "journal.db", connect=disk.connect) as store:
        acknowledged()
        for number, group in enumerate(GROUPS):
            do(store, *group)
            acknowledged()
            if number in CHECKPOINT_BEHIND:
                store.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            if number in PURGE_BEHIND:
                PurgeJob(Purge(ended_before=T0 + 100)).step(store)
                acknowledged()
                store.connection.executescript("PRAGMA incremental_vacuum")
        acknowledged()  # the closing checkpoint changes nothing either
    return states


def told_by(files: Files, folder: Path) -> object:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with open_store(folder / "journal.db") as store:
        told = everything(store)
    assert sorted(path.name for path in folder.iterdir()) == ["journal.db"], "nothing was damaged, nothing is left"
    return told


def may_be(states: States, events: int) -> list[object]:
    """What was acknowledged last, and the one commit that may be under way."""
    before = [state for at, state in states if at <= events]
    after = [state for at, state in states if at > events]
    return [before[-1] if before else states[0][1], *after[:1]]


def test_a_process_killed_between_any_two_writes_loses_nothing_it_acknowledged(
    disk: RecordingDisk, tmp_path: Path
) -> None:
    states = record(disk, tmp_path)
    assert len(disk.events) > 150
    assert len({repr(state) for _, state in states}) == len(GROUPS) + 2
    for count in range(len(disk.events) + 1):
        told = told_by(after_kill(disk.events[:count]), tmp_path / str(count))
        assert told in may_be(states, count), f"killed before {_named(disk.events, count)}"


def test_a_loss_of_power_at_any_moment_loses_nothing_that_was_acknowledged(disk: RecordingDisk, tmp_path: Path) -> None:
    states = record(disk, tmp_path)
    first = states[0][0]  # before the tables are committed there is no journal: its making is looked at below
    for count in range(first, len(disk.events) + 1):
        files = after_power_loss(disk.events[:count], Random(count))
        told = told_by(files, tmp_path / str(count))
        assert told in may_be(states, count), f"power lost before {_named(disk.events, count)}"


def test_power_lost_while_a_journal_is_made_leaves_a_place_where_one_can_be_made(
    disk: RecordingDisk, tmp_path: Path
) -> None:
    states = record(disk, tmp_path)
    for count in range(states[0][0]):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        for name, data in after_power_loss(disk.events[:count], Random(count)).items():
            (folder / name).write_bytes(data)
        with open_store(folder / "journal.db") as store:
            assert everything(store) == states[0][1]


def test_a_disk_that_forgets_what_was_synced_is_seen(disk: RecordingDisk, tmp_path: Path) -> None:
    """The other tests of this file can fail: one acknowledged commit is left out."""
    states = record(disk, tmp_path)
    (begin, _), (end, _) = states[2], states[3]
    told = told_by(after_kill(disk.events[:begin]), tmp_path / "forgetful")
    assert told not in may_be(states, end)


def _named(events: Sequence[Event], at: int) -> str:
    if at == len(events):
        return "nothing more"
    event = events[at]
    return f"event {at}: {type(event).__name__} of {event.file}"

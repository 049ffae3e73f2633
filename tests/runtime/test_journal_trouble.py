"""A service whose journal is in trouble: its disk full, its file damaged or of an earlier version. As processes."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from loopforge.drivers.turn import Turn, user
from loopforge.runtime.config import paths
from loopforge.runtime.journal.schema import STEPS, migrate
from loopforge.workers.messages import pack_turn
from tests.runtime.cli.running import loopforge, succeed
from tests.runtime.cli.service import (
    Simulator,
    asking,
    events_of,
    open_service,
    open_simulator,
    wait_until,
    write_config,
)
from tests.runtime.journal.sample import accept, do, finish, open_store

MIB = 2**20


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


def journal_of(home: Path) -> Path:
    return paths.journal_path({"LOOPFORGE_HOME": str(home)})


def shown(home: Path, turn_id: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(succeed(home, "turns", "show", turn_id, "--json"))
    return told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=24m") != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield place
    finally:
        assert libc.umount2(os.fsencode(place), 2) == 0  # MNT_DETACH


def fill(place: Path) -> Path:
    """Somebody else takes all that is left."""
    file = place / "hog"
    with file.open("wb", buffering=0) as out:
        size = MIB
        while size:
            try:
                out.write(b"\0" * size)
            except OSError:
                size //= 2
    return file


def test_on_a_full_disk_running_turns_end_and_new_ones_are_refused_until_there_is_room(
    simulator: Simulator, small_disk: Path
) -> None:
    write_config(small_disk, simulator)
    with open_service(small_disk) as service:
        succeed(small_disk, "ask", "--id", "before", "hi")
        with asking(small_disk, "--model", "brief", "--id", "running", "--json", "hi") as ask:
            ask.wait_for('"text"')
            hog = fill(small_disk)
            big = "word " * (24 * 1024)  # nearly what an argument may be
            refused = loopforge(small_disk, "ask", "--id", "refused", big)
            assert (refused.returncode, refused.stdout) == (75, "")
            assert f"free space on the disk of {journal_of(small_disk).parent}" in refused.stderr
            assert ask.wait() == 0
            done = events_of(ask.out)[-1]
        assert done["event"] == "done"
        assert service.status()["journal"]["problem"] != ""
        asked = simulator.stats("quick")["requests"]
        hog.unlink()
        wait_until(lambda: loopforge(small_disk, "ask", "--id", "refused", big).returncode == 0, "it takes turns again")
        assert simulator.stats("quick")["requests"] == asked + 1, "what was refused had not been sent"
        assert service.status()["journal"]["problem"] == ""
        service.stop(signal.SIGKILL)
        service.process.wait()
    with open_service(small_disk):
        told = shown(small_disk, "running")
        assert (told["state"], told["text"]) == ("done", done["reply"]["message"]["content"][0]["text"])
        assert shown(small_disk, "before")["state"] == "done"


def test_purging_turns_on_a_full_disk_makes_room_for_new_ones(simulator: Simulator, small_disk: Path) -> None:
    write_config(small_disk, simulator)
    names = [f"old{number}" for number in range(80)]
    journal_of(small_disk).parent.mkdir(parents=True, exist_ok=True)
    with open_store(journal_of(small_disk)) as store:
        do(store, *(accept(name) for name in names))
        do(store, *(finish(name, ended_at=time.time(), body=bytes(40_000)) for name in names))
    with open_service(small_disk) as service:
        fill(small_disk)
        big = "word " * (24 * 1024)
        assert loopforge(small_disk, "ask", "--id", "refused", big).returncode == 75
        assert service.status()["journal"]["problem"] != ""
        assert succeed(small_disk, "turns", "purge", "--yes", *names) == "deleted 80 turns\n"
        assert service.status()["journal"]["problem"] == ""
        succeed(small_disk, "ask", "--id", "refused", big)


def test_where_a_full_disk_has_no_room_to_purge_in_it_is_said_at_once(simulator: Simulator, small_disk: Path) -> None:
    write_config(small_disk, simulator)
    with open_service(small_disk) as service:
        succeed(small_disk, "ask", "--id", "before", "hi")
        service.stop()
        assert service.process.wait() == 0
    (journal_of(small_disk).parent / "journal.ballast").unlink()
    fill(small_disk)
    with open_service(small_disk) as service:
        purge = loopforge(small_disk, "turns", "purge", "before", "--yes")
        assert (purge.returncode, purge.stdout) == (75, "")
        assert f"free space on the disk of {journal_of(small_disk).parent}" in purge.stderr
        service.stop()
        assert service.process.wait() == 0
        assert "disk hangs" not in service.process.err


def test_a_service_with_a_damaged_journal_starts_says_where_the_old_one_is_and_takes_turns(
    simulator: Simulator, tmp_path: Path
) -> None:
    write_config(tmp_path, simulator)
    with open_service(tmp_path) as service:
        succeed(tmp_path, "ask", "--id", "before", "hi")
        service.stop()
        assert service.process.wait() == 0
    journal = journal_of(tmp_path)
    journal.write_bytes(b"this is no database" * 4096)
    with open_service(tmp_path) as service:
        assert "corrupt" in service.process.err
        [aside] = journal.parent.glob("journal.db.corrupt-*")
        assert aside.read_bytes().startswith(b"this is no database")
        assert aside.name in service.status()["journal"]["note"]
        succeed(tmp_path, "ask", "--id", "after", "hi")
        assert shown(tmp_path, "after")["state"] == "done"
        assert loopforge(tmp_path, "turns", "show", "before").returncode == 1


def test_what_a_service_of_the_first_version_had_accepted_is_done_by_this_one(
    simulator: Simulator, tmp_path: Path
) -> None:
    write_config(tmp_path, simulator)
    path = journal_of(tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    body, now = pack_turn(Turn(id="old", kind="coding", messages=(user("hello"),))), time.time()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert migrate(connection, STEPS[:1]) == 0
        connection.execute(
            "INSERT INTO turns VALUES (1, 'old', x'01', 'coding', '', 'normal', '', '', x'90', 9, 1, 1, ?, ?, 0, "
            "NULL, 0, '', '', 0.0, NULL, NULL, NULL)",
            (now, now + 1000),
        )
        connection.execute("INSERT INTO requests VALUES (1, ?)", (body,))
    with open_service(tmp_path):
        wait_until(lambda: shown(tmp_path, "old")["state"] == "done", "the turn is done")
        assert len(shown(tmp_path, "old")["text"].split()) == 20
        assert not list(path.parent.glob("*corrupt*"))

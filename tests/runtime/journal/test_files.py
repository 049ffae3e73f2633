"""Who may open a journal, where one may lie, and what becomes of a damaged one."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loopforge.runtime.journal import files
from loopforge.runtime.journal.files import CORRUPT_KEPT, UnusableJournal, move_aside, open_database, owned_folder
from loopforge.runtime.journal.operations import Accepted, Lookup, Recover
from tests.runtime.journal.sample import accept, do, finish, open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "journal.db"


def make_journal(path: Path, turns: int = 300) -> None:
    path.parent.mkdir(exist_ok=True)
    with open_store(path) as store:
        do(store, *(accept(f"t{number}", body=bytes(500)) for number in range(turns)))
        do(store, *(finish(f"t{number}") for number in range(0, turns, 2)))


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in [folder, *folder.iterdir()]}


# -- one owner -------------------------------------------------------------------------------------------------------


def test_only_one_process_has_a_journal_and_the_other_is_told_which(path: Path) -> None:
    with owned_folder(path):
        code = (
            "import sys; from pathlib import Path; from loopforge.runtime.journal.files import owned_folder\n"
            "with owned_folder(Path(sys.argv[1])): print('mine')"
        )
        run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert run.returncode == 1
        assert f"in use by process {os.getpid()}; stop that service" in run.stderr
    with owned_folder(path):
        pass


def test_no_other_program_gets_into_the_database_while_it_is_open(path: Path) -> None:
    make_journal(path)
    with open_store(path) as store:
        do(store, accept("a"))
        other = sqlite3.connect(path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("SELECT * FROM turns").fetchone()
        other.close()


def test_nobody_else_may_read_any_of_the_files(path: Path) -> None:
    os.umask(old := os.umask(0))
    os.umask(0)
    try:
        with owned_folder(path), open_store(path, ballast_bytes=1 << 16) as store:
            do(store, accept("a"))
            found = modes(path.parent)
    finally:
        os.umask(old)
    assert found.pop("journal") == 0o700
    assert set(found) == {"journal.db", "journal.db-wal", "journal.lock", "journal.ballast"}
    assert set(found.values()) == {0o600}


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    make_journal(path)
    path.chmod(0o644)
    with open_store(path) as store:
        do(store, accept("a"))
        assert set(modes(path.parent).values()) == {0o600, stat.S_IMODE(path.parent.stat().st_mode)}


def test_a_network_file_system_is_refused_with_its_name(path: Path, tmp_path: Path) -> None:
    here = files.file_system(tmp_path)
    assert here != 0
    assert here not in files.NETWORK_FILE_SYSTEMS
    files.NETWORK_FILE_SYSTEMS[here] = "NFS"
    try:
        with (
            pytest.raises(UnusableJournal, match=r"network file system \(NFS\).* set LOOPFORGE_HOME"),
            owned_folder(path),
        ):
            pass
    finally:
        del files.NETWORK_FILE_SYSTEMS[here]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file")
    with (
        pytest.raises(UnusableJournal, match=r"journal cannot be used .*set LOOPFORGE_HOME"),
        owned_folder(tmp_path / "journal" / "journal.db"),
    ):
        pass


def test_the_lock_goes_with_its_process(path: Path) -> None:
    with owned_folder(path):
        pass
    fd = os.open(path.with_name("journal.lock"), os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(UnusableJournal, match="in use"), owned_folder(path):
        pass
    os.close(fd)


# -- damage ----------------------------------------------------------------------------------------------------------


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def torn_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(100))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def cut_inside_a_page(path: Path) -> None:
    os.truncate(path, 3_000)


def zeros_for_tables(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(bytes(path.stat().st_size - 100))


def noise_in_every_page(path: Path) -> None:
    noise = random.Random(1)
    with path.open("r+b") as file:
        for at in range(4096, path.stat().st_size, 512):
            file.seek(at)
            file.write(noise.randbytes(64))


@pytest.mark.parametrize(
    "damage", [no_database, torn_header, cut_short, cut_inside_a_page, zeros_for_tables, noise_in_every_page]
)
def test_a_damaged_journal_is_moved_aside_and_a_new_one_begun(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make_journal(path)
    damage(path)
    damaged = path.read_bytes()
    with caplog.at_level(logging.ERROR):
        connection, told = open_database(path)
    connection.close()
    [aside] = (file for file in path.parent.glob("journal.db.corrupt-*") if not file.name.endswith("-wal"))
    assert aside.read_bytes() == damaged, "a person may still find something in it"
    assert str(aside) in told
    assert "damaged" in told
    assert told in caplog.text
    with open_store(path) as store:
        assert do(store, Recover(), accept("a"))[1] == Accepted()


def test_a_damaged_log_costs_what_was_in_it_and_no_more(path: Path) -> None:
    """SQLite takes a log up to the first frame whose checksum is wrong: what a torn write leaves looks the same."""
    make_journal(path)
    copies = path.parent / "copies"
    copies.mkdir()
    with open_store(path) as store:
        do(store, accept("a"))
        do(store, accept("b"))
        for file in (path, path.with_name("journal.db-wal")):
            (copies / file.name).write_bytes(file.read_bytes())
    log = copies / "journal.db-wal"
    log.write_bytes(log.read_bytes()[:-100] + bytes(100))
    with open_store(copies / "journal.db") as store:
        found = do(store, Lookup(id="t1"), Lookup(id="a"), Lookup(id="b"))
        assert [answer.turn is not None for answer in found] == [True, True, False]


def test_a_log_without_its_database_is_moved_aside_with_it(path: Path) -> None:
    make_journal(path, 10)
    path.write_bytes(b"x" * 5000)
    path.with_name("journal.db-wal").write_bytes(b"y" * 5000)
    connection, _ = open_database(path)
    connection.close()
    assert [file.read_bytes()[:1] for file in sorted(path.parent.glob("*corrupt*"))] == [b"x", b"y"]


def test_only_so_many_damaged_files_are_kept(path: Path) -> None:
    path.parent.mkdir()
    for number in range(CORRUPT_KEPT + 3):
        path.write_bytes(b"%d" % number)
        os.utime(path, (number, number))
        path.with_name("journal.db-wal").write_bytes(b"log")
        move_aside(path)
    kept = sorted(file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-wal"))
    assert kept == [b"%d" % number for number in range(3, CORRUPT_KEPT + 3)]
    assert len(list(path.parent.glob("*-wal"))) == CORRUPT_KEPT


def test_a_suspicion_that_was_wrong_is_dropped(path: Path) -> None:
    make_journal(path)
    suspect = path.with_name("journal.suspect")
    suspect.touch()
    connection, told = open_database(path)
    connection.close()
    assert told == ""
    assert not suspect.exists()


def test_a_suspicion_that_was_right_finds_damage_that_a_start_would_not(path: Path) -> None:
    make_journal(path)
    with sqlite3.connect(path) as connection:
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_turns_1'"
        ).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root[0] - 1) * 4096)
        file.write(b"\xff" * 4096)
    connection, told = open_database(path)
    connection.close()
    assert told == ""
    path.with_name("journal.suspect").touch()
    connection, told = open_database(path)
    connection.close()
    assert "damaged" in told


def test_a_journal_that_may_not_be_read_is_not_thrown_away(path: Path) -> None:
    path.mkdir(parents=True)  # as good as a file without rights, for root as well
    with pytest.raises(UnusableJournal, match="cannot be opened"):
        open_database(path)
    assert path.is_dir()

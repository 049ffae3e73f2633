"""From every earlier version to this one, and none from a later one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from loopforge.runtime.journal.files import UnusableJournal, open_database
from loopforge.runtime.journal.operations import Accepted, Show
from loopforge.runtime.journal.schema import APPLICATION_ID, STEPS, VERSION, NotOurs, migrate
from tests.runtime.journal.sample import accept, do, everything, finish, lost, open_store

LATER: Sequence[Sequence[str]] = (
    *STEPS,
    ("ALTER TABLE turns ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'", "CREATE INDEX by_colour ON turns (colour)"),
    ("UPDATE turns SET colour = 'red' WHERE id = 'a'",),
)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def mark(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def test_an_empty_file_is_version_0_and_becomes_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    with open_store(path) as store:
        assert do(store, accept("a")) == [Accepted()]
    with opened(path) as connection:
        assert mark(connection, "user_version") == VERSION
        assert mark(connection, "application_id") == APPLICATION_ID
        assert migrate(connection) == VERSION, "and stays as it is"


def test_a_journal_of_this_version_takes_the_steps_to_a_later_one_with_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with open_store(path) as store:
        do(store, accept("a"), accept("b"), lost("a"), finish("b"))
        before = everything(store)
        assert before == everything(store)
    with opened(path) as connection:
        assert migrate(connection, LATER) == VERSION
        assert mark(connection, "user_version") == len(LATER)
        assert connection.execute("SELECT id, colour FROM turns ORDER BY id").fetchall() == [
            ("a", "red"),
            ("b", "blue"),
        ]
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (1,)


def test_a_journal_of_the_first_version_keeps_its_outcomes_and_keeps_requests_from_now_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with opened(path) as connection:
        assert migrate(connection, STEPS[:1]) == 0
        connection.execute(
            "INSERT INTO turns VALUES (1, 'old', x'01', 'coding', '', 'normal', '', '', x'90', 9, 1, 1, 5.0, 9.0, 4, "
            "7.0, 1, 'ollama', 'm', 6.0, NULL, NULL, NULL)"
        )
        connection.execute("INSERT INTO outcomes VALUES (1, 1, 3, x'80', x'')")
    with open_store(path) as store:
        do(store, accept("new"), finish("new", "failed"))
        old, new = do(store, Show(id="old", with_body=True), Show(id="new", with_body=True))
    assert (old.turn.state, old.turn.ending.header, old.turn.body) == ("failed", b"\x80", b"")
    assert (new.turn.state, new.turn.body) == ("failed", b"the request of new")


def test_a_step_that_fails_leaves_the_file_as_the_one_before_made_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with opened(path) as connection:
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, (*LATER[:-1], ("DROP INDEX by_colour", "nonsense")))
        assert mark(connection, "user_version") == len(LATER) - 1
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'by_colour'").fetchone() == (1,)
        assert migrate(connection, LATER) == len(LATER) - 1


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with opened(path) as connection:
        migrate(connection, LATER)
    with pytest.raises(
        UnusableJournal, match=rf"newer LoopForge wrote it \(version {len(LATER)}, this one knows {VERSION}\)"
    ):
        open_database(path)
    with opened(path) as connection:
        assert mark(connection, "user_version") == len(LATER)
    assert not list(tmp_path.glob("*corrupt*"))


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with opened(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(UnusableJournal, match="another program's database"):
        open_database(path)
    with opened(path) as connection:
        connection.execute("DROP TABLE recipes")
        connection.execute("PRAGMA application_id = 7")
        with pytest.raises(NotOurs, match="another program's"):
            migrate(connection)

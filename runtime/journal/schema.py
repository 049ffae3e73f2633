"""The tables of a journal's database, and the way from every earlier form of them to this one.

PRAGMA user_version counts the steps that a file has taken; a step and its number are committed together, so a file is
never between two. application_id tells a journal from somebody else's database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x4C_46_4A_4C  # "LFJL"

FIRST = (
    # `state`: the place in STATES, and so below 3 of a turn that lives. Such a turn has a row in requests, and one that
    # has ended has a row in outcomes: apart, because they are large, and turns are looked through and rewritten.
    """
    CREATE TABLE turns (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        body_hash BLOB NOT NULL,
        kind TEXT NOT NULL,
        session TEXT NOT NULL,
        lane TEXT NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        features BLOB NOT NULL,
        size INTEGER NOT NULL,
        detached INTEGER NOT NULL,
        resend_safe INTEGER NOT NULL,
        accepted_at REAL NOT NULL,
        deadline REAL NOT NULL,
        state INTEGER NOT NULL,
        ended_at REAL,
        attempt INTEGER NOT NULL,
        sent_provider TEXT NOT NULL,
        sent_model TEXT NOT NULL,
        since REAL NOT NULL,
        park_provider TEXT,
        park_until REAL,
        park_why TEXT
    )
    """,
    "CREATE TABLE requests (number INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    """
    CREATE TABLE outcomes (
        number INTEGER PRIMARY KEY,
        attempt INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        header BLOB NOT NULL,
        body BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE attempts (
        turn INTEGER NOT NULL,
        number INTEGER NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        since REAL NOT NULL,
        ended_at REAL NOT NULL,
        error TEXT NOT NULL,
        ambiguous INTEGER NOT NULL,
        input INTEGER NOT NULL,
        output INTEGER NOT NULL,
        PRIMARY KEY (turn, number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE usage (
        day INTEGER NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        kind TEXT NOT NULL,
        session TEXT NOT NULL,
        turns INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        input INTEGER NOT NULL,
        output INTEGER NOT NULL,
        cache_read INTEGER NOT NULL,
        cache_write INTEGER NOT NULL,
        reasoning INTEGER NOT NULL,
        PRIMARY KEY (day, provider, model, kind, session)
    ) WITHOUT ROWID
    """,
)

KEEP_REQUESTS = ("ALTER TABLE outcomes ADD COLUMN request BLOB",)
"""Of a turn that failed or was cancelled, to try it again. Not in requests: the live are looked for there."""

STEPS: tuple[Sequence[str], ...] = (FIRST, KEEP_REQUESTS)
"""Step n makes version n + 1 of version n; version 0 is an empty file. Append only: files of every version exist."""

VERSION = len(STEPS)


class NotOurs(Exception):
    """The file is no journal, or one of a later version. It is left alone; the text says what to do."""


def migrate(connection: sqlite3.Connection, steps: Sequence[Sequence[str]] = STEPS) -> int:
    """Bring the file up to the version of `steps`. The version it had. Raises NotOurs, sqlite3.Error.

    The connection is in autocommit mode; when this raises, the file is of the version that its last whole step made.
    """
    application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application != APPLICATION_ID and not (empty and application == 0):
        raise NotOurs("it is another program's database; move it away, or set LOOPFORGE_HOME to a folder of its own")
    if version > len(steps):
        raise NotOurs(
            f"a newer LoopForge wrote it (version {version}, this one knows {len(steps)}); "
            "install that one again, or move the file away and begin a new journal"
        )
    for number in range(version, len(steps)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in steps[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return int(version)


_MARKS = ("application_id", "user_version")

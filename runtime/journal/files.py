"""The journal's files: one owner, no network disk, nobody else's eyes, and a damaged one moved aside.

    journal.db  -wal      the database and its write-ahead log
    journal.lock          held by the one process that has it open
    journal.ballast       room kept back for a full disk
    journal.suspect       there when the database was found damaged: the next start reads every page of it
    journal.db.corrupt-*  what could not be read any more

One process and one connection open the database: SQLite before 3.51.3 can damage it when two connections reset the log
at the same time (https://www.sqlite.org/wal.html#walresetbug). Whoever wants to know something asks the service.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from loopforge.runtime.journal.schema import NotOurs, migrate
from loopforge.runtime.journal.shortage import SUSPECT, is_damage, is_shortage

log = logging.getLogger("loopforge")

NETWORK_FILE_SYSTEMS = {  # statfs(2), linux/magic.h
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF53_4D42: "CIFS",
    0xFE53_4D42: "SMB2",
    0x0102_1997: "9P",
    0x5346_414F: "AFS",
    0x6B41_4653: "AFS",
    0x00C3_6400: "Ceph",
    0x7375_7245: "Coda",
    0x0BD0_0BD0: "Lustre",
    0x0116_1970: "GFS2",
    0x7461_636F: "OCFS2",
    0x1983_0326: "BeeGFS",
    0x4750_4653: "GPFS",
}
"""SQLite's log needs memory shared between processes and locks that hold, and an fsync that means it."""

LOCK = "journal.lock"
BALLAST = "journal.ballast"

CORRUPT_KEPT = 3
"""Damaged files that stay; the oldest go, or a disk that keeps failing is filled with them."""

CACHE_KIB = 4096
AUTOCHECKPOINT_PAGES = 2000
"""8 MiB of log at most before a commit copies it into the database; idle moments do that long before.

With 1,500 lives a second and two busy cores p99 was 24 ms with 2,000, 34 with 500 or 1,000, 63 with 8,192.
"""

_STATFS_BYTES = 256  # struct statfs has 120; f_type is its first word


class UnusableJournal(Exception):
    """There can be no journal at this place; the text says why, and what to do."""


Connect = Callable[[Path], sqlite3.Connection]


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, which any one thread may use."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)


@contextlib.contextmanager
def owned_folder(path: Path) -> Iterator[None]:
    """The journal's folder exists, is local, and is ours until this ends. Raises UnusableJournal."""
    folder = path.parent
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            _sync_folder(folder.parent)  # SQLite syncs the folder of its files, not the one that this one is in
        refuse_network_disk(folder)
        fd = os.open(path.with_name(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise UnusableJournal(
            f"the journal's folder {folder} cannot be used ({exc.strerror or exc}); "
            "correct that, or set LOOPFORGE_HOME to another folder"
        ) from exc
    try:
        _lock(fd, path)
        yield
    finally:
        os.close(fd)  # and with it the lock


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UnusableJournal(f"{path.parent} cannot be locked ({exc.strerror}); choose a local folder") from exc
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "another process"
        raise UnusableJournal(
            f"the journal {path} is in use by process {owner}; "
            "stop that service, or set LOOPFORGE_HOME to another folder"
        ) from None
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)


def refuse_network_disk(folder: Path) -> None:
    """Raises UnusableJournal when the folder lies on a network file system. Where that cannot be told it passes."""
    if (name := NETWORK_FILE_SYSTEMS.get(file_system(folder))) is not None:
        raise UnusableJournal(
            f"the journal's folder {folder} lies on a network file system ({name}), where a journal is not safe; "
            "set LOOPFORGE_HOME to a folder on a local disk, or journal = false in [runtime]"
        )


def file_system(folder: Path) -> int:
    """statfs(2)'s f_type; 0 where it cannot be told."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if not hasattr(libc, "statfs") or libc.statfs(os.fsencode(folder), buffer) != 0:
        return 0
    return int(ctypes.cast(buffer, ctypes.POINTER(ctypes.c_long))[0]) & 0xFFFF_FFFF


def open_database(path: Path, *, connect: Connect = connect) -> tuple[sqlite3.Connection, str]:
    """The database, set up and of this version; and what had to be done for that, "" for nothing.

    A file that is damaged is moved aside, and a new one begun. Raises UnusableJournal for one that is not ours to move.
    """
    suspect = path.with_name(SUSPECT)
    told = ""
    for last_try in (False, True):
        connection: sqlite3.Connection | None = None
        try:
            _make_private(path)
            connection = connect(path)
            _set_up(connection)
            if suspect.exists():
                _check_all(connection)
                suspect.unlink()
            _try_reading(connection)
            return connection, told
        except NotOurs as exc:
            _close(connection)
            raise UnusableJournal(f"{path} cannot be this service's journal: {exc}") from exc
        except sqlite3.Error as exc:
            if is_shortage(exc) and not last_try:
                _close(connection)
                path.with_name(BALLAST).unlink(missing_ok=True)
                continue
            if last_try or not is_damage(exc):
                _close(connection)
                raise UnusableJournal(f"the journal {path} cannot be opened ({exc}); {_look(path)}") from exc
            told = _set_aside(path, connection, exc)
        except OSError as exc:
            _close(connection)
            raise UnusableJournal(
                f"the journal {path} cannot be opened ({exc.strerror or exc}); {_look(path)}"
            ) from exc
        except BaseException:
            _close(connection)
            raise
    raise AssertionError("a new file was damaged, too")


def _set_aside(path: Path, connection: sqlite3.Connection | None, damage: sqlite3.Error) -> str:
    """What there is to tell. Raises UnusableJournal when the files cannot be moved."""
    try:
        aside = move_aside(path)  # while it is open, because closing it deletes the log
        path.with_name(SUSPECT).unlink(missing_ok=True)
    except OSError as exc:
        raise UnusableJournal(
            f"the journal {path} is damaged ({damage}) and cannot be moved aside ({exc.strerror or exc}); {_look(path)}"
        ) from exc
    finally:
        _close(connection)
    told = f"the journal was damaged ({damage}) and is now {aside}; the turns in it are not taken up"
    log.error("%s", told)
    return told


def _look(path: Path) -> str:
    return f"look after the disk and the rights of {path.parent}, or set journal = false in [runtime]"


def _make_private(path: Path) -> None:
    """The log takes the mode of its database, so that must be right before SQLite makes any file."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(FileNotFoundError):
            file.chmod(0o600)


def _set_up(connection: sqlite3.Connection) -> None:
    """Raises NotOurs, sqlite3.Error."""
    execute = connection.execute
    execute("PRAGMA locking_mode = EXCLUSIVE")  # first: then the log's index is in memory, and nobody else gets in
    if execute("PRAGMA page_count").fetchone()[0] == 0:
        execute("PRAGMA auto_vacuum = INCREMENTAL")  # cannot be had later
    mode = execute("PRAGMA journal_mode").fetchone()[0]  # asked first, because setting it writes even when it is so
    if mode != "wal" and (mode := execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
        raise NotOurs(f"its journal mode stays {mode!r}; choose a folder on a local disk")
    execute("PRAGMA synchronous = FULL")
    execute("PRAGMA mmap_size = 0")
    execute("PRAGMA temp_store = MEMORY")
    execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
    execute(f"PRAGMA journal_size_limit = {AUTOCHECKPOINT_PAGES * 4096}")
    migrate(connection)


def _check_all(connection: sqlite3.Connection) -> None:
    [first] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if first != "ok":
        damage = sqlite3.DatabaseError(first)
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def _try_reading(connection: sqlite3.Connection) -> None:
    """What the service needs to start: each table, and every turn that has not ended."""
    for table in ("turns", "outcomes", "attempts", "usage"):
        connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()  # noqa: S608  # names of ours
    for _ in connection.execute("SELECT * FROM requests LEFT JOIN turns USING (number)"):
        pass


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(sqlite3.Error):
            connection.close()


def move_aside(path: Path) -> Path:
    """Rename the database and its log; the database's new name. Raises OSError."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = f"{path.name}.corrupt-{stamp}", 1
    while path.with_name(name).exists():
        number += 1
        name = f"{path.name}.corrupt-{stamp}-{number}"
    for ending in ("-wal", "-shm", ""):  # the database last: after a crash in between it is moved once more
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(path.with_name(name + ending))
    _drop_oldest_corrupt(path)
    return path.with_name(name)


def _drop_oldest_corrupt(path: Path) -> None:
    databases = [
        file for file in path.parent.glob(f"{path.name}.corrupt-*") if not file.name.endswith(("-wal", "-shm"))
    ]
    for old in sorted(databases, key=lambda file: file.stat().st_mtime)[:-CORRUPT_KEPT]:
        for ending in ("-wal", "-shm", ""):
            old.with_name(old.name + ending).unlink(missing_ok=True)

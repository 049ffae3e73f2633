"""A disk that takes nothing more: room kept back for the turns that run, and the outcomes that found none even so.

While the disk has room, a ballast file holds some of it. When a write fails for want of room the ballast is given up:
turns that were accepted go on and end within it, new ones are refused. Once there is room for a ballast again, what is
owed is written and new turns are taken. Outcomes that found no room are kept in memory until then, within a bound; a
purge, which may make the room, writes what it can of them before anything is given back to the disk (disk.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.operations import Finish, weight_bytes

log = logging.getLogger("loopforge")

MIB = 1 << 20
SUSPECT = "journal.suspect"
BALLAST_BYTES = 16 * MIB
"""Some thousand outcomes of usual size; the write-ahead log, which is reused, holds half as much again."""
MARGIN_BYTES = MIB
"""So much must be free beside the ballast before it is made again, or the next turn finds the disk full once more."""
MAX_OWED_BYTES = 64 * MIB
AGAIN_S = 0.25
"""How often a full disk is looked at again, at most."""
AGAIN_LATER_S = 5.0
"""What is refused is told to come again then: somebody has to see to the disk first."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WRITES_FAIL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_PRIMARY = 0xFF  # an extended result code's last byte: https://www.sqlite.org/rescode.html


def is_shortage(error: sqlite3.Error) -> bool:
    """Whether the disk, and nothing about the operation or the file's content, is to blame."""
    return (getattr(error, "sqlite_errorcode", 0) & _PRIMARY) in _WRITES_FAIL


def is_full(error: sqlite3.Error) -> bool:
    """Whether room is all that lacks: a write that needs less of it may succeed."""
    return (getattr(error, "sqlite_errorcode", 0) & _PRIMARY) == sqlite3.SQLITE_FULL


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file's content is to blame."""
    return (getattr(error, "sqlite_errorcode", 0) & _PRIMARY) in _DAMAGED


class Shortage:
    """Whether writes fail at present, and what is held back for then. `place`: where the ballast file lies."""

    def __init__(
        self, place: Path, *, ballast_bytes: int = BALLAST_BYTES, max_owed_bytes: int = MAX_OWED_BYTES
    ) -> None:
        self.place = place
        self.ballast_bytes = ballast_bytes
        self.max_owed_bytes = max_owed_bytes
        self.active = False
        self.problem = ""
        self._owed: dict[str, Finish] = {}
        self._owed_bytes = 0
        self._look_at = 0.0
        self._action = ""
        self._damaged = False

    # -- beginning and end -------------------------------------------------------------------------------------------

    def prepare(self, now: float) -> None:
        """Hold the ballast from now on; without room for it the shortage begins at once."""
        if not self._make_ballast():
            self._declare(f"less than {self.ballast_bytes / MIB:g} MiB are free for it", now, full=True)

    def begin(self, error: sqlite3.Error, connection: sqlite3.Connection, now: float) -> None:
        """A write failed: give up the ballast, so that what was accepted can end."""
        if is_damage(error):
            self._damaged = True
            self.suspect.touch(mode=0o600)
        self._declare(str(error), now, full=is_full(error))
        self._drop_ballast()
        self.reuse_log(connection)

    def reuse_log(self, connection: sqlite3.Connection) -> None:
        """Have the log copied into the database: the next write begins at the log's beginning, and needs no room."""
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    @property
    def suspect(self) -> Path:
        """This file is there when the database was found damaged: the next start looks at every page of it."""
        return self.place.with_name(SUSPECT)

    @property
    def damaged(self) -> bool:
        """Whether only a restart ends it: nothing more is to be written to this file."""
        return self._damaged

    def goes_on(self, error: sqlite3.Error, now: float) -> None:
        """A write failed again."""
        self._look_at = now + AGAIN_S
        self.problem = str(error)

    def is_time(self, now: float) -> bool:
        return now >= self._look_at and not self._damaged

    def has_room(self, now: float) -> bool:
        """Whether the ballast could be made again; else that is not tried before AGAIN_S have passed."""
        self._look_at = now + AGAIN_S
        return self._make_ballast()

    def lacking_bytes(self) -> int:
        """What the disk would have to get back for the ballast to be made again, at least; 0 when it has room."""
        try:
            there = os.statvfs(self.place.parent)
        except OSError:
            return 0
        return max(self.ballast_bytes + MARGIN_BYTES - there.f_bavail * there.f_frsize, 0)

    def end(self) -> None:
        """Everything owed is written."""
        log.warning("the journal takes new turns again; %d outcomes were waiting to be written", len(self._owed))
        self.active, self.problem = False, ""
        self._owed.clear()
        self._owed_bytes = 0

    def refusal(self) -> JournalFailed:
        """What to answer who wanted something written. Without a time to try again when only a restart helps."""
        what = f"the journal cannot write: {self.problem}"
        return JournalFailed(what=what, action=self._action, retry_after_s=None if self._damaged else AGAIN_LATER_S)

    def _declare(self, problem: str, now: float, *, full: bool) -> None:
        if not self.active:
            log.error("the journal in %s cannot write (%s): new turns are refused", self.place.parent, problem)
        self.active, self.problem, self._look_at = True, problem, now + AGAIN_S
        if self._damaged:
            self._action = "restart the service: it moves the damaged file aside and begins a new one"
            return
        self._action = (
            f"free space on the disk of {self.place.parent}; turns are accepted again by themselves"
            if full
            else f"look after the disk of {self.place.parent}; turns are accepted again as soon as it takes writes"
        )

    # -- what is owed ------------------------------------------------------------------------------------------------

    @property
    def owed(self) -> list[Finish]:
        """Outcomes to be written, oldest first."""
        return list(self._owed.values())

    def owes(self, turn_id: str) -> bool:
        return turn_id in self._owed

    def owed_to(self, turn_id: str) -> Finish | None:
        return self._owed.get(turn_id)

    def paid(self, outcome: Finish) -> None:
        """It is written."""
        del self._owed[outcome.id]
        self._owed_bytes -= weight_bytes(outcome)

    def defer(self, outcome: Finish) -> bool:
        """Keep it until there is room. False when the bound is reached: this one will not be written."""
        weight = weight_bytes(outcome)
        if self._owed_bytes + weight > self.max_owed_bytes:
            log.error("the outcome of turn %s is not in the journal: too many wait for room on the disk", outcome.id)
            return False
        self._owed[outcome.id] = outcome
        self._owed_bytes += weight
        return True

    # -- the ballast -------------------------------------------------------------------------------------------------

    def _make_ballast(self) -> bool:
        if self.ballast_bytes <= 0:
            return True
        try:
            there = os.statvfs(self.place.parent)
            held = self.place.stat().st_blocks * 512 if self.place.exists() else 0
            if held >= self.ballast_bytes:
                return True
            if there.f_bavail * there.f_frsize + held < self.ballast_bytes + MARGIN_BYTES:
                return False
            fd = os.open(self.place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.ballast_bytes)
            finally:
                os.close(fd)
        except OSError:
            self._drop_ballast()
            return False
        return True

    def _drop_ballast(self) -> None:
        with contextlib.suppress(OSError):
            self.place.unlink(missing_ok=True)

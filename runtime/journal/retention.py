"""What leaves the journal, in steps short enough to stand between two groups: old turns, purges, free pages.

Turns that have not ended never leave. The oldest are those with the lowest numbers. The file gives pages back to the
system when many are free (incremental vacuum; inserting costs the same with it as without: 16,000 lives/s both ways).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from loopforge.runtime.journal import statements as sql
from loopforge.runtime.journal.operations import Purge
from loopforge.runtime.journal.store import Store
from loopforge.runtime.journal.usage import DAY_S

MIB = 1 << 20
STEP_TURNS = 64
STEP_LOOKS = 4_000
STEP_PAGES = 64
STEP_BYTES = 512 * 1024
"""What a step leaves in the log, about: each of its turns has pages of its own in three tables and an index."""
SPARE_PAGES = 2048
"""Free pages that stay in the file: the next turns use them."""
USAGE_DETAIL_DAYS = 92
"""Older usage loses its session: sessions come and go without a bound, days, models and kinds do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long ended turns are kept. `max_bytes`: of the database without its free pages and its log."""

    max_age_s: float = 7 * DAY_S
    max_bytes: int = 512 * MIB

    def step(self, store: Store, now: float) -> bool:
        """Do a little of what is due, in a transaction of its own; whether anything was. `now`: unix seconds.

        Raises sqlite3.Error.
        """
        return self._drop_turns(store, now) or self._fold_usage(store, now) or _shrink(store)

    def _drop_turns(self, store: Store, now: float) -> bool:
        oldest = store.connection.execute(sql.SELECT_OLDEST_ENDED, (STEP_TURNS,)).fetchall()
        due = [number for number, ended_at in oldest if ended_at < now - self.max_age_s]
        if not due and used_bytes(store) > self.max_bytes:
            due = [number for number, _ in oldest]
        return _delete(store, due)

    def _fold_usage(self, store: Store, now: float) -> bool:
        last = int(now // DAY_S) - USAGE_DETAIL_DAYS
        row = store.connection.execute(sql.SELECT_DAY_TO_FOLD, (last,)).fetchone()
        if row is None:
            return False
        with store.transaction():
            store.connection.execute(sql.FOLD_DAY, row)
            store.connection.execute(sql.DELETE_FOLDED, row)
        return True


@dataclass(slots=True)
class PurgeJob:
    """A Purge that is under way. A step that failed changed nothing and may be done again.

    `over`: there is nothing more to delete. `sparing`: it takes care to need little room, for the disk has little.
    """

    operation: Purge
    deleted: int = 0
    over: bool = False
    sparing: bool = False
    _turns: int = STEP_TURNS
    _ids: list[str] | None = None
    _looked_at: int = 0
    _last: int | None = None

    def step(self, store: Store) -> bool:
        """Delete a little more; whether there is still something to do. Raises sqlite3.Error."""
        self.over = not self._step(store)
        return not self.over

    def spare(self) -> bool:
        """After a step that found no room: do with less from now on. False when that is not possible."""
        if self.sparing and self._turns == 1:
            return False
        self.sparing, self._turns = True, max(self._turns // 8, 1)
        return True

    def _step(self, store: Store) -> bool:
        if self._ids is None:
            self._ids = list(self.operation.ids)
        if self._ids:
            ids = self._ids[: self._turns]
            rows = [store.connection.execute(sql.SELECT_ENDED_ID, (turn_id,)).fetchone() for turn_id in ids]
            self._delete(store, [row[0] for row in rows if row is not None])
            del self._ids[: len(ids)]
            return True
        before = math.inf if self.operation.all_ended else self.operation.ended_before
        if before is None:
            return False
        if self._last is None:
            self._last = store.connection.execute(sql.SELECT_LAST_NUMBER).fetchone()[0]
        upto = self._looked_at + STEP_LOOKS
        place = self._looked_at, upto, before, self._turns
        rows = store.connection.execute(sql.SELECT_ENDED_BETWEEN, place).fetchall()
        self._delete(store, [row[0] for row in rows])
        if len(rows) < self._turns:
            self._looked_at = upto
        return self._looked_at < self._last

    def _delete(self, store: Store, numbers: list[int]) -> None:
        with _short_log(store) if self.sparing else nullcontext():
            _delete(store, numbers)
        self.deleted += len(numbers)


@contextmanager
def _short_log(store: Store) -> Iterator[None]:
    """Log no zeros for pages that become free, which the SQLite of some systems overwrites (secure_delete).

    64 turns of 40 kB: 160 KiB of log, and 2.7 MiB with the zeros.
    """
    before = _pragma(store, "secure_delete")
    store.connection.execute("PRAGMA secure_delete = FAST").fetchall()
    try:
        yield
    finally:
        store.connection.execute(f"PRAGMA secure_delete = {before}").fetchall()


def _delete(store: Store, numbers: list[int]) -> bool:
    if not numbers:
        return False
    with store.transaction():
        store.delete(numbers)
    return True


def _shrink(store: Store) -> bool:
    """Give some free pages at the file's end back to the system."""
    free = _pragma(store, "freelist_count")
    if free <= max(SPARE_PAGES, _pragma(store, "page_count") // 4):
        return False
    give_pages_back(store)
    return True


def give_pages_back(store: Store) -> None:
    """Up to STEP_PAGES free ones; the file is shorter once the log is copied. Raises sqlite3.Error."""
    with _short_log(store):
        # Not execute: that takes one step of the statement, and a step frees one page, whatever the number.
        store.connection.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")


def free_bytes(store: Store) -> int:
    """Of the database: pages that hold nothing."""
    return _pragma(store, "freelist_count") * _pragma(store, "page_size")


def used_bytes(store: Store) -> int:
    """Of the database, without its free pages and its log."""
    used = _pragma(store, "page_count") - _pragma(store, "freelist_count")
    return used * _pragma(store, "page_size")


def _pragma(store: Store, name: str) -> int:
    return int(store.connection.execute(f"PRAGMA {name}").fetchone()[0])

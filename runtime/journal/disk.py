"""The journal on disk: one thread that has the database, a queue in, call-backs out on the loop's thread.

While one group is being committed the next one gathers, so that a disk that takes long makes groups larger and not
turns later. Between groups, and when nothing waits, the thread does what retention.py and the write-ahead log need.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.files import BALLAST, Connect, connect, open_database, owned_folder
from loopforge.runtime.journal.inbox import Inbox, Posted
from loopforge.runtime.journal.operations import Backlog, Operation, Purge, Purged, weight_bytes
from loopforge.runtime.journal.retention import (
    STEP_BYTES,
    PurgeJob,
    Retention,
    free_bytes,
    give_pages_back,
    used_bytes,
)
from loopforge.runtime.journal.shortage import BALLAST_BYTES, Shortage, is_full
from loopforge.runtime.journal.store import Store

log = logging.getLogger("loopforge")

R = TypeVar("R")
Done = Callable[[Any], None]
Answered = tuple[Done, int, object]

CLOSE_S = 10.0
"""Longer than that a stop does not wait for a disk that hangs."""

QUIET_S = 0.05
"""So long nothing came: time to copy the log into the database."""
SETTLE_BYTES = 256 * 1024
"""A log shorter than that waits for LONG_QUIET_S: a turn now and then must not cost two more fsyncs each."""
LONG_QUIET_S = 5.0
PURGE_BYTES = 2 * 2**20
"""A purge lets the log grow to that before it is copied: all of it at once would keep turns waiting for 0.2 s."""
_FAILED = "the journal's thread has failed"

HOUSEKEEPING_S = 60.0
BUSY_GROUPS = 16
"""While there is no quiet moment, one step of housekeeping stands between so many groups."""


class SqliteJournal:
    """What `open_journal` gives. Methods are called on the loop's thread; the private ones below `_work` on its own."""

    durability = "disk"

    def __init__(self, path: Path, store: Store, retention: Retention, told: str) -> None:
        self.path = path
        self.around: AbstractContextManager[Any] = nullcontext()
        self._store = store
        self._retention = retention
        self._told = told
        self._token = trio.lowlevel.current_trio_token()
        self._inbox = Inbox()
        self._closed = False
        self._failed = False
        self._ended = trio.Event()
        self._waiting = 0
        self._waiting_bytes = 0
        self._groups = 0
        self._operations = 0
        self._since: float | None = None  # when the group under way was begun, by time.monotonic
        self._unsettled_bytes = 0
        self._used_bytes = 0
        self._in_hand: list[Posted] = []
        self._purges: list[tuple[PurgeJob, Done, int]] = []
        self._gives_back = False  # a purge has freed pages since the disk is short
        self._housekeeping_at = 0.0
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # -- on the loop's thread ----------------------------------------------------------------------------------------

    @property
    def backlog(self) -> Backlog:
        return Backlog(self._waiting, self._waiting_bytes)

    @property
    def busy_s(self) -> float:
        """For how long the group under way has been; 0.0 when there is none. A disk that hangs shows here."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def post(self, operation: Operation[R], done: Callable[[R | JournalFailed], None], *, urgent: bool = False) -> None:
        if self._closed:
            _call(done, self._refusal())
            return
        weight = weight_bytes(operation)
        self._waiting += 1
        self._waiting_bytes += weight
        self._inbox.put(Posted(operation, done, weight), urgent=urgent)

    def status(self) -> dict[str, Any]:
        shortage = self._store.shortage
        return {
            "durability": self.durability,
            "path": str(self.path),
            "problem": _FAILED if self._failed else shortage.problem,
            "note": self._told,
            "owed": len(shortage.owed),
            "used_bytes": self._used_bytes,
            "operations": self._operations,
            "groups": self._groups,
            "waiting": self._waiting,
            "waiting_bytes": self._waiting_bytes,
            "busy_s": self.busy_s,
        }

    async def aclose(self) -> None:
        """Bounded by CLOSE_S even when cancelled: what the disk has not taken by then is not answered any more."""
        if not self._closed:
            self._closed = True
            self._inbox.close()
        with trio.move_on_after(CLOSE_S, shield=True) as scope:
            await self._ended.wait()
        if scope.cancelled_caught:
            log.error("the journal's disk hangs: %d operations are given up as the service stops", self._waiting)
        else:
            self._thread.join()  # its last call was `_ended.set`

    def _deliver(self, answered: list[Answered]) -> None:
        with self.around:
            for done, weight, answer in answered:
                self._waiting -= 1
                self._waiting_bytes -= weight
                _call(done, answer)

    # -- on the journal's own thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._turn_over():
                pass
            self._finish()
        except BaseException:  # whatever it was: nobody must wait for an answer for ever
            log.critical("the journal's thread failed; nothing is accepted any more", exc_info=True)
            self._post_back(self._give_up)
        finally:
            with suppress(sqlite3.Error):
                self._store.connection.close()
            self._post_back(self._ended.set)

    def _turn_over(self) -> bool:
        """One group, or one step of housekeeping. False when the journal is to close."""
        try:
            group, more = self._inbox.take(self._patience())
        except queue.Empty:
            self._keep_house()
            return True
        if group:
            self._run(group)
            if self._groups % BUSY_GROUPS == 0:
                self._keep_house(settle=False)
        return more

    def _run(self, group: list[Posted]) -> None:
        self._since = time.monotonic()
        self._groups += 1
        self._operations += len(group)
        if any(isinstance(posted.operation, Purge) for posted in group):
            self._purges += [
                (PurgeJob(posted.operation), posted.done, posted.weight_bytes)
                for posted in group
                if isinstance(posted.operation, Purge)
            ]
            group = [posted for posted in group if not isinstance(posted.operation, Purge)]
        if group:
            self._in_hand = group
            answers = self._store.apply([posted.operation for posted in group], self._since)
            answered: list[Answered] = [
                (posted.done, posted.weight_bytes, answer) for posted, answer in zip(group, answers, strict=True)
            ]
            self._unsettled_bytes += sum(posted.weight_bytes for posted in group) + 16 * 1024
            self._post_back(self._deliver, answered)
        self._in_hand = []
        self._since = None

    def _post_back(self, call: Callable[..., object], *arguments: object) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call, *arguments)

    def _give_up(self) -> None:
        """The thread is gone: what waits is answered, and so is what comes."""
        self._closed = self._failed = True
        refusal = self._refusal()
        answered: list[Answered] = [(done, weight, refusal) for _, done, weight in self._purges]
        answered += [
            (posted.done, posted.weight_bytes, refusal) for posted in (*self._in_hand, *self._inbox.take_all())
        ]
        self._deliver(answered)

    def _refusal(self) -> JournalFailed:
        if self._failed:
            return JournalFailed(what=_FAILED, action="restart the service; its log says why")
        return JournalFailed(what="the journal is closed: the service is stopping", action="post it when it is back")

    # -- housekeeping ------------------------------------------------------------------------------------------------

    def _patience(self) -> float:
        """How long to wait for an operation before there is something else to do."""
        if self._purges:
            return 0.0
        if self._store.shortage.active:
            return 0.25
        if self._unsettled_bytes:
            return QUIET_S if self._unsettled_bytes >= SETTLE_BYTES else LONG_QUIET_S
        return max(self._housekeeping_at - time.monotonic(), 0.0)

    def _keep_house(self, *, settle: bool = True) -> None:
        """One short step of what is due. What fails here is tried again later; only purges have somebody waiting."""
        now = time.monotonic()
        try:
            if self._store.shortage.active:
                self._see_to_shortage(now)
            elif settle and self._unsettled_bytes >= self._log_bytes():
                self._store.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._unsettled_bytes = 0
            elif self._purges:
                self._purge_a_little()
            elif now >= self._housekeeping_at:
                self._retain(now)
        except sqlite3.Error as exc:
            self._store.shortage.begin(exc, self._store.connection, now)
            self._housekeeping_at = now + HOUSEKEEPING_S
            if self._purges and not (is_full(exc) and self._purges[0][0].spare()):
                self._refuse_purges()

    def _log_bytes(self) -> int:
        """How much of the log waits to be copied until a quiet moment is taken for that."""
        return PURGE_BYTES if self._purges and not self._purges[0][0].sparing else 1

    def _see_to_shortage(self, now: float) -> None:
        """What is owed is written first of all. Then a purge may make room, a little at a time. Raises sqlite3.Error.

        What a step leaves in the log is small beside the ballast that was given up for the outcomes, they use that log
        next, and pages that it frees take them as well.
        """
        shortage = self._store.shortage
        if shortage.damaged:
            self._refuse_purges()
            return
        self._store.settle_debts(now)
        if not shortage.active:
            self._gives_back = False
        elif not (self._gives_back and self._give_back()) and self._purges:
            self._purges[0][0].sparing = True
            self._purge_a_little()
            self._gives_back = True
            self._store.write_owed(now)

    def _give_back(self) -> bool:
        """Some free pages to the disk, where all of them would end the shortage, or what is owed lacks a longer log.

        Else they stay, for the outcomes to come need them. Whether it did.
        """
        free, lacking, owed = free_bytes(self._store), self._store.shortage.lacking_bytes(), self._store.shortage.owed
        if not (free and (owed or 0 < lacking <= free)):
            return False
        try:
            give_pages_back(self._store)
            self._store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as exc:
            log.warning("the journal's free pages stay in its file: %s", exc)
            self._gives_back = False
            return False
        self._store.write_owed(time.monotonic())
        return True

    def _refuse_purges(self) -> None:
        refusal = self._store.shortage.refusal()
        for job, done, weight in self._purges:
            log.warning("a purge ended after %d turns: %s", job.deleted, refusal.what)
            self._post_back(self._deliver, [(done, weight, refusal)])
        self._purges.clear()

    def _retain(self, now: float) -> None:
        if self._retention.step(self._store, time.time()):
            self._unsettled_bytes += STEP_BYTES
        else:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self._used_bytes = used_bytes(self._store)

    def _purge_a_little(self) -> None:
        job, done, weight = self._purges[0]
        if not job.over:
            self._unsettled_bytes += STEP_BYTES
            job.step(self._store)
        else:
            del self._purges[0]
            self._housekeeping_at = 0.0  # pages are free now
            self._post_back(self._deliver, [(done, weight, Purged(job.deleted))])

    def _finish(self) -> None:
        """Everything posted before `aclose` is done; leave a database without a log behind."""
        while self._purges:
            if self._store.shortage.active:
                self._refuse_purges()  # outcomes that are owed must not wait for it now
            else:
                self._keep_house()
        if unwritten := self._store.settle_debts(float("inf")):
            log.error("%d outcomes are not in the journal: the disk takes nothing; those turns run again", unwritten)
        with suppress(sqlite3.Error):
            self._store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@asynccontextmanager
async def open_journal(
    path: Path,
    *,
    retain_days: float = 7,
    retain_mb: float = 512,
    ballast_bytes: int = BALLAST_BYTES,
    connect: Connect = connect,
) -> AsyncIterator[SqliteJournal]:
    """The journal at `path`, which need not exist; closed, with everything posted answered, when this ends.

    `retain_days`, `retain_mb`: how long ended turns are kept, and how large the database may grow with them. A damaged
    file is moved aside and a new one begun: `status()["note"]` says so. Raises UnusableJournal.
    """
    with owned_folder(path):
        connection, told = await trio.to_thread.run_sync(partial(open_database, path, connect=connect))
        shortage = Shortage(path.with_name(BALLAST), ballast_bytes=ballast_bytes)
        shortage.prepare(time.monotonic())
        retention = Retention(max_age_s=retain_days * 86_400, max_bytes=int(retain_mb * 2**20))
        journal = SqliteJournal(path, Store(connection, shortage), retention, told)
        journal.start()
        try:
            yield journal
        finally:
            await journal.aclose()


def _call(done: Done, answer: object) -> None:
    """A bug in one call-back must not keep the others from being called, nor end the loop."""
    try:
        done(answer)
    except Exception:
        log.exception("a call-back of the journal failed")

"""Does operations on the database, a group in one transaction. Synchronous; for one thread, with one connection.

A group runs as a few statements over many rows. Where one of its operations does not go as most do (an id that is
known, a value that fits no column), the group is rolled back and done again, each operation in a savepoint of its own.
A disk that takes nothing more is shortage.py's matter, deleting what is old retention.py's.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal import statements as sql
from loopforge.runtime.journal.operations import (
    LIST_TURNS,
    Accept,
    Accepted,
    AttemptEnded,
    Deferred,
    Ending,
    Finish,
    Found,
    Known,
    List,
    Listing,
    Lookup,
    Operation,
    Parked,
    Recover,
    Recovered,
    Running,
    Show,
    StoredTurn,
    Usage,
    Written,
)
from loopforge.runtime.journal.shortage import Shortage, is_shortage
from loopforge.runtime.journal.usage import read_usage

log = logging.getLogger("loopforge")

Answer = object
_ACCEPTED, _CHANGED, _UNCHANGED, _DEFERRED = Accepted(), Written(), Written(changed=False), Deferred()
_RANKS: dict[type, int] = {Accept: 0, Running: 1, AttemptEnded: 2, Parked: 3, Finish: 4}
"""In this order a batch is run, kind by kind; a turn's operations within it rise in rank, so they keep their order."""

_MISFITS = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
    TypeError,
)
"""One value of one operation is to blame; the connection and the file are well."""


class _Unusual(Exception):
    """Some operation of the group changed less than was expected of it: each is to be done on its own."""


class Store:
    """The turns in one database. `apply` never raises for what an operation or the disk does."""

    def __init__(self, connection: sqlite3.Connection, shortage: Shortage) -> None:
        self.connection = connection
        self.shortage = shortage
        self._next_number = self._one(sql.SELECT_LAST_NUMBER) + 1

    # -- groups ------------------------------------------------------------------------------------------------------

    def apply(self, operations: Sequence[Operation[Any]], now: float) -> list[Answer]:
        """Do them in order and commit; the answers, in order. `now`: seconds on any clock, for when to try again."""
        if self.shortage.active and self.shortage.is_time(now):
            self._try_again(now)
        if not self.shortage.active:
            try:
                return self._in_one_transaction(self._by_kind, operations)
            except (_Unusual, *_MISFITS):
                pass
            except sqlite3.Error as exc:
                if not is_shortage(exc):
                    log.exception("the journal did not take %d operations at once; trying each alone", len(operations))
            try:
                return self._in_one_transaction(self._one_by_one, operations)
            except sqlite3.Error as exc:
                self.shortage.begin(exc, self.connection, now)
        answers = [self._while_short(operation, now) for operation in operations]
        self.shortage.reuse_log(self.connection)
        return answers

    def _in_one_transaction(
        self, run: Callable[[Sequence[Operation[Any]]], list[Answer]], operations: Sequence[Operation[Any]]
    ) -> list[Answer]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            answers = run(operations)
            self.connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        return answers

    def _roll_back(self) -> None:
        if self.connection.in_transaction:  # a full disk has rolled it back already
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    def _by_kind(self, operations: Sequence[Operation[Any]]) -> list[Answer]:
        """Runs of operations as batches, a statement a kind. Raises _Unusual, sqlite3.Error, _MISFITS."""
        answers: list[Answer] = []
        batch: dict[type, list[Any]] = {}
        ranks: dict[str, int] = {}
        for operation in operations:
            kind = type(operation)
            rank = _RANKS.get(kind)
            if rank is None or (kind is Accept and operation.retry):  # type: ignore[attr-defined]  # of Accept
                self._run_batch(batch)
                ranks.clear()
                answers.append(self._do(operation))
                continue
            turn_id: str = operation.id  # type: ignore[attr-defined]  # each kind that has a rank has an id
            if ranks.get(turn_id, -1) >= rank:
                self._run_batch(batch)
                ranks.clear()
            ranks[turn_id] = rank
            batch.setdefault(kind, []).append(operation)
            answers.append(_ACCEPTED if rank == 0 else _CHANGED)
        self._run_batch(batch)
        return answers

    def _run_batch(self, batch: dict[type, list[Any]]) -> None:
        if accepts := batch.get(Accept):
            first = self._next_number
            self._next_number += len(accepts)
            self._many(sql.INSERT_TURN, [sql.turn_row(number, turn) for number, turn in enumerate(accepts, first)])
            self._many(sql.INSERT_REQUEST, [(number, turn.body) for number, turn in enumerate(accepts, first)])
        if running := batch.get(Running):
            self._many(sql.UPDATE_RUNNING, [sql.running_row(operation) for operation in running])
        if lost := batch.get(AttemptEnded):
            self._many(sql.INSERT_ATTEMPT, [sql.attempt_row(operation) for operation in lost])
            self._many(sql.UPDATE_WAITING, [(operation.id,) for operation in lost])
        if parked := batch.get(Parked):
            self._many(sql.UPDATE_PARKED, [sql.parked_row(operation) for operation in parked])
        if finished := batch.get(Finish):
            self._many(sql.UPDATE_ENDED, [sql.ended_row(operation) for operation in finished])
            self._many(sql.INSERT_OUTCOME, [sql.outcome_row(operation) for operation in finished])
            self._many(sql.DELETE_REQUEST, [(operation.id,) for operation in finished])
        if lost or finished:
            self.connection.executemany(sql.ADD_USAGE, sql.usage_rows([*(lost or ()), *(finished or ())]))
        batch.clear()

    def _many(self, statement: str, rows: list[sql.Row]) -> None:
        """Raises _Unusual unless each row changed one."""
        if self.connection.executemany(statement, rows).rowcount != len(rows):
            raise _Unusual

    # -- one operation -----------------------------------------------------------------------------------------------

    def _one_by_one(self, operations: Sequence[Operation[Any]]) -> list[Answer]:
        """Each in a savepoint of its own. Raises sqlite3.Error for what none of them is to blame for."""
        answers: list[Answer] = []
        for operation in operations:
            self.connection.execute("SAVEPOINT one")
            try:
                answers.append(self._do(operation))
            except _MISFITS as exc:
                self.connection.execute("ROLLBACK TO one")
                answers.append(JournalFailed(what=f"the journal cannot hold this: {exc}", action="correct the turn"))
            self.connection.execute("RELEASE one")
        return answers

    def _while_short(self, operation: Operation[Any], now: float) -> Answer:
        """With the disk as it is: a new turn is refused, the rest gets what room there is."""
        if isinstance(operation, Accept):
            return self._answer_or_refuse(operation)
        try:
            if isinstance(operation, Finish) and self.shortage.owes(operation.id):
                return _UNCHANGED
            [answer] = self._in_one_transaction(self._one_by_one, [operation])
        except sqlite3.Error as exc:
            self.shortage.goes_on(exc, now)
            if isinstance(operation, Finish) and self.shortage.defer(operation):
                return _DEFERRED
            return self.shortage.refusal()
        return answer

    def _answer_or_refuse(self, operation: Accept) -> Answer:
        with contextlib.suppress(*_MISFITS, sqlite3.Error):
            if (known := self._find(operation.id)) is not None:
                return Known(known)
        return self.shortage.refusal()

    def _try_again(self, now: float) -> None:
        """Room again? Then what is owed is written, and all is as before."""
        if not self.shortage.has_room(now):
            return
        owed = self.shortage.owed
        try:
            if owed:
                self._in_one_transaction(self._one_by_one, owed)
        except sqlite3.Error as exc:
            self.shortage.begin(exc, self.connection, now)
        else:
            self.shortage.end()

    def write_owed(self, now: float) -> None:
        """Write what is owed into pages that were freed, oldest first and as far as they go; the disk is short still.

        Raises sqlite3.Error for anything but a disk that takes nothing.
        """
        for outcome in self.shortage.owed:
            try:
                self._in_one_transaction(self._one_by_one, [outcome])
            except sqlite3.Error as exc:
                if not is_shortage(exc):
                    raise
                self.shortage.goes_on(exc, now)
                break
            self.shortage.paid(outcome)
        self.shortage.reuse_log(self.connection)

    def settle_debts(self, now: float) -> int:
        """Try once more to write what is owed, as the journal closes. How many outcomes stay unwritten."""
        if self.shortage.active:
            self._try_again(now)
        return len(self.shortage.owed)

    def _do(self, operation: Operation[Any]) -> Answer:
        """Raises sqlite3.Error, _MISFITS."""
        match operation:
            case Accept():
                return self._accept(operation)
            case Running():
                return _written(self._execute(sql.UPDATE_RUNNING, sql.running_row(operation)))
            case AttemptEnded():
                return self._attempt_ended(operation)
            case Parked():
                return _written(self._execute(sql.UPDATE_PARKED, sql.parked_row(operation)))
            case Finish():
                return self._finish(operation)
            case Lookup():
                return Found(self._find(operation.id))
            case Show():
                return Found(self._find(operation.id, with_attempts=True, with_body=operation.with_body))
            case List():
                return self._list(operation)
            case Usage():
                return read_usage(self.connection, operation)
            case Recover():
                return Recovered(tuple(sql.stored_turn(row) for row in self.connection.execute(sql.SELECT_LIVE)))
        raise TypeError(f"{type(operation).__name__} is no operation of a store")

    def _accept(self, turn: Accept) -> Accepted | Known:
        if (known := self._find(turn.id)) is not None:
            again = turn.retry and known.state in {"failed", "cancelled"} and known.body_hash == turn.body_hash
            if not again:
                return Known(known)
            self.delete([self._one("SELECT number FROM turns WHERE id = ?", turn.id)])
        number = self._next_number
        self._next_number += 1
        self._execute(sql.INSERT_TURN, sql.turn_row(number, turn))
        self._execute(sql.INSERT_REQUEST, (number, turn.body))
        return _ACCEPTED

    def _attempt_ended(self, operation: AttemptEnded) -> Written:
        if not self._execute(sql.INSERT_ATTEMPT, sql.attempt_row(operation)):
            return _UNCHANGED
        self._execute(sql.UPDATE_WAITING, (operation.id,))
        self.connection.executemany(sql.ADD_USAGE, sql.usage_rows([operation]))
        return _CHANGED

    def _finish(self, operation: Finish) -> Written:
        if not self._execute(sql.UPDATE_ENDED, sql.ended_row(operation)):
            return _UNCHANGED
        self._execute(sql.INSERT_OUTCOME, sql.outcome_row(operation, room=not self.shortage.active))
        self._execute(sql.DELETE_REQUEST, (operation.id,))
        self.connection.executemany(sql.ADD_USAGE, sql.usage_rows([operation]))
        return _CHANGED

    def _find(self, turn_id: str, *, with_attempts: bool = False, with_body: bool = False) -> StoredTurn | None:
        row = self.connection.execute(sql.SELECT_TURN, (turn_id,)).fetchone()
        if row is None:
            return None
        lost = self.connection.execute(sql.SELECT_ATTEMPTS, (row[0],)).fetchall() if with_attempts else ()
        turn = sql.stored_turn(row, lost=lost)
        if with_body:
            turn = replace(turn, body=self.connection.execute(sql.SELECT_REQUEST, (row[0],)).fetchone()[0])
        return self._as_owed(turn)

    def _list(self, query: List) -> Listing:
        last = self._next_number - 1
        statement, values = sql.select_list(query, last)
        rows = self.connection.execute(statement, values).fetchall()
        turns = (self._as_owed(sql.stored_turn(row), with_bytes=False) for row in rows[: query.limit])
        unseen = last > LIST_TURNS and not sql.is_of_live_turns(query)
        return Listing(tuple(turns), more=len(rows) > query.limit or unseen)

    def _as_owed(self, turn: StoredTurn, *, with_bytes: bool = True) -> StoredTurn:
        """The turn with its outcome, where that is still to be written."""
        if (owed := self.shortage.owed_to(turn.id)) is None:
            return turn
        ending = Ending(
            state=owed.state,
            attempt=owed.attempt,
            seq=owed.seq,
            header=owed.header if with_bytes else b"",
            body=owed.body if with_bytes else b"",
            ended_at=owed.ended_at,
        )
        return replace(turn, state=owed.state, ending=ending, park=None)

    # -- for retention.py --------------------------------------------------------------------------------------------

    def delete(self, numbers: Sequence[int]) -> None:
        """Forget these ended turns, within a transaction of the caller's."""
        rows = [(number,) for number in numbers]
        for statement in sql.DELETE_TURN:
            self.connection.executemany(statement, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Raises sqlite3.Error; then nothing is changed."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _execute(self, statement: str, row: sql.Row) -> int:
        """How many rows it changed."""
        return self.connection.execute(statement, row).rowcount

    def _one(self, statement: str, *values: object) -> int:
        return int(self.connection.execute(statement, values).fetchone()[0])


def _written(rows: int) -> Written:
    return _CHANGED if rows else _UNCHANGED

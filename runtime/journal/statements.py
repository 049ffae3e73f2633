"""The SQL of the store, and rows <-> values. Each statement does one operation, once; nothing here begins or commits.

ruff's S608 is off for this file: statements are put together of the file's own words, values are always parameters.
A write changes nothing when the turn is not live; who runs it counts the rows to know.
"""

# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from loopforge.runtime.journal.operations import (
    END_STATES,
    LIST_TURNS,
    LIVE_STATES,
    Accept,
    Attempt,
    AttemptEnded,
    Ending,
    Finish,
    List,
    LostAttempt,
    Park,
    Parked,
    Running,
    Spent,
    State,
    StoredTurn,
)
from loopforge.runtime.journal.usage import DAY_S, SUMS
from loopforge.workers.frame_types import pack, unpack

Row = tuple[Any, ...]

STATES: tuple[State, ...] = (*LIVE_STATES, *END_STATES)  # as numbers in files: append only
_NUMBERS: dict[State, int] = {state: number for number, state in enumerate(STATES)}
_ACCEPTED, _RUNNING, _PARKED, _FIRST_END = range(4)
_IS_LIVE = f"state < {_FIRST_END}"

# -- writing ---------------------------------------------------------------------------------------------------------

INSERT_TURN = f"INSERT INTO turns VALUES ({', '.join('?' * 15)}, NULL, {', '.join('?' * 4)}, NULL, NULL, NULL)"
INSERT_REQUEST = "INSERT INTO requests VALUES (?, ?)"


def turn_row(number: int, turn: Accept) -> Row:
    attempt = turn.running
    return (
        number,
        turn.id,
        turn.body_hash,
        turn.kind,
        turn.session,
        turn.lane,
        turn.provider,
        turn.model,
        pack(turn.features),
        turn.size,
        turn.detached,
        turn.resend_safe,
        turn.accepted_at,
        turn.deadline,
        *((_ACCEPTED, 0, "", "", 0.0) if attempt is None else (_RUNNING, *_attempt_row(attempt))),
    )


def _attempt_row(attempt: Attempt) -> Row:
    return attempt.number, attempt.provider, attempt.model, attempt.since


_UNPARK = "park_provider = NULL, park_until = NULL, park_why = NULL"
UPDATE_RUNNING = (
    f"UPDATE turns SET state = {_RUNNING}, attempt = ?, sent_provider = ?, sent_model = ?, since = ?, "
    f"{_UNPARK} WHERE id = ? AND {_IS_LIVE}"
)


def running_row(operation: Running) -> Row:
    return (*_attempt_row(operation.attempt), operation.id)


UPDATE_WAITING = f"UPDATE turns SET state = {_ACCEPTED}, {_UNPARK} WHERE id = ? AND {_IS_LIVE}"
INSERT_ATTEMPT = (
    f"INSERT OR REPLACE INTO attempts SELECT number, {', '.join('?' * 9)} FROM turns WHERE id = ? AND {_IS_LIVE}"
)


_NOBODY_KNOWS = 0.0  # when an attempt ended: the column takes no NULL


def attempt_row(operation: AttemptEnded) -> Row:
    spent = operation.spent
    tokens = (0, 0) if spent is None else (spent.input, spent.output)
    ended = operation.ended_at or _NOBODY_KNOWS, operation.error, operation.ambiguous
    return (*_attempt_row(operation.attempt), *ended, *tokens, operation.id)


UPDATE_PARKED = (
    f"UPDATE turns SET state = {_PARKED}, park_provider = ?, park_until = ?, park_why = ? WHERE id = ? AND {_IS_LIVE}"
)


def parked_row(operation: Parked) -> Row:
    return operation.park.provider, operation.park.until, operation.park.why, operation.id


UPDATE_ENDED = f"UPDATE turns SET state = ?, ended_at = ?, {_UNPARK} WHERE id = ? AND {_IS_LIVE}"
INSERT_OUTCOME = (
    "INSERT INTO outcomes SELECT number, ?, ?, ?, ?, "
    "CASE WHEN ? THEN (SELECT body FROM requests WHERE requests.number = turns.number) END FROM turns WHERE id = ?"
)
DELETE_REQUEST = "DELETE FROM requests WHERE number = (SELECT number FROM turns WHERE id = ?)"


def ended_row(operation: Finish) -> Row:
    return _NUMBERS[operation.state], operation.ended_at, operation.id


def outcome_row(operation: Finish, *, room: bool = True) -> Row:
    """`room`: without it no request is kept."""
    keeps_request = room and operation.state != "done"
    return operation.attempt, operation.seq, operation.header, operation.body, keeps_request, operation.id


_ADD_UP = "ON CONFLICT DO UPDATE SET " + ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
ADD_USAGE = f"INSERT INTO usage VALUES ({', '.join('?' * 14)}) {_ADD_UP}"


def usage_rows(operations: Iterable[Finish | AttemptEnded]) -> list[Row]:
    """What these add to the usage table, one row a key."""
    sums: dict[Row, list[int]] = {}
    for operation in operations:
        spent: Spent | None = operation.spent
        if spent is None:
            continue
        key = _day(operation), spent.provider, spent.model, spent.kind, spent.session
        state = operation.state if isinstance(operation, Finish) else None
        values = (
            state is not None,
            state == "failed",
            state == "cancelled",
            spent.attempts,
            spent.input,
            spent.output,
            spent.cache_read,
            spent.cache_write,
            spent.reasoning,
        )
        known = sums.get(key)
        sums[key] = [*values] if known is None else [a + b for a, b in zip(known, values, strict=True)]
    return [(*key, *values) for key, values in sums.items()]


def _day(operation: Finish | AttemptEnded) -> int:
    if isinstance(operation, AttemptEnded) and operation.ended_at is None:
        return int(operation.attempt.since // DAY_S)
    assert operation.ended_at is not None
    return int(operation.ended_at // DAY_S)


# -- deleting --------------------------------------------------------------------------------------------------------

DELETE_TURN = (
    "DELETE FROM outcomes WHERE number = ?",
    "DELETE FROM attempts WHERE turn = ?",
    "DELETE FROM turns WHERE number = ?",
)
SELECT_OLDEST_ENDED = f"SELECT number, ended_at FROM turns WHERE state >= {_FIRST_END} ORDER BY number LIMIT ?"
SELECT_ENDED_BETWEEN = (
    f"SELECT number FROM turns WHERE number > ? AND number <= ? AND state >= {_FIRST_END} AND ended_at < ? LIMIT ?"
)
SELECT_ENDED_ID = f"SELECT number FROM turns WHERE id = ? AND state >= {_FIRST_END}"
SELECT_LAST_NUMBER = "SELECT coalesce(max(number), 0) FROM turns"

SELECT_DAY_TO_FOLD = "SELECT day FROM usage WHERE day < ? AND session <> '' ORDER BY day LIMIT 1"
FOLD_DAY = (
    f"INSERT INTO usage SELECT day, provider, model, kind, '', {', '.join(f'sum({name})' for name in SUMS)} "
    f"FROM usage WHERE day = ? AND session <> '' GROUP BY day, provider, model, kind {_ADD_UP}"
)
DELETE_FOLDED = "DELETE FROM usage WHERE day = ? AND session <> ''"

# -- reading ---------------------------------------------------------------------------------------------------------

_TURN = (
    "SELECT turns.number, id, body_hash, kind, session, lane, provider, model, features, size, detached, resend_safe, "
    "accepted_at, deadline, turns.state, ended_at, turns.attempt, sent_provider, sent_model, since, "
    "park_provider, park_until, park_why, outcomes.attempt, outcomes.seq"
)
_LIVE_TURNS = "requests CROSS JOIN turns USING (number)"  # SQLite keeps this order, and the small table leads
SELECT_TURN = f"{_TURN}, header, outcomes.body FROM turns LEFT JOIN outcomes USING (number) WHERE id = ?"
SELECT_LIVE = (
    f"{_TURN}, NULL, NULL, requests.body FROM {_LIVE_TURNS} LEFT JOIN outcomes USING (number) ORDER BY requests.number"
)
SELECT_REQUEST = (
    "SELECT coalesce((SELECT body FROM requests WHERE number = ?1), "
    "(SELECT request FROM outcomes WHERE number = ?1), x'')"
)
SELECT_ATTEMPTS = (
    "SELECT number, provider, model, since, error, ambiguous, ended_at, input, output FROM attempts WHERE turn = ? "
    "ORDER BY number"
)


def stored_turn(row: Row, *, lost: Iterable[Row] = ()) -> StoredTurn:
    """The turn of a row of SELECT_TURN, SELECT_LIVE or `select_list`."""
    attempt, park, outcome = row[16:20], row[20:23], row[23:27]
    state = STATES[row[14]]
    return StoredTurn(
        id=row[1],
        body_hash=row[2],
        kind=row[3],
        session=row[4],
        lane=row[5],
        provider=row[6],
        model=row[7],
        features=tuple(map(str, unpack(row[8]))),
        size=row[9],
        detached=bool(row[10]),
        resend_safe=bool(row[11]),
        accepted_at=row[12],
        deadline=row[13],
        state=state,
        attempt=Attempt(number=attempt[0], provider=attempt[1], model=attempt[2], since=attempt[3])
        if attempt[0]
        else None,
        park=None if park[0] is None else Park(provider=park[0], until=park[1], why=park[2]),
        ending=Ending(
            state=state,
            attempt=outcome[0],
            seq=outcome[1],
            ended_at=row[15],
            header=outcome[2] or b"",
            body=outcome[3] or b"",
        )
        if state in ("done", "failed", "cancelled")
        else None,
        body=row[27] if len(row) > 27 else b"",
        lost=tuple(_lost_attempt(one) for one in lost),
    )


def _lost_attempt(row: Row) -> LostAttempt:
    attempt = Attempt(number=row[0], provider=row[1], model=row[2], since=row[3])
    return LostAttempt(
        attempt=attempt,
        error=row[4],
        ambiguous=bool(row[5]),
        ended_at=None if row[6] == _NOBODY_KNOWS else row[6],
        input=row[7],
        output=row[8],
    )


def select_list(query: List, last_number: int) -> tuple[str, Row]:
    """One row more than the limit, to know whether there are more."""
    wanted: list[tuple[str, Sequence[Any]]] = []
    if query.states:
        numbers = [_NUMBERS[state] for state in query.states]
        wanted.append((f"turns.state IN ({_marks(numbers)})", numbers))
    for column, value in (("kind", query.kind), ("session", query.session), ("sent_provider", query.provider)):
        if value:
            wanted.append((f"{column} = ?", [value]))
    if query.since is not None:
        wanted.append(("accepted_at >= ?", [query.since]))
    if query.before is not None:
        wanted.append(("accepted_at < ?", [query.before]))
    tables, order = _LIVE_TURNS, "requests.number"
    if not is_of_live_turns(query):
        tables, order = "turns", "turns.number"
        wanted.append(("turns.number > ?", [last_number - LIST_TURNS]))
    where = " AND ".join(condition for condition, _ in wanted) or "1"
    sql = f"{_TURN}, NULL, NULL FROM {tables} LEFT JOIN outcomes USING (number) WHERE {where} "
    values = tuple(value for _, parameters in wanted for value in parameters)
    return f"{sql}ORDER BY {order} DESC LIMIT ?", (*values, query.limit + 1)


def is_of_live_turns(query: List) -> bool:
    return bool(query.states) and set(query.states) <= set(LIVE_STATES)


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))

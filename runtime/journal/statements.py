"""The SQL of the store, and rows <-> values. Each statement does one operation, once; nothing here begins or commits.

ruff's S608 is off for this file: statements are put together of the file's own words, values are always parameters.
A write changes nothing when the turn is not live; who runs it counts the rows to know.
"""

# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

from loopforge.runtime.journal.operations import (
    END_STATES,
    LIVE_STATES,
    USAGE_KEYS,
    Accept,
    Attempt,
    AttemptEnded,
    Ending,
    EndState,
    Finish,
    List,
    LostAttempt,
    Park,
    Parked,
    Running,
    Spent,
    StoredTurn,
    Usage,
    UsageRow,
)
from loopforge.workers.frame_types import pack, unpack

DAY_S = 86_400
Row = tuple[Any, ...]

_END_NUMBERS: dict[EndState, int] = {state: number for number, state in enumerate(END_STATES)}
_ACCEPTED, _RUNNING, _PARKED = range(3)  # places in LIVE_STATES
_IS_LIVE = "EXISTS (SELECT 1 FROM requests WHERE requests.number = turns.number)"

# -- writing ---------------------------------------------------------------------------------------------------------

INSERT_TURN = f"INSERT INTO turns VALUES ({', '.join('?' * 19)}, NULL, NULL, NULL)"
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


def attempt_row(operation: AttemptEnded) -> Row:
    spent = operation.spent
    tokens = (0, 0) if spent is None else (spent.input, spent.output)
    ended = operation.ended_at, operation.error, operation.ambiguous
    return (*_attempt_row(operation.attempt), *ended, *tokens, operation.id)


UPDATE_PARKED = (
    f"UPDATE turns SET state = {_PARKED}, park_provider = ?, park_until = ?, park_why = ? WHERE id = ? AND {_IS_LIVE}"
)


def parked_row(operation: Parked) -> Row:
    return operation.park.provider, operation.park.until, operation.park.why, operation.id


INSERT_OUTCOME = f"INSERT INTO outcomes SELECT number, {', '.join('?' * 6)} FROM turns WHERE id = ? AND {_IS_LIVE}"
DELETE_REQUEST = "DELETE FROM requests WHERE number = (SELECT number FROM turns WHERE id = ?)"


def outcome_row(operation: Finish) -> Row:
    return (
        _END_NUMBERS[operation.state],
        operation.attempt,
        operation.seq,
        operation.ended_at,
        operation.header,
        operation.body,
        operation.id,
    )


_SUMS = ("turns", "failed", "cancelled", "attempts", "input", "output", "cache_read", "cache_write", "reasoning")
_ADD_UP = "ON CONFLICT DO UPDATE SET " + ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
ADD_USAGE = f"INSERT INTO usage VALUES ({', '.join('?' * 14)}) {_ADD_UP}"


def usage_rows(operations: Iterable[Finish | AttemptEnded]) -> list[Row]:
    """What these add to the usage table, one row a key."""
    sums: dict[Row, list[int]] = {}
    for operation in operations:
        spent: Spent | None = operation.spent
        if spent is None:
            continue
        key = int(operation.ended_at // DAY_S), spent.provider, spent.model, spent.kind, spent.session
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


# -- deleting --------------------------------------------------------------------------------------------------------

DELETE_TURN = (
    "DELETE FROM outcomes WHERE number = ?",
    "DELETE FROM attempts WHERE turn = ?",
    "DELETE FROM turns WHERE number = ?",
)
SELECT_OLDEST_ENDED = "SELECT number, ended_at FROM outcomes ORDER BY number LIMIT ?"
SELECT_ENDED_BEFORE = "SELECT number FROM outcomes WHERE ended_at < ? ORDER BY number LIMIT ?"
SELECT_ENDED_ID = "SELECT number FROM turns JOIN outcomes USING (number) WHERE id = ?"

SELECT_DAY_TO_FOLD = "SELECT day FROM usage WHERE day < ? AND session <> '' ORDER BY day LIMIT 1"
FOLD_DAY = (
    f"INSERT INTO usage SELECT day, provider, model, kind, '', {', '.join(f'sum({name})' for name in _SUMS)} "
    f"FROM usage WHERE day = ? AND session <> '' GROUP BY day, provider, model, kind {_ADD_UP}"
)
DELETE_FOLDED = "DELETE FROM usage WHERE day = ? AND session <> ''"

# -- reading ---------------------------------------------------------------------------------------------------------

_TURN = (
    "SELECT turns.number, id, body_hash, kind, session, lane, provider, model, features, size, detached, resend_safe, "
    "accepted_at, deadline, turns.state, turns.attempt, sent_provider, sent_model, since, "
    "park_provider, park_until, park_why, "
    "outcomes.state, outcomes.attempt, outcomes.seq, outcomes.ended_at"
)
SELECT_TURN = f"{_TURN}, header, body FROM turns LEFT JOIN outcomes USING (number) WHERE id = ?"
SELECT_LIVE = (
    f"{_TURN}, NULL, NULL, requests.body "
    "FROM requests JOIN turns USING (number) LEFT JOIN outcomes USING (number) ORDER BY turns.number"
)
SELECT_ATTEMPTS = (
    "SELECT number, provider, model, since, error, ambiguous, ended_at, input, output FROM attempts WHERE turn = ? "
    "ORDER BY number"
)


def stored_turn(row: Row, *, lost: Iterable[Row] = ()) -> StoredTurn:
    """The turn of a row of SELECT_TURN, SELECT_LIVE or `select_list`."""
    attempt, park, ending = row[15:19], row[19:22], row[22:28]
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
        state=LIVE_STATES[row[14]] if ending[0] is None else END_STATES[ending[0]],
        attempt=Attempt(number=attempt[0], provider=attempt[1], model=attempt[2], since=attempt[3])
        if attempt[0]
        else None,
        park=Park(provider=park[0], until=park[1], why=park[2]) if park[0] is not None and ending[0] is None else None,
        ending=None
        if ending[0] is None
        else Ending(
            state=END_STATES[ending[0]],
            attempt=ending[1],
            seq=ending[2],
            ended_at=ending[3],
            header=ending[4] or b"",
            body=ending[5] or b"",
        ),
        body=row[28] if len(row) > 28 else b"",
        lost=tuple(_lost_attempt(one) for one in lost),
    )


def _lost_attempt(row: Row) -> LostAttempt:
    attempt = Attempt(number=row[0], provider=row[1], model=row[2], since=row[3])
    return LostAttempt(
        attempt=attempt, error=row[4], ambiguous=bool(row[5]), ended_at=row[6], input=row[7], output=row[8]
    )


def select_list(query: List) -> tuple[str, Row]:
    """One row more than the limit, to know whether there are more."""
    live = [LIVE_STATES.index(state) for state in query.states if state in LIVE_STATES]
    ended = [END_STATES.index(state) for state in query.states if state in END_STATES]
    wanted: list[tuple[str, Sequence[Any]]] = []
    if query.states:
        is_live = f"outcomes.state IS NULL AND turns.state IN ({_marks(live)})"
        wanted.append((f"({is_live} OR outcomes.state IN ({_marks(ended)}))", [*live, *ended]))
    for column, value in (("kind", query.kind), ("session", query.session), ("sent_provider", query.provider)):
        if value:
            wanted.append((f"{column} = ?", [value]))
    if query.since is not None:
        wanted.append(("accepted_at >= ?", [query.since]))
    if query.before is not None:
        wanted.append(("accepted_at < ?", [query.before]))
    where = " AND ".join(condition for condition, _ in wanted) or "1"
    only_live = bool(query.states) and not ended  # then the small table leads
    tables = "requests JOIN turns USING (number)" if only_live else "turns"
    sql = f"{_TURN}, NULL, NULL FROM {tables} LEFT JOIN outcomes USING (number) WHERE {where} "
    values = tuple(value for _, parameters in wanted for value in parameters)
    return f"{sql}ORDER BY turns.number DESC LIMIT ?", (*values, query.limit + 1)


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def select_usage(query: Usage) -> tuple[str, Row]:
    """Raises ValueError for a key that there is not."""
    if not query.by or set(query.by) - set(USAGE_KEYS):
        raise ValueError(f"usage is kept by {', '.join(USAGE_KEYS)}")
    keys = ", ".join(query.by)
    sums = ", ".join(f"sum({name})" for name in _SUMS)
    first_day = 0 if query.since is None else int(query.since // DAY_S)
    sql = f"SELECT {keys}, {sums} FROM usage WHERE day >= ? GROUP BY {keys} ORDER BY {keys}"
    return sql, (first_day,)


def usage_row(query: Usage, row: Row) -> UsageRow:
    key = tuple(
        (date(1970, 1, 1) + timedelta(days=value)).isoformat() if name == "day" else str(value)
        for name, value in zip(query.by, row, strict=False)
    )
    return UsageRow(key, *row[len(query.by) :])

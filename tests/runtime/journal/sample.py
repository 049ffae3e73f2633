"""Operations as a dispatcher posts them, and what a store that never crashes would answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from loopforge.runtime.journal.files import Connect, connect, open_database
from loopforge.runtime.journal.operations import (
    END_STATES,
    USAGE_KEYS,
    Accept,
    Accepted,
    Attempt,
    AttemptEnded,
    Ending,
    EndState,
    Finish,
    Found,
    Known,
    List,
    Lookup,
    LostAttempt,
    Operation,
    Park,
    Parked,
    Recover,
    Recovered,
    Running,
    Show,
    Spent,
    StoredTurn,
    Usage,
    UsageKey,
    UsageRow,
    UsageTable,
    Written,
)
from loopforge.runtime.journal.shortage import Shortage
from loopforge.runtime.journal.store import Store

T0 = 1_700_000_000.0


def accept(turn_id: str, **changes: Any) -> Accept:
    turn = Accept(
        id=turn_id,
        body_hash=b"\x01" * 16,
        kind="coding",
        session="s1",
        lane="normal",
        provider="",
        model="",
        features=("tools", "thinking"),
        size=250,
        detached=True,
        resend_safe=True,
        accepted_at=T0,
        deadline=T0 + 1800,
        body=f"the request of {turn_id}".encode(),
    )
    return replace(turn, **changes)


def attempt(number: int = 1, **changes: Any) -> Attempt:
    return replace(Attempt(number=number, provider="ollama", model="llama3.2", since=T0 + number), **changes)


def running(turn_id: str, number: int = 1) -> Running:
    return Running(id=turn_id, attempt=attempt(number))


def lost(turn_id: str, number: int = 1, **changes: Any) -> AttemptEnded:
    ended = AttemptEnded(
        id=turn_id, attempt=attempt(number), error="StreamBroken", ended_at=T0 + 10, spent=spent(input=7, output=3)
    )
    return replace(ended, **changes)


def spent(**changes: Any) -> Spent:
    return replace(Spent(provider="ollama", model="llama3.2", kind="coding", session="s1"), **changes)


def finish(turn_id: str, state: EndState = "done", **changes: Any) -> Finish:
    outcome = Finish(
        id=turn_id,
        state=state,
        attempt=1,
        seq=9,
        header=b"header",
        body=f"the reply to {turn_id}".encode(),
        ended_at=T0 + 20,
        spent=spent(input=100, output=20, cache_read=60, cache_write=5, reasoning=11),
    )
    return replace(outcome, **changes)


@contextmanager
def open_store(path: Path, *, connect: Connect = connect, ballast_bytes: int = 0) -> Iterator[Store]:
    connection, _ = open_database(path, connect=connect)
    try:
        shortage = Shortage(path.with_name("journal.ballast"), ballast_bytes=ballast_bytes)
        shortage.prepare(0.0)
        yield Store(connection, shortage)
    finally:
        connection.close()


def do(store: Store, *operations: Operation[Any], now: float = 0.0) -> list[Any]:
    """The answers to a group."""
    return list(store.apply(operations, now))


def everything(store: Store) -> tuple[object, ...]:
    """All a store can tell, to compare it with another."""
    [listing, recovered, usage] = do(store, List(limit=10_000), Recover(), Usage(by=USAGE_KEYS, limit=10_000))
    shown = do(store, *(Show(id=turn.id, with_body=True) for turn in listing.turns)) if listing.turns else []
    return (listing, recovered, usage, tuple(shown))


# -- the model -------------------------------------------------------------------------------------------------------

_SUMS = ("attempts", "input", "output", "cache_read", "cache_write", "reasoning")


@dataclass
class Model:
    """What a store does, with dicts."""

    turns: dict[str, StoredTurn] = field(default_factory=dict)  # in order of acceptance
    usage: dict[tuple[str, ...], Counter[str]] = field(default_factory=dict)

    def do(self, operation: Operation[Any]) -> object:
        if isinstance(operation, Accept):
            return self._accept(operation)
        if isinstance(operation, Recover):
            return Recovered(
                tuple(replace(turn, lost=()) for turn in self.turns.values() if turn.state not in END_STATES)
            )
        if isinstance(operation, Usage):
            return self._usage(operation)
        assert isinstance(operation, Running | AttemptEnded | Parked | Finish | Lookup | Show)
        turn = self.turns.get(operation.id)
        if isinstance(operation, Lookup | Show):
            shown = isinstance(operation, Show), isinstance(operation, Show) and operation.with_body
            return Found(None if turn is None else _shown(turn, *shown))
        if turn is None or turn.state in END_STATES:
            return Written(changed=False)
        self.turns[turn.id] = self._changed(turn, operation)
        return Written()

    def _accept(self, operation: Accept) -> object:
        known = self.turns.get(operation.id)
        if known is not None:
            again = operation.retry and known.state in ("failed", "cancelled")
            if not again or known.body_hash != operation.body_hash:
                return Known(_shown(known))
            del self.turns[operation.id]
        members = {name: getattr(operation, name) for name in _ACCEPT_MEMBERS}
        state: Any = "accepted" if operation.running is None else "running"
        self.turns[operation.id] = StoredTurn(**members, state=state, attempt=operation.running)
        return Accepted()

    def _changed(self, turn: StoredTurn, operation: Running | AttemptEnded | Parked | Finish) -> StoredTurn:
        if isinstance(operation, Running):
            return replace(turn, state="running", attempt=operation.attempt, park=None)
        if isinstance(operation, Parked):
            return replace(turn, state="parked", park=operation.park)
        if operation.spent is not None:
            at = operation.ended_at
            if at is None:
                assert isinstance(operation, AttemptEnded)
                at = operation.attempt.since
            self._add(operation.spent, at, operation.state if isinstance(operation, Finish) else "")
        if isinstance(operation, Finish):
            body = b"" if operation.state == "done" else turn.body
            return replace(turn, state=operation.state, ending=ending(operation), park=None, body=body)
        tokens = (0, 0) if operation.spent is None else (operation.spent.input, operation.spent.output)
        gone = LostAttempt(
            attempt=operation.attempt,
            error=operation.error,
            ambiguous=operation.ambiguous,
            ended_at=operation.ended_at,
            input=tokens[0],
            output=tokens[1],
        )
        others = [one for one in turn.lost if one.attempt.number != gone.attempt.number]
        numbered = sorted([*others, gone], key=lambda one: one.attempt.number)
        return replace(turn, state="accepted", park=None, lost=tuple(numbered))

    def _add(self, spent: Spent, ended_at: float, state: str) -> None:
        day = _day(ended_at)
        sums = self.usage.setdefault((spent.provider, spent.model, spent.kind, spent.session, day), Counter())
        sums.update({name: getattr(spent, name) for name in _SUMS})
        sums.update(turns=state != "", failed=state == "failed", cancelled=state == "cancelled")

    def _usage(self, query: Usage) -> UsageTable:
        first_day = "" if query.since is None else _day(query.since)
        books = [(dict(zip(USAGE_KEYS, key, strict=True)), sums) for key, sums in self.usage.items()]
        books = [(named, sums) for named, sums in books if named["day"] >= first_day]
        grouped = query.by[: query.groups or len(query.by)]
        groups = _add_up(books, grouped)
        largest = sorted(groups, key=lambda key: _place_of(key, groups[key], grouped))
        rows: list[UsageRow] = []
        for group in largest[: query.limit]:
            own = [(named, sums) for named, sums in books if tuple(named[name] for name in grouped) == group]
            below = _add_up(own, query.by)
            rows += (_row(key, below[key]) for key in sorted(below, key=lambda key: _place_of(key, below[key])))
        places = _add_up(books, ("provider", "model"))
        totals = [_row(key, places[key]) for key in sorted(places, key=lambda key: _place_of(key, places[key]))]
        return UsageTable(tuple(rows), tuple(totals), more=len(groups) > query.limit)


Books = Sequence[tuple[Mapping[UsageKey, str], Counter[str]]]


def _add_up(books: Books, by: Sequence[UsageKey]) -> dict[tuple[str, ...], Counter[str]]:
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for named, counts in books:
        sums.setdefault(tuple(named[name] for name in by), Counter()).update(counts)
    return sums


def _place_of(key: tuple[str, ...], sums: Counter[str], by: Sequence[str] = ()) -> tuple[Any, ...]:
    """Latest day first where that is a key of the group, then most tokens, most turns, and the key."""
    latest = [-date.fromisoformat(value).toordinal() for name, value in zip(by, key, strict=False) if name == "day"]
    return (*latest, -sums["input"] - sums["output"], -sums["turns"], key)


def _row(key: tuple[str, ...], sums: Counter[str]) -> UsageRow:
    return UsageRow(key, *(sums[name] for name in ("turns", "failed", "cancelled", *_SUMS)))


_ACCEPT_MEMBERS = (
    "id",
    "body_hash",
    "kind",
    "session",
    "lane",
    "provider",
    "model",
    "features",
    "size",
    "detached",
    "resend_safe",
    "accepted_at",
    "deadline",
    "body",
)


def _shown(turn: StoredTurn, with_lost: bool = False, with_body: bool = False) -> StoredTurn:
    return replace(turn, body=turn.body if with_body else b"", lost=turn.lost if with_lost else ())


def ending(operation: Finish) -> Ending:
    return Ending(
        state=operation.state,
        attempt=operation.attempt,
        seq=operation.seq,
        header=operation.header,
        body=operation.body,
        ended_at=operation.ended_at,
    )


def _day(at: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(at, dt.UTC).date().isoformat()


def park(turn_id: str, provider: str = "anthropic", until: float = T0 + 3600) -> Parked:
    return Parked(id=turn_id, park=Park(provider=provider, until=until, why="quota"))


def play(model: Model, operations: Sequence[Operation[Any]]) -> list[object]:
    return [model.do(operation) for operation in operations]

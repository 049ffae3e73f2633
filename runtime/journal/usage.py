"""The SQL of questions about what turns cost, and rows -> values. One answer is bounded, whatever was counted.

ruff's S608 is off for this file: statements are put together of the file's own words, values are always parameters.
"""

# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from sqlite3 import Connection
from typing import Any

from loopforge.runtime.journal.operations import USAGE_KEYS, Usage, UsageRow, UsageTable

DAY_S = 86_400
SUMS = ("turns", "failed", "cancelled", "attempts", "input", "output", "cache_read", "cache_write", "reasoning")
MAX_PLACES = 200
"""Pairs of provider and model that are told apart below a group; a client may name any model it likes."""
MAX_ROWS = 5_000
"""Of one answer: the loop makes a frame of so many in 25 ms."""

_PLACE = ("provider", "model")
_ADDED = ", ".join(f"sum({name})" for name in SUMS)
_TOKENS = "sum(input) + sum(output)"
_LARGEST = f"{_TOKENS} DESC, sum(turns) DESC"
_PLACES = (
    f"places AS MATERIALIZED (SELECT provider, model FROM usage WHERE day >= :first_day "
    f"GROUP BY provider, model ORDER BY {_LARGEST}, provider, model LIMIT {MAX_PLACES})"
)
_FOLDED = {name: f"iif((provider, model) IN (SELECT provider, model FROM places), {name}, '')" for name in _PLACE}
_TOTALS = (
    f"WITH {_PLACES} SELECT {_FOLDED['provider']} AS a, {_FOLDED['model']} AS b, {_ADDED} FROM usage "
    f"WHERE day >= :first_day GROUP BY a, b ORDER BY {_LARGEST}, a, b"
)


def read_usage(connection: Connection, query: Usage) -> UsageTable:
    """Raises ValueError for no key, one that there is not, or one asked for twice, and for groups of no such keys."""
    known = len(set(query.by)) == len(query.by) and set(query.by) <= set(USAGE_KEYS)
    if not query.by or not known:
        raise ValueError(f"usage is kept by {', '.join(USAGE_KEYS)}")
    groups = query.groups or len(query.by)
    if not 0 < groups <= len(query.by) or set(query.by[groups:]) - set(_PLACE):
        raise ValueError("groups are counted by the first keys, and only provider and model may come after them")
    first_day = 0 if query.since is None else int(query.since // DAY_S)
    chosen = connection.execute(_largest(query.by[:groups]), {"first_day": first_day, "limit": query.limit + 1})
    order = {group: number for number, group in enumerate(chosen.fetchall())}
    found = connection.execute(_sums(query.by, groups), {"first_day": first_day, "limit": query.limit}).fetchall()
    tokens = len(query.by) + SUMS.index("input"), len(query.by) + SUMS.index("output")
    found.sort(key=lambda row: (order[row[:groups]], -row[tokens[0]] - row[tokens[1]], -row[len(query.by)], row))
    kept = _whole_groups(found, groups)
    return UsageTable(
        rows=tuple(_usage_row(query.by, row) for row in kept),
        totals=tuple(_usage_row(_PLACE, row) for row in connection.execute(_TOTALS, {"first_day": first_day})),
        more=len(order) > query.limit or len(kept) < len(found),
    )


def _largest(keys: Sequence[str]) -> str:
    """The groups, at most :limit."""
    named = ", ".join(keys)
    latest = "day DESC, " if "day" in keys else ""
    return (
        f"SELECT {named} FROM usage WHERE day >= :first_day GROUP BY {named} "
        f"ORDER BY {latest}{_LARGEST}, {named} LIMIT :limit"
    )


def _sums(by: Sequence[str], groups: int) -> str:
    """Keys and sums of the largest groups, in any order.

    Chosen with IN, which looks at each row of the books once; a join with them looked at all rows for each group.
    """
    keys = [f"key_{name}" for name in by]
    values = [*by[:groups], *(_FOLDED[name] for name in by[groups:])]
    named = ", ".join(f"{value} AS {key}" for value, key in zip(values, keys, strict=True))
    return (
        f"WITH {_PLACES} SELECT {named}, {_ADDED} FROM usage WHERE day >= :first_day "
        f"AND ({', '.join(by[:groups])}) IN ({_largest(by[:groups])}) GROUP BY {', '.join(keys)}"
    )


def _whole_groups(found: list[tuple[Any, ...]], groups: int) -> list[tuple[Any, ...]]:
    """As many as an answer takes, and no half a group."""
    if len(found) <= MAX_ROWS:
        return found
    cut = found[MAX_ROWS][:groups]
    return [row for row in found[:MAX_ROWS] if row[:groups] != cut]


def _usage_row(by: Sequence[str], row: tuple[Any, ...]) -> UsageRow:
    key = tuple(
        (date(1970, 1, 1) + timedelta(days=value)).isoformat() if name == "day" else str(value)
        for name, value in zip(by, row, strict=False)
    )
    return UsageRow(key, *row[len(by) :])

"""What turns cost, asked for by session and the like: sums against a model's, and answers of a bounded size."""

from __future__ import annotations

import tempfile
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.operations import USAGE_KEYS, Usage, UsageKey, UsageTable
from loopforge.runtime.journal.store import Store
from loopforge.runtime.journal.usage import DAY_S, MAX_PLACES, MAX_ROWS
from loopforge.runtime.queries import MAX_LISTED, operation_of
from tests.runtime.journal.sample import T0, Model, accept, do, finish, open_store, spent

FIRST_DAY = int(T0 // DAY_S)
KEYS = [keys for count in range(1, len(USAGE_KEYS) + 1) for keys in permutations(USAGE_KEYS, count)]
PLACE: tuple[UsageKey, ...] = ("provider", "model")


@st.composite
def queries(draw: st.DrawFn) -> Usage:
    chosen = draw(st.sampled_from(KEYS))
    asked = (*chosen, *(key for key in PLACE if key not in chosen)) if draw(st.booleans()) else chosen
    since = draw(st.none() | st.sampled_from([0.0, T0 + DAY_S, T0 + 10 * DAY_S]))
    return Usage(by=asked, since=since, groups=len(chosen), limit=draw(st.sampled_from([1, 2, 3, 100])))


COSTS = st.builds(
    lambda number, **members: (number, spent(**members)),
    st.integers(0, 3),
    provider=st.sampled_from("ab"),
    model=st.sampled_from(["m", "n", ""]),
    kind=st.sampled_from(["coding", "planning"]),
    session=st.sampled_from(["", "s1", "s2", "ü"]),
    input=st.integers(0, 3),
    output=st.integers(0, 3),
)


@settings(max_examples=40)  # each opens a database
@given(costs=st.lists(COSTS, max_size=12), asked=st.lists(queries(), min_size=1, max_size=4))
def test_the_largest_groups_and_the_totals_of_all_are_told_as_a_model_tells_them(
    costs: list[tuple[int, Any]], asked: list[Usage]
) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "journal.db") as store:
        for number, (day, cost) in enumerate(costs):
            for operation in (accept(f"t{number}"), finish(f"t{number}", spent=cost, ended_at=T0 + day * DAY_S)):
                do(store, operation)
                model.do(operation)
        for query in asked:
            assert do(store, query) == [model.do(query)]


def book(store: Store, rows: int, **members: str) -> None:
    """That many rows, each of one turn and one more token than the one before. `members`: SQL of the number n."""
    columns = {
        "day": str(FIRST_DAY),
        "provider": "'p'",
        "model": "'m'",
        "kind": "'coding'",
        "session": "'s'",
        **members,
    }
    store.connection.execute(
        f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows - 1}) "  # noqa: S608 - our own words
        f"INSERT INTO usage SELECT {', '.join(columns.values())}, 1, 0, 0, 1, n, 0, 0, 0, 0 FROM numbers"
    )


def ask(store: Store, query: Usage) -> UsageTable:
    [table] = do(store, query)
    assert isinstance(table, UsageTable)
    return table


def test_of_many_sessions_the_largest_are_told_and_that_there_are_more(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        book(store, 20_000, session="'s' || n")
        table = ask(store, Usage(by=("session", *PLACE), groups=1, limit=3))
        assert [row.key for row in table.rows] == [(f"s{n}", "p", "m") for n in (19_999, 19_998, 19_997)]
        assert table.more
        (total,) = table.totals
        assert (total.key, total.turns, total.input) == (("p", "m"), 20_000, sum(range(20_000)))
        assert not ask(store, Usage(by=("provider",), limit=1)).more


def test_models_without_number_are_told_as_others_and_nothing_is_lost_of_the_sums(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        book(store, 1000, model="'m' || n", session="'s' || (n % 7)")
        table = ask(store, Usage(by=("session", *PLACE), groups=1, limit=10))
        assert len(table.totals) == MAX_PLACES + 1
        assert sum(row.turns for row in table.totals) == sum(row.turns for row in table.rows) == 1000
        others = [row for row in table.totals if row.key == ("", "")]
        assert [row.input for row in others] == [sum(range(1000 - MAX_PLACES))]
        assert {row.key[0] for row in table.rows if row.key[1:] == ("", "")} == {f"s{n}" for n in range(7)}
        assert not table.more


def test_an_answer_has_no_more_rows_than_a_frame_is_made_of_and_no_half_a_group(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        book(store, 30_000, model="'m' || (n / 300)", session="'s' || (n % 300)")
        table = ask(store, Usage(by=("session", *PLACE), groups=1, limit=MAX_LISTED))
        assert MAX_ROWS - 100 <= len(table.rows) <= MAX_ROWS
        assert len(table.rows) % 100 == 0
        assert table.more
        assert sum(row.turns for row in table.totals) == 30_000


@pytest.mark.parametrize(
    "query",
    [
        Usage(by=()),
        Usage(by=("session", "session")),
        Usage(by=("session",), groups=2),
        Usage(by=("session",), groups=-1),
        Usage(by=("provider", "session"), groups=1),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(tmp_path: Path, query: Usage) -> None:
    with open_store(tmp_path / "journal.db") as store:
        [refused] = do(store, query)
        assert isinstance(refused, JournalFailed)


@pytest.mark.parametrize("limit", [-5, 0, 10**12])
def test_no_client_has_sums_told_without_a_bound(limit: int) -> None:
    operation = operation_of({"what": "usage", "by": ["session"], "limit": limit})
    assert isinstance(operation, Usage)
    assert 1 <= operation.limit <= MAX_LISTED

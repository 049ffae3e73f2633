"""What a store refuses and keeps, one rule at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.operations import (
    LIST_TURNS,
    Accepted,
    Deferred,
    Found,
    Known,
    List,
    Listing,
    Lookup,
    Recover,
    Usage,
    Written,
)
from tests.runtime.journal.sample import T0, accept, attempt, do, ending, finish, lost, open_store, park, running, spent


def test_a_known_id_is_answered_with_what_became_of_it_and_nothing_is_written(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        do(store, accept("a", running=attempt()), finish("a"))
        [known] = do(store, accept("a", body_hash=b"another", kind="planning"))
        assert isinstance(known, Known)
        assert known.turn.kind == "coding"
        assert known.turn.ending == ending(finish("a"))
        assert do(store, Recover())[0].turns == ()


@pytest.mark.parametrize(
    ("state", "body_hash", "again"),
    [
        ("failed", b"\x01" * 16, True),
        ("cancelled", b"\x01" * 16, True),
        ("done", b"\x01" * 16, False),
        ("failed", b"\x02" * 16, False),
    ],
)
def test_a_retry_is_a_new_turn_only_of_the_same_body_that_did_not_succeed(
    tmp_path: Path, state: str, body_hash: bytes, again: bool
) -> None:
    with open_store(tmp_path / "journal.db") as store:
        do(store, accept("a"), lost("a"), finish("a", state))  # type: ignore[arg-type]  # a state, as text
        [answer] = do(store, accept("a", body_hash=body_hash, retry=True))
        assert isinstance(answer, Accepted if again else Known)
        [recovered] = do(store, Recover())
        assert [turn.attempts for turn in recovered.turns] == ([0] if again else [])


def test_a_turn_ends_once(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        answers = do(store, accept("a"), finish("a"), finish("a", "failed"), running("a"), finish("never"))
        assert answers == [Accepted(), Written(), *[Written(changed=False)] * 3]
        [found] = do(store, Lookup(id="a"))
        assert found.turn.state == "done"
        [table] = do(store, Usage(by=("provider",)))
        assert [row.turns for row in table.rows] == [1]


def test_what_a_lost_attempt_cost_is_counted_beside_the_last_one(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        do(store, accept("a", running=attempt()))
        do(store, lost("a", spent=spent(provider="anthropic", model="big", input=50, output=9)))
        do(store, running("a", 2), finish("a", spent=spent(input=60, output=30)))
        [table] = do(store, Usage(by=("provider", "model")))
        assert [(row.key, row.turns, row.attempts, row.input, row.output) for row in table.rows] == [
            (("ollama", "llama3.2"), 1, 1, 60, 30),
            (("anthropic", "big"), 0, 1, 50, 9),
        ]


def test_usage_is_of_utc_days_from_the_one_that_was_asked_for(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        for number in range(3):
            do(store, accept(f"t{number}"), finish(f"t{number}", ended_at=T0 + number * 86_400))
        [table] = do(store, Usage(by=("day",), since=T0 + 86_400))
        assert [row.key for row in table.rows] == [("2023-11-16",), ("2023-11-15",)]
        [refused] = do(store, Usage(by=("colour",)))  # type: ignore[arg-type]  # what a person may ask for
        assert isinstance(refused, JournalFailed)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (List(), "fedcba"),
        (List(limit=2), "fe"),
        (List(states=("accepted",)), "f"),
        (List(states=("running", "parked")), "ed"),
        (List(states=("done", "accepted")), "fc"),
        (List(states=("failed", "cancelled")), "ba"),
        (List(kind="planning"), "f"),
        (List(session="s2"), "c"),
        (List(provider="anthropic"), "e"),
        (List(since=T0 + 2, before=T0 + 4), "dc"),
    ],
)
def test_a_list_is_filtered_and_newest_first(tmp_path: Path, query: List, expected: str) -> None:
    with open_store(tmp_path / "journal.db") as store:
        turns = [accept(name, accepted_at=T0 + number) for number, name in enumerate("abcde")]
        turns[2] = accept("c", accepted_at=T0 + 2, session="s2")
        turns[4] = accept("e", accepted_at=T0 + 4, running=attempt(provider="anthropic"))
        do(store, *turns, accept("f", accepted_at=T0 + 5, kind="planning"))
        do(store, finish("a", "failed"), finish("b", "cancelled"), finish("c"), park("d"))
        [listing] = do(store, query)
        assert isinstance(listing, Listing)
        assert "".join(turn.id for turn in listing.turns) == expected
        assert listing.more == (query.limit == 2)
        assert all(turn.body == b"" and (turn.ending is None or turn.ending.body == b"") for turn in listing.turns)


def test_a_list_looks_at_the_newest_turns_and_says_that_there_are_others(tmp_path: Path) -> None:
    with open_store(tmp_path / "journal.db") as store:
        do(store, accept("alive"), accept("old"), finish("old"))
        store._next_number += LIST_TURNS  # as if so many had come
        do(store, accept("new"), finish("new"))
        answers = do(store, List(), List(states=("done",)), List(states=("accepted", "parked")))
        assert [[turn.id for turn in answer.turns] for answer in answers] == [["new"], ["new"], ["alive"]]
        assert [answer.more for answer in answers] == [True, True, False]


def test_the_request_is_dropped_with_the_outcome_and_given_back_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with open_store(path) as store:
        do(store, accept("a", body=b"secret plans"), accept("b", body=b"\0\xff"), park("b"))
        do(store, finish("a"))
    with open_store(path) as store:
        [recovered] = do(store, Recover())
        assert [(turn.id, turn.body, turn.state) for turn in recovered.turns] == [("b", b"\0\xff", "parked")]
        assert recovered.turns[0].park == park("b").park


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for name in "abc":
        with open_store(path) as store:
            assert do(store, accept(name)) == [Accepted()]
    with open_store(path) as store:
        assert [turn.id for turn in do(store, Recover())[0].turns] == ["a", "b", "c"]


def test_no_value_of_a_turn_is_shown_in_a_log(tmp_path: Path) -> None:
    operation = accept("a", body=b"SECRET")
    with open_store(tmp_path / "journal.db") as store:
        do(store, operation)
        answers = do(store, Recover(), finish("a", body=b"SECRET", header=b"SECRET"), Lookup(id="a"))
    assert isinstance(answers[2], Found)
    assert answers[2].turn is not None
    assert answers[2].turn.ending is not None
    assert "SECRET" not in f"{operation!r} {finish('a', body=b'SECRET')!r} {answers!r}"
    assert Deferred() == Deferred()

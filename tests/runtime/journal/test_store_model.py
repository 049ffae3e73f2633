"""The store against a model made of dicts, over programs drawn by hypothesis."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.journal.operations import (
    END_STATES,
    USAGE_KEYS,
    AttemptEnded,
    Lookup,
    Operation,
    Recover,
    Show,
    Usage,
)
from tests.runtime.journal.sample import (
    T0,
    Model,
    accept,
    attempt,
    do,
    finish,
    lost,
    open_store,
    park,
    play,
    running,
    spent,
)

IDS = st.sampled_from(["a", "ü" * 8])
NUMBERS = st.integers(1, 3)
WHEN = st.sampled_from([T0, T0 + 5, T0 + 90_000])
BODIES = st.binary(max_size=40) | st.just(b"\0" * 10_000)
SPENT = st.builds(
    spent,
    provider=st.sampled_from(["ollama", "anthropic"]),
    session=st.sampled_from(["", "s1"]),
    attempts=st.integers(0, 2),
    input=st.integers(0, 9),
    output=st.integers(0, 9),
)

ACCEPTS = st.builds(
    accept,
    IDS,
    body_hash=st.sampled_from([b"1" * 16, b"2" * 16]),
    features=st.lists(st.sampled_from(["tools", "images"]), max_size=2).map(tuple),
    detached=st.booleans(),
    body=BODIES,
    retry=st.booleans(),
    running=st.none() | st.builds(attempt, NUMBERS),
)
WRITES = st.one_of(
    ACCEPTS,
    st.builds(running, IDS, NUMBERS),
    st.builds(lost, IDS, NUMBERS, ambiguous=st.booleans(), ended_at=WHEN | st.none(), spent=st.none() | SPENT),
    st.builds(park, IDS, until=WHEN),
    st.builds(finish, IDS, st.sampled_from(END_STATES), body=BODIES, ended_at=WHEN, spent=SPENT),
)
READS = st.one_of(
    st.builds(Lookup, id=IDS),
    st.builds(Show, id=IDS, with_body=st.booleans()),
    st.just(Recover()),
    st.builds(Usage, by=st.lists(st.sampled_from(USAGE_KEYS), min_size=1, unique=True).map(tuple)),
)
GROUPS = st.lists(WRITES | WRITES | READS, min_size=1, max_size=12)
PROGRAMS = st.lists(GROUPS | st.just("reopen"), max_size=8)


@given(PROGRAMS)
def test_the_store_answers_as_a_dict_would_however_operations_are_grouped(
    program: list[list[Operation[Any]] | str],
) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "journal.db"
        store = stack.enter_context(open_store(path))
        model = Model()
        both = [accept("a"), accept("ü" * 8)]
        for group in [both, *program]:
            if isinstance(group, str):
                stack.close()
                store = stack.enter_context(open_store(path))
            else:
                assert do(store, *group) == play(model, group)
        shows = [Show(id=turn_id, with_body=True) for turn_id in model.turns]
        final: list[Operation[Any]] = [Recover(), Usage(by=USAGE_KEYS), *shows]
        assert do(store, *final) == play(model, final)


@given(st.lists(WRITES, min_size=2, max_size=10))
def test_an_operation_that_cannot_be_stored_takes_no_other_of_its_group_down(group: list[Operation[Any]]) -> None:
    unfit: Operation[Any] = AttemptEnded(id="a", attempt=attempt(2**70), error="", ended_at=T0)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "journal.db") as store:
        model = Model()
        half = len(group) // 2
        answers = do(store, accept("a"), *group[:half], unfit, *group[half:])
        expected = play(model, [accept("a"), *group[:half]]), play(model, group[half:])
        assert answers[: half + 1] == expected[0]
        assert answers[half + 2 :] == expected[1]
        assert "cannot hold" in str(answers[half + 1])

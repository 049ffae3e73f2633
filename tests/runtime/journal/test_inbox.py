"""What waits for the journal's thread: all of it is taken once, each lane in order, and neither waits for ever."""

from __future__ import annotations

import queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.journal.inbox import (
    MAX_GROUP,
    MAX_GROUP_BYTES,
    MIXED_GROUP,
    MIXED_GROUP_BYTES,
    OTHERS_EVERY,
    Inbox,
    Posted,
)
from loopforge.runtime.journal.operations import Lookup


def put(inbox: Inbox, name: str, *, urgent: bool = False, weight_bytes: int = 100) -> None:
    inbox.put(Posted(Lookup(id=name), print, weight_bytes), urgent=urgent)


def take(inbox: Inbox) -> list[str]:
    """The names of the next group; none when nothing waits."""
    try:
        group, _ = inbox.take(0.0)
    except queue.Empty:
        return []
    return [_name(posted) for posted in group]


def _name(posted: Posted) -> str:
    assert isinstance(posted.operation, Lookup)
    return posted.operation.id


def test_an_urgent_operation_is_in_the_next_group_however_many_wait() -> None:
    inbox = Inbox()
    for number in range(1000):
        put(inbox, f"o{number}")
    put(inbox, "urgent", urgent=True)

    group = take(inbox)

    assert group[0] == "urgent"
    assert len(group) == MIXED_GROUP


def test_a_huge_operation_does_not_share_its_commit_with_an_urgent_one() -> None:
    inbox = Inbox()
    put(inbox, "small")
    put(inbox, "huge", weight_bytes=MIXED_GROUP_BYTES)
    put(inbox, "urgent", urgent=True)

    assert [take(inbox), take(inbox)] == [["urgent", "small"], ["huge"]]


def test_urgent_operations_that_never_end_leave_places_for_the_others() -> None:
    inbox = Inbox()
    for number in range(10):
        put(inbox, f"o{number}")
    taken: list[str] = []
    for round_ in range(10):
        for number in range(MAX_GROUP):
            put(inbox, f"u{round_}.{number}", urgent=True)
        taken += take(inbox)

    assert [name for name in taken if name.startswith("o")] == [f"o{number}" for number in range(10)]
    assert taken.index("o9") < 10 * OTHERS_EVERY


def test_a_group_of_one_lane_is_as_large_as_a_commit_may_be() -> None:
    for urgent in (False, True):
        inbox = Inbox()
        for number in range(MAX_GROUP + 1):
            put(inbox, str(number), urgent=urgent)

        assert [len(take(inbox)), len(take(inbox))] == [MAX_GROUP, 1]


def test_the_end_is_told_once_everything_is_taken() -> None:
    inbox = Inbox()
    put(inbox, "last", urgent=True)
    inbox.close()

    group, more = inbox.take(0.0)

    assert ([_name(posted) for posted in group], more) == (["last"], False)


def test_nothing_to_take_ends_the_patience() -> None:
    with pytest.raises(queue.Empty):
        Inbox().take(0.0)


STEPS = st.lists(
    st.one_of(
        st.none(),  # a group is taken
        st.tuples(st.booleans(), st.sampled_from([1, MIXED_GROUP_BYTES // 2, MIXED_GROUP_BYTES, MAX_GROUP_BYTES])),
    ),
    max_size=200,
)


@given(STEPS)
def test_everything_is_taken_once_and_each_lane_in_order(steps: list[tuple[bool, int] | None]) -> None:
    inbox = Inbox()
    posted: dict[bool, list[str]] = {False: [], True: []}
    taken: list[str] = []
    for number, step in enumerate(steps):
        if step is None:
            taken += take(inbox)
            continue
        urgent, weight_bytes = step
        posted[urgent].append(f"{number}{'u' if urgent else 'o'}")
        put(inbox, posted[urgent][-1], urgent=urgent, weight_bytes=weight_bytes)
    while group := take(inbox):
        taken += group

    for lane, mark in ((False, "o"), (True, "u")):
        assert [name for name in taken if name.endswith(mark)] == posted[lane]
    assert len(taken) == len(posted[False]) + len(posted[True])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, MAX_GROUP_BYTES)), min_size=1, max_size=100))
def test_no_group_is_larger_than_a_commit_may_be(posted: list[tuple[bool, int]]) -> None:
    inbox = Inbox()
    weights = {}
    for number, (urgent, weight_bytes) in enumerate(posted):
        weights[str(number)] = weight_bytes
        put(inbox, str(number), urgent=urgent, weight_bytes=weight_bytes)
    while group := take(inbox):
        assert sum(weights[name] for name in group[:-1]) < MAX_GROUP_BYTES

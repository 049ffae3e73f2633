from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loopforge.runtime.kept import (
    FRAME_OVERHEAD_BYTES,
    MIB,
    OUTCOME_OVERHEAD_BYTES,
    Kept,
    KeptFrames,
    KeptFramesPool,
    Outcome,
    Place,
)


def frame(number: int, size: int = 10) -> bytes:
    return f"{number:04}".encode().ljust(size, b".")


def outcome(seq: int, size: int = 10, *, attempt: int = 1, body_hash: bytes = b"") -> Outcome:
    return Outcome(attempt=attempt, seq=seq, frame=frame(seq, size), body_hash=body_hash)


COST = 10 + FRAME_OVERHEAD_BYTES  # of a frame as made here
OUTCOME_COST = 10 + OUTCOME_OVERHEAD_BYTES


def filled(pool: KeptFramesPool, turn_id: str, count: int) -> KeptFrames:
    kept = pool.open(turn_id)
    for seq in range(count):
        kept.append(1, seq, frame(seq))
    return kept


def test_a_client_gets_the_frames_behind_the_last_one_it_has() -> None:
    kept = filled(KeptFramesPool(), "t", 5)
    assert kept.after(1, 2) == Kept(gap=False, frames=[frame(3), frame(4)])
    assert kept.after(0, 0) == Kept(gap=False, frames=[frame(seq) for seq in range(5)])
    assert kept.after(1, 4) == Kept(gap=False, frames=[])
    assert kept.after(1, 99) == Kept(gap=False, frames=[])
    assert kept.after(9, 0) == Kept(gap=False, frames=[])


def test_a_turn_without_frames_has_nothing_and_no_gap() -> None:
    assert KeptFramesPool().open("t").after(0, 0) == Kept(gap=False, frames=[])


def test_frames_of_a_later_attempt_come_behind_those_of_the_one_before() -> None:
    kept = filled(KeptFramesPool(), "t", 3)
    kept.append(2, 0, b"again")
    kept.append(2, 1, b"and on")
    assert kept.after(1, 1) == Kept(gap=False, frames=[frame(2), b"again", b"and on"])
    assert kept.after(1, 2) == Kept(gap=False, frames=[b"again", b"and on"])
    assert kept.after(1, 77) == Kept(gap=False, frames=[b"again", b"and on"])
    assert kept.after(2, 0) == Kept(gap=False, frames=[b"and on"])


def test_a_turn_over_its_bound_loses_its_oldest_frames_and_says_so() -> None:
    kept = filled(KeptFramesPool(max_turn_bytes=3 * COST), "t", 5)
    assert kept.after(1, 0) == Kept(gap=True, frames=[frame(2), frame(3), frame(4)])
    assert kept.after(1, 1) == Kept(gap=False, frames=[frame(2), frame(3), frame(4)])
    assert kept.after(1, 3) == Kept(gap=False, frames=[frame(4)])
    assert kept.held_bytes == 3 * COST


def test_losing_a_whole_attempt_is_no_gap_for_a_client_that_had_all_of_it() -> None:
    kept = filled(KeptFramesPool(max_turn_bytes=2 * COST), "t", 3)
    kept.append(2, 0, frame(0))
    kept.append(2, 1, frame(1))
    assert kept.after(1, 2) == Kept(gap=False, frames=[frame(0), frame(1)])
    assert kept.after(1, 1) == Kept(gap=True, frames=[frame(0), frame(1)])


def test_a_gap_reaches_into_the_attempt_whose_frames_were_lost() -> None:
    kept = filled(KeptFramesPool(max_turn_bytes=2 * COST), "t", 2)
    for seq in range(6):
        kept.append(2, seq, frame(seq))
    assert kept.after(1, 9).gap
    assert kept.after(2, 2) == Kept(gap=True, frames=[frame(4), frame(5)])
    assert kept.after(2, 3) == Kept(gap=False, frames=[frame(4), frame(5)])


def test_an_attempt_that_goes_on_counting_is_still_another_one() -> None:
    kept = filled(KeptFramesPool(), "t", 2)
    kept.append(2, 2, frame(2))
    kept.append(2, 3, frame(3))
    assert kept.after(1, 7).frames == [frame(2), frame(3)]
    assert kept.after(2, 2).frames == [frame(3)]


def test_numbers_that_never_follow_one_another_do_not_pile_up() -> None:
    kept = KeptFramesPool(max_turn_bytes=10 * COST).open("t")
    for number in range(1000):
        kept.append(1, 2 * number, frame(number))
    assert len(kept._runs) <= 11
    assert kept.after(1, 1990).frames == [frame(number) for number in range(996, 1000)]
    assert not kept.after(1, 2 * 989).gap
    assert kept.after(1, 2 * 989 - 1).gap


def test_a_frame_larger_than_the_turns_bound_leaves_a_gap_of_its_own() -> None:
    kept = filled(KeptFramesPool(max_turn_bytes=3 * COST), "t", 2)
    kept.append(1, 2, frame(2, size=4 * COST))
    kept.append(1, 3, frame(3))
    assert kept.after(1, 1) == Kept(gap=True, frames=[frame(3)])
    assert kept.after(1, 2) == Kept(gap=False, frames=[frame(3)])


def test_the_default_bounds_are_1_mib_a_turn_and_64_mib_in_all() -> None:
    pool = KeptFramesPool()
    one_mib = bytes(MIB // 4 - FRAME_OVERHEAD_BYTES)
    for number in range(80):
        kept = pool.open(str(number))
        for seq in range(6):
            kept.append(1, seq, one_mib)
        assert kept.held_bytes == MIB
        assert pool.held_bytes == min(number + 1, 64) * MIB
    assert pool.after("0", 0, 0) == Kept(gap=True, frames=[])
    assert pool.after("79", 1, 2) == Kept(gap=False, frames=[one_mib] * 3)
    assert (pool.max_finished, pool.max_finished_bytes) == (10_000, 32 * MIB)


def test_the_pool_empties_the_turn_that_has_held_frames_for_longest() -> None:
    pool = KeptFramesPool(max_bytes=6 * COST)
    old, middle, young = filled(pool, "old", 2), filled(pool, "middle", 2), filled(pool, "young", 2)
    young.append(1, 2, frame(2))
    assert old.after(0, 0) == Kept(gap=True, frames=[])
    assert old.after(1, 1) == Kept(gap=False, frames=[])
    assert middle.after(0, 0).gap is False
    assert young.after(0, 0).gap is False
    assert pool.held_bytes == 5 * COST


def test_the_pools_bound_holds_although_the_turn_has_just_made_room_within_its_own() -> None:
    small = 4 + FRAME_OVERHEAD_BYTES
    pool = KeptFramesPool(max_bytes=2 * COST + small + 2 * COST, max_turn_bytes=3 * COST)
    old, young = filled(pool, "old", 2), pool.open("young")
    for seq, size in enumerate((4, 10, 10)):
        young.append(1, seq, frame(seq, size))
    assert pool.held_bytes == pool.max_bytes
    young.append(1, 3, frame(3))  # the turn drops its small frame for it, which is less than came
    assert young.held_bytes == 3 * COST
    assert old.after(0, 0) == Kept(gap=True, frames=[])
    assert pool.held_bytes == 3 * COST


def test_a_turn_that_was_emptied_goes_on_keeping_and_is_then_the_youngest() -> None:
    pool = KeptFramesPool(max_bytes=4 * COST)
    first, second = filled(pool, "first", 2), filled(pool, "second", 2)
    second.append(1, 2, frame(2))
    first.append(1, 2, frame(2))
    assert first.after(1, 1) == Kept(gap=False, frames=[frame(2)])
    assert first.after(1, 0) == Kept(gap=True, frames=[frame(2)])
    first.append(1, 3, frame(3))
    assert second.after(0, 0) == Kept(gap=True, frames=[])
    assert first.after(1, 1) == Kept(gap=False, frames=[frame(2), frame(3)])


def test_under_lasting_pressure_an_append_still_costs_one_emptied_ring_at_most_on_average() -> None:
    pool = KeptFramesPool(max_bytes=100 * COST)
    rings = [pool.open(str(number)) for number in range(1000)]
    for seq in range(5):
        for ring in rings:
            ring.append(1, seq, frame(seq))
            assert len(pool.by_age) <= 100
    assert pool.held_bytes == 100 * COST


def test_numbers_out_of_order_are_kept_all_the_same() -> None:
    kept = filled(KeptFramesPool(), "t", 3)
    kept.append(1, 1, b"again 1")
    kept.append(0, 7, b"back to 0")
    assert kept.after(0, 0).frames == [frame(0), frame(1), frame(2), b"again 1", b"back to 0"]
    assert kept.after(9, 9) == Kept(gap=False, frames=[])


# -- finished turns --------------------------------------------------------------------------------------------------


def test_of_a_finished_turn_the_outcome_is_kept_and_the_ring_is_not() -> None:
    pool = KeptFramesPool()
    filled(pool, "t", 3)
    end = outcome(3, body_hash=b"h")
    pool.finish("t", end)
    assert pool.running("t") is None
    assert pool.outcome("t") == end
    assert pool.after("t", 1, 2) == Kept(gap=False, frames=[frame(3)])
    assert pool.after("t", 1, 1) == Kept(gap=True, frames=[frame(3)])
    assert pool.held_bytes == OUTCOME_COST
    assert not pool.by_age


@pytest.mark.parametrize("place", [(1, 3), (1, 99), (7, 0)])
def test_a_client_is_sent_the_outcome_of_a_finished_turn_whatever_it_claims_to_have(place: Place) -> None:
    pool = KeptFramesPool()
    filled(pool, "t", 3)
    pool.finish("t", outcome(3))
    assert pool.after("t", *place) == Kept(gap=False, frames=[frame(3)])


def test_a_turn_that_ended_before_its_first_frame_has_no_gap() -> None:
    pool = KeptFramesPool()
    pool.open("t")
    pool.finish("t", outcome(1, attempt=0))
    assert pool.after("t", 0, 0) == Kept(gap=False, frames=[frame(1)])


def test_nothing_is_known_of_a_turn_that_never_was() -> None:
    pool = KeptFramesPool()
    assert pool.after("t", 0, 0) is None
    assert pool.outcome("t") is None
    assert pool.running("t") is None
    pool.forget("t")


def test_the_least_recently_used_outcome_goes_first_when_there_are_too_many() -> None:
    pool = KeptFramesPool(max_finished=3)
    for turn_id in ("a", "b", "c"):
        pool.open(turn_id)
        pool.finish(turn_id, outcome(1))
    pool.outcome("a")
    pool.after("b", 0, 0)
    pool.open("d")
    pool.finish("d", outcome(1))
    assert [turn_id for turn_id in "abcd" if pool.outcome(turn_id)] == ["a", "b", "d"]
    assert pool.held_bytes == 3 * OUTCOME_COST


def test_outcomes_are_bounded_in_bytes_and_one_too_large_leaves_the_others_alone() -> None:
    pool = KeptFramesPool(max_finished_bytes=3 * OUTCOME_COST)
    for turn_id in ("a", "b", "c"):
        pool.open(turn_id)
        pool.finish(turn_id, outcome(1))
    pool.open("huge")
    pool.finish("huge", outcome(1, size=3 * OUTCOME_COST))
    assert pool.outcome("huge") is None
    assert pool.outcome("a") is not None
    pool.open("d")
    pool.finish("d", outcome(1, size=11))
    assert [turn_id for turn_id in "abcd" if pool.outcome(turn_id)] == ["a", "d"]
    assert pool.held_bytes == 2 * OUTCOME_COST + 1


def test_a_ring_is_emptied_rather_than_an_outcome() -> None:
    pool = KeptFramesPool(max_bytes=3 * OUTCOME_COST, max_finished_bytes=2 * OUTCOME_COST)
    for turn_id in ("a", "b"):
        pool.open(turn_id)
        pool.finish(turn_id, outcome(1))
    kept = pool.open("running")
    for seq in range(2 * OUTCOME_COST // COST):
        kept.append(1, seq, frame(seq))
    assert kept.after(0, 0).gap
    assert pool.outcome("a")
    assert pool.outcome("b")


def test_a_ring_makes_room_for_an_outcome() -> None:
    pool = KeptFramesPool(max_bytes=2 * OUTCOME_COST, max_finished_bytes=2 * OUTCOME_COST)
    kept = filled(pool, "running", 2)
    for turn_id in ("a", "b"):
        pool.open(turn_id)
        pool.finish(turn_id, outcome(1))
    assert kept.after(0, 0) == Kept(gap=True, frames=[])
    assert pool.held_bytes == 2 * OUTCOME_COST


def test_an_id_may_be_used_again_after_its_turn_has_ended_but_not_before() -> None:
    pool = KeptFramesPool()
    filled(pool, "t", 1)
    with pytest.raises(ValueError, match="open already"):
        pool.open("t")
    pool.finish("t", outcome(1))
    pool.open("t")
    assert pool.outcome("t") is None
    assert pool.held_bytes == 0


def test_a_forgotten_turn_leaves_nothing() -> None:
    pool = KeptFramesPool()
    kept = filled(pool, "t", 2)
    pool.forget("t")
    assert pool.after("t", 0, 0) is None
    with pytest.raises(ValueError, match="has ended"):
        kept.append(1, 2, frame(2))
    pool.open("t")
    pool.finish("t", outcome(1))
    pool.forget("t")
    assert pool.outcome("t") is None
    assert pool.held_bytes == 0


def test_no_frame_is_kept_behind_an_outcome() -> None:
    pool = KeptFramesPool()
    kept = filled(pool, "t", 2)
    pool.finish("t", outcome(2))
    for place in ((1, 2), (1, 3), (2, 0)):
        with pytest.raises(ValueError, match="has ended"):
            kept.append(*place, b"late")
    assert pool.held_bytes == OUTCOME_COST


# -- against models --------------------------------------------------------------------------------------------------


@given(
    jumps=st.lists(st.tuples(st.sampled_from([0, 0, 0, 0, 1]), st.integers(1, 3), st.integers(1, 30)), max_size=40),
    asked=st.tuples(st.integers(0, 4), st.integers(0, 40)),
    bound=st.integers(1, 40),
)
def test_after_agrees_with_a_search_through_all_frames(
    jumps: list[tuple[int, int, int]], asked: Place, bound: int
) -> None:
    kept = KeptFramesPool(max_turn_bytes=bound * 20).open("t")
    place, appended = (1, -1), []
    for next_attempt, step, size in jumps:
        place = (place[0] + 1, 0) if next_attempt else (place[0], place[1] + step)
        appended.append((place, bytes([size]) * size))
        kept.append(*place, appended[-1][1])
    dropped = 0
    while sum(len(data) + FRAME_OVERHEAD_BYTES for _, data in appended[dropped:]) > bound * 20:
        dropped += 1
    gap = any(gone > asked for gone, _ in appended[:dropped])
    assert kept.after(*asked) == Kept(gap, [data for at, data in appended[dropped:] if at > asked])


@dataclass
class ModelTurn:
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    lost: int = -1
    last: int = -1
    since: int = 0  # when it began to hold frames


class PoolAgainstModel(RuleBasedStateMachine):
    """One attempt a turn; sizes chosen so that a few frames fill the pool."""

    ids = st.sampled_from(["a", "b", "c", "d", "e"])

    @initialize(max_frames=st.integers(3, 30), per_turn=st.integers(1, 20), max_finished=st.integers(1, 3))
    def begin(self, max_frames: int, per_turn: int, max_finished: int) -> None:
        self.pool = KeptFramesPool(
            max_bytes=max_frames * COST + 2 * OUTCOME_COST, max_turn_bytes=per_turn * COST, max_finished=max_finished
        )
        self.turns: dict[str, ModelTurn] = {}
        self.finished: dict[str, tuple[Outcome, int]] = {}
        self.events = 0

    def total(self) -> int:
        rings = sum(len(data) + FRAME_OVERHEAD_BYTES for turn in self.turns.values() for _, data in turn.frames)
        return rings + self.finished_bytes()

    def finished_bytes(self) -> int:
        return sum(len(end.frame) + OUTCOME_OVERHEAD_BYTES for end, _ in self.finished.values())

    def make_room(self) -> None:
        while self.total() > self.pool.max_bytes and any(turn.frames for turn in self.turns.values()):
            oldest = min((turn for turn in self.turns.values() if turn.frames), key=lambda turn: turn.since)
            oldest.lost = oldest.frames[-1][0]
            oldest.frames = []

    @rule(turn_id=ids)
    def open(self, turn_id: str) -> None:
        if turn_id in self.turns:
            with pytest.raises(ValueError, match="open already"):
                self.pool.open(turn_id)
        else:
            self.pool.open(turn_id)
            self.finished.pop(turn_id, None)
            self.turns[turn_id] = ModelTurn()

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), count=st.integers(1, 8), size=st.integers(5, 30))
    def append(self, data: st.DataObject, count: int, size: int) -> None:
        turn_id = data.draw(st.sampled_from(sorted(self.turns)))
        ring, turn = self.pool.running(turn_id), self.turns[turn_id]
        assert ring is not None
        for _ in range(count):
            turn.last += 1
            ring.append(1, turn.last, frame(turn.last, size))
            if not turn.frames:
                self.events += 1
                turn.since = self.events
            turn.frames.append((turn.last, frame(turn.last, size)))
            while sum(len(kept) + FRAME_OVERHEAD_BYTES for _, kept in turn.frames) > self.pool.max_turn_bytes:
                turn.lost = turn.frames.pop(0)[0]
            self.make_room()

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), size=st.sampled_from([10, 100, 600, 5000]))
    def finish(self, data: st.DataObject, size: int) -> None:
        turn_id = data.draw(st.sampled_from(sorted(self.turns)))
        turn = self.turns.pop(turn_id)
        end = outcome(turn.last + 1, size)
        self.pool.finish(turn_id, end)
        if size + OUTCOME_OVERHEAD_BYTES <= self.pool.max_finished_bytes:
            self.finished[turn_id] = (end, turn.last)
        while len(self.finished) > self.pool.max_finished or self.finished_bytes() > self.pool.max_finished_bytes:
            del self.finished[next(iter(self.finished))]
        self.make_room()

    @rule(turn_id=ids)
    def use_an_outcome(self, turn_id: str) -> None:
        known = self.finished.pop(turn_id, None)
        if known is not None:
            self.finished[turn_id] = known
        assert self.pool.outcome(turn_id) == (known and known[0])

    @rule(turn_id=ids)
    def forget(self, turn_id: str) -> None:
        self.pool.forget(turn_id)
        self.turns.pop(turn_id, None)
        self.finished.pop(turn_id, None)

    @rule(turn_id=ids, seq=st.integers(0, 30))
    def attach(self, turn_id: str, seq: int) -> None:
        if (turn := self.turns.get(turn_id)) is not None:
            expected = Kept(seq < turn.lost, [kept for at, kept in turn.frames if at > seq])
        elif (known := self.finished.pop(turn_id, None)) is not None:
            self.finished[turn_id] = known
            expected = Kept(seq < known[1], [known[0].frame])
        else:
            assert self.pool.after(turn_id, 1, seq) is None
            return
        assert self.pool.after(turn_id, 1, seq) == expected

    @invariant()
    def the_bytes_agree_and_are_bounded(self) -> None:
        assert self.pool.held_bytes == self.total() <= self.pool.max_bytes
        assert len(self.pool.by_age) == sum(bool(turn.frames) for turn in self.turns.values())
        assert self.finished_bytes() <= self.pool.max_finished_bytes

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for turn_id in [*self.turns, *self.finished]:
                self.pool.forget(turn_id)
            assert self.pool.held_bytes == 0
            assert not self.pool.by_age


TestPoolAgainstModel = PoolAgainstModel.TestCase
TestPoolAgainstModel.settings = hypothesis_settings(max_examples=200, stateful_step_count=50, deadline=None)

"""The limit of a local server, found out by serving turns at one in virtual time."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.adaptive import Adaptive, AdaptivePolicy, after_refusal, after_told, after_turn, begin

POLICY = AdaptivePolicy()


def serve(state: Adaptive, slots: int, turns: int, *, demand: int = 100, seed: int = 0) -> list[int]:
    """The limit after each of `turns` turns at a server with that many slots, which keeps the others waiting inside.

    A turn takes 0.5 s to its first token and 4 s to its last; `demand` turns always wait outside.
    """
    rng = random.Random(seed)
    now, running, limits = 0.0, 0, []
    free_at = [0.0] * slots  # when each slot of the server is free
    ends: list[tuple[float, float, int]] = []
    for _ in range(turns):
        while running < min(state.limit, demand):
            running += 1
            begun = max(now, heapq.heappop(free_at))
            first = begun + rng.uniform(0.4, 0.6)
            end = first + rng.uniform(3, 5)
            heapq.heappush(free_at, end)
            heapq.heappush(ends, (end, first - now, running))
        now, first_token_s, beside = heapq.heappop(ends)
        running -= 1
        state = after_turn(
            state, first_token_s=first_token_s, prompt_tokens=300, running=beside, now=now, policy=POLICY
        )
        limits.append(state.limit)
    return limits


def quiet(limit: int, most: int = 64) -> Adaptive:
    return Adaptive(limit=limit, most=most, quiet=(0.5,) * 8)


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", range(5))
def test_the_limit_finds_the_servers_slots_and_stays_near_them(slots: int, seed: int) -> None:
    limits = serve(quiet(2), slots, 3000, seed=seed)
    late = sorted(limits[1000:])
    assert slots * 0.7 <= late[len(late) // 2] <= slots + 1
    assert late[-1] <= slots + max(
        2, slots * 0.25
    )  # at many slots one more turn waits a fraction of a turn, which hardly shows


def test_a_limit_that_is_not_used_up_does_not_rise() -> None:
    assert set(serve(quiet(4), 16, 500, demand=3)) == {4}


def test_it_starts_at_what_the_server_told_and_never_leaves_its_bounds() -> None:
    assert begin(6, guess=2, most=64).limit == 6
    assert begin(None, guess=2, most=64).limit == 2
    assert begin(100, guess=2, most=64).limit == 64
    assert begin(0, guess=2, most=0).limit == 1
    assert max(serve(quiet(2, most=5), 16, 1000)) == 5


def test_it_is_known_where_the_limit_comes_from() -> None:
    assert begin(None, guess=2, most=64).source == "guess"
    told = begin(6, guess=2, most=64)
    assert (told.source, told.told) == ("server", 6)
    assert after_refusal(told, 0.0, POLICY).source == "measured"
    assert steady(told, 0.0).source == "measured"
    assert steady(begin(6, guess=2, most=6), 0.0).source == "server"  # it has not moved


def test_what_the_server_tells_again_leaves_what_was_found_out_since() -> None:
    found_out = after_refusal(begin(8, guess=2, most=64), 0.0, POLICY)
    assert after_told(found_out, 8) is found_out


def test_another_number_told_begins_anew_and_only_the_unloaded_server_stays_known() -> None:
    state = after_refusal(replace(quiet(8), told=8, loaded=(1.0, 2.0)), 0.0, POLICY)
    assert after_told(state, 4) == Adaptive(limit=4, most=64, told=4, source="server", quiet=state.quiet)
    assert after_told(state, 1000).limit == 64


def test_a_server_that_told_too_much_or_too_little_is_found_out_all_the_same() -> None:
    for told in (1, 4, 16):
        late = sorted(serve(replace(begin(told, guess=2, most=64), quiet=(0.5,) * 8), 4, 3000)[1000:])
        assert 3 <= late[len(late) // 2] <= 5


def test_a_server_that_refuses_is_given_a_quarter_less_at_once() -> None:
    assert after_refusal(quiet(8), 0.0, POLICY).limit == 6
    assert after_refusal(quiet(2), 0.0, POLICY).limit == 1
    assert after_refusal(quiet(1), 0.0, POLICY).limit == 1


def steady(state: Adaptive, now: float, turns: int = 8) -> Adaptive:
    for _ in range(turns):
        state = after_turn(state, first_token_s=0.5, prompt_tokens=100, running=state.limit, now=now, policy=POLICY)
    return state


def test_a_number_that_was_too_high_is_not_tried_again_for_a_while_and_then_for_twice_as_long() -> None:
    state = after_refusal(quiet(4), 0.0, POLICY)
    assert steady(state, 59.0, 100).limit == 3
    state = steady(state, 60.0, 4)
    assert state.limit == 4
    state = after_refusal(state, 60.0, POLICY)
    assert steady(state, 179.0, 100).limit == 3
    assert steady(state, 180.0, 4).limit == 4


def test_a_long_prompt_is_not_taken_for_a_crowded_server() -> None:
    state = quiet(4)
    for _ in range(8):
        state = after_turn(state, first_token_s=10.0, prompt_tokens=10_000, running=4, now=0.0, policy=POLICY)
    assert state.limit >= 5


def test_where_no_turn_ever_ran_alone_the_fastest_stands_for_it() -> None:
    state = Adaptive(limit=4, most=64)
    for first_token_s in (0.5, 4.0, 8.0, 8.0):
        state = after_turn(state, first_token_s=first_token_s, prompt_tokens=10, running=4, now=0.0, policy=POLICY)
    assert state.limit == 3


@given(
    samples=st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(0, 10**9), st.integers(1, 200), st.booleans()), max_size=200
    ),
    most=st.integers(1, 64),
)
def test_whatever_is_measured_the_limit_stays_in_its_bounds_and_the_memory_in_its(
    samples: list[tuple[float, int, int, bool]], most: int
) -> None:
    state, now = begin(None, 2, most), 0.0
    for first_token_s, prompt_tokens, running, refused in samples:
        now += 10
        if refused:
            state = after_refusal(state, now, POLICY)
        else:
            state = after_turn(
                state, first_token_s=first_token_s, prompt_tokens=prompt_tokens, running=running, now=now, policy=POLICY
            )
        assert 1 <= state.limit <= most
        assert len(state.quiet) <= 32
        assert len(state.loaded) <= max(4, most)
        assert state.ceiling_until - now <= POLICY.max_patience_s

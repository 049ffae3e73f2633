import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.rehearsal.workload import TYPICAL, KindLoad, build_turn, read_rates, schedule, typical_load

loads = st.builds(
    KindLoad,
    kind=st.sampled_from(["planning", "coding", "summary"]),
    per_second=st.floats(0.1, 20),
    prompt_chars=st.just((10, 100)),
    answer_tokens=st.just((1, 9)),
    tool_every=st.integers(0, 4),
    sessions=st.integers(1, 5),
)


@given(loads, st.floats(0.5, 30), st.integers())
def test_a_run_gets_the_turns_its_rate_promises_in_order_and_in_time(load: KindLoad, seconds: float, seed: int) -> None:
    arrivals = schedule([load], seconds, seed)
    assert math.floor(load.per_second * seconds) <= len(arrivals) <= math.ceil(load.per_second * seconds)
    assert [arrival.number for arrival in arrivals] == list(range(len(arrivals)))
    assert all(0 <= arrival.at_s < seconds for arrival in arrivals)
    assert [arrival.at_s for arrival in arrivals] == sorted(arrival.at_s for arrival in arrivals)


def test_one_seed_gives_one_workload_and_another_seed_another() -> None:
    first = schedule(TYPICAL.values(), 10, seed=1)
    assert first == schedule(TYPICAL.values(), 10, seed=1)
    assert first != schedule(TYPICAL.values(), 10, seed=2)


def test_the_rate_of_one_kind_does_not_move_the_turns_of_another() -> None:
    busier = [
        replace(load, per_second=load.per_second * 7) if load.kind == "coding" else load for load in TYPICAL.values()
    ]
    plain, busy = schedule(TYPICAL.values(), 10, seed=3), schedule(busier, 10, seed=3)
    assert [turn for turn in plain if turn.kind != "coding"] == [turn for turn in busy if turn.kind != "coding"]
    assert sum(turn.kind == "coding" for turn in busy) == 7 * sum(turn.kind == "coding" for turn in plain)


def test_a_rate_that_is_asked_for_replaces_the_typical_one_and_leaves_the_others() -> None:
    loads = read_rates(["coding=2.5", "summary=0", "coding=4"], TYPICAL.values())
    assert {load.kind: load.per_second for load in loads} == {
        "planning": TYPICAL["planning"].per_second,
        "coding": 4.0,
        "summary": 0.0,
    }
    assert loads[0] == TYPICAL["planning"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("codng=2", r"no kind 'codng'; did you mean 'coding'\? configured: planning, coding, summary"),
        ("coding", r"'coding' is not KIND=N with N turns a second, such as coding=2\.5"),
        ("coding=", "'coding=' is not KIND=N"),
        ("coding=fast", "'coding=fast' is not KIND=N"),
        ("coding=-1", "'coding=-1' is not KIND=N"),
        ("coding=nan", "'coding=nan' is not KIND=N"),
        ("coding=inf", "'coding=inf' is not KIND=N"),
    ],
)
def test_a_rate_that_cannot_be_kept_says_what_to_write_instead(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_rates([word], TYPICAL.values())


def test_a_rate_of_zero_posts_nothing() -> None:
    assert schedule([replace(TYPICAL["planning"], per_second=0)], 60, seed=0) == []


def test_a_rate_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"makes 5,000,000 turns; at most 100,000"):
        schedule([replace(TYPICAL["planning"], per_second=500_000)], 10, seed=0)


def test_a_length_that_is_no_number_is_refused_instead_of_running_for_ever() -> None:
    with pytest.raises(ValueError, match="at most"):
        schedule(TYPICAL.values(), math.nan, seed=0)


def test_planning_is_small_and_frequent_and_only_coding_calls_tools() -> None:
    arrivals = schedule(TYPICAL.values(), 60, seed=0)
    prompts = {kind: [turn.prompt_chars for turn in arrivals if turn.kind == kind] for kind in TYPICAL}
    assert len(prompts["planning"]) > len(prompts["coding"]) > len(prompts["summary"]) > 0
    assert max(prompts["planning"]) < min(prompts["coding"])
    assert {turn.kind for turn in arrivals if turn.calls_tool} == {"coding"}


@pytest.mark.parametrize(
    ("lane", "like"), [("interactive", "planning"), ("normal", "coding"), ("background", "summary")]
)
def test_a_further_kind_is_used_like_the_one_of_its_lane(lane: str, like: str) -> None:
    assert lane in ("interactive", "normal", "background")
    assert typical_load("review", lane) == replace(TYPICAL[like], kind="review")  # type: ignore[arg-type] # a lane
    assert typical_load("planning", "background") == TYPICAL["planning"]


def test_the_turns_of_a_kind_are_shared_by_its_sessions() -> None:
    arrivals = schedule([TYPICAL["planning"]], 4, seed=0)
    assert {turn.session for turn in arrivals} == {f"planning-{number}" for number in (1, 2, 3, 4)}


def test_a_turn_has_a_prompt_of_exactly_the_drawn_length() -> None:
    for arrival in schedule(TYPICAL.values(), 5, seed=0):
        turn = build_turn(arrival)
        assert len(turn.messages[-1].text) == arrival.prompt_chars
        assert turn.max_output_tokens == arrival.answer_tokens
        assert bool(turn.tools) is arrival.calls_tool
        assert (turn.tool_choice == "required") is arrival.calls_tool

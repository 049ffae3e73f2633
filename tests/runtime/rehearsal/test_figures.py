import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.rehearsal.figures import Ledger, Spread, by_route, figures, percentile, spread

durations = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (3, 50, 2), (4, 50, 2), (99, 99, 99), (100, 99, 99), (101, 99, 100),
     (200, 99, 198), (100, 7, 7), (100, 100, 100), (10, 1, 1)],
)  # fmt: skip
def test_a_percentile_is_the_nearest_rank_of_the_values(count: int, percent: int, expected: int) -> None:
    assert percentile([float(value) for value in range(count, 0, -1)], percent) == expected


@given(durations, st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_values_do_not_exceed(values: list[float], percent: int) -> None:
    answer = percentile(values, percent)

    def covers(candidate: float) -> bool:
        return sum(value <= candidate for value in values) * 100 >= percent * len(values)

    assert answer in values
    assert covers(answer)
    assert not any(covers(value) for value in values if value < answer)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=99).filter(lambda values: len(values) % 2 == 1))
def test_p50_of_an_odd_number_of_values_is_their_median(values: list[int]) -> None:
    assert percentile(values, 50) == statistics.median(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_a_percentile_of_nothing_or_beyond_the_scale_is_refused(values: list[float], percent: int) -> None:
    with pytest.raises(ValueError, match=r"no values|percent is 1 to 100"):
        percentile(values, percent)


@given(durations)
def test_a_spread_is_in_order_and_ends_at_the_largest_value(values: list[float]) -> None:
    seen = spread(values)
    assert seen is not None
    assert seen.p50_s <= seen.p99_s <= seen.max_s == max(values)
    assert seen.count == len(values)


def test_there_is_no_spread_of_nothing() -> None:
    assert spread([]) is None


def test_a_turn_that_never_ended_is_lost_and_has_no_latency() -> None:
    ledger = Ledger()
    ledger.post("planning", "ollama", 10.0).end("done", 10.5)
    ledger.post("planning", "ollama", 11.0)
    summary = figures(ledger.entries)
    assert (summary.posted, summary.done, summary.lost, ledger.open) == (2, 1, 1, 1)
    assert summary.latency == Spread(count=1, p50_s=0.5, p99_s=0.5, max_s=0.5)


def test_a_turn_cannot_end_twice() -> None:
    entry = Ledger().post("planning", "ollama", 0.0)
    entry.end("failed", 1.0, error="WorkerLost")
    with pytest.raises(AssertionError, match="planning turn that was failed is now done"):
        entry.end("done", 2.0)


def test_failed_turns_are_counted_by_class_and_do_not_lengthen_the_latency_of_the_others() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.post("coding", "cloud", 0.0).end("done", 2.0)
    ledger.post("coding", "cloud", 0.0).end("failed", 30.0, error="Stalled")
    for _ in range(2):
        ledger.post("coding", "cloud", 0.0).end("failed", 20.0, error="WorkerLost")
    ledger.post("coding", "cloud", 0.0).end("cancelled", 50.0)
    summary = figures(ledger.entries)
    assert summary.failed == {"WorkerLost": 2, "Stalled": 1}
    assert list(summary.failed) == ["WorkerLost", "Stalled"]
    assert summary.failures == 3
    assert summary.cancelled == 1
    assert summary.latency is not None
    assert summary.latency.max_s == 2.0
    assert summary.failed_after is not None
    assert summary.failed_after.p50_s == 20.0


def test_attempts_beyond_the_first_are_resends_and_a_turn_that_was_never_sent_takes_none_away() -> None:
    ledger = Ledger()
    for attempts in (0, 1, 2, 3):
        ledger.post("coding", "cloud", 0.0).attempts = attempts
    assert figures(ledger.entries).resent == 3


def test_first_tokens_count_for_turns_that_fail_later_and_queue_time_only_for_those_done() -> None:
    ledger = Ledger()
    broken = ledger.post("coding", "cloud", 1.0)
    broken.first_token_at, broken.queued_s = 1.25, 9.0
    broken.end("failed", 3.0, error="StreamBroken")
    done = ledger.post("coding", "cloud", 1.0)
    done.first_token_at, done.queued_s = 1.75, 0.5
    done.end("done", 3.0)
    summary = figures(ledger.entries)
    assert summary.first_token == Spread(count=2, p50_s=0.25, p99_s=0.75, max_s=0.75)
    assert summary.queued == Spread(count=1, p50_s=0.5, p99_s=0.5, max_s=0.5)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["planning", "coding"]), st.sampled_from(["a", "b"]),
            st.sampled_from(["done", "failed", "cancelled", None]),
        )
    )
)  # fmt: skip
def test_every_posted_turn_is_counted_once_whatever_became_of_it(turns: list[tuple[str, str, str | None]]) -> None:
    ledger = Ledger()
    for kind, provider, outcome in turns:
        entry = ledger.post(kind, provider, 0.0)
        match outcome:
            case "done" | "failed" | "cancelled":
                entry.end(outcome, 1.0, error="Stalled" if outcome == "failed" else "")
    groups = by_route(ledger.entries)
    for summary in (*groups.values(), figures(ledger.entries)):
        assert summary.posted == summary.done + summary.failures + summary.cancelled + summary.lost
    assert sum(summary.posted for summary in groups.values()) == len(turns)
    assert list(groups) == list(dict.fromkeys((kind, provider) for kind, provider, _ in turns))


def test_the_plain_form_says_null_for_what_was_not_measured() -> None:
    plain = figures([]).to_plain()
    assert plain["latency"] is None
    assert plain["posted"] == 0
    assert plain["failed_with"] == {}

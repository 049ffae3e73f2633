"""What is told of a provider's traffic, against a plain model of it."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.rehearsal.figures import percentile
from loopforge.runtime.traffic import MAX_CLASSES, MAX_NAME, OTHER, WINDOW, Outcome, Traffic

NOTHING: dict[str, Any] = {
    "attempts": 0,
    "done": 0,
    "cancelled": 0,
    "failed": {},
    "last_done_ago_s": None,
    "last_failure": None,
    "window": {
        "since_s": 0.0,
        "attempts": 0,
        "done": 0,
        "cancelled": 0,
        "failed": {},
        "first_token": None,
        "total": None,
    },
}


class Attempt(NamedTuple):
    outcome: Outcome
    error: str
    wait_s: float
    total_s: float
    first_token_s: float | None


attempts = st.builds(
    Attempt,
    outcome=st.sampled_from(["done", "done", "failed", "cancelled"]),
    error=st.sampled_from(["RateLimited", "Stalled", "WorkerLost"]),
    wait_s=st.floats(0, 100),
    total_s=st.floats(0, 1000),
    first_token_s=st.none() | st.floats(0, 1000),
)


def play(told: list[Attempt]) -> tuple[Traffic, list[float]]:
    """The traffic, and when each attempt ended."""
    made, now, ends = Traffic(), 0.0, []
    for one in told:
        now += one.wait_s
        ends.append(now)
        error = one.error if one.outcome == "failed" else ""
        made.record(
            one.outcome,
            now,
            total_s=one.total_s,
            first_token_s=one.first_token_s,
            error=error,
            next_step=f"fix {error}",
        )
    return made, ends


def test_before_the_first_attempt_there_is_nothing_to_tell() -> None:
    assert Traffic().snapshot(12.0) == NOTHING


@given(st.lists(attempts, max_size=60), st.integers(0, WINDOW + 20))
def test_the_snapshot_is_what_a_list_of_all_attempts_would_say(told: list[Attempt], times: int) -> None:
    told = (told * (times // max(len(told), 1) + 1))[: max(times, len(told))]
    made, ends = play(told)
    now = (ends[-1] if ends else 0.0) + 5.0
    shown = made.snapshot(now)
    recent = told[-WINDOW:]
    for part, of in ((shown, told), (shown["window"], recent)):
        assert part["attempts"] == len(of)
        assert part["done"] == sum(one.outcome == "done" for one in of)
        assert part["cancelled"] == sum(one.outcome == "cancelled" for one in of)
        assert part["failed"] == Counter(one.error for one in of if one.outcome == "failed")
        assert list(part["failed"].values()) == sorted(part["failed"].values(), reverse=True)
        assert part["attempts"] == part["done"] + part["cancelled"] + sum(part["failed"].values())
    done = [one for one in recent if one.outcome == "done"]
    for name, values in (
        ("total", [one.total_s for one in done]),
        ("first_token", [one.first_token_s for one in done if one.first_token_s is not None]),
    ):
        spread = shown["window"][name]
        assert (spread is None) == (not values)
        if values:
            assert spread["count"] == len(values)
            assert (spread["p50_s"], spread["p99_s"]) == (percentile(values, 50), percentile(values, 99))
    last_done = [end for end, one in zip(ends, told, strict=True) if one.outcome == "done"]
    assert shown["last_done_ago_s"] == (now - last_done[-1] if last_done else None)
    failures = [(end, one.error) for end, one in zip(ends, told, strict=True) if one.outcome == "failed"]
    if failures:
        at, error = failures[-1]
        assert shown["last_failure"] == {"error": error, "next_step": f"fix {error}", "ago_s": now - at}
    else:
        assert shown["last_failure"] is None
    assert shown["window"]["since_s"] == (now - ends[-len(recent)] if recent else 0.0)


@given(st.lists(attempts, min_size=1, max_size=30), st.lists(st.integers(0, 29)))
def test_asking_in_between_changes_nothing(told: list[Attempt], asked_after: list[int]) -> None:
    quiet, ends = play(told)
    asked, now = Traffic(), 0.0
    for number, one in enumerate(told):
        now += one.wait_s
        error = one.error if one.outcome == "failed" else ""
        asked.record(
            one.outcome,
            now,
            total_s=one.total_s,
            first_token_s=one.first_token_s,
            error=error,
            next_step=f"fix {error}",
        )
        for _ in range(asked_after.count(number)):
            asked.snapshot(now)
    assert asked.snapshot(ends[-1] + 1) == quiet.snapshot(ends[-1] + 1)


@given(st.lists(st.text(max_size=400), max_size=200))
def test_however_many_error_classes_come_their_number_is_bounded_and_none_is_lost(errors: list[str]) -> None:
    made = Traffic()
    for error in errors:
        made.record("failed", 0.0, total_s=1.0, error=error, next_step="x" * 10_000)
    shown = made.snapshot(0.0)
    assert len(shown["failed"]) <= MAX_CLASSES
    assert sum(shown["failed"].values()) == len(errors)
    assert all(0 < len(name) <= MAX_NAME for name in shown["failed"])
    assert len(json.dumps(shown)) < 40_000


def test_classes_beyond_the_bound_are_told_together() -> None:
    made = Traffic()
    for number in range(MAX_CLASSES + 10):
        made.record("failed", 0.0, total_s=1.0, error=f"Error{number}")
    assert made.snapshot(0.0)["failed"][OTHER] == 11


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "0.3", None, [], {"s": 1}])
def test_what_is_no_duration_is_counted_and_not_measured(value: Any) -> None:
    made = Traffic()
    made.record("done", 1.0, total_s=0.5, first_token_s=value)
    made.record("done", 2.0, total_s=value, first_token_s=0.1)
    window = made.snapshot(3.0)["window"]
    assert (window["done"], window["first_token"]["count"], window["total"]["count"]) == (2, 1, 1)


def test_memory_is_bounded_however_long_the_service_runs() -> None:
    made = Traffic()
    for number in range(20 * WINDOW):
        made.record("done", number / 7, total_s=number / 3, first_token_s=number / 5)
    kept = made._window
    held = sys.getsizeof(kept) + sum(sys.getsizeof(one) + sum(map(sys.getsizeof, one)) for one in kept)
    assert len(kept) == WINDOW
    assert held < 110_000


def test_a_snapshot_is_plain_values() -> None:
    made, ends = play([Attempt("done", "", 1.0, 2.0, 0.5), Attempt("failed", "Stalled", 1.0, 2.0, None)])
    shown = made.snapshot(ends[-1])
    assert json.loads(json.dumps(shown)) == shown

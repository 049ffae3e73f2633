"""Token counts in neutral accounting."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.turn import (
    Turn,
    Usage,
    UsageDelta,
)
from loopforge.drivers.vendors import find_profile
from tests.drivers.openai_compatible.bodies import chunk, read_body, sse, text, usage, whole
from tests.drivers.openai_compatible.recorded import driver_for


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}, Usage(input=5, output=3)),
        ({"total_tokens": 8}, Usage()),
        ({"prompt_tokens": 5.0, "completion_tokens": True, "total_tokens": "8"}, Usage(input=5)),
        ({"prompt_tokens": -5, "completion_tokens": 10**30, "prompt_tokens_details": None}, Usage()),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 10,
             "completion_tokens_details": {"reasoning_tokens": 2}},
            Usage(input=5, output=5, reasoning=2),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
             "completion_tokens_details": {"reasoning_tokens": 9}},
            Usage(input=5, output=3, reasoning=3),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 3, "reasoning_tokens": 1}, Usage(input=5, output=3, reasoning=1)),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}},
            Usage(input=5, output=3, cache_read=5),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 1},
            Usage(input=5, output=3, cache_read=4),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 3, "cache_read_input_tokens": 2,
          "cache_creation_input_tokens": 3}, Usage(input=5, output=3, cache_read=2, cache_write=3)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cache_write_tokens": 4},
          "cost": 0.25}, Usage(input=5, output=3, cache_write=4, cost_usd=0.25)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "cost": {"total_cost": 1}},
         Usage(input=5, output=3, cost_usd=1.0)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "cost_in_usd_ticks": 20_000_000_000},
         Usage(input=5, output=3, cost_usd=2.0)),
    ],
)  # fmt: skip
def test_usage_is_counted_the_neutral_way(counts: dict[str, Any], expected: Usage) -> None:
    for body in (sse(text("x", "stop"), usage(**counts)), whole({"content": "x"}, usage=counts)):
        reply = read_body(body).reply
        assert reply is not None
        assert reply.usage == expected


def test_a_gap_in_the_total_is_reasoning_at_googles_endpoint_alone() -> None:
    body = whole({"content": "x"}, usage={"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 20})
    endpoint = "https://generativelanguage.googleapis.com/v1beta/openai"
    google = replace(driver_for(""), profile=find_profile("", endpoint))
    reader = google.new_reader(Turn(kind="coding", messages=()), {})
    reader.feed(body)
    assert UsageDelta(Usage(input=5, output=15, reasoning=12)) in reader.close()
    assert UsageDelta(Usage(input=5, output=3)) in read_body(body, "generic").deltas


def test_the_last_usage_wins_and_zeros_never_do() -> None:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    first, last = {"prompt_tokens": 5, "completion_tokens": 1}, {"prompt_tokens": 5, "completion_tokens": 2}
    in_choice = chunk({})
    in_choice["choices"][0]["usage"] = last
    for chunks in (
        [
            chunk({}, usage=zeros),
            chunk({}, usage=first),
            text("x"),
            chunk({}, "stop", usage=last),
            chunk({}, usage=zeros),
        ],
        [text("x"), chunk({}, "stop", x_groq={"id": "req", "usage": last})],
        [text("x"), chunk({}, "stop", usage=first), in_choice],
        [text("x"), chunk({}, "stop", usage=None), usage(**last)],
    ):
        reply = read_body(sse(*chunks)).reply
        assert reply is not None
        assert reply.usage == Usage(input=5, output=2)


@pytest.mark.parametrize("said", ["", "x"])
def test_the_count_beside_an_error_is_known_and_no_delta_says_it(said: str) -> None:
    """A delta would be the beginning of an answer, where an error is all that came."""
    before = [text(said)] if said else []
    for counts, known in (({"prompt_tokens": 5, "completion_tokens": 1}, Usage(input=5, output=1)), ({}, None)):
        failure = {"error": {"code": 502, "message": "upstream broke"}, "choices": [], "usage": counts}
        outcome = read_body(sse(*before, failure))
        assert (outcome.error_class, outcome.known_usage) == ("ProviderUnavailable", known)
        assert not any(isinstance(delta, UsageDelta) for delta in outcome.deltas)
    whole_failure = json.dumps({"error": {"code": 502, "message": "no"}, "usage": {"prompt_tokens": 5}}).encode()
    assert read_body(whole_failure).known_usage == Usage(input=5)

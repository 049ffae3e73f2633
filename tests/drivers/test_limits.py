"""What headers say about waiting, limits and request ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.limits import parse_duration, parse_moment, read_limits, request_id, reset_wait, retry_after
from loopforge.drivers.turn import Limits

NOON = {"date": "Sun, 22 Nov 2026 12:00:00 GMT"}
EPOCH = 1795348800  # the same in unix seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("7", 7.0), ("7.66", 7.66), (" 12 ", 12.0), (".5", 0.5), ("1e1", 10.0), ("12ms", 0.012),
        ("17m16.8s", 1036.8), ("6m0s", 360.0), ("1h2m3s", 3723.0), ("1d", 86400.0), ("250us", 0.00025),
        ("3µs", 3e-6), ("1m", 60.0), ("", None), ("soon", None), ("-1", None), ("nan", None), ("inf", None),
        ("1_000", None), ("1e999", None), ("5 s", None), ("s", None), ("1.2.3s", None), ("9" * 400, None),
        ("٣", None),
    ],
)  # fmt: skip
def test_a_duration_is_seconds_or_what_go_prints(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_a_moment_is_an_http_date() -> None:
    assert parse_moment(NOON["date"]) == EPOCH
    assert parse_moment("Sunday, 22-Nov-26 12:00:00 GMT") == EPOCH
    assert parse_moment("Sun Nov 22 12:00:00 2026") == EPOCH
    assert parse_moment("yesterday") is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "0", "retry-after": "9"}, 0.0),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "2m"}, 120.0),
        ({**NOON, "retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({**NOON, "retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, None),
        ({"date": "???", "retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        pytest.param(
            {"x-ratelimit-limit-requests": "5000", "x-ratelimit-remaining-requests": "4999",
             "x-ratelimit-reset-requests": "12ms", "x-ratelimit-limit-tokens": "800000",
             "x-ratelimit-remaining-tokens": "799990", "x-ratelimit-reset-tokens": "6m0s"},
            Limits(requests_limit=5000, requests_remaining=4999, requests_reset_s=0.012, tokens_limit=800000,
                   tokens_remaining=799990, tokens_reset_s=360.0),
            id="OpenAI, Groq",
        ),
        pytest.param(
            {"x-ratelimit-limit-req-minute": "100", "x-ratelimit-remaining-req-minute": "98",
             "x-ratelimit-limit-tokens-minute": "75000", "x-ratelimit-remaining-tokens-minute": "74932"},
            Limits(requests_limit=100, requests_remaining=98, tokens_limit=75000, tokens_remaining=74932),
            id="Mistral",
        ),
        pytest.param(
            {"x-ratelimit-limit-requests-day": "1440000", "x-ratelimit-remaining-requests-day": "1439992",
             "x-ratelimit-reset-requests-day": "24480.03", "x-ratelimit-remaining-tokens-minute": "999220",
             "x-ratelimit-reset-tokens-minute": "2.96"},
            Limits(requests_limit=1440000, requests_remaining=1439992, requests_reset_s=24480.03,
                   tokens_remaining=999220, tokens_reset_s=2.96),
            id="Cerebras",
        ),
        pytest.param(
            {**NOON, "x-ratelimit-limit": "20", "x-ratelimit-remaining": "0",
             "x-ratelimit-reset": str(EPOCH * 1000 + 2500)},
            Limits(requests_limit=20, requests_remaining=0, requests_reset_s=2.5),
            id="OpenRouter",
        ),
        pytest.param(
            {**NOON, "x-ratelimit-reset": str(EPOCH + 4)}, Limits(requests_reset_s=4.0), id="a moment in seconds"
        ),
        pytest.param({"x-ratelimit-reset": str(EPOCH + 4)}, None, id="a moment without a now"),
        pytest.param(
            {"x-ratelimit-limit": "10", "x-ratelimit-reset": "2"},
            Limits(requests_limit=10, requests_reset_s=2.0),
            id="Together",
        ),
        pytest.param({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-limit-tokens": "lots"}, None, id="nonsense"),
        pytest.param({"x-request-id": "1"}, None, id="none"),
    ],
)  # fmt: skip
def test_limits_are_read_in_every_vendors_form(headers: dict[str, str], limits: Limits | None) -> None:
    assert read_limits(headers) == limits


def test_the_wait_is_that_of_the_limit_that_is_used_up_else_the_longest() -> None:
    both = {"x-ratelimit-reset-requests": "3s", "x-ratelimit-reset-tokens": "9s"}
    assert reset_wait({**both, "x-ratelimit-remaining-requests": "0"}) == 3.0
    assert reset_wait(both) == 9.0
    assert reset_wait({"x-ratelimit-remaining-requests": "0"}) is None
    assert reset_wait({}) is None


def test_the_request_id_is_found_under_its_many_names() -> None:
    assert request_id({"apim-request-id": "a", "x-request-id": "x"}) == "x"
    assert request_id({"x-generation-id": "gen-1"}) == "gen-1"
    assert request_id({"mistral-correlation-id": "m", "x-request-id": ""}) == "m"
    assert request_id({}) == ""


NAMES = [
    "retry-after",
    "retry-after-ms",
    "date",
    "x-ratelimit-reset",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining",
]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40) | st.from_regex(r"[0-9hmsun.:, A-Z+-]{0,30}")))
def test_no_header_is_too_strange_and_no_wait_is_negative(headers: dict[str, str]) -> None:
    limits = read_limits(headers)
    for wait in (retry_after(headers), reset_wait(headers), limits.requests_reset_s if limits else None):
        assert wait is None or wait >= 0

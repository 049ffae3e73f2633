"""What errors have alike on every wire; each wire's own tests hold what it makes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import (
    CredentialsRejected,
    DriverError,
    Overloaded,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    TurnRefused,
)
from loopforge.drivers.http_failures import (
    MAX_BODY,
    MAX_RAW,
    after_should_retry,
    as_text,
    build_error,
    not_an_answer,
    quota_reset_at,
    read_body,
    status_in,
    what_happened,
)

KEY = "sk-4f9a2c7d8e"
DATE = "Wed, 21 Oct 2026 07:27:00 GMT"
ANSWERED = datetime(2026, 10, 21, 7, 27, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b' {"error": {"code": 1}}\n', {"error": {"code": 1}}),
        (b"<html><title> Bad gateway </title><p>x</p></html>", "Bad gateway"),
        (b" upstream failed \n", "upstream failed"),
        (b"\xff{", "\ufffd{"),
        (b"", ""),
    ],
)
def test_a_body_is_read_as_json_or_as_what_it_says(body: bytes, read: object) -> None:
    assert read_body(body) == read


def test_no_more_of_a_body_is_read_than_can_say_something() -> None:
    assert read_body(b"x" * MAX_BODY + b"y") == "x" * MAX_BODY


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_member_is_text_that_says_something_or_nothing(value: object) -> None:
    assert as_text(value) == as_text(value).strip()
    assert as_text({"a": value}) == json.dumps({"a": value})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a ", "a"),
        (1302, "1302"),
        (0, "0"),
        (2.5, "2.5"),
        (10**18, ""),
        (-(10**30), ""),
        (True, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_what_says_nothing_is_no_text(value: object, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": 429}, 429),
        ({"status": "503"}, 503),
        ({"code": "1302"}, None),
        ({"code": 200}, None),
        ({"code": 600}, None),
        ({"code": "\uff14\uff10\uff10"}, None),
        ({"code": 400, "status": 500}, 500),
        ({"other": 400}, None),
    ],
)
def test_a_status_is_one_only_where_it_can_be_one(body: dict[str, object], status: int | None) -> None:
    assert status_in((body,), ("status", "code")) == status


def test_the_innermost_status_counts() -> None:
    assert status_in(({"code": 404}, {"status": 500, "code": 500}), ("status", "code")) == 404


@pytest.mark.parametrize(
    ("said", "cls", "heard"),
    [
        ("false", RateLimited, QuotaExhausted),
        ("False", Overloaded, TurnRefused),
        ("false", ProviderUnavailable, TurnRefused),
        ("false", CredentialsRejected, CredentialsRejected),
        ("true", TurnRefused, ProviderUnavailable),
        ("true", RateLimited, RateLimited),
        ("", TurnRefused, TurnRefused),
        ("true", None, None),
    ],
)
def test_a_server_that_says_whether_to_retry_is_heard(
    said: str, cls: type[DriverError] | None, heard: type[DriverError] | None
) -> None:
    assert after_should_retry(cls, {"x-should-retry": said}) is heard


def test_a_redirect_is_told_with_where_it_leads() -> None:
    error = not_an_answer("acme", "m", 302, {"location": f"https://x.example/?key={KEY}"}, "moved")
    assert "302, a redirect to" in error.what
    assert "x.example" in error.what
    assert KEY not in f"{error} {error.to_fields()}"
    assert "redirect" not in not_an_answer("acme", "m", 204, {}, "").what


@pytest.mark.parametrize(
    ("cls", "status", "text", "what"),
    [
        (RateLimited, 429, "slow down.", "rate limit reached (HTTP 429): slow down"),
        (TurnRefused, 400, "", "HTTP 400"),
        (ProviderUnavailable, None, "oops", "the provider failed: oops"),
    ],
)
def test_what_happened_is_the_class_the_status_and_the_providers_words(
    cls: type[DriverError], status: int | None, text: str, what: str
) -> None:
    assert what_happened(cls, status, text) == what


def test_a_quota_is_whole_again_when_the_text_says_else_so_long_after_the_answer() -> None:
    china = timezone(timedelta(hours=8))
    text, headers = "whole again at 2026-10-22 00:00:00", {"date": DATE}
    assert quota_reset_at(text, headers, 9, zone=china) == datetime(2026, 10, 22, tzinfo=china).timestamp()
    assert quota_reset_at("later", headers, 9, zone=UTC) == ANSWERED + 9
    assert quota_reset_at("later", {}, 9, zone=UTC) is None
    assert quota_reset_at("later", headers, None, zone=UTC) is None


@pytest.mark.parametrize(
    ("cls", "wait", "reset_at"),
    [(RateLimited, 3, None), (QuotaExhausted, 3, 7), (Overloaded, 3, None), (TurnRefused, None, None)],
)
def test_a_wait_is_kept_where_waiting_helps(cls: type[DriverError], wait: float | None, reset_at: float | None) -> None:
    error = build_error(
        cls, provider="acme", model="m", what="x", status=400, raw="r", headers={}, wait_s=3, reset_at=7
    )
    assert (type(error), error.retry_after_s, error.reset_at) == (cls, wait, reset_at)


def test_an_error_shows_no_key_and_names_its_request() -> None:
    def build(headers: dict[str, str]) -> DriverError:
        raw = f"{KEY} {'x' * 2 * MAX_RAW}"
        return build_error(
            TurnRefused, provider="acme", model="m", what=KEY, status=400, raw=raw, headers=headers, request_id="body's"
        )

    error = build({})
    assert (error.provider, error.model, error.status, error.request_id) == ("acme", "m", 400, "body's")
    assert KEY not in f"{error!r} {error} {error.to_fields()}"
    assert len(error.raw) == MAX_RAW
    assert build({"x-request-id": "header's"}).request_id == "header's"

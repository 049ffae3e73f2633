"""What a response with another status than 200 means: by its code, wherever that stands, then by its status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import DriverError
from tests.drivers.minimax_native.asking import HI, ask, driver_for

NOON = 1_795_334_400.0  # 2026-11-22 16:00 in China


def explain(status: int, body: Any, **headers: str) -> DriverError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return driver_for().explain(ask(HI), status, headers, data)


def error(kind: str, message: str, status: int = 400) -> dict[str, Any]:
    inner = {"type": kind, "message": message, "http_code": str(status)}
    return {"type": "error", "error": inner, "request_id": "06b0"}


@pytest.mark.parametrize(
    ("cls", "status", "body", "raw"),
    [
        ("RateLimited", 429, error("rate_limit_error", "rate limit (1002)"), "1002"),
        ("QuotaExhausted", 429, error("insufficient_balance_error", "insufficient balance (1008)"), "1008"),
        ("QuotaExhausted", 500, error("api_error", "insufficient balance (1008)"), "1008"),
        ("QuotaExhausted", 429, error("rate_limit_error", "usage limit exceeded, 5-hour window (2056)"), "2056"),
        ("ContextTooLong", 400, error("bad_request_error", "context window exceeds limit (2013)"), "2013"),
        ("TurnRefused", 400, error("bad_request_error", 'invalid thinking.type: "enabled" (2013).'), "2013"),
        ("TurnRefused", 400, error("bad_request_error", "invalid params (20132)"), "20132"),
        ("ModelNotFound", 400, error("bad_request_error", "invalid params, unknown model 'x' (2013)"), "2013"),
        ("CredentialsRejected", 401, error("authorized_error", "login fail (1004)"), "1004"),
        ("CredentialsRejected", 400, error("bad_request_error", "token not match group (1004)"), "1004"),
        ("CredentialsRejected", 500, error("api_error", "invalid api key (2049)"), "2049"),
        ("ContentFiltered", 500, error("api_error", "input new_sensitive (1026)"), "1026"),
        ("PermissionDenied", 403, error("permission_error", "no permission (2044)"), "2044"),
        ("RateLimited", 400, error("bad_request_error", "rate growth limit (2045)"), "2045"),
        ("ProviderUnavailable", 400, error("bad_request_error", "unknown error (1000)"), "1000"),
        ("Overloaded", 529, error("overloaded_error", "high load (2064)"), "2064"),
        ("Overloaded", 529, error("overloaded_error", "high load"), "overloaded_error"),
        ("RateLimited", 429, {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, "1002"),
        ("CredentialsRejected", 401, {"base_resp": {"status_code": 1004, "status_msg": ""}}, "1004"),
        ("QuotaExhausted", 402, {"error": {"message": "no", "type": "x", "code": "1008"}}, "1008"),
        ("RateLimited", 429, {"error": {"message": "no", "type": None, "code": 1002}}, "1002"),
        # no code: the type, then the status, then the text
        ("RateLimited", 429, error("rate_limit_error", "slow down"), "rate_limit_error"),
        ("TurnRefused", 400, error("rate_limit_error", "slow down"), "rate_limit_error"),
        ("TurnRefused", 400, error("bad_request_error", "no"), "bad_request_error"),
        ("CredentialsRejected", 400, error("authentication_error", "no"), "authentication_error"),
        ("CredentialsRejected", 401, b"", ""),
        ("QuotaExhausted", 402, b"", ""),
        ("QuotaExhausted", 429, {"message": "insufficient balance"}, ""),
        ("PermissionDenied", 403, b"no", ""),
        ("ModelNotFound", 404, b"404 page not found", ""),
        ("TurnRefused", 404, b"this model does not support chat", ""),
        ("ProviderUnavailable", 408, b"", ""),
        ("TurnRefused", 413, b"<html><head><title>413 Request Entity Too Large</title></head></html>", ""),
        ("TurnRefused", 422, {"detail": [{"msg": "field required"}]}, ""),
        ("ContentFiltered", 400, {"error": {"message": "input new_sensitive"}}, ""),
        ("RateLimited", 429, b"", ""),
        ("ProviderUnavailable", 500, error("api_error", "internal"), "api_error"),
        ("ContextTooLong", 500, error("api_error", "prompt is too long"), "api_error"),
        ("ProviderUnavailable", 502, b"<html><title>502 Bad Gateway</title></html>", ""),
        ("Overloaded", 503, error("api_error", "busy"), "api_error"),
        ("Overloaded", 529, b"", ""),
        ("WireMismatch", 204, b"", ""),
        ("WireMismatch", 302, b"", ""),
        # a code is never a status, nor a port or a year a code
        ("TurnRefused", 400, error("bad_request_error", "upstream:1008 said no"), "bad_request_error"),
        ("RateLimited", 429, error("rate_limit_error", "since 1008 (year) wait"), "rate_limit_error"),
    ],
)  # fmt: skip
def test_an_error_is_named_by_its_code_and_then_by_its_status(cls: str, status: int, body: Any, raw: str) -> None:
    found = explain(status, body)
    assert (type(found).__name__, found.raw, found.status) == (cls, raw, status)
    assert (found.provider, found.model) == ("recorded", "MiniMax-M2.5")
    assert found.action


def test_a_key_that_is_refused_may_be_of_the_other_platform() -> None:
    for code in (1004, 2049):
        found = explain(401, error("authorized_error", f"login fail ({code})"))
        assert "international" in found.action
        assert "GroupId" in found.action
    assert "invisible" in explain(400, error("bad_request_error", "(1042)")).action


def test_the_call_is_named_by_its_header_else_by_its_body() -> None:
    body = error("rate_limit_error", "rate limit (1002)")
    assert explain(429, body, **{"trace-id": "t-1"}).request_id == "t-1"
    assert explain(429, body).request_id == "06b0"
    assert explain(429, {"id": "a", "base_resp": {"status_code": 1002}}).request_id == "a"


def test_a_wait_comes_from_the_headers_and_a_reset_from_the_text() -> None:
    limited = error("rate_limit_error", "rate limit (1002)")
    assert explain(429, limited).retry_after_s is None
    assert explain(429, limited, **{"retry-after": "2.5"}).retry_after_s == 2.5
    assert explain(429, limited, **{"retry-after": "0"}).retry_after_s == 0
    assert explain(400, error("bad_request_error", "(2013)"), **{"retry-after": "2"}).retry_after_s is None
    window = error("rate_limit_error", "usage limit exceeded, resets at 2026-11-22 16:00:00 (2056)")
    assert explain(429, window).reset_at == NOON
    dated = explain(429, error("x", "(2056)"), **{"retry-after": "60", "date": "Sun, 22 Nov 2026 08:00:00 GMT"})
    assert dated.reset_at == NOON + 60
    assert explain(429, error("x", "(2056)")).reset_at is None


@pytest.mark.parametrize("secret", ["eyJhbGciOiJSUzI1NiJ9.secret.part", "Bearer abcdef0123456789", "sk-api-secret"])
def test_a_key_that_the_error_repeats_is_not_shown(secret: str) -> None:
    for body in (error(secret, f"login fail with {secret} (1004)"), {"error": {"type": secret, "message": secret}}):
        found = explain(401, {**body, "request_id": secret})
        assert secret not in f"{found!r} {found} {found.to_fields()}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "base_resp", "status_code", "status_msg", "detail"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(100, 599), found=JSON)
def test_any_json_is_explained(status: int, found: Any) -> None:
    error_found = explain(status, found)
    assert error_found.action
    assert len(str(error_found)) < 2000


@given(status=st.integers(300, 599), body=st.binary(max_size=100))
def test_any_bytes_are_explained(status: int, body: bytes) -> None:
    assert explain(status, body).status == status

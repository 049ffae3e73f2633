"""Which error a body is. The bodies are written by hand: recordings hold few errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.anthropic.rate_limits import read_limits, reset_wait
from loopforge.drivers.errors import MAX_QUOTE, DriverError, TurnError
from loopforge.drivers.turn import user
from tests.drivers.anthropic.asking import ask, driver_for
from tests.drivers.anthropic.bodies import read_body

TURN = ask(user("hello"), model="model-1")
DATE = {"date": "Sun, 22 Nov 2026 12:00:00 GMT"}
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def body(kind: str = "", message: str = "it broke", **members: Any) -> str:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message, **members}, "request_id": "req_9"})


def code(name: str) -> dict[str, Any]:
    return {"details": {"error_code": name}}


def explained(status: int, text: str, vendor: str = "anthropic", headers: dict[str, str] | None = None) -> DriverError:
    return driver_for(vendor).explain(TURN, status, headers or {}, text.encode("utf-8", "surrogateescape"))


INVALID = "invalid_request_error"
# class, status, body
OWN: list[tuple[str, int, str]] = [
    ("TurnRefused", 400, body(INVALID, "messages.0: Input does not match the expected shape.")),
    ("TurnRefused", 400, body(INVALID, "temperature: range: 0..1")),
    ("TurnRefused", 400, body(INVALID, "This model does not support effort level 'max'.")),
    ("TurnRefused", 400, body(INVALID, "image too large", **code("image_dimensions_too_large"))),
    ("ContextTooLong", 400, body(INVALID, "prompt is too long: 212000 tokens > 200000 maximum")),
    ("ContextTooLong", 400, body(INVALID, "input length and `max_tokens` exceed context limit: 1 + 2 > 3")),
    ("QuotaExhausted", 400, body(INVALID, "Your credit balance is too low to access the Anthropic API.")),
    ("QuotaExhausted", 400, body(INVALID, "You have reached your specified API usage limits.")),
    ("ContentFiltered", 400, body(INVALID, "Output blocked by content filtering policy")),
    ("CredentialsRejected", 401, body("authentication_error", "invalid x-api-key")),
    ("QuotaExhausted", 402, body("billing_error", "Payment required")),
    ("PermissionDenied", 403, body("permission_error", "Your API key does not have permission.")),
    ("PermissionDenied", 403, body("permission_error", "x", **code("organization_on_hold"))),
    ("ModelNotFound", 403, body("permission_error", "You do not have access to this model.")),
    ("TurnRefused", 403, body("permission_error", "Not available in your country.")),
    ("ContentFiltered", 403, body("permission_error", "This violates our usage policy.")),
    ("ModelNotFound", 404, body("not_found_error", "model: claude-x")),
    ("ProviderUnavailable", 408, body("timeout_error", "x")),
    ("ProviderUnavailable", 408, ""),
    ("RateLimited", 408, body("rate_limit_error", "x")),
    ("TurnRefused", 409, body("rate_limit_error", "x")),
    ("TurnRefused", 409, body("conflict_error", "x")),
    ("TurnRefused", 413, body("request_too_large", "Request exceeds the maximum size")),
    ("TurnRefused", 413, "<html><head><title>413 Request Entity Too Large</title></head></html>"),
    ("RateLimited", 429, body("rate_limit_error", "This would exceed your rate limit.")),
    ("RateLimited", 429, body("rate_limit_error", "x", **code("ramp_limit_exceeded"))),
    ("QuotaExhausted", 429, body("rate_limit_error", "x", **code("enforced_spend_limit_reached"))),
    ("QuotaExhausted", 429, body("rate_limit_error", "x", **code("contract_spend_limit_reached"))),
    ("QuotaExhausted", 429, body("rate_limit_error", "Extra usage is required for long context requests.")),
    ("ProviderUnavailable", 400, body(INVALID, "x", **code("cmek_key_unreachable"))),
    ("ProviderUnavailable", 500, body("api_error", "Internal server error")),
    ("ProviderUnavailable", 502, "<html><title>502 Bad Gateway</title></html>"),
    ("Overloaded", 503, body("timeout_error", "x")),
    ("ProviderUnavailable", 504, body("timeout_error", "x")),
    ("Overloaded", 529, body("overloaded_error", "Overloaded")),
    ("Overloaded", 529, ""),
    ("Overloaded", 498, ""),
    ("Overloaded", 500, body("overloaded_error", "Overloaded")),
    ("TurnRefused", 400, body("overloaded_error", "?")),
    ("TurnRefused", 418, ""),
]  # fmt: skip
# class, status, body, vendor
GATEWAYS: list[tuple[str, int, str, str]] = [
    ("ModelNotFound", 404, "<html><title>404 Not Found</title></html>", "generic"),
    ("TurnRefused", 404, body("not_found_error", "this endpoint does not support tools"), "generic"),
    ("QuotaExhausted", 429, body("1113", "Insufficient balance or no resource package."), "glm"),
    ("RateLimited", 429, body("1302", "High concurrency usage of this API"), "glm"),
    ("QuotaExhausted", 429, body("1308", "Usage limit reached for 5 hour."), "glm"),
    ("PermissionDenied", 403, body("1112", "account locked"), "glm"),
    ("QuotaExhausted", 429, body("rate_limit_error", "usage limit exceeded, 5-hour limit (2056)"), "minimax"),
    ("QuotaExhausted", 429, body("insufficient_balance_error", "insufficient balance (1008)"), "minimax"),
    ("TurnRefused", 400, body("bad_request_error", "invalid params (2013)"), "minimax"),
    ("TurnRefused", 400, body("bad_request_error", "invalid params (20132)"), "minimax"),
    ("ModelNotFound", 400, body("bad_request_error", "invalid params, unknown model 'm' (2013)"), "minimax"),
    ("RateLimited", 400, body("bad_request_error", "rate growth limit (2045)"), "minimax"),
    ("PermissionDenied", 403, body("permission_error", "no permission (2044)"), "minimax"),
    ("ContextTooLong", 400, body("bad_request_error", "context window exceeds limit (2013)"), "minimax"),
    ("ContentFiltered", 500, body("api_error", "input new_sensitive (1026)"), "minimax"),
    ("CredentialsRejected", 401, body("authorized_error", "login fail (1004)"), "minimax"),
    ("RateLimited", 429, '{"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}', "minimax"),
    ("ModelNotFound", 400, '{"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}', "deepseek"),
    ("QuotaExhausted", 402, '{"error": {"message": "Insufficient Balance"}}', "deepseek"),
    ("QuotaExhausted", 400, '{"error": {"message": "x", "code": "insufficient_quota"}}', "generic"),
    ("CredentialsRejected", 403, '{"error": {"message": "Invalid API key"}}', "generic"),
    ("QuotaExhausted", 403, '{"error": {"message": "Insufficient balance"}}', "generic"),
    ("ContextTooLong", 500, '{"error": {"message": "the request exceeds the available context size"}}', "llamacpp"),
    ("ContextTooLong", 400, '{"error": {"type": "exceed_context_size_error", "message": "x"}}', "llamacpp"),
    ("TurnRefused", 422, '{"detail": [{"loc": ["body", "model"], "msg": "field required"}]}', "vllm"),
    ("ModelNotFound", 404, '{"detail": "model not found"}', "vllm"),
    ("TurnRefused", 400, "not json \udcff", "generic"),
]  # fmt: skip
CASES = [*((cls, status, text, "anthropic") for cls, status, text in OWN), *GATEWAYS]


@pytest.mark.parametrize(("cls", "status", "text", "vendor"), CASES)
def test_an_error_body_becomes_the_class_that_says_what_to_do(cls: str, status: int, text: str, vendor: str) -> None:
    error = explained(status, text, vendor)
    assert type(error).__name__ == cls, error
    assert (error.provider, error.model, error.status) == ("recorded", "model-1", status)
    assert str(error).startswith("recorded: ")
    assert str(error).endswith(error.action)
    assert len(str(error)) < MAX_QUOTE + 400
    assert "\n" not in str(error)
    again = TurnError.from_fields(error.to_fields())
    assert (type(again), str(again), again.to_fields()) == (type(error), str(error), error.to_fields())


def test_every_class_that_a_status_can_mean_is_tried() -> None:
    assert {cls for cls, _, _, _ in CASES} == {
        "TurnRefused", "ContextTooLong", "QuotaExhausted", "ContentFiltered", "CredentialsRejected", "PermissionDenied",
        "ModelNotFound", "ProviderUnavailable", "RateLimited", "Overloaded",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind", "should_retry", "cls"),
    [
        (429, "rate_limit_error", "false", "QuotaExhausted"),
        (529, "overloaded_error", "false", "TurnRefused"),
        (500, "api_error", "false", "TurnRefused"),
        (409, "conflict_error", "true", "ProviderUnavailable"),
        (400, INVALID, "true", "ProviderUnavailable"),
        (401, "authentication_error", "true", "CredentialsRejected"),
        (429, "rate_limit_error", "true", "RateLimited"),
        (500, "api_error", "True", "ProviderUnavailable"),
    ],
)
def test_the_provider_may_say_whether_to_send_again(status: int, kind: str, should_retry: str, cls: str) -> None:
    assert type(explained(status, body(kind), headers={"x-should-retry": should_retry})).__name__ == cls


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"retry-after": "12"}, 12.0),
        (429, {"retry-after": "0"}, 0.0),
        (429, {"retry-after": "12", "retry-after-ms": "250"}, 0.25),
        (529, {"retry-after": "3"}, 3.0),
        (500, {"retry-after": "3"}, 3.0),
        (400, {"retry-after": "3"}, None),
        (
            429,
            {**DATE, "anthropic-ratelimit-requests-remaining": "0",
             "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:07Z"},
            7.0,
        ),
        (429, {}, None),
    ],
)  # fmt: skip
def test_the_wait_is_the_providers_own(status: int, headers: dict[str, str], wait: float | None) -> None:
    assert explained(status, body("x"), headers=headers).retry_after_s == wait


@pytest.mark.parametrize(
    ("vendor", "text", "headers", "reset_at"),
    [
        (
            "anthropic",
            "You have reached your specified API usage limits. You will regain access on 2026-11-22 at 12:00 UTC.",
            {}, NOON,
        ),
        ("minimax", "usage limit exceeded, resets at 2026-11-22T12:00:00Z (2056)", {}, NOON),
        ("glm", "Your limit will reset at 2026-11-22 20:00:00", {}, NOON),
        ("anthropic", "Your credit balance is too low", {**DATE, "retry-after": "60"}, NOON + 60),
        ("anthropic", "Your credit balance is too low", {}, None),
    ],
)  # fmt: skip
def test_a_quota_says_when_it_is_whole_again(
    vendor: str, text: str, headers: dict[str, str], reset_at: float | None
) -> None:
    kind = "1308" if vendor == "glm" else INVALID
    error = explained(400, body(kind, text), vendor, headers)
    assert (type(error).__name__, error.reset_at) == ("QuotaExhausted", reset_at)


def test_an_error_names_its_code_and_its_request() -> None:
    error = explained(429, body("rate_limit_error", "x", **code("ramp_limit_exceeded")))
    assert (error.raw, error.request_id) == ("ramp_limit_exceeded", "req_9")
    assert explained(500, body("api_error")).raw == "api_error"
    assert explained(500, body("api_error"), headers={"request-id": "req_1"}).request_id == "req_1"
    assert explained(429, body("1302"), "glm").raw == "1302"


def test_an_account_on_hold_is_true_of_every_model() -> None:
    held = explained(403, body("permission_error", **code("organization_on_hold")))
    assert (type(held).__name__, held.scope) == ("PermissionDenied", "provider")
    assert explained(403, body("1112", "locked"), "glm").scope == "provider"
    assert explained(403, body("permission_error")).scope == "model"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("messages.1.content.0: Invalid `signature` in `thinking` block", "leave the thinking parts"),
        ("Expected `thinking` or `redacted_thinking`, but found `tool_use`.", "leave the thinking parts"),
        ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", "lower max_output_tokens"),
        ("tools.0.custom.name: String should match pattern", "change the turn"),
    ],
)
def test_the_action_is_the_one_that_helps(text: str, says: str) -> None:
    assert says in explained(400, body(INVALID, text)).action


def test_a_model_that_is_not_found_may_be_a_wrong_address() -> None:
    assert "base_url" in explained(404, body("not_found_error", "model: x")).action
    assert "base_url" not in explained(400, body(INVALID, "unknown model x")).action
    assert "max_output_tokens" not in explained(400, body(INVALID, "prompt is too long: 2 tokens > 1 maximum")).action


def test_a_quoted_key_is_shown_nowhere() -> None:
    error = explained(401, body("authentication_error", "the key sk-ant-api03-SECRET is wrong"))
    assert "SECRET" not in f"{error} {error.to_fields()}"
    assert "[key removed]" in str(error)


@pytest.mark.parametrize(
    ("status", "says"), [(204, "answered 204"), (307, "a redirect to https://b.example"), (101, "101")]
)
def test_a_status_that_is_no_error_is_no_answer_of_this_wire(status: int, says: str) -> None:
    error = explained(status, "hello", headers={"location": "https://b.example"})
    assert type(error).__name__ == "WireMismatch"
    assert says in str(error)


# -- limit headers ----------------------------------------------------------------------------------------------------


def test_the_tightest_window_of_tokens_counts() -> None:
    def headers(**left: int) -> dict[str, str]:
        names = {"tokens": "tokens", "fresh": "input-tokens", "out": "output-tokens"}
        found = dict(DATE)
        for name, remaining in left.items():
            window = f"anthropic-ratelimit-{names[name]}"
            reset = f"2026-11-22T12:00:{remaining:02}Z"
            found |= {f"{window}-limit": "50", f"{window}-remaining": str(remaining), f"{window}-reset": reset}
        return found

    for left, tightest in (({"tokens": 9, "fresh": 5, "out": 7}, 5), ({"tokens": 9, "out": 3}, 3), ({"fresh": 4}, 4)):
        limits = read_limits(headers(**left))
        assert limits is not None
        assert (limits.tokens_limit, limits.tokens_remaining, limits.tokens_reset_s) == (50, tightest, tightest)
    assert reset_wait(headers(tokens=9, out=0)) == 0.0
    assert reset_wait(headers(tokens=9)) == 9.0


def test_gateways_limits_are_read_in_their_own_form_and_no_limits_are_none() -> None:
    limits = read_limits({"x-ratelimit-remaining-requests": "5"})
    assert limits is not None
    assert limits.requests_remaining == 5
    assert read_limits({}) is None
    assert reset_wait({}) is None
    assert read_limits({"anthropic-ratelimit-tokens-reset": "2026-11-22T12:00:00Z"}) is None  # without a date: when?


# -- anything ---------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "error", "message", "code", "details", "error_code", "base_resp", "status_code", "detail"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(100, 599), found=JSON, vendor=st.sampled_from(["anthropic", "glm", "minimax", "generic"]))
def test_json_of_any_shape_is_explained(status: int, found: object, vendor: str) -> None:
    assert explained(status, json.dumps(found), vendor).status == status
    inside = read_body(json.dumps(found).encode(), vendor)
    assert inside.error or inside.reply


HEADERS = st.dictionaries(
    st.sampled_from([
        "retry-after", "retry-after-ms", "date", "anthropic-ratelimit-requests-reset", "x-should-retry",
        "anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining",
    ]),
    st.text(max_size=30) | st.sampled_from(["2026-11-22T12:00:00Z", "0", "1e400", "Sun, 22 Nov 2026 12:00:00 GMT"]),
)  # fmt: skip


@given(status=st.integers(100, 599), found=st.binary(max_size=300), headers=HEADERS)
def test_bytes_and_headers_of_any_kind_are_explained(status: int, found: bytes, headers: dict[str, str]) -> None:
    error = driver_for().explain(TURN, status, headers, found)
    assert isinstance(error, DriverError)
    assert error.retry_after_s is None or error.retry_after_s >= 0

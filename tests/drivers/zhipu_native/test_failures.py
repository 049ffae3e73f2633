"""Which error a body of this wire is: by its code first, then by its status."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import MAX_QUOTE, DriverError
from loopforge.drivers.turn import user
from tests.drivers.zhipu_native.asking import ask, chunk, driver_for, read_body, sse, whole

TURN = ask(user("hello"))

# code, status it comes with, class
CODES = [
    ("500", 500, "ProviderUnavailable"),
    ("1200", 500, "ProviderUnavailable"),
    ("1200", 400, "TurnRefused"),
    ("1230", 500, "ProviderUnavailable"),
    ("1234", 500, "ProviderUnavailable"),
    ("1000", 401, "CredentialsRejected"),
    ("1001", 401, "CredentialsRejected"),
    ("1002", 401, "CredentialsRejected"),
    ("1003", 401, "CredentialsRejected"),
    ("1004", 401, "CredentialsRejected"),
    ("1100", 403, "PermissionDenied"),
    ("1110", 429, "PermissionDenied"),
    ("1111", 429, "PermissionDenied"),
    ("1112", 429, "PermissionDenied"),
    ("1113", 429, "QuotaExhausted"),
    ("1120", 429, "Overloaded"),
    ("1121", 429, "PermissionDenied"),
    ("1210", 400, "TurnRefused"),
    ("1211", 400, "ModelNotFound"),
    ("1212", 400, "TurnRefused"),
    ("1213", 400, "TurnRefused"),
    ("1214", 400, "TurnRefused"),
    ("1215", 400, "TurnRefused"),
    ("1220", 403, "PermissionDenied"),
    ("1221", 404, "ModelNotFound"),
    ("1222", 404, "TurnRefused"),
    ("1231", 400, "TurnRefused"),
    ("1261", 400, "ContextTooLong"),
    ("1300", 400, "ContentFiltered"),
    ("1301", 400, "ContentFiltered"),
    ("1302", 429, "RateLimited"),
    ("1303", 429, "RateLimited"),
    ("1304", 429, "QuotaExhausted"),
    ("1305", 429, "RateLimited"),
    ("1308", 429, "QuotaExhausted"),
    ("1309", 429, "QuotaExhausted"),
    ("1310", 429, "QuotaExhausted"),
    ("1311", 429, "ModelNotFound"),
    ("1312", 429, "Overloaded"),
    ("1313", 429, "RateLimited"),
]

# status, body, class
OTHERS: list[tuple[int, str, str]] = [
    (400, '{"error":{"code":"9999","message":"Something new"}}', "TurnRefused"),
    (400, '{"error":{"code":"9999","message":"Prompt exceeds max length"}}', "ContextTooLong"),
    (400, '{"error":{"message":"Unknown Model, please check the model code."}}', "ModelNotFound"),
    (401, '{"error":"who are you?"}', "CredentialsRejected"),
    (402, "", "QuotaExhausted"),
    (403, "", "PermissionDenied"),
    (404, '{"timestamp":"2026","status":404,"error":"Not Found","path":"/v4/chat"}', "ModelNotFound"),
    (405, "", "TurnRefused"),
    (408, "", "ProviderUnavailable"),
    (409, "", "TurnRefused"),
    (413, "<html><head><title>413 Request Entity Too Large</title></head></html>", "TurnRefused"),
    (429, "", "RateLimited"),
    (434, '{"error":{"message":"in closed beta"}}', "PermissionDenied"),
    (435, '{"error":{"message":"the file is too large"}}', "TurnRefused"),
    (500, "oops", "ProviderUnavailable"),
    (502, "<html><head><title>502 Bad Gateway</title></head></html>", "ProviderUnavailable"),
    (503, "", "Overloaded"),
    (529, "", "Overloaded"),
    (204, "", "WireMismatch"),
    (302, "", "WireMismatch"),
]


def error_of(status: int, body: object, **headers: str) -> DriverError:
    data = body if isinstance(body, str) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return driver_for().explain(TURN, status, named, data.encode())


@pytest.mark.parametrize(("code", "status", "expected"), CODES)
@pytest.mark.parametrize("old", [False, True])
def test_a_code_says_what_to_do_whatever_status_it_comes_with(code: str, status: int, expected: str, old: bool) -> None:
    body: dict[str, Any] = {"error": {"code": code, "message": "no"}}
    if old:
        body = {"code": int(code), "msg": "no", "success": False}
    error = error_of(status, body)
    assert type(error).__name__ == expected
    assert (error.status, error.raw, error.provider, error.model) == (status, code, "recorded", "glm-4.7")
    assert str(error).startswith("recorded: ")
    assert str(error).endswith(error.action)


@pytest.mark.parametrize(("status", "body", "expected"), OTHERS)
def test_without_a_known_code_the_status_says_it(status: int, body: str, expected: str) -> None:
    error = error_of(status, body)
    assert type(error).__name__ == expected
    assert "\n" not in str(error)
    assert "<" not in str(error)


@pytest.mark.parametrize(("code", "status", "expected"), [row for row in CODES if row[:2] != ("1200", 400)])
@pytest.mark.parametrize("form", ["whole", "stream", "after text", "named event", "choice"])
def test_the_same_error_inside_a_200_is_the_same_class(code: str, status: int, expected: str, form: str) -> None:
    del status
    error = {"code": code, "message": "no"}
    text = chunk(content="so far")
    body = {
        "whole": json.dumps({"error": error}).encode(),
        "stream": sse({"error": error}),
        "after text": sse(text, {"error": error}),
        "named event": sse(text, f"event: error\ndata: {json.dumps({'error': error})}\n\n", done=False),
        "choice": sse(text, {"choices": [{"index": 0, "error": error, "delta": {}}]}),
    }[form]
    outcome = read_body(body)
    assert outcome.error is not None
    assert (outcome.error["class"], outcome.error["raw"]) == (expected, code)
    partial = outcome.partial.text if outcome.partial else ""
    assert partial == ("" if form in ("whole", "stream") else "so far")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"no code"}}', "ProviderUnavailable"),
        (b'{"success":false,"msg":"no code"}', "ProviderUnavailable"),
        (b'{"code":1302,"msg":"busy"}', "RateLimited"),
        (b'{"error":{"message":"Prompt exceeds max length"}}', "ContextTooLong"),
        (sse({"error": {"message": "no code"}}), "ProviderUnavailable"),
        (sse(chunk(content="a"), {"error": {"message": "no code"}}), "StreamBroken"),
        (sse(chunk(content="a"), {"error": "no code"}), "StreamBroken"),
        (sse(chunk(content="a"), 'event: error\ndata: {"choices": [], "message": "no code"}\n\n'), "StreamBroken"),
    ],
)
def test_an_error_without_a_code_is_judged_by_what_had_come(body: bytes, expected: str) -> None:
    outcome = read_body(body)
    assert outcome.error is not None
    assert outcome.error["class"] == expected


def test_an_error_outranks_a_finish_that_was_one_already() -> None:
    outcome = read_body(sse(chunk("network_error", content="a"), {"error": {"code": "1301", "message": "unsafe"}}))
    assert outcome.error is not None
    assert outcome.error["class"] == "ContentFiltered"


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_text_that_was_held_back_is_in_the_partial_answer(cut: int) -> None:
    body = sse(chunk(content="a"), chunk(content="<|begin_of"), {"error": {"code": "1301", "message": "unsafe"}})
    outcome = read_body(body, cut=cut)
    assert outcome.partial is not None
    assert outcome.partial.text == "a<|begin_of"


# -- fields -----------------------------------------------------------------------------------------------------------


def test_a_plans_reset_is_a_moment_in_china() -> None:
    text = "Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 15:00:00"
    error = error_of(429, {"error": {"code": "1308", "message": text}})
    assert error.reset_at == datetime.fromisoformat("2026-11-22T15:00:00+08:00").timestamp()


def test_a_quota_without_a_moment_resets_when_the_headers_say() -> None:
    body = {"error": {"code": "1304", "message": "Daily call limit reached"}}
    error = error_of(429, body, retry_after="3600", date="Sun, 22 Nov 2026 04:00:00 GMT")
    assert error.reset_at == datetime.fromisoformat("2026-11-22T05:00:00+00:00").timestamp()
    assert error_of(429, body).reset_at is None


@pytest.mark.parametrize(
    ("headers", "wait"), [({"retry_after": "0"}, 0), ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5), ({}, None)]
)
@pytest.mark.parametrize("code", ["1302", "1312", "1234"])
def test_what_passes_says_how_long_to_wait(code: str, headers: dict[str, str], wait: float | None) -> None:
    assert error_of(500, {"error": {"code": code, "message": "no"}}, **headers).retry_after_s == wait


def test_what_does_not_pass_names_no_wait() -> None:
    assert error_of(400, {"error": {"code": "1214", "message": "no"}}, retry_after="3").retry_after_s is None


@pytest.mark.parametrize(("code", "scope"), [("1112", "provider"), ("1121", "provider"), ("1220", "model")])
def test_what_is_true_of_the_account_says_so(code: str, scope: str) -> None:
    assert error_of(429, {"error": {"code": code, "message": "no"}}).scope == scope


def test_a_reused_id_asks_for_another() -> None:
    assert "another request_id" in error_of(400, {"error": {"code": "1231", "message": "no"}}).action


def test_a_key_in_the_text_is_not_shown() -> None:
    key = f"{'0123456789abcdef' * 2}.s3cr3tS3cr3tS3cr"
    token = "eyJhbGciOiJIUzI1NiJ9.eyJhcGlfa2V5IjoiYSJ9.c2lnbmF0dXJl"
    error = error_of(401, {"error": {"code": "1002", "message": f"Invalid token {token} of {key}"}})
    for secret in (key, token, "s3cr3t"):
        assert secret not in f"{error} {error.to_fields()}"


def test_the_platforms_id_of_the_call_is_kept() -> None:
    assert error_of(500, {"error": {"code": "500"}}, x_log_id="2026-x").request_id == "2026-x"


def test_a_long_text_is_quoted_in_part() -> None:
    assert len(str(error_of(400, {"error": {"code": "1210", "message": "x" * 10_000}}))) < MAX_QUOTE + 400


# -- bodies of any kind -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "message", "msg", "code", "status", "success", "detail"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@given(status=st.integers(100, 599), body=JSON)
def test_json_of_any_shape_is_explained(status: int, body: object) -> None:
    assert error_of(status, body).status == status
    assert read_body(json.dumps(body).encode()).error


@given(status=st.integers(100, 599), body=st.binary(max_size=300), wait=st.text(max_size=20))
def test_bytes_and_headers_of_any_kind_are_explained(status: int, body: bytes, wait: str) -> None:
    error = driver_for().explain(TURN, status, {"retry-after": wait}, body)
    assert isinstance(error, DriverError)
    assert error.retry_after_s is None or error.retry_after_s >= 0


def test_an_answer_is_no_error_for_what_it_carries_beside() -> None:
    answer = {**whole(content="hello"), "code": 200, "msg": "ok", "success": True}
    assert read_body(answer).reply is not None

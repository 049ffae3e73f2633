"""Error bodies become the class that says what to do next: by code, by status, by text, wherever they come."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from loopforge.drivers.errors import DriverError
from loopforge.drivers.turn import user
from tests.drivers.dashscope_native.asking import (
    BASE_URL,
    MODEL,
    Json,
    ask,
    body,
    driver_for,
    error_frame,
    message,
    read_body,
    sse,
)


def explain(status: int, said: Json | str, model: str = MODEL, **headers: str) -> DriverError:
    data = said if isinstance(said, str) else json.dumps(said)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return driver_for().explain(ask(user("hello"), model=model), status, named, data.encode())


def class_of(status: int, code: str, text: str = "Something is wrong.") -> str:
    return type(explain(status, {"code": code, "message": text, "request_id": "r"})).__name__


CODES = [
    (400, "InvalidParameter", "TurnRefused"),
    (400, "BadRequest.EmptyInput", "TurnRefused"),
    (400, "InvalidURL", "TurnRefused"),
    (400, "InternalError.Algo.InvalidParameter", "TurnRefused"),
    (500, "InternalError.Algo.InvalidParameter", "TurnRefused"),
    (400, "UnsupportedOperation", "TurnRefused"),
    (400, "DataInspectionFailed", "ContentFiltered"),
    (400, "data.InvalidParameter.DataInspection", "ContentFiltered"),
    (400, "InvalidParameter.DataInspection", "ContentFiltered"),
    (400, "InternalError.Algo.DataInspectionFailed", "ContentFiltered"),
    (400, "Arrearage", "QuotaExhausted"),
    (401, "InvalidApiKey", "CredentialsRejected"),
    (403, "AccessDenied", "PermissionDenied"),
    (403, "AccessDenied.Unpurchased", "PermissionDenied"),
    (403, "Model.AccessDenied", "ModelNotFound"),
    (403, "Workspace.AccessDenied", "PermissionDenied"),
    (403, "AllocationQuota.FreeTierOnly", "QuotaExhausted"),
    (404, "ModelNotFound", "ModelNotFound"),
    (404, "WorkSpaceNotFound", "PermissionDenied"),
    (413, "BadRequest.TooLarge", "TurnRefused"),
    (429, "Throttling", "RateLimited"),
    (429, "Throttling.RateQuota", "RateLimited"),
    (429, "Throttling.BurstRate", "RateLimited"),
    (429, "Throttling.AllocationQuota", "RateLimited"),
    (429, "Throttling.Something.New", "RateLimited"),
    (400, "Throttling.Something.New", "RateLimited"),
    (400, "InternalError.Algo.Something.New", "ProviderUnavailable"),
    (429, "LimitRequests", "RateLimited"),
    (429, "CommodityNotPurchased", "QuotaExhausted"),
    (429, "PrepaidBillOverdue", "QuotaExhausted"),
    (429, "PostpaidBillOverdue", "QuotaExhausted"),
    (408, "RequestTimeOut", "ProviderUnavailable"),
    (500, "RequestTimeOut", "ProviderUnavailable"),
    (500, "InternalError.Timeout", "ProviderUnavailable"),
    (500, "InternalError", "ProviderUnavailable"),
    (500, "InternalError.Algo", "ProviderUnavailable"),
    (500, "SystemError", "ProviderUnavailable"),
    (500, "ModelServiceFailed", "ProviderUnavailable"),
    (500, "InvokePluginFailed", "ProviderUnavailable"),
    (500, "ModelServingError", "Overloaded"),
    (503, "ModelUnavailable", "Overloaded"),
    (500, "ModelUnavailable", "Overloaded"),
]
BY_STATUS = [
    (400, "TurnRefused"), (401, "CredentialsRejected"), (402, "QuotaExhausted"), (403, "PermissionDenied"),
    (404, "ModelNotFound"), (405, "TurnRefused"), (408, "ProviderUnavailable"), (409, "TurnRefused"),
    (413, "TurnRefused"), (415, "TurnRefused"), (422, "TurnRefused"), (429, "RateLimited"),
    (500, "ProviderUnavailable"), (502, "ProviderUnavailable"), (503, "Overloaded"), (504, "ProviderUnavailable"),
    (529, "Overloaded"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "expected"), CODES)
def test_a_code_says_what_to_do_next_and_says_the_same_inside_a_stream(status: int, code: str, expected: str) -> None:
    assert class_of(status, code) == expected
    inside = read_body(sse(error_frame(code, status=status)))
    assert inside.error is not None
    assert inside.error["class"] == expected
    assert (inside.error["status"], inside.error["raw"], inside.error["scope"]) == (
        status, code, explain(status, {"code": code}).scope,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "expected"), BY_STATUS)
def test_a_code_that_is_not_known_leaves_it_to_the_status(status: int, expected: str) -> None:
    assert class_of(status, "SomethingNew") == expected
    inside = read_body(sse(error_frame("SomethingNew", status=status)))
    assert inside.error is not None
    assert inside.error["class"] == expected


@pytest.mark.parametrize(
    ("status", "code", "text", "expected"),
    [
        (400, "InvalidParameter", "Range of input length should be [1, 129024]", "ContextTooLong"),
        (400, "InvalidParameter", "<400> Error: Range of input length should be [1, 6000]", "ContextTooLong"),
        (500, "InternalError.Algo", "Input token length exceeds the limit", "ContextTooLong"),
        (400, "InvalidParameter", "Range of max_tokens should be [1, 8192]", "TurnRefused"),
        (400, "InvalidParameter", "Model not exist.", "ModelNotFound"),
        (400, "InvalidParameter", "The model `x` does not exist or you do not have access to it.", "ModelNotFound"),
        (400, "InvalidParameter", "The model does not support tools.", "TurnRefused"),
        (400, "InvalidParameter", "Input data may contain inappropriate content.", "ContentFiltered"),
        (403, "AccessDenied", "Access denied, please make sure your account is in good standing.", "QuotaExhausted"),
        (403, "AccessDenied", "The service is not available in your region.", "TurnRefused"),
        (403, "SomethingNew", "You have no access to this model.", "ModelNotFound"),
        (403, "AccessDenied", "You have no access to this model.", "ModelNotFound"),
        (403, "Workspace.AccessDenied", "The workspace has no access to this model.", "PermissionDenied"),
        (403, "SomethingNew", "The access token is invalid or expired.", "CredentialsRejected"),
        (429, "SomethingNew", "The account is overdue.", "QuotaExhausted"),
        (404, "SomethingNew", "This model does not support it.", "TurnRefused"),
        (400, "SomethingNew", "Invalid API-key provided.", "CredentialsRejected"),
    ],
)  # fmt: skip
def test_a_text_tells_where_a_code_stands_for_several_things(status: int, code: str, text: str, expected: str) -> None:
    assert class_of(status, code, text) == expected


def test_the_wrong_path_is_refused_with_the_right_one() -> None:
    said = {"code": "InvalidParameter", "message": "url error, please check url!"}
    assert "/multimodal-generation/generation" in explain(400, said).action
    assert "/text-generation/generation" in explain(400, said, model="qwen3-vl-plus").action
    inside = read_body(sse(error_frame("InvalidParameter", "url error, please check url")))
    assert inside.error is not None
    assert inside.error["class"] == "TurnRefused"
    assert BASE_URL not in inside.error["action"]


def test_actions_tell_more_than_the_class_where_the_wire_does() -> None:
    assert "region" in explain(401, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}).action
    assert "region" in explain(404, {"code": "ModelNotFound", "message": "Model can not be found"}).action
    stream = {"code": "InvalidParameter", "message": "This model only support stream mode, please enable the stream."}
    assert explain(400, stream).action == "ask for a stream"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [({"retry_after": "3"}, 3.0), ({"retry_after_ms": "250"}, 0.25), ({"retry_after": "0"}, 0.0), ({}, None)],
)
def test_the_time_to_wait_is_read_from_headers(headers: Json, wait: float | None) -> None:
    assert explain(429, {"code": "Throttling", "message": "Slow down."}, **headers).retry_after_s == wait
    assert explain(400, {"code": "InvalidParameter", "message": "No."}, **headers).retry_after_s is None


@pytest.mark.parametrize(
    ("status", "should", "expected"),
    [
        (429, "false", "QuotaExhausted"),
        (500, "false", "TurnRefused"),
        (503, "false", "TurnRefused"),
        (400, "true", "ProviderUnavailable"),
    ],
)
def test_the_service_may_say_whether_to_send_again(status: int, should: str, expected: str) -> None:
    error = explain(status, {"code": "SomethingNew", "message": "?"}, x_should_retry=should)
    assert type(error).__name__ == expected


def test_a_quota_names_its_reset_in_chinas_time_or_by_the_headers() -> None:
    said = {"code": "Arrearage", "message": "The quota resets at 2026-11-23 00:00:00."}
    assert explain(400, said).reset_at == datetime(2026, 11, 22, 16, tzinfo=UTC).timestamp()
    date = {"date": "Sun, 22 Nov 2026 00:00:00 GMT", "retry_after": "60"}
    after = explain(429, {"code": "PrepaidBillOverdue", "message": "?"}, **date).reset_at
    assert after == datetime(2026, 11, 22, 0, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        ("Workspace.AccessDenied", "provider"),
        ("WorkSpaceNotFound", "provider"),
        ("AccessDenied.Unpurchased", "model"),
        ("AllocationQuota.FreeTierOnly", "model"),
        ("Arrearage", "provider"),
        ("Model.AccessDenied", "model"),
    ],
)
def test_an_error_says_something_about_the_provider_or_the_model_alone(code: str, scope: str) -> None:
    assert explain(403, {"code": code, "message": "?"}).scope == scope


def test_a_page_of_a_proxy_is_named_by_its_title_and_its_status() -> None:
    error = explain(502, "<html><head><title>502 Bad Gateway</title></head></html>")
    assert (type(error).__name__, error.status) == ("ProviderUnavailable", 502)
    assert "502 Bad Gateway" in error.what
    assert "<html>" not in error.what


def test_an_error_status_with_an_event_stream_is_read_as_one() -> None:
    error = explain(429, error_frame("Throttling.RateQuota", "Requests rate limit exceeded", 429))
    assert (type(error).__name__, error.raw, error.request_id) == ("RateLimited", "Throttling.RateQuota", "answer-1")


@pytest.mark.parametrize("status", [201, 302])
def test_a_status_that_is_neither_an_answer_nor_an_error_is_a_mismatch(status: int) -> None:
    error = explain(status, "hello", location="https://example.com")
    assert (type(error).__name__, error.status) == ("WireMismatch", status)
    assert ("https://example.com" in error.what) == (status == 302)


@pytest.mark.parametrize(
    ("said", "expected", "text"),
    [
        ({"error": {"code": "InvalidApiKey", "message": "No."}}, "CredentialsRejected", "No"),
        ({"error": {"message": "No.", "code": 429}}, "RateLimited", "No"),
        ({"error": "overloaded"}, "ProviderUnavailable", "overloaded"),
        ({"code": 400, "message": "No."}, "TurnRefused", "No"),
        ([{"code": "Throttling", "message": "No."}], "RateLimited", "No"),
        ({"detail": [{"msg": "No."}], "status_code": 503}, "Overloaded", "No"),
        ("[]", "ProviderUnavailable", ""),
        ({"code": {"a": 1}, "message": None}, "ProviderUnavailable", "code"),
    ],
)  # fmt: skip
def test_bodies_of_gateways_are_read_in_their_own_forms(said: Json | str, expected: str, text: str) -> None:
    status = {"CredentialsRejected": 401, "RateLimited": 429, "TurnRefused": 400, "Overloaded": 503}.get(expected, 500)
    error = explain(status, said)
    assert type(error).__name__ == expected
    assert text in error.what


def test_an_error_shows_no_key() -> None:
    error = explain(401, {"code": "InvalidApiKey", "message": "Invalid key sk-4f9a1234567890 for you."})
    assert "sk-4f9a" not in f"{error!r} {error} {error.to_fields()}"


# -- inside a 200 -----------------------------------------------------------------------------------------------------


def test_an_error_in_place_of_an_answer_with_status_200_is_an_error() -> None:
    whole = read_body(json.dumps({"code": "DataInspectionFailed", "message": "No.", "request_id": "r-7"}).encode())
    assert whole.error is not None
    assert (whole.error["class"], whole.error["request_id"]) == ("ContentFiltered", "r-7")
    frame = read_body(sse({"code": "Throttling", "message": "No.", "request_id": "r-7"}))
    assert frame.error is not None
    assert frame.error["class"] == "RateLimited"
    null = {"code": "Arrearage", "message": "No.", "output": None}
    for data in (json.dumps(null).encode(), sse(null)):
        outcome = read_body(data)
        assert outcome.error is not None
        assert outcome.error["class"] == "QuotaExhausted"


@pytest.mark.parametrize(
    ("frame", "before", "after"),
    [
        (error_frame("InternalError", status=500), "ProviderUnavailable", "ProviderUnavailable"),
        (error_frame("DataInspectionFailed"), "ContentFiltered", "ContentFiltered"),
        (error_frame("SomethingNew", status=200), "ProviderUnavailable", "StreamBroken"),
        ('event:error\ndata:{"message":"lost"}\n\n', "ProviderUnavailable", "StreamBroken"),
        (':HTTP_STATUS/429\ndata:{"message":"slow down"}\n\n', "RateLimited", "RateLimited"),
    ],
)
def test_an_error_after_the_first_words_keeps_them(frame: str, before: str, after: str) -> None:
    early = read_body(sse(frame))
    assert early.error is not None
    assert (early.error["class"], early.partial) == (before, None)
    for cut in (0, 1, 7):
        late = read_body(sse(body(message("once ")), body(message("upon")), frame), cut=cut)
        assert late.error is not None
        assert late.error["class"] == after
        assert late.partial is not None
        assert late.partial.text == "once upon"


def test_a_code_beside_an_output_is_no_error() -> None:
    whole = body(message("hi", finish="stop"), code="", message="")
    assert read_body(json.dumps(whole).encode()).reply is not None
    told = body(message("hi", finish="stop"), code="200", message="Success")
    assert read_body(json.dumps(told).encode()).reply is not None

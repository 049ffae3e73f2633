"""Which error a body is. Most bodies are written by hand: recordings hold few errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import MAX_QUOTE, DriverError, TurnError
from loopforge.drivers.registry import AwsSettings
from loopforge.drivers.turn import user
from tests.drivers.bedrock.asking import ask, driver_for

TURN = ask(user("hello"), model="anthropic.claude-x")
DATE = {"date": "Sun, 22 Nov 2026 12:00:00 GMT"}
CORAL = "http://internal.amazon.com/coral/com.amazon.bedrock/"


def explained(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, aws: AwsSettings | None = None
) -> DriverError:
    kind = {"x-amzn-errortype": f"{code}:{CORAL}"} if code else {}
    body = json.dumps({"message": message}).encode("utf-8", "surrogateescape")
    return driver_for(aws=aws).explain(TURN, status, {**kind, **(headers or {})}, body)


VALIDATION, DENIED = "ValidationException", "AccessDeniedException"
# class, status, exception, message
CASES: list[tuple[str, int, str, str]] = [
    ("RateLimited", 429, "ThrottlingException", "Too many requests, please wait before trying again."),
    ("RateLimited", 429, "ThrottlingException", "Too many tokens, please wait before trying again."),
    ("QuotaExhausted", 429, "ThrottlingException", "Too many tokens per day, please wait before trying again."),
    ("RateLimited", 429, "", "slow down"),
    ("Overloaded", 429, "ModelNotReadyException", "Model is not ready for inference."),
    ("Overloaded", 503, "ServiceUnavailableException", "Too many connections, please wait before trying again."),
    ("Overloaded", 503, "", "<html>Service Unavailable</html>"),
    ("ProviderUnavailable", 500, "InternalServerException", "unexpected error"),
    ("ProviderUnavailable", 502, "", "Bad Gateway"),
    ("ProviderUnavailable", 408, "ModelTimeoutException", "Model has timed out in processing the request."),
    ("ProviderUnavailable", 408, "", ""),
    ("ProviderUnavailable", 424, "ModelErrorException", "The model returned an error."),
    ("ProviderUnavailable", 424, "", "Failed dependency"),
    ("GenerationFailed", 424, "ModelErrorException", "Model produced invalid sequence as part of ToolUse."),
    ("QuotaExhausted", 400, "ServiceQuotaExceededException", "Your request exceeds the service quota."),
    ("TurnRefused", 400, VALIDATION, "The content field in the Message object at messages.0 is empty."),
    ("TurnRefused", 400, VALIDATION, "This model doesn't support tool use."),
    ("TurnRefused", 400, VALIDATION, "This model doesn't support the stopSequences field. Remove stopSequences."),
    ("TurnRefused", 400, VALIDATION, "Expected toolResult blocks at messages.2.content for the following Ids: a"),
    ("TurnRefused", 400, "", "no exception named"),
    ("TurnRefused", 413, "", "Request Entity Too Large"),
    ("ContextTooLong", 400, VALIDATION, "Input is too long for requested model."),
    ("ContextTooLong", 400, VALIDATION, "The model returned the following errors: prompt is too long: 2 > 1 maximum"),
    ("ContextTooLong", 400, VALIDATION, "Too many input tokens. Max input tokens: 8192, request input token count: 9"),
    ("ContextTooLong", 400, VALIDATION, "input length and `max_tokens` exceed context limit: 1 + 2 > 3"),
    ("ContextTooLong", 400, VALIDATION, "This model's maximum context length is 8192 tokens."),
    ("ModelNotFound", 400, VALIDATION, "The provided model identifier is invalid."),
    ("ModelNotFound", 400, VALIDATION, "Invocation of model ID x with on-demand throughput isn\u2019t supported."),
    ("ModelNotFound", 404, "ResourceNotFoundException", "Could not resolve the foundation model from x"),
    ("ModelNotFound", 404, "ResourceNotFoundException", "This model version has reached the end of its life."),
    ("ModelNotFound", 404, "ResourceNotFoundException", "Model use case details have not been submitted."),
    ("ModelNotFound", 404, "", "Not Found"),
    ("ModelNotFound", 403, DENIED, "You don't have access to the model with the specified model ID."),
    ("PermissionDenied", 403, DENIED, "User: arn:aws:iam::1:user/a is not authorized to perform: bedrock:InvokeModel"),
    ("PermissionDenied", 400, VALIDATION, "Operation not allowed"),
    ("TurnRefused", 403, DENIED, "Access to Anthropic models is not allowed from unsupported countries, regions."),
    ("CredentialsRejected", 403, "UnrecognizedClientException", "The security token in the request is invalid."),
    ("CredentialsRejected", 403, "ExpiredTokenException", "The security token included in the request is expired"),
    ("CredentialsRejected", 403, "InvalidSignatureException", "The request signature we calculated does not match"),
    ("CredentialsRejected", 403, "InvalidSignatureException", "Signature expired: 2026 is now earlier than 2025"),
    ("CredentialsRejected", 403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
    ("CredentialsRejected", 403, DENIED, "Authentication failed: Please make sure your API Key is valid."),
    ("CredentialsRejected", 403, "", "Bearer Token has expired"),
    ("CredentialsRejected", 401, "", "Unauthorized"),
    ("ContentFiltered", 400, VALIDATION, "Output blocked by content filtering policy"),
    ("TurnRefused", 409, "ConflictException", "x"),
    ("TurnRefused", 418, "", "\udcff"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "status", "code", "message"), CASES)
def test_an_error_becomes_the_class_that_says_what_to_do(cls: str, status: int, code: str, message: str) -> None:
    error = explained(status, code, message)
    assert type(error).__name__ == cls, error
    assert (error.provider, error.model, error.status) == ("recorded", "anthropic.claude-x", status)
    assert error.raw == code
    assert str(error).endswith(error.action)
    assert len(str(error)) < MAX_QUOTE + 400
    assert "\n" not in str(error)
    again = TurnError.from_fields(error.to_fields())
    assert (type(again), str(again), again.to_fields()) == (type(error), str(error), error.to_fields())


def test_the_name_is_found_wherever_it_stands() -> None:
    for body in (
        {"__type": "com.amazon.coral.service#ThrottlingException", "Message": "slow"},
        {"error": {"type": "throttlingException", "message": "slow"}},
        {"code": "ThrottlingException", "message": "slow"},
    ):
        error = driver_for().explain(TURN, 400, {}, json.dumps(body).encode())
        assert (type(error).__name__, error.raw.lower()) == ("RateLimited", "throttlingexception")


def test_what_to_do_names_the_place() -> None:
    on_demand = "Invocation of model ID x with on-demand throughput isn't supported."
    assert "set cross_region in [providers.recorded.aws_bedrock]" in explained(400, VALIDATION, on_demand).action
    assert "us.anthropic.claude-x" in explained(400, VALIDATION, on_demand).action
    invalid = "The provided model identifier is invalid."
    assert "without_prefix" in explained(400, VALIDATION, invalid, aws=AwsSettings(cross_region="us")).action
    assert "without_prefix" not in explained(400, VALIDATION, invalid).action
    denied = explained(403, DENIED, "not authorized to perform: bedrock:InvokeModelWithResponseStream")
    assert "bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream" in denied.action
    assert "clock" in explained(403, "InvalidSignatureException", "Signature expired: x").action
    assert "aws sso login" in explained(403, "ExpiredTokenException", "expired").action
    assert "AWS_BEARER_TOKEN_BEDROCK" in explained(403, DENIED, "Authentication failed: x").action


def test_waits_and_ids_come_from_the_headers() -> None:
    headers = {"retry-after": "7", "x-amzn-requestid": "r-1", **DATE}
    error = explained(429, "ThrottlingException", "slow", headers)
    assert (error.retry_after_s, error.request_id) == (7, "r-1")
    quota = explained(429, "ThrottlingException", "Too many tokens per day", headers)
    assert quota.reset_at == 1795348807.0
    assert explained(400, VALIDATION, "x", headers).retry_after_s is None


def test_a_redirect_is_a_mismatch() -> None:
    assert type(explained(302, "", "moved")).__name__ == "WireMismatch"


def test_a_key_that_the_provider_quotes_is_not_shown() -> None:
    error = explained(403, DENIED, "Authentication failed for Bearer abcdef123456")
    assert "abcdef123456" not in f"{error} {error.to_fields()}"


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(
    status=st.integers(100, 599),
    body=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()),
    code=st.sampled_from(["", "ThrottlingException", "x", ":", "#"]),
)
def test_any_body_is_some_error(status: int, body: bytes, code: str) -> None:
    error = driver_for().explain(TURN, status, {"x-amzn-errortype": code}, body)
    assert isinstance(error, DriverError)
    assert error.action

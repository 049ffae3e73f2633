"""How an answer ends: stop reasons, refusals, errors in the middle; and what else it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from loopforge.drivers.anthropic.answer import FINISHES
from loopforge.drivers.anthropic.open_blocks import MAX_CALLS, MAX_KEPT
from loopforge.drivers.errors import DriverError
from loopforge.drivers.turn import (
    Finished,
    Limits,
    Notice,
    ResponseInfo,
    Usage,
    UsageDelta,
    user,
)
from tests.drivers.anthropic.asking import ask, driver_for
from tests.drivers.anthropic.bodies import (
    DONE,
    block,
    call,
    delta,
    error,
    error_of,
    opening,
    piece,
    read_body,
    reply_of,
    said,
    signed,
    sse,
    start,
    stop,
    text,
    whole,
    words,
)

CUTS = [0, 1, 2, 7]
TEXT = {"type": "text", "text": ""}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}
ASKED = ask(user("How many?"), model="m")


# -- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "finish"), FINISHES.items())
@pytest.mark.parametrize("form", ["stream", "whole"])
def test_a_stop_reason_has_its_neutral_word(word: str, finish: str, form: str) -> None:
    body = said(text(0, "x"), reason=word) if form == "stream" else whole({"type": "text", "text": "x"}, reason=word)
    reply = reply_of(read_body(body))
    assert (reply.finish, reply.finish_raw) == (finish, word)


@pytest.mark.parametrize(("reason", "raw"), [("eureka", "eureka"), (None, ""), (17, "17"), ("", "")])
def test_a_stop_reason_that_is_not_known_is_unknown_and_kept(reason: Any, raw: str) -> None:
    for body in (said(text(0, "x"), reason=reason), whole({"type": "text", "text": "x"}, reason=reason)):
        reply = reply_of(read_body(body))
        assert (reply.finish, reply.finish_raw) == ("unknown", raw)


def test_calls_decide_the_finish_when_the_provider_says_that_it_just_stopped() -> None:
    assert reply_of(read_body(said(call(0, "{}"), reason="end_turn"))).finish == "tool_calls"
    assert reply_of(read_body(said(call(0, "{}"), reason="max_tokens"))).finish == "length"
    assert reply_of(read_body(said(call(0, "{}"), reason="pause_turn"))).finish == "pause"


@pytest.mark.parametrize(
    "reason", ["error", "network_error", "insufficient_system_resource", "abort", "malformed_tool"]
)
def test_a_failed_generation_is_a_failed_turn_with_what_had_come(reason: str) -> None:
    for body in (said(text(0, "half"), reason=reason), whole({"type": "text", "text": "half"}, reason=reason)):
        outcome = read_body(body)
        assert (error_of(outcome)["class"], error_of(outcome)["raw"]) == ("GenerationFailed", reason)
        assert outcome.partial is not None
        assert outcome.partial.text == "half"
    outcome = read_body(sse(start(), text(0, "half"), stop(reason), error("overloaded_error")))
    assert error_of(outcome)["class"] == "Overloaded"
    assert error_of(read_body(sse(start(), text(0, "half"), stop(reason))))["class"] == "GenerationFailed"


def test_an_empty_message_without_a_stop_reason_failed_and_with_one_it_is_done() -> None:
    for body in (said(reason=None), said(text(0), reason=None), whole(reason=None)):
        assert error_of(read_body(body))["class"] == "GenerationFailed"
    for body in (said(), whole()):
        reply = reply_of(read_body(body))
        assert (reply.finish, reply.warnings) == ("stop", ("empty answer",))


def test_a_refusal_of_nothing_is_filtered_and_one_of_something_is_done() -> None:
    details = {"stop_details": {"type": "refusal", "category": "cyber", "explanation": "It could do harm."}}
    for body in (sse(start(), stop("refusal", **details), DONE), whole(reason="refusal", **details)):
        outcome = read_body(body, headers={"request-id": "req_1"})
        found = error_of(outcome)
        assert (found["class"], found["raw"], found["request_id"]) == ("ContentFiltered", "refusal", "req_1")
        assert "(cyber: It could do harm)" in found["what"]
        assert (UsageDelta(Usage(input=5, output=9)) in outcome.deltas) == (body[:1] != b"{")
    reply = reply_of(read_body(sse(start(), text(0, "Well"), stop("refusal", **details), DONE)))
    assert (reply.finish, reply.text) == ("content_filter", "Well")
    assert reply.warnings == ("the model refused to answer (cyber: It could do harm)",)
    assert reply_of(read_body(said(text(0, "Well"), reason="refusal"))).warnings == ("the model refused to answer",)


@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_that_ends_early_is_broken_and_behind_its_stop_reason_it_is_whole(cut: int) -> None:
    outcome = read_body(sse(start(), text(0, "half")), cut=cut)
    assert error_of(outcome)["class"] == "StreamBroken"
    assert outcome.partial is not None
    assert outcome.partial.text == "half"
    assert reply_of(read_body(sse(start(), text(0, "Hi"), stop()), cut=cut)).finish == "stop"
    assert reply_of(read_body(sse(start(), text(0, "Hi"), stop()) + b"data: {cut", cut=cut)).finish == "stop"


def test_the_finish_is_told_as_soon_as_it_is_known_and_once() -> None:
    reader = driver_for().new_reader(ASKED, {})
    assert Finished("stop", "end_turn") in reader.feed(sse(start(), text(0, "Hi"), stop()))
    late = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 12}}
    assert reader.feed(sse(late, text(1, "more"), call(2, "{}"))) == [UsageDelta(Usage(input=5, output=12))]
    same: Any = {**late, "usage": None}
    assert reader.feed(sse(late, same)) == []
    assert reader.feed(sse(DONE)) == []
    assert reader.feed(b"anything") == []
    assert reader.close() == []


def test_a_second_message_in_one_stream_is_no_answer_of_this_wire() -> None:
    for body in (sse(start(), start()), sse(start(), text(0, "half"), start())):
        found = error_of(read_body(body))
        assert (found["class"], "second message" in found["what"]) == ("WireMismatch", True)


# -- errors inside ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("event", "cls"),
    [
        (error("overloaded_error"), "Overloaded"),
        (error("api_error"), "ProviderUnavailable"),
        (error("timeout_error"), "ProviderUnavailable"),
        (error("rate_limit_error"), "RateLimited"),
        (error("rate_limit_error", details={"error_code": "contract_spend_limit_reached"}), "QuotaExhausted"),
        (error("invalid_request_error"), "TurnRefused"),
        (error("invalid_request_error", "Output blocked by content filtering policy"), "ContentFiltered"),
        (error("invalid_request_error", "prompt is too long: 5 tokens > 4 maximum"), "ContextTooLong"),
        (error("authentication_error"), "CredentialsRejected"),
        (error("permission_error"), "PermissionDenied"),
        (error("not_found_error"), "ModelNotFound"),
        (error(""), "StreamBroken"),
        ({"type": "error"}, "StreamBroken"),
    ],
)
def test_an_error_in_the_stream_is_what_it_would_have_been_before_it(event: Any, cls: str, cut: int) -> None:
    outcome = read_body(sse(start(), text(0, "half"), event), cut=cut)
    assert error_of(outcome)["class"] == cls
    assert outcome.partial is not None
    assert outcome.partial.text == "half"


def test_an_error_without_a_code_before_the_first_word_is_the_providers() -> None:
    for body in (sse(error("")), sse(start(), error("")), b'{"type": "error", "error": {}}', b'{"error": "what?"}'):
        assert error_of(read_body(body))["class"] == "ProviderUnavailable"


@pytest.mark.parametrize(
    ("body", "vendor", "cls"),
    [
        (b'{"type": "error", "error": {"type": "overloaded_error", "message": "x"}}', "anthropic", "Overloaded"),
        (b'{"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}', "minimax", "QuotaExhausted"),
        (b'{"detail": "Not authenticated"}', "generic", "ProviderUnavailable"),
        (b'{"error": {"message": "no", "code": "context_length_exceeded"}}', "lmstudio", "ContextTooLong"),
        (b'{"code": 500, "message": "internal", "success": false}', "glm", "ProviderUnavailable"),
    ],
)  # fmt: skip
def test_an_error_that_comes_with_status_200_is_one(body: bytes, vendor: str, cls: str) -> None:
    assert error_of(read_body(body, vendor))["class"] == cls


# -- what else it says ------------------------------------------------------------------------------------------------


def test_later_reports_of_usage_replace_what_they_name() -> None:
    first = {"input_tokens": 10, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2, "output_tokens": 1}
    later = {"output_tokens": 7, "input_tokens": 20, "cache_read_input_tokens": None}
    change = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": later}
    outcome = read_body(sse(start(usage=first), text(0, "x"), change, DONE))
    assert reply_of(outcome).usage == Usage(input=25, output=7, cache_read=3, cache_write=2)
    assert sum(isinstance(item, UsageDelta) for item in outcome.deltas) == 1


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (None, Usage()),
        ({}, Usage()),
        ({"input_tokens": 0, "output_tokens": 0}, Usage(input=0, output=0)),
        ({"input_tokens": None, "output_tokens": 4}, Usage(output=4)),
        ({"cache_read_input_tokens": 4}, Usage(cache_read=4)),
        (
            {"input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}},
            Usage(input=6, cache_write=5),
        ),
        ({"output_tokens": 4, "output_tokens_details": {"thinking_tokens": 3}}, Usage(output=4, reasoning=3)),
        ({"output_tokens": 4, "output_tokens_details": {"thinking_tokens": 9}}, Usage(output=4, reasoning=4)),
        ({"input_tokens": 2, "output_tokens": 4, "cost": 0.25}, Usage(input=2, output=4, cost_usd=0.25)),
        ({"input_tokens": 2.0, "output_tokens": "4"}, Usage(input=2)),
        ({"input_tokens": -1, "output_tokens": True}, Usage()),
        ({"input_tokens": 2**60, "output_tokens": float("1e300")}, Usage()),
    ],
)
def test_usage_is_counted_neutrally_and_nothing_is_invented(raw: Any, usage: Usage) -> None:
    assert reply_of(read_body(whole({"type": "text", "text": "x"}, usage=raw))).usage == usage


def test_an_answer_without_any_report_has_no_usage() -> None:
    bare = start()
    del bare["message"]["usage"]
    outcome = read_body(sse(bare, text(0, "x"), {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, DONE))
    assert not any(isinstance(item, UsageDelta) for item in outcome.deltas)


def test_a_stream_without_a_later_report_has_the_first_one() -> None:
    change = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert reply_of(read_body(sse(start(), text(0, "x"), change, DONE))).usage == Usage(input=5, output=1)


def test_the_response_names_its_model_its_request_and_its_limits() -> None:
    headers = {
        "request-id": "req_1",
        "date": "Sun, 22 Nov 2026 12:00:00 GMT",
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:30Z",
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "900",
        "anthropic-ratelimit-tokens-reset": "2026-11-22T12:00:05Z",
        "anthropic-ratelimit-output-tokens-limit": "100",
        "anthropic-ratelimit-output-tokens-remaining": "10",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-22T12:00:40Z",
    }
    limits = Limits(
        requests_limit=50, requests_remaining=49, requests_reset_s=30.0,
        tokens_limit=100, tokens_remaining=10, tokens_reset_s=40.0,
    )  # fmt: skip
    for body in (said(text(0, "x")), whole({"type": "text", "text": "x"})):
        assert read_body(body, headers=headers).deltas[0] == ResponseInfo("m-1", "req_1", limits)
    assert read_body(said(text(0, "x"))).deltas[0] == ResponseInfo("m-1", "msg_1", None)
    bare = read_body(said(text(0, "x")), headers={"anthropic-ratelimit-requests-limit": "many"})
    assert bare.deltas[0] == ResponseInfo("m-1", "msg_1", None)


def test_what_is_not_known_is_named_once_and_passed_by() -> None:
    strange: dict[str, Any] = {"type": "surprise", "error": None}
    body = said(strange, strange, block(0, TEXT, {"type": "odd_delta"}, words("x"), {"type": "odd_delta"}))
    assert reply_of(read_body(body)).warnings == (
        "an event of type 'surprise' was not read",
        "a delta of type 'odd_delta' was not read",
    )
    many = said(*({"type": f"surprise_{number}"} for number in range(100)), text(0, "x"))
    assert sum(isinstance(item, Notice) for item in read_body(many).deltas) == 20


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_what_is_kept_has_a_bound() -> None:
    big = "x" * (1024 * 1024)
    reader = driver_for().new_reader(ASKED, {})
    reader.feed(sse(start(), opening(0, {"type": "tool_use", "id": "a", "name": "look", "input": {}})))
    event = sse(delta(0, piece(big)))
    for _ in range(MAX_KEPT // len(big) - 1):
        reader.feed(event)
    with pytest.raises(DriverError, match=f"more than {MAX_KEPT} characters"):
        reader.feed(event)


@pytest.mark.parametrize(
    "event",
    [
        opening(0, {"type": "server_tool_use", "input": {"x": "x" * 4_000_000}}),
        [opening(0, THINKING), delta(0, signed("x" * 4_000_000))],
        [opening(0, TEXT), delta(0, {"type": "citations_delta", "citation": {"x": "x" * 4_000_000}})],
        [opening(0, {"type": "new"}), delta(0, {"type": "new_delta", "x": "x" * 4_000_000})],
    ],
)
def test_so_has_everything_else_that_is_kept(event: Any) -> None:
    found = error_of(read_body(said(*[event] * 10)))
    assert (found["class"], "characters" in found["what"]) == ("WireMismatch", True)


def test_an_answer_has_no_more_calls_than_anybody_makes() -> None:
    made = [item for number in range(MAX_CALLS + 1) for item in call(number, "{}", call_id=str(number))]
    found = error_of(read_body(said(made)))
    assert (found["class"], f"more than {MAX_CALLS}" in found["what"]) == ("WireMismatch", True)


def test_text_is_not_kept_however_long_it_is() -> None:
    reader = driver_for().new_reader(ASKED, {})
    reader.feed(sse(start(), opening(0, TEXT)))
    event = sse(delta(0, words("x" * (1024 * 1024))))
    assert sum(len(reader.feed(event)) for _ in range(50)) == 50

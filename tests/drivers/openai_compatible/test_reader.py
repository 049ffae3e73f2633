"""What form an answer has, how it ends, and what goes wrong inside a 200, beyond what the recordings show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.errors import GenerationFailed
from loopforge.drivers.openai_compatible.answer import FINISHES, MAX_KEPT
from loopforge.drivers.tool_fragments import MAX_ARGUMENTS, MAX_CALLS
from loopforge.drivers.turn import (
    Finished,
    Limits,
    Refusal,
    ResponseInfo,
    ThinkingDelta,
    Usage,
    UsageDelta,
)
from tests.drivers.openai_compatible.bodies import call, chunk, read_body, reader_for, sse, text, usage, whole

CUTS = [0, 1, 2, 7]


# -- what form the answer has -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_that_was_not_asked_for_is_read_as_one(cut: int) -> None:
    outcome = read_body(sse(text("Hel"), text("lo", "stop")), cut=cut, headers={"content-type": "application/json"})
    assert outcome.reply is not None
    assert outcome.reply.text == "Hello"


@pytest.mark.parametrize("cut", CUTS)
def test_a_json_answer_to_a_stream_request_is_read_as_one(cut: int) -> None:
    body = b"\n \r\n\n" + whole({"content": "Hello"})
    outcome = read_body(body, cut=cut, headers={"content-type": "text/event-stream"})
    assert outcome.reply is not None
    assert outcome.reply.text == "Hello"


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("body", [sse(text("Hi", "stop")), whole({"content": "Hi"})], ids=["stream", "json"])
def test_a_byte_order_mark_is_no_content(body: bytes, cut: int) -> None:
    outcome = read_body(b"\xef\xbb\xbf" + body, cut=cut)
    assert outcome.reply is not None
    assert outcome.reply.text == "Hi"


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b"", "StreamBroken", "before the answer began"),
        (b"\n\n  \n", "StreamBroken", "before the answer began"),
        (b": keep-alive\n\n: keep-alive\n\n", "StreamBroken", "before the answer began"),
        (b"<!doctype html><html><body>Log in</body></html>", "WireMismatch", "<!doctype html>"),
        (b"upstream connect error", "WireMismatch", "upstream connect error"),
        (b'"text"', "WireMismatch", '"text"'),
        (b"[]", "WireMismatch", "no JSON object: []"),
        (b'{"a": 1} {"b": 2}', "WireMismatch", "no JSON"),
        (b'{"status": "ok"}', "WireMismatch", "no choices"),
        (b'{"status": NaN}', "WireMismatch", "no choices"),
        (b"[NaN]", "WireMismatch", "no JSON object"),
        (b'{"choices": null, "usage": {"total_tokens": 3}}', "WireMismatch", "no choices"),
        (b'{"id": "x", "choices": [{"index": 0, "message": {"content": "Hel', "StreamBroken", "ends inside its JSON"),
        (b'{"id": "x", "choices": [], "usage": {}}', "GenerationFailed", "no choice"),
        (b'data: {"choices": [{"del\n\n', "StreamBroken", "is no JSON"),
        (b"data: 17\n\n", "WireMismatch", "no JSON object"),
        (b"data: [DONE]\n\n", "GenerationFailed", "no finish reason"),
        (b"{" + b'"a":[' * 5000, "StreamBroken", "ends inside"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "WireMismatch", "no JSON"),
        (b'data: {"a":' + b"[" * 5000 + b"]" * 5000 + b"}\n\n", "StreamBroken", "is no JSON"),
    ],
)
def test_what_is_no_answer_of_this_wire_says_what_it_is(body: bytes, error: str, says: str, cut: int) -> None:
    outcome = read_body(body, cut=cut)
    assert outcome.error is not None
    assert outcome.error["class"] == error
    assert says in outcome.error["what"]


def test_comments_blank_lines_and_pings_are_no_events() -> None:
    body = b": a\n\n\n\nevent: ping\ndata: {}\n\nid: 7\n\nretry: 3\n\n" + sse(text("a"), text("b", "stop"))
    outcome = read_body(body)
    assert outcome.events == 3
    assert read_body(b"\n  \n", cut=1).events == 0
    reader = reader_for("openai")
    for piece in (b"\n", b"  \n", b'{"choices"', b"\n", b": 1}"):
        reader.feed(piece)
    assert reader.events == 2


# -- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "finish"), [(word, finish) for word, finish in FINISHES.items() if word])
@pytest.mark.parametrize("form", ["stream", "whole"])
def test_a_finish_reason_has_its_neutral_word(word: str, finish: str, form: str) -> None:
    for spelled in (word, word.upper()):
        body = sse(text("x"), chunk({}, spelled)) if form == "stream" else whole({"content": "x"}, spelled)
        reply = read_body(body).reply
        assert reply is not None
        assert (reply.finish, reply.finish_raw) == (finish, spelled)


def test_an_unknown_finish_reason_is_unknown_and_kept() -> None:
    reply = read_body(sse(text("x", "eureka"))).reply
    assert reply is not None
    assert (reply.finish, reply.finish_raw) == ("unknown", "eureka")


@pytest.mark.parametrize(
    "word", ["error", "network_error", "insufficient_system_resource", "abort", "malformed_function_call",
             "MALFORMED_X", "tool_use_failed", "UNEXPECTED_TOOL_CALL"],
)  # fmt: skip
def test_a_failed_generation_is_a_failed_turn_with_what_had_come(word: str) -> None:
    outcome = read_body(sse(text("half"), chunk({}, word), usage(prompt_tokens=1, completion_tokens=2)))
    assert outcome.error is not None
    assert (outcome.error["class"], outcome.error["raw"]) == ("GenerationFailed", word)
    assert outcome.partial is not None
    assert outcome.partial.text == "half"
    assert UsageDelta(Usage(input=1, output=2)) in outcome.deltas
    in_json = read_body(whole({"content": "half"}, word))
    assert in_json.error is not None
    assert in_json.error["class"] == "GenerationFailed"
    assert in_json.partial is not None
    assert in_json.partial.text == "half"


def test_a_failure_that_only_the_upstream_names_is_one_too() -> None:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "native_finish_reason": "MALFORMED_FUNCTION_CALL"}
    outcome = read_body(sse({"choices": [choice]}), "openrouter")
    assert outcome.error is not None
    assert outcome.error["raw"] == "stop (MALFORMED_FUNCTION_CALL)"


@pytest.mark.parametrize("native", ["length", "max_output_tokens", "MAX_TOKENS"])
def test_a_call_cut_at_the_token_limit_is_length_whatever_the_gateway_calls_it(native: str) -> None:
    opening = call(index=0, id="a", function={"name": "f", "arguments": '{"x": '})
    end = chunk({}, "tool_calls")
    end["choices"][0]["native_finish_reason"] = native
    outcome = read_body(sse(opening, end), "openrouter")
    assert outcome.reply is not None
    assert outcome.reply.finish == "length"
    (cut,) = outcome.reply.tool_calls
    assert (cut.arguments, cut.parsed, cut.invalid) == ('{"x": ', None, True)


@pytest.mark.parametrize(
    ("word", "finish"),
    [("stop", "tool_calls"), ("eureka", "tool_calls"), ("function_call", "tool_calls"), ("", "tool_calls"),
     ("model_context_window_exceeded", "tool_calls"), ("length", "length"), ("content_filter", "content_filter")],
)  # fmt: skip
def test_calls_decide_the_finish_but_for_length_and_filter(word: str, finish: str) -> None:
    opening = call(index=0, id="a", function={"name": "f", "arguments": "{}"})
    reply = read_body(sse(opening, chunk({}, word))).reply
    assert reply is not None
    assert reply.finish == finish


def test_a_null_finish_at_the_end_is_stop_with_content_and_a_failure_without() -> None:
    reply = read_body(sse(text("x"))).reply
    assert reply is not None
    assert (reply.finish, reply.finish_raw) == ("stop", "")
    for body in (sse(chunk({"role": "assistant", "content": ""})), whole({"content": ""}, None)):
        error = read_body(body, "openrouter").error
        assert error is not None
        assert error["class"] == "GenerationFailed"


def test_stop_with_nothing_is_done_with_a_warning() -> None:
    for body in (sse(chunk({}, "stop")), whole({"content": None}), whole({"content": ""}, "")):
        reply = read_body(body).reply
        assert reply is not None
        assert (reply.finish, reply.warnings) == ("stop", ("empty answer",))


def test_a_filter_before_anything_was_generated_is_an_error_and_afterwards_a_finish() -> None:
    error = read_body(sse(chunk({}, "content_filter"))).error
    assert error is not None
    assert (error["class"], error["raw"]) == ("ContentFiltered", "content_filter")
    reply = read_body(sse(text("once upon"), chunk({}, "sensitive")), "glm").reply
    assert reply is not None
    assert (reply.finish, reply.text) == ("content_filter", "once upon")


def test_a_refusal_is_content_filter_with_the_words_kept() -> None:
    for body in (sse(chunk({"refusal": "I will"}), chunk({"refusal": " not"}), chunk({}, "stop")),
                 whole({"content": None, "refusal": "I will not"})):  # fmt: skip
        reply = read_body(body).reply
        assert reply is not None
        assert (reply.finish, reply.message.content) == ("content_filter", (Refusal(text="I will not"),))


def test_the_end_of_the_body_without_the_wires_end_breaks_the_stream() -> None:
    outcome = read_body(sse(text("half"), done=False))
    assert outcome.error is not None
    assert outcome.error["class"] == "StreamBroken"
    assert outcome.partial is not None
    assert outcome.partial.text == "half"


@pytest.mark.parametrize("cut", CUTS)
def test_after_a_finish_reason_nothing_is_missing_whatever_the_body_ends_in(cut: int) -> None:
    begun, whole_event = b'data: {"choices": [], "usa', b'data: {"choices": [], "usage": {"prompt_tokens": 3}}'
    for tail in (b"", begun, whole_event, b"oops\n\n", b"data: oops\n\n"):
        outcome = read_body(sse(text("all"), chunk({}, "stop"), done=False) + tail, cut=cut)
        assert outcome.reply is not None
        assert (outcome.reply.text, outcome.reply.finish) == ("all", "stop")
        assert outcome.reply.usage.input == (3 if tail.endswith(b"}}") else None)


def test_the_finish_is_said_as_soon_as_it_is_known_and_usage_may_follow() -> None:
    reader = reader_for("openai")
    assert reader.feed(sse(text("all", "stop"), done=False))[-1] == Finished("stop", "stop")
    assert reader.feed(sse(usage(prompt_tokens=3, completion_tokens=1), done=False)) == [
        UsageDelta(Usage(input=3, output=1))
    ]
    assert reader.feed(sse()) == reader.feed(b"data: after the end\n\n") == reader.close() == []
    assert reader.done


def test_a_repeated_finish_reason_is_said_once() -> None:
    end = chunk({"content": ""}, "stop")
    outcome = read_body(sse(text("x"), end, end, {**end, **usage(prompt_tokens=1)}))
    assert [delta for delta in outcome.deltas if isinstance(delta, Finished)] == [Finished("stop", "stop")]


def test_a_failed_finish_is_told_with_the_next_event_at_the_latest() -> None:
    reader = reader_for("openrouter")
    reader.feed(sse(text("half", "error"), done=False))
    with pytest.raises(GenerationFailed):
        reader.feed(sse(text("more"), done=False))


def test_another_finish_reason_corrects_the_one_before() -> None:
    outcome = read_body(sse(text("x", "stop"), chunk({}, "length")))
    assert outcome.reply is not None
    assert (outcome.reply.finish, outcome.reply.finish_raw) == ("length", "length")


def test_calls_that_come_after_the_finish_reason_correct_it() -> None:
    late = call(index=0, id="a", function={"name": "f", "arguments": "{}"})
    outcome = read_body(sse(text("x", "stop"), late))
    assert [delta.finish for delta in outcome.deltas if isinstance(delta, Finished)] == ["stop", "tool_calls"]
    assert outcome.reply is not None
    assert [item.id for item in outcome.reply.tool_calls] == ["a"]


# -- what the response says of itself ---------------------------------------------------------------------------------


def test_headers_give_the_request_id_and_the_limits() -> None:
    headers = {"x-request-id": "req_1", "x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-tokens": "1m0s"}
    outcome = read_body(sse(text("x", "stop")), headers=headers)
    assert outcome.deltas[0] == ResponseInfo("m-1", "req_1", Limits(requests_remaining=9, tokens_reset_s=60.0))
    bare = read_body(whole({"content": "x"}))
    assert bare.deltas[0] == ResponseInfo("m-1", "chat-1", None)


def test_a_model_that_is_named_late_is_still_reported() -> None:
    filters = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    outcome = read_body(sse(filters, text("x", "stop")), "azure")
    assert outcome.reply is not None
    assert outcome.reply.model_reported == "m-1"


# -- errors inside a 200 ----------------------------------------------------------------------------------------------

OVERLOADED = {"error": {"message": "no room", "type": "overloaded_error", "code": 529}}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("vendor", "event", "before", "after"),
    [
        ("openrouter", OVERLOADED, "Overloaded", "Overloaded"),
        ("openai", {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, "RateLimited", "RateLimited"),
        ("openai", {"error": {"message": "bad", "type": "invalid_request_error"}}, "TurnRefused", "TurnRefused"),
        ("openai", {"error": {"message": "oops"}}, "ProviderUnavailable", "StreamBroken"),
        ("openai", {"error": "oops"}, "ProviderUnavailable", "StreamBroken"),
        ("openai", {"error": {"message": "maximum context length is 8"}}, "ContextTooLong", "ContextTooLong"),
        ("openai", {"error": {"code": "server_error", "message": "x"}}, "ProviderUnavailable", "ProviderUnavailable"),
        ("openrouter", {"error": {"code": 502, "message": "upstream"}, "choices": [{"delta": {"content": ""},
         "finish_reason": "error"}]}, "ProviderUnavailable", "ProviderUnavailable"),
        ("vllm", {"object": "error", "message": "too long", "code": 400}, "TurnRefused", "TurnRefused"),
        ("glm", {"error": {"code": "1301", "message": "unsafe"}}, "ContentFiltered", "ContentFiltered"),
        ("minimax", {"base_resp": {"status_code": 1002, "status_msg": "rate"}}, "RateLimited", "RateLimited"),
        ("minimax", {"choices": None, "base_resp": {"status_code": 1027, "status_msg": "out"}}, "ContentFiltered",
         "ContentFiltered"),
        ("groq", {"error": {"code": "tool_use_failed", "message": "x", "status_code": 400}}, "GenerationFailed",
         "GenerationFailed"),
        ("openrouter", {"choices": [{"index": 0, "delta": {}, "error": {"code": 429, "message": "x"}}]}, "RateLimited",
         "RateLimited"),
    ],
)  # fmt: skip
def test_an_error_event_has_its_class_and_keeps_what_had_come(
    vendor: str, event: dict[str, Any], before: str, after: str, cut: int
) -> None:
    at_once = read_body(b": hi\n\n" + sse(event, done=False), vendor, cut=cut)
    assert at_once.error is not None
    assert (at_once.error["class"], at_once.partial) == (before, None)
    later = read_body(sse(text("half"), event), vendor, cut=cut)
    assert later.error is not None
    assert later.error["class"] == after
    assert later.partial is not None
    assert later.partial.text == "half"


def test_an_error_outranks_the_finish_reason_before_it() -> None:
    outcome = read_body(sse(text("half", "stop"), OVERLOADED, usage(prompt_tokens=1)), "openrouter")
    assert outcome.error is not None
    assert outcome.error["class"] == "Overloaded"
    failed_first = read_body(sse(text("half", "error"), OVERLOADED), "openrouter")
    assert failed_first.error is not None
    assert failed_first.error["class"] == "Overloaded"


def test_an_event_named_error_is_one_whatever_its_data() -> None:
    outcome = read_body(b'event: error\ndata: {"message": "rate", "code": "rate_limit_exceeded"}\n\n')
    assert outcome.error is not None
    assert outcome.error["class"] == "RateLimited"
    unknown = read_body(sse(text("a")) + b'event: error\ndata: {"reason": "tired"}\n\n')
    assert unknown.error is None  # after [DONE] nothing counts
    unknown = read_body(b'event: error\ndata: {"reason": "tired"}\n\n')
    assert unknown.error is not None
    assert (unknown.error["class"], "tired" in unknown.error["what"]) == ("ProviderUnavailable", True)


@pytest.mark.parametrize(
    ("vendor", "body", "error"),
    [
        ("openrouter", OVERLOADED, "Overloaded"),
        ("openrouter", {"error": {"code": 402, "message": "x"}, "choices": []}, "QuotaExhausted"),
        ("minimax", {"choices": [], "base_resp": {"status_code": 1004, "status_msg": "auth"}}, "CredentialsRejected"),
        ("minimax", {"base_resp": {"status_code": 1008, "status_msg": "x"}}, "QuotaExhausted"),
        ("minimax", {"base_resp": {"status_code": 1026, "status_msg": "x"}}, "ContentFiltered"),
        ("minimax", {"base_resp": {"status_code": 1039, "status_msg": "x"}}, "RateLimited"),
        ("minimax", {"base_resp": {"status_code": 2013, "status_msg": "x"}}, "TurnRefused"),
        ("minimax", {"base_resp": {"status_code": 4242, "status_msg": "x"}}, "ProviderUnavailable"),
        ("glm", {"code": 1302, "msg": "x", "success": False}, "RateLimited"),
        ("generic", {"detail": "x"}, "ProviderUnavailable"),
        (
            "openrouter",
            {"choices": [{"error": {"code": 429, "message": "x"}, "message": {"content": ""}}]},
            "RateLimited",
        ),
    ],
)
def test_json_with_status_200_may_be_an_error(vendor: str, body: dict[str, Any], error: str) -> None:
    outcome = read_body(json.dumps(body).encode(), vendor)
    assert outcome.error is not None
    assert outcome.error["class"] == error


def test_moderation_of_an_answer_that_is_there_keeps_it() -> None:
    body = whole({"content": "half"}, "stop", base_resp={"status_code": 1027, "status_msg": "output sensitive"})
    reply = read_body(body, "minimax").reply
    assert reply is not None
    assert (reply.text, reply.finish) == ("half", "content_filter")


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_calls_arguments_and_kept_items_are_bounded() -> None:
    many = [call(index=i, id=str(i), function={"name": "f"}) for i in range(MAX_CALLS + 1)]
    large = call(index=0, id="a", function={"name": "f", "arguments": "x" * (MAX_ARGUMENTS // 8)})
    items = chunk({"reasoning_details": [{"type": "t", "index": 0, "data": "x" * (MAX_KEPT // 8)}]})
    for body, says in (
        (sse(*many), "tool calls"),
        (sse(*[large] * 9), "arguments"),
        (sse(*[items] * 9), "reasoning items"),
    ):
        outcome = read_body(body)
        assert outcome.error is not None
        assert outcome.error["class"] == "WireMismatch"
        assert says in outcome.error["what"]


def test_thinking_streams_while_it_comes() -> None:
    reader = reader_for("minimax")
    reader.feed(sse(text("<think>"), done=False))
    assert reader.feed(sse(text("slowly"), done=False)) == [ThinkingDelta("slowly")]

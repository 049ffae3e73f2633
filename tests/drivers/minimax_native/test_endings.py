"""How answers end: every way that streams have, errors inside a 200, moderation, and what is no answer at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.turn import Finished, TextDelta, UsageDelta
from tests.drivers.minimax_native.asking import (
    GOOD,
    USAGE,
    ZEROS,
    as_json,
    call,
    frame,
    message,
    read_body,
    refusal,
    sse,
    text,
    thought,
    usage_only,
)

Json = dict[str, Any]
WITH_USAGE: Json = {**frame(), "usage": USAGE}
MADE: Json = {"id": "c1", "type": "function", "index": 0, "function": {"name": "look", "arguments": '{"at": 1}'}}

ENDINGS: dict[str, list[Json]] = {
    "the whole answer once more": [message("hello")],
    "the usage without a choice": [usage_only()],
    "the usage with an empty delta": [WITH_USAGE],
    "the usage in the frame of the finish reason": [],
    "nothing": [],
}


def frames_of(ending: str) -> list[Json]:
    finish = {**frame(finish="stop"), **({"usage": USAGE} if "frame of the finish" in ending else {})}
    return [text("hel"), text("lo"), finish, *ENDINGS[ending]]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stream_ends_in_any_of_its_ways(ending: str, done: bool) -> None:
    body = sse(*frames_of(ending), done=done)
    outcome = read_body(body)
    assert outcome.reply is not None
    assert (outcome.reply.text, outcome.reply.finish) == ("hello", "stop")
    assert outcome.reply.usage.output == (None if ending == "nothing" else 20)
    assert [delta for delta in outcome.deltas if isinstance(delta, TextDelta)] == [TextDelta("hel"), TextDelta("lo")]
    assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1
    for cut in (1, 7):
        assert read_body(body, cut=cut) == outcome


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_usage_stands_before_the_end(ending: str) -> None:
    kinds = [type(delta) for delta in read_body(sse(*frames_of(ending))).deltas]
    assert kinds[-1] is Finished
    assert kinds.count(UsageDelta) == (ending != "nothing")


@pytest.mark.parametrize("ending", ["the whole answer once more", "the usage without a choice"])
def test_a_body_that_stays_open_behind_its_end_has_ended(ending: str) -> None:
    """Nothing more has to be waited for: the deltas of the last frame hold it."""
    reader_body = sse(*frames_of(ending))
    outcome = read_body(reader_body + b": still here\n")
    assert outcome.reply is not None
    assert outcome.events == 4


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    "summary",
    [
        message("<think>\nhm\n</think>\n\nhello", "tool_calls", tool_calls=[MADE]),
        message("hello", "tool_calls", tool_calls=[MADE], reasoning_content="\nhm\n"),
    ],
)
def test_a_summary_is_the_answer_where_no_delta_came_before(summary: Json, done: bool) -> None:
    outcome = read_body(sse(frame({"role": "assistant"}), summary, done=done))
    reply = outcome.reply
    assert reply is not None
    assert (reply.message.thinking, reply.text, len(reply.tool_calls)) == ("\nhm\n", "hello", 1)
    assert (reply.finish, reply.usage.input) == ("tool_calls", 100)


def test_only_what_no_delta_brought_is_taken_from_a_summary() -> None:
    summary = message("<think>hm</think>\n\nhello", "tool_calls", tool_calls=[MADE])
    for frames in ([text("<think>hm</think>\n\nhello")], [thought("hm")], [thought("hm"), text("hello"), call(**MADE)]):
        reply = read_body(sse(*frames, frame(finish="tool_calls"), summary)).reply
        assert reply is not None
        assert (reply.message.thinking, reply.text) == ("hm", "hello")
        assert [made.parsed for made in reply.tool_calls] == [{"at": 1}]


def test_a_summary_that_is_cut_short_takes_nothing_away() -> None:
    body = sse(text("hello", "stop")) + sse(message("hello"))[:80]
    reply = read_body(body).reply
    assert reply is not None
    assert (reply.text, reply.finish) == ("hello", "stop")


@pytest.mark.parametrize("last", [usage_only(), {"choices": [], "base_resp": GOOD}, message("", None)])
def test_a_proper_end_without_a_finish_reason_is_an_unknown_one(last: Json) -> None:
    reply = read_body(sse(text("hello"), last)).reply
    assert reply is not None
    assert (reply.text, reply.finish, reply.finish_raw) == ("hello", "unknown", "")
    assert (read_body(sse({**usage_only(), "usage": ZEROS})).error or {})["class"] == "GenerationFailed"


def test_done_is_an_end_with_or_without_a_finish_reason() -> None:
    reply = read_body(sse(text("hello"), done=True)).reply
    assert reply is not None
    assert reply.finish == "unknown"
    assert (read_body(sse(frame(), done=True)).error or {})["class"] == "GenerationFailed"


@pytest.mark.parametrize("word", ["error", "abort", "network_error", "malformed_function_call"])
def test_a_finish_reason_may_be_a_failure(word: str) -> None:
    for body in (sse(text("hel", word), usage_only()), sse(text("hel", word)), as_json(message("hel", word))):
        outcome = read_body(body)
        assert (outcome.error or {})["class"] == "GenerationFailed"
        assert (outcome.error or {})["raw"] == word
        assert outcome.partial is not None
        assert outcome.partial.text == "hel"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "StreamBroken"),
        (b"\n\n", "StreamBroken"),
        (b": comment\n\n", "StreamBroken"),
        (b"<html><title>Sign in</title>", "WireMismatch"),
        (b"{}", "WireMismatch"),
        (b"[]", "WireMismatch"),
        (b'"text"', "WireMismatch"),
        (b'{"choices": null}', "WireMismatch"),
        (b'{"choices": []}', "GenerationFailed"),
        (b'{"choices": null, "base_resp": {"status_code": 0}}', "GenerationFailed"),
        (b'{"choices": [{"message": {"content": ""}}]}', "GenerationFailed"),
        (b'{"choices": [{"message": {"conte', "StreamBroken"),
        (b'{"ok": 1}\n{"ok": 2}\n', "WireMismatch"),
        (b'data: {"ok": 1}\n\n', "WireMismatch"),
        (b"data: [1]\n\n", "WireMismatch"),
        (b"data: {\n\n", "StreamBroken"),
        (b'{"detail": "no route"}', "ProviderUnavailable"),
        (b'{"success": false}', "ProviderUnavailable"),
        (b'{"error": {"message": "?"}}', "ProviderUnavailable"),
        (sse(frame()), "StreamBroken"),
    ],
)
def test_what_is_no_answer_says_what_it_is(body: bytes, error: str) -> None:
    outcome = read_body(body)
    assert (outcome.error or {})["class"] == error
    for cut in (1, 7):
        assert read_body(body, cut=cut).error == outcome.error


# -- errors inside a 200 ----------------------------------------------------------------------------------------------

EVERY_CODE = {
    1000: "ProviderUnavailable",
    1001: "ProviderUnavailable",
    1002: "RateLimited",
    1004: "CredentialsRejected",
    1008: "QuotaExhausted",
    1013: "ProviderUnavailable",
    1024: "ProviderUnavailable",
    1026: "ContentFiltered",
    1027: "ContentFiltered",
    1033: "ProviderUnavailable",
    1039: "RateLimited",
    1041: "RateLimited",
    1042: "TurnRefused",
    2013: "TurnRefused",
    20132: "TurnRefused",
    2037: "TurnRefused",
    2039: "TurnRefused",
    2042: "TurnRefused",
    2044: "PermissionDenied",
    2045: "RateLimited",
    2048: "TurnRefused",
    2049: "CredentialsRejected",
    2056: "QuotaExhausted",
    4711: "ProviderUnavailable",
}


@pytest.mark.parametrize(("code", "error"), EVERY_CODE.items())
def test_every_code_has_its_class_wherever_it_comes(code: int, error: str) -> None:
    """As a whole body, as the first frame, and in a frame behind the first text."""
    said = refusal(code, "that went wrong")
    for body in (as_json(said), sse(said), as_json({**said, "choices": []}), sse(text(""), said)):
        outcome = read_body(body)
        assert outcome.error is not None
        assert (outcome.error["class"], outcome.error["raw"]) == (error, str(code))
        assert "that went wrong" in outcome.error["what"]
        assert "status" not in outcome.error
        assert outcome.partial is None
    outcome = read_body(sse(text("hel"), text("lo"), said))
    assert outcome.error is not None
    assert outcome.error["class"] == ("StreamBroken" if code == 4711 else error)
    assert outcome.partial is not None
    assert outcome.partial.text == "hello"


@pytest.mark.parametrize(
    ("code", "said", "error"),
    [
        (2013, "invalid params, context window exceeds limit", "ContextTooLong"),
        (1039, "token limit: the prompt is too long for the context window", "ContextTooLong"),
        (1039, "token limit", "RateLimited"),
        (2013, "invalid params, unknown model 'm'", "ModelNotFound"),
        (2013, "invalid params, model m does not exist", "ModelNotFound"),
        (2013, "invalid params, model m does not support tools", "TurnRefused"),
        (1002, "rate limit of this model's context", "RateLimited"),
    ],
)
def test_the_text_of_a_code_tells_more(code: int, said: str, error: str) -> None:
    assert (read_body(as_json(refusal(code, said))).error or {})["class"] == error


def test_a_good_code_may_warn_in_its_text() -> None:
    warned = {"base_resp": {"status_code": 0, "status_msg": "the model will be retired"}}
    for body in (as_json({**message("hi"), **warned}), sse(text("hi", "stop"), {**usage_only(), **warned})):
        reply = read_body(body).reply
        assert reply is not None
        assert (reply.text, reply.warnings) == ("hi", ())


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_error_outranks_the_finish_reason_before_it(ending: str) -> None:
    body = sse(*frames_of(ending), refusal(1027, "output new_sensitive"))
    outcome = read_body(body)
    assert (outcome.error or {})["class"] == "ContentFiltered"
    assert outcome.partial is not None
    assert outcome.partial.text == "hello"
    for cut in (1, 7):
        assert read_body(body, cut=cut) == outcome


@pytest.mark.parametrize("form", ["error", "type"])
def test_an_error_of_the_other_form_in_a_frame(form: str) -> None:
    error = {"type": "overloaded_error", "message": "busy"}
    said = {"error": error} if form == "error" else {"type": "error", "error": error, "request_id": "r"}
    outcome = read_body(sse(text("hel"), said))
    assert outcome.error is not None
    assert (outcome.error["class"], outcome.error["raw"]) == ("Overloaded", "overloaded_error")
    bare = read_body(sse(text("hel"), {"error": {"message": "?"}}))
    assert (bare.error or {})["class"] == "StreamBroken"


# -- moderation -------------------------------------------------------------------------------------------------------


def test_a_refused_input_is_an_error_that_says_what_it_was_flagged_for() -> None:
    outcome = read_body(as_json(refusal(1026, "input new_sensitive", input_sensitive=True, input_sensitive_type=6)))
    assert outcome.error is not None
    assert outcome.error["class"] == "ContentFiltered"
    assert "input flagged: violence" in outcome.error["what"]
    silent = read_body(as_json({**message(), "choices": None, "input_sensitive": True, "input_sensitive_type": 99}))
    assert (silent.error or {})["class"] == "ContentFiltered"
    assert "input flagged: not named" in (silent.error or {})["what"]


def test_an_output_that_was_stopped_keeps_its_text_where_it_comes_whole() -> None:
    base = {"status_code": 1027, "status_msg": "output new_sensitive"}
    stopped = {**message("half an", "stop"), "base_resp": base}
    for body in (as_json(stopped), sse(stopped), sse(frame({"role": "assistant"}), stopped)):
        reply = read_body(body).reply
        assert reply is not None
        assert (reply.text, reply.finish, reply.usage.output) == ("half an", "content_filter", 20)
        assert reply.finish_raw == "stop (output flagged: code 1027)"
    empty = read_body(as_json({**stopped, **message("", "stop"), "base_resp": base}))
    assert (empty.error or {})["class"] == "ContentFiltered"


@pytest.mark.parametrize("whole", [True, False])
def test_a_flagged_output_is_filtered_whatever_the_finish_reason_says(whole: bool) -> None:
    flags = {"output_sensitive": True, "output_sensitive_type": 2}
    frames = [text("hi"), {**frame(finish="stop"), **flags}, usage_only()]
    reply = read_body(as_json({**message("hi"), **flags}) if whole else sse(*frames)).reply
    assert reply is not None
    assert (reply.text, reply.finish, reply.finish_raw) == ("hi", "content_filter", "stop (output flagged: sexual)")
    nothing = read_body(as_json({**message(""), **flags}) if whole else sse(*frames[1:]))
    assert (nothing.error or {})["class"] == "ContentFiltered"


@pytest.mark.parametrize("said", ["", "hi"])
def test_the_finish_reason_of_a_filter(said: str) -> None:
    outcome = read_body(sse(text(said, "content_filter"), usage_only()))
    if said:
        assert outcome.reply is not None
        assert (outcome.reply.finish, outcome.reply.finish_raw) == ("content_filter", "content_filter")
    else:
        assert (outcome.error or {})["class"] == "ContentFiltered"


def test_a_flag_of_the_input_does_not_spoil_an_answer() -> None:
    reply = read_body(sse({**text("hi", "stop"), "input_sensitive": True}, usage_only())).reply
    assert reply is not None
    assert reply.finish == "stop"


def test_the_ids_of_a_call_differ_from_answer_to_answer() -> None:
    made = {"function": {"name": "look", "arguments": "{}"}}
    ids = set()
    for name in ("a", "b"):
        reply = read_body(
            json.dumps({**message("", "stop", function_call=made["function"]), "id": name}).encode()
        ).reply
        assert reply is not None
        ids.add(reply.tool_calls[0].id)
    assert len(ids) == 2


def test_the_count_beside_an_error_is_known_and_no_delta_says_it() -> None:
    failure = {**refusal(1000, "unknown error"), "usage": USAGE}
    for body in (sse(failure), sse(text("hello"), failure), as_json(failure)):
        outcome = read_body(body)
        assert outcome.error is not None
        assert outcome.known_usage is not None
        assert (outcome.known_usage.input, outcome.known_usage.output) == (USAGE["prompt_tokens"], 20)
        assert not any(isinstance(delta, UsageDelta) for delta in outcome.deltas)

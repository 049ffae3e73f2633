"""What answers become: blocks, calls, thinking, ends, and bodies that are none of this wire."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer

from loopforge.drivers.bedrock.frames import MAX_FRAME_BYTES
from loopforge.drivers.errors import DriverError, StreamBroken, WireMismatch
from loopforge.drivers.simulator.bedrock import frame
from loopforge.drivers.turn import (
    Finished,
    Image,
    JsonSchema,
    OpaquePart,
    PartEnd,
    ResponseInfo,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Turn,
    Usage,
    UsageDelta,
)
from tests.drivers.bedrock.asking import HI, NOVA, ask, driver_for, opaque
from tests.drivers.bedrock.bodies import (
    START,
    USAGE,
    call,
    closing,
    delta,
    error_of,
    exception,
    frames,
    metadata,
    opening,
    read_body,
    reply_of,
    said,
    stop,
    text,
    thinking,
    whole,
)
from tests.drivers.exchanges import PROVIDER

NINE = Usage(input=5, output=9)


def own(data: dict[str, Any]) -> Any:
    return opaque(data, model="recorded-model")


def test_a_stream_becomes_deltas_in_order() -> None:
    body = said(
        thinking(0, "Hm", "m", signature="s1"), text(1, "Hel", "lo"), call(2, '{"at"', ": 1}"), reason="tool_use"
    )
    outcome = read_body(body, headers={"x-amzn-requestid": "r-1"})
    whole_call = ToolCall(id="tooluse_1", name="look", arguments='{"at": 1}', parsed={"at": 1})
    assert outcome.deltas == (
        ResponseInfo(request_id="r-1"),
        ThinkingDelta("Hm"),
        ThinkingDelta("m"),
        PartEnd(own({"signature": "s1"})),
        TextDelta("Hel"),
        TextDelta("lo"),
        PartEnd(),
        ToolCallStart(0, "tooluse_1", "look"),
        ToolCallArguments(0, '{"at"'),
        ToolCallArguments(0, ": 1}"),
        ToolCallEnd(0, whole_call),
        Finished("tool_calls", "tool_use"),
        UsageDelta(NINE),
    )
    assert outcome.events == 14
    assert reply_of(outcome).request_id == "r-1"


def test_a_whole_answer_says_the_same_as_its_stream() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s1"}}}
    use = {"toolUse": {"toolUseId": "tooluse_1", "name": "look", "input": {"at": 1}, "type": "tool_use"}}
    from_whole = reply_of(read_body(whole(thought, {"text": "Hello"}, use, reason="tool_use")))
    stream = said(thinking(0, "Hm", signature="s1"), text(1, "Hello"), call(2, '{"at":1}'), reason="tool_use")
    from_stream = reply_of(read_body(stream))
    assert from_whole == from_stream


@pytest.mark.parametrize(
    ("pieces", "arguments", "parsed"),
    [
        ((), "{}", {}),
        (("",), "{}", {}),
        (("null",), "{}", {}),
        (("{", '"a"', ":1}"), '{"a":1}', {"a": 1}),
        (("{",), "{", None),
        (("[1]",), "[1]", None),
    ],
)
def test_arguments_are_an_object_or_invalid(pieces: tuple[str, ...], arguments: str, parsed: Any) -> None:
    (made,) = reply_of(read_body(said(call(0, *pieces), reason="tool_use"))).tool_calls
    assert (made.arguments, made.parsed, made.invalid) == (arguments, parsed, parsed is None)


def test_parallel_calls_are_told_apart_also_with_the_same_id_or_none() -> None:
    body = said(call(0, "{}"), call(1, "{}"), call(2, "{}", call_id=""), reason="tool_use")
    ids = [made.id for made in reply_of(read_body(body, headers={"x-amzn-requestid": "r"})).tool_calls]
    assert len(set(ids)) == 3
    assert ids[0] == "tooluse_1"
    assert ids == [made.id for made in reply_of(read_body(body, cut=1, headers={"x-amzn-requestid": "r"})).tool_calls]


def test_blocks_without_a_stop_or_a_start_are_taken_to_be_what_they_must_have_been() -> None:
    body = frames(
        delta(0, {"text": "a"}), delta(1, {"reasoningContent": {"text": "b"}}), delta(0, {"text": "c"}), stop()
    )
    message = reply_of(read_body(body)).message
    assert [type(part) for part in message.content] == [Text, Thinking, Text]
    assert (message.text, message.thinking) == ("ac", "b")


def test_thinking_that_is_not_shown_is_kept_in_place() -> None:
    pieces = [base64.b64encode(data).decode() for data in (b"one", b"two!")]
    body = said([delta(0, {"reasoningContent": {"redactedContent": piece}}) for piece in pieces], text(1, "x"))
    part = reply_of(read_body(body)).message.content[0]
    joined = base64.b64encode(b"onetwo!").decode()
    assert part == OpaquePart(opaque=own({"redacted": joined}))
    again = reply_of(read_body(whole({"reasoningContent": {"redactedContent": joined}}, {"text": "x"})))
    assert again.message.content[0] == part


def test_a_signature_without_thinking_is_thinking() -> None:
    message = reply_of(read_body(said(thinking(0, signature="s"), text(1, "x")))).message
    assert message.content[0] == Thinking(text="", opaque=own({"signature": "s"}))


def test_citations_stay_with_their_text() -> None:
    citation = {"title": "Paper", "location": {"documentPage": {"documentIndex": 0, "start": 1}}}
    stream = said(
        [delta(0, {"text": "so "}), delta(0, {"citation": citation}), delta(0, {"text": "it is"}), closing(0)]
    )
    block = {"citationsContent": {"content": [{"text": "so it is"}], "citations": [citation]}}
    for body in (stream, whole(block)):
        assert reply_of(read_body(body)).message.content == (
            Text(text="so it is", opaque=own({"citations": [citation]})),
        )


def test_what_the_service_runs_itself_is_neither_text_nor_a_call() -> None:
    use = {"toolUseId": "t", "name": "nova_code_interpreter", "type": "server_tool_use"}
    result = {"toolUseId": "t", "type": "nova_code_interpreter_result", "status": "success"}
    stream = said(
        call(0, '{"code": "1"}', call_id="t", name="nova_code_interpreter", type="server_tool_use"),
        [opening(1, {"toolResult": result}), delta(1, {"toolResult": [{"text": "1"}]}), closing(1)],
        text(2, "one"),
    )
    reply = reply_of(read_body(stream))
    assert (reply.text, reply.tool_calls, reply.finish) == ("one", (), "stop")
    kept = [part.opaque.data["block"] for part in reply.message.content if isinstance(part, OpaquePart)]
    assert kept == [
        {"toolUse": use, "deltas": [{"input": '{"code": "1"}'}]},
        {"toolResult": result, "deltas": [[{"text": "1"}]]},
    ]
    from_whole = reply_of(read_body(whole({"toolUse": {**use, "input": {}}}, {"toolResult": result}, {"text": "one"})))
    assert [part.opaque.data["block"] for part in from_whole.message.content if isinstance(part, OpaquePart)] == [
        {"toolUse": {**use, "input": {}}},
        {"toolResult": result},
    ]


def test_an_image_of_the_models_making_is_a_part() -> None:
    data = base64.b64encode(b"\x89PNG").decode()
    picture = Image(data=b"\x89PNG", media_type="image/png")
    stream = said(
        [opening(0, {"image": {"format": "png"}}), delta(0, {"image": {"source": {"bytes": data}}}), closing(0)]
    )
    for body in (stream, whole({"image": {"format": "png", "source": {"bytes": data}}})):
        assert reply_of(read_body(body)).message.content == (picture,)


@pytest.mark.parametrize("stream", [True, False])
def test_the_input_of_the_answer_tool_is_the_answers_text(stream: bool) -> None:
    output = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "integer"}}}, name="result")
    turn = ask(HI, model=NOVA, output=output)
    use = {"toolUse": {"toolUseId": "t", "name": "result", "input": {"a": 1}}}
    body = said(call(0, '{"a"', ":1}", name="result"), reason="tool_use") if stream else whole(use, reason="tool_use")
    reply = reply_of(read_body(body, turn=turn))
    assert (reply.text, reply.finish, reply.tool_calls) == ('{"a":1}', "stop", ())


# -- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("model_context_window_exceeded", "context_overflow"),
        ("something_new", "unknown"),
    ],
)
def test_each_stop_reason_has_a_neutral_finish(raw: str, finish: str) -> None:
    for body in (said(text(0, "x"), reason=raw), whole({"text": "x"}, reason=raw)):
        reply = reply_of(read_body(body))
        assert (reply.finish, reply.finish_raw, reply.text) == (finish, raw, "x")
        assert bool(reply.warnings) == (finish == "content_filter")


@pytest.mark.parametrize("raw", ["malformed_tool_use", "malformed_model_output"])
def test_a_malformed_answer_is_a_failed_generation(raw: str) -> None:
    for body in (said(text(0, "x"), reason=raw), whole({"text": "x"}, reason=raw)):
        outcome = read_body(body)
        assert (error_of(outcome)["class"], error_of(outcome)["raw"]) == ("GenerationFailed", raw)
        assert outcome.partial is not None
        assert outcome.partial.text == "x"


def test_a_filter_that_left_nothing_has_filtered_the_turn() -> None:
    for body in (said(reason="guardrail_intervened"), whole(reason="content_filtered")):
        assert error_of(read_body(body))["class"] == "ContentFiltered"


def test_an_answer_without_content_or_reason_has_failed_and_one_with_content_ends_unknown() -> None:
    for body in (frames(START, stop(None)), whole(reason=None)):
        assert error_of(read_body(body))["class"] == "GenerationFailed"
    for body in (frames(START, text(0, "x"), stop(None)), whole({"text": "x"}, reason=None)):
        assert reply_of(read_body(body)).finish == "unknown"


def test_an_empty_answer_that_was_ended_is_done_with_a_warning() -> None:
    for body in (said(), whole()):
        assert reply_of(read_body(body)).warnings == ("empty answer",)


@pytest.mark.parametrize("kept", range(1, 5))
def test_a_stream_that_ends_before_its_stop_is_broken(kept: int) -> None:
    events = [START, *text(0, "a", "b"), stop()][:kept]
    outcome = read_body(frames(*events))
    assert error_of(outcome)["class"] == "StreamBroken"


def test_a_stream_that_is_cut_behind_its_stop_is_whole() -> None:
    body = said(text(0, "x"))
    for left_out in range(1, len(frames(metadata())) + 1):
        assert reply_of(read_body(body[:-left_out])).text == "x"
    assert reply_of(read_body(body + b"\0garbage and more of it")).usage == NINE
    assert reply_of(read_body(frames(START, text(0, "x"), stop(), exception("internalServerException")))).text == "x"


def test_a_second_start_is_a_mismatch() -> None:
    assert error_of(read_body(frames(START, text(0, "x"), START)))["class"] == "WireMismatch"


# -- exceptions in streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("throttlingException", "Too many tokens, please wait before trying again.", "RateLimited"),
        ("internalServerException", "x", "ProviderUnavailable"),
        ("modelStreamErrorException", "x", "ProviderUnavailable"),
        ("serviceUnavailableException", "x", "Overloaded"),
        ("validationException", "The input is bad.", "TurnRefused"),
        ("validationException", "Input is too long for requested model.", "ContextTooLong"),
        ("modelTimeoutException", "x", "ProviderUnavailable"),
        ("newException", "x", "StreamBroken"),
    ],
)
def test_an_exception_frame_is_the_error_it_would_be_before_the_stream(kind: str, message: str, expected: str) -> None:
    body = frames(START, text(0, "some"), exception(kind, message))
    for cut in (0, 1):
        outcome = read_body(body, cut=cut)
        assert error_of(outcome)["class"] == expected
        assert message.rstrip(".") in error_of(outcome)["what"]
        assert outcome.partial is not None
        assert outcome.partial.text == "some"


def test_an_exception_before_any_content_without_a_known_name_is_unavailable() -> None:
    assert error_of(read_body(frames(START, exception("newException"))))["class"] == "ProviderUnavailable"


def test_an_error_frame_has_its_message_in_a_header() -> None:
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in (
            (b":message-type", b"error"), (b":error-code", b"throttlingException"), (b":error-message", b"slow down"),
        )
    )  # fmt: skip
    prelude = struct.pack(">II", 16 + len(headers), len(headers))
    data = prelude + struct.pack(">I", crc32(prelude)) + headers
    outcome = read_body(frames(START, data + struct.pack(">I", crc32(data))))
    assert error_of(outcome)["class"] == "RateLimited"
    assert "slow down" in error_of(outcome)["what"]


# -- bodies that are none of this wire --------------------------------------------------------------------------------


def test_a_frame_whose_sum_is_wrong_breaks_the_stream_and_a_first_one_is_a_mismatch() -> None:
    good, bad = frames(START, delta(0, {"text": "x"})), bytearray(frames(delta(0, {"text": "y"})))
    bad[-8] ^= 1
    for cut in (0, 1):
        outcome = read_body(good + bytes(bad), cut=cut)
        assert (error_of(outcome)["class"], outcome.deltas[-1]) == ("StreamBroken", TextDelta("x"))
        assert error_of(read_body(bytes(bad), cut=cut))["class"] == "WireMismatch"


def test_a_damaged_length_is_noticed_at_once() -> None:
    reader = driver_for().new_reader(ask(HI), {})
    assert reader.feed(frames(START))
    prelude = struct.pack(">II", 5000, 10)
    with pytest.raises(StreamBroken):
        reader.feed(prelude + struct.pack(">I", crc32(prelude) ^ 1))


@pytest.mark.parametrize("length", [0, 15, MAX_FRAME_BYTES + 1])
def test_an_impossible_length_is_refused_before_so_many_bytes_have_come(length: int) -> None:
    prelude = struct.pack(">II", length, 0)
    reader = driver_for().new_reader(ask(HI), {})
    with pytest.raises(WireMismatch):
        reader.feed(prelude + struct.pack(">I", crc32(prelude)))


def test_a_large_frame_in_small_pieces_takes_no_time_that_grows_with_its_square() -> None:
    """The pieces are so many that copying all that came, at each of them, would take minutes."""
    body = said(text(0, "x" * 4_000_000))
    outcome = read_body(body, cut=100)
    assert len(reply_of(outcome).text) == 4_000_000


def test_an_event_that_is_no_json_object_breaks_the_stream() -> None:
    for payload in (b'{"contentBlockIndex":0,"delta":{"te', b"[1]", b"nothing", b"\xff"):
        body = frames(START, delta(0, {"text": "x"}), frame("event", "contentBlockDelta", payload))
        assert error_of(read_body(body))["class"] == "StreamBroken"


def test_events_and_deltas_that_are_not_known_are_told_and_do_no_harm() -> None:
    body = said(("tokenCount", {"n": 1}), [delta(0, {"hologram": {}}), delta(0, {"text": "x"})])
    reply = reply_of(read_body(body))
    assert reply.text == "x"
    assert reply.warnings == (
        "an event of type 'tokenCount' was not read",
        "a delta of type 'hologram' was not read",
    )


def test_keep_alives_are_no_events() -> None:
    reader = driver_for().new_reader(ask(HI), {})
    assert reader.feed(frame("event", "heartbeat", b"") * 3) == []
    assert reader.events == 0
    reader.feed(frames(START))
    assert reader.events == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "StreamBroken"),
        (b" \n", "StreamBroken"),
        (b"<html><title>Sign in</title></html>", "WireMismatch"),
        (b"data: {}\n\n", "WireMismatch"),
        (b"{}", "WireMismatch"),
        (b"[1]", "WireMismatch"),
        (b'{"output": {}}', "WireMismatch"),
        (b'{"output"', "StreamBroken"),
        (b"{]}", "WireMismatch"),
        (frames(("tokenCount", {})), "WireMismatch"),
        (b'{"message": "Internal"}', "ProviderUnavailable"),
        (b'{"__type": "com.amazon.coral#ThrottlingException", "message": "slow"}', "RateLimited"),
        (b'{"error": {"message": "Input is too long for requested model", "code": "x"}}', "ContextTooLong"),
    ],
)
def test_a_body_that_is_no_answer_is_named_for_what_it_is(body: bytes, expected: str) -> None:
    for cut in (0, 1):
        assert error_of(read_body(body, cut=cut))["class"] == expected


def test_what_is_raised_once_is_raised_again() -> None:
    reader = driver_for().new_reader(ask(HI), {})
    assert reader.feed(frames(START, exception("throttlingException")))
    with pytest.raises(DriverError):
        reader.feed(b"")
    with pytest.raises(DriverError):
        reader.close()


# -- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (USAGE, NINE),
        (
            {"inputTokens": 5, "outputTokens": 9, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 20},
            Usage(input=125, output=9, cache_read=100, cache_write=20),
        ),
        (
            {"inputTokens": 5, "outputTokens": 9, "cacheReadInputTokenCount": 100},
            Usage(input=105, output=9, cache_read=100),
        ),
        ({"totalTokens": 14}, Usage()),
        ({"inputTokens": None, "outputTokens": "9"}, Usage()),
        ({"inputTokens": -1, "outputTokens": 2**70}, Usage()),
        ({"inputTokens": 5.0, "outputTokens": True}, Usage(input=5)),
    ],
)
def test_input_includes_cached_tokens_and_what_was_not_said_stays_open(raw: dict[str, Any], usage: Usage) -> None:
    stream = frames(START, text(0, "x"), stop(), ("metadata", {"usage": raw}))
    for body in (stream, whole({"text": "x"}, usage=raw)):
        assert reply_of(read_body(body)).usage == usage


def test_the_simulators_frames_are_what_botocore_reads() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(frame("event", "messageStop", b'{"stopReason":"end_turn"}'))
    found = next(buffer)
    assert found.headers == {
        ":event-type": "messageStop", ":content-type": "application/json", ":message-type": "event",
    }  # fmt: skip
    assert json.loads(found.payload) == {"stopReason": "end_turn"}


def test_the_origin_is_the_provider_and_the_model_as_asked() -> None:
    turn = Turn(kind="coding", messages=(HI,), provider=PROVIDER, model="us.anthropic.x")
    part = reply_of(read_body(said(thinking(0, "a", signature="s")), turn=turn)).message.content[0]
    assert isinstance(part, Thinking)
    assert part.opaque == opaque({"signature": "s"}, model="us.anthropic.x")

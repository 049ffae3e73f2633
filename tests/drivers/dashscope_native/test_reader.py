"""Answers by hand, for what no recording holds: frames, members, endings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import pytest

from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.turn import (
    Audio,
    Finished,
    Image,
    OpaquePart,
    PartEnd,
    ResponseInfo,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Usage,
    UsageDelta,
    user,
)
from tests.drivers.dashscope_native.asking import (
    Json,
    ask,
    body,
    driver_for,
    error_frame,
    fragment,
    message,
    opaque,
    read_body,
    sse,
)
from tests.drivers.exchanges import Outcome

STOP = body(message("", finish="stop"))


def whole(output: Json, usage: Json | None = None, **members: Any) -> bytes:
    return json.dumps(body(output, usage, **members)).encode()


def replied(data: bytes, **how: Any) -> Any:
    outcome = read_body(data, **how)
    assert outcome.reply is not None, outcome.error
    return outcome.reply


def failed(data: bytes, **how: Any) -> tuple[str, str]:
    outcome: Outcome = read_body(data, **how)
    assert outcome.error is not None, outcome.reply
    return outcome.error["class"], outcome.error["what"]


def frames_of(texts: Iterable[str]) -> list[Json]:
    return [body(message(text)) for text in texts]


# -- deltas -----------------------------------------------------------------------------------------------------------


def test_a_stream_becomes_deltas_in_order() -> None:
    usage = {"input_tokens": 5, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}}
    data = sse(
        body(message("", reasoning_content="hm"), usage),
        body(message("", reasoning_content="m")),
        body(message("He", reasoning_content="")),
        body(message("llo"), {**usage, "output_tokens": 10}),
        body(message("", finish="stop"), {**usage, "output_tokens": 11}),
    )
    assert read_body(data).deltas == (
        ResponseInfo("", "answer-1"),
        ThinkingDelta("hm"),
        ThinkingDelta("m"),
        PartEnd(opaque()),
        TextDelta("He"),
        TextDelta("llo"),
        UsageDelta(Usage(input=5, output=11, reasoning=4)),
        Finished("stop", "stop"),
    )
    for cut in (1, 2, 3, 5, 7, 100):
        assert read_body(data, cut=cut) == read_body(data)


def test_the_id_of_the_header_counts_before_that_of_the_body() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {"x-request-id": "r-9"})
    assert reader.feed(sse(STOP))[0] == ResponseInfo("", "r-9")


@pytest.mark.parametrize("form", ["stream", "whole"])
def test_parts_of_content_are_joined_and_media_are_parts_of_their_own(form: str) -> None:
    png = base64.b64encode(b"\x89PNG").decode()
    content: list[Any] = [
        {"text": "a"}, {"image": "https://example.com/a.png"}, {"image": f"data:image/png;base64,{png}"},
        {"audio": {"data": base64.b64encode(b"pcm").decode(), "url": ""}}, "b", {"video": "v"}, 7, {"text": None},
    ]  # fmt: skip
    output = message(content, finish="stop")
    reply = replied(sse(body(output)) if form == "stream" else whole(output))
    assert reply.text == "ab"
    assert [part for part in reply.message.content if isinstance(part, Image | Audio)] == [
        Image(url="https://example.com/a.png"),
        Image(data=b"\x89PNG", media_type="image/png"),
        Audio(data=b"pcm", media_type="audio/pcm"),
    ]
    assert reply.warnings == ("a part 'video' of the answer was not read",)


def test_speech_beside_the_choices_is_a_part_and_its_address_is_kept() -> None:
    output = {**message("hi", finish="stop"), "audio": {"data": "cGNt", "url": "https://example.com/a.wav"}}
    reply = replied(whole(output))
    assert Audio(data=b"pcm", media_type="audio/pcm") in reply.message.content
    assert reply.message.content[-1] == OpaquePart(opaque=opaque(audio={"url": "https://example.com/a.wav"}))
    assert replied(whole({**output, "audio": {"data": "no base64!"}})).text == "hi"


def test_thinking_and_text_may_take_turns() -> None:
    data = sse(
        body(message("", reasoning_content="a")), body(message("b")), body(message("", reasoning_content="c")), STOP
    )
    assert replied(data).message.content == (
        Thinking(text="a", opaque=opaque()), Text(text="b"), Thinking(text="c", opaque=opaque()),
    )  # fmt: skip


def test_what_the_services_own_tools_did_is_kept_for_clients() -> None:
    found: Json = {"search_results": [{"url": "https://example.com"}]}
    empty: Json = {"search_results": [], "extra_tool_info": []}
    ran = [{"type": "code_interpreter", "code_interpreter": {"code": "1+1"}}]
    data = sse(
        body({**message(""), "search_info": found}),
        body({**message("a"), "search_info": empty, "tool_info": []}),
        body({**message("", finish="stop"), "search_info": {"search_results": ["later"]}, "tool_info": ran}),
    )
    reply = replied(data)
    assert reply.tool_calls == ()
    assert reply.message.content[1:] == (OpaquePart(opaque=opaque(search_info=found, tool_info=ran)),)


def test_a_stop_with_nothing_but_search_results_is_an_empty_answer() -> None:
    output = {**message("", finish="stop"), "search_info": {"search_results": [1]}}
    assert replied(whole(output)).warnings == ("empty answer",)
    assert replied(sse(STOP)).warnings == ("empty answer",)


def test_numbers_that_no_channel_carries_are_not_kept() -> None:
    output = {**message("a", finish="stop"), "search_info": {"search_results": [10**30]}}
    assert replied(whole(output)).message.content == (Text(text="a"),)


def test_of_several_choices_the_first_counts() -> None:
    choices = [{"index": n, "message": {"content": str(n)}, "finish_reason": "stop"} for n in (0, 1)]
    assert replied(whole({"choices": choices})).text == "0"
    interleaved = [
        body({"choices": [{"index": n, "message": {"content": f"{n}{text}"}, "finish_reason": "null"}]})
        for text in "abc"
        for n in (0, 1)
    ]
    ends = [body({"choices": [{"index": n, "message": {"content": ""}, "finish_reason": "stop"}]}) for n in (1, 0)]
    assert replied(sse(*interleaved, *ends)).text == "0a0b0c"


def test_the_format_of_old_is_text_without_choices() -> None:
    reply = replied(whole({"text": "hello", "finish_reason": "length"}))
    assert (reply.text, reply.finish, reply.finish_raw) == ("hello", "length", "length")
    frames = [body({"text": text, "finish_reason": finish}) for text, finish in (("he", "null"), ("llo", "stop"))]
    assert replied(sse(*frames)).text == "hello"


def test_research_thinks_in_its_phases_and_answers_in_the_last() -> None:
    def phase(name: str, content: str, *, done: bool = False, **members: Any) -> Json:
        message = {"phase": name, "role": "assistant", "content": content, "status": "typing", **members}
        return body({"message": message, "fininshed": done, "fininshed_reason": "stop" if done else "null"})

    data = sse(
        phase("ResearchPlanning", "First, "),
        phase("WebResearch", "", extra={"deep_research": {"research": {"id": 1}}}),
        phase("KeepAlive", ""),
        phase("answer", "It "),
        phase("answer", "is so.", done=True),
    )
    outcome = read_body(data)
    assert outcome.reply is not None
    assert (outcome.reply.message.thinking, outcome.reply.text) == ("First, ", "It is so.")
    assert outcome.reply.warnings == ("the steps of the model's research were not kept",)
    assert (outcome.reply.finish, outcome.events) == ("stop", 4)  # to keep alive is no progress


# -- tool calls -------------------------------------------------------------------------------------------------------


def test_calls_are_told_apart_by_index_and_keep_their_first_id() -> None:
    data = sse(
        body(message("", tool_calls=[fragment(0, "look", '{"at"', "call_a"), fragment(1, "point", "", "call_b")])),
        body(message("", tool_calls=[fragment(1, "", '{"to": 1}'), fragment(0, "", ': "Rome"}')])),
        body(message("", finish="tool_calls")),
    )
    reply = replied(data)
    assert [(call.id, call.name, call.parsed) for call in reply.tool_calls] == [
        ("call_a", "look", {"at": "Rome"}),
        ("call_b", "point", {"to": 1}),
    ]
    assert reply.finish == "tool_calls"


@pytest.mark.parametrize(
    ("arguments", "parsed", "invalid"),
    [
        ("", {}, False),
        ("null", {}, False),
        ('{"a": 1}', {"a": 1}, False),
        ('{"a', None, True),
        ({"a": 1}, {"a": 1}, False),
    ],
)
def test_arguments_are_read_as_an_object_or_marked(arguments: Any, parsed: Any, invalid: bool) -> None:
    output = message("", tool_calls=[fragment(0, "look", arguments, "call_a")], finish="stop")
    for data in (whole(output), sse(body(output))):
        reply = replied(data)
        assert (reply.tool_calls[0].parsed, reply.tool_calls[0].invalid) == (parsed, invalid)
        assert (reply.finish, reply.finish_raw) == ("tool_calls", "stop")


def test_calls_of_a_whole_answer_are_apart_even_without_index_and_id() -> None:
    calls = [{"type": "function", "function": {"name": "look", "arguments": "{}"}}] * 2
    reply = replied(whole(message("", tool_calls=calls, finish="tool_calls")))
    assert len({call.id for call in reply.tool_calls}) == 2


def test_a_call_that_was_cut_by_the_limit_stays_and_is_marked() -> None:
    reply = replied(whole(message("", tool_calls=[fragment(0, "look", '{"a', "c")], finish="length")))
    assert (reply.finish, reply.tool_calls[0].invalid) == ("length", True)


def test_empty_lists_of_calls_say_nothing() -> None:
    assert replied(whole(message("a", tool_calls=[], finish="stop"))).finish == "stop"


# -- frames and forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 7])
@pytest.mark.parametrize("lines", ["\n", "\r\n", "\r"])
def test_frames_are_read_with_or_without_empty_lines_blanks_and_ids(lines: str, cut: int) -> None:
    first, second = (json.dumps(body(message(text))) for text in ("he", "llo"))
    stop = json.dumps(STOP)
    forms = [
        f"data:{first}\n\ndata:{second}\n\ndata:{stop}\n\n",
        f"data: {first}\ndata: {second}\ndata: {stop}",
        f"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{first}\nid:2\ndata:{second}\n:ping\ndata:{stop}\n",
        f"\n\n:ping\n\ndata:{first}\n\ndata:{second}\n\ndata:{stop}\n\ndata:[DONE]\n\n",
        f"\ufeffdata:{first}\n\ndata:null\n\ndata:{second}\n\nevent:result\ndata:{stop}\n\n",
    ]
    for form in forms:
        assert replied(form.replace("\n", lines).encode(), cut=cut).text == "hello"


def test_json_over_several_lines_of_a_frame_is_one_frame() -> None:
    pretty = "".join(f"data:{line}\n" for line in json.dumps(body(message("hello")), indent=1).splitlines())
    assert replied(f"id:1\n{pretty}\nid:2\ndata:{json.dumps(STOP)}\n\n".encode()).text == "hello"
    assert replied(f"id:1\n{pretty}id:2\ndata:{json.dumps(STOP)}\n\n".encode()).text == "hello"


def test_comments_are_no_progress() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {})
    for comment in (b":\n\n", b": keep-alive\n\n", b":HTTP_STATUS/200\n", b"id:1\nevent:result\n"):
        assert reader.feed(comment) == []
    assert reader.events == 0
    reader.feed(b"data:" + json.dumps(body(message("a"))).encode() + b"\n")
    assert reader.events == 1


@pytest.mark.parametrize("stream", [True, False])
def test_either_form_is_read_whatever_was_asked_for(stream: bool) -> None:
    turn = ask(user("hello"), stream=stream)
    assert replied(whole(message("hello", finish="stop")), turn=turn).text == "hello"
    assert replied(sse(*frames_of(["he", "llo"]), STOP), turn=turn).text == "hello"
    pretty = json.dumps(body(message("hello", finish="stop")), indent=2).encode()
    assert replied(b"\xef\xbb\xbf \n" + pretty, turn=turn, cut=3).text == "hello"
    assert replied(b"[" + pretty + b"]", turn=turn).text == "hello"


# -- endings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "finish"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("new", "unknown")],
)
def test_a_finish_reason_is_neutral_and_kept(raw: str, finish: str) -> None:
    for data in (whole(message("a", finish=raw)), sse(body(message("a", finish=raw)))):
        reply = replied(data)
        assert (reply.finish, reply.finish_raw, reply.text) == (finish, raw, "a")


@pytest.mark.parametrize("raw", ["error", "network_error", "insufficient_system_resource", "malformed_function_call"])
def test_a_failed_generation_is_a_failed_turn(raw: str) -> None:
    assert failed(whole(message("a", finish=raw)))[0] == "GenerationFailed"
    outcome = read_body(sse(body(message("a")), body(message("", finish=raw))))
    assert outcome.error is not None
    assert (outcome.error["class"], outcome.error["raw"], outcome.error["started"]) == ("GenerationFailed", raw, True)
    assert outcome.partial is not None


def test_a_filter_that_left_nothing_is_a_failed_turn() -> None:
    assert failed(whole(message("", finish="content_filter")))[0] == "ContentFiltered"


@pytest.mark.parametrize("finish", ["null", None, ""])
def test_a_whole_answer_without_a_finish_reason_is_unknown_or_empty(finish: Any) -> None:
    assert replied(whole(message("a", finish=finish))).finish == "unknown"
    assert failed(whole(message("", finish=finish)))[0] == "GenerationFailed"
    assert (
        failed(whole({"choices": []}))[0] == "WireMismatch" or failed(whole({"choices": []}))[0] == "GenerationFailed"
    )


def test_a_stream_that_ends_before_its_finish_is_broken_and_keeps_what_came() -> None:
    for cut in (0, 1):
        outcome = read_body(sse(*frames_of(["on", "ce"])), cut=cut)
        assert outcome.error is not None
        assert outcome.error["class"] == "StreamBroken"
        assert outcome.partial is not None
        assert outcome.partial.text == "once"


def test_what_follows_the_finish_changes_nothing_but_usage() -> None:
    data = sse(body(message("a", finish="stop"), {"input_tokens": 1, "output_tokens": 1}), body(message("b")))
    tail = sse(body({}, {"input_tokens": 1, "output_tokens": 5}), error_frame("InternalError"), "data:{cut off")
    reply = replied(data + tail)
    assert (reply.text, reply.usage.output) == ("a", 5)
    again = sse(body({}, {"input_tokens": 1, "output_tokens": 1}))
    assert sum(isinstance(delta, UsageDelta) for delta in read_body(data + again).deltas) == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "StreamBroken"),
        (b"\n\n:ping\n\n", "StreamBroken"),
        (b"id:1\nevent:result\n", "StreamBroken"),
        (b"<!DOCTYPE html><html></html>", "WireMismatch"),
        (b'"hello"', "WireMismatch"),
        (b"{}", "WireMismatch"),
        (b"[]", "WireMismatch"),
        (b'{"request_id":"r"}', "WireMismatch"),
        (b'{"output":"text"}', "WireMismatch"),
        (b'{"output":{"choices', "StreamBroken"),
        (b'{"output":{"choices":[{"message":{"content":"a"}}]', "StreamBroken"),
        (b'{"output" "text"}', "WireMismatch"),
        (b'data:{"output":{"cho\n\n', "StreamBroken"),
        (b"data:hello\n\n", "StreamBroken"),
        (b"data:[1]\n\n", "WireMismatch"),
        (b'data:{"usage":{"input_tokens":1}}\n\n', "StreamBroken"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_named_for_what_it_is(data: bytes, expected: str) -> None:
    for cut in (0, 1, 7):
        assert failed(data, cut=cut)[0] == expected


def test_a_line_without_end_is_stopped_at_the_bound() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {})
    reader.feed(b'data:{"output":{"choices":[{"message":{"content":"')
    for _ in range(31):
        assert reader.feed(b"x" * 2**20) == []
    with pytest.raises(WireMismatch, match="larger than"):
        reader.feed(b"x" * 2**20)


def test_a_body_without_end_is_stopped_at_the_bound() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {})
    for _ in range(64):
        assert reader.feed(b"[" * 2**20) == []
    with pytest.raises(WireMismatch, match="larger than"):
        reader.feed(b"[")


# -- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"input_tokens": 5, "output_tokens": 2}, Usage(input=5, output=2)),
        ({"total_tokens": 7}, Usage()),
        ({"input_tokens": 5, "output_tokens": 2, "image_tokens": 3, "audio_tokens": 1}, Usage(input=5, output=2)),
        ({"input_tokens": 5, "output_tokens": 2, "cached_tokens": 4}, Usage(input=5, output=2, cache_read=4)),
        ({"input_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(input=5, cache_read=5)),
        ({"input_tokens": 5, "prompt_tokens_details": {}}, Usage(input=5)),
        (
            {"input_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1, "cache_creation_input_tokens": 3}},
            Usage(input=5, cache_read=1, cache_write=3),
        ),
        (
            {"input_tokens": 5, "prompt_tokens_details": {"cache_creation": {"ephemeral_5m_input_tokens": 3}}},
            Usage(input=5, cache_write=3),
        ),
        ({"output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}}, Usage(output=9, reasoning=4)),
        ({"output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 4}}, Usage(output=3, reasoning=3)),
        (
            {
                "input_tokens": 1, "output_tokens": 3, "total_tokens": 8,
                "output_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(input=1, output=7, reasoning=4),
        ),
        ({"input_tokens": True, "output_tokens": -1}, Usage()),
        ({"input_tokens": 5.0, "output_tokens": 10**30, "output_tokens_details": 7}, Usage(input=5)),
    ],
)  # fmt: skip
def test_counts_are_what_was_said_in_neutral_accounting(raw: Json, usage: Usage) -> None:
    assert replied(whole(message("a", finish="stop"), raw)).usage == usage


def test_usage_that_is_none_of_it_is_passed_by() -> None:
    data = {**body(message("a", finish="stop")), "usage": [1]}
    assert replied(json.dumps(data).encode()).usage == Usage()

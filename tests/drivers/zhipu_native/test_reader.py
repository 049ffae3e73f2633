"""What form an answer has, what it holds and how it ends, beyond what the recordings show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.turn import (
    Finished,
    Limits,
    Notice,
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
    Usage,
    UsageDelta,
    user,
)
from loopforge.drivers.zhipu_native.answer import MAX_KEPT
from tests.drivers.exchanges import Outcome
from tests.drivers.zhipu_native.asking import (
    ANSWER_ID,
    ask,
    call,
    chunk,
    driver_for,
    opaque,
    read_body,
    sse,
    whole,
)

CUTS = [0, 1, 2, 7]
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def text_of(outcome: Outcome) -> str:
    assert outcome.reply is not None, outcome.error
    return outcome.reply.text


def error_of(outcome: Outcome) -> str:
    assert outcome.error is not None
    return str(outcome.error["class"])


# -- what form the answer has -----------------------------------------------------------------------------------------


def test_a_stream_becomes_deltas_in_order() -> None:
    body = sse(
        chunk(reasoning_content="hm"),
        chunk(content="\nhi"),
        chunk(tool_calls=[call(arguments='{"a":1}')]),
        chunk("tool_calls", USAGE, content=""),
    )
    made = ToolCall(id="call_1", name="look", arguments='{"a":1}', parsed={"a": 1})
    assert read_body(body).deltas == (
        ResponseInfo("glm-m", ANSWER_ID),
        ThinkingDelta("hm"),
        PartEnd(opaque(field="reasoning_content")),
        TextDelta("hi"),
        ToolCallStart(0, "call_1", "look"),
        ToolCallArguments(0, '{"a":1}'),
        ToolCallEnd(0, made),
        UsageDelta(Usage(input=9, output=4)),
        Finished("tool_calls", "tool_calls"),
    )


@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_asked_for_and_answered_by_plain_json_is_read(cut: int) -> None:
    assert text_of(read_body(whole(content="\nhello"), cut=cut)) == "hello"


@pytest.mark.parametrize("cut", CUTS)
def test_a_whole_answer_asked_for_and_streamed_is_read(cut: int) -> None:
    turn = ask(user("hello"), stream=False)
    assert text_of(read_body(sse(chunk(content="hello"), chunk("stop", content="")), cut=cut, turn=turn)) == "hello"


@pytest.mark.parametrize("cut", CUTS)
def test_lines_need_no_blank_line_after_the_last_and_comments_are_no_events(cut: int) -> None:
    body = b": hello\n\n" + sse(chunk(content="a"), ": keep-alive\n\n", chunk("stop")).rstrip(b"\n")
    outcome = read_body(body.replace(b"\n", b"\r\n"), cut=cut)
    assert text_of(outcome) == "a"
    assert outcome.events == 3


def test_events_named_as_keep_alives_are_none() -> None:
    body = sse("event: ping\ndata: {}\n\n", chunk("stop", content="a"))
    assert read_body(body).events == 2


def test_the_reader_says_how_far_it_is() -> None:
    reader = driver_for().new_reader(ask(user("hello")), {})
    reader.feed(sse(chunk(content="a"), done=False))
    assert (reader.events, reader.done) == (1, False)
    reader.feed(sse(chunk("stop")))
    assert (reader.events, reader.done) == (3, True)
    assert reader.feed(b"data: nonsense\n\n") == []
    assert reader.close() == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "StreamBroken"),
        (b"\n\n", "StreamBroken"),
        (b": only comments\n\n", "StreamBroken"),
        (b"<html>sign in</html>", "WireMismatch"),
        (b"[1]", "WireMismatch"),
        (b"{}", "WireMismatch"),
        (b'{"choices": "none"}', "WireMismatch"),
        (b'{"choices": []}', "GenerationFailed"),
        (b'{"choices": [{"message": {', "StreamBroken"),
        (b'{"choices": [}', "WireMismatch"),
        (b"data: [1]\n\n", "WireMismatch"),
        (b'data: {"choices"\n\n', "StreamBroken"),
        (b"data: null\n\n", "WireMismatch"),
        (sse(), "GenerationFailed"),
        (sse(chunk(content="")), "GenerationFailed"),
        (sse(chunk(content="a"), done=False), "StreamBroken"),
    ],
)
def test_what_is_no_answer_is_named(body: bytes, error: str) -> None:
    for cut in CUTS:
        assert error_of(read_body(body, cut=cut)) == error


def test_a_stream_that_is_cut_keeps_what_had_come() -> None:
    outcome = read_body(sse(chunk(reasoning_content="hm"), chunk(content="so far"), done=False))
    assert error_of(outcome) == "StreamBroken"
    assert outcome.partial is not None
    assert (outcome.partial.text, outcome.partial.thinking) == ("so far", "hm")


def test_what_comes_cut_behind_the_end_is_not_missed() -> None:
    body = sse(chunk("stop", content="a"), 'data: {"choi\n\n', done=False)
    assert text_of(read_body(body)) == "a"


# -- text and thinking ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "thinking", "text"),
    [
        ("\n\nhello\n", "", "hello\n"),
        ("\n", "", ""),
        (" \nhello", "", " \nhello"),
        ("<think>why</think>\n\nbecause", "why", "because"),
        ("\n<think>\nwhy\n</think>because", "\nwhy\n", "because"),
        ("<think>never closed", "never closed", ""),
        ("a</think>b<think>c", "", "a</think>b<think>c"),
        ("\nIt is <|begin_of_box|>84<|end_of_box|>.", "", "It is 84."),
        ("<|begin_of_box|>\n84<|end_of_box|>", "", "84"),
        ("<think>why</think><|begin_of_box|>84<|end_of_box|>", "why", "84"),
        ("a <|begin_of_b", "", "a <|begin_of_b"),
        ("<thin", "", "<thin"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_line_feeds_tags_and_marks_go_however_they_are_cut(content: str, thinking: str, text: str, size: int) -> None:
    pieces = [chunk(content=content[i : i + size]) for i in range(0, len(content), size)]
    for outcome in (read_body(sse(*pieces, chunk("stop", content=""))), read_body(whole(content=content))):
        assert outcome.reply is not None
        assert (outcome.reply.text, outcome.reply.message.thinking) == (text, thinking)


def test_thinking_says_where_it_came_from() -> None:
    reply = read_body(sse(chunk(content="<think>a</think>b"), chunk("stop"))).reply
    assert reply is not None
    assert reply.message.content == (Thinking(text="a", opaque=opaque(field="think")), Text(text="b"))


def test_reasoning_keeps_its_white_space_and_a_tag_behind_it_is_text() -> None:
    outcome = read_body(sse(chunk(reasoning_content="\n hm \n"), chunk(content="\n<think>a"), chunk("stop")))
    assert outcome.reply is not None
    assert (outcome.reply.message.thinking, outcome.reply.text) == ("\n hm \n", "<think>a")


def test_thinking_goes_on_between_texts() -> None:
    body = sse(
        chunk(reasoning_content="a"), chunk(content="b"), chunk(reasoning_content="c"), chunk("stop", content="d")
    )
    reply = read_body(body).reply
    assert reply is not None
    assert [(type(part), part.text) for part in reply.message.content if isinstance(part, Text | Thinking)] == [
        (Thinking, "a"),
        (Text, "b"),
        (Thinking, "c"),
        (Text, "d"),
    ]


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": ""}, {"content": "\n"}])
def test_an_answer_with_nothing_in_it_is_done_with_a_warning(message: dict[str, Any]) -> None:
    for outcome in (read_body(whole(**message)), read_body(sse(chunk("stop", **message)))):
        assert outcome.reply is not None
        assert (outcome.reply.finish, outcome.reply.warnings) == ("stop", ("empty answer",))


def test_what_a_search_found_is_kept_and_is_no_text() -> None:
    hits = [{"title": "t", "link": "", "refer": "ref_1"}]
    first = {**chunk(content=""), "web_search": hits}
    for body in (sse(first, chunk("stop", content="news")), json.dumps({**whole(content="news"), "web_search": hits})):
        reply = read_body(body if isinstance(body, bytes) else body.encode()).reply
        assert reply is not None
        assert reply.message.content == (Text(text="news"), OpaquePart(opaque=opaque(web_search=hits)))


def test_search_results_without_end_are_refused() -> None:
    hits = [{"content": "x" * (MAX_KEPT // 2)}]
    assert error_of(read_body(sse(*[{**chunk(content="a"), "web_search": hits}] * 3))) == "WireMismatch"


def test_only_the_first_choice_counts() -> None:
    second = {"index": 1, "delta": {"content": "x"}, "finish_reason": "length"}
    body = sse(chunk(content="a"), {"choices": [second]}, chunk("stop", content="b"))
    assert text_of(read_body(body)) == "ab"
    answer = whole(content="a")
    answer["choices"].append({"index": 1, "message": {"content": "x"}, "finish_reason": "length"})
    assert text_of(read_body(answer)) == "a"


# -- tool calls -------------------------------------------------------------------------------------------------------


def test_calls_come_whole_one_a_chunk() -> None:
    body = sse(
        chunk(tool_calls=[call(arguments='{"a":1}')]),
        chunk(tool_calls=[call(arguments='{"a":2}', index=1, call_id="call_2")]),
        chunk("tool_calls", content=""),
    )
    reply = read_body(body).reply
    assert reply is not None
    assert [(made.id, made.parsed) for made in reply.tool_calls] == [("call_1", {"a": 1}), ("call_2", {"a": 2})]


@pytest.mark.parametrize("cut", CUTS)
def test_calls_come_in_pieces_where_that_was_asked_for(cut: int) -> None:
    pieces = ['{"a"', ":", '"b"}']
    body = sse(
        chunk(tool_calls=[call(arguments="")]),
        *(chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in pieces),
        chunk("tool_calls", content=""),
    )
    reply = read_body(body, cut=cut).reply
    assert reply is not None
    assert [(made.id, made.name, made.parsed) for made in reply.tool_calls] == [("call_1", "look", {"a": "b"})]


@pytest.mark.parametrize(("arguments", "parsed"), [("", {}), ("null", {}), ("{}", {}), ('{"a": ', None), ("[1]", None)])
def test_arguments_that_are_none_are_empty_and_bad_ones_make_the_call_invalid(arguments: str, parsed: Any) -> None:
    reply = read_body(whole("tool_calls", content="", tool_calls=[call(arguments=arguments)])).reply
    assert reply is not None
    (made,) = reply.tool_calls
    assert (made.parsed, made.invalid) == (parsed, parsed is None)


def test_the_function_call_of_old_is_one_call() -> None:
    reply = read_body(whole("function_call", content=None, function_call={"name": "look", "arguments": "{}"})).reply
    assert reply is not None
    (made,) = reply.tool_calls
    assert made.name == "look"
    assert made.id.startswith("call_")
    assert reply.finish == "tool_calls"


# -- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "calls", "finish"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("tool_calls", True, "tool_calls"),
        ("length", False, "length"),
        ("length", True, "length"),
        ("sensitive", False, "content_filter"),
        ("model_context_window_exceeded", False, "context_overflow"),
        ("something_new", False, "unknown"),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_a_finish_reason_has_a_neutral_word_with_or_without_done(
    raw: str, calls: bool, finish: str, done: bool
) -> None:
    made = {"tool_calls": [call()]} if calls else {}
    for outcome in (
        read_body(sse(chunk(content="a", **made), chunk(raw, content=""), done=done)),
        read_body(whole(raw, content="a", **made)),
    ):
        assert outcome.reply is not None
        assert (outcome.reply.finish, outcome.reply.finish_raw, outcome.reply.text) == (finish, raw, "a")


@pytest.mark.parametrize(
    ("raw", "error"),
    [("network_error", "GenerationFailed"), ("error", "GenerationFailed"), ("sensitive", "ContentFiltered")],
)
def test_an_end_before_anything_was_said_is_an_error(raw: str, error: str) -> None:
    for outcome in (read_body(sse(chunk(raw, content=""))), read_body(whole(raw, content="\n"))):
        assert error_of(outcome) == error
        assert outcome.error is not None
        assert outcome.error["raw"] == raw


@pytest.mark.parametrize("done", [True, False])
def test_a_failed_generation_keeps_what_had_come(done: bool) -> None:
    outcome = read_body(sse(chunk(content="so far"), chunk("network_error", USAGE, content=""), done=done))
    assert error_of(outcome) == "GenerationFailed"
    assert outcome.partial is not None
    assert outcome.partial.text == "so far"
    assert not any(isinstance(delta, Finished) for delta in outcome.deltas)


def test_a_whole_answer_that_failed_keeps_what_it_holds() -> None:
    outcome = read_body(whole("network_error", content="so far"))
    assert outcome.partial is not None
    assert outcome.partial.text == "so far"


@pytest.mark.parametrize("finish", ["", None])
def test_done_without_a_finish_reason_is_done_and_unknown(finish: Any) -> None:
    reply = read_body(sse(chunk(content="a"))).reply
    assert reply is not None
    assert (reply.finish, reply.finish_raw) == ("unknown", "")
    reply = read_body(whole(finish, content="a")).reply
    assert reply is not None
    assert reply.finish == "unknown"


def test_nothing_is_read_behind_the_end_but_usage() -> None:
    behind = {"choices": [{"index": 0, "delta": {"content": "more"}, "finish_reason": "length"}]}
    usage = {"choices": [], "usage": USAGE}
    outcome = read_body(sse(chunk("stop", content="a"), behind, usage))
    assert outcome.reply is not None
    assert (outcome.reply.text, outcome.reply.finish, outcome.reply.usage.output) == ("a", "stop", 4)
    assert isinstance(outcome.deltas[-1], UsageDelta)


# -- what is said of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({}, Usage()),
        (USAGE, Usage(input=9, output=4)),
        ({"total_tokens": 13}, Usage()),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 5}}, Usage(input=9, output=4, cache_read=5)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 50}}, Usage(input=9, output=4, cache_read=9)),
        ({**USAGE, "completion_tokens_details": {"reasoning_tokens": 3}}, Usage(input=9, output=4, reasoning=3)),
        ({**USAGE, "completion_tokens_details": {"reasoning_tokens": 7}}, Usage(input=9, output=4, reasoning=4)),
        (
            {**USAGE, "total_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 7}},
            Usage(input=9, output=11, reasoning=7),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 2**60}, Usage()),
        ({"prompt_tokens": 9.0, "completion_tokens": True}, Usage(input=9)),
        ({"prompt_tokens": "9", "prompt_tokens_details": None}, Usage()),
    ],
)
def test_usage_says_what_was_said_and_nothing_else(raw: Any, usage: Usage) -> None:
    for body in (sse(chunk("stop", raw, content="a")), json.dumps(whole("stop", raw, content="a")).encode()):
        reply = read_body(body).reply
        assert reply is not None
        assert reply.usage == usage


def test_the_last_usage_counts() -> None:
    body = sse(chunk("", {"prompt_tokens": 9}, content="a"), chunk("stop", USAGE))
    reply = read_body(body).reply
    assert reply is not None
    assert reply.usage == Usage(input=9, output=4)


def test_the_platforms_name_of_the_call_is_its_header_or_in_the_answer() -> None:
    answer = {**whole(content="a"), "request_id": "own"}
    for headers, name in (({"x-log-id": "log"}, "log"), ({}, "own")):
        reply = read_body(answer, headers=headers).reply
        assert reply is not None
        assert reply.request_id == name


def test_limits_in_headers_are_told() -> None:
    reply = read_body(whole(content="a"), headers={"x-ratelimit-remaining-requests": "7"}).reply
    assert reply is not None
    assert reply.limits == Limits(requests_remaining=7)


def test_what_a_filter_says_of_an_answer_is_passed_by() -> None:
    outcome = read_body({**whole(content="a"), "content_filter": [{"role": "assistant", "level": 3}]})
    assert text_of(outcome) == "a"
    assert not any(isinstance(delta, Notice) for delta in outcome.deltas)

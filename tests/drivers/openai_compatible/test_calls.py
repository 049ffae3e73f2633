"""Tool calls, however they come."""

from __future__ import annotations

from typing import Any

import pytest

from loopforge.drivers.turn import (
    Finished,
    OpaquePart,
    ResponseInfo,
    TextDelta,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from tests.drivers.exchanges import Outcome
from tests.drivers.openai_compatible.bodies import call, chunk, opaque, read_body, sse, text, whole


def calls_of(outcome: Outcome) -> list[tuple[str, str, Any]]:
    assert outcome.reply is not None, outcome.error
    return [(item.id, item.name, item.parsed) for item in outcome.reply.tool_calls]


def test_a_call_streams_as_start_pieces_and_end() -> None:
    outcome = read_body(
        sse(
            text("I look."),
            call(index=0, id="a", type="function", function={"name": "look", "arguments": ""}),
            call(index=0, function={"arguments": '{"at"'}),
            call(index=0, id="", function={"name": "", "arguments": ': "it"}'}),
            chunk({}, "tool_calls"),
        )
    )
    arguments = '{"at": "it"}'
    whole_call = ToolCall(id="a", name="look", arguments=arguments, parsed={"at": "it"})
    assert [delta for delta in outcome.deltas if not isinstance(delta, ResponseInfo)] == [
        TextDelta("I look."),
        ToolCallStart(0, "a", "look"),
        ToolCallArguments(0, '{"at"'),
        ToolCallArguments(0, ': "it"}'),
        ToolCallEnd(0, whole_call),
        Finished("tool_calls", "tool_calls"),
    ]


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        pytest.param(
            [{"index": 0, "id": "a"}, {"index": 0, "function": {"name": "f", "arguments": "{}"}}],
            [("a", "f", {})],
            id="the name comes after the id",
        ),
        pytest.param(
            [{"index": 0, "id": "a", "function": {"name": "get_"}}, {"index": 0, "function": {"name": "weather"}},
             {"index": 0, "function": {"arguments": "{}"}}],
            [("a", "get_weather", {})],
            id="a name in pieces",
        ),
        pytest.param(
            [{"index": 0, "id": "a", "function": {"name": "f"}}, {"index": 0, "id": "a", "function": {"name": "f"}},
             {"index": 0, "function": {"name": "f", "arguments": '{"x"'}},
             {"index": 0, "function": {"name": "f", "arguments": ": 1}"}}],
            [("a", "f", {"x": 1})],
            id="a name that is repeated",
        ),
        pytest.param(
            [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
             {"index": 0, "function": {"name": "g", "arguments": "}"}}],
            [("a", "f", {})],
            id="another name after arguments have come",
        ),
        pytest.param(
            [{"index": 0, "function": {"name": "f"}}, {"index": 0, "id": "a", "function": {"arguments": "{}"}}],
            [("a", "f", {})],
            id="the id comes late",
        ),
        pytest.param(
            [{"index": 0, "id": i, "function": {"name": n, "arguments": '{"n": 1}'}} for i, n in ("af", "bg")],
            [("a", "f", {"n": 1}), ("b", "g", {"n": 1})],
            id="whole calls that are all number 0",
        ),
        pytest.param(
            [{"index": i, "id": c, "function": {"name": c, "arguments": '{"n"'}} for i, c in enumerate("ab")]
            + [{"index": i, "function": {"arguments": f": {i}}}"}} for i in (1, 0)],
            [("a", "a", {"n": 0}), ("b", "b", {"n": 1})],
            id="fragments of two calls in turns",
        ),
        pytest.param(
            [{"id": "a", "function": {"name": "f", "arguments": '{"x"'}}, {"function": {"arguments": ": 1}"}},
             {"id": "b", "function": {"name": "g", "arguments": "{}"}}],
            [("a", "f", {"x": 1}), ("b", "g", {})],
            id="no index",
        ),
        pytest.param(
            [{"index": "0", "id": "a", "function": {"name": "f"}}, {"index": "0", "function": {"arguments": "{}"}}],
            [("a", "f", {})],
            id="an index as text",
        ),
        pytest.param(
            [{"index": 0, "id": "a", "function": {"name": "f", "arguments": None}}, {"index": 0, "function": {}},
             {"index": 0}, {"index": 0, "function": None}, "nonsense", None],
            [("a", "f", {})],
            id="empty fragments",
        ),
        pytest.param(
            [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": [1]}}}],
            [("a", "f", {"x": [1]})],
            id="arguments as an object",
        ),
        pytest.param(
            [{"index": 1, "id": "a", "function": {"name": "f"}},
             {"index": 2, "id": "b", "function": {"name": "g", "arguments": '{"y": 2}'}}],
            [("a", "f", {}), ("b", "g", {"y": 2})],
            id="a call without arguments before one with them",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [0, 1])
def test_calls_are_put_together_however_a_vendor_cuts_them(fragments: list[Any], expected: list[Any], cut: int) -> None:
    outcome = read_body(sse(*(chunk({"tool_calls": [item]}) for item in fragments), chunk({}, "tool_calls")), cut=cut)
    assert calls_of(outcome) == expected
    starts = [delta for delta in outcome.deltas if isinstance(delta, ToolCallStart)]
    assert [(item.id, item.name) for item in starts] == [item[:2] for item in expected]
    assert [item.index for item in starts] == list(range(len(expected)))


def test_two_whole_calls_without_ids_on_one_index_are_two() -> None:
    pieces = [call(index=0, id="", function={"name": n, "arguments": '{"x": 1}'}) for n in "fg"]
    outcome = read_body(sse(*pieces, chunk({}, "stop")))
    assert [item[1:] for item in calls_of(outcome)] == [("f", {"x": 1}), ("g", {"x": 1})]


@pytest.mark.parametrize("cut", [0, 1])
def test_a_call_without_an_id_gets_one_that_tells_it_apart_in_a_conversation(cut: int) -> None:
    body = whole({"tool_calls": [{"id": "", "function": {"name": n, "arguments": "{}"}} for n in "fg"]}, "tool_calls")
    ids = [item[0] for item in calls_of(read_body(body, cut=cut))]
    assert len(set(ids)) == 2
    assert ids == [item[0] for item in calls_of(read_body(body))]
    assert not set(ids) & {item[0] for item in calls_of(read_body(body.replace(b"chat-1", b"chat-2")))}


@pytest.mark.parametrize(
    ("arguments", "parsed", "kept"),
    [
        ("", {}, "{}"),
        (" \n", {}, "{}"),
        ("null", {}, "{}"),
        (None, {}, "{}"),
        ('{"a": 1}', {"a": 1}, '{"a": 1}'),
        ('{"a": 12345678901234567890123}', {"a": 1.2345678901234568e22}, '{"a": 12345678901234567890123}'),
        ('{"a": "\\ud83d"}', {"a": "\ufffd"}, '{"a": "\\ud83d"}'),
        ('{"a": ', None, '{"a": '),
        ("[1]", None, "[1]"),
        ('"{}"', None, '"{}"'),
        ('{"a": NaN}', None, '{"a": NaN}'),
        ("{}{}", None, "{}{}"),
        ('{"a":' * 101 + "1" + "}" * 101, None, '{"a":' * 101 + "1" + "}" * 101),
        ('{"a":' * 9999, None, '{"a":' * 9999),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["stream", "whole"])
def test_arguments_are_parsed_or_kept_as_they_are_and_marked(arguments: Any, parsed: Any, kept: str, form: str) -> None:
    fragment = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"tool_calls": [fragment]}
    body = sse(chunk(message, "tool_calls")) if form == "stream" else whole(message, "tool_calls")
    reply = read_body(body).reply
    assert reply is not None
    (only,) = reply.tool_calls
    assert only == ToolCall(id="a", name="f", arguments=kept, parsed=parsed, invalid=parsed is None)


def test_a_custom_call_keeps_its_input_as_text() -> None:
    fragment = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "patch", "input": "*** begin"}}
    more = {"index": 0, "custom": {"input": " patch"}}
    complete = {**fragment, "custom": {"name": "patch", "input": "*** begin patch"}}
    pieces = (chunk({"tool_calls": [piece]}) for piece in (fragment, more))
    for body in (sse(*pieces, chunk({}, "tool_calls")), whole({"tool_calls": [complete]})):
        reply = read_body(body).reply
        assert reply is not None
        assert reply.tool_calls == (ToolCall(id="a", name="patch", arguments="*** begin patch", custom=True),)


def test_the_function_call_of_old_is_a_call() -> None:
    pieces = [{"name": "f", "arguments": ""}, {"arguments": '{"x"'}, {"arguments": ": 1}"}]
    body = sse(*(chunk({"function_call": piece}) for piece in pieces), chunk({}, "function_call"))
    for outcome in (read_body(body), read_body(whole({"function_call": {"name": "f", "arguments": '{"x": 1}'}}))):
        assert [item[1:] for item in calls_of(outcome)] == [("f", {"x": 1})]
        assert outcome.reply is not None
        assert outcome.reply.finish == "tool_calls"


def test_a_signature_stays_on_its_call() -> None:
    extra = {"google": {"thought_signature": "abc"}}
    fragment = {"index": 0, "id": "a", "extra_content": extra, "function": {"name": "f", "arguments": "{}"}}
    reply = read_body(sse(chunk({"tool_calls": [fragment]}), chunk({"extra_content": extra}, "stop")), "generic").reply
    assert reply is not None
    assert reply.tool_calls[0].opaque == opaque("generic", extra_content=extra)
    assert OpaquePart(opaque=opaque("generic", extra_content=extra)) in reply.message.content

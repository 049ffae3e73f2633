"""Answers that the recordings lack, and the rules that they alone would not hold the reader to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.turn import (
    JsonSchema,
    Opaque,
    OpaquePart,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    user,
)
from tests.drivers.anthropic import asking
from tests.drivers.anthropic.asking import ask
from tests.drivers.anthropic.bodies import (
    DONE,
    block,
    call,
    closing,
    delta,
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
    thought,
    whole,
    words,
)
from tests.drivers.exchanges import Exchange

CUTS = [0, 1, 2, 7]
TEXT = {"type": "text", "text": ""}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}
MODEL = Exchange(id="", vendor="", body=b"").model


def opaque(members: dict[str, Any], *, vendor: str = "anthropic") -> Any:
    return asking.opaque(members, vendor=vendor, model=MODEL)


# -- what form the answer has -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_that_was_not_asked_for_is_read_as_one(cut: int) -> None:
    outcome = read_body(said(text(0, "Hel", "lo")), cut=cut, headers={"content-type": "application/json"})
    assert reply_of(outcome).text == "Hello"


@pytest.mark.parametrize("cut", CUTS)
def test_a_json_answer_to_a_stream_request_is_read_as_one(cut: int) -> None:
    body = b"\n \r\n\n" + whole({"type": "text", "text": "Hello"})
    outcome = read_body(body, cut=cut, headers={"content-type": "text/event-stream"})
    assert reply_of(outcome).text == "Hello"
    assert outcome.events == sum(bool(body[i : i + (cut or 999)].strip()) for i in range(0, len(body), cut or 999))


def test_lines_may_end_in_any_way_and_events_need_no_name() -> None:
    body = said(text(0, "Hi"))
    for changed in (body.replace(b"\n", b"\r\n"), body.replace(b"\n", b"\r"), _without_names(body)):
        assert reply_of(read_body(changed)).text == "Hi"


def _without_names(body: bytes) -> bytes:
    return b"".join(line + b"\n" for line in body.split(b"\n") if not line.startswith(b"event:"))


def test_an_event_without_a_type_has_that_of_its_name() -> None:
    assert reply_of(read_body(said(text(0, "Hi")).replace(b'"type": "content_block_', b'"was": "'))).text == "Hi"


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("body", "cls", "says"),
    [
        (b"", "StreamBroken", "before the answer began"),
        (b": keep-alive\n\n: keep-alive\n\n", "StreamBroken", "before the answer began"),
        (b'event: ping\ndata: {"type": "ping"}\n\n', "StreamBroken", "before the answer began"),
        (b"<!doctype html><html><body>Log in</body></html>", "WireMismatch", "<!doctype html>"),
        (b"upstream connect error", "WireMismatch", "upstream connect error"),
        (b'{"status": "ok"}', "WireMismatch", "no content: {'status': 'ok'}"),
        (b'{"content": null}', "WireMismatch", "no content"),
        (b'{"id": "x", "choices": [{"message": {"content": "Hi"}}]}', "WireMismatch", "no content"),
        (b'{"id": "x", "content": [{"type": "text", "text": "Hel', "StreamBroken", "ends inside its JSON"),
        (b'{"a": 1} {"b": 2}', "WireMismatch", "no JSON"),
        (b"[]", "WireMismatch", "no JSON object: []"),
        (b'data: {"type": "content_bl\n\n', "StreamBroken", "is no JSON"),
        (b"data: 17\n\n", "WireMismatch", "no JSON object"),
        (b'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n\n', "WireMismatch", "no event of this wire"),
        (b"data: [DONE]\n\n", "StreamBroken", "before the answer began"),
        (b'data: {"type":' + b"[" * 5000 + b"]" * 5000 + b"}\n\n", "StreamBroken", "is no JSON"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_this_wire_says_what_it_is(body: bytes, cls: str, says: str, cut: int) -> None:
    found = error_of(read_body(body, cut=cut))
    assert found["class"] == cls
    assert says in found["what"]


def test_the_last_event_needs_no_empty_line_behind_it() -> None:
    for end in (stop(), {"type": "message_stop"}):
        body = sse(start(), text(0, "Hi"), *([stop()] if end != stop() else []), end)
        assert reply_of(read_body(body.rstrip(b"\n"))).finish == "stop"


def test_items_of_a_content_that_are_no_blocks_are_passed_by() -> None:
    message = json.loads(whole({"type": "text", "text": "Hi"}))
    message["content"] = [None, "x", 5, *message["content"]]
    assert reply_of(read_body(json.dumps(message).encode())).text == "Hi"
    assert reply_of(read_body(json.dumps({**message, "content": "Hello"}).encode())).text == "Hello"


def test_comments_blank_lines_and_pings_are_no_events() -> None:
    ping = {"type": "ping"}
    body = sse(": a", "", ping, start(), ping, text(0, "a"), 'data: {"type": "ping"}', stop(), DONE, "id: 7")
    assert read_body(body).events == 6
    assert read_body(b"\n  \n", cut=1).events == 0


# -- text and thinking ------------------------------------------------------------------------------------------------


def test_blocks_are_parts_and_nothing_stands_between_them() -> None:
    reply = reply_of(read_body(said(text(0, "Hel", "lo "), text(1, "there"))))
    assert reply.message.content == (Text(text="Hello "), Text(text="there"))


def test_a_block_without_a_delta_or_with_its_text_at_the_start_is_one() -> None:
    body = said(text(0), text(1, text="He", citations=None), block(2, {"type": "text", "text": "l"}, words("lo")))
    assert reply_of(read_body(body)).text == "Hello"


def test_thinking_carries_its_signature_back() -> None:
    body = said(block(0, THINKING, thought("I "), thought("see"), signed("abc"), signed("def")), text(1, "Hi"))
    reply = reply_of(read_body(body))
    assert reply.message.content == (Thinking(text="I see", opaque=opaque({"signature": "abcdef"})), Text(text="Hi"))


def test_thinking_that_is_not_shown_is_its_signature() -> None:
    reply = reply_of(read_body(said(block(0, THINKING, signed("abc")), text(1, "Hi"))))
    assert reply.message.content[0] == Thinking(text="", opaque=opaque({"signature": "abc"}))


@pytest.mark.parametrize(
    ("given", "kept"), [({}, {}), ({"signature": ""}, {"signature": ""}), ({"signature": None}, {"signature": None})]
)
def test_a_gateways_thinking_without_signature_keeps_the_form_it_came_in(given: Any, kept: Any) -> None:
    thinking = {"type": "thinking", "thinking": ""} | given
    for body in (said(block(0, thinking, thought("hm"))), whole({**thinking, "thinking": "hm"})):
        reply = reply_of(read_body(body, "glm"))
        assert reply.message.content == (Thinking(text="hm", opaque=opaque(kept, vendor="glm")),)


def test_thinking_of_nothing_is_nothing() -> None:
    assert reply_of(read_body(said(block(0, THINKING), text(1, "Hi")))).message.content == (Text(text="Hi"),)


def test_redacted_thinking_is_kept_and_is_no_text() -> None:
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    for body in (said(block(0, redacted), text(1, "Hi")), whole(redacted, {"type": "text", "text": "Hi"})):
        reply = reply_of(read_body(body))
        assert reply.message.content == (OpaquePart(opaque=opaque(redacted)), Text(text="Hi"))
        assert reply.message.thinking == ""


def test_citations_stay_with_their_text() -> None:
    citation = {"type": "char_location", "cited_text": "x"}
    cited = [{"type": "citations_delta", "citation": citation}] * 2
    body = said(block(0, {**TEXT, "citations": []}, words("So"), *cited, words(" it is")), text(1, "."))
    kept = Text(text="So it is", opaque=opaque({"citations": [citation, citation]}))
    assert reply_of(read_body(body)).message.content == (kept, Text(text="."))
    for odd in ({"citations": {"a": 1}}, {"citations": "x"}):
        assert reply_of(read_body(said(block(0, {**TEXT, **odd}, words("So"), *cited)))).text == "So"


def test_a_gateway_may_leave_out_starts_stops_and_indices() -> None:
    events = [opening(0, TEXT), delta(0, words("a")), opening(1, THINKING), delta(1, thought("b"))]
    reply = reply_of(read_body(said(events, delta(2, words("c")), call(3, "{}"))))
    assert [type(part).__name__ for part in reply.message.content] == ["Text", "Thinking", "Text", "ToolCall"]
    bare = [{name: value for name, value in event.items() if name != "index"} for event in text(0, "x") + call(1, "{}")]
    reply = reply_of(read_body(said(bare)))
    assert (reply.text, len(reply.tool_calls)) == ("x", 1)
    assert reply_of(read_body(sse(delta(0, words("x")), stop()))).text == "x"


def test_text_that_goes_on_after_another_block_began_is_not_lost() -> None:
    events = [opening(0, TEXT), delta(0, words("a")), *text(1, "b"), delta(0, words("c")), closing(0)]
    assert reply_of(read_body(said(events))).text == "abc"


def test_a_signature_stays_with_its_thinking_when_its_stop_is_late() -> None:
    events = [opening(0, THINKING), delta(0, thought("hm")), delta(0, signed("s")), *text(1, "Hi"), closing(0)]
    kept = Thinking(text="hm", opaque=opaque({"signature": "s"}))
    assert reply_of(read_body(said(events))).message.content == (kept, Text(text="Hi"))
    late = [opening(0, THINKING), delta(0, thought("hm")), delta(0, signed("s")), *call(1, "{}"), closing(0)]
    assert reply_of(read_body(said(late))).message.content[0] == kept


def test_indices_may_have_gaps_and_calls_may_interleave() -> None:
    first, second = call(3, '{"a": ', "1}", call_id="x"), call(7, '{"b": 2}', call_id="y")
    events = [first[0], second[0], first[1], second[1], first[2], second[2], first[3]]
    reply = reply_of(read_body(said(events, reason="tool_use")))
    assert [(made.id, made.parsed) for made in reply.tool_calls] == [("x", {"a": 1}), ("y", {"b": 2})]


def test_half_a_surrogate_pair_in_the_text_becomes_something_that_can_be_sent() -> None:
    body = said(text(0, "X")).replace(b'"text": "X"', b'"text": "\\ud83d"')
    assert reply_of(read_body(body)).text == "�"


# -- tool calls -------------------------------------------------------------------------------------------------------


def test_a_call_is_started_filled_and_ended() -> None:
    outcome = read_body(said(call(0, "", '{"pa', 'th": "x"}'), reason="tool_use"))
    made = ToolCall(id="toolu_1", name="look", arguments='{"path": "x"}', parsed={"path": "x"})
    assert [item for item in outcome.deltas if "ToolCall" in type(item).__name__] == [
        ToolCallStart(0, "toolu_1", "look"),
        ToolCallArguments(0, '{"pa'),
        ToolCallArguments(0, 'th": "x"}'),
        ToolCallEnd(0, made),
    ]
    assert reply_of(outcome).message.content == (made,)


@pytest.mark.parametrize("pieces", [(), ("",), ("", " ")])
@pytest.mark.parametrize(
    ("given", "parsed"), [({}, {}), (None, {}), ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("", {})]
)
def test_without_pieces_the_input_of_the_start_counts(pieces: tuple[str, ...], given: Any, parsed: Any) -> None:
    (made,) = reply_of(read_body(said(call(0, *pieces, input=given)))).tool_calls
    assert (made.parsed, made.invalid) == (parsed, False)
    assert json.loads(made.arguments) == parsed


def test_pieces_count_more_than_the_input_of_the_start() -> None:
    (made,) = reply_of(read_body(said(call(0, '{"b": 2}', input={"a": 1})))).tool_calls
    assert made.parsed == {"b": 2}


def test_a_call_that_was_cut_keeps_its_text_and_is_invalid() -> None:
    reply = reply_of(read_body(said(call(0, '{"a": "x'), reason="max_tokens")))
    assert reply.finish == "length"
    assert reply.tool_calls == (ToolCall(id="toolu_1", name="look", arguments='{"a": "x', invalid=True),)


def test_calls_without_ids_or_with_the_same_one_get_their_own() -> None:
    body = said(call(0, "{}", call_id=""), call(1, "{}", call_id="a"), call(2, "{}", call_id="a"), call(3, id=None))
    ids = [made.id for made in reply_of(read_body(body)).tool_calls]
    assert len(set(ids)) == 4
    assert ids[1] == "a"
    assert all(ids)
    assert [made.id for made in reply_of(read_body(body, cut=1)).tool_calls] == ids


def test_what_else_comes_with_a_call_goes_back_with_it() -> None:
    caller = {"type": "code_execution_20260120", "tool_id": "srvtoolu_1"}
    (made,) = reply_of(read_body(said(call(0, "{}", caller=caller)))).tool_calls
    assert made.opaque == opaque({"caller": caller})


def test_a_number_that_no_channel_carries_becomes_one_that_it_does() -> None:
    (made,) = reply_of(read_body(said(call(0, '{"n": 123456789012345678901234567890}')))).tool_calls
    assert made.parsed == {"n": 1.2345678901234568e29}
    (made,) = reply_of(read_body(said(call(0, input={"n": 123456789012345678901234567890})))).tool_calls
    assert made.parsed == {"n": 1.2345678901234568e29}


# -- the provider's own tools -----------------------------------------------------------------------------------------


def test_blocks_of_the_providers_own_tools_are_kept_whole_and_are_no_calls() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"url": "https://a"}]}
    body = said(block(0, search, piece('{"query"'), piece(': "x"}')), block(1, found), text(2, "So"))
    reply = reply_of(read_body(body))
    assert reply.tool_calls == ()
    assert reply.message.content == (
        OpaquePart(opaque=opaque({**search, "input": {"query": "x"}})),
        OpaquePart(opaque=opaque(found)),
        Text(text="So"),
    )


def test_a_block_of_an_unknown_kind_takes_its_deltas_with_it() -> None:
    changes = {"type": "compaction_delta", "content": "summary", "encrypted_content": "e"}
    reply = reply_of(read_body(said(block(0, {"type": "compaction", "content": None}, changes), text(1, "Hi"))))
    kept = {"type": "compaction", "content": "summary", "encrypted_content": "e"}
    assert reply.message.content[0] == OpaquePart(opaque=opaque(kept))


def test_a_container_is_kept_while_calls_or_a_pause_are_open() -> None:
    container = {"container": {"id": "container_1", "expires_at": "2026-11-22T00:00:00Z"}}
    kept = Opaque(provider="recorded", model=MODEL, data={"vendor": "anthropic", "container": "container_1"})
    for reason in ("tool_use", "pause_turn"):
        body = sse(start(), call(0, "{}"), stop(reason, **container), DONE)
        assert reply_of(read_body(body)).message.content[-1] == OpaquePart(opaque=kept)
    done = reply_of(read_body(sse(start(), text(0, "Hi"), stop("end_turn", **container), DONE)))
    assert done.message.content == (Text(text="Hi"),)


def test_a_stream_may_begin_with_the_whole_answer() -> None:
    made = {"type": "tool_use", "id": "toolu_9", "name": "look", "input": {"a": 1}}
    body = sse(start({"type": "text", "text": "Hi"}, made, stop_reason="tool_use"), DONE)
    reply = reply_of(read_body(body))
    assert (reply.text, reply.finish, reply.tool_calls[0].parsed) == ("Hi", "tool_calls", {"a": 1})


# -- the answer by way of a tool --------------------------------------------------------------------------------------

SCHEMA = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "integer"}}}, name="size")
BY_TOOL = ask(user("How many?"), model="m", output=SCHEMA)


@pytest.mark.parametrize("cut", CUTS)
def test_the_input_of_the_answer_tool_is_the_text(cut: int) -> None:
    body = said(text(0, "Well: "), call(1, '{"a"', ": 1}", name="size"), reason="tool_use")
    reply = reply_of(read_body(body, "generic", cut=cut, turn=BY_TOOL))
    assert (reply.finish, reply.finish_raw, reply.tool_calls) == ("stop", "tool_use", ())
    assert reply.message.content == (Text(text="Well: "), Text(text='{"a": 1}'))


@pytest.mark.parametrize(("given", "answer"), [({"a": 1}, '{"a":1}'), ({}, "{}"), (None, "{}")])
def test_the_input_may_come_whole(given: Any, answer: str) -> None:
    made = {"type": "tool_use", "id": "x", "name": "size", "input": given}
    for body in (said(block(0, made), reason="tool_use"), whole(made, reason="tool_use")):
        assert reply_of(read_body(body, "generic", turn=BY_TOOL)).text == answer


def test_other_calls_are_calls_beside_it_and_its_name_is_never_that_of_a_tool() -> None:
    turn = ask(user("How many?"), model="m", output=SCHEMA, tools=(Tool(name="size"), Tool(name="look")))
    body = said(call(0, "{}", name="look"), call(1, '{"a": 1}', name="size_"), reason="tool_use")
    reply = reply_of(read_body(body, "generic", turn=turn))
    assert (reply.finish, reply.text) == ("tool_calls", '{"a": 1}')
    assert [made.name for made in reply.tool_calls] == ["look"]
    (own,) = reply_of(read_body(said(call(0, "{}", name="size"), reason="tool_use"), "generic", turn=turn)).tool_calls
    assert own.name == "size"

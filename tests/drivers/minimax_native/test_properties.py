"""Any turn becomes a body that keeps the wire's rules; any bytes become deltas or a DriverError."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import TurnRefused, WireMismatch
from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Opaque,
    OpaquePart,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from loopforge.workers.packing import from_plain, to_plain
from tests.drivers.exchanges import PROVIDER, Exchange, pieces, read, without_events
from tests.drivers.minimax_native.asking import (
    HI,
    KIND,
    as_json,
    ask,
    driver_for,
    frame,
    message,
    opaque,
    sse,
    text,
    usage_only,
)
from tests.drivers.minimax_native.request_rules import MODELS, problems

# -- turns ------------------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
TOOLS = [
    Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string", "format": "email"}}}),
    Tool(name="point", description="Show.", parameters={}, strict=True, cache="5m"),
    Tool(name="walk", parameters={"$ref": "#/$defs/w", "$defs": {"w": {"type": "object", "properties": {}}}}),
]
SECRET = "of-another-origin"

texts = st.builds(Text, text=WORDS, cache=st.sampled_from(["", "", "5m"]))
media: st.SearchStrategy[Any] = st.sampled_from(
    [
        Image(data=b"\x89PNG", media_type="image/png"), Image(url="https://example.com/a.png", detail="low"),
        Document(data=b"hello", media_type="text/plain"), Document(data=b"%PDF", media_type="application/pdf"),
    ]
)  # fmt: skip
sounds = st.sampled_from([Audio(data=b"RIFF", media_type="audio/wav"), Audio(data=b"x", transcript="said")])
foreign = st.builds(
    Opaque,
    provider=st.sampled_from([PROVIDER, "another"]),
    model=st.just("another"),
    data=st.just({"wire": KIND, "form": "details", "items": [{"text": SECRET}], "search": [SECRET]}),
)
FORMS: list[dict[str, Any]] = [
    {"form": "tags", "gap": "\n\n"},
    {"form": "details", "items": [{"text": "hm"}]},
    {"form": "text"},
    {},
]


@st.composite
def conversations(draw: st.DrawFn, model: str) -> tuple[Message, ...]:
    """Any conversation in which calls are answered: the one thing that a client has to see to."""
    own = st.sampled_from([opaque(model=model, **form) for form in FORMS])
    thinkings = st.builds(Thinking, text=st.just(SECRET), opaque=st.none() | foreign) | st.builds(
        Thinking, text=WORDS, opaque=own
    )
    own_parts = st.builds(OpaquePart, opaque=foreign | st.just(opaque(model=model, search=[{"role": "tool"}])))
    calls = st.builds(
        ToolCall,
        id=st.uuids().map(str) | st.text(max_size=60),
        name=st.sampled_from(["look", "point", "gone", "9 lives!", ""]),
        arguments=st.sampled_from(["{}", "", '{"at": "it"}', '{"at": ', "[1]"]),
        custom=st.sampled_from([False, False, False, True]),
        opaque=st.none() | foreign,
    )
    messages = [Message(role="system", content=tuple(draw(st.lists(texts, max_size=2))))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["user", "user", "assistant", "loop", "system"]))
        if kind == "system":
            messages.append(Message(role="system", content=(draw(texts),)))
        elif kind == "user":
            messages.append(Message(role="user", content=tuple(draw(st.lists(texts | media | sounds, max_size=3)))))
        elif kind == "assistant":
            refusals = st.builds(Refusal, text=WORDS)
            said: list[Part] = draw(st.lists(texts | thinkings | own_parts | refusals | sounds, max_size=3))
            messages.append(Message(role="assistant", content=tuple(said)))
        else:
            made = draw(st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.id))
            before: list[Part] = draw(st.lists(texts | thinkings | own_parts, max_size=2))
            messages.append(Message(role="assistant", content=(*before, *made)))
            content = st.lists(texts | media, max_size=2).map(tuple)
            for call in draw(st.permutations(made)):
                result = ToolResult(call_id=call.id, content=draw(content), is_error=draw(st.booleans()))
                messages.append(Message(role="tool", content=(result,)))
    return tuple(messages)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    model = draw(st.sampled_from(MODELS))
    tools = tuple(draw(st.lists(st.sampled_from(TOOLS), unique_by=lambda tool: tool.name)))
    choices: list[Any] = ["auto", "none", *(["required", NamedTool(name=tools[0].name)] if tools else [])]
    schema = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}}, name=draw(WORDS))
    return ask(
        *draw(conversations(model)),
        model=model,
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.none() | st.booleans()),
        output=draw(st.sampled_from(["text", "text", "json", schema])),
        thinking=draw(st.sampled_from([None, "off", "low", "high", 0, 100, 10**9])),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        temperature=draw(st.none() | st.floats(0, 3)),
        top_p=draw(st.none() | st.floats(0, 1)),
        stop=tuple(draw(st.lists(WORDS, max_size=2))),
        seed=draw(st.none() | st.integers(-(2**40), 2**40)),
        stream=draw(st.booleans()),
    )


@given(turns())
def test_any_turn_becomes_a_body_that_keeps_the_rules_or_is_refused(turn: Turn) -> None:
    try:
        request = driver_for().build_request(turn)
    except TurnRefused as exc:
        assert exc.action  # noqa: PT017 - a refusal is a right answer here, too
        assert driver_for().notices(turn) == ()
        return
    body = json.loads(request.body)
    assert problems(body) == []
    assert SECRET not in request.body.decode()
    if any(SECRET in repr(message) for message in turn.messages):
        assert driver_for().notices(turn)


@given(turns())
def test_a_turn_reads_the_same_after_a_channel(turn: Turn) -> None:
    again = from_plain(Turn, to_plain(turn))
    try:
        expected = driver_for().build_request(turn)
    except TurnRefused:
        return
    assert driver_for().build_request(again) == expected
    assert driver_for().notices(again) == driver_for().notices(turn)


# -- bytes ------------------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.floats()
KEYS = st.sampled_from([
    "choices", "delta", "message", "messages", "role", "content", "reasoning_content", "reasoning_details", "text",
    "tool_calls", "function_call", "function", "name", "arguments", "id", "type", "index", "finish_reason", "usage",
    "prompt_tokens", "completion_tokens", "total_tokens", "base_resp", "status_code", "status_msg", "error", "model",
    "output_sensitive", "output_sensitive_type", "input_sensitive", "annotations", "object",
])  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)
THINK_PIECES = st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "\n", "a", " ", "\n\n", "think>"])
CALL_IDS = st.sampled_from(["", "c1", "c2", None])


@st.composite
def deltas(draw: st.DrawFn) -> Any:
    fragment = {
        "id": draw(CALL_IDS),
        "type": draw(st.sampled_from(["function", "", None, "web_search"])),
        "index": draw(st.sampled_from([0, 1, None, "x"])),
        "function": {"name": draw(st.sampled_from(["look", "", None])), "arguments": draw(WORDS | st.none())},
    }
    details = {"type": "reasoning.text", "index": draw(st.integers(0, 1)), "text": draw(THINK_PIECES)}
    kinds: list[Any] = [
        {"content": draw(THINK_PIECES)},
        {"content": draw(WORDS)},
        {"reasoning_content": draw(THINK_PIECES), "reasoning_details": [details]},
        {"reasoning_details": [details, draw(values)]},
        {"tool_calls": [fragment]},
        {"tool_calls": [fragment, draw(values)]},
        {"function_call": {"name": "look", "arguments": draw(values)}},
        {"role": "tool", "content": draw(WORDS)},
        draw(values),
    ]
    return draw(st.sampled_from(kinds))


@st.composite
def frames(draw: st.DrawFn) -> Any:
    finish = draw(st.sampled_from([None, None, None, "", "stop", "tool_calls", "error", "content_filter"]))
    kinds: list[Any] = [
        {**frame(finish=finish), "choices": [{"index": 0, "delta": draw(deltas()), "finish_reason": finish}]},
        {**frame(finish=finish), "choices": [{"index": 0, "delta": draw(deltas()), "finish_reason": finish}]},
        usage_only(),
        message(draw(THINK_PIECES), finish, reasoning_content=draw(THINK_PIECES)),
        {**frame(), "choices": [{"messages": draw(values)}]},
        {**frame(), "base_resp": {"status_code": draw(st.sampled_from([0, 1027, 1000, "1002", None, 7]))}},
        {**frame(), "usage": draw(values)},
        draw(values),
    ]
    return draw(st.sampled_from(kinds))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Nearly right answers, in any of the forms that the wire has."""
    made = draw(st.lists(frames(), max_size=5))
    data = {
        "events": lambda: sse(*(f"data: {json.dumps(item)}" for item in made), done=draw(st.booleans())),
        "whole": lambda: as_json(made[0] if made else {}),
        "lines": lambda: b"\n".join(map(as_json, made)),
    }[draw(st.sampled_from(["events", "whole", "lines"]))]()
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@given(body=bodies() | st.binary(max_size=200), sizes=st.lists(st.integers(1, 40), max_size=30))
def test_any_bytes_become_a_reply_or_a_driver_error_whatever_the_cut(body: bytes, sizes: list[int]) -> None:
    exchange = Exchange(id="", vendor=KIND, body=body)
    whole = read(driver_for(), exchange)
    assert (whole.reply is None) == (whole.error is not None)
    for cut in (pieces(body, sizes), (body[i : i + 1] for i in range(len(body)))):
        assert without_events(read(driver_for(), exchange, cut)) == without_events(whole)
    if whole.reply is not None:
        assert from_plain(Message, to_plain(whole.reply.message)) == whole.reply.message


@given(frames=st.lists(deltas(), max_size=8))
def test_what_was_read_can_be_sent_back(frames: list[Any]) -> None:
    body = sse(*({**frame(), "choices": [{"index": 0, "delta": delta}]} for delta in frames), text("x", "stop"))
    reply = read(driver_for(), Exchange(id="", vendor=KIND, body=body, model="MiniMax-M2.5")).reply
    if reply is not None:
        results = (ToolResult(call_id=call.id, content=(Text(text="ok"),)) for call in reply.tool_calls)
        after = [Message(role="tool", content=(result,)) for result in results] or [HI]
        try:
            sent = driver_for().build_request(ask(HI, reply.message, *after))
        except TurnRefused as exc:
            assert "the id" in str(exc)  # noqa: PT017 - two calls that the wire gave the same id
            return
        assert problems(json.loads(sent.body)) == []


def test_a_long_stream_is_read_in_bounded_memory() -> None:
    reader = driver_for().new_reader(ask(HI, id="turn-1"), {})
    event = sse(text("word "))
    reader.feed(event)
    tracemalloc.start()
    try:
        for _ in range(5000):
            reader.feed(event)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.events == 5001
    assert kept < 100_000


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_details": [{"type": "reasoning.text", "text": "LARGE"}]},
        {"role": "tool", "content": "LARGE"},
        {"tool_calls": [{"type": "web_search", "index": 0, "function": {"arguments": "LARGE"}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "LARGE"}}]},
    ],
)
def test_what_waits_for_its_end_has_a_bound(delta: dict[str, Any]) -> None:
    """Thinking items, search hits, arguments and names: an endless stream of them is cut off."""
    reader = driver_for().new_reader(ask(HI), {})
    template = json.dumps({**frame(), "choices": [{"index": 0, "delta": delta}]})

    def read_endlessly() -> None:
        for number in range(70):
            reader.feed(sse(f"data: {template}".replace("LARGE", f"{number}{'x' * 2**20}")))

    with pytest.raises(WireMismatch, match="more than"):
        read_endlessly()

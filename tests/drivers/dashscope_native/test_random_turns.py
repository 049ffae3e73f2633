"""Any turn becomes a request that keeps the wire's rules, or is refused; nothing of it is dropped in silence."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import TurnRefused
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
from tests.drivers.dashscope_native.asking import ask, driver_for, opaque
from tests.drivers.dashscope_native.request_rules import MODELS, problems
from tests.drivers.exchanges import PROVIDER

WORDS = st.text(max_size=12)
TOOLS = [
    Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string", "format": "email"}}}),
    Tool(name="point", description="Show.", parameters={}, strict=True, cache="5m"),
    Tool(name="patch", parameters={"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}},
                                   "$defs": {"p": {"type": "object", "properties": {}}}}),
    Tool(name="walk", parameters={"$ref": "#/$defs/w", "$defs": {"w": {"type": "object", "properties": {"to": {
        "$ref": "#/$defs/w"}}}}}),
]  # fmt: skip
SECRET = "of-another-origin"

texts = st.builds(Text, text=WORDS, cache=st.sampled_from(["", "", "5m", "1h"]))
media: st.SearchStrategy[Any] = st.sampled_from(
    [
        Image(data=b"\x89PNG", media_type="image/png"), Image(url="https://example.com/a.png", detail="high"),
        Image(url="oss://bucket/a.png", cache="5m"), Document(data=b"hello", media_type="text/plain", name="a.txt"),
        Document(data=b"%PDF", media_type="application/pdf"), Document(url="https://example.com/a.pdf"),
    ]
)  # fmt: skip
sounds = st.sampled_from([Audio(data=b"RIFF", media_type="audio/wav"), Audio(data=b"x", transcript="said")])
foreign = st.builds(
    Opaque,
    provider=st.sampled_from([PROVIDER, "another"]),
    model=st.just("another"),
    data=st.just({"wire": "dashscope_native", "search_info": SECRET}),
)
call_ids = st.uuids().map(str) | st.text(max_size=60)


@st.composite
def conversations(draw: st.DrawFn, model: str) -> tuple[Message, ...]:
    """Any conversation in which calls are answered: the one thing that a client has to see to."""
    mine = st.just(opaque(model=model))
    thinkings = st.builds(Thinking, text=st.just(SECRET), opaque=st.none() | foreign) | st.builds(
        Thinking, text=WORDS, opaque=mine
    )
    own_parts = st.builds(OpaquePart, opaque=foreign | mine)
    calls = st.builds(
        ToolCall,
        id=call_ids,
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
            own: list[Part] = draw(st.lists(texts | thinkings | own_parts | refusals | media, max_size=3))
            messages.append(Message(role="assistant", content=tuple(own)))
        else:
            made = draw(st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.id))
            said: list[Part] = draw(st.lists(texts | thinkings | own_parts, max_size=2))
            messages.append(Message(role="user", content=(Text(text="go on"),)))
            messages.append(Message(role="assistant", content=(*said, *made)))
            content = st.lists(texts | media, max_size=2).map(tuple)
            for call in draw(st.permutations(made)):
                result = ToolResult(call_id=call.id, content=draw(content), is_error=draw(st.booleans()), cache="5m")
                messages.append(Message(role="tool", content=(result,)))
    return tuple(messages)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    model = draw(st.sampled_from(MODELS))
    tools = tuple(draw(st.lists(st.sampled_from(TOOLS), unique_by=lambda tool: tool.name)))
    choices: list[Any] = ["auto", "none", *(["required", NamedTool(name=tools[0].name)] if tools else [])]
    loose = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}}, name=draw(WORDS))
    return ask(
        *draw(conversations(model)),
        model=model,
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.none() | st.booleans()),
        output=draw(st.sampled_from(["text", "text", "json", loose])),
        thinking=draw(st.sampled_from([None, "off", "low", "medium", "high", 0, 100, 10**9])),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        temperature=draw(st.none() | st.floats(0, 3)),
        top_p=draw(st.none() | st.floats(0, 1)),
        stop=tuple(draw(st.lists(st.text(min_size=1, max_size=3), max_size=7))),
        seed=draw(st.none() | st.integers(-(2**40), 2**40)),
        stream=draw(st.booleans()),
    )


@given(turns())
def test_any_turn_becomes_a_request_that_keeps_the_rules_or_is_refused(turn: Turn) -> None:
    try:
        request = driver_for().build_request(turn)
    except TurnRefused as exc:
        assert exc.action  # noqa: PT017 - a refusal is a right answer here, too
        assert driver_for().notices(turn) == ()
        return
    assert problems(json.loads(request.body), request.url, dict(request.headers)) == []
    assert SECRET not in request.body.decode()
    if any(SECRET in repr(message) and message.role == "assistant" for message in turn.messages):
        assert "of another" in str(driver_for().notices(turn)) or "not of this" in str(driver_for().notices(turn))


@given(turns())
def test_a_turn_reads_the_same_after_a_channel(turn: Turn) -> None:
    again = from_plain(Turn, to_plain(turn))
    try:
        expected = driver_for().build_request(turn)
    except TurnRefused:
        return
    assert driver_for().build_request(again) == expected

"""Any turn becomes a body that keeps the wire's rules; any bytes become deltas or a DriverError."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
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
    user,
)
from loopforge.workers.packing import from_plain, to_plain
from tests.drivers.exchanges import PROVIDER, Exchange, pieces, read, without_events
from tests.drivers.gemini.asking import ask, chunk, driver_for, opaque, sse, text
from tests.drivers.gemini.request_rules import problems

# -- turns ------------------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
MODELS = [
    "gemini-3-flash-preview", "gemini-3.1-pro-preview", "gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.0-flash",
    "gemini-2.5-flash-image", "gemini-3-pro-image-preview", "gemma-3-27b-it", "gemma-4-31b", "some-model",
]  # fmt: skip
TOOLS = [
    Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string", "format": "email"}}}),
    Tool(name="point", description="Show.", parameters={}, strict=True),
    Tool(name="patch", parameters={"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "required": ["p"],
                                   "$defs": {"p": {"type": "object", "properties": {}}}}, strict=True),
    Tool(name="walk", parameters={"$ref": "#/$defs/w", "$defs": {"w": {"type": "object", "properties": {"to": {
        "$ref": "#/$defs/w"}}}}}),
]  # fmt: skip
SECRET = "of-another-origin"

texts = st.builds(Text, text=WORDS, cache=st.sampled_from(["", "", "5m"]))
media: st.SearchStrategy[Any] = st.sampled_from(
    [
        Image(data=b"\x89PNG", media_type="image/png"), Image(url="https://example.com/a.png"),
        Document(data=b"hello", media_type="text/plain"), Document(data=b"%PDF", media_type="application/pdf"),
    ]
)  # fmt: skip
sounds = st.sampled_from([Audio(data=b"RIFF", media_type="audio/wav"), Audio(data=b"x", transcript="said")])
foreign = st.builds(
    Opaque,
    provider=st.sampled_from([PROVIDER, "another"]),
    model=st.just("another"),
    data=st.just({"wire": "gemini", "signature": SECRET, "part": {"toolCall": SECRET}, "id": True}),
)
call_ids = st.uuids().map(str) | st.text(max_size=60)


@st.composite
def conversations(draw: st.DrawFn, model: str) -> tuple[Message, ...]:
    """Any conversation in which calls are answered: the one thing that a client has to see to."""
    signed = st.sampled_from([opaque(model=model, signature="U0lH"), opaque(model=model), opaque(model=model, id=True)])
    origins = st.none() | foreign | signed
    thinkings = st.builds(Thinking, text=st.just(SECRET), opaque=st.none() | foreign)
    own_texts = st.builds(Text, text=WORDS, opaque=origins)
    own_parts = st.builds(OpaquePart, opaque=foreign | st.just(opaque(model=model, part={"toolCall": {"id": "1"}})))
    calls = st.builds(
        ToolCall,
        id=call_ids,
        name=st.sampled_from(["look", "point", "gone", "9 lives!", ""]),
        arguments=st.sampled_from(["{}", "", '{"at": "it"}', '{"at": ', "[1]"]),
        custom=st.sampled_from([False, False, False, True]),
        opaque=origins,
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
            own: list[Part] = draw(st.lists(own_texts | thinkings | own_parts | refusals, max_size=3))
            messages.append(Message(role="assistant", content=tuple(own)))
        else:
            made = draw(st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.id))
            said: list[Part] = draw(st.lists(own_texts | thinkings | own_parts, max_size=2))
            messages.append(Message(role="user", content=(Text(text="go on"),)))
            messages.append(Message(role="assistant", content=(*said, *made)))
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
    loose = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}}, name=draw(WORDS))
    return ask(
        *draw(conversations(model)),
        model=model,
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.none() | st.booleans()),
        output=draw(st.sampled_from(["text", "text", "json", loose])),
        thinking=draw(st.sampled_from([None, "off", "low", "high", 0, -1, 100, 10**9])),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        temperature=draw(st.none() | st.floats(0, 3)),
        stop=tuple(draw(st.lists(st.text(min_size=1, max_size=3), max_size=7))),
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
    assert problems(body, turn.model) == []
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


# -- bytes ------------------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.floats()
KEYS = st.sampled_from([
    "candidates", "content", "parts", "text", "thought", "thoughtSignature", "functionCall", "name", "args", "id",
    "partialArgs", "jsonPath", "stringValue", "numberValue", "willContinue", "finishReason", "finishMessage", "index",
    "usageMetadata", "promptTokenCount", "totalTokenCount", "promptFeedback", "blockReason", "modelVersion",
    "responseId", "inlineData", "mimeType", "data", "groundingMetadata", "error", "code",
])  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)


@st.composite
def parts(draw: st.DrawFn) -> Any:
    signed: Any = draw(st.sampled_from([{}, {}, {"thoughtSignature": "U0lH"}, {"thoughtSignature": 3}]))
    path = draw(st.sampled_from(["$.a", "$.a[0]", "$.b['c']", "$.", "$", 7]))
    piece = {"jsonPath": path, draw(st.sampled_from(["stringValue", "numberValue", "other"])): draw(leaves)}
    more: Any = draw(st.sampled_from([{}, {"willContinue": True}]))
    kinds: list[Any] = [
        {"text": draw(WORDS)},
        {"text": draw(WORDS), "thought": True},
        {"functionCall": {"name": "look", "args": draw(values), **more}},
        {"functionCall": {"partialArgs": [piece], **more}},
        {"functionCall": {}},
        {"inlineData": {"mimeType": "image/png", "data": draw(WORDS)}},
        {"executableCode": draw(values)},
        draw(values),
    ]
    part = draw(st.sampled_from(kinds))
    return {**part, **signed} if isinstance(part, dict) else part


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Nearly right answers, in any of the forms that the wire has."""
    finishes = st.sampled_from(["", "", "STOP", "SAFETY", "MALFORMED_FUNCTION_CALL"])
    made: list[Any] = [
        chunk(*draw(st.lists(parts(), max_size=3)), finish=draw(finishes)) for _ in range(draw(st.integers(0, 4)))
    ]
    made += draw(st.lists(values, max_size=1))
    data = {
        "events": lambda: sse(*made),
        "array": lambda: json.dumps(made, indent=draw(st.sampled_from([None, 1]))).encode(),
        "whole": lambda: json.dumps(made[0] if made else {}).encode(),
        "bare": lambda: sse(*made[:1]) + b"".join(json.dumps(item).encode() + b"\n" for item in made[1:]),
    }[draw(st.sampled_from(["events", "array", "whole", "bare"]))]()
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@given(body=bodies() | st.binary(max_size=200), sizes=st.lists(st.integers(1, 40), max_size=30))
def test_any_bytes_become_a_reply_or_a_driver_error_whatever_the_cut(body: bytes, sizes: list[int]) -> None:
    exchange = Exchange(id="", vendor="google", body=body)
    whole = read(driver_for(), exchange)
    assert (whole.reply is None) == (whole.error is not None)
    for cut in (pieces(body, sizes), (body[i : i + 1] for i in range(len(body)))):
        assert without_events(read(driver_for(), exchange, cut)) == without_events(whole)
    if whole.reply is not None:
        assert from_plain(Message, to_plain(whole.reply.message)) == whole.reply.message


def test_a_long_stream_is_read_in_bounded_memory() -> None:
    turn = replace(ask(user("hello")), id="turn-1")
    reader = driver_for().new_reader(turn, {})
    event = sse(chunk(text("word "), usage={"promptTokenCount": 5, "totalTokenCount": 9}))
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

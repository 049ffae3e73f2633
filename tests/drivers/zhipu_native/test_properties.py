"""Any turn becomes a body that keeps the platform's rules; any bytes become deltas or a DriverError."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.simulator.zhipu_requests import check_request
from loopforge.drivers.turn import (
    Audio,
    Document,
    Finished,
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
from tests.drivers.zhipu_native.asking import ask, chunk, driver_for, opaque, sse, whole

# -- turns ------------------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
MODELS = [
    "glm-5.3", "glm-5.3-flash", "glm-5.2", "glm-5.1", "glm-5v-turbo", "glm-4.7", "glm-4.6v", "glm-4.6", "glm-4.5-air",
    "glm-4.5v", "glm-4.1v-thinking-flash", "glm-z1-air", "glm-4", "glm-4v-plus", "some-model",
]  # fmt: skip
TOOLS = [
    Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string", "format": "email"}}}),
    Tool(name="point", description="Show.", parameters={}, strict=True),
    Tool(name="patch", parameters={"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}},
                                   "$defs": {"p": {"type": "object", "properties": {}}}}),
    Tool(name="walk", parameters={"$ref": "#/$defs/w", "$defs": {"w": {"type": "object", "properties": {"to": {
        "$ref": "#/$defs/w"}}}}}),
]  # fmt: skip
SECRET = "of-another-origin"

texts = st.builds(Text, text=WORDS, cache=st.sampled_from(["", "", "5m"]))
media: st.SearchStrategy[Any] = st.sampled_from(
    [
        Image(data=b"\x89PNG", media_type="image/png"), Image(url="https://example.com/a.png", detail="low"),
        Document(data=b"hello", media_type="text/plain"), Document(data=b"%PDF", media_type="application/pdf"),
        Document(url="https://example.com/a.pdf", media_type="application/pdf"),
    ]
)  # fmt: skip
sounds = st.sampled_from([Audio(data=b"RIFF", media_type="audio/wav"), Audio(data=b"x", transcript="said")])
foreign = st.builds(
    Opaque,
    provider=st.sampled_from([PROVIDER, "another"]),
    model=st.just("another"),
    data=st.just({"wire": "zhipu_native", "field": "reasoning_content", "web_search": [SECRET]}),
)
call_ids = st.uuids().map(str) | st.text(max_size=80)


@st.composite
def conversations(draw: st.DrawFn, model: str) -> tuple[Message, ...]:
    """Any conversation in which calls are answered: the one thing that a client has to see to."""
    thinkings: st.SearchStrategy[Part] = st.builds(Thinking, text=st.just(SECRET), opaque=st.none() | foreign)
    mine = st.sampled_from([opaque(model=model, field=name) for name in ("reasoning_content", "think")])
    own_thinkings: st.SearchStrategy[Part] = st.builds(Thinking, text=WORDS, opaque=mine)
    own_texts: st.SearchStrategy[Part] = st.builds(Text, text=WORDS, opaque=st.none() | foreign)
    searches: st.SearchStrategy[Part] = st.builds(
        OpaquePart, opaque=foreign | st.just(opaque(model=model, web_search=[]))
    )
    calls = st.builds(
        ToolCall,
        id=call_ids,
        name=st.sampled_from(["look", "point", "gone", "9 lives!", ""]),
        arguments=st.sampled_from(["{}", "", '{"at": "it"}', '{"at": ', "[1]"]),
        custom=st.sampled_from([False, False, False, True]),
        opaque=st.none() | foreign,
    )
    said = own_texts | thinkings | own_thinkings | searches
    messages = [Message(role="system", content=tuple(draw(st.lists(texts, max_size=2))))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["user", "user", "assistant", "loop", "system"]))
        if kind == "system":
            messages.append(Message(role="system", content=(draw(texts),)))
        elif kind == "user":
            messages.append(Message(role="user", content=tuple(draw(st.lists(texts | media | sounds, max_size=3)))))
        elif kind == "assistant":
            own: list[Part] = draw(st.lists(said | st.builds(Refusal, text=WORDS), max_size=3))
            messages.append(Message(role="assistant", content=tuple(own)))
        else:
            made = draw(st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.id))
            messages.append(Message(role="user", content=(Text(text="go on"),)))
            messages.append(Message(role="assistant", content=(*draw(st.lists(said, max_size=2)), *made)))
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
    options: Any = draw(
        st.sampled_from(
            [{}, {"thinking": {"clear_thinking": False}}, {"tools": [{"type": "retrieval", "retrieval": {}}]}]
        )
    )
    return ask(
        *draw(conversations(model)),
        model=model,
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.none() | st.booleans()),
        output=draw(st.sampled_from(["text", "text", "json", loose])),
        thinking=draw(st.sampled_from([None, "off", "low", "medium", "high", 0, -1, 100, 10**9])),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        temperature=draw(st.none() | st.floats(-1, 3)),
        top_p=draw(st.none() | st.floats(0, 1)),
        stop=tuple(draw(st.lists(st.text(max_size=3), max_size=3))),
        seed=draw(st.none() | st.integers(-(2**40), 2**40)),
        stream=draw(st.booleans()),
        provider_options={"zhipu_native": options, "openai_compatible": {"unheard": SECRET}},
    )


@given(turns())
def test_any_turn_becomes_a_body_that_keeps_the_rules_or_is_refused(turn: Turn) -> None:
    try:
        request = driver_for().build_request(turn)
    except TurnRefused as exc:
        assert exc.action  # noqa: PT017 - a refusal is a right answer here, too
        assert driver_for().notices(turn) == ()
        return
    body = check_request(request.body, reject_unknown=True)
    assert None not in body.values()
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
    "choices", "delta", "message", "content", "reasoning_content", "tool_calls", "function_call", "function", "name",
    "arguments", "id", "index", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "total_tokens",
    "prompt_tokens_details", "cached_tokens", "completion_tokens_details", "reasoning_tokens", "model", "request_id",
    "web_search", "content_filter", "error", "code", "msg", "success",
])  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)
contents = st.sampled_from(["\n", "a", "<think>", "</think>", "\n\nb", "<|begin_of_box|>", "<|end_", "of_box|>"])


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    call: Any = {"id": draw(WORDS), "function": {"name": "look", "arguments": draw(WORDS)}, "index": 0}
    kinds: list[Any] = [
        {"content": draw(contents)},
        {"content": draw(WORDS)},
        {"reasoning_content": draw(WORDS)},
        {"reasoning_content": draw(WORDS), "content": draw(contents)},
        {"tool_calls": [call]},
        {"tool_calls": [{"index": 0, "function": {"arguments": draw(WORDS)}}]},
        {"tool_calls": draw(values)},
        {"function_call": {"name": "look", "arguments": draw(WORDS)}},
        draw(st.dictionaries(KEYS, values, max_size=3)),
    ]
    message: dict[str, Any] = draw(st.sampled_from(kinds))
    return message


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Nearly right answers, in any of the forms that the wire has."""
    finishes = st.sampled_from(["", "", "", "stop", "tool_calls", "sensitive", "network_error", "other"])
    usage: Any = draw(st.sampled_from([None, {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}]))
    made: list[Any] = [chunk(draw(finishes), usage, **draw(messages())) for _ in range(draw(st.integers(0, 5)))]
    made += draw(st.lists(values | st.just({"error": {"code": "1301", "message": "unsafe"}}), max_size=1))
    data = {
        "events": lambda: sse(*made, done=draw(st.booleans())),
        "whole": lambda: json.dumps(whole(draw(finishes), usage, **draw(messages()))).encode(),
        "any": lambda: json.dumps(made[-1] if made else {}).encode(),
    }[draw(st.sampled_from(["events", "events", "whole", "any"]))]()
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@given(body=bodies() | st.binary(max_size=200), sizes=st.lists(st.integers(1, 40), max_size=30))
def test_any_bytes_become_a_reply_or_a_driver_error_whatever_the_cut(body: bytes, sizes: list[int]) -> None:
    exchange = Exchange(id="", vendor="zhipu", body=body)
    outcome = read(driver_for(), exchange)
    assert (outcome.reply is None) == (outcome.error is not None)
    for cut in (pieces(body, sizes), (body[i : i + 1] for i in range(len(body)))):
        assert without_events(read(driver_for(), exchange, cut)) == without_events(outcome)
    if outcome.reply is not None:
        assert from_plain(Message, to_plain(outcome.reply.message)) == outcome.reply.message
        assert sum(isinstance(delta, Finished) for delta in outcome.deltas) == 1


def test_a_long_stream_is_read_in_bounded_memory() -> None:
    turn = replace(ask(user("hello")), id="turn-1")
    reader = driver_for().new_reader(turn, {})
    usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    event = sse(chunk("", usage, content="word "), done=False)
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

"""Any turn becomes a body that keeps the wire's rules; any bytes become deltas or a DriverError."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import DriverError, TurnRefused
from loopforge.drivers.turn import (
    Audio,
    Document,
    Finished,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Notice,
    Opaque,
    OpaquePart,
    Part,
    PartEnd,
    Refusal,
    RefusalDelta,
    ResponseInfo,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    Turn,
    UsageDelta,
    WholePart,
)
from loopforge.drivers.vendors import PROFILES
from loopforge.workers.packing import from_plain, to_plain
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome, pieces
from tests.drivers.openai_compatible.recorded import driver_for, read
from tests.drivers.openai_compatible.request_rules import problems

# -- turns ------------------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
MODELS = ["m", "gpt-5", "gpt-5.6", "o1-mini", "gpt-3.5-turbo", "deepseek-v4", "deepseek-chat", "kimi-k3", "kimi-k2.6",
          "qwq", "glm-4.6", "MiniMax-M3", "openai/gpt-oss-20b", "qwen/qwen3-32b", "magistral"]  # fmt: skip
TOOLS = [
    Tool(name="look", parameters={"type": "object", "properties": {"at": {"type": "string"}}}),
    Tool(name="point", description="Show.", parameters={}, strict=True),
    Tool(name="patch", parameters={"type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}, "required": ["p"],
                                   "$defs": {"p": {"type": "object", "properties": {}}}}, strict=True),
]  # fmt: skip
SECRET = "of-another-origin"

cache_marks = st.sampled_from(["", "", "", "5m", "1h"])
texts = st.builds(Text, text=WORDS, cache=cache_marks)
images = st.builds(Image, data=st.just(b"\x89PNG"), media_type=st.just("image/png")) | st.just(
    Image(url="https://example.com/a.png")
)
documents = st.sampled_from(
    [Document(data=b"hello", media_type="text/plain", name="a"), Document(data=b"%PDF", media_type="application/pdf")]
)
sounds = st.sampled_from([Audio(data=b"RIFF", media_type="audio/wav"), Audio(data=b"x", transcript="said")])
foreign = st.builds(
    Opaque,
    provider=st.sampled_from([PROVIDER, "another"]),
    model=st.just("another"),
    data=st.just({"vendor": "generic", "field": "reasoning_content", "reasoning_details": [SECRET]}),
)
thinkings = st.builds(Thinking, text=st.just(SECRET), opaque=st.none() | foreign)
call_ids = st.uuids().map(str) | st.from_regex(r"[a-zA-Z0-9]{9}", fullmatch=True) | st.text(max_size=60)
calls = st.builds(
    ToolCall,
    id=call_ids,
    name=st.sampled_from(["look", "point", "gone"]),
    arguments=st.sampled_from(["{}", "", '{"at": "it"}', '{"at": ', "[1]"]),
    custom=st.sampled_from([False, False, False, True]),
    opaque=st.none() | foreign,
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Any conversation in which calls are answered: the one thing that a client has to see to."""
    messages = [Message(role="system", content=tuple(draw(st.lists(texts, max_size=2))))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["user", "user", "assistant", "loop", "system"]))
        if kind == "system":
            messages.append(Message(role="system", content=(draw(texts),)))
        elif kind == "user":
            parts = draw(st.lists(texts | images | documents | sounds, max_size=3))
            messages.append(Message(role="user", content=tuple(parts)))
        elif kind == "assistant":
            own: list[Part] = draw(st.lists(texts | thinkings | st.builds(Refusal, text=WORDS), max_size=3))
            messages.append(Message(role="assistant", content=tuple(own)))
        else:
            made = draw(st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.id))
            said: list[Part] = draw(st.lists(texts | thinkings | st.builds(OpaquePart, opaque=foreign), max_size=2))
            messages.append(Message(role="assistant", content=(*said, *made)))
            content = st.lists(texts | images, max_size=2).map(tuple)
            for call in draw(st.permutations(made)):
                result = ToolResult(call_id=call.id, content=draw(content), is_error=draw(st.booleans()))
                messages.append(Message(role="tool", content=(result,)))
    return tuple(messages)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    tools = tuple(draw(st.lists(st.sampled_from(TOOLS), unique_by=lambda tool: tool.name)))
    choices: list[Any] = ["auto", "none", *(["required", NamedTool(name=tools[0].name)] if tools else [])]
    loose = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}})
    outputs: list[Any] = ["text", "text", "json", loose, replace(loose, strict=False)]
    return Turn(
        kind="coding",
        messages=draw(conversations()),
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.sampled_from([None, True, False])),
        output=draw(st.sampled_from(outputs)),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        temperature=draw(st.none() | st.floats(0, 2)),
        top_p=draw(st.none() | st.floats(0.01, 1)),
        stop=tuple(draw(st.lists(st.text(min_size=1, max_size=3), max_size=6))),
        seed=draw(st.none() | st.integers(0, 2**31)),
        thinking=draw(st.sampled_from([None, "off", "low", "medium", "high", 0, 500, 100_000])),
        provider=PROVIDER,
        model=draw(st.sampled_from(MODELS)),
        stream=draw(st.booleans()),
    )


def every_part(turn: Turn) -> list[Part]:
    parts = [part for message in turn.messages for part in message.content]
    return parts + [inner for part in parts if isinstance(part, ToolResult) for inner in part.content]


@given(turn=turns(), vendor=st.sampled_from(sorted(PROFILES)))
def test_any_turn_becomes_a_body_that_keeps_the_rules_or_is_refused(turn: Turn, vendor: str) -> None:
    driver = driver_for(vendor)
    notices = driver.notices(turn)
    request, refusal = None, ""
    try:
        request = driver.build_request(turn)
    except TurnRefused as refused:
        refusal = refused.what
    if request is None:
        assert notices == ()
        assert "takes no" in refusal or "all empty" in refusal
        return
    body = json.loads(request.body)
    assert problems(body, vendor) == []
    assert SECRET not in request.body.decode()
    assert request == driver.build_request(turn)
    assert all(notices)
    assert len(set(notices)) == len(notices)
    if any(isinstance(part, Thinking) for part in every_part(turn)):
        assert any("earlier reasoning" in notice for notice in notices)


# -- bytes ------------------------------------------------------------------------------------------------------------

CONTENT = {TextDelta, ThinkingDelta, RefusalDelta, ToolCallStart, WholePart}


def check_order(outcome: Outcome) -> None:
    """What every stream of deltas keeps, whatever the bytes were."""
    started, ended = set[int](), set[int]()
    thinking = False
    for delta in outcome.deltas:
        match delta:
            case ToolCallStart(index, call_id, _):
                assert index == len(started)
                assert call_id
                started.add(index)
            case ToolCallArguments(index, _):
                assert index in started - ended
            case ToolCallEnd(index, call):
                assert index in started - ended
                assert call.invalid == (call.parsed is None and not call.custom)
                ended.add(index)
            case PartEnd(opaque):
                assert thinking
                assert opaque is not None
            case TextDelta(text) | RefusalDelta(text) | ThinkingDelta(text):
                assert text
            case ResponseInfo() | UsageDelta() | Notice() | Finished() | WholePart():
                pass
        if type(delta) in CONTENT:
            thinking = isinstance(delta, ThinkingDelta)
    if outcome.reply is not None:
        assert ended == started
        assert isinstance([item for item in outcome.deltas if isinstance(item, Finished)][-1], Finished)
        again = from_plain(type(outcome.reply), json_like(to_plain(outcome.reply)))
        assert again == outcome.reply


def json_like(value: Any) -> Any:
    """The value if a channel could carry it: UTF-8 text, 64-bit integers."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, int):
        assert -(2**63) <= value < 2**64
    elif isinstance(value, dict):
        for name, item in value.items():
            json_like(name)
            json_like(item)
    elif isinstance(value, list):
        for item in value:
            json_like(item)
    return value


def read_cut(vendor: str, body: bytes, sizes: list[int]) -> Outcome:
    exchange = Exchange(id="", vendor=vendor, body=body)
    whole, cut = read(exchange), read(exchange, list(pieces(body, iter(sizes))))
    assert (cut.deltas, cut.reply, cut.error, cut.partial) == (whole.deltas, whole.reply, whole.error, whole.partial)
    check_order(whole)
    return whole


vendors = st.sampled_from(["openai", "generic", "glm", "minimax", "openrouter", "mistral"])
sizes = st.lists(st.integers(1, 40), max_size=20)
SCRAPS = ["data: ", "data:", "[DONE]", "{", "}", "[", "]", '"choices"', ":", ",", '""', "event: error", ": c", "null"]
BREAKS = ["<html>", "\ufeff", "\n", "\n\n", "\r"]
EVENT = '{"choices":[{"delta":{"content":"<think>"}}]}'
scraps = st.sampled_from([scrap.encode() for scrap in [*SCRAPS, *BREAKS, EVENT]]) | st.binary(max_size=4)


@given(vendor=vendors, body=st.lists(scraps).map(b"".join), sizes=sizes)
def test_any_bytes_are_read_or_are_a_drivers_error(vendor: str, body: bytes, sizes: list[int]) -> None:
    read_cut(vendor, body, sizes)


TEXTS = ["", "a", "<think>", "</think>", "\n", "stop", "error", "{}", "null", "\ud83d", "😀"]
scalars = st.sampled_from([None, True, 0, 1, -1, 1.5, 10**30, *TEXTS])
NAMES = [
    "choices", "delta", "message", "content", "index", "finish_reason", "native_finish_reason", "usage", "error",
    "tool_calls", "function", "name", "arguments", "id", "type", "custom", "input", "reasoning_content", "reasoning",
    "reasoning_details", "text", "summary", "data", "refusal", "role", "model", "prompt_tokens", "total_tokens", "code",
    "completion_tokens", "base_resp", "status_code", "audio", "transcript", "images", "image_url", "url", "thinking",
    "annotations", "extra_content", "function_call", "x_groq", "object",
]  # fmt: skip
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)


def members(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), json_values, max_size=4)


messages = members("content", "reasoning_content", "reasoning", "reasoning_details", "tool_calls", "refusal", "audio",
                   "images", "annotations", "extra_content", "function_call", "role")  # fmt: skip
functions: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["f", "", None]),
        "arguments": st.sampled_from(["{", "}", "{}", "", None, {}]),
    },
)
fragments: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 0, 1, None, "1"]),
        "id": st.sampled_from(["a", "b", "", None]),
        "function": functions,
        "type": st.sampled_from(["function", "custom"]),
        "custom": st.fixed_dictionaries({}, optional={"name": st.just("c"), "input": st.just("x")}),
    },
)
content = st.fixed_dictionaries({"content": scalars})
some_calls = st.fixed_dictionaries({"tool_calls": st.lists(fragments)})
choices = st.fixed_dictionaries(
    {"delta": messages | content | some_calls},
    optional={
        "index": st.sampled_from([0, 0, 1, None]),
        "finish_reason": scalars,
        "message": messages,
        "error": json_values,
    },
)
chunks = members(*NAMES) | st.fixed_dictionaries(
    {"choices": st.lists(choices, max_size=2)},
    optional={"usage": members("prompt_tokens", "completion_tokens", "total_tokens"), "model": scalars},
)
ends = members("finish_reason", "delta", "error", "usage")


@given(vendor=vendors, events=st.lists(chunks, max_size=6), done=st.booleans(), sizes=sizes)
def test_any_events_are_read_or_are_a_drivers_error(
    vendor: str, events: list[dict[str, Any]], done: bool, sizes: list[int]
) -> None:
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    read_cut(vendor, b"".join([*lines, *([b"data: [DONE]\n\n"] if done else [])]), sizes)


@given(vendor=vendors, message=messages, choice=ends, sizes=sizes, top=members(*NAMES))
def test_any_json_answer_is_read_or_is_a_drivers_error(
    vendor: str, message: dict[str, Any], choice: dict[str, Any], sizes: list[int], top: dict[str, Any]
) -> None:
    body = {**top, "choices": [{"message": message, **choice}]}
    read_cut(vendor, json.dumps(body).encode(), sizes)


COMMENT = b": " + b"c" * 98 + b"\n\n"


@pytest.mark.parametrize(
    ("piece", "megabytes"),
    [
        (b"x", 70),
        (b'{"a":1,', 70),
        (b"\n", 70),
        (b" ", 70),
        (COMMENT, 10),
    ],
)
def test_a_reader_that_is_fed_without_end_ends_or_stays_small(piece: bytes, megabytes: int) -> None:
    reader = driver_for("openai").new_reader(Turn(kind="coding", messages=()), {})
    block = piece * (1_000_000 // len(piece))

    def flood() -> None:
        for _ in range(megabytes):
            assert reader.feed(block) == []
        reader.close()

    tracemalloc.start()
    try:
        with pytest.raises(DriverError):
            flood()
        assert tracemalloc.get_traced_memory()[1] < 150_000_000
    finally:
        tracemalloc.stop()

"""Random turns build bodies that the wire takes: by the simulator's rules of form, by the pages' for each model."""

from __future__ import annotations

import json
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    Audio,
    CacheMark,
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
from tests.drivers.anthropic.asking import driver_for
from tests.drivers.anthropic.request_rules import MODELS, problems
from tests.drivers.exchanges import PROVIDER

VENDORS = ["generic", "minimax", "deepseek", "openrouter", "glm"]
WORDS = st.sampled_from(["Hi", "", " ", "a\n", "é😀", "\ud83d", "call look {}"])
MARKS: st.SearchStrategy[CacheMark] = st.sampled_from(["", "5m", "1h"])
IDS = st.sampled_from(["call_1", "functions.look:0", "é", "x" * 300, "toolu_2", "1"])
NAMES = st.sampled_from(["look", "point", "files.read", "x" * 70, ""])
SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.sampled_from([
    {},
    {"type": "object"},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": ["string", "null"]}, "b": {"enum": ["x"]}}},
    {"anyOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, {"type": "object"}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"type": "string"}}}}},
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": "array", "items": {"type": "string"}},
    {"type": "object", "additionalProperties": {"type": "string"}},
])  # fmt: skip
ROLES: st.SearchStrategy[Literal["system", "user", "assistant"]] = st.sampled_from(
    ["system", "user", "user", "assistant", "assistant"]
)
MEDIA = st.one_of(
    st.builds(
        Image,
        data=st.sampled_from([b"", b"\x89PNG", b"??"]),
        media_type=st.sampled_from(["", "image/png", "image/tiff"]),
        url=st.sampled_from(["", "https://a.example/b.png"]),
        cache=MARKS,
    ),
    st.builds(
        Document,
        data=st.sampled_from([b"", b"%PDF", b"words", b" "]),
        media_type=st.sampled_from(["", "application/pdf", "text/plain", "application/zip"]),
        name=st.sampled_from(["", "a.pdf"]),
        cache=MARKS,
    ),
)
TEXTS = st.builds(Text, text=WORDS, cache=MARKS)
OTHERS = st.one_of(st.builds(Audio, transcript=WORDS), st.builds(Refusal, text=WORDS), st.builds(Thinking, text=WORDS))
ANSWER = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})


@st.composite
def opaque_parts(draw: st.DrawFn, model: str, vendor: str) -> Part:
    """Something that a model of this wire made: of this origin, or of another."""
    owner = {"provider": draw(st.sampled_from([PROVIDER, PROVIDER, "other"])), "model": model}

    def kept(block: dict[str, Any]) -> Opaque:
        return Opaque(**owner, data={"vendor": draw(st.sampled_from([vendor, "else"])), "block": block})

    match draw(st.integers(0, 3)):
        case 0:
            signature = draw(st.sampled_from([{"signature": "s"}, {"signature": ""}, {}]))
            return Thinking(text=draw(WORDS), opaque=kept(signature))
        case 1:
            return OpaquePart(opaque=kept({"type": "redacted_thinking", "data": "x"}))
        case 2:
            return Text(text=draw(WORDS), opaque=kept({"citations": [{"type": "char_location"}]}))
    return OpaquePart(opaque=Opaque(**owner, data={"vendor": vendor, "container": "c_1"}))


@st.composite
def conversations(draw: st.DrawFn, model: str, vendor: str) -> tuple[Message, ...]:
    messages = []
    for _ in range(draw(st.integers(0, 5))):
        role = draw(ROLES)
        parts: list[Part] = draw(st.lists(TEXTS | MEDIA | OTHERS, max_size=3))
        if role == "assistant":
            parts += draw(st.lists(opaque_parts(model, vendor), max_size=2))
            ids = draw(st.lists(IDS, max_size=2, unique=True))
            parts += [
                ToolCall(id=call_id, name=draw(NAMES), arguments=draw(st.sampled_from(["{}", '{"a": 1}', "{", ""])))
                for call_id in ids
            ]
            messages.append(Message(role="assistant", content=tuple(draw(st.permutations(parts)))))
            contents = st.lists(TEXTS | MEDIA, max_size=2).map(tuple)
            results = [
                ToolResult(call_id=call_id, content=draw(contents), is_error=draw(st.booleans()), cache=draw(MARKS))
                for call_id in draw(st.permutations(ids))
            ]
            messages += [Message(role="tool", content=(result,)) for result in results]
        else:
            messages.append(Message(role=role, content=tuple(parts)))
    return tuple(messages)


@st.composite
def turns(draw: st.DrawFn, model: str, vendor: str) -> Turn:
    names = draw(st.lists(st.sampled_from(["look", "point", "answer"]), unique=True, max_size=3))
    tools = tuple(
        Tool(name=name, parameters=draw(SCHEMAS), strict=draw(st.sampled_from([None, True, False])), cache=draw(MARKS))
        for name in names
    )
    choices = ["auto", "none", "required", *(NamedTool(name=name) for name in names)]
    output: Any = draw(st.sampled_from(["text", "text", "json", ANSWER]))
    return Turn(
        kind="coding",
        provider=PROVIDER,
        model=model,
        messages=draw(conversations(model, vendor)),
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)) if names else "auto",
        parallel_tool_calls=draw(st.sampled_from([None, True, False])),
        output=JsonSchema(schema=draw(SCHEMAS)) if output is ANSWER and draw(st.booleans()) else output,
        max_output_tokens=draw(st.sampled_from([None, 1, 900, 20_000, 500_000])),
        temperature=draw(st.sampled_from([None, 0, 0.5, 1, 2])),
        top_p=draw(st.sampled_from([None, 0.5, 0.97])),
        stop=tuple(draw(st.lists(WORDS, max_size=2))),
        seed=draw(st.sampled_from([None, 1])),
        thinking=draw(st.sampled_from([None, "off", "low", "high", 0, 500, 5000, 200_000])),
        stream=draw(st.booleans()),
    )


def check(turn: Turn, vendor: str) -> None:
    """The body breaks no rule, or the turn is refused; in both cases the notices can be had."""
    driver = driver_for(vendor)
    notices = driver.notices(turn)
    assert len(set(notices)) == len(notices)
    try:
        request = driver.build_request(turn)
    except TurnRefused:
        assert notices == ()
        return
    body = json.loads(request.body)
    cited = [
        block
        for message in body["messages"]
        for block in (message["content"] if isinstance(message["content"], list) else ())
        if block.pop("citations", None)
    ]
    assert all(block["type"] == "text" for block in cited)
    assert problems(body, vendor) == []
    assert driver.build_request(turn) == request


@given(data=st.data(), model=st.sampled_from(MODELS))
def test_a_random_turn_builds_a_body_that_its_model_takes(data: st.DataObject, model: str) -> None:
    check(data.draw(turns(model, "anthropic")), "anthropic")


@given(data=st.data(), vendor=st.sampled_from(VENDORS))
def test_a_random_turn_builds_a_body_that_its_gateway_takes(data: st.DataObject, vendor: str) -> None:
    check(data.draw(turns("m", vendor)), vendor)

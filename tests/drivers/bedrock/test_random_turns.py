"""Random turns build bodies that the wire takes: by its form, by AWS's service model, by the pages for each model."""

from __future__ import annotations

import json
from typing import Any, Literal

from hypothesis import given, settings
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
from tests.drivers.bedrock.asking import driver_for
from tests.drivers.bedrock.request_rules import MODELS, problems
from tests.drivers.exchanges import PROVIDER

WORDS = st.sampled_from(["Hi", "", " ", "a\n", "é😀", "\ud83d", "call look {}", '{"a": 1}', "Error: no"])
MARKS: st.SearchStrategy[CacheMark] = st.sampled_from(["", "", "5m", "1h"])
IDS = st.sampled_from(["call_1", "functions.look:0", "é", "x" * 300, "tooluse_2", "1"])
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
        url=st.sampled_from(["", "https://a.example/b.png", "s3://bucket/b.png"]),
        cache=MARKS,
    ),
    st.builds(
        Document,
        data=st.sampled_from([b"", b"%PDF", b"words", b" "]),
        media_type=st.sampled_from(["", "application/pdf", "text/plain", "application/zip", "text/csv"]),
        name=st.sampled_from(["", "a.pdf", "a b  (c)!.txt", "ü" * 300]),
        cache=MARKS,
    ),
)
TEXTS = st.builds(Text, text=WORDS, cache=MARKS)
OTHERS = st.one_of(st.builds(Audio, transcript=WORDS), st.builds(Refusal, text=WORDS), st.builds(Thinking, text=WORDS))
ANSWER = JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})


@st.composite
def opaque_parts(draw: st.DrawFn, model: str) -> Part:
    """Something that a model of this wire made: of this origin, or of another."""
    owner = {"provider": draw(st.sampled_from([PROVIDER, PROVIDER, "other"])), "model": model}

    def kept(data: dict[str, Any]) -> Opaque:
        return Opaque(**owner, data=data)

    match draw(st.integers(0, 3)):
        case 0:
            return Thinking(text=draw(WORDS), opaque=kept(draw(st.sampled_from([{"signature": "s"}, {}]))))
        case 1 if "anthropic" in model:
            return OpaquePart(opaque=kept({"redacted": "eHg="}))
        case 2:
            return Text(text=draw(WORDS), opaque=kept({"citations": [{"title": "a"}]}))
    return OpaquePart(opaque=kept({"block": {"toolUse": {"type": "server_tool_use"}}}))


@st.composite
def conversations(draw: st.DrawFn, model: str) -> tuple[Message, ...]:
    messages = []
    for _ in range(draw(st.integers(0, 5))):
        role = draw(ROLES)
        parts: list[Part] = draw(st.lists(TEXTS | MEDIA | OTHERS, max_size=3))
        if role == "assistant":
            parts += draw(st.lists(opaque_parts(model), max_size=2))
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
    if draw(st.sampled_from([True, True, False])):
        messages.append(Message(role="user", content=(Text(text="Go on."),)))
    return tuple(messages)


@st.composite
def turns(draw: st.DrawFn, model: str) -> Turn:
    names = draw(st.lists(st.sampled_from(["look", "point", "answer"]), unique=True, max_size=3))
    tools = tuple(
        Tool(
            name=name,
            description=draw(st.sampled_from(["", " ", "Looks."])),
            parameters=draw(SCHEMAS),
            strict=draw(st.sampled_from([None, True, False])),
            cache=draw(MARKS),
        )
        for name in names
    )
    choices = ["auto", "none", "required", *(NamedTool(name=name) for name in names)]
    output: Any = draw(st.sampled_from(["text", "text", "json", ANSWER]))
    return Turn(
        kind="coding",
        provider=PROVIDER,
        model=model,
        messages=draw(conversations(model)),
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)) if names else "auto",
        parallel_tool_calls=draw(st.sampled_from([None, True, False])),
        output=JsonSchema(schema=draw(SCHEMAS)) if output is ANSWER and draw(st.booleans()) else output,
        max_output_tokens=draw(st.sampled_from([None, 1, 900, 20_000, 500_000])),
        temperature=draw(st.sampled_from([None, 0, 0.5, 1, 2])),
        top_p=draw(st.sampled_from([None, 0.5, 0.97])),
        stop=tuple(draw(st.lists(WORDS, max_size=2))),
        seed=draw(st.sampled_from([None, 1])),
        thinking=draw(st.sampled_from([None, "off", "low", "medium", "high", 0, 500, 5000, 200_000])),
        stream=draw(st.booleans()),
    )


@settings(max_examples=300)
@given(data=st.data(), model=st.sampled_from(MODELS))
def test_a_random_turn_builds_a_body_that_its_model_takes(data: st.DataObject, model: str) -> None:
    turn = data.draw(turns(model))
    driver = driver_for()
    notices = driver.notices(turn)
    assert len(set(notices)) == len(notices)
    try:
        request = driver.build_request(turn)
    except TurnRefused:
        assert notices == ()
        return
    assert problems(json.loads(request.body), model) == []
    assert driver.build_request(turn) == request

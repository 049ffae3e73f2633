"""anthropic_requests.py: what is refused, and that nothing breaks it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loopforge.drivers.simulator.anthropic_requests import BadRequest, check_request

USER = {"role": "user", "content": "hello"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
CALLING = {"role": "assistant", "content": [CALL]}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"}
ANSWERING = {"role": "user", "content": [RESULT]}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
LONG_MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
POSITIVE = {**CLOSED, "properties": {"a": {"type": "integer", "minimum": 1}}}
Json = dict[str, Any]


def text(words: str = "hello", **members: Any) -> Json:
    return {"type": "text", "text": words, **members}


def body(**members: Any) -> Json:
    return {"model": "m", "max_tokens": 5000, "messages": [USER]} | members


def says(role: str, *content: Any) -> Json:
    return {"role": role, "content": list(content)}


def talk(*messages: Any, **members: Any) -> Json:
    return body(messages=list(messages), tools=[TOOL], **members)


@pytest.mark.parametrize(
    "asked",
    [
        body(),
        body(stream=True, temperature=0, top_p=1, stop_sequences=["x"], system="be brief", metadata={"user_id": "u"}),
        body(system=[text("be brief", **MARK)]),
        body(thinking={"type": "enabled", "budget_tokens": 1024}, temperature=1),
        body(thinking={"type": "adaptive"}, output_config={"effort": "high"}),
        body(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}),
        body(tools=[TOOL], tool_choice={"type": "tool", "name": "look"}),
        body(tools=[{**TOOL, "input_schema": CLOSED, "strict": True}], tool_choice={"type": "none"}),
        body(output_config={"format": {"type": "json_schema", "schema": CLOSED}}),
        talk(says("user", text(), PIXEL)),
        talk(USER, CALLING, ANSWERING),
        talk(USER, CALLING, says("user", RESULT, text("and?"))),
        talk(USER, says("assistant", THOUGHT, text("hm"), CALL), ANSWERING, says("assistant", text("done"))),
        talk(USER, says("system", text("be brief")), says("assistant", text("done")), USER),
        talk(USER, {"role": "assistant", "content": ""}),
        talk(USER, says("user", text())),
    ],
)
def test_what_anthropic_takes_is_taken(asked: Json) -> None:
    assert check_request(json.dumps(asked).encode(), reject_unknown=True) == asked


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], "valid dictionary"),
        ({"messages": [USER]}, "model: Field required"),
        ({"model": "m", "messages": [USER]}, "max_tokens: Field required"),
        (body(model=""), "model: String should have"),
        (body(max_tokens=0), "max_tokens: Input should be greater than or equal to 1"),
        (body(max_tokens=True), "max_tokens: Input should be a valid integer"),
        (body(surprise=1), "surprise: Extra inputs are not permitted"),
        (body(stream="yes"), "stream: Input should be a valid boolean"),
        (body(temperature=1.5), "temperature: range: 0..1"),
        (body(top_p="x"), "top_p: Input should be a valid number"),
        (body(stop_sequences=[" "]), "must contain non-whitespace"),
        (body(stop_sequences="x"), "valid list"),
        (body(system=[text(" ")]), "non-whitespace text"),
        (body(system=[PIXEL]), "Input tag 'image'"),
        (body(system=5), "system: Input"),
        (body(thinking={"type": "often"}), "thinking: Input tag"),
        (body(thinking={"type": "enabled"}), "budget_tokens: Field required"),
        (body(thinking={"type": "enabled", "budget_tokens": 1000}), "greater than or equal to 1024"),
        (body(thinking={"type": "enabled", "budget_tokens": 5000}), "`max_tokens` must be greater"),
        (body(thinking={"type": "enabled", "budget_tokens": 1024}, temperature=0.5), "only be set to 1"),
        (
            body(thinking={"type": "enabled", "budget_tokens": 1024}, tools=[TOOL], tool_choice={"type": "any"}),
            "may not be enabled when tool_choice forces",
        ),
        (body(tools=[{"name": "look"}]), "tools.0.custom.input_schema: Field required"),
        (body(tools=[{**TOOL, "input_schema": {}}]), "tools.0.custom.input_schema.type: Field required"),
        (body(tools=[{**TOOL, "input_schema": {"type": "array"}}]), "Input should be 'object'"),
        (body(tools=[{**TOOL, "input_schema": {"type": "object", "anyOf": []}}]), "does not support oneOf"),
        (body(tools=[{**TOOL, "name": "a b"}]), "tools.0.custom.name: String should match"),
        (body(tools=[{**TOOL, "parameters": {}}]), "parameters: Extra inputs"),
        (body(tools=[TOOL, TOOL]), "Tool names must be unique"),
        (body(tools=[{**TOOL, "strict": True}]), "'additionalProperties' must be explicitly set to false"),
        (body(tool_choice={"type": "auto"}), "only be specified while providing tools"),
        (body(tools=[TOOL], tool_choice={"type": "tool", "name": "x"}), "not found in provided tools"),
        (body(tools=[TOOL], tool_choice="auto"), "tool_choice: Input"),
        (body(tools=[TOOL], tool_choice={"type": "none", "name": "x"}), "Extra inputs"),
        (body(messages=[]), "at least one message is required"),
        (body(messages="hi"), "messages: Input should be a valid list"),
        (body(messages=["hi"]), "messages.0: Input does not match the expected shape."),
        (body(messages=[{"role": "tool", "content": "x"}]), 'Unexpected role "tool"'),
        (body(messages=[{"role": "user", "content": ""}]), "must have non-empty content"),
        (body(messages=[says("user", text("\n"))]), "non-whitespace text"),
        (body(messages=[says("assistant", text())]), 'must use the "user" role'),
        (body(messages=[says("user", text(extra=1))]), "messages.0.content.0.text.extra: Extra inputs"),
        (body(messages=[says("user", CALL)]), "Input tag 'tool_use'"),
        (body(messages=[says("user", {**PIXEL, "source": {"type": "file"}})]), "image.source: Input does not match"),
        (
            body(messages=[says("user", {"type": "image", "source": {**PIXEL["source"], "media_type": "image/bmp"}})]),  # type: ignore[dict-item] # its source is an object
            "media_type: Input should be 'image/jpeg'",
        ),
        (talk(USER, says("assistant", text("x "))), "cannot end with trailing whitespace"),
        (talk(USER, says("assistant", text("x"), THOUGHT)), "final block in an assistant message cannot be `thinking`"),
        (talk(USER, says("assistant", {**THOUGHT, "signature": 1}, text())), "thinking.signature: Input should be"),
        (talk(USER, says("assistant", {"type": "thinking", "thinking": ""}, text())), "thinking.signature: Field req"),
        (talk(USER, CALLING), "`tool_use` ids were found without `tool_result` blocks immediately after: toolu_1."),
        (talk(USER, CALLING, USER), "messages.1: `tool_use` ids were found without"),
        (talk(USER, ANSWERING), "unexpected `tool_use_id` found in `tool_result` blocks: toolu_1."),
        (talk(USER, CALLING, says("user", RESULT, RESULT)), "must have a single result"),
        (talk(USER, CALLING, says("user", text(), RESULT)), "must come before other content"),
        (talk(USER, CALLING, ANSWERING, CALLING, ANSWERING), "ids must be unique"),
        (talk(USER, says("assistant", {**CALL, "id": "a.b"}), ANSWERING), "tool_use.id: String should match"),
        (talk(USER, says("assistant", {**CALL, "input": "{}"}), ANSWERING), "tool_use.input: Input should be"),
        (body(messages=[USER, CALLING, ANSWERING]), "must define tools"),
        (talk(USER, says("assistant", text()), says("system", text())), "must follow a user message"),
        (body(output_config={"effort": "huge"}), "output_config.effort"),
        (body(output_config={"format": {"type": "json"}}), "output_config.format: Input"),
        (
            body(output_config={"format": {"type": "json_schema", "schema": POSITIVE}}),
            "For 'integer' type, property 'minimum' is not supported",
        ),
        (body(system=[text(**MARK)] * 5), "A maximum of 4 blocks with cache_control may be provided. Found 5."),
        (body(system=[text(**MARK), text(**LONG_MARK)]), "must not come after a ttl='5m'"),
        (body(system=[text(cache_control={"type": "x"})]), "cache_control: Input"),
    ],
)  # fmt: skip
def test_what_anthropic_refuses_is_refused_in_its_words(asked: Any, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_request(json.dumps(asked).encode(), reject_unknown=True)
    assert words in str(caught.value)


def test_what_is_no_json_is_refused() -> None:
    for raw in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(BadRequest, match="not valid JSON"):
            check_request(raw, reject_unknown=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["text", "tool_use", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "source", "id", "name", "input", "ttl"]), inner
        )
    ),
    max_leaves=12,
)


@given(name=st.sampled_from(sorted(body(system=1, tools=1, tool_choice=1, thinking=1, output_config=1))), value=VALUES)
@example(name="messages", value=[{"role": "user", "content": [{"type": [], "text": ""}]}])
@example(name="messages", value=[{"role": [], "content": "x"}])
@example(name="tools", value=[{"name": [], "input_schema": {"type": "object"}}])
@example(name="tools", value=[{"type": "web_search", "name": []}])
@example(name="tool_choice", value={"type": []})
def test_a_member_of_any_shape_is_taken_or_refused_and_breaks_nothing(name: str, value: Any) -> None:
    with contextlib.suppress(BadRequest):
        check_request(json.dumps(body(tools=[TOOL]) | {name: value}).encode(), reject_unknown=True)

"""openai_requests.py: what is refused, and that nothing breaks it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loopforge.drivers.simulator.openai_requests import BadRequest, check_request

USER = {"role": "user", "content": "hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "found"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
PARTIAL = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}


def body(**members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER]} | members


def messages(*given: Any) -> dict[str, Any]:
    return body(messages=list(given))


def schema(value: dict[str, Any], *, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": value, "strict": strict}}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look"} | function}


@pytest.mark.parametrize(
    "asked",
    [
        body(),
        body(stream=True, stream_options={"include_usage": True}),
        body(temperature=0, top_p=1, max_tokens=1, stop="x", seed=0),
        body(stop=["a", "b", "c", "d"], max_completion_tokens=9),
        body(tools=[TOOL], tool_choice="auto", parallel_tool_calls=False),
        body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look"}}),
        body(tools=[tool(parameters=CLOSED, strict=True)]),
        body(response_format=schema(CLOSED)),
        body(response_format=schema(OPEN, strict=False)),
        body(messages=[{"role": "user", "content": "as JSON please"}], response_format={"type": "json_object"}),
        body(thinking={"type": "disabled"}, enable_thinking=False, reasoning_effort="low"),
        messages({"role": "system", "content": "be brief"}, USER),
        messages({"role": "developer", "content": [{"type": "text", "text": "be brief"}]}, USER),
        messages({"role": "user", "content": [{"type": "text", "text": "what is it?"}, PIXEL]}),
        messages(USER, CALLING, RESULT),
        messages(USER, CALLING, RESULT, {"role": "assistant", "content": "done", "reasoning_content": "hm"}, USER),
        messages(USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT),
        messages(USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT, USER),
    ],
)
def test_what_openai_takes_is_taken(asked: dict[str, Any]) -> None:
    assert check_request(json.dumps(asked).encode(), reject_unknown=True) == asked


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ([], None, "could not parse the JSON body"),
        ({"messages": [USER]}, None, "must provide a model"),
        (body(model=""), None, "must provide a model"),
        ({"model": "m"}, "messages", "Missing required parameter: 'messages'"),
        (body(messages="hi"), "messages", "expected an array of objects, but got a string"),
        (body(messages=[]), "messages", "empty array"),
        (body(surprise=1), "surprise", "Unknown parameter: 'surprise'"),
        (body(stream="yes"), "stream", "expected a boolean"),
        (body(stream_options={}), "stream_options", "only allowed when 'stream' is enabled"),
        (body(temperature=2.1), "temperature", "Expected a value <= 2, but got 2.1"),
        (body(temperature="hot"), "temperature", "expected a decimal, but got a string"),
        (body(top_p=-0.1), "top_p", "Expected a value >= 0"),
        (body(max_tokens=0), "max_tokens", "Expected a value >= 1"),
        (body(max_tokens=1.5), "max_tokens", "expected an integer, but got a decimal"),
        (body(max_tokens=True), "max_tokens", "expected an integer, but got a boolean"),
        (body(max_tokens=1, max_completion_tokens=1), "max_tokens", "at the same time"),
        (body(stop=["a", "b", "c", "d", "e"]), "stop", "maximum length 4, but got an array with length 5"),
        (body(stop=7), "stop", "a string or array of strings"),
        (body(tools=[]), "tools", "empty array"),
        (body(tools=[TOOL] * 129), "tools", "maximum length 128"),
        (body(tool_choice="auto"), "tool_choice", "only allowed when 'tools' are specified"),
        (body(parallel_tool_calls=True), "parallel_tool_calls", "only allowed when 'tools' are specified"),
        (body(tools=[{"function": {"name": "x"}}]), "tools[0].type", "Missing required parameter"),
        (body(tools=[{"type": ["function"]}]), "tools[0].type", "Supported values are: 'function', 'custom'"),
        (body(tools=[{"type": "function"}]), "tools[0].function.name", "Missing required parameter"),
        (body(tools=[tool(name="a b")]), "tools[0].function.name", "does not match pattern"),
        (body(tools=[tool(name="a" * 65)]), "tools[0].function.name", "maximum length 64"),
        (body(tools=[tool(parameters={})]), "tools[0].function.parameters", "got 'type: null'"),
        (body(tools=[tool(parameters=OPEN, strict=True)]), "tools[0].function.parameters", "'additionalProperties'"),
        (body(tools=[TOOL], tool_choice="any"), "tool_choice", "Supported values are: 'none', 'auto', 'required'"),
        (
            body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}}),
            "tool_choice",
            "'other' not found in 'tools'",
        ),
        (messages("hi"), "messages[0]", "expected an object"),
        (messages({"content": "hi"}), "messages[0].role", "Missing required parameter"),
        (messages({"role": "model", "content": "hi"}), "messages[0].role", "Invalid value: 'model'"),
        (messages({"role": "user"}), "messages[0].content", "expected a string, got null"),
        (messages({"role": "user", "content": []}), "messages[0].content", "empty array"),
        (messages({"role": "user", "content": 5}), "messages[0].content", "but got an integer"),
        (messages({"role": "system", "content": [PIXEL]}), "messages[0].content[0].type", "'image_url'"),
        (messages({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text", "Missing"),
        (
            messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}),
            "messages[0].content[0].image_url.url",
            "Expected a valid URL",
        ),
        (messages({"role": "assistant", "content": None}), "messages[0].content", "expected a string, got null"),
        (messages({"role": "assistant", "tool_calls": []}), "messages[0].tool_calls", "empty array"),
        (messages(USER, CALLING), "messages", "did not have response messages: call_1"),
        (messages(USER, CALLING, USER), "messages[2].role", "did not have response messages: call_1"),
        (messages(USER, RESULT), "messages[1].role", "must be a response to a preceeding message"),
        (messages(USER, CALLING, RESULT, RESULT), "messages[3].role", "must be a response"),
        (messages(USER, CALLING, {"role": "tool", "content": "x"}), "messages[2].tool_call_id", "Missing"),
        (
            messages(USER, {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "x", "arguments": {}}}]}),
            "messages[1].tool_calls[0].function.arguments",
            "expected a string, but got an object",
        ),
        (
            messages(USER, {"role": "assistant", "tool_calls": [CALL | {"id": ""}]}),
            "messages[1].tool_calls[0].id",
            "Missing required parameter",
        ),
        (body(response_format="json"), "response_format", "expected an object"),
        (body(response_format={"type": "xml"}), "response_format.type", "Supported values are: 'json_object'"),
        (body(response_format={"type": "json_object"}), "messages", "must contain the word 'json'"),
        (body(response_format={"type": "json_schema"}), "response_format.json_schema", "Missing required parameter"),
        (body(response_format=schema(OPEN)), "response_format", "In context=(), 'additionalProperties' is required"),
        (body(response_format=schema(PARTIAL)), "response_format", "every key in properties. Missing 'a'"),
        (
            body(response_format=schema(CLOSED | {"properties": {"a": OPEN}})),
            "response_format",
            "In context=('properties', 'a'), 'additionalProperties'",
        ),
    ],
)
def test_what_openai_refuses_is_refused_with_the_member_at_fault(asked: Any, param: str | None, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_request(json.dumps(asked).encode(), reject_unknown=True)
    assert caught.value.param == param
    assert words in caught.value.message


def test_unknown_members_pass_where_the_vendor_ignores_them() -> None:
    check_request(json.dumps(body(surprise=1)).encode(), reject_unknown=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = st.sampled_from(
    ["stream", "stream_options", "temperature", "max_tokens", "stop", "tools", "tool_choice", "response_format"]
)
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "name"]), JSON)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])


@given(
    members=st.dictionaries(MEMBERS, JSON),
    given_messages=st.lists(st.builds(lambda role, rest: rest | {"role": role}, ROLES, MESSAGE) | JSON, max_size=4),
)
@example(
    members={"response_format": schema({"properties": {"a": 1}, "required": 3, "anyOf": 4})}, given_messages=[USER]
)
@example(members={"tools": [{"type": {}}]}, given_messages=[USER])
def test_any_json_is_taken_or_refused(members: dict[str, Any], given_messages: list[Any]) -> None:
    with contextlib.suppress(BadRequest):
        check_request(json.dumps(members | {"model": "m", "messages": given_messages}).encode(), reject_unknown=True)


@given(raw=st.binary(max_size=40))
@example(raw=b"[" * 100_000)
def test_any_bytes_are_taken_or_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        check_request(raw, reject_unknown=True)

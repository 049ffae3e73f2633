"""Answers of a schema, and cache marks: what is asked for in which form, and what is said of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.turn import (
    Document,
    Image,
    JsonSchema,
    NamedTool,
    Text,
    Tool,
    ToolResult,
    assistant,
    system,
    user,
)
from loopforge.drivers.turn import Message as TurnMessage
from tests.drivers.anthropic.asking import CALL, HI, LOOK, ask, driver_for, noted, written

MANUAL, EITHER, ALWAYS = "claude-sonnet-4-0", "claude-sonnet-4-6", "claude-fable-5"


# -- answers of a schema ----------------------------------------------------------------------------------------------

ANSWER: dict[str, Any] = {
    "type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"], "additionalProperties": False,
}  # fmt: skip
SIZE = JsonSchema(schema=ANSWER, name="the size")


def test_a_schema_is_asked_for_by_the_wires_own_field_where_there_is_one() -> None:
    wanted = {"type": "json_schema", "schema": ANSWER}
    assert written(output=SIZE)["output_config"] == {"format": wanted}
    assert written(output=SIZE, thinking="high")["output_config"] == {"effort": "high", "format": wanted}
    assert noted(output=SIZE) == ""
    turn = ask(HI, model="claude-opus-4-1", output=SIZE)
    assert written(model="claude-opus-4-1", output=SIZE)["output_format"] == wanted
    assert driver_for().build_request(turn).headers["anthropic-beta"] == "structured-outputs-2025-11-13"
    betas = driver_for(headers={"anthropic-beta": "a,b"}).build_request(turn).headers["anthropic-beta"]
    assert betas == "a,b,structured-outputs-2025-11-13"
    assert "anthropic-beta" not in driver_for().build_request(ask(HI, output=SIZE)).headers


@pytest.mark.parametrize(
    ("members", "choice", "tools"),
    [
        ({}, {"type": "tool", "name": "the_size"}, ["the_size"]),
        ({"tools": (LOOK,)}, {"type": "any"}, ["look", "the_size"]),
        ({"tools": (LOOK,), "tool_choice": "required"}, {"type": "any"}, ["look", "the_size"]),
        ({"tools": (LOOK,), "tool_choice": "none"}, {"type": "tool", "name": "the_size"}, ["look", "the_size"]),
        ({"tools": (Tool(name="the_size"),)}, {"type": "any"}, ["the_size", "the_size_"]),
        (
            {"tools": (LOOK,), "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True}, ["look", "the_size"],
        ),
    ],
)  # fmt: skip
def test_elsewhere_a_tool_that_must_be_called_asks_for_it(
    members: dict[str, Any], choice: Any, tools: list[str]
) -> None:
    for vendor, model in (("generic", "m"), ("anthropic", MANUAL)):
        body = written(vendor, model=model, output=SIZE, **members)
        assert body["tool_choice"] == choice
        assert [tool["name"] for tool in body["tools"]] == tools
        assert body["tools"][-1]["input_schema"] == ANSWER
        assert body["tools"][-1]["description"].startswith("Gives the answer.")
        assert "a tool asks for it, and nothing enforces it" in noted(vendor, model=model, output=SIZE, **members)


def test_the_tool_is_described_in_the_schemas_own_words() -> None:
    body = written("generic", model="m", output=JsonSchema(schema=ANSWER, description="How big it is."))
    assert body["tools"][0]["description"] == "How big it is."


@pytest.mark.parametrize(
    ("vendor", "model", "members"),
    [
        ("anthropic", MANUAL, {"output": SIZE, "thinking": "low"}),
        ("generic", "m", {"output": JsonSchema(schema={"type": "array", "items": {"type": "string"}})}),
        ("generic", "m", {"output": SIZE, "tools": (LOOK,), "tool_choice": NamedTool(name="look")}),
        ("anthropic", EITHER, {"output": JsonSchema(schema={"type": "object", "additionalProperties": True})}),
        ("anthropic", EITHER, {"output": "json"}),
        ("generic", "m", {"output": "json"}),
    ],
)
def test_else_the_system_prompt_asks_for_it_and_says_so(vendor: str, model: str, members: dict[str, Any]) -> None:
    body = written(vendor, model=model, messages=(system("Be brief."), HI), **members)
    assert body["system"].startswith("Be brief.\n\nAnswer with ")
    if isinstance(members["output"], JsonSchema):
        assert body["system"].endswith(json.dumps(members["output"].schema, separators=(",", ":")))
    assert "format" not in body.get("output_config", {})
    assert "is not enforced" in noted(vendor, model=model, **members)
    assert written(vendor, model=model, **members)["system"].startswith("Answer with ")


def test_an_answer_that_was_begun_is_not_enforced() -> None:
    messages = (HI, assistant('{"size":'))
    body = written(model="claude-haiku-4-5", messages=messages, output=SIZE)
    assert "output_config" not in body
    assert "not enforced" in noted(model="claude-haiku-4-5", messages=messages, output=SIZE)
    assert "tools" not in written("generic", model="m", messages=messages, output=SIZE)


def test_what_of_a_schema_is_not_enforced_is_named() -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}, "required": ["size"]}
    assert "does not enforce minimum at /size" in noted(output=JsonSchema(schema=schema))


# -- cache marks ------------------------------------------------------------------------------------------------------


def marked(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Where the marks stand, and how long they last."""
    system_blocks = body["system"] if isinstance(body.get("system"), list) else []
    blocks = [("tools", tool) for tool in body.get("tools", ())] + [("system", item) for item in system_blocks]
    for message in body["messages"]:
        if isinstance(message["content"], list):
            blocks += [(part["type"], part) for part in message["content"]]
    return [(name, item["cache_control"].get("ttl")) for name, item in blocks if "cache_control" in item]


def test_marks_go_on_everything_that_has_one() -> None:
    result = ToolResult(call_id="call_1", content=(Text(text="x", cache="5m"),))
    messages = (
        TurnMessage(role="system", content=(Text(text="a", cache="1h"), Text(text="b"))),
        user(Image(data=b"\x89PNG", cache="5m"), Document(data=b"%PDF", cache="5m")),
        assistant(Text(text="so", cache="5m"), CALL),
        TurnMessage(role="tool", content=(result,)),
    )
    for drop in range(3):
        tools = (Tool(name="look", cache="1h"),) if drop == 0 else (LOOK,)
        body = written(messages=messages[drop > 1 :], tools=tools)
        assert (
            marked(body)
            == [
                [("tools", "1h"), ("system", "1h"), ("text", None), ("tool_result", None)],
                [("system", "1h"), ("document", None), ("text", None), ("tool_result", None)],
                [("image", None), ("document", None), ("text", None), ("tool_result", None)],
            ][drop]
        )
        assert ("earlier ones were not sent" in noted(messages=messages[drop > 1 :], tools=tools)) == (drop < 2)


def test_the_system_text_is_a_list_only_for_the_sake_of_a_mark() -> None:
    parts = (Text(text="a", cache="5m"), Text(text="b"))
    message = TurnMessage(role="system", content=parts)
    assert written(messages=(message, HI))["system"] == [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "b"},
    ]
    assert written("generic", messages=(message, HI))["system"] == "ab"
    assert "cache marks were not sent" in noted("generic", messages=(message, HI))
    with_schema = written(messages=(message, HI), output="json")["system"]
    assert len(with_schema) == 3


def test_an_hour_never_follows_five_minutes() -> None:
    messages = (user(Text(text="a", cache="5m"), Text(text="b", cache="1h")),)
    assert marked(written(messages=messages)) == [("text", None), ("text", None)]
    assert "was sent as 5m" in noted(messages=messages)
    messages = (user(Text(text="a", cache="1h"), Text(text="b", cache="5m")),)
    assert marked(written(messages=messages)) == [("text", "1h"), ("text", None)]
    assert noted(messages=messages) == ""


def test_an_automatic_mark_counts_as_one() -> None:
    messages = (user(*(Text(text=word, cache="5m") for word in "abcd")),)
    options = {"anthropic": {"cache_control": {"type": "ephemeral"}}}
    assert len(marked(written(messages=messages))) == 4
    assert len(marked(written(messages=messages, provider_options=options))) == 3


def test_marks_that_cannot_be_sent_are_named() -> None:
    assert "cache mark behind empty text" in noted(messages=(user("Hi", Text(text=" ", cache="5m")),))
    assert "cache marks were not sent: generic" in noted("generic", messages=(user(Text(text="Hi", cache="5m")),))
    forced: dict[str, Any] = {
        "tools": (Tool(name="look", cache="5m"), Tool(name="point", cache="5m")),
        "tool_choice": NamedTool(name="look"),
    }
    assert marked(written(model=ALWAYS, **forced)) == [("tools", None)]

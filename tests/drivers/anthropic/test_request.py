"""The body of a request beside its conversation: thinking, sampling, tools, schemas, cache marks, headers."""

from __future__ import annotations

from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    JsonSchema,
    NamedTool,
    Tool,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.anthropic.asking import CALL, HI, LOOK, MODEL, ask, body_of, driver_for, noted, notices_of, written
from tests.drivers.anthropic.request_rules import MODELS

OLD, MANUAL, EITHER, ADAPTIVE, ALWAYS = (
    "claude-3-5-haiku-20241022", "claude-sonnet-4-0", "claude-sonnet-4-6", "claude-opus-4-7", "claude-fable-5",
)  # fmt: skip
POINT = Tool(name="point")


def refused(vendor: str = "anthropic", *, model: str = MODEL, **members: Any) -> str:
    with pytest.raises(TurnRefused) as caught:
        driver_for(vendor).build_request(ask(HI, model=model, **members))
    return str(caught.value)


def test_a_bare_turn_is_a_bare_body() -> None:
    assert written() == {
        "model": MODEL,
        "max_tokens": 32_000,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }
    assert noted() == ""


# -- thinking and length ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "asked", "thinking", "effort", "says"),
    [
        (OLD, None, None, None, ""),
        (OLD, "off", None, None, ""),
        (OLD, "high", None, None, "not known to think"),
        (OLD, 5000, None, None, "not known to think"),
        (MANUAL, None, None, None, ""),
        (MANUAL, "off", {"type": "disabled"}, None, ""),
        (MANUAL, 0, {"type": "disabled"}, None, ""),
        (MANUAL, "low", {"type": "enabled", "budget_tokens": 2048}, None, ""),
        (MANUAL, "medium", {"type": "enabled", "budget_tokens": 10_000}, None, ""),
        (MANUAL, "high", {"type": "enabled", "budget_tokens": 16_384}, None, ""),
        (MANUAL, 5000, {"type": "enabled", "budget_tokens": 5000}, None, ""),
        (MANUAL, 10, {"type": "enabled", "budget_tokens": 1024}, None, "smallest thinking budget is 1024"),
        (EITHER, "off", {"type": "disabled"}, None, ""),
        (EITHER, "medium", {"type": "adaptive"}, "medium", ""),
        (EITHER, 5000, {"type": "enabled", "budget_tokens": 5000}, None, ""),
        (ADAPTIVE, "off", {"type": "disabled"}, None, ""),
        (ADAPTIVE, "low", {"type": "adaptive"}, "low", ""),
        (ADAPTIVE, 2048, {"type": "adaptive"}, "low", "effort 'low' was asked for"),
        (ADAPTIVE, 10_000, {"type": "adaptive"}, "medium", "takes no thinking budget"),
        (ADAPTIVE, 10_001, {"type": "adaptive"}, "high", "takes no thinking budget"),
        (ALWAYS, "off", None, "low", "cannot stop thinking"),
        (ALWAYS, "high", None, "high", ""),
    ],
)
def test_each_generation_is_told_to_think_in_its_own_way(
    model: str, asked: Any, thinking: Any, effort: Any, says: str
) -> None:
    body = written(model=model, thinking=asked)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    assert says in noted(model=model, thinking=asked)
    assert bool(says) == bool(noted(model=model, thinking=asked))


@pytest.mark.parametrize(
    ("vendor", "model", "asked", "thinking", "config", "says"),
    [
        ("generic", "m", "high", {"type": "enabled", "budget_tokens": 16_384}, None, ""),
        ("generic", "m", "off", {"type": "disabled"}, None, ""),
        (
            "openrouter",
            "anthropic/claude-opus-4.7",
            "high",
            {"type": "adaptive"},
            None,
            "takes no thinking effort here",
        ),
        ("deepseek", "m", "high", {"type": "enabled", "budget_tokens": 1024}, {"effort": "high"}, ""),
        ("deepseek", "m", 900, {"type": "enabled", "budget_tokens": 1024}, {"effort": "low"}, "no thinking budget"),
        ("minimax", "MiniMax-M2.5", "off", None, None, "cannot be told to stop thinking"),
        ("minimax", "MiniMax-M2.5", "high", None, None, "takes no thinking effort here"),
        ("minimax", "MiniMax-M3", "off", {"type": "disabled"}, None, ""),
        ("minimax", "MiniMax-M3", 5000, {"type": "adaptive"}, None, "takes no thinking effort here"),
    ],
)
def test_gateways_are_told_what_they_take(
    *, vendor: str, model: str, asked: Any, thinking: Any, config: Any, says: str
) -> None:
    body = written(vendor, model=model, thinking=asked)
    assert (body.get("thinking"), body.get("output_config")) == (thinking, config)
    found = noted(vendor, model=model, thinking=asked)
    assert says in found
    assert bool(says) == bool(found)


@pytest.mark.parametrize(
    ("model", "stream", "asked", "tokens"),
    [
        (OLD, True, None, 8192),
        (MANUAL, True, None, 32_000),
        (MANUAL, False, None, 16_000),
        (EITHER, True, 500, 500),
        (ADAPTIVE, True, 400_000, 400_000),
        ("claude-opus-4-1", True, 64_000, 32_000),
        (OLD, True, 64_000, 8192),
    ],
)
def test_tokens_are_always_asked_for_and_never_more_than_the_model_writes(
    model: str, stream: bool, asked: int | None, tokens: int
) -> None:
    assert written(model=model, stream=stream, max_output_tokens=asked)["max_tokens"] == tokens
    cut = asked is not None and asked > tokens
    assert ("writes at most" in noted(model=model, stream=stream, max_output_tokens=asked)) == cut


@pytest.mark.parametrize(
    ("model", "budget", "asked", "tokens", "left", "says"),
    [
        (MANUAL, 10_000, None, 42_000, 10_000, ""),
        (MANUAL, 10_000, 20_000, 20_000, 10_000, ""),
        (MANUAL, 10_000, 500, 10_500, 10_000, "10000 for it and 500 for the answer"),
        (MANUAL, 10_000, 10_000, 20_000, 10_000, "max_tokens counts the thinking, too"),
        (MANUAL, 60_000, None, 64_000, 32_000, "thinking budget was made 32000"),
        (MANUAL, 60_000, 1000, 61_000, 60_000, "max_tokens counts"),
        (MANUAL, 100_000, 1000, 64_000, 63_000, "thinking budget was made 63000"),
        ("claude-opus-4-1", 31_000, 31_500, 31_500, 31_000, ""),
        ("claude-opus-4-1", 20_000, 50_000, 32_000, 20_000, "writes at most 32000 tokens"),
    ],
)
def test_a_budget_stands_on_top_of_the_answer_and_within_the_models_limit(
    *, model: str, budget: int, asked: int | None, tokens: int, left: int, says: str
) -> None:
    body = written(model=model, thinking=budget, max_output_tokens=asked)
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (tokens, left)
    found = noted(model=model, thinking=budget, max_output_tokens=asked)
    assert says in found
    assert bool(says) == bool(found)


def test_a_model_that_continues_an_answer_does_not_think() -> None:
    messages = (HI, assistant("The answer is"))
    body = written(model=MANUAL, messages=messages, thinking="high")
    assert body["thinking"] == {"type": "disabled"}
    assert "does not think when it continues" in noted(model=MANUAL, messages=messages, thinking="high")


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "model", "members", "sent", "says"),
    [
        ("anthropic", MANUAL, {"temperature": 0.5}, {"temperature": 0.5}, ""),
        ("anthropic", MANUAL, {"temperature": 1.5}, {"temperature": 1.0}, "from 0 to 1: 1 was sent"),
        ("anthropic", MANUAL, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}, ""),
        ("anthropic", MANUAL, {"temperature": 0.5, "thinking": "low"}, {}, "while it thinks, no such temperature"),
        ("anthropic", MANUAL, {"temperature": 1, "thinking": "low"}, {"temperature": 1}, ""),
        ("anthropic", MANUAL, {"top_p": 0.95, "thinking": "low"}, {"top_p": 0.95}, ""),
        ("anthropic", MANUAL, {"top_p": 0.5, "thinking": "low"}, {}, "no such top_p"),
        (
            "anthropic",
            EITHER,
            {"temperature": 0.5, "top_p": 0.9},
            {"temperature": 0.5},
            "temperature or top_p, not both",
        ),
        ("anthropic", EITHER, {"temperature": 0.5, "thinking": "high"}, {}, "no such temperature"),
        ("anthropic", ADAPTIVE, {"temperature": 1, "top_p": 1}, {}, "takes no such temperature"),
        ("deepseek", "m", {"temperature": 1.5}, {"temperature": 1.5}, ""),
        ("minimax", "m", {"temperature": 0}, {"temperature": 0.01}, "0.01 was sent"),
        ("minimax", "m", {"temperature": 1.5}, {"temperature": 1.0}, "from 0.01 to 1"),
        ("minimax", "m", {"stop": ("x",)}, {}, "ignores stop strings"),
        ("anthropic", MANUAL, {"stop": ("x", " ")}, {"stop_sequences": ["x"]}, "white space alone"),
        ("anthropic", MANUAL, {"stop": ("\n",)}, {}, "white space alone"),
        ("anthropic", MANUAL, {"seed": 5}, {}, "no seed"),
    ],
)
def test_sampling_is_asked_for_where_it_is_taken(
    vendor: str, model: str, members: dict[str, Any], sent: dict[str, Any], says: str
) -> None:
    body = written(vendor, model=model, **members)
    assert {name: body[name] for name in ("temperature", "top_p", "stop_sequences", "seed") if name in body} == sent
    found = noted(vendor, model=model, **members)
    assert says in found
    assert bool(says) == bool(found)


def test_the_newer_version_of_the_wire_takes_no_sampling_from_any_model() -> None:
    turn = ask(HI, model=MANUAL, temperature=1, top_p=0.5)
    changes: dict[str, Any] = {"headers": {"Anthropic-Version": "2026-10-21"}}
    assert not {"temperature", "top_p"} & body_of(turn, **changes).keys()
    assert "version 2026-10-21 of this wire takes no such temperature" in notices_of(turn, **changes)
    assert driver_for(**changes).build_request(turn).headers["anthropic-version"] == "2026-10-21"


# -- tools ------------------------------------------------------------------------------------------------------------


def test_tools_are_sent_with_their_schemas() -> None:
    body = written(tools=(LOOK, POINT))
    assert body["tools"] == [
        {
            "name": "look",
            "description": "Looks.",
            "input_schema": {"type": "object", "properties": {"at": {"type": "integer"}}},
        },
        {"name": "point", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    ("vendor", "model", "members", "choice", "offered", "says"),
    [
        ("anthropic", MANUAL, {"tool_choice": "none"}, {"type": "none"}, 2, ""),
        ("anthropic", MANUAL, {"tool_choice": "required"}, {"type": "any"}, 2, ""),
        ("anthropic", MANUAL, {"tool_choice": NamedTool(name="look")}, {"type": "tool", "name": "look"}, 2, ""),
        ("anthropic", MANUAL, {"parallel_tool_calls": True}, None, 2, ""),
        (
            "anthropic", MANUAL, {"parallel_tool_calls": False},
            {"type": "auto", "disable_parallel_tool_use": True}, 2, "",
        ),
        (
            "anthropic", MANUAL, {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True}, 2, "",
        ),
        ("anthropic", MANUAL, {"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}, 2, ""),
        ("deepseek", "m", {"parallel_tool_calls": False}, None, 2, "ignores disable_parallel_tool_use"),
        ("anthropic", MANUAL, {"tool_choice": "required", "thinking": "low"}, None, 2, "while it thinks: tool_choice"),
        (
            "anthropic", MANUAL, {"tool_choice": NamedTool(name="look"), "thinking": "low"},
            None, 1, "only 'look' was offered",
        ),
        ("anthropic", EITHER, {"tool_choice": "required", "thinking": "low"}, {"type": "any"}, 2, ""),
        ("anthropic", EITHER, {"tool_choice": "required", "thinking": 2048}, None, 2, "while it thinks"),
        ("anthropic", ALWAYS, {"tool_choice": "required"}, None, 2, "cannot be forced to call a tool: tool_choice"),
        ("anthropic", ALWAYS, {"tool_choice": NamedTool(name="look")}, None, 1, "only 'look' was offered"),
        ("generic", "m", {"tool_choice": "required", "thinking": "low"}, None, 2, "while it thinks"),
        ("minimax", "m", {"tool_choice": "required"}, {"type": "any"}, 2, ""),
    ],
)  # fmt: skip
def test_the_choice_of_tools_is_forced_where_it_can_be(
    *, vendor: str, model: str, members: dict[str, Any], choice: Any, offered: int, says: str
) -> None:
    members = {"tools": (LOOK, POINT), **members}
    body = written(vendor, model=model, **members)
    assert body.get("tool_choice") == choice
    assert len(body["tools"]) == offered
    found = noted(vendor, model=model, **members)
    assert says in found
    assert bool(says) == bool(found)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"tool_choice": "required"}, "offers no tools"),
        ({"tool_choice": NamedTool(name="look")}, "offers no tools"),
        ({"tools": (LOOK,), "tool_choice": NamedTool(name="other")}, "which the turn does not offer"),
        ({"tools": (LOOK, LOOK)}, "two tools have the same name"),
        ({"tools": (Tool(name="a b"),)}, "'a b' is no tool name"),
        ({"tools": (Tool(name=""),)}, "is no tool name"),
        ({"tools": (Tool(name="x" * 129),)}, "use 1 to 128"),
    ],
)
def test_tools_that_make_no_sense_are_refused(members: dict[str, Any], says: str) -> None:
    assert says in refused(**members)


def test_gateways_take_shorter_names() -> None:
    assert written(tools=(Tool(name="x" * 128),))
    assert "use 1 to 64" in refused("generic", tools=(Tool(name="x" * 65),))


def test_a_history_of_calls_without_tools_declares_them() -> None:
    messages = (HI, assistant(CALL), tool_result(CALL, "x"))
    body = written(messages=messages)
    assert body["tools"] == [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    assert body["tool_choice"] == {"type": "none"}
    assert "may not be called" in noted(messages=messages)
    raw = {"anthropic": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}}
    assert body_of(ask(*messages, provider_options=raw))["tools"] == raw["anthropic"]["tools"]
    assert noted(messages=messages, provider_options=raw) == ""


STRICT = Tool(
    name="look",
    strict=True,
    parameters={
        "type": "object", "properties": {"at": {"type": "integer", "minimum": 0}, "why": {"type": "string"}},
        "required": ["at"],
    },
)  # fmt: skip


def test_a_strict_tool_is_enforced_where_it_can_be() -> None:
    (tool,) = written(tools=(STRICT,))["tools"]
    assert tool["strict"] is True
    assert tool["input_schema"]["additionalProperties"] is False
    assert tool["input_schema"]["properties"]["at"] == {"type": "integer", "description": "{minimum: 0}"}
    assert noted(tools=(STRICT,)) == (
        "of the schema of tool 'look' this wire does not enforce minimum at /at: the model was told in words"
    )
    (tool,) = written(tools=(STRICT,), model=MANUAL)["tools"]
    assert tool == {"name": "look", "input_schema": STRICT.parameters}
    assert "does not enforce a tool's schema here" in noted(tools=(STRICT,), model=MANUAL)
    open_ended = Tool(name="look", strict=True, parameters={"type": "object", "additionalProperties": True})
    assert "strict" not in written(tools=(open_ended,))["tools"][0]
    assert "of tool 'look' is not enforced: the root object allows additional" in noted(tools=(open_ended,))


def test_what_is_enforced_has_a_price_and_a_limit() -> None:
    many = tuple(Tool(name=f"t{number}", strict=True, parameters=STRICT.parameters) for number in range(30))
    assert sum("strict" in tool for tool in written(tools=many)["tools"]) == 20
    assert "those of 20 tools" in noted(tools=many)
    wide = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(13)}}
    two = tuple(Tool(name=f"t{number}", strict=True, parameters=wide) for number in range(2))
    assert [bool(tool.get("strict")) for tool in written(tools=two)["tools"]] == [True, False]
    assert "24 optional properties in all" in noted(tools=two)
    exactly = {**wide, "properties": {f"p{number}": {"type": "string"} for number in range(24)}}
    assert written(tools=(Tool(name="t", strict=True, parameters=exactly),))["tools"][0]["strict"] is True
    either: dict[str, Any] = {
        "type": "object",
        "properties": {f"p{number}": {"type": ["string", "null"]} for number in range(17)},
        "required": [f"p{number}" for number in range(17)],
    }
    (tool,) = written(tools=(Tool(name="t", strict=True, parameters=_without(either, "p16")),))["tools"]
    assert tool["strict"] is True
    assert "16 choices between types" in noted(tools=(Tool(name="t", strict=True, parameters=either),))


def _without(schema: dict[str, Any], name: str) -> dict[str, Any]:
    properties = {key: value for key, value in schema["properties"].items() if key != name}
    return {**schema, "properties": properties, "required": list(properties)}


def test_a_tool_that_combines_schemas_at_its_root_is_described_in_words() -> None:
    parameters = {"anyOf": [{"type": "object", "properties": {"a": {"type": "string"}}}]}
    (tool,) = written(tools=(Tool(name="t", parameters=parameters),))["tools"]
    assert tool["input_schema"] == {"type": "object", "properties": {"a": {"type": "string"}}}
    assert '"anyOf"' in tool["description"]
    assert "described in words" in noted(tools=(Tool(name="t", parameters=parameters),))


@pytest.mark.parametrize("model", MODELS)
def test_a_turn_with_everything_breaks_no_rule_of_any_model(model: str) -> None:
    body = written(
        model=model,
        messages=(system("a"), HI, assistant(CALL), tool_result(CALL, "x"), user("?")),
        tools=(STRICT, POINT),
        tool_choice="required",
        parallel_tool_calls=False,
        output=JsonSchema(schema=STRICT.parameters),
        max_output_tokens=900,
        temperature=0.3,
        top_p=0.4,
        stop=("x",),
        seed=1,
        thinking="medium",
    )
    assert body["model"] == model

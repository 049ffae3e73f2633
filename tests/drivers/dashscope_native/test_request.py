"""What a turn asks for, as parameters; what the model will not do is said."""

from __future__ import annotations

from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import JsonSchema, NamedTool, Tool, system, user
from tests.drivers.dashscope_native.asking import (
    KIND,
    MODEL,
    VISION,
    Json,
    ask,
    body_of,
    driver_for,
    messages_of,
    notices_of,
    parameters_of,
)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK, POINT = Tool(name="look", description="Look.", parameters=CITY), Tool(name="point", parameters={})
ANSWER = JsonSchema(schema=CITY, name="place", description="A place.")
THINKER = "qwen3.7-plus"  # thinks unless it is told not to


def sent(**members: Any) -> Json:
    """The parameters without what every stream has."""
    parameters = parameters_of(ask(user("hello"), **members))
    assert (parameters.pop("result_format"), parameters.pop("incremental_output")) == ("message", True)
    return parameters


def said(**members: Any) -> str:
    return notices_of(ask(user("hello"), **members))


# -- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "thinking", "parameters"),
    [
        (MODEL, None, {}),
        (MODEL, "off", {"enable_thinking": False}),
        (MODEL, 0, {"enable_thinking": False}),
        (MODEL, 512, {"enable_thinking": True, "thinking_budget": 512}),
        (MODEL, "low", {"enable_thinking": True, "thinking_budget": 2048}),
        (MODEL, "medium", {"enable_thinking": True, "thinking_budget": 8192}),
        (MODEL, "high", {"enable_thinking": True}),
        (MODEL, -1, {"enable_thinking": True}),
        ("qwen3.8-max", "low", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("qwen3.8-max", 512, {"enable_thinking": True, "thinking_budget": 512}),
        ("qwq-plus", "high", {}),
        ("qwq-plus", 512, {"thinking_budget": 512}),
        ("qwen-max", "off", {}),
    ],
)
def test_thinking_is_asked_for_in_the_models_own_terms(model: str, thinking: Any, parameters: Json) -> None:
    assert sent(model=model, thinking=thinking) == parameters
    assert said(model=model, thinking=thinking) == ""


@pytest.mark.parametrize(
    ("model", "thinking", "parameters", "notice"),
    [
        ("qwen3.8-max", "high", {"enable_thinking": True, "reasoning_effort": "xhigh"}, "'xhigh' was asked for"),
        ("deepseek-v4-pro", "low", {"enable_thinking": True, "reasoning_effort": "high"}, "'high' was asked for"),
        ("glm-5.1", "high", {"enable_thinking": True, "reasoning_effort": "max"}, "'max' was asked for"),
        ("qwen-max", "high", {}, "not known to think"),
        ("qwen3-vl-32b-instruct", 100, {}, "not known to think"),
        ("qwq-plus", "off", {}, "cannot be told to stop"),
        ("qwen3-vl-235b-a22b-thinking", 0, {}, "cannot be told to stop"),
    ],
)
def test_thinking_that_a_model_cannot_do_is_said(model: str, thinking: Any, parameters: Json, notice: str) -> None:
    assert sent(model=model, thinking=thinking) == parameters
    assert notice in said(model=model, thinking=thinking)


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_sampling_goes_as_it_is_within_the_wires_ranges() -> None:
    members: Json = {"max_output_tokens": 64, "temperature": 0.7, "top_p": 0.8, "stop": ("END", "X"), "seed": 1234}
    assert sent(**members) == {"max_tokens": 64, "temperature": 0.7, "top_p": 0.8, "stop": ["END", "X"], "seed": 1234}
    assert said(**members) == ""


@pytest.mark.parametrize(
    ("members", "parameters"),
    [
        ({"temperature": 2.0}, {"temperature": 1.99}),
        ({"temperature": -1.0}, {"temperature": 0.0}),
        ({"top_p": 0.0}, {"top_p": 0.01}),
        ({"top_p": 1.5}, {"top_p": 1.0}),
        ({"seed": -1}, {}),
        ({"seed": 2**31}, {}),
    ],
)
def test_what_is_out_of_range_is_moved_or_left_out_with_a_word(members: Json, parameters: Json) -> None:
    assert sent(**members) == parameters
    assert "this wire takes a" in said(**members)


# -- tools ------------------------------------------------------------------------------------------------------------


def test_tools_are_functions_and_auto_says_nothing() -> None:
    parameters = sent(tools=(LOOK, POINT))
    assert parameters == {
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": CITY}},
            {"type": "function", "function": {"name": "point", "parameters": {"type": "object", "properties": {}}}},
        ]
    }


@pytest.mark.parametrize("parallel", [True, False])
def test_parallel_calls_are_asked_for_as_the_turn_says(parallel: bool) -> None:
    assert sent(tools=(LOOK,), parallel_tool_calls=parallel)["parallel_tool_calls"] is parallel


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        ("none", "none"),
        (NamedTool(name="point"), {"type": "function", "function": {"name": "point"}}),
    ],
)
def test_a_choice_of_tools_goes_as_the_wire_has_it(choice: Any, wire: Any) -> None:
    assert sent(tools=(LOOK, POINT), tool_choice=choice)["tool_choice"] == wire


def test_a_call_of_any_tool_can_be_asked_for_when_there_is_one() -> None:
    forced = {"type": "function", "function": {"name": "look"}}
    assert sent(tools=(LOOK,), tool_choice="required")["tool_choice"] == forced
    assert "tool_choice" not in sent(tools=(LOOK, POINT), tool_choice="required")
    assert "cannot ask for a call of any tool" in said(tools=(LOOK, POINT), tool_choice="required")


@pytest.mark.parametrize(("model", "thinking"), [(MODEL, "low"), (THINKER, None), ("qwq-plus", None)])
def test_no_call_is_forced_while_a_model_thinks(model: str, thinking: Any) -> None:
    members: Json = {"model": model, "thinking": thinking, "tools": (LOOK,), "tool_choice": NamedTool(name="look")}
    assert "tool_choice" not in sent(**members)
    assert "while it thinks" in said(**members)
    assert "tool_choice" in sent(**{**members, "model": THINKER, "thinking": "off"})


@pytest.mark.parametrize(
    "members",
    [
        {"tools": (Tool(name="search"),)},
        {"tools": (Tool(name="a b"),)},
        {"tools": (Tool(name="x" * 65),)},
        {"tools": (LOOK, LOOK)},
        {"tools": (LOOK,), "tool_choice": NamedTool(name="gone")},
        {"tool_choice": "required"},
        {"tool_choice": NamedTool(name="look")},
        {"tools": (LOOK,), "model": "qwen-mt-plus"},
    ],
)
def test_tools_that_the_wire_would_refuse_are_refused_before(members: Json) -> None:
    with pytest.raises(TurnRefused) as caught:
        driver_for().build_request(ask(user("hello"), **members))
    assert caught.value.action
    assert said(**members) == ""


def test_references_are_put_in_place_and_those_that_cannot_be_are_named() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}
    assert sent(tools=(Tool(name="t", parameters=schema),))["tools"][0]["function"]["parameters"] == {
        "type": "object",
        "properties": {"a": {"type": "string"}},
    }
    loop = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert "keeps its reference" in said(tools=(Tool(name="t", parameters=loop),))


def test_strict_tools_and_marks_on_tools_are_named() -> None:
    told = said(tools=(Tool(name="t", strict=True, cache="5m"),))
    assert "strict was not sent" in told
    assert "cache marks" in told


# -- structured output ------------------------------------------------------------------------------------------------


def test_a_schema_goes_to_models_that_take_one() -> None:
    assert sent(output=ANSWER)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "place", "description": "A place.", "schema": CITY, "strict": True},
    }
    assert said(output=ANSWER) == ""


def test_a_schema_stands_in_the_prompt_for_models_that_take_json_alone() -> None:
    turn = ask(system("Be kind."), user("hello"), model="qwen3-max", output=ANSWER)
    assert parameters_of(turn)["response_format"] == {"type": "json_object"}
    told = messages_of(turn)[0]["content"]
    assert told.startswith("Be kind.\n\nAnswer with JSON")
    assert '"required":["city"]' in told
    assert "not enforced" in notices_of(turn)


@pytest.mark.parametrize(
    ("question", "model", "added"),
    [("hello", MODEL, True), ("as JSON", MODEL, False), ("hello", VISION, True), ("json, please", VISION, False)],
)
def test_json_mode_wants_the_word_in_the_prompt(question: str, model: str, added: bool) -> None:
    turn = ask(user(question), model=model, output="json")
    assert parameters_of(turn)["response_format"] == {"type": "json_object"}
    assert ("the word JSON" in notices_of(turn)) == added
    assert (messages_of(turn)[0]["role"] == "system") == added


def test_an_instruction_is_a_part_of_its_own_behind_those_of_the_system_message() -> None:
    turn = ask(system("Be kind."), user("hello"), model=VISION, output="json")
    assert messages_of(turn)[0]["content"] == [
        {"text": "Be kind."},
        {"text": "\n\nAnswer with one JSON object and nothing else."},
    ]


@pytest.mark.parametrize(
    ("model", "thinking"), [(MODEL, 100), (THINKER, None), ("qvq-max", "off"), ("qwen-mt-plus", None)]
)
def test_there_is_no_json_mode_while_a_model_thinks_or_for_one_without_it(model: str, thinking: Any) -> None:
    turn = ask(user("hello"), model=model, thinking=thinking, output=ANSWER)
    assert "response_format" not in parameters_of(turn)
    assert "JSON Schema" in str(messages_of(turn))
    assert "takes no JSON mode" in notices_of(turn)


# -- the person's own fields ------------------------------------------------------------------------------------------


def test_own_fields_are_merged_into_the_body_and_those_of_the_turn_win() -> None:
    turn = ask(user("hello"), provider_options={KIND: {"parameters": {"top_k": 3}}, "gemini": {"x": 1}})
    body = body_of(turn, extra_body={"parameters": {"top_k": 1, "enable_search": True, "result_format": None}})
    assert body["parameters"] == {"incremental_output": True, "top_k": 3, "enable_search": True}
    assert "x" not in body


@pytest.mark.parametrize(
    ("members", "own", "parameters"),
    [
        ({"max_output_tokens": 5}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        ({"max_output_tokens": 5}, {"max_tokens": 9}, {"max_tokens": 9}),
        ({"thinking": 100}, {"reasoning_effort": "low"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        (
            {"thinking": "high", "model": "glm-5.1"},
            {"thinking_budget": 9},
            {"enable_thinking": True, "thinking_budget": 9},
        ),
    ],
)
def test_of_two_fields_that_exclude_each_other_the_persons_own_stays(
    members: Json, own: Json, parameters: Json
) -> None:
    assert sent(**members, provider_options={KIND: {"parameters": own}}) == parameters

"""How a turn is asked for: where, thinking, sampling, tools and JSON answers, by family of models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.minimax_native import MinimaxNative
from loopforge.drivers.minimax_native.profiles import ABAB as ABAB_PROFILE
from loopforge.drivers.minimax_native.profiles import LATER, ROLE_PLAY, find_profile
from loopforge.drivers.minimax_native.profiles import M1 as M1_PROFILE
from loopforge.drivers.minimax_native.profiles import M2 as M2_PROFILE
from loopforge.drivers.minimax_native.profiles import M3 as M3_PROFILE
from loopforge.drivers.minimax_native.profiles import TEXT_01 as TEXT_01_PROFILE
from loopforge.drivers.registry import ProviderSettings, open_driver
from loopforge.drivers.turn import JsonSchema, NamedTool, Tool, Turn, system, user
from tests.drivers.minimax_native.asking import (
    ABAB,
    HER,
    HI,
    LOOK,
    M1,
    M2,
    M3,
    TEXT_01,
    ask,
    body_of,
    driver_for,
    noted,
    written,
)

POINT = Tool(name="point", parameters={})


# -- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.minimax.chat/v1", "https://api.minimax.chat/v1/text/chatcompletion_v2"),
        ("https://api.minimax.io/v1/", "https://api.minimax.io/v1/text/chatcompletion_v2"),
        ("https://api.minimax.io/v1/chat/completions", "https://api.minimax.io/v1/chat/completions"),
        ("https://h/v1/text/chatcompletion_v2/", "https://h/v1/text/chatcompletion_v2"),
        ("https://h/v1?GroupId=17", "https://h/v1/text/chatcompletion_v2?GroupId=17"),
        ("https://h/v1/chat/completions?GroupId=17", "https://h/v1/chat/completions?GroupId=17"),
    ],
)
def test_the_path_of_the_wire_is_appended_unless_the_base_url_names_one(base_url: str, url: str) -> None:
    assert driver_for(base_url).build_request(ask(HI)).url == url


def test_the_driver_is_opened_by_its_kind_and_holds_no_key() -> None:
    driver = open_driver(ProviderSettings(name="p", kind="minimax_native", base_url="https://h/v1", api_key_env="KEY"))
    assert isinstance(driver, MinimaxNative)
    request = driver.build_request(ask(HI))
    assert request.method == "POST"
    assert dict(request.headers) == {"content-type": "application/json", "accept": "text/event-stream"}


def test_a_turn_asks_for_a_stream_with_its_usage_or_for_one_answer() -> None:
    streamed, whole = written(), written(stream=False)
    assert (streamed["stream"], streamed["stream_options"]) == (True, {"include_usage": True})
    assert (whole["stream"], "stream_options" in whole) == (False, False)
    assert driver_for().build_request(ask(HI, stream=False)).headers["accept"] == "application/json"


def test_the_persons_own_headers_and_fields_win() -> None:
    driver = driver_for(
        headers={"X-Own": "1", "Accept": "*/*"}, extra_body={"service_tier": "standard", "stream": None}
    )
    turn = ask(HI, max_output_tokens=5, provider_options={
        "minimax_native": {"mask_sensitive_info": True, "max_tokens": 7}, "gemini": {"nothing": 1},
    })  # fmt: skip
    request = driver.build_request(turn)
    body = json.loads(request.body)
    assert (request.headers["x-own"], request.headers["accept"]) == ("1", "*/*")
    assert (body["service_tier"], body["mask_sensitive_info"], body["max_tokens"]) == ("standard", True, 7)
    assert {"stream", "max_completion_tokens", "nothing"} & body.keys() == set()


def test_a_vendor_that_is_none_of_this_wire_is_named() -> None:
    assert driver_for(vendor="acme").notices(ask(HI)) == (
        "vendor 'acme' is not known on this wire: it is treated as MiniMax",
    )
    for vendor in ("", "minimax", "generic"):
        assert driver_for(vendor=vendor).notices(ask(HI)) == ()


@pytest.mark.parametrize("odd", [float("nan"), {1, 2}])
def test_what_is_no_json_is_refused(odd: Any) -> None:
    with pytest.raises(TurnRefused, match="cannot be written as JSON"):
        body_of(ask(HI, provider_options={"minimax_native": {"x": odd}}))
    with pytest.raises(TurnRefused, match="schema"):
        body_of(ask(HI, output=JsonSchema(schema={"enum": odd})))


# -- families ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "profile"),
    [
        ("MiniMax-M3", M3_PROFILE),
        ("minimax/minimax-m3", M3_PROFILE),
        ("MiniMax-M3.5", M3_PROFILE),
        ("MiniMax-M4", LATER),
        ("MiniMax-M10", LATER),
        ("MiniMax-M2", M2_PROFILE),
        ("MiniMax-M2.1-lightning", M2_PROFILE),
        ("MiniMax-M2.7-highspeed", M2_PROFILE),
        ("M2-her", ROLE_PLAY),
        ("MiniMax-M2-her", ROLE_PLAY),
        ("MiniMax-M1", M1_PROFILE),
        ("MiniMax-Text-01", TEXT_01_PROFILE),
        ("abab6.5s-chat", ABAB_PROFILE),
        ("something-else", M2_PROFILE),
        ("", M2_PROFILE),
    ],
)
def test_a_models_name_tells_its_family(model: str, profile: object) -> None:
    assert find_profile(model) is profile


@pytest.mark.parametrize(
    ("model", "thinking", "sent", "split", "notice"),
    [
        (M3, None, None, True, ""),
        (M3, "off", {"type": "disabled"}, True, ""),
        (M3, 0, {"type": "disabled"}, True, ""),
        (M3, "high", {"type": "adaptive"}, True, "takes no thinking effort or budget"),
        (M3, 4096, {"type": "adaptive"}, True, "takes no thinking effort or budget"),
        (M2, None, None, True, ""),
        (M2, "off", None, True, "cannot be told to stop thinking"),
        (M2, "low", None, True, "takes no thinking effort or budget"),
        (M1, "off", None, False, "cannot be told to stop thinking"),
        (M1, "high", None, False, "takes no thinking effort or budget"),
        (TEXT_01, "off", None, False, ""),
        (TEXT_01, "high", None, False, "is not known to think"),
        (HER, 100, None, False, "is not known to think"),
        (ABAB, "low", None, False, "is not known to think"),
    ],
)
def test_thinking_is_asked_for_as_the_family_takes_it(
    model: str, thinking: Any, sent: Any, split: bool, notice: str
) -> None:
    body = written(model=model, thinking=thinking)
    assert (body.get("thinking"), body.get("reasoning_split")) == (sent, True if split else None)
    found = noted(model=model, thinking=thinking)
    assert notice in found
    assert bool(found) == bool(notice)


@pytest.mark.parametrize(
    ("model", "members", "sent", "notice"),
    [
        (M2, {"temperature": 0}, {"temperature": 0.01}, "a temperature from 0.01 to 1: 0.01 was sent"),
        (M2, {"temperature": 1.5}, {"temperature": 1.0}, "1 was sent"),
        (M2, {"temperature": 0.7}, {"temperature": 0.7}, ""),
        (M3, {"temperature": 0}, {"temperature": 0}, ""),
        (M3, {"temperature": 3}, {"temperature": 2.0}, "from 0 to 2"),
        (M3, {"top_p": 0}, {"top_p": 0.01}, "a top_p from 0.01 to 1"),
        (M2, {"top_p": 0.9}, {"top_p": 0.9}, ""),
        (M2, {"max_output_tokens": 10**6}, {"max_completion_tokens": 10**6}, ""),
        (M3, {"max_output_tokens": 10**6}, {"max_completion_tokens": 524_288}, "at most 524288 tokens"),
        (ABAB, {"max_output_tokens": 100}, {"max_tokens": 100}, ""),
        (M2, {"stop": ("x",)}, {}, "no stop strings"),
        (M2, {"seed": 7}, {}, "no seed"),
    ],
)
def test_sampling_is_kept_in_the_range_that_is_taken(
    model: str, members: dict[str, Any], sent: dict[str, Any], notice: str
) -> None:
    body = written(model=model, **members)
    names = ("temperature", "top_p", "max_completion_tokens", "max_tokens", "stop", "seed")
    assert {name: body[name] for name in names if name in body} == sent
    found = noted(model=model, **members)
    assert notice in found
    assert bool(found) == bool(notice)


# -- tools ------------------------------------------------------------------------------------------------------------


def test_tools_are_functions_with_parameters_that_are_never_empty() -> None:
    body = written(tools=(LOOK, POINT))
    assert body["tools"] == [
        {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": LOOK.parameters}},
        {"type": "function", "function": {"name": "point", "parameters": {"type": "object", "properties": {}}}},
    ]
    assert body["tool_choice"] == "auto"
    assert {"tools", "tool_choice"} & written().keys() == set()


@pytest.mark.parametrize(
    ("choice", "sent", "offered", "notice"),
    [
        ("auto", "auto", 2, ""),
        ("none", "none", 2, ""),
        ("required", "auto", 2, "forces no tool call"),
        (NamedTool(name="look"), "auto", 1, "only 'look' was offered"),
    ],
)
def test_a_tool_choice_is_auto_or_none(choice: Any, sent: str, offered: int, notice: str) -> None:
    members = {"tools": (LOOK, POINT), "tool_choice": choice}
    body = written(**members)
    assert (body["tool_choice"], len(body["tools"])) == (sent, offered)
    found = noted(**members)
    assert notice in found
    assert bool(found) == bool(notice)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"tool_choice": "required"}, "offers no tools"),
        ({"tool_choice": NamedTool(name="look")}, "offers no tools"),
        ({"tools": (LOOK,), "tool_choice": NamedTool(name="gone")}, "does not offer"),
        ({"tools": (LOOK, LOOK)}, "the same name"),
        ({"tools": (Tool(name="two words"),)}, "no tool name"),
        ({"tools": (Tool(name=""),)}, "no tool name"),
    ],
)
def test_tools_that_cannot_be_offered_are_refused(members: dict[str, Any], why: str) -> None:
    with pytest.raises(TurnRefused, match=why) as caught:
        body_of(ask(HI, **members))
    assert caught.value.action
    assert driver_for().notices(ask(HI, **members)) == ()


def test_what_tools_ask_for_beyond_the_wire_is_named() -> None:
    strict = Tool(name="look", strict=True, cache="5m")
    found = noted(tools=(strict,), parallel_tool_calls=False)
    assert "strict was not sent" in found
    assert "cache marks were not sent" in found
    assert "parallel_tool_calls was not sent" in found
    assert noted(tools=(LOOK,), parallel_tool_calls=True) == ""


# -- structured output ------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"size": {"type": "integer"}}}


def test_one_family_takes_a_schema() -> None:
    output = JsonSchema(schema=SCHEMA, name="a size!", description="How large.")
    body = written(model=TEXT_01, output=output)
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "a_size_", "schema": SCHEMA}}
    assert "description" in noted(model=TEXT_01, output=output)
    body = written(model=TEXT_01, output="json")
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": {"type": "object"}}
    assert noted(model=TEXT_01, output="json") == ""


@pytest.mark.parametrize("model", [M3, M2, M1, HER, ABAB])
def test_all_others_are_asked_in_words(model: str) -> None:
    body = written(model=model, output=JsonSchema(schema=SCHEMA), messages=(system("Be brief."), HI))
    assert "response_format" not in body
    said = body["messages"][0]["content"]
    assert said.startswith("Be brief.\n\nAnswer with JSON")
    assert json.loads(said.partition("Schema: ")[2]) == SCHEMA
    assert "not enforced" in noted(model=model, output=JsonSchema(schema=SCHEMA))
    body = written(model=model, output="json", messages=(user("hi"),))
    assert body["messages"][0] == {"role": "system", "content": "Answer with one JSON object and nothing else."}
    assert "nothing enforces it" in noted(model=model, output="json")


def test_a_turn_without_anything_special_is_sent_without_anything_special() -> None:
    turn = Turn(kind="coding", messages=(HI,), provider="recorded", model=M2, stream=False)
    assert body_of(turn) == {
        "model": M2,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
        "reasoning_split": True,
    }

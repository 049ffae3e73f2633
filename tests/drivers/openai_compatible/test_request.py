"""A turn as a request: what every vendor is asked alike, and what each is asked differently."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.openai_compatible import open_driver
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import JsonSchema, NamedTool, Tool, Turn, assistant, system, user
from loopforge.drivers.vendors import PROFILES
from tests.drivers.exchanges import PROVIDER
from tests.drivers.openai_compatible.recorded import driver_for
from tests.drivers.openai_compatible.request_rules import problems

LOOK = Tool(name="look", description="Look at it.", parameters={"type": "object", "properties": {"at": {}}})
CIRCLE: dict[str, Any] = {}
CIRCLE["properties"] = {"me": CIRCLE}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}


def turn(model: str = "m", **members: Any) -> Turn:
    return replace(Turn(kind="coding", messages=(user("Hi"),), provider=PROVIDER, model=model), **members)


def body_of(vendor: str, asked: Turn, **settings: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(driver_for(vendor, **settings).build_request(asked).body)
    assert problems(body, vendor) == []
    return body


def extras(vendor: str, asked: Turn) -> dict[str, Any]:
    """The body without what every body has."""
    body = body_of(vendor, asked)
    return {
        name: value for name, value in body.items() if name not in ("model", "messages", "stream", "stream_options")
    }


def parameters_of(vendor: str, schema: dict[str, Any]) -> Any:
    """A tool's schema as it is sent."""
    return body_of(vendor, turn(tools=(Tool(name="t", parameters=schema),)))["tools"][0]["function"]["parameters"]


def notices(vendor: str, asked: Turn) -> str:
    return "\n".join(driver_for(vendor).notices(asked))


# -- the request ------------------------------------------------------------------------------------------------------


def test_the_smallest_turn() -> None:
    request = driver_for("openai").build_request(turn())
    assert (request.method, request.url) == ("POST", "https://provider.example/v1/chat/completions")
    assert request.headers == {"content-type": "application/json", "accept": "text/event-stream"}
    assert json.loads(request.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert driver_for("openai").notices(turn()) == ()


def test_one_answer_in_place_of_a_stream_is_asked_for_in_so_many_words() -> None:
    request = driver_for("openai").build_request(turn(stream=False))
    assert request.headers["accept"] == "application/json"
    assert json.loads(request.body) == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": False}


@pytest.mark.parametrize("vendor", PROFILES)
def test_the_smallest_turn_needs_no_notice_anywhere(vendor: str) -> None:
    body_of(vendor, turn())
    assert driver_for(vendor).notices(turn()) == ()


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.deepseek.com", "https://api.deepseek.com/chat/completions"),
        ("https://api.deepseek.com/", "https://api.deepseek.com/chat/completions"),
        ("https://api.z.ai/api/paas/v4/", "https://api.z.ai/api/paas/v4/chat/completions"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1/chat/completions"),
        ("https://gw.example/v1?team=a", "https://gw.example/v1/chat/completions?team=a"),
        (
            "https://a.openai.azure.com/openai/deployments/gpt/?api-version=2024-10-21",
            "https://a.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        ),
        (
            "https://a.openai.azure.com/openai?api-version=2024-10-21",
            "https://a.openai.azure.com/openai/deployments/m%2F1/chat/completions?api-version=2024-10-21",
        ),
        ("https://a.openai.azure.com/openai/v1", "https://a.openai.azure.com/openai/v1/chat/completions"),
    ],
)
def test_the_path_is_joined_without_assuming_a_version(base_url: str, url: str) -> None:
    driver = open_driver(ProviderSettings(name="p", kind="openai_compatible", base_url=base_url))
    assert driver.build_request(turn("m/1")).url == url


def test_settings_and_options_are_put_over_what_the_driver_writes() -> None:
    settings = {
        "headers": {"X-Title": "LoopForge", "Accept": "*/*"},
        "extra_body": {"user": "me", "chat_template_kwargs": {"a": 1}, "stream_options": None},
    }
    options = {"openai_compatible": {"user": "you", "chat_template_kwargs": {"b": 2}, "seed": None, "top_k": 5},
               "anthropic": {"ignored": True}}  # fmt: skip
    request = driver_for("vllm", **settings).build_request(turn(seed=7, thinking="off", provider_options=options))
    assert request.headers["x-title"] == "LoopForge"
    assert request.headers["accept"] == "*/*"
    assert json.loads(request.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "chat_template_kwargs": {"enable_thinking": False, "a": 1, "b": 2},
        "user": "you",
        "top_k": 5,
    }


def test_of_the_two_token_limits_the_persons_own_stays() -> None:
    options = {"openai_compatible": {"max_tokens": 5}}
    assert extras("openai", turn(max_output_tokens=9, provider_options=options)) == {"max_tokens": 5}


def test_an_unknown_vendor_is_told() -> None:
    driver = open_driver(ProviderSettings(name="p", kind="openai_compatible", base_url="http://x/v1", vendor="acme"))
    assert "'acme' is not known" in driver.notices(turn())[0]


@pytest.mark.parametrize(
    "asked",
    [
        turn(output=JsonSchema(schema={"type": "object", "minimum": float("nan")})),
        turn(provider_options={"openai_compatible": {"x": {1, 2}}}),
        turn(output=JsonSchema(schema=CIRCLE)),
    ],
    ids=["nan", "a set", "a circle"],
)
def test_what_is_no_json_is_refused(asked: Turn) -> None:
    with pytest.raises(TurnRefused):
        driver_for("openai").build_request(asked)
    assert driver_for("openai").notices(asked) == () or "cannot be enforced" in notices("openai", asked)


def test_text_that_is_no_unicode_is_sent_with_question_marks() -> None:
    request = driver_for("openai").build_request(turn(messages=(user("a\ud83d"),)))
    assert json.loads(request.body)["messages"][0]["content"] == "a?"


# -- sampling ---------------------------------------------------------------------------------------------------------

SAMPLING = {"max_output_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": ("a", "b", "c", "d", "e"), "seed": 7}


@pytest.mark.parametrize(
    ("vendor", "model", "expected", "told"),
    [
        ("generic", "m", {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": [*"abcd"], "seed": 7}, ["4 stop"]),
        ("mistral", "m", {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": [*"abcd"], "random_seed": 7},
         ["4 stop"]),
        ("openai", "gpt-4o", {"max_completion_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": [*"abcd"],
         "seed": 7}, ["4 stop"]),
        ("openai", "o3", {"max_completion_tokens": 9, "seed": 7}, ["temperature", "top_p", "no stop"]),
        ("openai", "gpt-5", {"max_completion_tokens": 9, "seed": 7}, ["temperature", "top_p", "no stop"]),
        ("openai", "gpt-5.1", {"max_completion_tokens": 9, "temperature": 0.0, "top_p": 0.5, "seed": 7}, ["no stop"]),
        ("openai", "gpt-5.5", {"max_completion_tokens": 9, "seed": 7}, ["temperature while it thinks"]),
        ("deepseek", "deepseek-v4", {"max_tokens": 9, "stop": [*"abcd"], "seed": 7}, ["temperature while it thinks"]),
        ("deepseek", "deepseek-chat", {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": [*"abcd"],
         "seed": 7}, ["4 stop"]),
        ("kimi", "kimi-k2.6", {"max_completion_tokens": 9, "stop": [*"abcd"], "seed": 7}, ["no temperature", "top_p"]),
        ("minimax", "MiniMax-M2.5", {"max_completion_tokens": 9, "temperature": 0.01, "top_p": 0.5, "stop": [*"abcd"],
         "seed": 7, "reasoning_split": True}, ["from 0.01 to 1"]),
        ("glm", "glm-4.6", {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": ["a"], "seed": 7}, ["1 stop"]),
        ("groq", "m", {"max_completion_tokens": 9, "temperature": 0.0, "top_p": 0.5, "stop": [*"abcd"], "seed": 7},
         ["4 stop"]),
    ],
)  # fmt: skip
def test_sampling_is_sent_as_the_vendor_takes_it(
    vendor: str, model: str, expected: dict[str, Any], told: list[str]
) -> None:
    asked = turn(model, **SAMPLING)
    assert extras(vendor, asked) == expected
    assert all(words in notices(vendor, asked) for words in told)


# -- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "model", "thinking", "expected", "told"),
    [
        ("openai", "gpt-5.1", "off", {"reasoning_effort": "none"}, ""),
        ("openai", "gpt-5.1", "high", {"reasoning_effort": "high"}, ""),
        ("openai", "gpt-5", "off", {"reasoning_effort": "minimal"}, "cannot stop thinking"),
        ("openai", "o4-mini", "off", {"reasoning_effort": "low"}, "cannot stop thinking"),
        ("openai", "gpt-5-pro", "low", {"reasoning_effort": "high"}, "no thinking effort 'low'"),
        ("openai", "gpt-4o", "low", {}, "not known to think"),
        ("openai", "gpt-4o", "off", {}, ""),
        ("openai", "gpt-5.1", 1000, {"reasoning_effort": "low"}, "no thinking budget"),
        ("openai", "gpt-5.1", 5000, {"reasoning_effort": "medium"}, "no thinking budget"),
        ("openai", "gpt-5.1", 50_000, {"reasoning_effort": "high"}, "no thinking budget"),
        ("openai", "gpt-5.1", 0, {"reasoning_effort": "none"}, ""),
        ("deepseek", "deepseek-v4", "off", {"thinking": {"type": "disabled"}}, ""),
        ("deepseek", "deepseek-v4", "low", {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}, ""),
        ("deepseek", "deepseek-v4", "medium", {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, "'high'"),
        ("kimi", "kimi-k3", "off", {"reasoning_effort": "low"}, "cannot stop thinking"),
        ("kimi", "kimi-k3", "high", {"reasoning_effort": "high"}, ""),
        ("kimi", "kimi-k2.6", "off", {"thinking": {"type": "disabled"}}, ""),
        ("kimi", "kimi-k2.6", "low", {"thinking": {"type": "enabled"}}, "takes no thinking effort"),
        ("kimi", "kimi-k2-thinking", "off", {}, "cannot be told to stop"),
        ("qwen", "qwen-max", "off", {"enable_thinking": False}, ""),
        ("qwen", "qwen-max", "low", {"enable_thinking": True, "thinking_budget": 2048}, ""),
        ("qwen", "qwen-max", "high", {"enable_thinking": True}, ""),
        ("qwen", "qwen-max", 777, {"enable_thinking": True, "thinking_budget": 777}, ""),
        ("qwen", "qwq-32b", "off", {}, "cannot be told to stop"),
        ("glm", "glm-4.6", "off", {"thinking": {"type": "disabled"}}, ""),
        ("glm", "glm-5.2", "high", {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, ""),
        ("glm", "glm-5.3", "off", {"reasoning_effort": "low"}, "cannot stop thinking"),
        ("glm", "glm-4-plus", "low", {}, "not known to think"),
        ("minimax", "MiniMax-M3", "off", {"thinking": {"type": "disabled"}, "reasoning_split": True}, ""),
        ("minimax", "MiniMax-M3", "low", {"thinking": {"type": "adaptive"}, "reasoning_split": True}, "no thinking ef"),
        ("minimax", "MiniMax-M2.5", "off", {"reasoning_split": True}, "cannot be told to stop"),
        ("nvidia", "qwen/qwen3-32b", "off", {"chat_template_kwargs": {"enable_thinking": False}}, ""),
        ("nvidia", "deepseek-ai/deepseek-v3.1", "high", {"chat_template_kwargs": {"thinking": True}}, "no thinking ef"),
        ("vllm", "openai/gpt-oss-20b", "low", {"reasoning_effort": "low"}, ""),
        ("llamacpp", "m", "off", {"chat_template_kwargs": {"enable_thinking": False}}, ""),
        ("llamacpp", "m", "low", {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"}, ""),
        ("ollama", "qwen3", "off", {"reasoning_effort": "none"}, ""),
        ("openrouter", "m", "off", {"reasoning": {"enabled": False}}, ""),
        ("openrouter", "m", "low", {"reasoning": {"effort": "low"}}, ""),
        ("openrouter", "m", 3000, {"reasoning": {"max_tokens": 3000}}, ""),
        ("groq", "qwen/qwen3-32b", "off", {"reasoning_effort": "none"}, ""),
        ("groq", "qwen/qwen3-32b", "high", {"reasoning_effort": "default", "reasoning_format": "parsed"}, "'default'"),
        ("groq", "openai/gpt-oss-20b", "off", {"reasoning_effort": "low"}, "cannot stop thinking"),
        ("groq", "llama-3.3-70b", "low", {}, "not known to think"),
        ("mistral", "mistral-small-latest", "low", {"reasoning_effort": "high"}, "'high'"),
        ("mistral", "mistral-small-latest", "off", {"reasoning_effort": "none"}, ""),
        ("mistral", "magistral-medium", "off", {}, "cannot be told to stop"),
        ("xai", "grok-3-mini", "low", {"reasoning_effort": "low"}, ""),
        ("xai", "grok-4", "off", {}, "cannot be told to stop"),
        ("generic", "m", "medium", {"reasoning_effort": "medium"}, ""),
    ],
)  # fmt: skip
def test_thinking_is_asked_for_in_the_vendors_words(
    vendor: str, model: str, thinking: Any, expected: dict[str, Any], told: str
) -> None:
    asked = turn(model, thinking=thinking)
    assert extras(vendor, asked) == expected
    assert told in notices(vendor, asked)
    assert bool(notices(vendor, asked)) == bool(told)


@pytest.mark.parametrize(
    ("model", "thinking", "sent", "told"),
    [("gpt-5.4", None, "none", False), ("gpt-5.4", "high", "none", True), ("gpt-5.6", None, "none", True),
     ("gpt-5.6", "off", "none", False), ("gpt-5.1", "high", "high", False), ("gpt-5.1", None, None, False)],
)  # fmt: skip
def test_models_that_take_tools_only_without_thinking_do_not_think_then(
    model: str, thinking: Any, sent: str | None, told: bool
) -> None:
    asked = turn(model, thinking=thinking, tools=(LOOK,), temperature=0.5)
    body = body_of("openai", asked)
    assert body.get("reasoning_effort") == sent
    assert ("its thinking is switched off" in notices("openai", asked)) == told
    assert ("temperature" in body) == (sent != "high")


def test_models_that_only_stream_are_asked_for_a_stream() -> None:
    assert body_of("qwen", turn("qwen3-32b", stream=False))["stream"] is True
    assert body_of("qwen", turn("qwen-max", stream=False))["stream"] is False


# -- tools ------------------------------------------------------------------------------------------------------------


def test_tools_are_sent_with_their_schema_and_without_what_is_not_set() -> None:
    bare = Tool(name="bare", parameters={})
    untyped = Tool(name="untyped", parameters={"properties": {"a": {}}})
    tools = body_of("openai", turn(tools=(LOOK, bare, untyped)))["tools"]
    assert [tool["type"] for tool in tools] == ["function"] * 3
    assert [tool["function"] for tool in tools] == [
        {"name": "look", "description": "Look at it.", "parameters": LOOK.parameters},
        {"name": "bare", "parameters": {"type": "object", "properties": {}}},
        {"name": "untyped", "parameters": {"type": "object", "properties": {"a": {}}}},
    ]


@pytest.mark.parametrize(
    ("vendor", "model", "choice", "sent", "told"),
    [
        ("openai", "m", "auto", None, ""),
        ("openai", "m", "none", "none", ""),
        ("openai", "m", "required", "required", ""),
        ("openai", "m", NamedTool(name="look"), {"type": "function", "function": {"name": "look"}}, ""),
        ("mistral", "m", "required", "any", ""),
        ("deepseek", "deepseek-v4", "required", None, "while it thinks"),
        ("deepseek", "deepseek-chat", "required", "required", ""),
        ("kimi", "kimi-k3", NamedTool(name="look"), None, "while it thinks"),
        ("qwen", "qwen-max", "required", "required", ""),
        ("minimax", "MiniMax-M2.5", "required", None, "cannot be forced"),
        ("ollama", "m", "required", "required", "may ignore"),
        ("azure", "deepseek-r1", NamedTool(name="look"), "required", "only 'look' was offered"),
        ("azure", "gpt-4o", NamedTool(name="look"), {"type": "function", "function": {"name": "look"}}, ""),
    ],
)
def test_tool_choice_is_sent_as_the_vendor_takes_it(vendor: str, model: str, choice: Any, sent: Any, told: str) -> None:
    asked = turn(model, tools=(LOOK, Tool(name="other")), tool_choice=choice)
    body = body_of(vendor, asked)
    assert body.get("tool_choice") == sent
    assert told in notices(vendor, asked)
    assert len(body["tools"]) == (1 if "only 'look'" in told else 2)


def test_thinking_that_is_switched_off_leaves_the_choice_of_tools() -> None:
    asked = turn("deepseek-v4", tools=(LOOK,), tool_choice="required", thinking="off")
    assert body_of("deepseek", asked)["tool_choice"] == "required"


def test_parallel_calls_are_only_spoken_of_where_there_are_tools_and_who_takes_it() -> None:
    assert extras("openai", turn(parallel_tool_calls=False)) == {}
    assert body_of("openai", turn(parallel_tool_calls=False, tools=(LOOK,)))["parallel_tool_calls"] is False
    cerebras = open_driver(ProviderSettings(name="p", kind="openai_compatible", base_url="https://api.cerebras.ai/v1"))
    asked = turn(parallel_tool_calls=False, tools=(LOOK,))
    assert "parallel_tool_calls" not in json.loads(cerebras.build_request(asked).body)
    assert "takes no parallel_tool_calls" in cerebras.notices(asked)[0]


def test_glms_arguments_are_asked_for_as_a_stream() -> None:
    assert body_of("glm", turn("glm-4.6", tools=(LOOK,)))["tool_stream"] is True
    assert "tool_stream" not in body_of("glm", turn("glm-4.6", tools=(LOOK,), stream=False))
    assert "tool_stream" not in body_of("glm", turn("glm-4.5-air", tools=(LOOK,)))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"tools": (Tool(name="a b"),)}, "'a b' is no tool name"),
        ({"tools": (Tool(name="x" * 65),)}, "is no tool name"),
        ({"tools": (LOOK, LOOK)}, "same name"),
        ({"tools": (LOOK,), "tool_choice": NamedTool(name="other")}, "'other'"),
        ({"tool_choice": "required"}, "offers no tools"),
    ],
)
def test_tools_that_no_vendor_takes_are_refused(members: dict[str, Any], says: str) -> None:
    with pytest.raises(TurnRefused, match=says):
        driver_for("generic").build_request(turn(**members))


# -- schemas and JSON answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["openai", "mistral", "xai", "openrouter"])
def test_a_schema_is_enforced_where_it_can_be(vendor: str) -> None:
    asked = turn(output=JsonSchema(schema=POINT, name="point", description="Where."))
    wanted = {"name": "point", "description": "Where.", "schema": POINT, "strict": True}
    assert extras(vendor, asked) == {"response_format": {"type": "json_schema", "json_schema": wanted}}
    assert notices(vendor, asked) == ""


def test_objects_are_closed_for_strict_mode_and_the_turns_schema_stays_as_it_was() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    schema = {"type": "object", "properties": {"list": {"type": "array", "items": inner}}, "required": ["list"]}
    before = json.dumps(schema)
    sent = body_of("openai", turn(output=JsonSchema(schema=schema)))["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert sent["schema"]["additionalProperties"] is False
    assert sent["schema"]["properties"]["list"]["items"]["additionalProperties"] is False
    assert json.dumps(schema) == before


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]}, "optional properties (b)"),
        ({"type": "object", "properties": {}, "additionalProperties": True}, "allows additional properties"),
        ({"type": "array", "items": POINT}, "its root is not an object"),
        ({"type": "object", "properties": {"a": {"allOf": [POINT]}}, "required": ["a"]}, "/a uses allOf"),
        ({"type": "object", "properties": {"a": {"anyOf": [{"type": "object", "additionalProperties": {}}]}},
          "required": ["a"]}, "/a/anyOf[0] allows additional properties"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_enforced_is_sent_as_it_is_and_told(schema: dict[str, Any], why: str) -> None:
    asked = turn(output=JsonSchema(schema=schema), tools=(Tool(name="t", parameters=POINT, strict=True),))
    body = body_of("openai", asked)
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": schema, "strict": False}
    assert body["tools"][0]["function"]["strict"] is True
    assert why in notices("openai", asked)


def test_local_servers_make_a_grammar_of_any_schema() -> None:
    loose = {"type": "object", "properties": {"a": {}}}
    for vendor in ("ollama", "vllm", "llamacpp", "lmstudio"):
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": loose}}
        assert extras(vendor, turn(output=JsonSchema(schema=loose))) == {"response_format": wanted}


@pytest.mark.parametrize("vendor", ["deepseek", "kimi", "qwen", "glm"])
def test_vendors_without_schemas_get_it_in_the_prompt(vendor: str) -> None:
    asked = turn(output=JsonSchema(schema=POINT), messages=(system("Be kind."), user("Hi")))
    body = body_of(vendor, asked)
    assert body["response_format"] == {"type": "json_object"}
    assert body["messages"][0]["content"].startswith("Be kind.\n\nAnswer with one JSON object")
    assert '"additionalProperties":false' in body["messages"][0]["content"]
    assert "is not enforced" in notices(vendor, asked)


def test_json_mode_gets_the_word_that_vendors_insist_on() -> None:
    asked = turn(output="json")
    body = body_of("openai", asked)
    assert body["messages"][0] == {"role": "system", "content": "Answer with one JSON object and nothing else."}
    assert "wants the word JSON" in notices("openai", asked)
    mentioned = turn(output="json", messages=(user("As json, please"),))
    assert [message["role"] for message in body_of("openai", mentioned)["messages"]] == ["user"]
    assert notices("openai", mentioned) == ""
    assert extras("lmstudio", asked) == {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    }


def test_groq_gets_json_asked_for_in_the_prompt_when_there_are_tools() -> None:
    asked = turn(output="json", tools=(LOOK,))
    body = body_of("groq", asked)
    assert "response_format" not in body
    assert "JSON object" in body["messages"][0]["content"]
    assert "no JSON mode together with tools" in notices("groq", asked)


def test_strict_tools_are_told_where_nobody_enforces_them() -> None:
    asked = turn(tools=(Tool(name="t", parameters=POINT, strict=True),))
    assert "strict" not in body_of("ollama", asked)["tools"][0]["function"]
    assert "strict was not sent" in notices("ollama", asked)
    loose = turn(tools=(Tool(name="t", parameters=POINT, strict=False),))
    assert body_of("openai", loose)["tools"][0]["function"]["strict"] is False
    assert notices("ollama", loose) == ""


def test_references_are_written_out_for_vendors_that_do_not_follow_them() -> None:
    schema = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/point", "description": "here"}},
        "$defs": {"point": POINT},
    }
    for vendor in ("qwen", "glm"):
        assert parameters_of(vendor, schema) == {
            "type": "object",
            "properties": {"at": {**POINT, "description": "here"}},
        }
    itself = {"$ref": "#/$defs/tree"}
    tree = {"type": "object", "properties": {"next": itself}, "$defs": {"tree": itself}}
    asked = turn(tools=(Tool(name="t", parameters=tree),))
    assert parameters_of("qwen", tree) == tree
    assert "keeps its reference" in notices("qwen", asked)


def test_kimi_gets_no_type_beside_any_of() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "anyOf": [{"enum": ["x"]}, {"type": "null"}]}}}
    assert parameters_of("kimi", schema)["properties"]["a"] == {
        "anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]
    }


def test_a_definition_that_multiplies_itself_is_not_written_out() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "string", "description": "x" * 1000}}
    for level in range(1, 40):
        inner = {"$ref": f"#/$defs/d{level - 1}"}
        definitions[f"d{level}"] = {"type": "object", "properties": {"a": inner, "b": inner}}
    schema = {"type": "object", "properties": {"top": {"$ref": "#/$defs/d39"}}, "$defs": definitions}
    assert parameters_of("glm", schema) == schema


def test_the_prefix_of_a_last_assistant_message_is_mistrals() -> None:
    asked = turn(messages=(user("Hi"), assistant("Well,")))
    assert body_of("mistral", asked)["messages"][-1] == {"role": "assistant", "content": "Well,", "prefix": True}
    assert body_of("openai", asked)["messages"][-1] == {"role": "assistant", "content": "Well,"}

"""The Chat Completions wire of the simulator, without a server: what it reads and what it says."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest

from loopforge.drivers.simulator.faults import PROBLEMS, Problem
from loopforge.drivers.simulator.openai_compatible import WIRE
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Answer, Asked, Call

USER = {"role": "user", "content": "hello"}
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "depth": {"type": "integer"}},
            "required": ["path", "depth"],
        },
    },
}


def call(
    path: str = "/v1/chat/completions", *, method: str = "POST", headers: dict[str, str] | None = None, **body: Any
) -> Call:
    raw = json.dumps({"model": "m", "messages": [USER]} | body).encode()
    return Call(method=method, path=path, headers=headers or {}, body=raw)


def read(profile: Profile | None = None, **body: Any) -> Asked:
    asked = WIRE.read(call(**body), profile or Profile())
    assert isinstance(asked, Asked), asked
    return asked


def answer(profile: Profile | None = None, seed: int = 0, **body: Any) -> Answer:
    profile = profile or Profile(answer_tokens=12)
    return WIRE.answer(read(profile, **body), profile, random.Random(seed))


def whole(profile: Profile | None = None, seed: int = 0, **body: Any) -> Any:
    return json.loads(answer(profile, seed, **body).body)


def message(profile: Profile | None = None, **body: Any) -> Any:
    return whole(profile, **body)["choices"][0]["message"]


def chunks(profile: Profile | None = None, seed: int = 0, **body: Any) -> list[Any]:
    steps = answer(profile, seed, stream=True, **body).steps
    assert steps is not None
    events = b"".join(steps).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def deltas(*given: Any, **body: Any) -> list[Any]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(*given, **body) if chunk["choices"]]


def joined(*given: Any, **body: Any) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(*given, **body))


# -- reading ----------------------------------------------------------------------------------------------------------


def refusal(asked: Asked | Answer) -> tuple[int, Any]:
    assert isinstance(asked, Answer)
    return asked.status, json.loads(asked.body)["error"]


def test_a_generation_is_read() -> None:
    asked = read(model="gpt-x", stream=True)
    assert (asked.model, asked.stream) == ("gpt-x", True)
    assert asked.prompt_tokens > 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/paas/v4/chat/completions", "/chat/completions"])
def test_vendors_paths_differ(path: str) -> None:
    assert isinstance(WIRE.read(call(path), Profile()), Asked)


def test_another_path_is_not_found() -> None:
    assert refusal(WIRE.read(call("/v1/completions"), Profile()))[0] == 404
    assert refusal(WIRE.read(call(method="GET"), Profile()))[0] == 404


def test_a_bad_request_is_refused_as_openai_does() -> None:
    status, error = refusal(WIRE.read(call(messages=[]), Profile()))
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == ("messages", "empty_array")


def test_models_are_listed() -> None:
    listed = WIRE.read(call("/v1/models", method="GET"), Profile(models=("a", "b")))
    assert isinstance(listed, Answer)
    assert [model["id"] for model in json.loads(listed.body)["data"]] == ["a", "b"]


def test_a_model_that_is_not_there_is_not_found() -> None:
    status, error = refusal(WIRE.read(call(model="c"), Profile(models=("a", "b"))))
    assert (status, error["code"]) == (404, "model_not_found")
    assert "`c`" in error["message"]


def test_models_that_ask_for_a_fault_are_always_there() -> None:
    assert isinstance(WIRE.read(call(model="fault-cut"), Profile(models=("a",))), Asked)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "right"}, 200),
        ({"authorization": "Bearer right"}, 200),
        ({"api-key": "right"}, 200),
    ],
)
def test_a_key_is_looked_at_where_the_profile_has_one(headers: dict[str, str], status: int) -> None:
    asked = WIRE.read(call(headers=headers), Profile(api_key="right"))
    assert (asked.status if isinstance(asked, Answer) else 200) == status


def test_the_key_is_looked_at_before_the_body() -> None:
    assert refusal(WIRE.read(call(messages=[]), Profile(api_key="right")))[0] == 401


def test_a_request_beyond_the_context_is_refused() -> None:
    long = [{"role": "user", "content": "x" * 4000}]
    status, error = refusal(WIRE.read(call(messages=long), Profile(context_tokens=500)))
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 500 tokens" in error["message"]


# -- what is said -----------------------------------------------------------------------------------------------------


def test_an_answer_has_as_many_tokens_as_the_profile_says() -> None:
    said = whole(Profile(answer_tokens=7))
    assert len(said["choices"][0]["message"]["content"].split()) == 7
    assert said["choices"][0]["finish_reason"] == "stop"
    assert said["usage"]["completion_tokens"] == 7
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + 7


def test_a_stream_says_what_the_whole_answer_says() -> None:
    assert joined(seed=3) == whole(seed=3)["choices"][0]["message"]["content"]


def test_a_seed_says_the_same_again_and_another_one_does_not() -> None:
    assert joined(seed=3) == joined(seed=3)
    assert joined(seed=3) != joined(seed=4)


def test_a_stream_has_one_step_a_token() -> None:
    steps = answer(Profile(answer_tokens=5), stream=True).steps
    assert steps is not None
    listed = list(steps)
    assert [step.count(b'"content":"') for step in listed] == [2, 1, 1, 1, 1]  # the role's chunk comes with the first
    assert listed[-1].endswith(b"data: [DONE]\n\n")


def test_the_first_chunk_names_the_role_and_the_last_one_the_finish() -> None:
    said = chunks()
    assert said[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in said] == [None] * (len(said) - 1) + ["stop"]
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in said}) == 1


def test_usage_comes_in_a_stream_only_when_it_is_asked_for() -> None:
    assert all("usage" not in chunk for chunk in chunks())
    said = chunks(stream_options={"include_usage": True})
    assert said[-1]["choices"] == []
    assert said[-1]["usage"]["completion_tokens"] == 12
    assert all(chunk["usage"] is None for chunk in said[:-1])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_beyond_its_budget_is_cut(name: str) -> None:
    budget: dict[str, Any] = {name: 5}
    said = whole(**budget)
    assert said["choices"][0]["finish_reason"] == "length"
    assert len(said["choices"][0]["message"]["content"].split()) == 5
    assert said["usage"]["completion_tokens"] == 5


def test_an_answer_within_its_budget_is_not() -> None:
    assert whole(max_tokens=12)["choices"][0]["finish_reason"] == "stop"


def test_a_stop_word_ends_the_answer_before_it() -> None:
    full = message()["content"]
    word = full.split()[4]
    said = whole(stop=[f" {word}"])
    assert said["choices"][0]["message"]["content"] == full[: full.index(f" {word}")]
    assert said["choices"][0]["finish_reason"] == "stop"


def test_a_stop_word_that_never_comes_changes_nothing() -> None:
    assert message(stop=["zzz"]) == message()


def test_tokens_can_be_of_any_size() -> None:
    assert len(message(Profile(answer_tokens=3, token_bytes=5000))["content"]) == 15000


def test_an_empty_answer_is_still_an_answer() -> None:
    assert message(Profile(answer_tokens=0))["content"] == ""
    said = chunks(Profile(answer_tokens=0))
    assert [chunk["choices"][0]["finish_reason"] for chunk in said] == [None, "stop"]


def test_thinking_comes_first_and_counts_as_output() -> None:
    profile = Profile(answer_tokens=3, thinking_tokens=4)
    kinds = [next(iter(delta)) for delta in deltas(profile)[1:-1]]
    assert kinds == ["reasoning_content"] * 4 + ["content"] * 3
    said = whole(profile)
    assert len(said["choices"][0]["message"]["reasoning_content"].split()) == 4
    assert said["usage"]["completion_tokens"] == 7
    assert said["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4


@pytest.mark.parametrize(
    "off", [{"reasoning_effort": "none"}, {"enable_thinking": False}, {"thinking": {"type": "disabled"}}]
)
def test_thinking_can_be_switched_off(off: dict[str, Any]) -> None:
    assert "reasoning_content" not in message(Profile(answer_tokens=3, thinking_tokens=4), **off)


def test_text_that_json_must_escape_is_escaped() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 'say "hé"\n\\'}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(joined(response_format=wanted)) == {"a": 'say "hé"\n\\'}


# -- tool calls -------------------------------------------------------------------------------------------------------

SCRIPT = Profile(tool_calls=(ScriptedCall(name="look", arguments={"path": "src"}), ScriptedCall(name="other")))


def calls(*given: Any, **body: Any) -> list[tuple[str, Any]]:
    made = message(*given, **body).get("tool_calls", [])
    return [(one["function"]["name"], json.loads(one["function"]["arguments"])) for one in made]


def test_a_scripted_call_is_made_when_its_tool_is_offered() -> None:
    assert calls(SCRIPT, tools=[LOOK]) == [("look", {"path": "src"})]
    assert calls(SCRIPT) == []
    said = whole(SCRIPT, tools=[LOOK])["choices"][0]
    assert said["finish_reason"] == "tool_calls"
    assert said["message"]["content"] is None


def test_a_scripted_call_is_not_made_again_after_its_result() -> None:
    made = {"role": "assistant", "content": None, "tool_calls": message(SCRIPT, tools=[LOOK])["tool_calls"]}
    result = {"role": "tool", "tool_call_id": made["tool_calls"][0]["id"], "content": "found"}
    assert calls(SCRIPT, tools=[LOOK], messages=[USER, made, result]) == []


def test_a_user_can_ask_for_a_call_in_so_many_words() -> None:
    words = {"role": "user", "content": 'Please call look {"path": "a/{b}", "depth": 2} and tell me.'}
    assert calls(tools=[LOOK], messages=[words]) == [("look", {"path": "a/{b}", "depth": 2})]
    assert calls(SCRIPT, tools=[LOOK], messages=[words]) == [("look", {"path": "a/{b}", "depth": 2})]


@pytest.mark.parametrize("words", ['call other {"a": 1}', "call look {nonsense}", "call look", 'recall look {"a": 1}'])
def test_what_is_no_such_call_is_not_made(words: str) -> None:
    assert calls(tools=[LOOK], messages=[{"role": "user", "content": words}]) == []


def test_tool_choice_none_makes_no_call() -> None:
    assert calls(SCRIPT, tools=[LOOK], tool_choice="none") == []


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_forced_call_fits_its_schema(choice: Any) -> None:
    assert calls(tools=[LOOK], tool_choice=choice) == [("look", {"path": "sample", "depth": 1})]
    assert calls(SCRIPT, tools=[LOOK], tool_choice=choice) == [("look", {"path": "src"})]


def test_a_streamed_call_joins_to_the_whole_one() -> None:
    profile = Profile(tool_calls=(ScriptedCall(name="look", arguments={"path": "src/é", "depth": 3}),) * 2)
    fragments = [one for delta in deltas(profile, tools=[LOOK]) for one in delta.get("tool_calls", [])]
    for index in (0, 1):
        first, *rest = [one for one in fragments if one["index"] == index]
        assert first["function"] == {"name": "look", "arguments": ""}
        assert first["id"].startswith("call_")
        assert all(set(one) == {"index", "function"} for one in rest)
        assert json.loads("".join(one["function"]["arguments"] for one in rest)) == {"path": "src/é", "depth": 3}
    order = [one["index"] for one in fragments]
    assert all(before <= after for before, after in pairwise(order))
    assert len({one["id"] for one in fragments if "id" in one}) == 2


# -- structured output ------------------------------------------------------------------------------------------------


def test_json_asked_for_is_json() -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "JSON please"}],
        "response_format": {"type": "json_object"},
    }
    assert isinstance(json.loads(message(**asked)["content"]), dict)
    assert isinstance(json.loads(joined(**asked)), dict)


def test_a_schema_is_kept() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"enum": ["x", "y"]},
            "sizes": {"type": "array", "items": {"type": "integer", "minimum": 5}},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "left_out": {"type": "string"},
        },
        "required": ["name", "kind", "sizes", "maybe"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(message(response_format=wanted)["content"]) == {
        "name": "sample",
        "kind": "x",
        "sizes": [5],
        "maybe": None,
    }


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        ("unauthorized", 401, "invalid_api_key"),
        ("rate_limited", 429, "rate_limit_exceeded"),
        ("quota", 429, "insufficient_quota"),
        ("server_error", 500, None),
        ("unavailable", 503, "server_is_overloaded"),
        ("overloaded", 529, None),
        ("context_too_long", 400, "context_length_exceeded"),
        ("model_not_found", 404, "model_not_found"),
        ("too_large", 413, None),
    ],
)
def test_problems_are_told_as_vendors_do(problem: Problem, status: int, code: str | None) -> None:
    told = WIRE.problem(problem, Profile(), read())
    assert told.status == status
    assert json.loads(told.body)["error"]["code"] == code


def test_every_fault_that_is_an_answer_has_one() -> None:
    for problem in PROBLEMS.values():
        assert WIRE.problem(problem, Profile(), read()).status >= 400


def test_a_rate_limit_says_when_to_come_back() -> None:
    assert dict(WIRE.problem("rate_limited", Profile(retry_after_s=2.5)).headers)["retry-after"] == "2.5"
    assert "retry-after" not in dict(WIRE.problem("quota", Profile()).headers)


def test_what_breaks_a_stream_is_what_it_says() -> None:
    assert WIRE.keep_alive(stream=True).startswith(b":")
    assert json.loads(WIRE.error(stream=True).removeprefix(b"data: "))["error"]["type"] == "server_error"
    with pytest.raises(json.JSONDecodeError):
        json.loads(WIRE.malformed().removeprefix(b"data: "))

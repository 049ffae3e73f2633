"""MiniMax's own wire of the simulator, without a server: what it reads, what it refuses and what it says."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.simulator.faults import PROBLEMS, Problem
from loopforge.drivers.simulator.minimax_native import WIRE
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import Turn
from tests.drivers.exchanges import sdk_requests
from tests.drivers.minimax_native.asking import KIND, driver_for
from tests.drivers.minimax_native.test_properties import turns
from tests.recorded import MISSING

Json = dict[str, Any]
PATH = "/v1/text/chatcompletion_v2"
USER: Json = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
CALL: Json = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING: Json = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT: Json = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
SCRIPT = (ScriptedCall(name="look", arguments={"path": "a"}), ScriptedCall(name="look", arguments={"path": "b"}))


def call(path: str = PATH, *, method: str = "POST", headers: Json | None = None, **body: Any) -> Call:
    raw = json.dumps({"model": "MiniMax-M2.5", "messages": [USER]} | body).encode()
    return Call(method=method, path=path, headers=headers or {}, body=raw)


def read(profile: Profile | None = None, **body: Any) -> Asked:
    asked = WIRE.read(call(**body), profile or Profile())
    assert isinstance(asked, Asked), asked
    return asked


def refused(**body: Any) -> str:
    """The text of the refusal inside a 200."""
    answer = WIRE.read(call(**body), Profile())
    assert isinstance(answer, Answer)
    said = json.loads(answer.body)
    assert (answer.status, said["choices"], said["base_resp"]["status_code"]) == (200, None, 2013)
    return str(said["base_resp"]["status_msg"])


def whole(profile: Profile | None = None, **body: Any) -> Json:
    profile = profile or Profile(answer_tokens=12)
    answer: Json = json.loads(WIRE.answer(read(profile, **body), profile, random.Random(0)).body)
    return answer


def steps(profile: Profile | None = None, **body: Any) -> list[bytes]:
    profile = profile or Profile(answer_tokens=12)
    found = WIRE.answer(read(profile, stream=True, **body), profile, random.Random(0)).steps
    assert found is not None
    return list(found)


def frames(profile: Profile | None = None, **body: Any) -> list[Json]:
    blocks = b"".join(steps(profile, **body)).decode().split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def deltas(found: list[Json]) -> list[Json]:
    return [choice["delta"] for item in found for choice in item["choices"] if choice.get("delta")]


# -- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("model", ["MiniMax-M3", "MiniMax-M2.5", "abab6.5s-chat"])
def test_streamed_or_not_the_same_request_gets_the_same_answer(model: str, split: bool) -> None:
    profile = Profile(answer_tokens=12, thinking_tokens=4)
    found, answer = (
        frames(profile, model=model, reasoning_split=split),
        whole(profile, model=model, reasoning_split=split),
    )
    message = answer["choices"][0]["message"]
    for name in ("content", "reasoning_content"):
        assert "".join(delta.get(name, "") for delta in deltas(found)) == message.get(name, "")
    assert bool(message.get("reasoning_content")) == split
    assert message["content"].startswith("<think>\n") != split
    assert found[-1]["usage"] | {"prompt_tokens": 0, "total_tokens": 0} == answer["usage"] | {
        "prompt_tokens": 0,
        "total_tokens": 0,
    }
    assert answer["base_resp"] == {"status_code": 0, "status_msg": ""}


def test_both_fields_of_thinking_hold_the_same() -> None:
    found = frames(Profile(thinking_tokens=4), reasoning_split=True)
    told = [delta for delta in deltas(found) if "reasoning_content" in delta]
    assert len(told) == 4
    assert all(delta["reasoning_details"][0]["text"] == delta["reasoning_content"] for delta in told)


@pytest.mark.parametrize("split", [True, False])
def test_a_step_is_a_token_whatever_comes_with_it(split: bool) -> None:
    profile = Profile(answer_tokens=12, thinking_tokens=4)
    assert len(steps(profile, reasoning_split=split)) == 16
    assert len(steps(Profile(answer_tokens=0))) == 1


def test_streams_end_as_the_models_end_theirs() -> None:
    twice = frames(model="MiniMax-M3")[-1]
    assert (twice["object"], len(twice["choices"][0]["message"]["content"].split())) == ("chat.completion", 12)
    assert frames(Profile(tool_calls=SCRIPT), tools=TOOLS)[-1]["choices"][0]["message"]["tool_calls"]
    assert frames(model="MiniMax-M2.5")[-1]["choices"] == []
    assert frames(model="abab6.5s-chat")[-1]["choices"] == [{"index": 0, "delta": {}}]
    for model in ("MiniMax-M3", "MiniMax-M2.5", "abab6.5s-chat"):
        found = frames(model=model)
        assert [bool(item["usage"]) for item in found] == [False] * (len(found) - 1) + [True]
        assert found[-2]["choices"][0]["finish_reason"] == "stop"


def test_calls_come_in_pieces_and_whole() -> None:
    profile = Profile(tool_calls=SCRIPT)
    calls = whole(profile, tools=TOOLS)["choices"][0]["message"]["tool_calls"]
    assert [json.loads(made["function"]["arguments"]) for made in calls] == [{"path": "a"}, {"path": "b"}]
    assert all(made["id"].startswith("call_function_") for made in calls)
    joined = ["", ""]
    for delta in deltas(frames(profile, tools=TOOLS)):
        for piece in delta.get("tool_calls", ()):
            joined[piece["index"]] += piece["function"]["arguments"]
    assert joined == [made["function"]["arguments"] for made in calls]


def test_calls_are_made_when_they_may_be() -> None:
    profile = Profile(tool_calls=SCRIPT)
    after = [USER, CALLING, RESULT]
    for body in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": TOOLS, "messages": after}):
        assert whole(profile, **body)["choices"][0]["finish_reason"] == "stop"
    asked = {"role": "user", "content": [{"type": "text", "text": 'please call look {"path": "x"}'}]}
    made = whole(tools=TOOLS, messages=[asked])["choices"][0]["message"]["tool_calls"]
    assert json.loads(made[0]["function"]["arguments"]) == {"path": "x"}
    old = [{"type": "function", "function": {"name": "look", "parameters": json.dumps(SCHEMA)}}]
    assert whole(profile, tools=old)["choices"][0]["finish_reason"] == "tool_calls"


def test_json_that_is_asked_for_fits() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    assert json.loads(whole(response_format=wanted)["choices"][0]["message"]["content"]) == {"path": "sample"}


def test_a_budget_cuts_the_answer_and_counts_the_thinking() -> None:
    for name in ("max_completion_tokens", "max_tokens"):
        answer = whole(Profile(answer_tokens=12, thinking_tokens=2), **{name: 5})
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 5
        assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    off = whole(Profile(thinking_tokens=2), thinking={"type": "disabled"})
    assert "completion_tokens_details" not in off["usage"]


# -- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages is empty"),
        ({"messages": None}, "messages is empty"),
        ({"messages": [USER, {"role": "system", "content": "late"}]}, "invalid message role: system"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "invalid message role: developer"),
        ({"messages": ["hello"]}, "invalid message role"),
        ({"messages": [{"role": "user", "content": None}]}, "invalid content"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "invalid content type: file"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}, "image_url"),
        ({"messages": [USER, CALLING]}, "does not follow"),
        ({"messages": [USER, CALLING, USER]}, "does not follow"),
        ({"messages": [USER, RESULT]}, "tool result's tool id(c1) not found"),
        ({"messages": [USER, CALLING, RESULT, RESULT]}, "not found"),
        ({"messages": [USER, CALLING, {**RESULT, "content": []}]}, "must be a string"),
        ({"messages": [USER, {**CALLING, "tool_calls": [{"id": "a"}]}]}, "invalid tool call"),
        (
            {"messages": [USER, {**CALLING, "tool_calls": [{**CALL, "function": {"name": "x", "arguments": "{"}}]}]},
            "invalid function arguments json string, tool_call_id: c1",
        ),
        (
            {"messages": [USER, {**CALLING, "tool_calls": [{**CALL, "function": {"name": "", "arguments": "{}"}}]}]},
            "function name or parameters is empty",
        ),
        ({"tools": [{"type": "retrieval"}]}, "invalid tool type: retrieval"),
        ({"tools": {}}, "must be an array"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "function name or parameters is empty"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {}}}]}, "is empty"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": "{"}}]}, "is empty"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"temperature": 0}, "temperature must be in (0, 1]"),
        ({"temperature": 1.5}, "temperature"),
        ({"model": "MiniMax-M3", "temperature": 2.5}, "temperature must be in [0, 2]"),
        ({"temperature": "hot"}, "must be a number"),
        ({"top_p": 0}, "top_p"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"n": 2}, "n must be 1"),
        ({"thinking": {"type": "enabled"}}, 'invalid thinking.type: "enabled" (allowed: adaptive, disabled)'),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"surprise": 1}, "unknown field surprise"),
    ],
)
def test_what_the_vendor_refuses_is_refused_in_its_words(body: Json, message: str) -> None:
    said = refused(**body)
    assert said.startswith("invalid params, ")
    assert message in said


@pytest.mark.parametrize(
    "body",
    [
        {"model": "MiniMax-M3", "temperature": 0},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://h/v.mp4"}}]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT]},
        {"messages": [{"role": "user_system", "content": "Ann"}, USER]},
        {"tools": [{"type": "web_search"}]},
        {"thinking": {"type": "adaptive"}, "mask_sensitive_info": True},
    ],
)
def test_what_the_vendor_takes_is_taken(body: Json) -> None:
    read(**body)


def test_bytes_that_are_no_json_are_refused_and_unknown_fields_pass_where_they_may() -> None:
    answer = WIRE.read(Call(method="POST", path=PATH, headers={}, body=b"{"), Profile())
    assert isinstance(answer, Answer)
    assert json.loads(answer.body)["base_resp"]["status_code"] == 2013
    read(Profile(reject_unknown_fields=False), surprise=1)


def test_keys_paths_models_and_sizes_are_looked_at() -> None:
    profile = Profile(api_key="secret", models=("MiniMax-M2.5",), context_tokens=1000)
    key = {"authorization": "Bearer secret"}
    for path in (PATH, "/v1/chat/completions"):
        assert isinstance(WIRE.read(call(path, headers=key), profile), Asked)

    def answered(**how: Any) -> tuple[int, str]:
        answer = WIRE.read(call(**{"headers": key, **how}), profile)
        assert isinstance(answer, Answer)
        return answer.status, answer.body.decode()

    status, said = answered(headers={"authorization": "Bearer other"})
    assert (status, '"status_code":1004' in said) == (200, True)
    status, said = answered(model="gone")
    assert (status, "unknown model 'gone'" in said) == (200, True)
    status, said = answered(messages=[{"role": "user", "content": "x" * 5000}])
    assert (status, "context window exceeds limit (2013)" in said) == (400, True)
    assert answered(path="/v1/text/chatcompletion_pro")[0] == 404
    status, said = answered(path="/v1/models", method="GET")
    assert (status, json.loads(said)["data"][0]["id"]) == (200, "MiniMax-M2.5")


@pytest.mark.parametrize("problem", [*PROBLEMS.values(), "not_found", "too_large"])
def test_every_problem_is_one_of_the_vendors_errors(problem: Problem) -> None:
    answer = WIRE.problem(problem, Profile(), read())
    said = json.loads(answer.body)
    if answer.status == 200:
        assert said["choices"] is None
        assert said["base_resp"]["status_code"] > 1000
    else:
        assert said["error"]["http_code"] == str(answer.status)
    assert b"{model}" not in answer.body


# -- both halves ----------------------------------------------------------------------------------------------------


@given(turns())
def test_whatever_the_driver_writes_is_taken(turn: Turn) -> None:
    try:
        request = driver_for("http://simulator.example/v1").build_request(turn)
    except TurnRefused:
        return
    path = request.url.removeprefix("http://simulator.example")
    asked = WIRE.read(Call(method="POST", path=path, headers=request.headers, body=request.body), Profile())
    assert isinstance(asked, Asked), asked
    assert (asked.model, asked.stream) == (turn.model, turn.stream)


@pytest.mark.skipif(not sdk_requests(KIND), reason=MISSING)
def test_what_sdks_send_is_taken_here() -> None:
    for line in sdk_requests(KIND):
        body = {name: value for name, value in line["request"]["json"].items() if value is not None}
        asked = WIRE.read(call(line["request"]["path"], **body), Profile())
        assert isinstance(asked, Asked), asked

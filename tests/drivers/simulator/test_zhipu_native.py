"""Zhipu's wire of the simulator, without a server: what it reads, what it refuses and what it says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from typing import Any

import pytest
from hypothesis import given

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.simulator.faults import PROBLEMS, Problem
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.simulator.zhipu_native import WIRE, ZhipuNative
from loopforge.drivers.turn import Turn
from tests.drivers.exchanges import Exchange, recordings
from tests.drivers.zhipu_native.asking import KIND, driver_for
from tests.drivers.zhipu_native.test_properties import turns
from tests.recorded import MISSING

Json = dict[str, Any]
USER: Json = {"role": "user", "content": "hello"}
SCHEMA: Json = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
LOOK: Json = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
SAID: Json = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT: Json = {"role": "tool", "tool_call_id": "call_1", "content": "a"}
NO_RESULT_ID = {"6e9d323623c8", "cbcf0e4da16e", "60f66e6e9e85", "61faff066a82", "4190109da3cb"}
"""Recorded requests without the ids of tool results, which the platform took and its pages do not allow."""


def call(*, model: str = "m", headers: Json | None = None, **body: Any) -> Call:
    raw = json.dumps({"model": model, "messages": [USER]} | body).encode()
    return Call(method="POST", path="/api/paas/v4/chat/completions", headers=headers or {}, body=raw)


def read(profile: Profile | None = None, **body: Any) -> Asked:
    asked = WIRE.read(call(**body), profile or Profile())
    assert isinstance(asked, Asked), asked
    return asked


def refused(asked: Asked | Answer) -> tuple[int, str, str]:
    """Status, code and message of an answer that is an error."""
    assert isinstance(asked, Answer)
    error = json.loads(asked.body)["error"]
    assert error.keys() == {"code", "message"}
    return asked.status, error["code"], error["message"]


def whole(profile: Profile | None = None, **body: Any) -> Json:
    profile = profile or Profile(answer_tokens=12)
    answer: Json = json.loads(WIRE.answer(read(profile, **body), profile, random.Random(0)).body)
    return answer


def steps(profile: Profile | None = None, **body: Any) -> list[bytes]:
    profile = profile or Profile(answer_tokens=12)
    found = WIRE.answer(read(profile, stream=True, **body), profile, random.Random(0)).steps
    assert found is not None
    return list(found)


def chunks(profile: Profile | None = None, **body: Any) -> list[Json]:
    events = b"".join(steps(profile, **body)).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def deltas(profile: Profile | None = None, **body: Any) -> list[Json]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(profile, **body)]


# -- what it says -----------------------------------------------------------------------------------------------------


def test_a_stream_says_what_the_whole_answer_says() -> None:
    profile = Profile(answer_tokens=12, thinking_tokens=4)
    answer, streamed = whole(profile), deltas(profile)
    for name in ("content", "reasoning_content"):
        joined = "".join(delta.get(name, "") for delta in streamed)
        assert joined == answer["choices"][0]["message"][name] != ""
    assert answer["choices"][0]["message"]["content"].startswith("\n")
    for name in ("completion_tokens", "completion_tokens_details"):
        assert chunks(profile)[-1]["usage"][name] == answer["usage"][name]
    assert answer["id"] == answer["request_id"]


def test_usage_comes_with_the_finish_reason_and_counts_reasoning_as_output() -> None:
    said = chunks(Profile(answer_tokens=3, thinking_tokens=4))
    assert [chunk["choices"][0].get("finish_reason") for chunk in said] == [None] * 8 + ["stop"]
    assert ["usage" in chunk for chunk in said] == [False] * 8 + [True]
    usage = said[-1]["usage"]
    assert (usage["completion_tokens"], usage["completion_tokens_details"]["reasoning_tokens"]) == (7, 4)
    assert usage["total_tokens"] == usage["prompt_tokens"] + 7


@pytest.mark.parametrize("thinking_tokens", [0, 2])
def test_a_stream_has_one_step_a_token(thinking_tokens: int) -> None:
    found = steps(Profile(answer_tokens=3, thinking_tokens=thinking_tokens))
    assert [step.count(b"data: ") for step in found] == [1] * thinking_tokens + [2, 1, 3]  # the line feed; the end


def test_an_empty_answer_is_still_an_answer() -> None:
    assert whole(Profile(answer_tokens=0))["choices"][0]["message"]["content"] == ""
    (closing,) = chunks(Profile(answer_tokens=0))
    assert closing["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "thinks"),
    [
        ({}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"clear_thinking": False}}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
    ],
)
def test_thinking_can_be_switched_off(body: Json, thinks: bool) -> None:
    message = whole(Profile(answer_tokens=3, thinking_tokens=4), **body)["choices"][0]["message"]
    assert ("reasoning_content" in message) == thinks


@pytest.mark.parametrize("in_pieces", [True, False])
def test_calls_come_whole_unless_their_pieces_are_asked_for(in_pieces: bool) -> None:
    script = tuple(ScriptedCall(name="look", arguments={"path": path}) for path in ("a/é", "b"))
    streamed = deltas(Profile(tool_calls=script), tools=[LOOK], tool_stream=in_pieces)
    fragments = [one for delta in streamed for one in delta.get("tool_calls", [])]
    assert (len(fragments) > 2) == in_pieces
    assert not any(delta.get("content") for delta in streamed)
    for index, scripted in enumerate(script):
        first, *rest = [one for one in fragments if one["index"] == index]
        assert first["id"].startswith("call_")
        assert all("id" not in one for one in rest)
        joined = "".join(one["function"]["arguments"] for one in (first, *rest))
        assert json.loads(joined) == scripted.arguments


def test_after_a_result_comes_text_and_a_forced_call_fits_its_schema() -> None:
    profile = Profile(tool_calls=(ScriptedCall(name="look"),))
    answer = whole(profile, messages=[USER, SAID, RESULT], tools=[LOOK])["choices"][0]
    assert (answer["finish_reason"], "tool_calls" in answer["message"]) == ("stop", False)
    choice = {"type": "function", "function": {"name": "look"}}
    (made,) = whole(tools=[LOOK], tool_choice=choice)["choices"][0]["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"path": "sample"}


def test_json_fits_the_schema_that_the_system_message_ends_in() -> None:
    told = {"role": "system", "content": f"Be kind. It must follow this JSON Schema: {json.dumps(SCHEMA)}"}
    asked: Json = {"response_format": {"type": "json_object"}}
    assert json.loads(whole(messages=[told, USER], **asked)["choices"][0]["message"]["content"]) == {"path": "sample"}
    for messages in ([USER], [{"role": "system", "content": "JSON Schema: none"}, USER]):
        answer = whole(messages=messages, **asked)["choices"][0]["message"]["content"]
        assert isinstance(json.loads(answer)["answer"], str)


def test_a_budget_and_a_stop_word_cut_the_answer() -> None:
    answer = whole(max_tokens=3)
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 3)
    full = whole()["choices"][0]["message"]["content"]
    word = f" {full.split()[4]}"
    answer = whole(stop=[word])["choices"][0]
    assert (answer["finish_reason"], answer["message"]["content"]) == ("stop", full[: full.index(word)])


# -- what it refuses --------------------------------------------------------------------------------------------------


def test_members_of_an_answer_that_are_null_are_as_none_when_it_comes_back() -> None:
    answered = {"role": "assistant", "content": "Hello", "reasoning_content": None, "tool_calls": None}
    assert whole(messages=[USER, answered, USER])["choices"]
    assert whole(messages=[USER, {**SAID, "content": None, "reasoning_content": None}, RESULT])["choices"]


def parts(*found: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(found)}]}


IMAGE: Json = {"type": "image_url", "image_url": {"url": "aGVsbG8="}}
FILE: Json = {"type": "file_url", "file_url": {"url": "https://example.com/a.pdf"}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"model": ""}, "1213"),
        ({"messages": None}, "1213"),
        ({"messages": []}, "1214"),
        ({"messages": [{"role": "system", "content": "a"}]}, "1214"),
        ({"messages": [USER, {"role": "system", "content": "a"}]}, "1214"),
        ({"messages": [{"role": "developer", "content": "a"}, USER]}, "1214"),
        ({"messages": [{"role": "user"}]}, "1214"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "1214"),
        ({"messages": [USER, SAID]}, "1214"),
        ({"messages": [USER, SAID, USER]}, "1214"),
        ({"messages": [USER, RESULT]}, "1214"),
        (
            {"messages": [USER, {**SAID, "tool_calls": [{**CALL, "function": {"name": "a", "arguments": "no"}}]}]},
            "1214",
        ),
        ({"messages": [USER, {**SAID, "reasoning_content": 1}, RESULT]}, "1214"),
        ({"temperature": 1.5}, "1214"),
        ({"temperature": 0.123}, "1214"),
        ({"top_p": 0}, "1214"),
        ({"max_tokens": 0}, "1214"),
        ({"max_tokens": 200_000}, "1214"),
        ({"stop": ["a", "b"]}, "1214"),
        ({"stop": "a"}, "1214"),
        ({"seed": "a"}, "1214"),
        ({"stream": "yes"}, "1214"),
        ({"user_id": "me"}, "1214"),
        ({"tools": []}, "1214"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "1214"),
        ({"tools": [LOOK] * 129}, "1214"),
        ({"tools": [LOOK], "tool_choice": "required"}, "1214"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "1214"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "1214"),
        ({"thinking": {"type": "adaptive"}}, "1214"),
        ({"thinking": {"type": "disabled"}, "model": "glm-5.3-flash"}, "1210"),
        ({"reasoning_effort": "medium", "model": "glm-5.3"}, "1214"),
        ({**parts(IMAGE), "model": "glm-4.7"}, "1214"),
        ({**parts({"type": "image_url", "image_url": {"url": "no base64"}}), "model": "glm-4.6v"}, "1214"),
        ({**parts({"type": "input_audio"}), "model": "glm-4.6v"}, "1214"),
        ({**parts(IMAGE, FILE), "model": "glm-4.6v"}, "1215"),
        ({"parallel_tool_calls": True}, "1210"),
    ],
)
def test_what_the_pages_refuse_is_refused_in_its_code(body: Json, code: str) -> None:
    status, found, message = refused(WIRE.read(call(**body), Profile()))
    assert (status, found) == (400, code)
    assert message


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER, SAID, RESULT]},
        {"messages": [USER, {**SAID, "content": None}, RESULT]},
        {"tools": [LOOK, {"type": "web_search", "web_search": {"enable": True}}]},
        {**parts(IMAGE), "model": "glm-4.6v"},
        {**parts({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}), "model": "glm-5.3"},
        {**parts(FILE), "model": "glm-4.6v"},
        {"response_format": None, "thinking": None, "stream_options": {"include_usage": True}},
    ],
)
def test_what_the_pages_allow_is_taken(body: Json) -> None:
    read(**body)


def test_unknown_names_pass_where_the_profile_lets_them() -> None:
    read(Profile(reject_unknown_fields=False), parallel_tool_calls=True)


def test_bytes_that_are_no_json_and_paths_that_are_not_there_are_refused() -> None:
    assert refused(WIRE.read(Call(method="POST", path="/chat/completions", headers={}, body=b"{"), Profile()))[0] == 400
    for method, path in (("POST", "/v4/completions"), ("GET", "/v4/chat/completions")):
        answer = WIRE.read(Call(method=method, path=path, headers={}, body=b"{}"), Profile())
        assert isinstance(answer, Answer)
        assert (answer.status, json.loads(answer.body)["error"]) == (404, "Not Found")


def test_models_and_sizes_are_limited_as_the_profile_says() -> None:
    assert refused(WIRE.read(call(), Profile(models=("a",))))[:2] == (400, "1211")
    assert refused(WIRE.read(call(), Profile(context_tokens=3)))[:2] == (400, "1261")
    assert isinstance(WIRE.read(call(model="fault-cut"), Profile(models=("a",))), Asked)
    listing = WIRE.read(Call(method="GET", path="/v4/models", headers={}, body=b""), Profile(models=("a",)))
    assert isinstance(listing, Answer)
    assert [model["id"] for model in json.loads(listing.body)["data"]] == ["a"]


@pytest.mark.parametrize("problem", [*PROBLEMS.values(), "too_large"])
def test_every_problem_is_one_of_the_platforms_errors(problem: Problem) -> None:
    status, code, message = refused(WIRE.problem(problem, Profile(), read()))
    assert status >= 400
    assert code.isdecimal()
    assert "{" not in message


# -- tokens -----------------------------------------------------------------------------------------------------------

NOW = 1_795_000_000
KEY = Profile(api_key="id.secret")


def token(*, secret: str = "secret", header: Json | None = None, **claims: Any) -> str:  # noqa: S107 - made up
    parts = (
        {"alg": "HS256", "sign_type": "SIGN", "typ": "JWT"} | (header or {}),
        {"api_key": "id", "timestamp": NOW * 1000, "exp": NOW * 1000 + 210_000} | claims,
    )
    said = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
    return f"{said}.{_encoded(hmac.digest(secret.encode(), said.encode(), hashlib.sha256))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (f"Bearer {token()}", ""),
        ("Bearer id.secret", ""),
        ("id.secret", ""),
        ("", "1001"),
        ("Basic id.secret", "1001"),
        ("Bearer id.other", "1000"),
        (f"Bearer {token(secret='other')}", "1002"),
        (f"Bearer {token(api_key='other')}", "1002"),
        (f"Bearer {token(header={'sign_type': 'NONE'})}", "1002"),
        (f"Bearer {token(header={'alg': 'HS512'})}", "1002"),
        (f"Bearer {token(exp=None)}", "1002"),
        (f"Bearer {token(timestamp=NOW, exp=NOW + 210)}", "1003"),  # seconds, where milliseconds are meant
        (f"Bearer {token(timestamp=(NOW + 120) * 1000)}", "1002"),
        (f"Bearer {token(exp=NOW * 1000)}", "1003"),
        (f"Bearer {token().rpartition('.')[0]}.", "1002"),
    ],
)
def test_a_token_is_held_against_key_and_clock(authorization: str, code: str) -> None:
    answer = ZhipuNative(wall=lambda: float(NOW)).read(call(headers={"authorization": authorization}), KEY)
    if code:
        assert refused(answer)[:2] == (401, code)
    else:
        assert isinstance(answer, Asked)


def test_a_plain_key_is_no_secret_to_sign_with() -> None:
    answer = WIRE.read(call(headers={"authorization": f"Bearer {token(secret='')}"}), Profile(api_key="plain"))
    assert refused(answer)[:2] == (401, "1000")


def test_the_key_is_looked_at_before_the_body() -> None:
    assert refused(WIRE.read(call(messages=[]), KEY))[0] == 401


# -- both halves ------------------------------------------------------------------------------------------------------


@given(turns())
def test_whatever_the_driver_writes_is_taken(turn: Turn) -> None:
    try:
        request = driver_for("http://simulator.example/v4").build_request(turn)
    except TurnRefused:
        return
    path = request.url.removeprefix("http://simulator.example")
    asked = WIRE.read(Call(method="POST", path=path, headers=request.headers, body=request.body), Profile())
    assert isinstance(asked, Asked), asked
    assert (asked.model, asked.stream) == (turn.model, turn.stream)
    assert WIRE.answer(asked, Profile(answer_tokens=2), random.Random(0)).tokens >= 0


@pytest.mark.parametrize(
    "exchange",
    [exchange for exchange in recordings(KIND) if exchange.request]
    or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda exchange: exchange.id if exchange else "none",
)
def test_recorded_requests_are_taken(exchange: Exchange) -> None:
    request = Call(method="POST", path="/v4/chat/completions", headers={}, body=json.dumps(exchange.request).encode())
    taken = isinstance(WIRE.read(request, Profile()), Asked)
    assert taken == (exchange.id.removeprefix("zhipu-") not in NO_RESULT_ID)

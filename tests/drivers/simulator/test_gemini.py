"""The generateContent wire of the simulator, without a server: what it reads, what it refuses and what it says."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.simulator.faults import PROBLEMS, Problem
from loopforge.drivers.simulator.gemini import WIRE
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import Turn
from tests.drivers.exchanges import recordings
from tests.drivers.gemini.asking import KIND, driver_for
from tests.drivers.gemini.test_properties import turns
from tests.recorded import MISSING

Json = dict[str, Any]
USER: Json = {"role": "user", "parts": [{"text": "hello"}]}
LOOK: Json = {
    "name": "look",
    "parametersJsonSchema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
TOOLS = [{"functionDeclarations": [LOOK]}]
CALL: Json = {"functionCall": {"name": "look", "args": {}}}
RESPONSE: Json = {"functionResponse": {"name": "look", "response": {"output": "a"}}}


def call(method: str = "generateContent", *, model: str = "m", headers: Json | None = None, **body: Any) -> Call:
    raw = json.dumps({"contents": [USER]} | body).encode()
    return Call(method="POST", path=f"/v1beta/models/{model}:{method}", headers=headers or {}, body=raw)


def read(profile: Profile | None = None, method: str = "generateContent", **body: Any) -> Asked:
    asked = WIRE.read(call(method, **body), profile or Profile())
    assert isinstance(asked, Asked), asked
    return asked


def refused(*, model: str = "m", **body: Any) -> str:
    """The message of the 400 that the request is answered with."""
    answer = WIRE.read(call(model=model, **body), Profile())
    assert isinstance(answer, Answer)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    return str(error["message"])


def whole(profile: Profile | None = None, **body: Any) -> Json:
    profile = profile or Profile(answer_tokens=12)
    answer: Json = json.loads(WIRE.answer(read(profile, **body), profile, random.Random(0)).body)
    return answer


def chunks(profile: Profile | None = None, **body: Any) -> list[Json]:
    profile = profile or Profile(answer_tokens=12)
    steps = WIRE.answer(read(profile, "streamGenerateContent", **body), profile, random.Random(0)).steps
    assert steps is not None
    blocks = b"".join(steps).decode().split("\r\n\r\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def parts(*answers: Json) -> list[Json]:
    return [part for answer in answers for part in answer["candidates"][0]["content"].get("parts", [])]


# -- what it says ---------------------------------------------------------------------------------------------------


def test_streamed_or_not_the_same_request_gets_the_same_answer() -> None:
    profile = Profile(answer_tokens=12, thinking_tokens=4)
    body: Json = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    streamed, answer = chunks(profile, **body), whole(profile, **body)
    for thought in (True, False):
        joined = ["".join(part["text"] for part in found if bool(part.get("thought")) == thought)
                  for found in (parts(*streamed), parts(answer))]  # fmt: skip
        assert joined[0] == joined[1] != ""
    assert streamed[-1]["usageMetadata"] == answer["usageMetadata"]
    assert [chunk["candidates"][0].get("finishReason") for chunk in streamed] == [None] * 16 + ["STOP"]


def test_thoughts_are_counted_always_and_shown_when_asked_for() -> None:
    answer = whole(Profile(answer_tokens=12, thinking_tokens=4))
    assert not any(part.get("thought") for part in parts(answer))
    usage = answer["usageMetadata"]
    assert (usage["thoughtsTokenCount"], usage["candidatesTokenCount"]) == (4, 12)
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + 16
    off = whole(Profile(thinking_tokens=4), generationConfig={"thinkingConfig": {"thinkingBudget": 0}})
    assert "thoughtsTokenCount" not in off["usageMetadata"]


def test_calls_come_whole_with_ids_and_a_signature_on_the_first() -> None:
    script = (ScriptedCall(name="look", arguments={"path": "a"}), ScriptedCall(name="look", arguments={"path": "b"}))
    profile = Profile(tool_calls=script)
    for found in (parts(whole(profile, tools=TOOLS)), parts(*chunks(profile, tools=TOOLS))):
        calls = [part for part in found if "functionCall" in part]
        assert [part["functionCall"]["args"] for part in calls] == [{"path": "a"}, {"path": "b"}]
        assert len({part["functionCall"]["id"] for part in calls}) == 2
        assert ["thoughtSignature" in part for part in calls] == [True, False]


@pytest.mark.parametrize(
    ("config", "called"),
    [
        ({"mode": "AUTO"}, False),
        ({"mode": "NONE"}, False),
        ({"mode": "ANY"}, True),
        ({"mode": "any", "allowed_function_names": ["look"]}, True),
    ],
)
def test_a_mode_forces_a_call(config: Json, called: bool) -> None:
    answer = whole(tools=TOOLS, toolConfig={"function_calling_config": config})
    assert any("functionCall" in part for part in parts(answer)) == called


def test_after_function_responses_comes_text() -> None:
    contents = [USER, {"role": "model", "parts": [CALL]}, {"role": "user", "parts": [RESPONSE]}]
    answer = whole(Profile(tool_calls=(ScriptedCall(name="look"),)), contents=contents, tools=TOOLS)
    assert answer["candidates"][0]["finishReason"] == "STOP"
    assert "text" in parts(answer)[0]


@pytest.mark.parametrize("name", ["responseJsonSchema", "responseSchema"])
def test_json_that_is_asked_for_fits(name: str) -> None:
    schema = {"type": "OBJECT", "properties": {"size": {"type": "INTEGER"}}, "required": ["size"]}
    config = {"responseMimeType": "application/json", name: schema}
    assert parts(whole(generationConfig=config)) == [{"text": '{"size": 1}'}]
    plain = parts(whole(generationConfig={"responseMimeType": "application/json"}))
    assert isinstance(json.loads(plain[0]["text"]), dict)


def test_a_budget_cuts_the_answer() -> None:
    answer = whole(generationConfig={"maxOutputTokens": 3})
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert answer["usageMetadata"]["candidatesTokenCount"] == 3


# -- what it refuses ------------------------------------------------------------------------------------------------


def model_says(*found: Json) -> Json:
    return {"role": "model", "parts": list(found)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": None}, "contents is not specified"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [{"role": "user", "parts": [{"text": ""}]}]}, "oneof field 'data'"),
        ({"contents": [{"role": "user", "parts": [{"text": "a", "fileData": {}}]}]}, "already set"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]}, "valid role"),
        ({"contents": [{"role": "user", "parts": [{"inlineData": {}}]}]}, "mime_type is not specified"),
        ({"contents": [model_says(CALL)]}, "immediately after a user turn"),
        ({"contents": [USER, model_says(CALL)]}, "immediately after a function call turn"),
        ({"contents": [USER, model_says(CALL), USER]}, "number of function response parts"),
        ({"contents": [USER, {"role": "user", "parts": [RESPONSE]}]}, "number of function response parts"),
        ({"contents": [USER, model_says({"functionCall": {}})]}, "Name cannot be empty"),
        ({"max_tokens": 3}, 'Unknown name "maxTokens"'),
        ({"generationConfig": {"n": 2}}, "Unknown name \"n\" at 'generation_config'"),
        ({"generationConfig": {"temperature": 3}}, "range [0, 2]"),
        ({"generationConfig": {"seed": 2**40}}, "TYPE_INT32"),
        ({"generationConfig": {"stopSequences": list("abcdef")}}, "stop sequences"),
        ({"generationConfig": {"responseJsonSchema": {}}}, "response_mime_type"),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 1, "thinking_level": "low"}}}, "only one"),
        ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "vast"}}}, "TYPE_ENUM"),
        ({"tools": [{"functionDeclarations": [{"name": "9"}]}]}, "Invalid function name"),
        ({"tools": [{"functionDeclarations": [LOOK, LOOK]}]}, "Duplicate function declaration"),
        ({"tools": [{"functionDeclarations": [{**LOOK, "parameters": {}}]}]}, "Only one of parameters"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "without function_declarations"),
        ({"tools": TOOLS, "toolConfig": {"functionCallingConfig": {"mode": "MUST"}}}, "TYPE_ENUM"),
        ({"tools": TOOLS, "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["look"]}}}, "mode is ANY"),
        (
            {"tools": TOOLS, "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["x"]}}},
            "is not declared",
        ),
        ({"tools": TOOLS, "cachedContent": "cachedContents/1"}, "CachedContent can not be used"),
    ],
)
def test_what_the_service_refuses_is_refused_in_its_words(body: Json, message: str) -> None:
    assert message in refused(**body)


def test_rules_of_a_family_count_for_its_models() -> None:
    contents = [USER, model_says(CALL), {"role": "user", "parts": [RESPONSE]}]
    assert "missing a thought_signature" in refused(model="gemini-3-flash", contents=contents)
    read(contents=contents)
    config = {"responseMimeType": "application/json"}
    assert "is unsupported" in refused(model="gemini-2.5-flash", tools=TOOLS, generationConfig=config)
    read(tools=TOOLS, generationConfig=config)


def test_bytes_that_are_no_json_are_refused() -> None:
    answer = WIRE.read(Call(method="POST", path="/v1/models/m:generateContent", headers={}, body=b"{"), Profile())
    assert isinstance(answer, Answer)
    assert "Invalid JSON payload" in answer.body.decode()


def test_unknown_names_pass_where_the_profile_lets_them() -> None:
    read(Profile(reject_unknown_fields=False), max_tokens=3)


def test_a_key_is_checked_in_its_own_header() -> None:
    profile = Profile(api_key="secret")
    answer = WIRE.read(call(headers={"x-goog-api-key": "wrong"}), profile)
    assert isinstance(answer, Answer)
    assert json.loads(answer.body)["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert isinstance(WIRE.read(call(headers={"x-goog-api-key": "secret"}), profile), Asked)
    assert isinstance(WIRE.read(call(headers={"authorization": "Bearer secret"}), profile), Asked)


@pytest.mark.parametrize("problem", [*PROBLEMS.values(), "not_found", "too_large"])
def test_every_problem_is_one_of_googles_errors(problem: Problem) -> None:
    answer = WIRE.problem(problem, Profile(context_tokens=10), read())
    error = json.loads(answer.body)["error"]
    assert error["code"] == answer.status
    assert "{" not in error["message"]


def test_models_and_sizes_are_limited_as_the_profile_says() -> None:
    for profile, status in ((Profile(models=("a",)), 404), (Profile(context_tokens=3), 400)):
        answer = WIRE.read(call(), profile)
        assert isinstance(answer, Answer)
        assert answer.status == status
    listing = WIRE.read(Call(method="GET", path="/v1beta/models", headers={}, body=b""), Profile(models=("a",)))
    assert isinstance(listing, Answer)
    assert json.loads(listing.body)["models"][0]["name"] == "models/a"


# -- both halves ----------------------------------------------------------------------------------------------------


@given(turns())
def test_whatever_the_driver_writes_is_taken(turn: Turn) -> None:
    try:
        request = driver_for("http://simulator.example/v1beta").build_request(turn)
    except TurnRefused:
        return
    path = request.url.removeprefix("http://simulator.example").partition("?")[0]
    asked = WIRE.read(Call(method="POST", path=path, headers=request.headers, body=request.body), Profile())
    assert isinstance(asked, Asked), asked
    assert (asked.model, asked.stream) == (turn.model, turn.stream)


TAKEN = [exchange for exchange in recordings(KIND) if exchange.request and exchange.status == 200]
_EMPTY = "an empty text of the user's: refused by the page, and taken in these"
NOT_TAKEN = {f"g-google-{name}": _EMPTY for name in ("4bc960f4dcb0", "96cc9aacaa94", "44c7184c1cb5")}
"""Recorded requests that the service took and the simulator does not, with the reason."""


@pytest.mark.skipif(not TAKEN, reason=MISSING)
def test_what_the_service_took_is_taken_here() -> None:
    found = {}
    for exchange in TAKEN:
        asked = WIRE.read(call(**dict(exchange.request or {})), Profile())
        if not isinstance(asked, Asked):
            found[exchange.id] = json.loads(asked.body)["error"]["message"]
    assert found.keys() == NOT_TAKEN.keys(), found

"""DashScope's wire of the simulator, without a server: what it reads, what it refuses and what it says."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.simulator.dashscope_native import WIRE
from loopforge.drivers.simulator.dashscope_requests import PATHS, is_multimodal
from loopforge.drivers.simulator.faults import PROBLEMS, Problem
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import Turn
from tests.drivers.dashscope_native.asking import KIND, driver_for
from tests.drivers.dashscope_native.test_random_turns import turns
from tests.drivers.exchanges import recordings
from tests.recorded import MISSING

Json = dict[str, Any]
MODEL, VISION = "qwen-plus", "qwen3-vl-plus"
LOOK: Json = {"type": "function", "function": {"name": "look", "parameters": {
    "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}  # fmt: skip
CALL: Json = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
SSE = {"x-dashscope-sse": "enable"}


def user(text: str = "hello", model: str = MODEL) -> Json:
    return {"role": "user", "content": [{"text": text}] if is_multimodal(model) else text}


def call(
    model: str = MODEL, messages: list[Json] | None = None, headers: Json | None = None, **parameters: Any
) -> Call:
    body = {"model": model, "input": {"messages": messages or [user(model=model)]}, "parameters": parameters}
    path = PATHS["multimodal" if is_multimodal(model) else "text"]
    return Call(method="POST", path=f"/api/v1{path}", headers=headers or {}, body=json.dumps(body).encode())


def read(profile: Profile | None = None, **how: Any) -> Asked:
    asked = WIRE.read(call(**how), profile or Profile())
    assert isinstance(asked, Asked), asked
    return asked


def error(answer: Asked | Answer) -> tuple[int, str, str]:
    assert isinstance(answer, Answer)
    said = json.loads(answer.body)
    assert said.keys() == {"code", "message", "request_id"}
    return answer.status, said["code"], said["message"]


def whole(profile: Profile | None = None, **how: Any) -> Json:
    profile = profile or Profile(answer_tokens=12)
    answer: Json = json.loads(WIRE.answer(read(profile, **how), profile, random.Random(0)).body)
    return answer


def frames(profile: Profile | None = None, **how: Any) -> list[Json]:
    profile = profile or Profile(answer_tokens=12)
    how.setdefault("incremental_output", True)
    steps = WIRE.answer(read(profile, headers=SSE, **how), profile, random.Random(0)).steps
    assert steps is not None
    blocks = b"".join(steps).decode().split("\n\n")
    assert blocks.pop() == ""
    found = []
    for number, block in enumerate(blocks, 1):
        first, name, status, data = block.split("\n")
        assert (first, name, status) == (f"id:{number}", "event:result", ":HTTP_STATUS/200")
        found.append(json.loads(data.removeprefix("data:")))
    return found


def messages_of(*answers: Json) -> list[Json]:
    return [answer["output"]["choices"][0]["message"] for answer in answers]


def text_of(message: Json) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


# -- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, VISION])
def test_streamed_or_not_the_same_request_gets_the_same_answer(model: str) -> None:
    profile = Profile(answer_tokens=12, thinking_tokens=4)
    streamed, answer = frames(profile, model=model), whole(profile, model=model, incremental_output=True)
    pieces, message = messages_of(*streamed), messages_of(answer)[0]
    assert "".join(map(text_of, pieces)) == text_of(message) != ""
    assert "".join(piece.get("reasoning_content", "") for piece in pieces) == message["reasoning_content"] != ""
    assert isinstance(message["content"], list) == (model == VISION)
    assert streamed[-1]["usage"] == answer["usage"]
    ends = [frame["output"]["choices"][0]["finish_reason"] for frame in streamed]
    assert ends == ["null"] * 16 + ["stop"]


@pytest.mark.parametrize("own", [{"incremental_output": False}, {"incremental_output": None}])
def test_without_increments_each_frame_says_all_so_far(own: Json) -> None:
    profile = Profile(answer_tokens=12, thinking_tokens=4)
    streamed, answer = frames(profile, **own), whole(profile)
    texts = [text_of(message) for message in messages_of(*streamed)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert messages_of(streamed[-1]) == messages_of(answer)


def test_thoughts_are_left_out_when_thinking_is_switched_off() -> None:
    profile = Profile(answer_tokens=12, thinking_tokens=4)
    assert whole(profile)["usage"]["output_tokens_details"] == {"reasoning_tokens": 4}
    silent = whole(profile, enable_thinking=False)
    assert "reasoning_content" not in messages_of(silent)[0]
    assert silent["usage"]["output_tokens"] == 12


def test_the_id_and_the_name_of_a_call_come_with_its_first_piece() -> None:
    script = (ScriptedCall(name="look", arguments={"path": "a"}), ScriptedCall(name="look", arguments={"path": "b"}))
    profile = Profile(tool_calls=script)
    calls = messages_of(whole(profile, tools=[LOOK]))[0]["tool_calls"]
    assert [json.loads(item["function"]["arguments"]) for item in calls] == [{"path": "a"}, {"path": "b"}]
    pieces = [
        piece for message in messages_of(*frames(profile, tools=[LOOK])) for piece in message.get("tool_calls", ())
    ]
    for index in (0, 1):
        first, *rest = [piece for piece in pieces if piece["index"] == index]
        assert (first["id"], first["function"]["name"]) == (calls[index]["id"], "look")
        assert {piece["id"] for piece in rest} == {""}
        assert not any("name" in piece["function"] for piece in rest)
    assert len({item["id"] for item in calls}) == 2


@pytest.mark.parametrize(
    ("choice", "called"),
    [("auto", False), ("none", False), ({"type": "function", "function": {"name": "look"}}, True)],
)
def test_a_choice_forces_a_call(choice: Any, called: bool) -> None:
    answer = whole(tools=[LOOK], tool_choice=choice)
    assert ("tool_calls" in messages_of(answer)[0]) == called
    assert (answer["output"]["choices"][0]["finish_reason"] == "tool_calls") == called


def test_after_results_there_is_an_answer_and_no_further_call() -> None:
    said = [user("call look {}"), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    result = {"role": "tool", "tool_call_id": "c1", "content": "a"}
    assert "tool_calls" in messages_of(whole(tools=[LOOK], messages=said[:1]))[0]
    assert "tool_calls" not in messages_of(whole(tools=[LOOK], messages=[*said, result]))[0]


@pytest.mark.parametrize(
    ("own", "finish", "words"),
    [({"max_tokens": 3}, "length", 3), ({"max_completion_tokens": 4}, "length", 4), ({"max_tokens": 50}, "stop", 12)],
)
def test_a_budget_ends_an_answer(own: Json, finish: str, words: int) -> None:
    answer = whole(**own)
    assert answer["output"]["choices"][0]["finish_reason"] == finish
    assert len(text_of(messages_of(answer)[0]).split()) == words


def test_json_is_said_where_it_is_asked_for() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert json.loads(text_of(messages_of(whole(response_format=form))[0])) == {"n": 1}
    asked = whole(response_format={"type": "json_object"}, messages=[user("as json")])
    assert isinstance(json.loads(text_of(messages_of(asked)[0])), dict)


def test_a_stop_word_ends_an_answer_before_it() -> None:
    word = text_of(messages_of(whole())[0]).split()[3]
    answer = whole(stop=[word])
    assert word not in text_of(messages_of(answer)[0]).split()
    assert answer["output"]["choices"][0]["finish_reason"] == "stop"


# -- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, VISION])
def test_a_model_answers_on_its_own_path_alone(model: str) -> None:
    other = PATHS["text" if is_multimodal(model) else "multimodal"]
    messages = [{"role": "user", "content": "hi" if is_multimodal(model) else [{"text": "hi"}]}]
    asked = call(model, messages)
    wrong = Call(method="POST", path=other, headers={}, body=asked.body)
    assert error(WIRE.read(wrong, Profile())) == (400, "InvalidParameter", "url error, please check url!")


LONELY: Json = {"role": "tool", "tool_call_id": "c1", "content": "a"}
BROKEN: Json = {**CALL, "function": {"name": "look", "arguments": "{"}}
CALLING: Json = {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "must be a string"),
        ({"model": VISION, "messages": [{"role": "user", "content": "hi"}]}, "valid list"),
        ({"model": VISION, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, "one of text"),
        ({"messages": [user(), {"role": "system", "content": "a"}, user()]}, "at the beginning"),
        ({"messages": [user(), LONELY]}, "must be a response to"),
        ({"messages": [user(), CALLING, user()]}, "did not have response messages: c1"),
        ({"messages": [user(), CALLING]}, "last message"),
        ({"messages": [user(), {"role": "assistant", "content": "a"}]}, "partial set to true"),
        ({"messages": [{"role": "system", "content": "a"}]}, "last message"),
        ({"messages": [{"role": "user", "content": ""}]}, "required field"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "'role' must be one of"),
        ({"messages": [user(), {**CALLING, "tool_calls": [BROKEN]}, LONELY]}, "JSON format"),
        ({"messages": [user(), {**CALLING, "tool_calls": [{}]}, LONELY]}, "tool_calls is invalid"),
        ({"temperature": 2}, "[0, 2)"),
        ({"top_p": 0}, "(0, 1]"),
        ({"seed": -1}, "Range of seed"),
        ({"max_tokens": 0}, "Range of max_tokens"),
        ({"stream": True}, "Unknown field 'stream'"),
        ({"result_format": "text"}, "result_format"),
        ({"reasoning_effort": "low", "thinking_budget": 5}, "same time"),
        ({"tools": [{**LOOK, "function": {"name": "search"}}]}, "not allowed to be [search]"),
        ({"tools": [{**LOOK, "function": {"name": "a b"}}]}, "tools is invalid"),
        ({"tools": [LOOK], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"function": {"name": "look"}}, "enable_thinking": True}, "thinking mode"),
        ({"response_format": {"type": "json_object"}}, "the word 'json'"),
        ({"response_format": {"type": "json_object"}, "enable_thinking": True}, "Json mode"),
        ({"model": "qwq-plus"}, "only support stream mode"),
    ],
)  # fmt: skip
def test_what_the_service_refuses_is_refused_in_its_words(how: Json, words: str) -> None:
    status, code, text = error(WIRE.read(call(**how), Profile()))
    assert (status, code) == (400, "InvalidParameter")
    assert words in text


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"model": ""}',
        b'{"model": "m", "input": {}}',
        b'{"model": "m", "input": {"messages": [{"role": "user", "content": "a"}]}, "parameters": 1}',
    ],
)
def test_bodies_of_no_form_are_refused(body: bytes) -> None:
    asked = Call(method="POST", path=PATHS["text"], headers={}, body=body)
    assert error(WIRE.read(asked, Profile()))[:2] == (400, "InvalidParameter")


def test_unknown_fields_pass_where_the_profile_lets_them() -> None:
    assert isinstance(WIRE.read(call(brand_new=1), Profile(reject_unknown_fields=False)), Asked)


def test_more_than_four_marks_are_refused() -> None:
    parts = [{"text": "a", "cache_control": {"type": "ephemeral"}}] * 5
    answer = WIRE.read(call(VISION, [{"role": "user", "content": parts}]), Profile())
    assert "cache_control" in error(answer)[2]
    assert isinstance(WIRE.read(call(VISION, [{"role": "user", "content": parts[:4]}]), Profile()), Asked)


def test_keys_models_and_the_context_are_checked_by_the_profile() -> None:
    keyed = Profile(api_key="sk-1")
    assert error(WIRE.read(call(), keyed))[:2] == (401, "InvalidApiKey")
    assert isinstance(WIRE.read(call(headers={"authorization": "Bearer sk-1"}), keyed), Asked)
    listed = Profile(models=("qwen-max",))
    assert error(WIRE.read(call(), listed))[:2] == (404, "ModelNotFound")
    models = WIRE.read(Call(method="GET", path="/api/v1/models", headers={}, body=b""), listed)
    assert isinstance(models, Answer)
    assert json.loads(models.body)["output"]["models"][0]["model"] == "qwen-max"
    assert "Range of input length should be [1, 5]" in error(WIRE.read(call(), Profile(context_tokens=5)))[2]


@pytest.mark.parametrize("problem", sorted({*PROBLEMS.values(), "not_found", "too_large"}))
def test_every_problem_is_an_error_in_the_services_form(problem: Problem) -> None:
    answer = WIRE.problem(problem, Profile(retry_after_s=2.5), read())
    status, code, text = error(answer)
    assert 400 <= status < 600
    assert code
    assert "{" not in text
    waits = problem in ("rate_limited", "overloaded", "unavailable")
    assert (dict(answer.headers).get("retry-after") == "2.5") == waits


# -- beside the driver ------------------------------------------------------------------------------------------------


@given(turns())
def test_whatever_the_driver_writes_is_taken(turn: Turn) -> None:
    try:
        request = driver_for().build_request(turn)
    except TurnRefused:
        return
    path = request.url.partition(".com")[2]
    asked = WIRE.read(Call(method="POST", path=path, headers=request.headers, body=request.body), Profile())
    if isinstance(asked, Answer):
        # an unknown model is asked where media are taken; the simulator has one path for those it does not know
        assert (turn.model, error(asked)[2]) == ("some-model", "url error, please check url!")


@pytest.mark.skipif(not recordings(KIND), reason=MISSING)
def test_recorded_requests_are_taken() -> None:
    refused = {}
    for exchange in recordings(KIND):
        if exchange.request is None or exchange.status != 200 or "messages" not in exchange.request["input"]:
            continue
        path = PATHS["multimodal" if is_multimodal(exchange.model) else "text"]
        raw = json.dumps(exchange.request).encode()
        answer = WIRE.read(Call(method="POST", path=path, headers={}, body=raw), Profile(reject_unknown_fields=False))
        if isinstance(answer, Answer):
            refused[exchange.id] = error(answer)[2]
    assert refused == {}

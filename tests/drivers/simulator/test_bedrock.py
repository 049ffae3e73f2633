"""Converse as the simulator plays it: what it answers, and what it refuses in AWS's words.

What AWS's own SDK makes of it: tests/drivers/bedrock/test_botocore.py.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any, get_args

import pytest

from loopforge.drivers.simulator.bedrock import WIRE
from loopforge.drivers.simulator.bedrock_requests import BadRequest, check_request
from loopforge.drivers.simulator.faults import PROBLEMS, Problem
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from tests.drivers.bedrock.oracle import frames

Json = dict[str, Any]
PROFILE = Profile(kind="bedrock", answer_tokens=6)
HI: Json = {"role": "user", "content": [{"text": "hello"}]}
SPEC: Json = {"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object", "properties": {}}}}}
USE: Json = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "look", "input": {}}}]}


def call(body: Json, *, path: str = "/model/m/converse", method: str = "POST", **headers: str) -> Call:
    return Call(method=method, path=path, headers=headers, body=json.dumps(body).encode())


def asked(body: Json, profile: Profile = PROFILE, **members: Any) -> Asked:
    found = WIRE.read(call(body, **members), profile)
    assert isinstance(found, Asked), found
    return found


def refused(answer: Asked | Answer) -> tuple[int, str, str]:
    """Status, exception and message."""
    assert isinstance(answer, Answer)
    name = dict(answer.headers)["x-amzn-errortype"].partition(":")[0]
    return answer.status, name, json.loads(answer.body)["message"]


def streamed(body: Json, profile: Profile = PROFILE) -> list[tuple[str, Json]]:
    answer = WIRE.answer(asked(body, path="/model/m/converse-stream"), profile, random.Random(1))
    assert answer.steps is not None
    steps = list(answer.steps)
    assert len(steps) == answer.tokens
    return frames(b"".join(steps))


def test_the_path_says_model_and_form() -> None:
    found = asked({"messages": [HI]}, path="/v1/model/arn%3Aaws%3Abedrock%2Fx/converse-stream")
    assert (found.model, found.stream) == ("arn:aws:bedrock/x", True)
    assert asked({"messages": [HI]}).stream is False
    for wrong in (call({}, method="GET"), call({}, path="/model/m/invoke"), call({}, path="/converse")):
        assert refused(WIRE.read(wrong, PROFILE))[:2] == (404, "UnknownOperationException")


def test_a_stream_has_its_events_in_the_order_of_the_wire() -> None:
    names = [name for name, _ in streamed({"messages": [HI]})]
    assert names == ["messageStart", *["contentBlockDelta"] * 6, "contentBlockStop", "messageStop", "metadata"]


def test_thinking_and_calls_are_blocks_of_their_own() -> None:
    body = {
        "messages": [{"role": "user", "content": [{"text": 'call look {"a": 1}'}]}],
        "toolConfig": {"tools": [SPEC]},
    }
    events = streamed(body, replace(PROFILE, thinking_tokens=3))
    starts = [event["start"]["toolUse"]["name"] for name, event in events if name == "contentBlockStart"]
    indexes = [event["contentBlockIndex"] for name, event in events if name == "contentBlockStop"]
    assert (starts, indexes) == (["look"], [0, 1])
    signatures = [event for name, event in events if name == "contentBlockDelta" and "signature" in str(event)]
    assert len(signatures) == 1
    assert events[-2][1]["stopReason"] == "tool_use"


def test_a_whole_answer_says_what_its_stream_says() -> None:
    body = {"messages": [HI], "inferenceConfig": {"maxTokens": 4}}
    answer = WIRE.answer(asked(body), PROFILE, random.Random(1))
    said = json.loads(answer.body)
    pieces = [event["delta"]["text"] for name, event in streamed(body) if name == "contentBlockDelta"]
    assert said["output"]["message"]["content"] == [{"text": "".join(pieces)}]
    assert (said["stopReason"], said["usage"]["outputTokens"]) == ("max_tokens", 4)
    assert len(dict(answer.headers)["x-amzn-requestid"]) == 36


@pytest.mark.parametrize("problem", get_args(Problem))
def test_each_problem_is_an_exception_of_the_service(problem: Problem) -> None:
    status, name, message = refused(WIRE.problem(problem, PROFILE))
    assert status >= 400
    assert name.endswith("Exception")
    assert message
    waits = "retry-after" in dict(WIRE.problem(problem, PROFILE).headers)
    assert waits == (problem in ("rate_limited", "unavailable", "overloaded"))
    assert problem in {*PROBLEMS.values(), "not_found", "too_large"}


def test_limits_of_the_profile_are_refused_as_the_service_does() -> None:
    body = {"messages": [HI]}
    assert refused(WIRE.read(call(body), replace(PROFILE, models=("other",))))[2].endswith("identifier is invalid.")
    assert "too long" in refused(WIRE.read(call(body), replace(PROFILE, context_tokens=1)))[2]


@pytest.mark.parametrize(
    ("authorization", "refusal"),
    [
        ("", "MissingAuthenticationTokenException"),
        ("Bearer other", "AccessDeniedException"),
        ("AWS4-HMAC-SHA256 Credential=other/2026/x", "UnrecognizedClientException"),
        ("Bearer key", ""),
        ("AWS4-HMAC-SHA256 Credential=key/2026/x", ""),
    ],
)
def test_a_key_is_sent_as_it_is_or_signs(authorization: str, refusal: str) -> None:
    answer = WIRE.read(call({"messages": [HI]}, authorization=authorization), replace(PROFILE, api_key="key"))
    assert (refused(answer)[:2] if isinstance(answer, Answer) else "") == ((403, refusal) if refusal else "")


def result(**members: Any) -> Json:
    return {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "x"}], **members}}]}


def user(*content: Any) -> Json:
    return {"role": "user", "content": list(content)}


def document(name: Any = "a", **members: Any) -> Json:
    return {"document": {"name": name, "format": "pdf", "source": {"bytes": "eA=="}, **members}}


TEXT, POINT = {"text": "x"}, {"cachePoint": {"type": "default"}}
TOOLS = {"tools": [SPEC]}
UNDESCRIBED = {"toolSpec": {**SPEC["toolSpec"], "description": ""}}
UNSIGNED: Json = {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "a"}}}, TEXT]}
GOOD: list[Json] = [
    {"messages": [HI]},
    {"messages": [HI, USE, result()], "toolConfig": TOOLS},
    {"messages": [HI, USE, result(status="error")], "toolConfig": {**TOOLS, "toolChoice": {"tool": {"name": "look"}}}},
    {"messages": [user(document(), TEXT, POINT)]},
    {"messages": [HI], "system": [TEXT, POINT], "inferenceConfig": {"maxTokens": 1, "temperature": 1, "topP": 0}},
    {"messages": [HI], "additionalModelRequestFields": {"top_k": 5}},
]
BAD: list[tuple[Json, str]] = [
    ({}, "messages"),
    ({"messages": []}, "empty"),
    ({"messages": [HI], "surprise": 1}, "extraneous key [surprise]"),
    ({"messages": [{**HI, "name": "x"}]}, "extraneous key [name]"),
    ({"messages": [HI, HI]}, "must alternate"),
    ({"messages": [USE]}, "must start with a user message"),
    ({"messages": [user()]}, "is empty"),
    ({"messages": [user({"text": " "})]}, "is blank"),
    ({"messages": [user({"text": "a", "image": {}})]}, "exactly one member"),
    ({"messages": [user({"toolUse": {}})]}, "exactly one member"),
    ({"messages": [{"role": "tool", "content": [TEXT]}]}, "role"),
    ({"messages": [HI, USE, result()]}, "toolConfig field must be defined"),
    ({"messages": [HI, USE], "toolConfig": TOOLS}, "Expected toolResult blocks at messages.2"),
    ({"messages": [HI, USE, HI], "toolConfig": TOOLS}, "Expected toolResult blocks at messages.2"),
    ({"messages": [result()], "toolConfig": TOOLS}, "exceeds the number of toolUse"),
    ({"messages": [HI, USE, result(content=[], status="error")], "toolConfig": TOOLS}, "is empty"),
    ({"messages": [HI, USE, result(status="bad")], "toolConfig": TOOLS}, "status"),
    ({"messages": [HI, USE, result(toolUseId="é")], "toolConfig": TOOLS}, "must match pattern"),
    ({"messages": [user(document("a.pdf"), TEXT)]}, "document file name"),
    ({"messages": [user(document("a  b"), TEXT)]}, "document file name"),
    ({"messages": [user(document(), document(), TEXT)]}, "must be unique"),
    ({"messages": [user(document())]}, "text block is required"),
    ({"messages": [user(document(format="exe"), TEXT)]}, "format"),
    ({"messages": [user(document(source={"bytes": "?"}), TEXT)]}, "base64"),
    ({"messages": [user({"image": {"format": "tiff", "source": {"bytes": "eA=="}}})]}, "format"),
    ({"messages": [user({"image": {"format": "png", "source": {"s3Location": {"uri": "http://x"}}}})]}, "uri"),
    ({"messages": [user(POINT, TEXT)]}, "cannot stand here"),
    ({"messages": [user(document(), POINT, TEXT)]}, "cannot stand here"),
    ({"messages": [user(*[TEXT, POINT] * 5)]}, "more than 4"),
    ({"messages": [HI], "system": [{"text": ""}]}, "is blank"),
    ({"messages": [HI], "inferenceConfig": {"temperature": 2}}, "temperature"),
    ({"messages": [HI], "inferenceConfig": {"maxTokens": 0}}, "maxTokens"),
    ({"messages": [HI], "inferenceConfig": {"topK": 1}}, "extraneous key [topK]"),
    ({"messages": [HI], "inferenceConfig": {"stopSequences": [""]}}, "stopSequences"),
    ({"messages": [HI], "toolConfig": {"tools": []}}, "greater than or equal to 1"),
    ({"messages": [HI], "toolConfig": {"tools": [SPEC, SPEC]}}, "unique"),
    ({"messages": [HI], "toolConfig": {**TOOLS, "toolChoice": {"none": {}}}}, "exactly one member"),
    ({"messages": [HI], "toolConfig": {**TOOLS, "toolChoice": {"tool": {"name": "x"}}}}, "not the name of a tool"),
    ({"messages": [HI], "toolConfig": {"tools": [{"toolSpec": {"name": "a.b"}}]}}, "must match pattern"),
    ({"messages": [HI], "toolConfig": {"tools": [UNDESCRIBED]}}, "description"),
    ({"messages": [HI], "outputConfig": {"textFormat": {}}}, "no JSON schema"),
    ({"messages": [HI], "additionalModelRequestFields": []}, "not an object"),
    ({"messages": [HI, UNSIGNED, HI]}, "signature"),
]  # fmt: skip


@pytest.mark.parametrize("body", GOOD)
def test_what_the_service_takes_is_taken(body: Json) -> None:
    assert check_request(json.dumps(body).encode(), "m", reject_unknown=True) == body


@pytest.mark.parametrize(("body", "told"), BAD)
def test_what_the_service_refuses_is_refused_in_its_words(body: Json, told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_request(json.dumps(body).encode(), "m", reject_unknown=True)
    assert told in str(caught.value)
    assert refused(WIRE.read(call(body), PROFILE))[:2] == (400, "ValidationException")


def test_some_models_let_the_assistant_begin() -> None:
    body = {"messages": [{"role": "assistant", "content": [TEXT]}, HI]}
    assert check_request(json.dumps(body).encode(), "us.anthropic.claude-x", reject_unknown=True)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        check_request(raw, "m", reject_unknown=True)

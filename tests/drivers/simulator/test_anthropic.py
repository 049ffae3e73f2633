"""The Messages wire of the simulator, without a server: what it reads and what it says."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest

from loopforge.drivers.simulator.anthropic import WIRE
from loopforge.drivers.simulator.faults import PROBLEMS, Problem
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.wires import Answer, Asked, Call

USER = {"role": "user", "content": "hello"}
LOOK = {
    "name": "look",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "depth": {"type": "integer"}},
        "required": ["path", "depth"],
    },
}
VERSION = {"anthropic-version": "2023-06-01"}
Json = dict[str, Any]


def call(
    path: str = "/v1/messages", *, method: str = "POST", headers: dict[str, str] | None = None, **body: Any
) -> Call:
    raw = json.dumps({"model": "m", "max_tokens": 100, "messages": [USER]} | body).encode()
    return Call(method=method, path=path, headers=VERSION | (headers or {}), body=raw)


def read(profile: Profile | None = None, **body: Any) -> Asked:
    asked = WIRE.read(call(**body), profile or Profile())
    assert isinstance(asked, Asked), asked
    return asked


def answer(profile: Profile | None = None, seed: int = 0, **body: Any) -> Answer:
    profile = profile or Profile(answer_tokens=12)
    return WIRE.answer(read(profile, **body), profile, random.Random(seed))


def whole(profile: Profile | None = None, seed: int = 0, **body: Any) -> Any:
    return json.loads(answer(profile, seed, **body).body)


def events(profile: Profile | None = None, seed: int = 0, **body: Any) -> list[Json]:
    steps = answer(profile, seed, stream=True, **body).steps
    assert steps is not None
    found = []
    for block in b"".join(steps).decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def streamed(*given: Any, **body: Any) -> list[Json]:
    """The blocks of a stream, put together."""
    blocks: list[Json] = []
    for event in events(*given, **body):
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            for name, piece in event["delta"].items():
                if name != "type":
                    blocks[-1][name] = blocks[-1].get(name, "") + piece
    for block in blocks:
        if "partial_json" in block:
            block["input"] = json.loads(block.pop("partial_json"))
    return blocks


# -- reading ----------------------------------------------------------------------------------------------------------


def refusal(asked: Asked | Answer) -> tuple[int, str, str]:
    assert isinstance(asked, Answer)
    body = json.loads(asked.body)
    assert body["type"] == "error"
    return asked.status, body["error"]["type"], body["error"]["message"]


def test_a_generation_is_read() -> None:
    asked = read(model="claude-x", stream=True)
    assert (asked.model, asked.stream) == ("claude-x", True)
    assert asked.prompt_tokens > 0


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages"])
def test_gateways_paths_differ(path: str) -> None:
    assert isinstance(WIRE.read(call(path), Profile()), Asked)


def test_another_path_is_not_found() -> None:
    assert refusal(WIRE.read(call("/v1/complete"), Profile()))[:2] == (404, "not_found_error")
    assert refusal(WIRE.read(call(method="GET"), Profile()))[0] == 404


def test_a_request_names_its_version() -> None:
    bare = Call(method="POST", path="/v1/messages", headers={}, body=call().body)
    assert refusal(WIRE.read(bare, Profile())) == (
        400, "invalid_request_error", "anthropic-version: header is required",
    )  # fmt: skip


def test_a_bad_request_is_refused_as_anthropic_does() -> None:
    status, kind, message = refusal(WIRE.read(call(messages=[]), Profile()))
    assert (status, kind, message) == (400, "invalid_request_error", "messages: at least one message is required")


def test_an_unknown_field_is_refused_where_the_profile_says_so() -> None:
    assert "surprise: Extra inputs" in refusal(WIRE.read(call(surprise=1), Profile()))[2]
    assert isinstance(WIRE.read(call(surprise=1), Profile(reject_unknown_fields=False)), Asked)


def test_models_are_listed() -> None:
    listed = WIRE.read(call("/v1/models", method="GET"), Profile(models=("a", "b")))
    assert isinstance(listed, Answer)
    assert [model["id"] for model in json.loads(listed.body)["data"]] == ["a", "b"]


def test_a_model_that_is_not_there_is_not_found() -> None:
    assert refusal(WIRE.read(call(model="c"), Profile(models=("a",)))) == (404, "not_found_error", "model: c")
    assert isinstance(WIRE.read(call(model="fault-cut"), Profile(models=("a",))), Asked)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": "right"}, 200),
        ({"authorization": "Bearer right"}, 200),
        ({"authorization": "Bearer wrong"}, 401),
    ],
)
def test_a_key_is_looked_at_before_the_body_where_the_profile_has_one(headers: dict[str, str], status: int) -> None:
    messages = [] if status == 401 else [USER]
    asked = WIRE.read(call(headers=headers, messages=messages), Profile(api_key="right"))
    assert (asked.status if isinstance(asked, Answer) else 200) == status


def test_a_request_beyond_the_context_is_refused() -> None:
    long = [{"role": "user", "content": "x" * 4000}]
    status, kind, message = refusal(WIRE.read(call(messages=long), Profile(context_tokens=500)))
    assert (status, kind) == (400, "invalid_request_error")
    assert message.startswith("prompt is too long: ")
    assert message.endswith(" tokens > 500 maximum")


# -- what is said -----------------------------------------------------------------------------------------------------


def test_an_answer_has_as_many_tokens_as_the_profile_says() -> None:
    said = whole(Profile(answer_tokens=7))
    assert [block["type"] for block in said["content"]] == ["text"]
    assert len(said["content"][0]["text"].split()) == 7
    assert (said["stop_reason"], said["stop_sequence"], said["usage"]["output_tokens"]) == ("end_turn", None, 7)


@pytest.mark.parametrize("profile", [Profile(answer_tokens=5), Profile(answer_tokens=5, thinking_tokens=3)])
def test_a_stream_says_what_the_whole_answer_says(profile: Profile) -> None:
    assert streamed(profile, seed=3) == whole(profile, seed=3)["content"]


def test_a_seed_says_the_same_again_and_another_one_does_not() -> None:
    assert streamed(seed=3) == streamed(seed=3)
    assert streamed(seed=3) != streamed(seed=4)


def test_a_stream_has_one_step_a_token() -> None:
    steps = answer(Profile(answer_tokens=5, thinking_tokens=2), stream=True).steps
    assert steps is not None
    listed = list(steps)
    assert [step.count(b'"text_delta"') + step.count(b'"thinking_delta"') for step in listed] == [1] * 7
    assert listed[0].startswith(b"event: message_start\n")
    assert listed[-1].endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_events_come_in_the_order_of_the_wire() -> None:
    said = events(Profile(answer_tokens=2, thinking_tokens=1))
    assert [event["type"].removeprefix("content_") for event in said] == [
        "message_start", "ping",
        "block_start", "block_delta", "block_delta", "block_stop",
        "block_start", "block_delta", "block_delta", "block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert said[4]["delta"]["type"] == "signature_delta"
    assert said[0]["message"]["usage"]["output_tokens"] == 1
    assert said[-2]["usage"]["output_tokens"] == 3


def test_an_answer_beyond_its_budget_is_cut() -> None:
    said = whole(max_tokens=5)
    assert (said["stop_reason"], said["usage"]["output_tokens"]) == ("max_tokens", 5)
    assert whole(max_tokens=12)["stop_reason"] == "end_turn"


def test_a_stop_word_ends_the_answer_before_it_and_is_named() -> None:
    full = whole()["content"][0]["text"]
    word = full.split()[4]
    said = whole(stop_sequences=["zzz", f" {word}"])
    assert said["content"][0]["text"] == full[: full.index(f" {word}")]
    assert (said["stop_reason"], said["stop_sequence"]) == ("stop_sequence", f" {word}")
    assert whole(stop_sequences=["zzz"])["content"][0]["text"] == full


def test_an_empty_answer_is_still_an_answer() -> None:
    assert whole(Profile(answer_tokens=0))["content"] == []
    kinds = [event["type"] for event in events(Profile(answer_tokens=0))]
    assert kinds == ["message_start", "ping", "message_delta", "message_stop"]


def test_thinking_comes_first_signed_and_counts_as_output() -> None:
    said = whole(Profile(answer_tokens=3, thinking_tokens=4))
    assert [block["type"] for block in said["content"]] == ["thinking", "text"]
    assert said["content"][0]["signature"]
    assert said["usage"]["output_tokens"] == 7
    assert said["usage"]["output_tokens_details"] == {"thinking_tokens": 4}


def test_thinking_can_be_switched_off() -> None:
    said = whole(Profile(answer_tokens=3, thinking_tokens=4), thinking={"type": "disabled"})
    assert [block["type"] for block in said["content"]] == ["text"]


# -- tool calls -------------------------------------------------------------------------------------------------------

SCRIPT = Profile(tool_calls=(ScriptedCall(name="look", arguments={"path": "src"}), ScriptedCall(name="other")))


def calls(*given: Any, **body: Any) -> list[tuple[str, Any]]:
    made = whole(*given, **body)["content"]
    return [(block["name"], block["input"]) for block in made if block["type"] == "tool_use"]


def test_a_scripted_call_is_made_when_its_tool_is_offered() -> None:
    assert calls(SCRIPT, tools=[LOOK]) == [("look", {"path": "src"})]
    assert calls(SCRIPT) == []
    assert whole(SCRIPT, tools=[LOOK])["stop_reason"] == "tool_use"


def test_a_scripted_call_is_not_made_again_after_its_result() -> None:
    made = {"role": "assistant", "content": whole(SCRIPT, tools=[LOOK])["content"]}
    result = {"type": "tool_result", "tool_use_id": made["content"][0]["id"], "content": "found"}
    after = [USER, made, {"role": "user", "content": [result]}]
    assert calls(SCRIPT, tools=[LOOK], messages=after) == []


def test_a_user_can_ask_for_a_call_in_so_many_words() -> None:
    words = {"role": "user", "content": [{"type": "text", "text": 'Please call look {"path": "a/{b}"} and tell.'}]}
    assert calls(tools=[LOOK], messages=[words]) == [("look", {"path": "a/{b}"})]
    assert calls(SCRIPT, tools=[LOOK], messages=[words]) == [("look", {"path": "a/{b}"})]


@pytest.mark.parametrize("words", ['call other {"a": 1}', "call look {nonsense}", "call look", 'recall look {"a": 1}'])
def test_what_is_no_such_call_is_not_made(words: str) -> None:
    assert calls(tools=[LOOK], messages=[{"role": "user", "content": words}]) == []


def test_tool_choice_none_makes_no_call() -> None:
    assert calls(SCRIPT, tools=[LOOK], tool_choice={"type": "none"}) == []


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "look"}])
def test_a_forced_call_fits_its_schema(choice: Any) -> None:
    assert calls(tools=[LOOK], tool_choice=choice) == [("look", {"path": "sample", "depth": 1})]
    assert calls(SCRIPT, tools=[LOOK], tool_choice=choice) == [("look", {"path": "src"})]


def test_a_streamed_call_joins_to_the_whole_one() -> None:
    profile = Profile(tool_calls=(ScriptedCall(name="look", arguments={"path": "src/é", "depth": 3}),) * 2)
    made = streamed(profile, tools=[LOOK])
    assert made == whole(profile, tools=[LOOK])["content"]
    assert len({block["id"] for block in made}) == 2
    order = [event["index"] for event in events(profile, tools=[LOOK]) if "index" in event]
    assert all(before <= after for before, after in pairwise(order))


# -- structured output, errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_a_schema_is_kept(field: str) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "kind": {"enum": ["x", "y"]}, "more": {"type": "string"}},
        "required": ["name", "kind"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "schema": schema}
    asked: dict[str, Any] = {field: {"format": wanted} if field == "output_config" else wanted}
    assert json.loads(whole(**asked)["content"][0]["text"]) == {"name": "sample", "kind": "x"}
    assert json.loads(streamed(**asked)[0]["text"]) == {"name": "sample", "kind": "x"}


@pytest.mark.parametrize(
    ("problem", "status", "kind"),
    [
        ("unauthorized", 401, "authentication_error"),
        ("rate_limited", 429, "rate_limit_error"),
        ("quota", 429, "rate_limit_error"),
        ("server_error", 500, "api_error"),
        ("unavailable", 503, "api_error"),
        ("overloaded", 529, "overloaded_error"),
        ("context_too_long", 400, "invalid_request_error"),
        ("model_not_found", 404, "not_found_error"),
        ("too_large", 413, "request_too_large"),
    ],
)
def test_problems_are_told_as_anthropic_does(problem: Problem, status: int, kind: str) -> None:
    assert refusal(WIRE.problem(problem, Profile(), read()))[:2] == (status, kind)


def test_every_fault_that_is_an_answer_has_one() -> None:
    for problem in PROBLEMS.values():
        assert WIRE.problem(problem, Profile(), read()).status >= 400


def test_a_rate_limit_says_when_to_come_back_and_a_spend_limit_does_not() -> None:
    assert dict(WIRE.problem("rate_limited", Profile(retry_after_s=2.5)).headers)["retry-after"] == "2.5"
    spent = WIRE.problem("quota", Profile())
    assert "retry-after" not in dict(spent.headers)
    assert json.loads(spent.body)["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}


def test_what_breaks_a_stream_is_what_it_says() -> None:
    assert WIRE.keep_alive(stream=True) == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert json.loads(WIRE.error(stream=True).partition(b"data: ")[2])["error"]["type"] == "api_error"
    assert json.loads(WIRE.error(stream=False))["type"] == "error"
    with pytest.raises(json.JSONDecodeError):
        json.loads(WIRE.malformed().partition(b"data: ")[2])

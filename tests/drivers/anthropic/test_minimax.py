"""The preset minimax_anthropic: MiniMax's models behind this wire, with what its gateway takes, ignores and answers."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from loopforge.drivers.anthropic import open_driver
from loopforge.drivers.auth import open_auth
from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.registry import Kind, ProviderSettings
from loopforge.drivers.simulator.profile import ScriptedCall
from loopforge.drivers.turn import (
    Document,
    Image,
    JsonSchema,
    NamedTool,
    Opaque,
    Text,
    Thinking,
    Tool,
    Turn,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.anthropic.asking import CALL, HI, LOOK, ask
from tests.drivers.anthropic.bodies import closing, opening, sse, start, text, words
from tests.drivers.anthropic.bodies import delta as delta_of
from tests.drivers.anthropic.request_rules import problems
from tests.drivers.anthropic.test_whole_turns import QUICK, open_line
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome, read

PRESETS = Path(__file__).resolve().parents[3] / "runtime" / "config" / "presets.toml"
PRESET = tomllib.loads(PRESETS.read_text(encoding="utf-8"))["providers"]["minimax_anthropic"]
SETTINGS = ProviderSettings(
    name=PROVIDER,
    kind=cast("Kind", PRESET["kind"]),
    base_url=PRESET["base_url"],
    api_key_env=PRESET["api_key_env"],
    default_model=PRESET["default_model"],
)
DRIVER = open_driver(SETTINGS)
M2, M3 = PRESET["default_model"], "MiniMax-M3"
TAKEN = {
    "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "tools", "tool_choice", "thinking",
}  # fmt: skip
DONE = {"type": "message_stop"}
ENDED: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
Json = dict[str, Any]


def body_of(turn: Turn) -> Json:
    body: Json = json.loads(DRIVER.build_request(turn).body)
    assert problems(body, "minimax") == []
    return body


def asked(*messages: Any, model: str = M2, **members: Any) -> Turn:
    return ask(*(messages or (HI,)), model=model, **members)


def notices(turn: Turn) -> str:
    return "\n".join(DRIVER.notices(turn))


def answered(body: bytes) -> Outcome:
    return read(DRIVER, Exchange(id="", vendor="minimax", body=body, model=M2))


def refusal(code: int, said: str = "that went wrong") -> Json:
    return {"base_resp": {"status_code": code, "status_msg": said}}


# -- what is asked ----------------------------------------------------------------------------------------------------


async def test_a_request_goes_to_the_gateway_with_the_key_in_its_header() -> None:
    request = await open_auth(SETTINGS, "secret").sign(DRIVER.build_request(asked()))
    assert request.url == "https://api.minimax.io/anthropic/v1/messages"
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == ("secret", "2023-06-01")
    assert "anthropic-beta" not in request.headers


RICH: Json = {
    "messages": (system("Be brief."), system("Be kind."), HI),
    "tools": (LOOK, Tool(name="point", parameters={}, strict=True)),
    "tool_choice": "required",
    "output": JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}}),
    "temperature": 0.5,
    "top_p": 0.9,
    "stop": ("x",),
    "seed": 7,
    "thinking": "high",
    "parallel_tool_calls": True,
}


@pytest.mark.parametrize("model", [M2, "MiniMax-M2.7-highspeed", M3])
def test_only_what_the_gateway_takes_is_sent_and_the_rest_is_named(model: str) -> None:
    turn = asked(*RICH["messages"], model=model, **{name: RICH[name] for name in RICH if name != "messages"})
    body = body_of(turn)
    assert body.keys() <= TAKEN
    assert body["system"] == "Be brief.\n\nBe kind."
    found = notices(turn)
    for what in ("stop strings", "seed", "strict", "thinking effort", "a tool asks for it"):
        assert what in found


@pytest.mark.parametrize(
    ("model", "thinking", "sent", "notice"),
    [
        (M2, None, None, ""),
        (M2, "off", None, "cannot be told to stop thinking"),
        (M3, None, None, ""),
        (M3, "off", {"type": "disabled"}, ""),
        (M3, "low", {"type": "adaptive"}, "takes no thinking effort"),
    ],
)
def test_thinking_is_on_by_default_and_can_be_switched_from_m3_on(
    model: str, thinking: Any, sent: Json | None, notice: str
) -> None:
    turn = asked(model=model, thinking=thinking)
    assert body_of(turn).get("thinking") == sent
    assert notice in notices(turn)
    assert bool(notices(turn)) == bool(notice)


@pytest.mark.parametrize(("asked_for", "sent"), [(0.0, 0.01), (0.3, 0.3), (1.0, 1.0), (1.7, 1.0)])
def test_a_temperature_is_above_0_and_at_most_1(asked_for: float, sent: float) -> None:
    for model in (M2, M3):
        assert body_of(asked(model=model, temperature=asked_for))["temperature"] == sent
    assert ("was sent" in notices(asked(temperature=asked_for))) == (asked_for != sent)


def test_images_are_taken_from_m3_on_and_documents_never() -> None:
    picture = Image(data=b"\x89PNG", media_type="image/png")
    page = Document(data=b"%PDF", media_type="application/pdf")
    assert body_of(asked(user(picture), model=M3))["messages"][0]["content"][0]["type"] == "image"
    with pytest.raises(TurnRefused, match="no image here"):
        DRIVER.build_request(asked(user(picture)))
    for model in (M2, M3):
        with pytest.raises(TurnRefused, match="no document here"):
            DRIVER.build_request(asked(user(page), model=model))


def test_tools_can_be_forced() -> None:
    assert body_of(asked(tools=(LOOK,), tool_choice="required"))["tool_choice"] == {"type": "any"}
    named = body_of(asked(tools=(LOOK,), tool_choice=NamedTool(name="look")))
    assert named["tool_choice"] == {"type": "tool", "name": "look"}


def test_cache_marks_are_heeded() -> None:
    """https://platform.minimax.io/docs/api-reference/anthropic-api-compatible-cache"""
    marked = asked(user(Text(text="a book", cache="5m"), "what is it about?"))
    assert body_of(marked)["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert notices(marked) == ""


# -- what is answered -------------------------------------------------------------------------------------------------

THOUGHT: Json = {"type": "thinking", "thinking": "", "signature": ""}


@pytest.mark.parametrize("signature", ["", "d2FpdA"])
def test_the_whole_content_list_goes_back_as_it_came(signature: str) -> None:
    """With a signature or without one: this gateway reads thinking again either way."""
    signed = [delta_of(0, {"type": "signature_delta", "signature": signature})] if signature else []
    call = {"type": "tool_use", "id": "call_function_ab_1", "name": "look", "input": {}}
    outcome = answered(
        sse(
            start(),
            [opening(0, THOUGHT), delta_of(0, {"type": "thinking_delta", "thinking": "Look first."}), *signed],
            closing(0),
            text(1, "I look."),
            [opening(2, call), delta_of(2, {"type": "input_json_delta", "partial_json": '{"at": 1}'}), closing(2)],
            {**ENDED, "delta": {"stop_reason": "tool_use"}},
            DONE,
        )
    )
    assert outcome.reply is not None
    after = asked(HI, outcome.reply.message, tool_result(outcome.reply.tool_calls[0], "a cat"), tools=(LOOK,))
    sent = body_of(after)["messages"][1]["content"]
    assert [block["type"] for block in sent] == ["thinking", "text", "tool_use"]
    assert sent[0]["thinking"] == "Look first."
    assert sent[0].get("signature", "") == signature
    assert (sent[2]["id"], sent[2]["input"]) == ("call_function_ab_1", {"at": 1})
    assert notices(after) == ""


def test_thinking_of_the_vendors_other_wire_stays_away() -> None:
    other = Opaque(provider=PROVIDER, model=M2, data={"wire": "minimax_native", "form": "text"})
    turn = asked(HI, assistant(Thinking(text="hm", opaque=other), CALL), tool_result(CALL, "ok"), tools=(LOOK,))
    assert [block["type"] for block in body_of(turn)["messages"][1]["content"]] == ["tool_use"]
    assert "not of this provider and model" in notices(turn)


ANSWER: Json = {
    "id": "0574", "type": "message", "role": "assistant", "model": M2, "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "half an"}], "usage": {"input_tokens": 3, "output_tokens": 4},
}  # fmt: skip


def test_a_good_base_resp_beside_an_answer_says_nothing() -> None:
    good = refusal(0, "the model will be retired")
    for body in (json.dumps({**ANSWER, **good}).encode(), sse(start(), text(0, "half an"), {**ENDED, **good}, DONE)):
        reply = answered(body).reply
        assert reply is not None
        assert (reply.text, reply.finish, reply.warnings) == ("half an", "stop", ())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1000, "ProviderUnavailable"), (1002, "RateLimited"), (1004, "CredentialsRejected"), (1008, "QuotaExhausted"),
        (1026, "ContentFiltered"), (2013, "TurnRefused"), (2044, "PermissionDenied"), (2045, "RateLimited"),
        (2056, "QuotaExhausted"),
    ],
)  # fmt: skip
def test_an_error_in_base_resp_is_one_wherever_it_stands(code: int, error: str) -> None:
    said = refusal(code)
    begun = start()
    for body in (
        json.dumps(said).encode(),
        json.dumps({**ANSWER, "content": [], **said}).encode(),
        sse(f"data: {json.dumps(said)}"),
        sse({**begun, **said}),
        sse({**begun, "message": {**begun["message"], **said}}),
    ):
        outcome = answered(body)
        assert outcome.error is not None
        assert (outcome.error["class"], outcome.error["raw"]) == (error, str(code))
        assert outcome.partial is None
    for last in (f"data: {json.dumps(said)}", {**ENDED, **said}, {**DONE, **said}):
        outcome = answered(sse(start(), opening(0, {"type": "text", "text": ""}), delta_of(0, words("half")), last))
        assert (outcome.error or {})["class"] == error
        assert outcome.partial is not None
        assert outcome.partial.text == "half"


def test_an_output_that_was_stopped_keeps_its_text_where_it_comes_whole() -> None:
    reply = answered(json.dumps({**ANSWER, **refusal(1027)}).encode()).reply
    assert reply is not None
    assert (reply.text, reply.finish, reply.finish_raw) == ("half an", "content_filter", "content_filter")
    nothing = answered(json.dumps({**ANSWER, "content": [], **refusal(1027)}).encode())
    assert (nothing.error or {})["class"] == "ContentFiltered"


# -- a whole turn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", [M2, M3])
async def test_a_tool_is_called_and_its_result_taken(model: str, stream: bool) -> None:
    script = (ScriptedCall(name="look", arguments={"at": 1}),)
    turn = asked(model=model, tools=(LOOK,), stream=stream, provider="acme", thinking="high")
    async with open_line(replace(QUICK, thinking_tokens=5, tool_calls=script), vendor="minimax") as line:
        first = await line.run(turn)
        assert (first.finish, [call.parsed for call in first.tool_calls]) == ("tool_calls", [{"at": 1}])
        results = [tool_result(call, "a cat") for call in first.tool_calls]
        answer = await line.run(replace(turn, messages=(*turn.messages, first.message, *results)))
    assert answer.finish == "stop"
    assert answer.warnings == (f"{model} takes no thinking effort here: it thinks as much as it does by itself",)

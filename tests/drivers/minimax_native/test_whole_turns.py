"""Whole turns of this kind: what the suite asks of all of them, and what only this wire has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loopforge.drivers.turn import JsonSchema, Tool, user
from tests.drivers.simulated import LOOK, SimulatedProvider
from tests.suites.whole_turns import WholeTurnsSuite

KEY = "eyJhbGciOiJSUzI1NiJ9.minimax-secret"
PROVIDER = SimulatedProvider(kind="minimax_native", key=KEY, model="MiniMax-M2.5")
QUICK, TURN, open_line = PROVIDER.profile, PROVIDER.turn, PROVIDER.open_line


class TestWholeTurns(WholeTurnsSuite):
    provider = PROVIDER
    # each ends its streams in its own way
    models = ("MiniMax-M3", "MiniMax-M2.5", "MiniMax-Text-01", "abab6.5s-chat")
    request_id = r".{32}"
    no_room = (("429", None, "1002"), ("503", 503, "overloaded_error"), ("529", 529, "overloaded_error"))
    gives_wait = False  # no Retry-After has been seen of it
    counted = (
        b'data: {"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 24, "completion_tokens": 1}}\n\n'
        b'data: {"choices": [{"delta": {"content": "b"}}], "usage": {"prompt_tokens": 24, "completion_tokens": 7}}\n\n'
    )


async def test_what_another_model_said_is_taken_without_its_thinking() -> None:
    async with open_line(replace(QUICK, thinking_tokens=3)) as line:
        asked = await line.run()
        after = replace(TURN, model="MiniMax-M3", messages=(*TURN.messages, asked.message, user("and?")))
        answer = await line.run(after)
    assert answer.finish == "stop"
    assert "not of this provider and model" in answer.warnings[0]


@pytest.mark.parametrize("tools", [(), (LOOK,)])
async def test_an_answer_fits_the_schema_where_one_is_enforced(tools: tuple[Tool, ...]) -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    turn = replace(TURN, model="MiniMax-Text-01", output=JsonSchema(schema=schema), tools=tools, tool_choice="none")
    async with open_line() as line:
        reply = await line.run(turn)
    assert reply.text.replace(" ", "") == '{"size":1}'
    assert (reply.finish, reply.warnings) == ("stop", ())


async def test_thinking_is_switched_off_where_it_can_be() -> None:
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        reply = await line.run(replace(TURN, model="MiniMax-M3", thinking="off"))
        assert (reply.message.thinking, reply.warnings) == ("", ())
        reply = await line.run(replace(TURN, thinking="off"))
        assert reply.message.thinking
        assert reply.warnings == ("MiniMax-M2.5 cannot be told to stop thinking",)


@pytest.mark.parametrize("path", ["/v1", "/v1/chat/completions", "/v1/text/chatcompletion_v2?GroupId=17"])
async def test_a_base_url_chooses_the_path(path: str) -> None:
    async with open_line(path=path) as line:
        assert (await line.run()).finish == "stop"


async def test_a_wrong_key_may_be_of_the_other_platform() -> None:
    async with open_line(replace(QUICK, api_key="another"), key=KEY) as line:
        assert "international" in (await line.fails()).action


async def test_a_request_that_breaks_a_rule_is_refused_inside_a_200() -> None:
    turn = replace(TURN, provider_options={"minimax_native": {"thinking": {"type": "enabled"}}})
    async with open_line() as line:
        error = await line.fails(turn)
    assert (type(error).__name__, error.raw, error.status) == ("TurnRefused", "2013", None)
    assert "allowed: adaptive, disabled" in str(error)

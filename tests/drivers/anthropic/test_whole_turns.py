"""Whole turns of this kind: what the suite asks of all of them, and what only this wire has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import (
    Delta,
    Document,
    Image,
    JsonSchema,
    NamedTool,
    Text,
    TextDelta,
    ThinkingDelta,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.simulated import LOOK, SimulatedProvider
from tests.suites.whole_turns import WholeTurnsSuite

PROVIDER = SimulatedProvider(kind="anthropic", key="sk-4f9a-secret", base_path="", tokens_per_s=2000)
QUICK, TURN, open_line = PROVIDER.profile, PROVIDER.turn, PROVIDER.open_line
ANSWER = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}


class TestWholeTurns(WholeTurnsSuite):
    provider = PROVIDER
    models = ("m", "claude-sonnet-4-0")
    thinking = 2048
    finish_raw = "end_turn"
    request_id = r"req_.+"
    no_room = (("429", 429, "rate_limit_error"), ("503", 503, "api_error"), ("529", 529, "overloaded_error"))
    output_midway = 1  # as its start says
    counted = (
        b'data: {"type": "message_start", "message": {"usage": {"input_tokens": 24, "output_tokens": 1}}}\n\n'
        b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}\n\n'
        b'data: {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}}\n\n'
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("vendor", ["anthropic", "generic"])
async def test_thinking_comes_first_and_goes_back_with_a_tools_result(vendor: str, stream: bool) -> None:
    deltas: list[Delta] = []
    profile = replace(QUICK, thinking_tokens=5)
    turn = replace(TURN, tools=(LOOK,), messages=(user('call look {"path": "a/b"}'),), stream=stream, thinking=2048)
    async with open_line(profile, vendor=vendor) as line:
        asked = await line.run(turn, deltas=deltas)
        (call,) = asked.tool_calls
        assert (asked.finish, call.name, call.parsed) == ("tool_calls", "look", {"path": "a/b"})
        kinds = [type(delta) for delta in deltas if isinstance(delta, ThinkingDelta | TextDelta)]
        assert set(kinds) == {ThinkingDelta}
        assert len(asked.message.thinking.split()) == 5
        assert asked.usage.reasoning == 5
        after = replace(turn, messages=(*turn.messages, asked.message, tool_result(call, "found")))
        assert len(line.driver.build_request(after).body.split(b'"signature"')) == 2
        assert (await line.run(after)).finish == "stop"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("model", "vendor"), [("claude-sonnet-4-6", "anthropic"), ("claude-sonnet-4-0", "anthropic"), ("m", "generic")]
)
async def test_an_answer_fits_the_schema_asked_for(model: str, vendor: str, stream: bool) -> None:
    turn = replace(TURN, output=JsonSchema(schema=ANSWER), model=model, stream=stream)
    async with open_line(vendor=vendor) as line:
        reply = await line.run(turn)
    assert (json.loads(reply.text), reply.finish, reply.tool_calls) == ({"size": 1}, "stop", ())


async def test_a_tool_of_the_turn_may_be_called_before_the_answer_of_a_schema() -> None:
    words = user('call look {"path": "a"}')
    turn = replace(TURN, output=JsonSchema(schema=ANSWER), tools=(LOOK,), messages=(words,))
    async with open_line(vendor="generic") as line:
        asked = await line.run(turn)
        (call,) = asked.tool_calls
        assert (asked.finish, call.name) == ("tool_calls", "look")


@pytest.mark.parametrize("choice", ["required", NamedTool(name="look")])
async def test_a_call_can_be_forced(choice: Any) -> None:
    async with open_line(vendor="generic") as line:
        reply = await line.run(replace(TURN, tools=(LOOK,), tool_choice=choice))
    assert [call.parsed for call in reply.tool_calls] == [{"path": "sample"}]


async def test_an_answer_that_meets_a_stop_word_says_so() -> None:
    async with open_line() as line:
        word = (await line.run()).text.split()[4]
        for stream in (True, False):
            # The request's own bytes decide on the words: they differ, so the stop word may not come at all.
            reply = await line.run(replace(TURN, stop=(f" {word}", " the", " a"), stream=stream))
            assert reply.finish_raw in ("stop_sequence", "end_turn")
            assert f" {word} " not in reply.text


async def test_a_conversation_with_all_that_it_can_hold_is_taken() -> None:
    picture = Image(data=b"\x89PNG", media_type="image/png", cache="5m")
    paper = Document(data=b"%PDF", media_type="application/pdf", name="a.pdf")
    notes = Document(data=b"words", media_type="text/markdown")
    messages = (
        system("be brief"),
        user("a", picture, paper, notes),
        assistant("b"),
        user(Text(text="c", cache="5m")),
        assistant("d"),
        user("e"),
    )
    async with open_line(vendor="anthropic", headers={"X-Trace": "1"}) as line:
        reply = await line.run(replace(TURN, messages=messages, temperature=0.5, stop=("zzz",), thinking="off"))
    assert (reply.finish, reply.warnings) == ("stop", ())


async def test_what_the_provider_refuses_is_told_in_its_words() -> None:
    options: dict[str, Any] = {"anthropic": {"surprise": 1}}
    async with open_line() as line:
        error = await line.fails(replace(TURN, provider_options=options))
    assert type(error) is TurnRefused
    assert "surprise: Extra inputs are not permitted" in str(error)

"""Whole turns of this kind: what the suite asks of all of them, and what only this wire has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loopforge.drivers.turn import JsonSchema, Tool, tool_result, user
from tests.drivers.simulated import LOOK, SimulatedProvider
from tests.suites.whole_turns import WholeTurnsSuite

KEY = "AIzaSy-4f9a-secret"
PROVIDER = SimulatedProvider(kind="gemini", key=KEY)
QUICK, TURN, open_line = PROVIDER.profile, PROVIDER.turn, PROVIDER.open_line


class TestWholeTurns(WholeTurnsSuite):
    provider = PROVIDER
    models = ("gemini-3-flash", "gemini-2.5-flash", "gemini-2.0-flash")
    thinking_models = ("gemini-3-flash", "gemini-2.5-flash")
    thinking = 100
    finish_raw = "STOP"
    no_room = (("429", 429, "RESOURCE_EXHAUSTED"), ("503", 503, "UNAVAILABLE"), ("529", 503, "UNAVAILABLE"))
    stream_says_its_end = False  # but by the end of its body
    output_midway = 1  # as each chunk says
    counted = (
        b'data: {"candidates": [{"content": {"parts": [{"text": "a"}]}}], "usageMetadata": {"promptTokenCount": 2}}\n\n'
        b'data: {"usageMetadata": {"promptTokenCount": 24, "candidatesTokenCount": 7, "totalTokenCount": 31}}\n\n'
    )


async def test_a_call_that_another_model_made_is_taken() -> None:
    turn = replace(TURN, model="gemini-2.0-flash", tools=(LOOK,), messages=(user('call look {"city": "Rome"}'),))
    async with open_line() as line:
        asked = await line.run(turn)
        after = (*turn.messages, asked.message, tool_result(asked.tool_calls[0], "sunny"))
        answer = await line.run(replace(turn, model="gemini-3-flash", messages=after))
    assert answer.finish == "stop"
    assert "signatures of another" in answer.warnings[0]


@pytest.mark.parametrize("tools", [(), (LOOK,)])
@pytest.mark.parametrize("model", ["gemini-3-flash", "gemini-2.5-flash", "gemini-2.0-flash"])
async def test_an_answer_fits_the_schema_asked_for(model: str, tools: tuple[Tool, ...]) -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    turn = replace(TURN, model=model, output=JsonSchema(schema=schema), tools=tools, tool_choice="none")
    async with open_line() as line:
        reply = await line.run(turn)
    assert reply.text.replace(" ", "") == '{"size":1}'
    assert reply.finish == "stop"


@pytest.mark.parametrize(("vendor", "header"), [("", "x-goog-api-key"), ("vertex", "authorization")])
async def test_vertex_takes_a_token_where_google_takes_a_key(vendor: str, header: str) -> None:
    async with open_line(replace(QUICK, api_key=KEY), key=KEY, vendor=vendor) as line:
        signed = await line.auth.sign(line.driver.build_request(TURN))
        assert (await line.run()).finish == "stop"
    assert {name for name in signed.headers if KEY in signed.headers[name]} == {header}

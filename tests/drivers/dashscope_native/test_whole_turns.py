"""Whole turns of this kind: what the suite asks of all of them, and what only this wire has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import ScriptedCall
from loopforge.drivers.turn import Image, JsonSchema, NamedTool, Tool, assistant, user
from tests.drivers.simulated import LOOK, SimulatedProvider
from tests.suites.whole_turns import OUTCOMES, WholeTurnsSuite

KEY = "sk-4f9a-secret"
MODEL, VISION = "qwen-plus", "qwen3-vl-plus"  # one on each path
PROVIDER = SimulatedProvider(kind="dashscope_native", key=KEY, model=MODEL)
QUICK, TURN, open_line = PROVIDER.profile, PROVIDER.turn, PROVIDER.open_line
both_paths = pytest.mark.parametrize("model", [MODEL, VISION])
streamed_or_not = pytest.mark.parametrize("stream", [True, False])


class TestWholeTurns(WholeTurnsSuite):
    provider = PROVIDER
    models = (MODEL, VISION)
    thinking = 100
    names_model = False
    no_room = (
        ("429", 429, "Throttling.RateQuota"),
        ("503", 503, "ModelUnavailable"),
        ("529", 503, "ModelServingError"),
    )
    output_midway = 12  # each frame tells those of the whole answer
    counted = (
        b'data:{"output": {"text": "a"}, "usage": {"input_tokens": 24, "output_tokens": 1}}\n\n'
        b'data:{"output": {"text": "b"}, "usage": {"input_tokens": 24, "output_tokens": 7}}\n\n'
    )


@both_paths
@streamed_or_not
async def test_thinking_can_be_switched_off(model: str, stream: bool) -> None:
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        reply = await line.run(replace(TURN, model=model, thinking="off", stream=stream))
    assert (len(reply.text.split()), reply.message.thinking) == (12, "")


async def test_the_key_stands_in_one_header() -> None:
    async with open_line(key=KEY) as line:
        signed = await line.auth.sign(line.driver.build_request(TURN))
    assert {name for name in signed.headers if KEY in signed.headers[name]} == {"authorization"}


async def test_a_named_tool_is_called() -> None:
    async with open_line() as line:
        reply = await line.run(replace(TURN, tools=(LOOK, Tool(name="other")), tool_choice=NamedTool(name="look")))
    assert [call.name for call in reply.tool_calls] == ["look"]


@streamed_or_not
async def test_an_image_is_taken_on_the_other_path(stream: bool) -> None:
    picture = Image(data=b"\x89PNG", media_type="image/png")
    async with open_line() as line:
        reply = await line.run(replace(TURN, model=VISION, messages=(user(picture, "what?"),), stream=stream))
    assert len(reply.text.split()) == 12


@pytest.mark.parametrize("model", [MODEL, "qwen3-max", VISION])
async def test_an_answer_fits_the_schema_asked_for_where_the_model_enforces_one(model: str) -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    async with open_line() as line:
        reply = await line.run(replace(TURN, model=model, output=JsonSchema(schema=schema)))
    assert ('"size"' in reply.text) == (model == MODEL)
    assert reply.text.startswith("{")
    assert bool(reply.warnings) == (model != MODEL)


async def test_an_answer_goes_on_from_a_beginning() -> None:
    async with open_line() as line:
        assert (await line.run(replace(TURN, messages=(user("tell"), assistant("Once"))))).finish == "stop"


@both_paths
async def test_a_stream_that_repeats_itself_reads_as_one_that_does_not(model: str) -> None:
    profile = replace(QUICK, thinking_tokens=5)
    own = {"dashscope_native": {"parameters": {"incremental_output": False}}}
    async with open_line(profile) as line:
        asked_for = await line.run(replace(TURN, model=model, provider_options=own))
        whole = await line.run(replace(TURN, model=model, stream=False, provider_options=own))
    assert len(asked_for.text.split()) == 12
    assert (asked_for.text, asked_for.message.thinking) == (whole.text, whole.message.thinking)


async def test_calls_of_a_stream_that_repeats_itself_are_whole() -> None:
    calls = tuple(ScriptedCall(name="look", arguments={"city": city}) for city in ("Rome", "Bern"))
    own = {"dashscope_native": {"parameters": {"incremental_output": False}}}
    async with open_line(replace(QUICK, tool_calls=calls)) as line:
        reply = await line.run(replace(TURN, tools=(LOOK,), provider_options=own))
    assert [call.parsed for call in reply.tool_calls] == [{"city": "Rome"}, {"city": "Bern"}]


@streamed_or_not
async def test_a_model_asked_on_the_wrong_path_is_refused_with_the_right_one(stream: bool) -> None:
    path = "/services/aigc/multimodal-generation/generation"
    async with open_line(path=path) as line:
        error = await line.fails(replace(TURN, stream=stream))
        assert (await line.run(replace(TURN, model=VISION, stream=stream))).finish == "stop"
    assert type(error) is TurnRefused
    assert "/services/aigc/text-generation/generation" in error.action


@pytest.mark.parametrize("fault", ["cut", "malformed", "error-event", "500", "no-model"])
async def test_faults_are_named_alike_on_the_other_path(fault: FaultName) -> None:
    async with open_line() as line:
        error = await line.fails(replace(TURN, model=f"qwen3-vl-fault-{fault}"))
    assert type(error) is OUTCOMES[fault]

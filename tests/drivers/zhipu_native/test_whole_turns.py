"""Whole turns of this kind: what the suite asks of all of them, and what only this wire has."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.errors import CredentialsRejected
from loopforge.drivers.turn import JsonSchema, NamedTool
from loopforge.drivers.zhipu_jwt import ZhipuJwt
from tests.drivers.simulated import LOOK, SimulatedProvider
from tests.suites.whole_turns import WholeTurnsSuite

KEY_ID, SECRET = "0123456789abcdef0123456789abcdef", "s3cr3tS3cr3tS3cr"  # made up, in the form of real ones
KEY = f"{KEY_ID}.{SECRET}"
PROVIDER = SimulatedProvider(kind="zhipu_native", key=KEY)
QUICK, TURN, open_line = PROVIDER.profile, PROVIDER.turn, PROVIDER.open_line


class TestWholeTurns(WholeTurnsSuite):
    provider = PROVIDER
    models = ("m", "glm-4.7", "glm-4.5", "glm-5.3")
    request_id = r"2026.+"
    no_room = (("429", 429, "1302"), ("503", 503, "1312"), ("529", 429, "1312"))
    counted = (
        b'data: {"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 24, "completion_tokens": 1}}\n\n'
        b'data: {"choices": [{"delta": {"content": "b"}}], "usage": {"prompt_tokens": 24, "completion_tokens": 7}}\n\n'
    )


# -- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_what_came_from_no_cache_is_told_as_nothing(stream: bool) -> None:
    async with open_line() as line:
        assert (await line.run(replace(TURN, stream=stream))).usage.cache_read == 0


@pytest.mark.parametrize("model", ["glm-4.7", "glm-5.2"])
async def test_thinking_can_be_switched_off(model: str) -> None:
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        reply = await line.run(replace(TURN, model=model, thinking="off"))
    assert (reply.message.thinking, reply.warnings) == ("", ())


async def test_a_model_that_cannot_stop_thinking_says_so() -> None:
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        reply = await line.run(replace(TURN, model="glm-5.3-flash", thinking="off"))
    assert reply.message.thinking
    assert "cannot stop thinking" in reply.warnings[0]


@pytest.mark.parametrize("choice", [NamedTool(name="look"), "required"])
async def test_a_call_can_be_forced_as_far_as_this_wire_goes(choice: Any) -> None:
    async with open_line() as line:
        reply = await line.run(replace(TURN, tools=(LOOK,), tool_choice=choice))
        assert [call.parsed for call in reply.tool_calls] == [{"path": "sample"}]
        assert "tool_choice" in reply.warnings[0]
        assert (await line.run(replace(TURN, tools=(LOOK,), tool_choice="none"))).finish == "stop"


async def test_an_answer_fits_the_schema_that_the_prompt_holds() -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    async with open_line() as line:
        reply = await line.run(replace(TURN, output=JsonSchema(schema=schema)))
    assert reply.text == '{"size": 1}'
    assert "not enforced" in reply.warnings[0]


# -- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, "plain-key"])
async def test_a_key_arrives_in_either_form(key: str) -> None:
    async with open_line(replace(QUICK, api_key=key), key=key) as line:
        assert (await line.run()).finish == "stop"
        signed = await line.auth.sign(line.driver.build_request(TURN))
    assert (signed.headers["authorization"] == f"Bearer {key}") == (key == "plain-key")


@pytest.mark.parametrize(
    ("key", "code", "requests"),
    [(f"{KEY_ID}.another", "1002", 2), (f"another.{SECRET}", "1002", 2), ("plain-key", "1000", 1)],
)
async def test_a_wrong_key_is_rejected_and_shows_nowhere(key: str, code: str, requests: int) -> None:
    async with open_line(replace(QUICK, api_key=KEY), key=key) as line:
        error = await line.fails()
        assert line.requests == requests  # a token is signed anew once, in case the clock was the matter
    assert (type(error), error.raw, error.status) == (CredentialsRejected, code, 401)
    for part in (key, *key.split(".")):
        assert part == "another" or part not in f"{error!r} {error} {error.to_fields()}"


async def test_a_token_that_ran_out_under_a_late_clock_is_signed_anew() -> None:
    """Our clock is 60 s late: a token of 160 s is still kept here and has expired there; a new one lives 150 s."""
    passed = [-160.0]
    auth = ZhipuJwt(
        KEY_ID, SECRET, wall=lambda: time.time() - 60 + passed[0], monotonic=lambda: time.monotonic() + passed[0]
    )
    async with open_line(replace(QUICK, api_key=KEY), auth=auth) as line:
        await auth.sign(line.driver.build_request(TURN))
        passed[0] = 0.0
        assert (await line.run()).finish == "stop"
        assert line.requests == 2


@pytest.mark.parametrize(("late_s", "code"), [(400, "1003"), (-400, "1002")])
async def test_a_clock_that_is_far_off_is_the_outcome_after_one_more_try(late_s: float, code: str) -> None:
    auth = ZhipuJwt(KEY_ID, SECRET, wall=lambda: time.time() - late_s)
    async with open_line(replace(QUICK, api_key=KEY), auth=auth) as line:
        error = await line.fails()
        assert line.requests == 2
    assert (type(error), error.raw) == (CredentialsRejected, code)

"""Whole turns of this kind: what the suite asks of all of them, and what only this wire has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from loopforge.drivers.errors import RateLimited
from loopforge.drivers.simulator.profile import ScriptedCall
from loopforge.drivers.turn import JsonSchema, Reply, assistant, tool_result, user
from tests.drivers.simulated import LOOK, SimulatedProvider
from tests.suites.whole_turns import WholeTurnsSuite

PROVIDER = SimulatedProvider(kind="openai_compatible", key="sk-4f9a-secret", tokens_per_s=2000)
QUICK, TURN, open_line = PROVIDER.profile, PROVIDER.turn, PROVIDER.open_line


class TestWholeTurns(WholeTurnsSuite):
    provider = PROVIDER
    models = ("m",)
    request_id = r"req_.+"
    no_room = (
        ("429", 429, "rate_limit_exceeded"),
        ("503", 503, "server_is_overloaded"),
        ("529", 529, "overloaded_error"),
    )
    counted = (
        b'data: {"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 24, "completion_tokens": 1}}\n\n'
        b'data: {"choices": [{"delta": {"content": "b"}}], "usage": {"prompt_tokens": 24, "completion_tokens": 7}}\n\n'
    )


async def test_streamed_or_not_a_turn_gets_the_same_answer() -> None:
    async with open_line(replace(QUICK, tool_calls=(ScriptedCall(name="look", arguments={"path": "é"}),))) as line:
        for turn in (TURN, replace(TURN, tools=(LOOK,))):
            # The request's own bytes decide on the answer, and these two differ: only its form can be compared.
            streamed = await line.run(turn)
            whole = await line.run(replace(turn, stream=False))
            assert streamed.finish == whole.finish
            assert [call.parsed for call in streamed.tool_calls] == [call.parsed for call in whole.tool_calls]
            assert len(streamed.text.split()) == len(whole.text.split())


@pytest.mark.parametrize("stream", [True, False])
async def test_a_tool_is_called_and_its_result_is_taken(stream: bool) -> None:
    turn = replace(TURN, tools=(LOOK,), messages=(user('call look {"path": "a/b"}'),), stream=stream)
    async with open_line() as line:
        asked = await line.run(turn)
        (call,) = asked.tool_calls
        assert (asked.finish, call.name, call.parsed) == ("tool_calls", "look", {"path": "a/b"})
        after = replace(turn, messages=(*turn.messages, asked.message, tool_result(call, "found")))
        assert (await line.run(after)).finish == "stop"


async def test_an_answer_fits_the_schema_asked_for() -> None:
    schema = {
        "type": "object",
        "properties": {"size": {"type": "integer"}},
        "required": ["size"],
        "additionalProperties": False,
    }
    async with open_line() as line:
        reply = await line.run(replace(TURN, output=JsonSchema(schema=schema)))
    assert reply.text == '{"size": 1}'


async def test_a_long_conversation_is_taken() -> None:
    messages = (user("a"), assistant("b"), user("c"), assistant("d"), user("e"))
    async with open_line() as line:
        assert (await line.run(replace(TURN, messages=messages))).finish == "stop"


async def test_turns_beyond_the_providers_limit_are_rate_limited() -> None:
    async with open_line(replace(QUICK, max_concurrency=2, retry_after_s=3)) as line, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(line.run, replace(TURN, model="fault-silence"))
        await line.simulator.stats.wait(lambda stats: stats.active == 2)
        error = await line.fails(TURN)
        nursery.cancel_scope.cancel()
    assert type(error) is RateLimited
    assert error.retry_after_s == 3


@pytest.mark.parametrize("model", ["fault-silence", "fault-stall", "fault-comments"])
async def test_a_cancelled_turn_hangs_up_on_its_provider(model: str) -> None:
    async with open_line() as line:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.run, replace(TURN, model=model))
            await line.simulator.stats.wait(lambda stats: stats.active == 1)
            nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            await line.simulator.stats.wait(lambda stats: stats.open_connections == 0)
        assert line.simulator.stats.cancelled == 1


async def test_a_hundred_turns_at_once_are_all_answered() -> None:
    replies: list[Reply] = []

    async def one(number: int) -> None:
        replies.append(await line.run(replace(TURN, id=str(number), messages=(user(str(number)),))))

    async with open_line(max_concurrency=20) as line, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(one, number)
    assert len(replies) == 100
    assert {len(reply.text.split()) for reply in replies} == {12}
    assert line.simulator.stats.connections <= 20

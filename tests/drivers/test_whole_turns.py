"""Whole turns on loopback: driver, auth and transport against the simulator, with every fault it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import trio

from loopforge.drivers.auth import open_auth
from loopforge.drivers.errors import (
    ContextTooLong,
    CredentialsRejected,
    DriverError,
    ModelNotFound,
    Overloaded,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Stalled,
    StreamBroken,
    WireMismatch,
)
from loopforge.drivers.registry import ProviderSettings, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import (
    Delta,
    JsonSchema,
    Reply,
    TextDelta,
    ThinkingDelta,
    Tool,
    Turn,
    assistant,
    tool_result,
    user,
)
from loopforge.drivers.wire import Auth, Driver, Transport

QUICK = Profile(first_token_s=0, tokens_per_s=2000, answer_tokens=12, slow_s=0.05)
LOOK = Tool(
    name="look", parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
)
TURN = Turn(kind="planning", messages=(user("hello"),), id="turn-1", provider="acme", model="m")
CALM = Watchdogs(first_event_s=60, event_gap_s=60)
KEY = "sk-4f9a-secret"


@dataclass
class Line:
    """One provider, ready to be asked."""

    simulator: Simulator
    driver: Driver
    auth: Auth
    transport: Transport

    async def run(self, turn: Turn = TURN, *, watchdogs: Watchdogs = CALM, deltas: list[Delta] | None = None) -> Reply:
        async def emit(delta: Delta) -> None:
            if deltas is not None:
                deltas.append(delta)

        with trio.fail_after(60):
            return await run_turn(self.driver, self.auth, turn, self.transport, emit, watchdogs)

    async def fails(self, turn: Turn, *, watchdogs: Watchdogs = CALM) -> DriverError:
        with pytest.raises(DriverError) as caught:
            await self.run(turn, watchdogs=watchdogs)
        return caught.value


@asynccontextmanager
async def open_line(profile: Profile = QUICK, *, key: str = "", **members: Any) -> AsyncIterator[Line]:
    async with open_simulator({"acme": profile}) as simulator:
        settings = ProviderSettings(
            name="acme",
            kind="openai_compatible",
            base_url=simulator.base_url("acme"),
            api_key_env="ACME_KEY" if key else "",
            **members,
        )
        async with open_transport(settings) as transport:
            yield Line(simulator, open_driver(settings), open_auth(settings, key), transport)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_is_answered(stream: bool) -> None:
    deltas: list[Delta] = []
    async with open_line() as line:
        reply = await line.run(replace(TURN, stream=stream), deltas=deltas)
    assert len(reply.text.split()) == 12
    assert reply.text == "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert (reply.finish, reply.provider, reply.model, reply.model_reported) == ("stop", "acme", "m", "m")
    assert reply.usage.output == 12
    assert reply.usage.input
    assert reply.request_id.startswith("req_")
    assert reply.timings.first_token_s is not None
    assert reply.warnings == ()


async def test_streamed_or_not_a_turn_gets_the_same_answer() -> None:
    async with open_line(replace(QUICK, tool_calls=(ScriptedCall(name="look", arguments={"path": "é"}),))) as line:
        for turn in (TURN, replace(TURN, tools=(LOOK,))):
            # The request's own bytes decide on the answer, and these two differ: only its form can be compared.
            streamed = await line.run(turn)
            whole = await line.run(replace(turn, stream=False))
            assert streamed.finish == whole.finish
            assert [call.parsed for call in streamed.tool_calls] == [call.parsed for call in whole.tool_calls]
            assert len(streamed.text.split()) == len(whole.text.split())


async def test_thinking_comes_before_the_text() -> None:
    deltas: list[Delta] = []
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        reply = await line.run(deltas=deltas)
    kinds = [type(delta) for delta in deltas if isinstance(delta, ThinkingDelta | TextDelta)]
    assert kinds == sorted(kinds, key=lambda kind: kind is TextDelta)
    assert len(reply.message.thinking.split()) == 5
    assert reply.usage.reasoning == 5


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


async def test_an_answer_beyond_its_budget_says_so() -> None:
    async with open_line() as line:
        assert (await line.run(replace(TURN, max_output_tokens=3))).finish == "length"


async def test_a_long_conversation_is_taken() -> None:
    messages = (user("a"), assistant("b"), user("c"), assistant("d"), user("e"))
    async with open_line() as line:
        assert (await line.run(replace(TURN, messages=messages))).finish == "stop"


async def test_turns_one_after_the_other_share_a_connection() -> None:
    async with open_line() as line:
        for stream in (True, False, True, False):
            await line.run(replace(TURN, stream=stream))
            await line.fails(replace(TURN, stream=stream, model="fault-500"))
        assert line.simulator.stats.connections == 1


async def test_the_key_arrives() -> None:
    async with open_line(replace(QUICK, api_key=KEY), key=KEY) as line:
        assert (await line.run()).finish == "stop"


async def test_a_wrong_key_is_rejected_and_shows_nowhere() -> None:
    async with open_line(replace(QUICK, api_key="another"), key=KEY) as line:
        error = await line.fails(TURN)
    assert type(error) is CredentialsRejected
    assert KEY not in f"{error!r} {error} {error.to_fields()}"


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


OUTCOMES: dict[FaultName, type[DriverError] | None] = {
    "slow": None,
    "endless": None,
    "silence": ProviderUnavailable,
    "comments": ProviderUnavailable,
    "cut": StreamBroken,
    "malformed": StreamBroken,
    "error-event": ProviderUnavailable,
    "stall": Stalled,
    "reset": ProviderUnavailable,
    "reset-midway": StreamBroken,
    "drip": ProviderUnavailable,
    "huge": WireMismatch,
    "wrong-type": WireMismatch,
    "401": CredentialsRejected,
    "429": RateLimited,
    "quota": QuotaExhausted,
    "500": ProviderUnavailable,
    "503": Overloaded,
    "529": Overloaded,
    "context": ContextTooLong,
    "no-model": ModelNotFound,
}


def watchdogs_for(fault: FaultName, *, stream: bool) -> Watchdogs:
    """Impatient only where it is the watchdog that ends the turn, and with that watchdog alone."""
    if fault in {"silence", "comments", "drip"}:
        return Watchdogs(first_event_s=0.2, event_gap_s=60)
    if fault == "stall" or (fault == "endless" and not stream):
        return Watchdogs(first_event_s=60, event_gap_s=0.2)
    return CALM


def test_every_fault_has_an_expected_outcome() -> None:
    assert set(OUTCOMES) == set(get_args(FaultName))


# Each drop of a dripping whole answer is progress: it only takes its time.
@pytest.mark.parametrize(
    ("fault", "stream"),
    [(fault, stream) for fault in OUTCOMES for stream in (True, False) if stream or fault != "drip"],
)
async def test_each_fault_is_named_for_what_to_do_next(fault: FaultName, stream: bool) -> None:
    expected = OUTCOMES[fault]
    turn = replace(TURN, model=f"fault-{fault}", stream=stream)
    watchdogs = watchdogs_for(fault, stream=stream)
    # All at once: between tokens that come one by one, a busy machine could make a gap of its own.
    async with open_line(replace(QUICK, tokens_per_s=0)) as line:
        if expected is None:
            assert len((await line.run(turn, watchdogs=watchdogs)).text.split()) == 12
            return
        error = await line.fails(turn, watchdogs=watchdogs)
        with trio.fail_after(60):
            await line.simulator.stats.wait(lambda stats: stats.active == 0)
        assert (await line.run()).finish == "stop"  # nothing of it stays with the transport
    assert type(error) is expected
    assert (error.provider, error.model) == ("acme", turn.model)
    assert error.action
    text_had_come = stream and fault in {"cut", "malformed", "error-event", "stall", "reset-midway"}
    assert error.started == text_had_come
    if text_had_come:
        assert error.partial is not None
        assert len(error.partial.text.split()) == QUICK.fault_after_tokens
    else:
        assert error.partial is None


async def test_an_error_says_how_long_to_wait() -> None:
    async with open_line(replace(QUICK, retry_after_s=2.5)) as line:
        error = await line.fails(replace(TURN, model="fault-429"))
    assert error.retry_after_s == 2.5
    assert error.status == 429


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

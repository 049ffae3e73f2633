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
from loopforge.drivers.registry import ProviderSettings, has_driver, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import JsonSchema, Reply, Tool, Turn, system, tool_result, user
from loopforge.drivers.wire import Auth, Driver, Transport

# All at once: between tokens that come one by one, a busy machine could make a gap of its own.
QUICK = Profile(kind="minimax_native", first_token_s=0, tokens_per_s=0, answer_tokens=12, slow_s=0.05)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK = Tool(name="look", parameters=CITY)
TURN = Turn(kind="planning", messages=(user("hello"),), id="turn-1", provider="acme", model="MiniMax-M2.5")
CALM = Watchdogs(first_event_s=60, event_gap_s=60)
KEY = "eyJhbGciOiJSUzI1NiJ9.minimax-secret"
MODELS = ["MiniMax-M3", "MiniMax-M2.5", "MiniMax-Text-01", "abab6.5s-chat"]  # each ends its streams in its own way


@dataclass
class Line:
    """One provider, ready to be asked."""

    simulator: Simulator
    driver: Driver
    auth: Auth
    transport: Transport

    async def run(self, turn: Turn = TURN, *, watchdogs: Watchdogs = CALM) -> Reply:
        async def emit(delta: object) -> None:
            del delta

        with trio.fail_after(60):
            return await run_turn(self.driver, self.auth, turn, self.transport, emit, watchdogs)

    async def fails(self, turn: Turn, *, watchdogs: Watchdogs = CALM) -> DriverError:
        with pytest.raises(DriverError) as caught:
            await self.run(turn, watchdogs=watchdogs)
        return caught.value


@asynccontextmanager
async def open_line(profile: Profile = QUICK, *, key: str = "", path: str = "", **members: Any) -> AsyncIterator[Line]:
    async with open_simulator({"acme": profile}) as simulator:
        settings = ProviderSettings(
            name="acme",
            kind="minimax_native",
            base_url=simulator.base_url("acme") + path,
            api_key_env="ACME_KEY" if key else "",
            **members,
        )
        async with open_transport(settings) as transport:
            yield Line(simulator, open_driver(settings), open_auth(settings, key), transport)


def test_the_kind_has_a_driver() -> None:
    assert has_driver("minimax_native")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", MODELS)
async def test_a_turn_is_answered_with_thinking_text_and_usage(model: str, stream: bool) -> None:
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        turn = replace(TURN, messages=(system("Be kind."), user("hi")), model=model, stream=stream)
        reply = await line.run(turn)
    assert (len(reply.text.split()), len(reply.message.thinking.split())) == (12, 5)
    assert (reply.finish, reply.finish_raw, reply.model_reported) == ("stop", "stop", model)
    assert (reply.usage.output, reply.usage.reasoning) == (17, 5)
    assert reply.usage.input
    assert len(reply.request_id) == 32
    assert reply.warnings == ()
    assert reply.timings.first_token_s is not None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", MODELS)
async def test_tools_are_called_in_parallel_and_their_results_taken(model: str, stream: bool) -> None:
    calls = tuple(ScriptedCall(name="look", arguments={"city": city}) for city in ("Rome", "Bern"))
    turn = replace(TURN, model=model, tools=(LOOK,), stream=stream)
    async with open_line(replace(QUICK, tool_calls=calls, thinking_tokens=3)) as line:
        asked = await line.run(turn)
        assert [call.parsed for call in asked.tool_calls] == [{"city": "Rome"}, {"city": "Bern"}]
        assert asked.finish == "tool_calls"
        results = [tool_result(call, "sunny") for call in reversed(asked.tool_calls)]
        answer = await line.run(replace(turn, messages=(*turn.messages, asked.message, *results)))
    assert (answer.finish, answer.warnings) == ("stop", ())


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


async def test_an_answer_beyond_its_budget_says_so() -> None:
    async with open_line() as line:
        assert (await line.run(replace(TURN, max_output_tokens=3))).finish == "length"


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


async def test_turns_one_after_the_other_share_a_connection() -> None:
    async with open_line() as line:
        for stream in (True, False, True):
            await line.run(replace(TURN, stream=stream))
            await line.fails(replace(TURN, stream=stream, model="fault-500"))
        assert line.simulator.stats.connections == 1


async def test_the_key_arrives_and_a_wrong_one_shows_nowhere() -> None:
    async with open_line(replace(QUICK, api_key=KEY), key=KEY) as line:
        assert (await line.run()).finish == "stop"
    async with open_line(replace(QUICK, api_key="another"), key=KEY) as line:
        error = await line.fails(TURN)
    assert type(error) is CredentialsRejected
    assert "international" in error.action
    assert KEY not in f"{error!r} {error} {error.to_fields()}"


async def test_a_request_that_breaks_a_rule_is_refused_inside_a_200() -> None:
    turn = replace(TURN, provider_options={"minimax_native": {"thinking": {"type": "enabled"}}})
    async with open_line() as line:
        error = await line.fails(turn)
    assert (type(error).__name__, error.raw, error.status) == ("TurnRefused", "2013", None)
    assert "allowed: adaptive, disabled" in str(error)


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


def watchdogs_for(fault: FaultName, stream: bool) -> Watchdogs:
    """Impatient only where it is the watchdog that ends the turn, and with that watchdog alone."""
    if fault in {"silence", "comments", "drip"}:
        return Watchdogs(first_event_s=0.2, event_gap_s=60)
    if fault == "stall" or (fault == "endless" and not stream):  # a JSON text ends with its body alone
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
    watchdogs = watchdogs_for(fault, stream)
    async with open_line() as line:
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

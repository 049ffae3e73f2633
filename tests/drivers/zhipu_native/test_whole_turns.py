"""Whole turns on loopback: driver, auth and transport against the simulator's half of this wire, with every fault."""

from __future__ import annotations

import time
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
from loopforge.drivers.turn import JsonSchema, NamedTool, Reply, Tool, Turn, system, tool_result, user
from loopforge.drivers.wire import Auth, Driver, Transport
from loopforge.drivers.zhipu_jwt import ZhipuJwt

# All at once: between tokens that come one by one, a busy machine could make a gap of its own.
QUICK = Profile(kind="zhipu_native", first_token_s=0, tokens_per_s=0, answer_tokens=12, slow_s=0.05)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK = Tool(name="look", parameters=CITY)
TURN = Turn(kind="planning", messages=(user("hello"),), id="turn-1", provider="acme", model="m")
CALM = Watchdogs(first_event_s=60, event_gap_s=60)
KEY_ID, SECRET = "0123456789abcdef0123456789abcdef", "s3cr3tS3cr3tS3cr"  # made up, in the form of real ones
KEY = f"{KEY_ID}.{SECRET}"


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

    async def fails(self, turn: Turn = TURN, *, watchdogs: Watchdogs = CALM) -> DriverError:
        with pytest.raises(DriverError) as caught:
            await self.run(turn, watchdogs=watchdogs)
        return caught.value

    @property
    def requests(self) -> int:
        return self.simulator.stats.of("acme").requests


@asynccontextmanager
async def open_line(
    profile: Profile = QUICK, *, key: str = "", auth: Auth | None = None, **members: Any
) -> AsyncIterator[Line]:
    async with open_simulator({"acme": profile}) as simulator:
        settings = ProviderSettings(
            name="acme",
            kind="zhipu_native",
            base_url=simulator.base_url("acme"),
            api_key_env="ACME_KEY" if key else "",
            **members,
        )
        async with open_transport(settings) as transport:
            yield Line(simulator, open_driver(settings), auth or open_auth(settings, key), transport)


# -- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_is_answered_with_thinking_text_and_usage(stream: bool) -> None:
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        reply = await line.run(replace(TURN, messages=(system("Be kind."), user("hi")), stream=stream))
    assert (len(reply.text.split()), len(reply.message.thinking.split())) == (12, 5)
    assert not reply.text.startswith("\n")
    assert (reply.finish, reply.finish_raw, reply.model_reported) == ("stop", "stop", "m")
    assert (reply.usage.output, reply.usage.reasoning, reply.usage.cache_read) == (17, 5, 0)
    assert reply.usage.input
    assert reply.request_id.startswith("2026")
    assert reply.timings.first_token_s is not None
    assert reply.warnings == ()


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


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["glm-4.7", "glm-4.5", "glm-5.3"])
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


@pytest.mark.parametrize("choice", [NamedTool(name="look"), "required"])
async def test_a_call_can_be_forced_as_far_as_this_wire_goes(choice: Any) -> None:
    async with open_line() as line:
        reply = await line.run(replace(TURN, tools=(LOOK,), tool_choice=choice))
        assert [call.parsed for call in reply.tool_calls] == [{"city": "sample"}]
        assert "tool_choice" in reply.warnings[0]
        assert (await line.run(replace(TURN, tools=(LOOK,), tool_choice="none"))).finish == "stop"


async def test_an_answer_fits_the_schema_that_the_prompt_holds() -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    async with open_line() as line:
        reply = await line.run(replace(TURN, output=JsonSchema(schema=schema)))
    assert reply.text == '{"size": 1}'
    assert "not enforced" in reply.warnings[0]


async def test_an_answer_beyond_its_budget_says_so() -> None:
    async with open_line() as line:
        assert (await line.run(replace(TURN, max_output_tokens=3))).finish == "length"


async def test_turns_one_after_the_other_share_a_connection() -> None:
    async with open_line() as line:
        for stream in (True, False, True):
            await line.run(replace(TURN, stream=stream))
            await line.fails(replace(TURN, stream=stream, model="fault-500"))
        assert line.simulator.stats.connections == 1


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


# -- faults ---------------------------------------------------------------------------------------------------------


async def test_an_error_says_how_long_to_wait() -> None:
    async with open_line(replace(QUICK, retry_after_s=2.5)) as line:
        error = await line.fails(replace(TURN, model="fault-429"))
    assert (error.retry_after_s, error.status, error.raw) == (2.5, 429, "1302")


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
    if fault == "stall" or (fault == "endless" and not stream):  # a stream has its own end sign
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

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
    TurnRefused,
    WireMismatch,
)
from loopforge.drivers.registry import ProviderSettings, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import Image, JsonSchema, NamedTool, Reply, Tool, Turn, assistant, system, tool_result, user
from loopforge.drivers.wire import Auth, Driver, Transport

# All at once: between tokens that come one by one, a busy machine could make a gap of its own.
QUICK = Profile(kind="dashscope_native", first_token_s=0, tokens_per_s=0, answer_tokens=12, slow_s=0.05)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK = Tool(name="look", parameters=CITY)
MODEL, VISION = "qwen-plus", "qwen3-vl-plus"  # one on each path
TURN = Turn(kind="planning", messages=(user("hello"),), id="turn-1", provider="acme", model=MODEL)
CALM = Watchdogs(first_event_s=60, event_gap_s=60)
KEY = "sk-4f9a-secret"

both_paths = pytest.mark.parametrize("model", [MODEL, VISION])
streamed_or_not = pytest.mark.parametrize("stream", [True, False])


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
            kind="dashscope_native",
            base_url=simulator.base_url("acme") + path,
            api_key_env="ACME_KEY" if key else "",
            **members,
        )
        async with open_transport(settings) as transport:
            yield Line(simulator, open_driver(settings), open_auth(settings, key), transport)


@both_paths
@streamed_or_not
async def test_a_turn_is_answered_with_thinking_text_and_usage(model: str, stream: bool) -> None:
    turn = replace(TURN, model=model, messages=(system("Be kind."), user("hi")), thinking=100, stream=stream)
    async with open_line(replace(QUICK, thinking_tokens=5)) as line:
        reply = await line.run(turn)
        silent = await line.run(replace(turn, thinking="off"))
    assert (len(reply.text.split()), len(reply.message.thinking.split())) == (12, 5)
    assert (reply.finish, reply.finish_raw, reply.warnings) == ("stop", "stop", ())
    assert (reply.usage.output, reply.usage.reasoning) == (17, 5)
    assert reply.usage.input
    assert reply.request_id
    assert reply.timings.first_token_s is not None
    assert silent.message.thinking == ""


@both_paths
@streamed_or_not
async def test_tools_are_called_in_parallel_and_their_results_taken(model: str, stream: bool) -> None:
    calls = tuple(ScriptedCall(name="look", arguments={"city": city}) for city in ("Rome", "Bern"))
    turn = replace(TURN, model=model, tools=(LOOK,), stream=stream)
    async with open_line(replace(QUICK, tool_calls=calls)) as line:
        asked = await line.run(turn)
        assert [call.parsed for call in asked.tool_calls] == [{"city": "Rome"}, {"city": "Bern"}]
        assert asked.finish == "tool_calls"
        results = [tool_result(call, "sunny") for call in asked.tool_calls]
        answer = await line.run(replace(turn, messages=(*turn.messages, asked.message, *results)))
    assert (answer.finish, answer.warnings) == ("stop", ())


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


async def test_an_answer_beyond_its_budget_says_so() -> None:
    async with open_line() as line:
        assert (await line.run(replace(TURN, max_output_tokens=3))).finish == "length"


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


async def test_turns_one_after_the_other_share_a_connection() -> None:
    async with open_line() as line:
        for stream in (True, False, True):
            await line.run(replace(TURN, stream=stream))
            await line.fails(replace(TURN, stream=stream, model="fault-500"))
        assert line.simulator.stats.connections == 1


async def test_the_key_arrives_and_a_wrong_one_shows_nowhere() -> None:
    async with open_line(replace(QUICK, api_key=KEY), key=KEY) as line:
        assert (await line.run()).finish == "stop"
        signed = await line.auth.sign(line.driver.build_request(TURN))
        assert {name for name in signed.headers if KEY in signed.headers[name]} == {"authorization"}
    async with open_line(replace(QUICK, api_key="another"), key=KEY) as line:
        error = await line.fails(TURN)
    assert type(error) is CredentialsRejected
    assert KEY not in f"{error!r} {error} {error.to_fields()}"


async def test_an_error_says_how_long_to_wait() -> None:
    async with open_line(replace(QUICK, retry_after_s=2.5)) as line:
        error = await line.fails(replace(TURN, model="fault-429"))
    assert (error.retry_after_s, error.status, error.raw) == (2.5, 429, "Throttling.RateQuota")


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


@pytest.mark.parametrize("fault", ["cut", "malformed", "error-event", "500", "no-model"])
async def test_faults_are_named_alike_on_the_other_path(fault: FaultName) -> None:
    async with open_line() as line:
        error = await line.fails(replace(TURN, model=f"qwen3-vl-fault-{fault}"))
    assert type(error) is OUTCOMES[fault]

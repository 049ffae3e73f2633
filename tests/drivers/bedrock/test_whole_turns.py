"""Whole turns on loopback: this driver, auth and transport against the simulator, with every fault it knows."""

from __future__ import annotations

import json
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
from loopforge.drivers.registry import AwsSettings, ProviderSettings, has_driver, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.simulator.wires import has_wire
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import (
    Delta,
    Document,
    Image,
    JsonSchema,
    NamedTool,
    Reply,
    Text,
    TextDelta,
    ThinkingDelta,
    Tool,
    Turn,
    assistant,
    system,
    tool_result,
    user,
)
from loopforge.drivers.wire import Auth, Driver, Transport
from tests.drivers.bedrock.asking import CLAUDE, LLAMA, NOVA, QWEN

QUICK = Profile(kind="bedrock", first_token_s=0, tokens_per_s=2000, answer_tokens=12, slow_s=0.05)
LOOK = Tool(
    name="look", parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
)
TURN = Turn(kind="planning", messages=(user("hello"),), id="turn-1", provider="acme", model="m")
CALM = Watchdogs(first_event_s=60, event_gap_s=60)
KEY = "ABSK-4f9a-secret"
ANSWER = {
    "type": "object",
    "properties": {"size": {"type": "integer"}},
    "required": ["size"],
    "additionalProperties": False,
}


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
async def open_line(profile: Profile = QUICK, *, key: str = KEY, **members: Any) -> AsyncIterator[Line]:
    """`key`: sent as a Bedrock key; "" signs with what AWS's chain finds."""
    async with open_simulator({"acme": profile}) as simulator:
        settings = ProviderSettings(
            name="acme",
            kind="bedrock",
            api_key_env="ACME_KEY" if key else "",
            **{"base_url": f"{simulator.url}/acme", **members},
        )
        async with open_transport(settings) as transport:
            yield Line(simulator, open_driver(settings), open_auth(settings, key), transport)


def test_the_kind_has_a_driver_and_a_simulated_wire() -> None:
    assert has_driver("bedrock")
    assert has_wire("bedrock")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_is_answered(stream: bool) -> None:
    deltas: list[Delta] = []
    async with open_line() as line:
        reply = await line.run(replace(TURN, stream=stream), deltas=deltas)
    assert len(reply.text.split()) == 12
    assert reply.text == "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert (reply.finish, reply.finish_raw) == ("stop", "end_turn")
    assert reply.usage.output == 12
    assert reply.usage.input
    assert len(reply.request_id) == 36
    assert reply.timings.first_token_s is not None
    assert reply.warnings == ()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_turn_is_signed_with_the_keys_of_the_environment(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    async with open_line(replace(QUICK, api_key="AKIDEXAMPLE"), key="") as line:
        assert (await line.run(replace(TURN, stream=stream))).finish == "stop"
    async with open_line(replace(QUICK, api_key="AKIDOTHER"), key="") as line:
        error = await line.fails(replace(TURN, stream=stream))
    assert type(error) is CredentialsRejected
    assert KEY not in f"{error!r} {error} {error.to_fields()}"


async def test_the_endpoint_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_simulator({"acme": QUICK}) as simulator:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"{simulator.url}/acme/")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        settings = ProviderSettings(name="acme", kind="bedrock", aws_bedrock=AwsSettings(region="eu-west-1"))
        async with open_transport(settings) as transport:
            line = Line(simulator, open_driver(settings), open_auth(settings, ""), transport)
            assert (await line.run(replace(TURN, model="arn:aws:bedrock:eu-west-1:1:inference-profile/x:0"))).text
        assert list(simulator.stats.providers["acme"].models) == ["arn:aws:bedrock:eu-west-1:1:inference-profile/x:0"]


@pytest.mark.parametrize("stream", [True, False])
async def test_thinking_comes_first_and_goes_back_with_a_tools_result(stream: bool) -> None:
    deltas: list[Delta] = []
    profile = replace(QUICK, thinking_tokens=5)
    words = user('call look {"path": "a/b"}')
    turn = replace(TURN, tools=(LOOK,), messages=(words,), stream=stream, thinking=2048, model=CLAUDE)
    async with open_line(profile) as line:
        asked = await line.run(turn, deltas=deltas)
        (call,) = asked.tool_calls
        assert (asked.finish, call.name, call.parsed) == ("tool_calls", "look", {"path": "a/b"})
        kinds = [type(delta) for delta in deltas if isinstance(delta, ThinkingDelta | TextDelta)]
        assert set(kinds) == {ThinkingDelta}
        assert len(asked.message.thinking.split()) == 5
        after = replace(turn, messages=(*turn.messages, asked.message, tool_result(call, "found")))
        assert len(line.driver.build_request(after).body.split(b'"signature"')) == 2
        assert (await line.run(after)).finish == "stop"
        elsewhere = replace(after, model=NOVA, thinking=None)
        assert b"signature" not in line.driver.build_request(elsewhere).body
        assert "earlier thinking" in (await line.run(elsewhere)).warnings[0]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", [CLAUDE, "us.anthropic.claude-sonnet-4-20250514-v1:0", QWEN, NOVA])
async def test_an_answer_fits_the_schema_asked_for(model: str, stream: bool) -> None:
    turn = replace(TURN, output=JsonSchema(schema=ANSWER), model=model, stream=stream)
    async with open_line() as line:
        reply = await line.run(turn)
    assert (json.loads(reply.text), reply.finish, reply.tool_calls) == ({"size": 1}, "stop", ())


async def test_a_model_that_streams_no_tools_is_asked_for_a_whole_answer() -> None:
    turn = replace(TURN, tools=(LOOK,), messages=(user('call look {"path": "a"}'),), model=LLAMA)
    async with open_line() as line:
        reply = await line.run(turn)
        assert line.driver.build_request(turn).url.endswith("/converse")
        assert line.driver.build_request(replace(turn, tools=())).url.endswith("/converse-stream")
    assert [call.parsed for call in reply.tool_calls] == [{"path": "a"}]
    assert "does not stream with tools" in reply.warnings[0]


@pytest.mark.parametrize("choice", ["required", NamedTool(name="look")])
async def test_a_call_can_be_forced(choice: Any) -> None:
    async with open_line() as line:
        reply = await line.run(replace(TURN, tools=(LOOK,), tool_choice=choice, model=NOVA))
    assert [call.parsed for call in reply.tool_calls] == [{"path": "sample"}]


async def test_scripted_calls_with_letters_of_all_kinds_arrive() -> None:
    profile = replace(QUICK, tool_calls=(ScriptedCall(name="look", arguments={"path": 'é"\n😀'}),) * 2)
    async with open_line(profile) as line:
        for stream in (True, False):
            reply = await line.run(replace(TURN, tools=(LOOK,), stream=stream))
            assert [call.parsed for call in reply.tool_calls] == [{"path": 'é"\n😀'}] * 2


async def test_an_answer_beyond_its_budget_and_one_that_meets_a_stop_word_say_so() -> None:
    async with open_line() as line:
        assert (await line.run(replace(TURN, max_output_tokens=3))).finish == "length"
        word = (await line.run()).text.split()[4]
        for stream in (True, False):
            # The request's own bytes decide on the words: they differ, so the stop word may not come at all.
            reply = await line.run(replace(TURN, stop=(f" {word}", " the", " a"), stream=stream))
            assert reply.finish_raw in ("stop_sequence", "end_turn")
            assert f" {word} " not in reply.text


async def test_a_conversation_with_all_that_it_can_hold_is_taken() -> None:
    picture = Image(data=b"\x89PNG", media_type="image/png", cache="5m")
    paper = Document(data=b"%PDF", media_type="application/pdf", name="a.pdf")
    notes = Document(data=b"words", media_type="text/markdown", name="a.md")
    messages = (
        system("be brief"),
        user("a", picture, paper, notes),
        assistant("b"),
        user(Text(text="c", cache="5m")),
        assistant("d"),
        user("e"),
    )
    async with open_line(headers={"X-Trace": "1"}) as line:
        reply = await line.run(replace(TURN, messages=messages, temperature=0.5, stop=("zzz",), model=CLAUDE))
    assert (reply.finish, reply.warnings) == ("stop", ())


async def test_turns_one_after_the_other_share_a_connection() -> None:
    async with open_line() as line:
        for stream in (True, False, True, False):
            await line.run(replace(TURN, stream=stream))
            await line.fails(replace(TURN, stream=stream, model="fault-500"))
        assert line.simulator.stats.connections == 1


async def test_the_key_arrives() -> None:
    async with open_line(replace(QUICK, api_key=KEY)) as line:
        assert (await line.run()).finish == "stop"


async def test_a_wrong_key_is_rejected_and_shows_nowhere() -> None:
    async with open_line(replace(QUICK, api_key="another")) as line:
        error = await line.fails(TURN)
    assert type(error) is CredentialsRejected
    assert KEY not in f"{error!r} {error} {error.to_fields()}"


async def test_what_the_provider_refuses_is_told_in_its_words() -> None:
    options: dict[str, Any] = {"bedrock": {"surprise": 1}}
    async with open_line() as line:
        error = await line.fails(replace(TURN, provider_options=options))
    assert type(error) is TurnRefused
    assert "extraneous key [surprise] is not permitted" in str(error)


async def test_an_error_says_how_long_to_wait() -> None:
    async with open_line(replace(QUICK, retry_after_s=2.5)) as line:
        for fault, status in (("429", 429), ("529", 429), ("503", 503)):
            error = await line.fails(replace(TURN, model=f"fault-{fault}"))
            assert (error.retry_after_s, error.status) == (2.5, status)


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

"""Whole turns of this kind: what the suite asks of all of them, and what only this wire has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.auth import open_auth
from loopforge.drivers.errors import CredentialsRejected, TurnRefused
from loopforge.drivers.registry import AwsSettings, ProviderSettings, open_driver
from loopforge.drivers.simulator.server import open_simulator
from loopforge.drivers.transport import open_transport
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
from tests.drivers.bedrock.asking import CLAUDE, LLAMA, NOVA, QWEN
from tests.drivers.bedrock.bodies import START, delta, frames, metadata
from tests.drivers.simulated import LOOK, Line, SimulatedProvider
from tests.suites.whole_turns import WholeTurnsSuite

KEY = "ABSK-4f9a-secret"
# Without a key a turn is signed with what AWS's chain finds.
PROVIDER = SimulatedProvider(kind="bedrock", key=KEY, base_path="", needs_key=True, tokens_per_s=2000)
QUICK, TURN, open_line = PROVIDER.profile, PROVIDER.turn, PROVIDER.open_line
ANSWER = {
    "type": "object",
    "properties": {"size": {"type": "integer"}},
    "required": ["size"],
    "additionalProperties": False,
}


class TestWholeTurns(WholeTurnsSuite):
    provider = PROVIDER
    models = (CLAUDE,)
    thinking = 2048
    output_with_thinking = (17, None)
    finish_raw = "end_turn"
    request_id = r"[0-9a-f-]{36}"
    names_model = False
    no_room = (
        ("429", 429, "ThrottlingException"),
        ("503", 503, "ServiceUnavailableException"),
        ("529", 429, "ModelNotReadyException"),
    )
    counted = frames(START, delta(0, {"text": "hi"}), metadata(inputTokens=24, outputTokens=7))


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
            line = Line(simulator, open_driver(settings), open_auth(settings, ""), transport, TURN)
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


async def test_what_the_provider_refuses_is_told_in_its_words() -> None:
    options: dict[str, Any] = {"bedrock": {"surprise": 1}}
    async with open_line() as line:
        error = await line.fails(replace(TURN, provider_options=options))
    assert type(error) is TurnRefused
    assert "extraneous key [surprise] is not permitted" in str(error)

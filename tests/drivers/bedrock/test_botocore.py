"""botocore's own client beside the driver: it sends what the driver sends, and reads the simulator's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import botocore.session
import pytest
import trio
from botocore.config import Config
from botocore.exceptions import ClientError

from loopforge.drivers.auth import open_auth
from loopforge.drivers.registry import ProviderSettings, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import open_simulator
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import (
    Delta,
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Text,
    Thinking,
    ToolCall,
    Turn,
    assistant,
    system,
    tool_result,
    user,
)
from tests.drivers.bedrock.asking import CLAUDE, HI, LOOK, MISTRAL, NOVA, ask, opaque
from tests.drivers.bedrock.request_rules import sdk_parameters
from tests.fakes.aws import open_aws

KEY, SECRET = "AKIDEXAMPLE", "wJalr-secret"
QUICK = Profile(kind="bedrock", first_token_s=0, tokens_per_s=2000, answer_tokens=12)
MADE = ToolCall(id="tooluse_1", name="look", parsed={"at": 1.5, "deep": {"a": [None, 2**60]}})
THOUGHT = Thinking(text="Hm", opaque=opaque({"signature": "s"}))
PROFILE_ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1"
TURNS: dict[str, Turn] = {
    "text": ask(HI),
    "system": ask(system("s"), HI, model=NOVA),
    "sampling": ask(HI, model=NOVA, temperature=0.5, top_p=0.5, stop=("x",), max_output_tokens=9),
    "media": ask(user("é😀", Image(data=b"\x89PNG"), Document(data=b"%PDF", name="a.pdf"))),
    "tools": ask(
        HI, assistant(THOUGHT, MADE), tool_result(MADE, "x", is_error=True),
        tools=(LOOK,), tool_choice=NamedTool(name="look"),
    ),
    "json results": ask(HI, assistant(MADE), tool_result(MADE, '{"a": null}'), model=MISTRAL, tools=(LOOK,)),
    "marks": ask(Message(role="user", content=(Text(text="a", cache="1h"),))),
    "schema": ask(HI, output=JsonSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}})),
    "thinking": ask(HI, thinking=2000, max_output_tokens=9000),
    "arn": ask(HI, model=PROFILE_ARN),
}  # fmt: skip


def call_sdk(url: str, operation: str, model: str, parameters: dict[str, Any]) -> Any:
    """What the SDK makes of the answer; a stream as the list of its events."""
    session = botocore.session.Session()
    session.set_credentials(KEY, SECRET)
    config = Config(retries={"max_attempts": 0}, region_name="us-east-1", read_timeout=20)
    with closing(session.create_client("bedrock-runtime", endpoint_url=url, config=config)) as client:
        answer = getattr(client, operation)(modelId=model, **parameters)
        if "stream" not in answer:
            return answer
        with closing(answer["stream"]) as events:
            return list(events)


async def in_thread(call: Callable[[], Any]) -> Any:
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(call)


@pytest.mark.parametrize("name", TURNS)
async def test_the_sdk_sends_the_same_for_the_same_turn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    turn = replace(TURNS[name], stream=False)

    async def emit(delta: Delta) -> None:
        pass

    async with open_aws(secrets={KEY: SECRET}) as aws:
        settings = ProviderSettings(name=turn.provider, kind="bedrock", base_url=aws.url)
        driver = open_driver(settings)
        async with open_transport(settings) as transport:
            reply = await run_turn(driver, open_auth(settings, ""), turn, transport, emit, Watchdogs(30, 30))
        parameters = sdk_parameters(json.loads(driver.build_request(turn).body))
        answer = await in_thread(partial(call_sdk, aws.url, "converse", turn.model, parameters))
        ours, theirs = aws.turns
    assert reply.text == answer["output"]["message"]["content"][0]["text"] == "signed"
    assert (ours.method, ours.target) == (theirs.method, theirs.target)
    assert json.loads(ours.body) == json.loads(theirs.body)
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert aws.signed_by == [KEY, KEY]


async def test_the_sdk_reads_what_the_simulator_answers() -> None:
    parameters = {
        "messages": [{"role": "user", "content": [{"text": 'call look {"at": 1}'}]}],
        "toolConfig": {"tools": [{"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}}}]},
    }
    async with open_simulator({"acme": replace(QUICK, thinking_tokens=3)}) as simulator:
        url = f"{simulator.url}/acme"
        answer = await in_thread(partial(call_sdk, url, "converse", CLAUDE, parameters))
        thought, use = answer["output"]["message"]["content"]
        assert len(thought["reasoningContent"]["reasoningText"]["text"].split()) == 3
        assert (use["toolUse"]["name"], use["toolUse"]["input"]) == ("look", {"at": 1})
        assert (answer["stopReason"], answer["usage"]["outputTokens"] > 3) == ("tool_use", True)
        events = await in_thread(partial(call_sdk, url, "converse_stream", CLAUDE, parameters))
        assert [next(iter(event)) for event in events[:1] + events[-2:]] == ["messageStart", "messageStop", "metadata"]
        pieces = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
        given = "".join(piece["toolUse"]["input"] for piece in pieces if "toolUse" in piece)
        assert json.loads(given) == {"at": 1}
        assert events[-1]["metadata"]["usage"]["inputTokens"] > 0


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("fault-429", "ThrottlingException"),
        ("fault-quota", "ThrottlingException"),
        ("fault-500", "InternalServerException"),
        ("fault-503", "ServiceUnavailableException"),
        ("fault-529", "ModelNotReadyException"),
        ("fault-401", "UnrecognizedClientException"),
        ("fault-context", "ValidationException"),
        ("fault-no-model", "ValidationException"),
    ],
)
async def test_the_sdk_knows_the_simulators_errors_by_name(model: str, code: str) -> None:
    parameters = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}
    async with open_simulator({"acme": QUICK}) as simulator:
        with pytest.raises(ClientError) as caught:
            await in_thread(partial(call_sdk, f"{simulator.url}/acme", "converse_stream", model, parameters))
    assert caught.value.response["Error"]["Code"] == code


async def test_the_sdk_meets_the_simulators_exception_in_a_stream() -> None:
    parameters = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}
    async with open_simulator({"acme": QUICK}) as simulator:
        with pytest.raises(ClientError) as caught:
            await in_thread(
                partial(call_sdk, f"{simulator.url}/acme", "converse_stream", "fault-error-event", parameters)
            )
    assert caught.value.response["Error"]["Code"] == "internalServerException"

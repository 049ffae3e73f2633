"""What leaves for a conversation is what boto3 sends for it, and boto3 reads the simulator's answers.

How both are held: tests/drivers/sdks.py. boto3 takes a plain http endpoint_url with a path as it is. It checks what it
is given against AWS's own service model, so that it can send only what that model knows.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loopforge.drivers.auth import open_auth
from loopforge.drivers.bedrock import Bedrock
from loopforge.drivers.json_values import to_json
from loopforge.drivers.registry import AwsSettings, ProviderSettings
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.turn import (
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Text,
    Tool,
    Turn,
    assistant,
    system,
    user,
)
from loopforge.drivers.wire import Auth
from tests.drivers.bedrock.asking import KIND, LLAMA, MISTRAL, NOVA, ask, driver_for
from tests.drivers.sdks import (
    SHORT,
    Conversation,
    Held,
    check_answers,
    check_bodies,
    check_headers,
    check_table,
    differs,
    hold,
    plain_bytes,
)

pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string"}, "closely": {"type": "boolean"}},
    "required": ["at", "closely"],
    "additionalProperties": False,
}
LOOK = Tool(name="look", description="Look at it.", parameters=SCHEMA)
POINT = Tool(name="point")
LOOK_WIRE = {"toolSpec": {"name": "look", "description": "Look at it.", "inputSchema": {"json": SCHEMA}}}
POINT_WIRE = {"toolSpec": {"name": "point", "inputSchema": {"json": {"type": "object", "properties": {}}}}}
TOOLS = [LOOK_WIRE, POINT_WIRE]
CALLS = replace(
    SHORT,
    tool_calls=(ScriptedCall(name="look", arguments={"at": "é\n", "closely": True}), ScriptedCall(name="point")),
)
RESULTS = {"look": "a tree", "point": "nothing there"}
HI = [{"role": "user", "content": [{"text": "Hi"}]}]
POINT_5M = {"cachePoint": {"type": "default"}}


def whole(*messages: Any, **members: Any) -> Turn:
    return ask(*messages, stream=False, **members)


def talk(name: str, turn: Turn, *, profile: Profile = SHORT, messages: Any = None, **asked: Any) -> Conversation:
    """One with a greeting where there are no messages. `asked`: boto3's arguments, and members of Conversation."""
    members = {member: asked.pop(member) for member in ("results", "failing", "then") if member in asked}
    return Conversation(
        name=name,
        how="stream" if turn.stream else "whole",
        asked={"modelId": turn.model, "messages": messages or HI, **asked},
        turn=turn,
        profile=profile,
        **members,
    )


CONVERSATIONS = [
    talk("plain", whole(user("Hi"))),
    talk("streamed", ask(user("Hi"))),
    talk("nova", whole(user("Hi"), model=NOVA)),
    talk("llama", ask(user("Hi"), model=LLAMA), then=["And?"]),
    talk(
        "sampling",
        whole(
            system("Be kind."), user("Hi"), temperature=0.5, max_output_tokens=50, stop=("zzz",), top_p=0.9, model=NOVA
        ),
        system=[{"text": "Be kind."}],
        inferenceConfig={"temperature": 0.5, "maxTokens": 50, "stopSequences": ["zzz"], "topP": 0.9},
    ),
    talk(
        "media",
        whole(
            user(
                "What?",
                Image(data=b"\x89PNG", media_type="image/png"),
                Document(data=b"%PDF", media_type="application/pdf", name="a.pdf"),
            )
        ),
        messages=[
            {
                "role": "user",
                "content": [
                    {"text": "What?"},
                    {"image": {"format": "png", "source": {"bytes": plain_bytes(b"\x89PNG")}}},
                    {"document": {"format": "pdf", "name": "a", "source": {"bytes": plain_bytes(b"%PDF")}}},
                ],
            }
        ],
    ),
    talk(
        "tool-loop",
        whole(user("Hi"), tools=(LOOK, POINT)),
        profile=CALLS,
        toolConfig={"tools": TOOLS},
        results=RESULTS,
        failing=("point",),
        then=["Again"],
    ),
    talk(
        "streamed-tool-loop",
        ask(user("Hi"), tools=(LOOK, POINT), tool_choice="required"),
        profile=CALLS,
        toolConfig={"tools": TOOLS, "toolChoice": {"any": {}}},
        results=RESULTS,
        then=["Again"],
    ),
    talk(
        "mistral-tool-loop",
        whole(user("Hi"), tools=(LOOK,), model=MISTRAL),
        profile=CALLS,
        toolConfig={"tools": [LOOK_WIRE]},
        results=RESULTS,
    ),
    talk(
        "thinking-loop",
        ask(user("Hi"), tools=(LOOK, POINT), thinking=1024, max_output_tokens=4000),
        profile=replace(CALLS, thinking_tokens=9),
        toolConfig={"tools": TOOLS},
        inferenceConfig={"maxTokens": 4000},
        additionalModelRequestFields={"thinking": {"type": "enabled", "budget_tokens": 1024}},
        results=RESULTS,
        then=["And?"],
    ),
    talk(
        "whole-thinking-loop",
        whole(user("Hi"), tools=(LOOK, POINT), thinking=1024, max_output_tokens=4000),
        profile=replace(CALLS, thinking_tokens=9),
        toolConfig={"tools": TOOLS},
        inferenceConfig={"maxTokens": 4000},
        additionalModelRequestFields={"thinking": {"type": "enabled", "budget_tokens": 1024}},
        results=RESULTS,
    ),
    talk(
        "forced",
        whole(user("Hi"), tools=(LOOK, POINT), tool_choice=NamedTool(name="look")),
        toolConfig={"tools": TOOLS, "toolChoice": {"tool": {"name": "look"}}},
        results=RESULTS,
    ),
    talk(
        "strict-tool",
        whole(user("Hi"), tools=(replace(LOOK, strict=True),)),
        toolConfig={"tools": [{"toolSpec": {**LOOK_WIRE["toolSpec"], "strict": True}}]},
    ),
    talk(
        "schema",
        whole(user("Hi"), output=JsonSchema(schema=SCHEMA)),
        outputConfig={
            "textFormat": {
                "type": "json_schema",
                "structure": {"jsonSchema": {"schema": to_json(SCHEMA), "name": "answer"}},
            }
        },
    ),
    talk(
        "cache-points",
        whole(
            Message(role="system", content=(Text(text="Be kind.", cache="5m"),)),
            user(Text(text="Long.", cache="5m"), "Hi"),
            tools=(replace(LOOK, cache="5m"),),
        ),
        system=[{"text": "Be kind."}, POINT_5M],
        messages=[{"role": "user", "content": [{"text": "Long."}, POINT_5M, {"text": "Hi"}]}],
        toolConfig={"tools": [LOOK_WIRE, POINT_5M]},
    ),
    talk(
        "history",
        whole(user("Hi"), assistant("Hello"), user("And?")),
        messages=[
            *HI,
            {"role": "assistant", "content": [{"text": "Hello"}]},
            {"role": "user", "content": [{"text": "And?"}]},
        ],
    ),
    talk("chat", ask(user("Hi")), then=["And?", "And then?"]),
]
BY_NAME = {conversation.name: conversation for conversation in CONVERSATIONS}
DELIBERATE = [
    *(
        differs(
            f"messages[].content[].toolResult.content[].{form}",
            "mistral-tool-loop",
            why="Mistral's models read results as JSON alone: a text goes as a member of an object",
        )
        for form in ("json", "text")
    )
]
HEADERS = {
    "accept": "the driver says which of the two it wants, boto3 nothing",
    "authorization": "a signature of its moment: its parts are compared by themselves",
    "x-amz-date": "that moment",
}
_SIGNED = re.compile(r"(AWS4-HMAC-SHA256) Credential=([^/]+)/\d{8}/(\S+), SignedHeaders=(\S+), Signature=[0-9a-f]{64}")
PROBLEMS = {
    "fault-401": "ClientError",
    "fault-429": "ThrottlingException",
    "fault-quota": "ThrottlingException",
    "fault-500": "InternalServerException",
    "fault-503": "ServiceUnavailableException",
    "fault-529": "ModelNotReadyException",
    "fault-context": "ValidationException",
    "fault-no-model": "ValidationException",
}
"""boto3's class for each error of the simulator's."""
FAILING = [talk(model, whole(user("Hi"), model=model)) for model in PROBLEMS]


@pytest.fixture(scope="module")
def held() -> Held:
    return hold("bedrock", KIND, [*CONVERSATIONS, *FAILING])


@pytest.fixture
def auth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Auth:
    """With the keys and the region of the client."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    aws = AwsSettings(region="us-west-2")
    return open_auth(ProviderSettings(name="sdk", kind="bedrock", base_url="http://host", aws_bedrock=aws), "")


def driver() -> Bedrock:
    return driver_for("http://host")


def normal(body: Any) -> Any:
    """With the answer's schema, which the wire has as a string, as a value: the order of its members means nothing."""
    match body:
        case {"outputConfig": {"textFormat": {"structure": {"jsonSchema": {"schema": str(schema)} as described}}}}:
            described["schema"] = json.loads(schema)
    return body


@pytest.mark.parametrize("name", BY_NAME)
def test_our_requests_of_a_conversation_are_the_sdks(name: str, held: Held) -> None:
    for ours in check_bodies(BY_NAME[name], driver(), held, DELIBERATE, normal):
        assert ours.notices == ()


async def test_our_headers_are_the_sdks(held: Held, auth: Auth) -> None:
    signed = {item.name: await auth.sign(driver().build_request(item.turn)) for item in CONVERSATIONS}
    check_headers(signed, held, HEADERS, telemetry=("amz-sdk-",))


async def test_our_signature_is_made_as_the_sdks(held: Held, auth: Auth) -> None:
    ours = await auth.sign(driver().build_request(BY_NAME["plain"].turn))
    found = [
        _SIGNED.fullmatch(headers["authorization"]) for headers in (ours.headers, held.exchanged["plain"][0].headers)
    ]
    mine, theirs = (match.groups() if match else () for match in found)
    assert mine[:3] == theirs[:3] == ("AWS4-HMAC-SHA256", "AKIDEXAMPLE", "us-west-2/bedrock/aws4_request")
    assert set(mine[3].split(";")) >= set(theirs[3].split(";"))  # ours covers accept, too


@pytest.mark.parametrize("name", BY_NAME)
def test_the_sdk_reads_the_simulators_answers(name: str, held: Held) -> None:
    check_answers(BY_NAME[name], driver(), held)


@pytest.mark.parametrize("model", PROBLEMS)
def test_the_sdk_knows_the_simulators_errors(model: str, held: Held) -> None:
    (said,) = held.said[model]
    assert said["error"] == PROBLEMS[model], said


def test_every_difference_is_of_a_conversation() -> None:
    check_table(DELIBERATE, CONVERSATIONS)

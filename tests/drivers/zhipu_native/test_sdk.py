"""What leaves for a conversation is what Zhipu's own SDKs send for it, and they read the simulator's answers.

There are two, `zhipuai` and its successor `zai-sdk`, whose pins exclude one another: each in its own environment. How
they and ours are held: tests/drivers/sdks.py. Both take a plain http base URL as it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.auth import open_auth
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.turn import Document, Image, NamedTool, Tool, Turn, assistant, system, user
from loopforge.drivers.wire import Auth
from loopforge.drivers.zhipu_native import ZhipuNative
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
)
from tests.drivers.zhipu_native.asking import KIND, VISION, ask, driver_for
from tests.drivers.zhipu_native.recorded_turns import same_meaning

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef0123456789abcdef.SecretSecret1234"
SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string"}, "closely": {"type": "boolean"}},
    "required": ["at", "closely"],
}
LOOK = Tool(name="look", description="Look at it.", parameters=SCHEMA)
POINT = Tool(name="point", description="Point at it.")
LOOK_WIRE = {"type": "function", "function": {"name": "look", "description": "Look at it.", "parameters": SCHEMA}}
POINT_WIRE = {
    "type": "function",
    "function": {
        "name": "point",
        "description": "Point at it.",
        "parameters": {"type": "object", "properties": {}},
    },
}
TOOLS = [LOOK_WIRE, POINT_WIRE]
CALLS = replace(
    SHORT,
    tool_calls=(ScriptedCall(name="look", arguments={"at": "é\n", "closely": True}), ScriptedCall(name="point")),
)
RESULTS = {"look": "a tree", "point": "nothing there"}
HI = [{"role": "user", "content": "Hi"}]


def whole(*messages: Any, **members: Any) -> Turn:
    return ask(*messages, stream=False, **members)


def talk(
    name: str, turn: Turn, *, how: str = "", profile: Profile = SHORT, messages: Any = None, **asked: Any
) -> Conversation:
    """One with a greeting where there are no messages. `asked`: the SDKs' arguments, and members of Conversation."""
    members = {member: asked.pop(member) for member in ("results", "failing", "then") if member in asked}
    return Conversation(
        name=name,
        how=how or ("stream" if turn.stream else "whole"),
        asked={"model": turn.model, "messages": messages or HI, **asked},
        turn=turn,
        profile=profile,
        **members,
    )


CONVERSATIONS = [
    talk("plain", whole(user("Hi"))),
    talk("streamed", ask(user("Hi"))),
    talk("signed", whole(user("Hi")), how="signed", profile=replace(SHORT, api_key=KEY)),
    talk(
        "sampling",
        whole(system("Be kind."), user("Hi"), temperature=0.5, top_p=0.9, max_output_tokens=50, stop=("zzz",)),
        messages=[{"role": "system", "content": "Be kind."}, *HI],
        temperature=0.5,
        top_p=0.9,
        max_tokens=50,
        stop=["zzz"],
    ),
    talk(
        "ends-of-the-range",
        whole(user("Hi"), temperature=1.0, top_p=1.0),
        temperature=1.0,
        top_p=1.0,
    ),
    talk(
        "media",
        whole(
            user("What?", Image(data=b"\x89PNG", media_type="image/png"), Image(url="https://example.com/a.png")),
            model=VISION,
        ),
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What?"},
                    {"type": "image_url", "image_url": {"url": "iVBORw=="}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                ],
            }
        ],
    ),
    talk(
        "file",
        whole(user("What?", Document(url="https://example.com/a.pdf")), model=VISION),
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What?"},
                    {"type": "file_url", "file_url": {"url": "https://example.com/a.pdf"}},
                ],
            }
        ],
    ),
    talk(
        "tool-loop",
        whole(user("Hi"), tools=(LOOK, POINT)),
        profile=CALLS,
        tools=TOOLS,
        results=RESULTS,
        failing=("point",),
        then=["Again"],
    ),
    talk(
        "streamed-tool-loop",
        ask(user("Hi"), tools=(LOOK, POINT)),
        profile=CALLS,
        tools=TOOLS,
        results=RESULTS,
        then=["Again"],
    ),
    talk(
        "tool-stream",
        ask(user("Hi"), tools=(LOOK, POINT)),
        profile=CALLS,
        tools=TOOLS,
        results=RESULTS,
        extra_body={"tool_stream": True},
    ),
    talk(
        "thinking-loop",
        ask(user("Hi"), tools=(LOOK, POINT), thinking="high", model="glm-5.2"),
        profile=replace(CALLS, thinking_tokens=9),
        tools=TOOLS,
        thinking={"type": "enabled"},
        extra_body={"tool_stream": True, "reasoning_effort": "high"},
        results=RESULTS,
        then=["And?"],
    ),
    talk("no-thinking", whole(user("Hi"), thinking="off"), thinking={"type": "disabled"}),
    talk(
        "forced",
        whole(user("Hi"), tools=(LOOK, POINT), tool_choice=NamedTool(name="look")),
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "look"}},
        results=RESULTS,
    ),
    talk(
        "no-call",
        whole(user("Hi"), tools=(LOOK, POINT), tool_choice="none"),
        profile=CALLS,
    ),
    talk(
        "json",
        whole(user("As JSON"), output="json"),
        messages=[{"role": "user", "content": "As JSON"}],
        response_format={"type": "json_object"},
    ),
    talk(
        "history",
        whole(user("Hi"), assistant("Hello"), user("And?")),
        messages=[*HI, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?"}],
    ),
    talk("chat", ask(user("Hi")), then=["And?", "And then?"]),
]
BY_NAME = {conversation.name: conversation for conversation in CONVERSATIONS}
DELIBERATE = [
    *(
        differs(name, "ends-of-the-range", why="the service takes both ends of the range, the SDKs avoid them")
        for name in ("temperature", "top_p")
    ),
    differs(
        "tool_stream",
        "streamed-tool-loop",
        why="arguments in pieces, as on all wires, for models that can: the SDKs leave it to be asked for",
    ),
    differs(
        "messages[].tool_calls[].index",
        "tool-loop",
        "forced",
        "streamed-tool-loop",
        "tool-stream",
        "thinking-loop",
        why="what answers number calls by: not documented in requests",
    ),
    differs(
        "messages[].content",
        "tool-loop",
        "streamed-tool-loop",
        "thinking-loop",
        "chat",
        why="the line feeds that an answer begins with are no part of it",
    ),
    differs(
        "messages[].reasoning_content",
        "thinking-loop",
        why="reasoning goes back within its tool loop alone, unless clear_thinking says otherwise",
    ),
]
HEADERS = {
    "accept": "the driver says which of the two it wants, for gateways that go by it",
    "accept-language": "the driver asks for errors in English",
    "authorization": "the key itself, with no token cached: a token of it is what the driver signs in any case",
    "content-type": "without the SDK's charset: JSON is UTF-8",
}
PROBLEMS = {
    "fault-401": "APIAuthenticationError",
    "fault-429": "APIReachLimitError",
    "fault-quota": "APIReachLimitError",
    "fault-500": "APIInternalError",
    "fault-503": "APIServerFlowExceedError",
    "fault-529": "APIReachLimitError",
    "fault-context": "APIRequestFailedError",
    "fault-no-model": "APIRequestFailedError",
}
"""The SDKs' class for each error of the simulator's."""
FAILING = [talk(model, whole(user("Hi"), model=model)) for model in PROBLEMS]


@pytest.fixture(scope="module", params=["zhipuai", "zai"])
def held(request: pytest.FixtureRequest) -> Held:
    return hold(request.param, KIND, [*CONVERSATIONS, *FAILING], client="zhipu")


def driver() -> ZhipuNative:
    return driver_for("http://host/api/paas/v4")


def auth() -> Auth:
    return open_auth(ProviderSettings(name="sdk", kind="zhipu_native", api_key_env="KEY"), KEY)


@pytest.mark.parametrize("name", BY_NAME)
def test_our_requests_of_a_conversation_are_the_sdks(name: str, held: Held) -> None:
    for ours in check_bodies(BY_NAME[name], driver(), held, DELIBERATE, same_meaning):
        assert all("does not promise" in notice for notice in ours.notices)


async def test_our_headers_are_the_sdks(held: Held) -> None:
    signed = {item.name: await auth().sign(driver().build_request(item.turn)) for item in CONVERSATIONS}
    telemetry = ("zhipuai-sdk-ver", "zai-sdk-ver", "source_type", "x-request-sdk", "x-source-channel")
    check_headers(signed, held, HEADERS, telemetry)


async def test_our_token_is_signed_as_the_sdks(held: Held) -> None:
    ours = await auth().sign(driver().build_request(BY_NAME["signed"].turn))
    mine, theirs = (token_of(headers) for headers in (ours.headers, held.exchanged["signed"][0].headers))
    assert mine[0] == theirs[0] == {"alg": "HS256", "sign_type": "SIGN", "typ": "JWT"}
    assert mine[1].keys() == theirs[1].keys() == {"api_key", "exp", "timestamp"}
    assert mine[1]["api_key"] == theirs[1]["api_key"]
    assert mine[1]["exp"] - mine[1]["timestamp"] == theirs[1]["exp"] - theirs[1]["timestamp"]


def token_of(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Header and claims."""
    scheme, _, token = headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_sdks_read_the_simulators_answers(name: str, held: Held) -> None:
    check_answers(BY_NAME[name], driver(), held, text=lambda text: text.lstrip("\n"))


@pytest.mark.parametrize("model", PROBLEMS)
def test_the_sdks_know_the_simulators_errors(model: str, held: Held) -> None:
    (said,) = held.said[model]
    assert said["error"] == PROBLEMS[model], said


def test_every_difference_is_of_a_conversation() -> None:
    check_table(DELIBERATE, CONVERSATIONS)

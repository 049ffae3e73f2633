"""What leaves for a conversation is what DashScope's own SDK sends for it, and that SDK reads the simulator's answers.

How both are held: tests/drivers/sdks.py. The SDK takes a plain http address in `dashscope.base_http_api_url`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.auth import open_auth
from loopforge.drivers.dashscope_native import DashScopeNative
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.turn import Image, JsonSchema, NamedTool, Tool, Turn, assistant, system, user
from tests.drivers.dashscope_native.asking import KIND, VISION, ask, driver_for
from tests.drivers.dashscope_native.recorded_turns import same_meaning
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

pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string"}, "closely": {"type": "boolean"}},
    "required": ["at", "closely"],
}
LOOK = Tool(name="look", description="Look at it.", parameters=SCHEMA)
POINT = Tool(name="point")
LOOK_WIRE = {"type": "function", "function": {"name": "look", "description": "Look at it.", "parameters": SCHEMA}}
POINT_WIRE = {"type": "function", "function": {"name": "point", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [LOOK_WIRE, POINT_WIRE]
CALLS = replace(
    SHORT,
    tool_calls=(ScriptedCall(name="look", arguments={"at": "é\n", "closely": True}), ScriptedCall(name="point")),
)
RESULTS = {"look": "a tree", "point": "nothing there"}
HI = [{"role": "user", "content": "Hi"}]
PNG = "data:image/png;base64,iVBORw=="


def whole(*messages: Any, **members: Any) -> Turn:
    return ask(*messages, stream=False, **members)


def talk(
    name: str, turn: Turn, *, how: str = "", profile: Profile = SHORT, messages: Any = None, **asked: Any
) -> Conversation:
    """One with a greeting where there are no messages. `asked`: the SDK's arguments, and members of Conversation."""
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
    talk("merged", ask(user("Hi")), how="merged", then=["And?"]),
    talk("grown", ask(user("Hi")), how="grown", then=["And?"]),
    talk(
        "sampling",
        whole(system("Be kind."), user("Hi"), temperature=0.5, top_p=0.9, max_output_tokens=50, stop=("zzz",), seed=7),
        messages=[{"role": "system", "content": "Be kind."}, *HI],
        temperature=0.5,
        top_p=0.9,
        max_tokens=50,
        stop=["zzz"],
        seed=7,
    ),
    talk(
        "media",
        whole(
            user("What?", Image(data=b"\x89PNG", media_type="image/png"), Image(url="https://example.com/a.png")),
            model=VISION,
        ),
        multimodal=True,
        messages=[
            {"role": "user", "content": [{"text": "What?"}, {"image": PNG}, {"image": "https://example.com/a.png"}]}
        ],
    ),
    talk(
        "streamed-media",
        ask(user("What?", Image(url="https://example.com/a.png")), model=VISION),
        multimodal=True,
        messages=[{"role": "user", "content": [{"text": "What?"}, {"image": "https://example.com/a.png"}]}],
        then=["And?"],
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
        ask(user("Hi"), tools=(LOOK, POINT), parallel_tool_calls=True),
        profile=CALLS,
        tools=TOOLS,
        parallel_tool_calls=True,
        results=RESULTS,
        then=["Again"],
    ),
    talk(
        "merged-tool-loop",
        ask(user("Hi"), tools=(LOOK, POINT)),
        how="merged",
        profile=CALLS,
        tools=TOOLS,
        results=RESULTS,
    ),
    talk(
        "thinking-loop",
        ask(user("Hi"), tools=(LOOK, POINT), thinking=2000),
        profile=replace(CALLS, thinking_tokens=9),
        tools=TOOLS,
        enable_thinking=True,
        thinking_budget=2000,
        results=RESULTS,
        then=["And?"],
    ),
    talk("no-thinking", whole(user("Hi"), thinking="off"), enable_thinking=False),
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
        tools=TOOLS,
        tool_choice="none",
    ),
    talk(
        "json",
        whole(user("As JSON"), output="json"),
        messages=[{"role": "user", "content": "As JSON"}],
        response_format={"type": "json_object"},
    ),
    talk(
        "schema",
        whole(user("Hi"), output=JsonSchema(schema=SCHEMA)),
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
    ),
    talk(
        "history",
        whole(user("Hi"), assistant("Hello"), user("And?")),
        messages=[*HI, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?"}],
    ),
    talk(
        "prefill",
        whole(user("Hi"), assistant("Well,")),
        messages=[*HI, {"role": "assistant", "content": "Well,", "partial": True}],
    ),
    talk("chat", ask(user("Hi")), then=["And?", "And then?"]),
]
BY_NAME = {conversation.name: conversation for conversation in CONVERSATIONS}
DELIBERATE = [
    differs(
        "parameters.incremental_output",
        "grown",
        why="the form of old, in which each frame repeats all before it: asked for by leaving this out, and read alike",
    ),
    differs(
        "input.messages[].reasoning_content",
        "thinking-loop",
        why="this model does not read its earlier reasoning, which counts as input all the same",
    ),
]
HEADERS = {
    "accept": "without the SDK's charset: JSON and event streams are UTF-8",
    "content-type": "without the SDK's charset: JSON is UTF-8",
    "x-accel-buffering": "what a server tells a proxy before it; in a request it tells nobody anything",
}
PROBLEMS = {
    "fault-401": "401 InvalidApiKey",
    "fault-429": "429 Throttling.RateQuota",
    "fault-quota": "400 Arrearage",
    "fault-500": "500 InternalError",
    "fault-503": "503 ModelUnavailable",
    "fault-529": "503 ModelServingError",
    "fault-context": "400 InvalidParameter",
    "fault-no-model": "404 ModelNotFound",
}
"""Status and code of each error of the simulator's, as the SDK tells them."""
FAILING = [
    *(talk(model, whole(user("Hi"), model=model)) for model in PROBLEMS),
    *(talk(f"streamed-{model}", ask(user("Hi"), model=model)) for model in PROBLEMS),
]


@pytest.fixture(scope="module")
def held() -> Held:
    return hold("dashscope", KIND, [*CONVERSATIONS, *FAILING])


def driver() -> DashScopeNative:
    return driver_for("http://host/api/v1")


@pytest.mark.parametrize("name", BY_NAME)
def test_our_requests_of_a_conversation_are_the_sdks(name: str, held: Held) -> None:
    for ours in check_bodies(BY_NAME[name], driver(), held, DELIBERATE, same_meaning):
        assert ours.notices == ()


async def test_our_headers_are_the_sdks(held: Held) -> None:
    auth = open_auth(ProviderSettings(name="sdk", kind="dashscope_native", api_key_env="KEY"), "key")
    signed = {item.name: await auth.sign(driver().build_request(item.turn)) for item in CONVERSATIONS}
    check_headers(signed, held, HEADERS, telemetry=("x-dashscope-sdk-",))


@pytest.mark.parametrize("name", BY_NAME)
def test_the_sdk_reads_the_simulators_answers(name: str, held: Held) -> None:
    check_answers(BY_NAME[name], driver(), held)


@pytest.mark.parametrize("name", [conversation.name for conversation in FAILING])
def test_the_sdk_tells_the_simulators_errors(name: str, held: Held) -> None:
    (said,) = held.said[name]
    assert said["words"].partition(":")[0] == PROBLEMS[name.removeprefix("streamed-")], said


def test_every_difference_is_of_a_conversation() -> None:
    check_table(DELIBERATE, CONVERSATIONS)

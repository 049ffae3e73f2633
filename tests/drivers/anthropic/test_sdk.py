"""What leaves for a conversation is what Anthropic's own SDK sends for it, and that SDK reads the simulator's answers.

How both are held: tests/drivers/sdks.py. The SDK takes a plain http base URL as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.anthropic import Anthropic
from loopforge.drivers.anthropic.profiles import VERSION
from loopforge.drivers.auth import open_auth
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.turn import (
    Document,
    Image,
    JsonSchema,
    NamedTool,
    Text,
    Tool,
    Turn,
    assistant,
    system,
    user,
)
from tests.drivers.anthropic.asking import KIND, ask, driver_for
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

MODEL = "claude-sonnet-4-5"
EFFORT_MODEL = "claude-opus-4-7"
SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string"}, "closely": {"type": "boolean"}},
    "required": ["at", "closely"],
    "additionalProperties": False,
}
LOOK = Tool(name="look", description="Look at it.", parameters=SCHEMA)
LOOK_WIRE = {"name": "look", "description": "Look at it.", "input_schema": SCHEMA}
POINT = Tool(name="point")
POINT_WIRE = {"name": "point", "input_schema": {"type": "object", "properties": {}}}
CALLS = replace(
    SHORT,
    tool_calls=(ScriptedCall(name="look", arguments={"at": "é\n", "closely": True}), ScriptedCall(name="point")),
)
RESULTS = {"look": "a tree", "point": "nothing there"}
HI = [{"role": "user", "content": "Hi"}]
LIMIT = {"model": MODEL, "max_tokens": 100}


def whole(*messages: Any, model: str = MODEL, max_output_tokens: int = 100, **members: Any) -> Turn:
    return ask(*messages, model=model, max_output_tokens=max_output_tokens, stream=False, **members)


def streamed(*messages: Any, **members: Any) -> Turn:
    return replace(whole(*messages, **members), stream=True)


def talk(name: str, turn: Turn, *, how: str = "", profile: Profile = SHORT, **asked: Any) -> Conversation:
    """One with `asked` beside the model, the limit, and a greeting where there are no messages."""
    members = {member: asked.pop(member) for member in ("results", "failing", "then") if member in asked}
    return Conversation(
        name=name,
        how=how or ("stream" if turn.stream else "whole"),
        asked={**LIMIT, "messages": HI, **asked},
        turn=turn,
        profile=profile,
        **members,
    )


def marked(text: str, ttl: str = "") -> dict[str, Any]:
    mark = {"type": "ephemeral", "ttl": ttl} if ttl else {"type": "ephemeral"}
    return {"type": "text", "text": text, "cache_control": mark}


CONVERSATIONS = [
    talk("plain", whole(user("Hi"))),
    talk("streamed", streamed(user("Hi"))),
    talk(
        "sampling",
        whole(system("Be kind."), user("Hi"), temperature=0.5, stop=("zzz", "yyy")),
        system="Be kind.",
        extra_body={"temperature": 0.5},
        stop_sequences=["zzz", "yyy"],
    ),
    talk(
        "media",
        whole(
            user(
                "What?",
                Image(data=b"\x89PNG", media_type="image/png"),
                Image(url="https://example.com/a.png"),
                Document(data=b"%PDF", media_type="application/pdf", name="a.pdf"),
                Document(url="https://example.com/a.pdf"),
                Document(data=b"words", media_type="text/plain"),
            )
        ),
        messages=[{"role": "user", "content": [
            {"type": "text", "text": "What?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
            {"type": "document", "title": "a.pdf",
             "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}},
            {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
        ]}],
    ),
    talk(
        "tool-loop",
        whole(user("Look"), tools=(LOOK, POINT)),
        profile=CALLS,
        results=RESULTS,
        failing=("point",),
        messages=[{"role": "user", "content": "Look"}],
        tools=[LOOK_WIRE, POINT_WIRE],
        then=["Again"],
    ),
    talk(
        "streamed-tool-loop",
        streamed(user("Hi"), tools=(LOOK, POINT), tool_choice="required", parallel_tool_calls=False),
        profile=CALLS,
        results=RESULTS,
        tools=[LOOK_WIRE, POINT_WIRE],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    ),
    talk(
        "thinking-loop",
        whole(user("Hi"), tools=(LOOK, POINT), thinking=1024, max_output_tokens=4000),
        profile=replace(CALLS, thinking_tokens=9),
        results=RESULTS,
        tools=[LOOK_WIRE, POINT_WIRE],
        max_tokens=4000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        then=["And?"],
    ),
    talk(
        "streamed-thinking-loop",
        streamed(user("Hi"), tools=(LOOK, POINT), thinking=1024, max_output_tokens=4000),
        profile=replace(CALLS, thinking_tokens=9),
        results=RESULTS,
        tools=[LOOK_WIRE, POINT_WIRE],
        max_tokens=4000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        then=["And?"],
    ),
    talk(
        "effort",
        streamed(user("Hi"), thinking="high", model=EFFORT_MODEL),
        profile=replace(SHORT, thinking_tokens=9),
        model=EFFORT_MODEL,
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        then=["And?"],
    ),
    talk("no-thinking", whole(user("Hi"), thinking="off"), thinking={"type": "disabled"}),
    talk(
        "forced",
        whole(user("Hi"), tools=(LOOK, POINT), tool_choice=NamedTool(name="look")),
        results=RESULTS,
        tools=[LOOK_WIRE, POINT_WIRE],
        tool_choice={"type": "tool", "name": "look"},
    ),
    talk(
        "no-call",
        whole(user("Hi"), tools=(LOOK,), tool_choice="none"),
        tools=[LOOK_WIRE],
        tool_choice={"type": "none"},
        profile=CALLS,
    ),
    talk(
        "strict-tool",
        whole(user("Hi"), tools=(replace(LOOK, strict=True),)),
        tools=[{**LOOK_WIRE, "strict": True}],
    ),
    talk(
        "schema",
        whole(user("Hi"), output=JsonSchema(schema=SCHEMA)),
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    ),
    talk(
        "cache-marks",
        whole(
            replace(system("Be kind."), content=(Text(text="Be kind.", cache="1h"),)),
            user(Text(text="Long.", cache="5m"), "Hi"),
            tools=(replace(LOOK, cache="1h"),),
        ),
        system=[marked("Be kind.", "1h")],
        messages=[{"role": "user", "content": [marked("Long."), {"type": "text", "text": "Hi"}]}],
        tools=[{**LOOK_WIRE, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    ),
    talk(
        "prefill",
        whole(user("Hi"), assistant("Well,")),
        messages=[*HI, {"role": "assistant", "content": "Well,"}],
    ),
    talk("chat", streamed(user("Hi")), then=["And?", "And then?"]),
]  # fmt: skip
BY_NAME = {conversation.name: conversation for conversation in CONVERSATIONS}
NEWEST = "2026-10-21"
DELIBERATE = {
    VERSION: [],
    NEWEST: [differs("temperature", "sampling", why="this version refuses it; the SDK was made to send it")],
}
"""Bodies, by the version that requests are written for: that of the driver, and that of the SDK."""
HEADERS = {
    "anthropic-version": "the driver's is the one that all gateways know, and takes a temperature",
    "authorization": "the SDK of late sends the key as Bearer: gateways differ",
    "x-api-key": "where the driver sends it, as Anthropic's reference says",
    "accept": "the driver says which of the two it wants, for gateways that go by it",
}
PROBLEMS = {
    "fault-401": "AuthenticationError",
    "fault-429": "RateLimitError",
    "fault-quota": "EnforcedSpendLimitReachedError",
    "fault-500": "InternalServerError",
    "fault-503": "ServiceUnavailableError",
    "fault-529": "OverloadedError",
    "fault-context": "BadRequestError",
    "fault-no-model": "NotFoundError",
}
"""The SDK's class for each error of the simulator's."""
FAILING = [talk(model, whole(user("Hi"), model=model), model=model) for model in PROBLEMS]


@pytest.fixture(scope="module")
def held() -> Held:
    return hold("anthropic", KIND, [*CONVERSATIONS, *FAILING])


def driver() -> Anthropic:
    return driver_for(base_url="http://host")


def normal(body: Any) -> Any:
    """Without what every request does by itself, and one plain text as a string, which means the same."""
    if isinstance(body, list):
        return [normal(item) for item in body]
    if not isinstance(body, dict):
        return body
    kept = {name: normal(value) for name, value in body.items() if (name, value) != ("stream", False)}
    match kept.get("content"):
        case [{"type": "text", "text": str(text), **rest}] if not rest:
            kept["content"] = text
    return kept


@pytest.mark.parametrize("version", DELIBERATE)
@pytest.mark.parametrize("name", BY_NAME)
def test_our_requests_of_a_conversation_are_the_sdks(name: str, version: str, held: Held) -> None:
    written_for = driver_for(base_url="http://host", headers={"anthropic-version": version})
    for ours in check_bodies(BY_NAME[name], written_for, held, DELIBERATE[version], normal):
        assert bool(ours.notices) == any(name in item.names for item in DELIBERATE[version])


async def test_our_headers_are_the_sdks(held: Held) -> None:
    auth = open_auth(ProviderSettings(name="sdk", kind="anthropic", api_key_env="KEY"), "key")
    signed = {item.name: await auth.sign(driver().build_request(item.turn)) for item in CONVERSATIONS}
    check_headers(signed, held, HEADERS, telemetry=("x-stainless-",))


@pytest.mark.parametrize("name", BY_NAME)
def test_the_sdk_reads_the_simulators_answers(name: str, held: Held) -> None:
    check_answers(BY_NAME[name], driver(), held)


@pytest.mark.parametrize("model", PROBLEMS)
def test_the_sdk_knows_the_simulators_errors(model: str, held: Held) -> None:
    (said,) = held.said[model]
    assert said["error"] == PROBLEMS[model], said


def test_every_difference_is_of_a_conversation() -> None:
    for deliberate in DELIBERATE.values():
        check_table(deliberate, CONVERSATIONS)

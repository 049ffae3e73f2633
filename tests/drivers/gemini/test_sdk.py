"""What leaves for a conversation is what Google's own SDK sends for it, and that SDK reads the simulator's answers.

How both are held: tests/drivers/sdks.py. The SDK takes a plain http base URL as it is, and retries nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from loopforge.drivers.auth import open_auth
from loopforge.drivers.gemini import Gemini
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.turn import Audio, Document, Image, JsonSchema, NamedTool, Tool, Turn, assistant, system, user
from tests.drivers.gemini.asking import FLASH_2, FLASH_2_5, KIND, ask, driver_for
from tests.drivers.gemini.recorded_turns import camel
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
}
LOOK = Tool(name="look", description="Look at it.", parameters=SCHEMA)
POINT = Tool(name="point")
LOOK_WIRE = {"name": "look", "description": "Look at it.", "parameters_json_schema": SCHEMA}
POINT_WIRE = {"name": "point"}
TOOLS = [{"function_declarations": [LOOK_WIRE, POINT_WIRE]}]
CALLS = replace(
    SHORT,
    tool_calls=(ScriptedCall(name="look", arguments={"at": "é\n", "closely": True}), ScriptedCall(name="point")),
)
_STANDARD = str.maketrans("-_", "+/")
RESULTS = {"look": "a tree", "point": "nothing there"}
HI = [{"role": "user", "parts": [{"text": "Hi"}]}]


def whole(*messages: Any, **members: Any) -> Turn:
    return ask(*messages, stream=False, **members)


def talk(name: str, turn: Turn, *, profile: Profile = SHORT, contents: Any = None, **config: Any) -> Conversation:
    """One with a greeting where there are no contents. `config`: the SDK's, and members of Conversation."""
    members = {member: config.pop(member) for member in ("results", "failing", "then") if member in config}
    return Conversation(
        name=name,
        how="stream" if turn.stream else "whole",
        asked={"model": turn.model, "contents": contents or HI, "config": config},
        turn=turn,
        profile=profile,
        **members,
    )


CONVERSATIONS = [
    talk("plain", whole(user("Hi"))),
    talk("streamed", ask(user("Hi"))),
    talk(
        "sampling",
        whole(system("Be kind."), user("Hi"), temperature=0.5, top_p=0.9, max_output_tokens=50, stop=("zzz",), seed=7),
        system_instruction="Be kind.",
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=50,
        stop_sequences=["zzz"],
        seed=7,
    ),
    talk(
        "media",
        whole(
            user(
                "What?",
                Image(data=b"\x89PNG", media_type="image/png"),
                Image(url="https://example.com/a.png"),
                Document(data=b"%PDF", media_type="application/pdf"),
                Audio(data=b"RIFF", media_type="audio/wav"),
            )
        ),
        contents=[
            {
                "role": "user",
                "parts": [
                    {"text": "What?"},
                    {"inline_data": {"mime_type": "image/png", "data": plain_bytes(b"\x89PNG")}},
                    {"file_data": {"mime_type": "image/png", "file_uri": "https://example.com/a.png"}},
                    {"inline_data": {"mime_type": "application/pdf", "data": plain_bytes(b"%PDF")}},
                    {"inline_data": {"mime_type": "audio/wav", "data": plain_bytes(b"RIFF")}},
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
        ask(user("Hi"), tools=(LOOK, POINT), tool_choice="required"),
        profile=CALLS,
        tools=TOOLS,
        tool_config={"function_calling_config": {"mode": "ANY"}},
        results=RESULTS,
        then=["Again"],
    ),
    talk(
        "thinking-loop",
        ask(user("Hi"), tools=(LOOK, POINT), thinking="high"),
        profile=replace(CALLS, thinking_tokens=9),
        tools=TOOLS,
        thinking_config={"include_thoughts": True, "thinking_level": "HIGH"},
        results=RESULTS,
        then=["And?"],
    ),
    talk(
        "budget",
        whole(user("Hi"), thinking=2000, model=FLASH_2_5),
        profile=replace(SHORT, thinking_tokens=9),
        thinking_config={"include_thoughts": True, "thinking_budget": 2000},
        then=["And?"],
    ),
    talk("no-thinking", whole(user("Hi"), thinking="off", model=FLASH_2_5), thinking_config={"thinking_budget": 0}),
    talk(
        "forced",
        whole(user("Hi"), tools=(LOOK, POINT), tool_choice=NamedTool(name="look")),
        tools=TOOLS,
        tool_config={"function_calling_config": {"mode": "ANY", "allowed_function_names": ["look"]}},
        results=RESULTS,
    ),
    talk(
        "no-call",
        whole(user("Hi"), tools=(LOOK, POINT), tool_choice="none"),
        profile=CALLS,
        tools=TOOLS,
        tool_config={"function_calling_config": {"mode": "NONE"}},
    ),
    talk(
        "validated",
        whole(user("Hi"), tools=(replace(LOOK, strict=True), POINT)),
        profile=CALLS,
        tools=TOOLS,
        tool_config={"function_calling_config": {"mode": "VALIDATED"}},
        results=RESULTS,
    ),
    talk("json", whole(user("As JSON"), output="json"), contents=[{"role": "user", "parts": [{"text": "As JSON"}]}],
         response_mime_type="application/json"),
    talk(
        "schema",
        whole(user("Hi"), output=JsonSchema(schema=SCHEMA)),
        response_mime_type="application/json",
        response_json_schema=SCHEMA,
    ),
    talk(
        "old-schemas",
        whole(user("Hi"), model=FLASH_2, output=JsonSchema(schema=SCHEMA)),
        response_mime_type="application/json",
        response_schema=SCHEMA,
    ),
    talk(
        "history",
        whole(user("Hi"), assistant("Hello"), user("And?")),
        contents=[
            *HI,
            {"role": "model", "parts": [{"text": "Hello"}]},
            {"role": "user", "parts": [{"text": "And?"}]},
        ],
    ),
    talk("chat", ask(user("Hi")), then=["And?", "And then?"]),
]  # fmt: skip
BY_NAME = {conversation.name: conversation for conversation in CONVERSATIONS}
DELIBERATE = [
    differs(
        "contents[].parts",
        "thinking-loop",
        "budget",
        why="a summary of thoughts without a signature is nothing to the model: the driver leaves it out",
    ),
    differs("systemInstruction.role", "sampling", why="the reference gives it no role; the SDK writes one"),
    differs(
        "generationConfig.responseSchema.property_ordering",
        "old-schemas",
        why="the members stand in the schema's own order, which is what the model is shown without it",
    ),
]
HEADERS = {
    "accept": "the driver says which of the two it wants, for gateways that go by it",
}
PROBLEMS = {
    "fault-401": ("ClientError", "400 INVALID_ARGUMENT"),
    "fault-429": ("ClientError", "429 RESOURCE_EXHAUSTED"),
    "fault-quota": ("ClientError", "429 RESOURCE_EXHAUSTED"),
    "fault-500": ("ServerError", "500 INTERNAL"),
    "fault-503": ("ServerError", "503 UNAVAILABLE"),
    "fault-context": ("ClientError", "400 INVALID_ARGUMENT"),
    "fault-no-model": ("ClientError", "404 NOT_FOUND"),
}
"""The SDK's class and words for each error of the simulator's."""
FAILING = [talk(model, whole(user("Hi"), model=model)) for model in PROBLEMS]


@pytest.fixture(scope="module")
def held() -> Held:
    return hold("gemini", KIND, [*CONVERSATIONS, *FAILING])


def driver() -> Gemini:
    return driver_for("http://host/v1")  # that the SDK asks for by itself


def normal(body: Any) -> Any:
    """In the spelling of the reference, and without what says nothing: an empty generationConfig.

    Signatures are bytes: in either alphabet of base64. Texts of one kind that follow each other are one: those of a
    stream's chunks, which a turn holds joined.
    """
    kept = {name: value for name, value in camel(body).items() if value}
    for content in kept["contents"]:
        content["parts"] = list(_joined(content["parts"]))
    return kept


def _joined(parts: list[Any]) -> Iterator[Any]:
    text = ""
    for part in parts:
        if part.keys() == {"text"}:
            text += part["text"]
            continue
        if text:
            yield {"text": text}
            text = ""
        if signature := part.get("thoughtSignature"):
            yield {**part, "thoughtSignature": signature.translate(_STANDARD)}
        else:
            yield part
    if text:
        yield {"text": text}


@pytest.mark.parametrize("name", BY_NAME)
def test_our_requests_of_a_conversation_are_the_sdks(name: str, held: Held) -> None:
    for ours in check_bodies(BY_NAME[name], driver(), held, DELIBERATE, normal):
        assert ours.notices == ()


async def test_our_headers_are_the_sdks(held: Held) -> None:
    auth = open_auth(ProviderSettings(name="sdk", kind="gemini", api_key_env="KEY"), "key")
    signed = {item.name: await auth.sign(driver().build_request(item.turn)) for item in CONVERSATIONS}
    check_headers(signed, held, HEADERS, telemetry=("x-goog-api-client",))


@pytest.mark.parametrize("name", BY_NAME)
def test_the_sdk_reads_the_simulators_answers(name: str, held: Held) -> None:
    check_answers(BY_NAME[name], driver(), held)


@pytest.mark.parametrize("model", PROBLEMS)
def test_the_sdk_knows_the_simulators_errors(model: str, held: Held) -> None:
    (said,) = held.said[model]
    assert (said["error"], said["words"].split(".")[0]) == PROBLEMS[model], said


def test_every_difference_is_of_a_conversation() -> None:
    check_table(DELIBERATE, CONVERSATIONS)

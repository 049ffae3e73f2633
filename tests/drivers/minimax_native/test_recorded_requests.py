"""What the driver writes for the turn behind each request of an SDK, against what that SDK sends for it.

Members that are null equal absent ones. What is different on purpose is named, and has to be different.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.turn import Image, Message, Part, Text, Thinking, Tool, ToolCall, ToolResult, Turn
from tests.drivers.exchanges import sdk_requests
from tests.drivers.minimax_native.asking import KIND, M3, ask, driver_for, opaque
from tests.recorded import MISSING

Json = dict[str, Any]

REFUSED = {"image_base64": "M2.5 takes text alone; the SDK sends the image all the same"}
"""Scenarios that are not sent, with the reason."""
DIFFERENT = {
    "reasoning_split": "asked for by the vendor's page; the older clients leave thinking in the text",
    "stream": "always said",
    "stream_options": "usage is always asked for",
    "tool_choice": "auto is said where tools are, as one client of three does",
    "defaults": "langchain sends token limit, temperature and top_p of its own",
    "parameters as text": "the form of the oldest models, which langchain still sends",
    "names of results": "langchain names the tool of a result, which the page does not know",
    "thinking": "the older clients drop it; the vendor's own agent sends it, as the driver does",
}
"""What the driver sends and an SDK does not, or the other way round, with the reason."""

each_request = pytest.mark.parametrize(
    "line",
    sdk_requests(KIND) or [pytest.param(None, marks=pytest.mark.skip(reason=MISSING))],
    ids=lambda line: f"{line['sdk']} {line['scenario']}" if line else "none",
)


def turn_of(line: Mapping[str, Any], *, model: str = "") -> Turn:
    told = line["turn"]
    model = model or told["model"]
    messages = [Message(role="system", content=(Text(text=told["system"]),))] if told["system"] else []
    for item in told["messages"]:
        content: list[Part] = [_part(part) for part in item["content"]]
        if "reasoning" in item:  # as the reader marks what came in its text field alone
            content.insert(0, Thinking(text=item["reasoning"], opaque=opaque(model=model, form="text")))
        for call in item.get("tool_calls", ()):
            arguments = json.dumps(call["arguments"])
            content.append(ToolCall(id=call["id"], name=call["name"], arguments=arguments, parsed=call["arguments"]))
        if item["role"] == "tool":
            texts = tuple(part for part in content if isinstance(part, Text))
            content = [ToolResult(call_id=item["tool_call_id"], name=item["name"], content=texts)]
        messages.append(Message(role=item["role"], content=tuple(content)))
    tools = tuple(Tool(**tool) for tool in told["tools"])
    options = told["options"]
    return ask(
        *messages,
        model=model,
        tools=tools,
        stream=bool(options.get("stream")),
        parallel_tool_calls=options.get("parallel_tool_calls"),
    )


def _part(part: Json) -> Part:
    if part["type"] == "image":
        return Image(data=base64.b64decode(part["data"]), media_type=part["media_type"])
    return Text(text=part["text"])


def compared(sent: Json, written: Json) -> tuple[Json, Json, set[str]]:
    """Both bodies without what differs on purpose, and which of those differences there were."""
    seen: set[str] = set()
    sent, written = _without_null(sent), _without_null(written)
    for name in ("reasoning_split", "stream", "stream_options", "tool_choice"):
        if sent.get(name) != written.get(name):
            seen.add(name)
            sent.pop(name, None)
            written.pop(name, None)
    for name in ("max_tokens", "temperature", "top_p"):
        if name in sent and name not in written:
            seen.add("defaults")
            del sent[name]
    for tool in sent.get("tools", ()):
        if isinstance(parameters := tool["function"]["parameters"], str):
            seen.add("parameters as text")
            tool["function"]["parameters"] = json.loads(parameters)
    for mine, theirs in zip(written["messages"], sent["messages"], strict=True):
        theirs.setdefault("content", "")
        if theirs["role"] == "tool" and theirs.pop("name", None):
            seen.add("names of results")
        if "reasoning_details" in mine and "reasoning_details" not in theirs:
            seen.add("thinking")
            del mine["reasoning_details"]
    return sent, written, seen


def _without_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_null(item) for name, item in value.items() if item is not None}


@each_request
def test_the_request_for_a_turn_is_what_an_sdk_sends_for_it(line: Mapping[str, Any]) -> None:
    driver = driver_for("https://api.minimax.io" + line["request"]["path"])
    if line["scenario"] in REFUSED:
        with pytest.raises(TurnRefused, match="takes no images"):
            driver.build_request(turn_of(line))
        turn = turn_of(line, model=M3)
        line = {**line, "request": {**line["request"], "json": {**line["request"]["json"], "model": M3}}}
    else:
        turn = turn_of(line)
    request = driver.build_request(turn)
    assert request.url == "https://api.minimax.io" + line["request"]["path"]
    sent, written, _ = compared(line["request"]["json"], json.loads(request.body))
    assert written == sent
    assert driver.notices(turn) == ()


@pytest.mark.skipif(not sdk_requests(KIND), reason=MISSING)
def test_every_difference_that_is_named_is_there() -> None:
    seen: set[str] = set()
    for line in sdk_requests(KIND):
        if line["scenario"] not in REFUSED:
            body = json.loads(driver_for().build_request(turn_of(line)).body)
            seen |= compared(line["request"]["json"], body)[2]
    assert seen | {"stream_options"} == DIFFERENT.keys()
    assert {line["scenario"] for line in sdk_requests(KIND)} >= REFUSED.keys()
    assert len(sdk_requests(KIND)) == 17

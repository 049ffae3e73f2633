"""The neutral turn behind a recorded request, and what two request bodies have in common whatever their form.

What has no neutral member (an effort of "max", clear_thinking, caller ids) goes through provider_options, as a person
would write it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from loopforge.drivers.turn import (
    Image,
    Message,
    NamedTool,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    assistant,
    system,
    user,
)
from tests.drivers.zhipu_native.asking import ask, opaque

Json = dict[str, Any]
_MEMBERS = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_output_tokens", "seed": "seed"}
_OPTIONS = ("thinking", "reasoning_effort", "request_id", "user_id", "stop", "do_sample")


def same_meaning(body: Mapping[str, Any]) -> Json:
    """The body without what says nothing: null members, stream_options, the defaults of stream and tool_choice."""
    kept = {name: value for name, value in body.items() if value is not None and name != "stream_options"}
    for name, default in (("stream", False), ("tool_choice", "auto")):
        if kept.get(name) == default:
            del kept[name]
    kept["messages"] = [_same_message(message) for message in kept["messages"]]
    for tool in kept.get("tools", []):
        if tool["function"].get("strict") is False:
            del tool["function"]["strict"]
    return kept


def _same_message(message: Json) -> Json:
    found = {name: value for name, value in message.items() if value is not None}
    if message["role"] == "assistant" and not message.get("content"):
        found["content"] = ""
    for call in found.get("tool_calls", []):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


# -- recorded request -> turn -----------------------------------------------------------------------------------------


def turn_of(body: Json) -> Turn:
    options = {name: body[name] for name in _OPTIONS if body.get(name) is not None}
    members = {member: body[name] for name, member in _MEMBERS.items() if body.get(name) is not None}
    choice = body.get("tool_choice") or "auto"
    return ask(
        *_messages(body["messages"], body["model"]),
        model=body["model"],
        tools=tuple(_tool(tool["function"]) for tool in body.get("tools") or ()),
        tool_choice=NamedTool(name=choice["function"]["name"]) if isinstance(choice, dict) else choice,
        stream=bool(body.get("stream")),
        provider_options={"zhipu_native": options} if options else {},
        **members,
    )


def _tool(function: Json) -> Tool:
    strict = function.get("strict")
    return Tool(
        name=function["name"], description=function["description"], parameters=function["parameters"], strict=strict
    )


def _messages(messages: list[Json], model: str) -> Iterator[Message]:
    due: list[str] = []
    for message in messages:
        content = message["content"]
        match message["role"]:
            case "system":
                yield system(content)
            case "user":
                yield user(content)
            case "assistant":
                calls = [_call(call) for call in message.get("tool_calls", ())]
                due = [call.id for call in calls]
                reasoning = message.get("reasoning_content")
                mine = opaque(model=model, field="reasoning_content")
                thinking = [Thinking(text=reasoning, opaque=mine)] if reasoning else []
                yield assistant(*thinking, content or "", *calls)
            case "tool":
                call_id = message.get("tool_call_id") or due[0]
                due.remove(call_id)
                yield Message(role="tool", content=(ToolResult(call_id=call_id, content=(Text(text=content),)),))


def _call(call: Json) -> ToolCall:
    function = call["function"]
    parsed = json.loads(function["arguments"])
    return ToolCall(id=call["id"], name=function["name"], arguments=function["arguments"], parsed=parsed)


# -- the recorder's neutral turn -> ours ------------------------------------------------------------------------------


def turn_of_scenario(line: Json) -> Turn:
    """The turn that the SDKs were given: the recorder's own form of it."""
    said, asked = line["turn"], line["request"]
    options = said["options"]
    thinking = options.get("thinking")
    response_format = options.get("response_format")
    more = {name: asked["json"][name] for name in ("request_id", "user_id") if name in asked["json"]}
    choice = options.get("tool_choice")
    return ask(
        *([system(said["system"])] if said["system"] else []),
        *(_said(message) for message in said["messages"]),
        model=said["model"],
        tools=tuple(Tool(**tool) for tool in said["tools"]),
        tool_choice=NamedTool(name=choice["name"]) if choice else "auto",
        temperature=options.get("temperature"),
        top_p=options.get("top_p"),
        parallel_tool_calls=options.get("parallel_tool_calls"),
        stream=options.get("stream", False),
        thinking=thinking["effort"] if thinking else None,
        output="json" if response_format else "text",
        provider_options={"zhipu_native": more} if more else {},
    )


def _said(message: Json) -> Message:
    parts: list[Part] = []
    for part in message["content"]:
        if part["type"] == "image":
            parts.append(Image(url=part["url"]))
        else:
            parts.append(Text(text=part["text"]))
    if message["role"] == "tool":
        texts = tuple(part for part in parts if isinstance(part, Text))
        result = ToolResult(call_id=message["tool_call_id"], name=message["name"], content=texts)
        return Message(role="tool", content=(result,))
    for call in message.get("tool_calls", ()):
        arguments = json.dumps(call["arguments"])
        parts.append(ToolCall(id=call["id"], name=call["name"], arguments=arguments, parsed=call["arguments"]))
    return Message(role=message["role"], content=tuple(parts))

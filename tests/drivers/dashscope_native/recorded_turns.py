"""The neutral turn behind a recorded request, and what two request bodies have in common whatever their form.

What has no neutral member (top_k, search, penalties) goes through provider_options, as a person would write it. What a
turn cannot say at all is named by NotNeutralError.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from loopforge.drivers.turn import (
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    system,
    user,
)
from tests.drivers.dashscope_native.asking import KIND, ask, opaque

Json = dict[str, Any]
_MEMBERS = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_output_tokens", "seed": "seed"}


class NotNeutralError(Exception):
    """The request holds what no turn can say."""


# -- a request as it was sent -> turn ---------------------------------------------------------------------------------


def turn_of(request: Mapping[str, Any]) -> Turn:
    """Raises NotNeutralError."""
    parameters = dict(request.get("parameters", {}))
    if "messages" not in request["input"]:
        raise NotNeutralError("a prompt without messages")
    options: Json = {}
    members: Json = {"stream": parameters.pop("incremental_output", None) is True}
    parameters.pop("result_format", None)
    if isinstance(stop := parameters.pop("stop", ()), str) or not any(isinstance(word, list) for word in stop):
        members["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    else:
        options["stop"] = stop
    members["tools"] = tuple(_tool(item["function"]) for item in parameters.pop("tools", ()))
    if isinstance(choice := parameters.pop("tool_choice", None), dict):
        members["tool_choice"] = NamedTool(name=choice["function"]["name"])
    for name, value in parameters.items():
        if name in _MEMBERS:
            members[_MEMBERS[name]] = value
        elif name == "parallel_tool_calls":
            members[name] = value
        elif name == "enable_thinking" and value is False:
            members["thinking"] = "off"
        else:
            options[name] = value
    provider_options = {KIND: {"parameters": options}} if options else {}
    messages = [_message(item) for item in request["input"]["messages"]]
    return ask(*messages, model=request["model"], provider_options=provider_options, **members)


def _message(wire: Json) -> Message:
    content = wire["content"]
    parts = [Text(text=content)] if isinstance(content, str) else [part for item in content for part in _parts(item)]
    match wire["role"]:
        case "tool":
            result = ToolResult(call_id=wire["tool_call_id"], name=wire.get("name", ""), content=tuple(parts))  # type: ignore[arg-type] # texts
            return Message(role="tool", content=(result,))
        case "assistant":
            calls = [_call(item) for item in wire.get("tool_calls", ())]
            return Message(role="assistant", content=(*parts, *calls))
    return Message(role=wire["role"], content=tuple(parts))


def _parts(wire: Json) -> Iterator[Part]:
    match wire:
        case {"type": "doc_url", "doc_url": list(urls), "file_parsing_strategy": "auto"}:
            yield from (Document(url=url) for url in urls)
        case {"text": str(text), **rest} if not rest or rest == {"type": "text"}:
            yield Text(text=text)
        case {"image": str(url), **rest} if not rest:
            yield Image(url=url)
        case _:
            raise NotNeutralError(f"a part with {sorted(wire)}")


def _call(wire: Json) -> ToolCall:
    function = wire["function"]
    parsed = json.loads(function["arguments"])
    return ToolCall(id=wire["id"], name=function["name"], arguments=function["arguments"], parsed=parsed)


def _tool(function: Json) -> Tool:
    description = function.get("description", "")
    return Tool(name=function["name"], description=description, parameters=function["parameters"])


# -- a neutral turn as the requests of SDKs name it -> turn -----------------------------------------------------------


def turn_named(named: Mapping[str, Any]) -> Turn:
    """The turn that an SDK was asked for."""
    options = dict(named["options"])
    members: Json = {neutral: options[name] for name, neutral in _MEMBERS.items() if name in options}
    members |= {"stream": options.get("stream", False), "stop": tuple(options.get("stop", ()))}
    if "parallel_tool_calls" in options:
        members["parallel_tool_calls"] = options["parallel_tool_calls"]
    thinking = options.get("thinking", {})
    if thinking:
        members["thinking"] = thinking.get("budget", thinking.get("effort", "high")) if thinking["enabled"] else "off"
    if thinking.get("preserve"):
        members["provider_options"] = {KIND: {"parameters": {"preserve_thinking": True}}}
    match options.get("response_format"):
        case {"type": "json_object"}:
            members["output"] = "json"
        case {"type": "json_schema", "name": name, "schema": schema, "strict": strict}:
            members["output"] = JsonSchema(name=name, schema=schema, strict=strict)
    messages = [system(named["system"])] if named["system"] else []
    messages += [_named_message(item, named["model"]) for item in named["messages"]]
    return ask(*messages, model=named["model"], tools=tuple(map(_tool, named["tools"])), **members)


def _named_message(named: Json, model: str) -> Message:
    parts = [
        Text(text=part["text"])
        if part["type"] == "text"
        else Image(data=base64.b64decode(part["data"]), media_type=part["media_type"])
        for part in named["content"]
    ]
    if named["role"] == "tool":
        result = ToolResult(call_id=named["tool_call_id"], content=tuple(parts))
        return Message(role="tool", content=(result,))
    if named["role"] == "user":
        return user(*parts)
    calls = [
        ToolCall(id=call["id"], name=call["name"], arguments=json.dumps(call["arguments"]), parsed=call["arguments"])
        for call in named.get("tool_calls", ())
    ]
    thinking = [Thinking(text=named["reasoning"], opaque=opaque(model=model))] if named.get("reasoning") else []
    return Message(role="assistant", content=(*thinking, *parts, *calls))


# -- what is compared -------------------------------------------------------------------------------------------------


def same_meaning(request: Mapping[str, Any]) -> Json:
    """The request without what says nothing: nulls, defaults, and the forms in which the same can be written."""
    body: Json = json.loads(json.dumps(request))
    parameters = {name: value for name, value in body.get("parameters", {}).items() if value is not None}
    parameters.pop("result_format", None)  # "message" always; on the multimodal path it says nothing
    if parameters.get("incremental_output") is False:
        del parameters["incremental_output"]
    if isinstance(parameters.get("stop"), str):
        parameters["stop"] = [parameters["stop"]]
    for message in body["input"].get("messages", ()):
        message.pop("name", None)
        message["content"] = message["content"] or ""
        for number, call in enumerate(message.get("tool_calls", ())):
            call.setdefault("index", number)
    return {**body, "parameters": parameters}

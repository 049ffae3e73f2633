"""A recorded request as the neutral turn that says the same, and request bodies in a form in which they compare.

The requests were sent by half a dozen clients and taken by the vendor: what the driver writes for the same turn has to
be the same, but for spellings that mean the same. `same_meaning` names every one of these.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from loopforge.drivers.turn import (
    CacheMark,
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    OpaquePart,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from tests.drivers.anthropic.asking import opaque
from tests.drivers.exchanges import PROVIDER, Exchange

Json = dict[str, Any]

_NEUTRAL = {
    "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "stop_sequences", "tools",
    "tool_choice", "thinking", "output_config", "output_format",
}  # fmt: skip
_TOOL_MEMBERS = {"name", "description", "input_schema", "strict", "cache_control", "type"}


def turn_of(exchange: Exchange) -> Turn:
    """What no neutral member can say goes as raw body fields, as a person would send it."""
    assert exchange.request is not None
    request = dict(exchange.request)
    raw = {name: value for name, value in request.items() if name not in _NEUTRAL}
    own_tools = all(set(tool) <= _TOOL_MEMBERS and "input_schema" in tool for tool in request.get("tools") or ())
    if not own_tools:
        raw["tools"] = request["tools"]
    choice = request.get("tool_choice") or {"type": "auto"}
    if not own_tools and "tool_choice" in request:
        raw["tool_choice"] = choice
        choice = {"type": "auto"}
    parallel = choice.get("disable_parallel_tool_use")
    thinking, raw_thinking = _thinking(request.get("thinking"))
    output = (request.get("output_config") or {}).get("format") or request.get("output_format")
    return Turn(
        kind="coding",
        provider=PROVIDER,
        model=request["model"],
        messages=(*_system(request.get("system")), *_messages(request["messages"], request["model"], exchange.vendor)),
        tools=tuple(_tool(tool) for tool in request.get("tools") or ()) if own_tools else (),
        tool_choice=_choice(choice),
        parallel_tool_calls=None if parallel is None else not parallel,
        output="text" if output is None else JsonSchema(schema=output["schema"]),
        max_output_tokens=request["max_tokens"],
        temperature=request.get("temperature"),
        top_p=request.get("top_p"),
        stop=tuple(request.get("stop_sequences") or ()),
        thinking=thinking,
        stream=bool(request.get("stream")),
        provider_options={"anthropic": raw | raw_thinking},
    )


def _thinking(asked: Json | None) -> tuple[Any, Json]:
    if asked is None:
        return None, {}
    if asked["type"] == "enabled" and asked.keys() == {"type", "budget_tokens"}:
        return asked["budget_tokens"], {}
    return ("off", {}) if asked == {"type": "disabled"} else (None, {"thinking": asked})


def _choice(choice: Json) -> Any:
    match choice:
        case {"type": "tool", "name": str(name)}:
            return NamedTool(name=name)
        case {"type": "any"}:
            return "required"
    return choice["type"]


def _tool(tool: Json) -> Tool:
    return Tool(
        name=tool["name"],
        description=tool.get("description") or "",
        parameters=tool["input_schema"],
        strict=tool.get("strict"),
        cache=_mark(tool),
    )


def _mark(block: Json) -> CacheMark:
    control = block.get("cache_control")
    return "" if control is None else control.get("ttl", "5m")


def _system(system: Any) -> Iterator[Message]:
    if system:
        blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
        yield Message(role="system", content=tuple(Text(text=block["text"], cache=_mark(block)) for block in blocks))


def _messages(messages: list[Json], model: str, vendor: str) -> Iterator[Message]:
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = tuple(_part(block, message["role"], model, vendor) for block in blocks)
        yield Message(role=message["role"], content=parts)


def _part(block: Json, role: str, model: str, vendor: str) -> Part:
    def kept(**members: Any) -> Any:
        return opaque(members, vendor=vendor, model=model)

    match block:
        case {"type": "text", "text": str(text), "citations": list(citations)} if role == "assistant" and citations:
            return Text(text=text, opaque=kept(citations=citations))
        case {"type": "text", "text": str(text)}:
            return Text(text=text, cache=_mark(block))
        case {"type": "image", "source": source}:
            return Image(cache=_mark(block), **_media(source))
        case {"type": "document", "source": source} if not block.get("citations"):
            return Document(cache=_mark(block), **_media(source))
        case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
            return Thinking(text=text, opaque=kept(signature=signature))
        case {"type": "tool_use", "id": call_id, "name": name, "input": given}:
            return ToolCall(id=call_id, name=name, parsed=given)
        case {"type": "tool_result"}:
            return _result(block, model, vendor)
    if role == "assistant":
        return OpaquePart(opaque=kept(**block))
    raise NotNeutralError(f"a {block['type']} block of a {role} message")


def _result(block: Json, model: str, vendor: str) -> ToolResult:
    content = block.get("content") or []
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts = [_part(inner, "user", model, vendor) for inner in blocks]
    return ToolResult(
        call_id=block["tool_use_id"],
        content=tuple(part for part in parts if isinstance(part, Text | Image | Document)),
        is_error=bool(block.get("is_error")),
        cache=_mark(block),
    )


def _media(source: Json) -> Json:
    match source:
        case {"type": "base64", "media_type": media_type, "data": data}:
            return {"media_type": media_type, "data": base64.b64decode(data)}
        case {"type": "text", "media_type": media_type, "data": data}:
            return {"media_type": media_type, "data": data.encode()}
        case {"type": "url", "url": url}:
            return {"url": url}
    raise NotNeutralError(f"media from a {source['type']}")


class NotNeutralError(Exception):
    """The request holds something that no neutral turn can say."""


# -- comparing --------------------------------------------------------------------------------------------------------


def same_meaning(body: Json) -> Json:
    """The body with one spelling of each thing that the wire lets a client spell in several ways."""
    body = {name: value for name, value in body.items() if value not in (None, [], "")}
    body.setdefault("stream", False)
    if body.get("tool_choice", {}).get("disable_parallel_tool_use") is False:
        body["tool_choice"] = {k: v for k, v in body["tool_choice"].items() if k != "disable_parallel_tool_use"}
    if body.get("tool_choice") == {"type": "auto"}:
        del body["tool_choice"]  # the default
    if "output_format" in body:  # the field's name while it was in beta
        body["output_config"] = {**body.get("output_config", {}), "format": body.pop("output_format")}
    if "format" in body.get("output_config", {}):
        wanted = body["output_config"]["format"]
        body["output_config"] = {**body["output_config"], "format": {**wanted, "schema": _closed(wanted["schema"])}}
    if "system" in body:
        body["system"] = _blocks(body["system"])
    if "tools" in body:
        body["tools"] = [_same_tool(tool) for tool in body["tools"]]
    messages: list[Json] = []
    for message in body["messages"]:
        blocks = _blocks(message["content"])
        if messages and messages[-1]["role"] == message["role"]:  # the vendor joins them, too
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": message["role"], "content": blocks})
    body["messages"] = messages
    return body


def _blocks(content: Any) -> list[Json]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return [_same_block(block) for block in blocks]


def _same_block(block: Json) -> Json:
    block = {name: value for name, value in block.items() if value not in (None, [], "")}
    if block["type"] == "tool_result":
        block["content"] = _blocks(block.get("content"))
        if block.get("is_error") is False:
            del block["is_error"]
    if block["type"] == "tool_use":
        block.pop("cache_control", None)  # no neutral call has a mark
    if block["type"] == "thinking":
        block.setdefault("thinking", "")
    if block["type"] == "document" and block["source"]["type"] == "text":
        block["source"] = {**block["source"], "media_type": "text/plain"}
    return _same_mark(block)


def _same_tool(tool: Json) -> Json:
    tool = {name: value for name, value in tool.items() if value not in (None, "")}
    if tool.get("type") == "custom":
        del tool["type"]
    if tool.get("strict") is False:
        del tool["strict"]
    if "input_schema" in tool:
        tool["input_schema"] = {"properties": {}, **tool["input_schema"]}
        if tool.get("strict"):
            tool["input_schema"] = _closed(tool["input_schema"])
    return _same_mark(tool)


def _same_mark(block: Json) -> Json:
    if "cache_control" in block:  # five minutes are the default
        block["cache_control"] = {k: v for k, v in block["cache_control"].items() if (k, v) != ("ttl", "5m")}
    return block


def _closed(schema: Any) -> Any:
    """Objects that are enforced are closed, whether or not a client says so."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _closed(value) for name, value in schema.items()}
    return {"additionalProperties": False, **schema} if schema.get("type") == "object" else schema

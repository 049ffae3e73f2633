"""A recorded request as the neutral turn that says the same, and request bodies in a form in which they compare.

The requests were sent by half a dozen clients and taken by the service: what the driver writes for the same turn has to
be the same, but for spellings that mean the same. `same_meaning` names every one of these.
"""

from __future__ import annotations

import base64
import json
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
from tests.drivers.bedrock.asking import opaque
from tests.drivers.exchanges import PROVIDER

Json = dict[str, Any]

_NEUTRAL = {"messages", "system", "inferenceConfig", "toolConfig", "outputConfig", "additionalModelRequestFields"}
_MEDIA_TYPES = {
    "pdf": "application/pdf", "txt": "text/plain", "csv": "text/csv", "html": "text/html", "md": "text/markdown",
}  # fmt: skip


class NotNeutralError(Exception):
    """The request holds something that no neutral turn can say."""


def turn_of(request: Json, model: str, *, stream: bool) -> Turn:
    """What no neutral member can say goes as raw body fields, as a person would send it."""
    raw = {name: value for name, value in request.items() if name not in _NEUTRAL}
    fields = dict(request.get("additionalModelRequestFields") or {})
    thinking = fields.pop("thinking", None)
    budget = thinking["budget_tokens"] if thinking else fields.pop("reasoning_config", None)
    if fields:
        raw["additionalModelRequestFields"] = fields
    inference = request.get("inferenceConfig") or {}
    config = request.get("toolConfig") or {}
    output = (request.get("outputConfig") or {}).get("textFormat", {}).get("structure", {}).get("jsonSchema")
    return Turn(
        kind="coding",
        provider=PROVIDER,
        model=model,
        messages=(*_system(request.get("system") or []), *_messages(request["messages"], model)),
        tools=tuple(_tool(tool["toolSpec"]) for tool in config.get("tools", ())),
        tool_choice=_choice(config.get("toolChoice") or {}),
        output="text" if output is None else JsonSchema(schema=json.loads(output["schema"]), name=output["name"]),
        max_output_tokens=inference.get("maxTokens"),
        temperature=inference.get("temperature"),
        top_p=inference.get("topP"),
        stop=tuple(inference.get("stopSequences") or ()),
        thinking=budget,
        stream=stream,
        provider_options={"bedrock": raw},
    )


def _choice(choice: Json) -> Any:
    if "tool" in choice:
        return NamedTool(name=choice["tool"]["name"])
    return "required" if "any" in choice else "auto"


def _tool(spec: Json) -> Tool:
    return Tool(
        name=spec["name"],
        description=spec.get("description") or "",
        parameters=spec["inputSchema"]["json"],
        strict=spec.get("strict"),
    )


def _marked(blocks: list[Json]) -> Iterator[tuple[Json, CacheMark]]:
    """The blocks but for cache points, each with the one that stands behind it."""
    for place, block in enumerate(blocks):
        if "cachePoint" in block:
            continue
        behind = blocks[place + 1] if place + 1 < len(blocks) else {}
        yield block, behind["cachePoint"].get("ttl", "5m") if "cachePoint" in behind else ""


def _system(blocks: list[Json]) -> Iterator[Message]:
    parts = tuple(Text(text=block["text"], cache=mark) for block, mark in _marked(blocks))
    if parts:
        yield Message(role="system", content=parts)


def _messages(messages: list[Json], model: str) -> Iterator[Message]:
    for message in messages:
        parts = tuple(_part(block, mark, message["role"], model) for block, mark in _marked(message["content"]))
        yield Message(role=message["role"], content=parts)


def _part(block: Json, mark: CacheMark, role: str, model: str) -> Part:
    match block:
        case {"text": str(text)}:
            return Text(text=text, cache=mark)
        case {"image": {"format": kind, "source": source}}:
            return Image(media_type=f"image/{kind}", cache=mark, **_source(source))
        case {"document": {"format": kind, "source": source, "name": name}}:
            return Document(media_type=_MEDIA_TYPES[kind], name=name, cache=mark, **_source(source))
        case {"toolUse": {"toolUseId": call_id, "name": name, "input": given}}:
            return ToolCall(id=call_id, name=name, parsed=given)
        case {"toolResult": result}:
            return _result(result)
        case {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}} if role == "assistant":
            return Thinking(text=text, opaque=opaque({"signature": signature}, model=model))
        case {"reasoningContent": {"redactedContent": data}} if role == "assistant":
            return OpaquePart(opaque=opaque({"redacted": data}, model=model))
    raise NotNeutralError(f"a block of {', '.join(block)}")


def _result(result: Json) -> ToolResult:
    parts: list[Text | Image | Document] = []
    for block in result["content"]:
        if "json" in block:
            parts.append(Text(text=json.dumps(block["json"])))
        else:
            part = _part(block, "", "user", "")
            assert isinstance(part, Text | Image | Document)
            parts.append(part)
    return ToolResult(call_id=result["toolUseId"], content=tuple(parts), is_error=result.get("status") == "error")


def _source(source: Json) -> Json:
    match source:
        case {"bytes": str(data)}:
            return {"data": base64.b64decode(data)}
        case {"s3Location": {"uri": uri}}:
            return {"url": uri}
    raise NotNeutralError(f"media from {', '.join(source)}")


# -- comparing --------------------------------------------------------------------------------------------------------


def same_meaning(body: Json) -> Json:
    """The body with one spelling of each thing that the wire lets a client spell in several ways."""
    body = {name: value for name, value in body.items() if value not in (None, [], {})}
    if "toolConfig" in body:
        config = body["toolConfig"]
        body["toolConfig"] = {name: value for name, value in config.items() if value != {"auto": {}}}  # the default
        body["toolConfig"]["tools"] = [_same_tool(tool) for tool in config["tools"]]
    if "outputConfig" in body:
        wanted = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
        body["outputConfig"] = {"schema": _closed(json.loads(wanted["schema"])), "name": wanted.get("name")}
    messages: list[Json] = []
    for message in body["messages"]:
        blocks = [_same_block(block) for block in message["content"]]
        if messages and messages[-1]["role"] == message["role"]:  # the service joins them, too
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": message["role"], "content": blocks})
    return {**body, "messages": messages}


def _same_block(block: Json) -> Json:
    if "toolResult" in block:
        result = dict(block["toolResult"])
        if result.get("status") == "success":  # the default
            del result["status"]
        return {"toolResult": {**result, "content": [_same_block(inner) for inner in result["content"]]}}
    if "json" in block:  # a tool's JSON is text to whoever called it, and to the model
        return {"text": json.dumps(block["json"])}
    if "document" in block:  # names only have to differ
        return {"document": {name: value for name, value in block["document"].items() if name != "name"}}
    return block


def _same_tool(tool: Json) -> Json:
    spec = {name: value for name, value in tool["toolSpec"].items() if value not in (None, "", False)}
    schema = {"properties": {}, **spec["inputSchema"]["json"]}
    return {"toolSpec": {**spec, "inputSchema": {"json": _closed(schema) if spec.get("strict") else schema}}}


def _closed(schema: Any) -> Any:
    """Objects that are enforced are closed, whether or not a client says so."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _closed(value) for name, value in schema.items()}
    return {"additionalProperties": False, **schema} if schema.get("type") == "object" else schema

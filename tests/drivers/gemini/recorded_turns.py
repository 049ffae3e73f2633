"""The neutral turn behind a recorded request, and what two request bodies have in common whatever their form.

What has no neutral member (safety settings, labels, candidate counts) goes through provider_options, as a person would
write it. What a turn cannot say at all is named by NotNeutralError.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    OpaquePart,
    Part,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from tests.drivers.gemini.asking import ask, opaque

Json = dict[str, Any]
GEMINI_2, GEMINI_3 = "gemini-2.5-flash", "gemini-3-flash-preview"
_SNAKE = re.compile(r"_([a-z])")
_AS_IT_IS = ("args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema")
_CONFIG = {"temperature": "temperature", "topP": "top_p", "maxOutputTokens": "max_output_tokens", "seed": "seed"}
_EFFORTS = ("low", "medium", "high")


class NotNeutralError(Exception):
    """The request holds what no turn can say."""


def camel(value: Any) -> Any:
    """The value with all names in camelCase, apart from what users named, and without null members."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {_SNAKE.sub(lambda found: found[1].upper(), name): item for name, item in value.items() if item is not None}
    return {name: item if name in _AS_IT_IS else camel(item) for name, item in named.items()}


# -- request -> turn --------------------------------------------------------------------------------------------------


def turn_of(request: Mapping[str, Any]) -> Turn:
    """Raises NotNeutralError."""
    body = camel(dict(request))
    model = _model(body)
    messages = [*_system(body.pop("systemInstruction", {})), *_messages(body.pop("contents"), model)]
    options: Json = {}
    members: Json = {}
    _read_config(body.pop("generationConfig", {}), members, options)
    tools, others, strict = [], [], _mode(body) == "VALIDATED"
    for tool in body.pop("tools", []):
        tools += [_tool(item, strict=strict) for item in tool.pop("functionDeclarations", [])]
        others += [tool] if tool else []
    choice = _choice(body.pop("toolConfig", {}), [tool.name for tool in tools], options)
    options |= {name: value for name, value in body.items() if name != "model" and value not in ([], {})}
    if others:
        options["tools"] = others
    provider_options = {"gemini": options} if options else {}
    return ask(
        *messages, model=model, tools=tuple(tools), tool_choice=choice, provider_options=provider_options, **members
    )


def _model(body: Json) -> str:
    """One of the family that the client must have asked: only Gemini 3 takes these together."""
    functions = any("functionDeclarations" in tool for tool in body.get("tools", []))
    results = [part.get("functionResponse", {}) for content in body["contents"] for part in content["parts"]]
    is_json = "responseMimeType" in body.get("generationConfig", {})
    return GEMINI_3 if (functions and is_json) or any("parts" in result for result in results) else GEMINI_2


def _system(instruction: Json) -> Iterator[Message]:
    parts = instruction.get("parts", [])
    texts = [part["text"] for part in ([parts] if isinstance(parts, dict) else parts)]
    if texts:
        yield Message(role="system", content=tuple(Text(text=text) for text in texts))


def _messages(contents: list[Json], model: str) -> Iterator[Message]:
    due: list[ToolCall] = []
    for number, content in enumerate(contents):
        if content["role"] == "model":
            ids = all("id" in part["functionCall"] for part in content["parts"] if "functionCall" in part)
            found = [_said(part, f"{number}/{place}", model, ids=ids) for place, part in enumerate(content["parts"])]
            parts = [part for part in found if part is not None]
            due = [part for part in parts if isinstance(part, ToolCall)]
            yield Message(role="assistant", content=tuple(parts))
            continue
        responses = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        for response in responses:
            yield Message(role="tool", content=(_result(response, due),))
        rest = [_asked(part) for part in content["parts"] if "functionResponse" not in part]
        if rest:
            yield Message(role="user", content=tuple(rest))


def _said(part: Json, place: str, model: str, *, ids: bool) -> Part | None:
    signed = {"signature": part["thoughtSignature"]} if "thoughtSignature" in part else {}
    if "functionCall" in part:
        call = part["functionCall"]
        data = signed | ({"id": True} if ids else {})
        args = call.get("args", {})
        own = opaque(model=model, **data) if data else None
        call_id = call["id"] if ids else place
        return ToolCall(id=call_id, name=call["name"], arguments=json.dumps(args), parsed=args, opaque=own)
    if part.get("thought") is True:
        return None
    if "text" in part:
        return Text(text=part["text"], opaque=opaque(model=model, **signed) if signed else None)
    if "inlineData" in part:
        raise NotNeutralError("a picture that another model made")
    return OpaquePart(opaque=opaque(model=model, part=part))


def _result(response: Json, due: list[ToolCall]) -> ToolResult:
    matching = [call for call in due if call.id == response.get("id")] or [
        call for call in due if call.name == response["name"]
    ]
    if not matching:
        raise NotNeutralError("a response whose name is no call's")
    due.remove(matching[0])
    said = response["response"]
    media = [_asked(part) for part in response.get("parts", [])]
    content = (Text(text=result_text(said)), *(part for part in media if isinstance(part, Image | Document)))
    return ToolResult(call_id=matching[0].id, content=content, is_error=said.keys() == {"error"})


def result_text(response: Json) -> str:
    """What a response says, in whichever of the forms that clients wrap it."""
    value: Any = next(iter(response.values())) if len(response) == 1 else response
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _asked(part: Json) -> Part:
    if "text" in part:
        return Text(text=part["text"])
    inner = part.get("inlineData") or part.get("fileData") or {}
    if not inner or "videoMetadata" in part or "mediaResolution" in part:
        raise NotNeutralError("a part of a user that no turn has")
    media_type, url = inner.get("mimeType", ""), inner.get("fileUri", "")
    try:
        data = base64.b64decode(_plain_base64(inner.get("data", "")), validate=True)
    except ValueError as exc:
        raise NotNeutralError("media whose data was replaced by hand") from exc
    match media_type.partition("/")[0]:
        case "image":
            return Image(data=data, media_type=media_type, url=url)
        case "audio" if data:
            return Audio(data=data, media_type=media_type)
        case "application" if media_type == "application/pdf":
            return Document(data=data, media_type=media_type, url=url)
        case "text" if url:
            return Document(media_type=media_type, url=url)
    raise NotNeutralError(f"{media_type} in a user message")


def _read_config(config: Json, members: Json, options: Json) -> None:
    rest: Json = {}
    schema = config.pop("responseJsonSchema", None) or config.pop("responseSchema", None)
    for name, value in config.items():
        if name in _CONFIG:
            members[_CONFIG[name]] = value
        elif name == "stopSequences":
            members["stop"] = tuple(value)
        elif name == "responseMimeType" and value == "application/json":
            members["output"] = "json" if schema is None else JsonSchema(schema=schema)
        elif name == "thinkingConfig" and (thinking := _thinking(value)) is not None:
            members["thinking"] = thinking
        elif value not in ([], {}):
            rest[name] = value
    if rest:
        options["generationConfig"] = rest


def _thinking(config: Json) -> Any:
    match config:
        case {"includeThoughts": True, "thinkingBudget": int(budget)} if budget:
            return budget
        case {"thinkingBudget": 0} if len(config) == 1:
            return "off"
    return None


def _tool(item: Json, *, strict: bool) -> Tool:
    parameters = item.get("parametersJsonSchema") or item.get("parameters") or {}
    return Tool(
        name=item["name"], description=item.get("description", ""), parameters=parameters, strict=strict or None
    )


def _mode(body: Json) -> str:
    return str(body.get("toolConfig", {}).get("functionCallingConfig", {}).get("mode", ""))


def _choice(config: Json, names: list[str], options: Json) -> Any:
    calling = config.get("functionCallingConfig", {})
    allowed = calling.get("allowedFunctionNames", [])
    if rest := {name: value for name, value in config.items() if name != "functionCallingConfig"}:
        options["toolConfig"] = rest
    if calling.get("mode") == "NONE":
        return "none"
    if calling.get("mode") == "ANY":
        if len(allowed) == 1:
            return NamedTool(name=allowed[0])
        if allowed and set(allowed) != set(names):
            options.setdefault("toolConfig", {})["functionCallingConfig"] = {"allowedFunctionNames": allowed}
        return "required"
    return "auto"


# -- two bodies, one meaning ------------------------------------------------------------------------------------------


def same_meaning(body: Mapping[str, Any]) -> Json:
    """The body in one form, without what says nothing: defaults, empty texts, how a result is wrapped."""
    found = camel(dict(body))
    found.pop("model", None)
    parts = found.pop("systemInstruction", {}).get("parts", [])
    texts = [part["text"] for part in ([parts] if isinstance(parts, dict) else parts) if part["text"]]
    calling = found.get("toolConfig", {}).get("functionCallingConfig", {})
    declared = [item["name"] for tool in found.get("tools", []) for item in tool.get("functionDeclarations", [])]
    if calling.get("mode") == "AUTO":
        found["toolConfig"].pop("functionCallingConfig")
    elif set(calling.get("allowedFunctionNames", [])) == set(declared) and len(declared) > 1:
        calling.pop("allowedFunctionNames")
    tools = [{**tool, "functionDeclarations": [*map(_plain_tool, tool["functionDeclarations"])]}
             if "functionDeclarations" in tool else tool for tool in found.pop("tools", [])]  # fmt: skip
    config = found.pop("generationConfig", {})
    if schema := config.pop("responseJsonSchema", None) or config.pop("responseSchema", None):
        config["schema"] = plain_schema(schema)
    config = {name: value for name, value in config.items() if value not in ([], {})}
    separate = [{name: tool[name]} for tool in tools for name in tool]
    merged = {**found, "contents": _contents(found["contents"]), "system": texts, "config": config,
              "tools": sorted(separate, key=str)}  # fmt: skip
    return {name: value for name, value in merged.items() if value not in ([], {})}


def _plain_tool(item: Json) -> Json:
    parameters = item.get("parametersJsonSchema") or item.get("parameters") or {}
    plain = {"name": item["name"], "description": item.get("description", "")}
    return {**plain, "parameters": plain_schema(parameters)} if parameters.get("properties") else plain


def plain_schema(schema: Any) -> Any:
    """With types in small letters, as one of the two forms has them in capitals."""
    if isinstance(schema, list):
        return [plain_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: plain_schema(item) for name, item in schema.items()}
    if isinstance(kind := plain.get("type"), str):
        plain["type"] = kind.lower()
    return plain


def _contents(contents: list[Json]) -> list[Json]:
    merged: list[Json] = []
    for content in contents:
        role = "model" if content["role"] == "model" else "user"
        parts = [_plain_part(part) for part in content["parts"] if part.get("thought") is not True]
        parts = [part for part in parts if part != {"text": ""}]
        if not parts:
            continue
        if merged and merged[-1]["role"] == role:
            merged[-1]["parts"] += parts
        else:
            merged.append({"role": role, "parts": parts})
    return merged


def _plain_part(part: Json) -> Json:
    part = {name: value for name, value in part.items() if name != "thought"}
    if "functionCall" in part:
        return {**part, "functionCall": {"args": {}, **part["functionCall"]}}
    if "inlineData" in part:
        return {**part, "inlineData": {**part["inlineData"], "data": _plain_base64(part["inlineData"]["data"])}}
    if "functionResponse" in part:
        response = part["functionResponse"]
        wrapped = "error" if response["response"].keys() == {"error"} else "output"
        return {"functionResponse": {**response, "response": {wrapped: result_text(response["response"])}}}
    return part


def _plain_base64(data: str) -> str:
    """Clients send either alphabet, padded or not."""
    data = data.rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    return data + "=" * (-len(data) % 4)

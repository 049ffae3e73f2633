"""What the service refuses in a request, by its page and its error texts: for whatever the driver writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

BODY = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings", "cachedContent"}
CONFIG = {
    "temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "seed", "responseMimeType", "responseSchema",
    "responseJsonSchema", "thinkingConfig",
}  # fmt: skip
PART = {
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
}  # fmt: skip
BESIDE = {"thought", "thoughtSignature"}
SUBSET = {
    "type", "format", "description", "nullable", "enum", "items", "minItems", "maxItems", "properties", "required",
    "minProperties", "maxProperties", "minimum", "maximum", "minLength", "maxLength", "pattern", "anyOf",
    "propertyOrdering",
}  # fmt: skip
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")


def problems(body: Json, model: str) -> list[str]:
    """Every rule that the body breaks, as asked of this model."""
    old = "2.0" in model or "gemma" in model
    found = [f"unknown field {name}" for name in body.keys() - BODY]
    found += _contents(body["contents"], needs_signatures="gemini-3" in model)
    found += _config(body.get("generationConfig", {}), model, old=old)
    found += _tools(body, old=old)
    if "systemInstruction" in body:
        if "gemma" in model or "image" in model:
            found.append("a system instruction")
        if not body["systemInstruction"]["parts"]:
            found.append("an empty system instruction")
    if "2." in model and "responseMimeType" in body.get("generationConfig", {}) and "tools" in body:
        found.append("function calling with a response mime type")
    return found


def _contents(contents: list[Json], *, needs_signatures: bool) -> Iterator[str]:
    if not contents:
        yield "contents is not specified"
    elif contents[0]["role"] != "user":
        yield "the first content is not the user's"
    due: list[Json] = []
    for number, content in enumerate(contents):
        if content.keys() != {"role", "parts"} or content["role"] not in ("user", "model"):
            yield f"content {number} has no proper form"
        if not content["parts"]:
            yield f"content {number} must include at least one parts field"
        responses = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        if due or responses:
            yield from _matching(due, responses)
        calls = [part for part in content["parts"] if "functionCall" in part]
        if calls and (content["role"] != "model" or not number or contents[number - 1]["role"] != "user"):
            yield "a function call turn must come immediately after a user turn or a function response turn"
        if calls and needs_signatures and "thoughtSignature" not in calls[0]:
            yield "a function call is missing a thought_signature"
        due = [part["functionCall"] for part in calls]
        for part in content["parts"]:
            yield from _part(part)
    if due:
        yield "calls without responses"


def _matching(due: list[Json], responses: list[Json]) -> Iterator[str]:
    if len(due) != len(responses):
        yield "the number of function response parts is not equal to the number of function call parts"
        return
    for call, response in zip(due, responses, strict=True):
        if (call["name"], call.get("id")) != (response["name"], response.get("id")):
            yield f"{response['name']} answers {call['name']}"


def _part(part: Json) -> Iterator[str]:
    kinds = part.keys() & PART
    if len(kinds) != 1 or part.keys() - PART - BESIDE:
        yield f"a part with {sorted(part)}"
    match part:
        case {"text": ""} if "thoughtSignature" not in part:
            yield "an empty text"
        case {"functionCall": {"name": name, "args": args}}:
            if not NAME.fullmatch(name) or not isinstance(args, dict):
                yield f"a call {name!r}"
        case {"functionResponse": {"name": name, "response": response}}:
            if not NAME.fullmatch(name) or not isinstance(response, dict):
                yield f"a response {name!r}"
        case {"inlineData": {"mimeType": str(), "data": str()}} | {"fileData": {"fileUri": str()}}:
            pass
        case {"functionCall": _} | {"functionResponse": _} | {"inlineData": _} | {"fileData": _}:
            yield f"a part {part}"


def _config(config: Json, model: str, *, old: bool) -> Iterator[str]:
    for name in config.keys() - CONFIG:
        yield f"unknown generation field {name}"
    if not 0 <= config.get("temperature", 1) <= 2:
        yield "temperature out of range"
    if len(config.get("stopSequences", [])) > 5:
        yield "too many stop sequences"
    if not -(2**31) <= config.get("seed", 0) < 2**31:
        yield "a seed beyond int32"
    if ("responseSchema" in config or "responseJsonSchema" in config) and "responseMimeType" not in config:
        yield "a schema without its mime type"
    if old and "responseJsonSchema" in config:
        yield "a JSON Schema"
    if "responseSchema" in config:
        yield from subset_problems(config["responseSchema"])
    thinking = config.get("thinkingConfig", {})
    if thinking and old:
        yield "thinking_config is not supported"
    if thinking.keys() >= {"thinkingBudget", "thinkingLevel"}:
        yield "budget and level together"
    if thinking.get("thinkingBudget") == 0 and ("2.5-pro" in model or "gemini-3" in model):
        yield "thinking cannot be switched off"
    if "thinkingLevel" in thinking and "gemini-3" not in model:
        yield "a thinking level"
    if "pro" in model and thinking.get("thinkingLevel") == "MINIMAL":
        yield "level minimal"


def _tools(body: Json, *, old: bool) -> Iterator[str]:
    functions = [item for tool in body.get("tools", []) for item in tool.get("functionDeclarations", [])]
    names = [item["name"] for item in functions]
    if len(set(names)) < len(names):
        yield "a function declared twice"
    for item in functions:
        if not NAME.fullmatch(item["name"]):
            yield f"function name {item['name']!r}"
        if old and "parametersJsonSchema" in item:
            yield "parametersJsonSchema"
        if "parameters" in item:
            yield from subset_problems(item["parameters"])
    calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
    allowed = calling.get("allowedFunctionNames", [])
    if allowed and (calling["mode"] not in ("ANY", "VALIDATED") or set(allowed) - set(names)):
        yield "allowed_function_names should be set only with ANY and VALIDATED"
    if calling and not names:
        yield "function calling config is set without function_declarations"


def subset_problems(schema: Any) -> Iterator[str]:
    if unknown := schema.keys() - SUBSET:
        yield f"unknown schema fields {sorted(unknown)}"
    kind = schema.get("type")
    if kind not in ("OBJECT", "ARRAY", "STRING", "INTEGER", "NUMBER", "BOOLEAN") and "anyOf" not in schema:
        yield f"schema type {kind!r}"
    if kind == "ARRAY" and "items" not in schema:
        yield "an array without items"
    if any(not isinstance(name, str) or not name for name in schema.get("enum", [])):
        yield "an enum that is not of strings"
    if set(schema.get("required", [])) - set(schema.get("properties", {})):
        yield "required names a property that is not there"
    for inner in [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]:
        yield from subset_problems(inner)
    if "items" in schema:
        yield from subset_problems(schema["items"])

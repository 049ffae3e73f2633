"""What generateContent refuses: checks a request's body as strictly as Google does, in Google's words.

Source: https://ai.google.dev/api/generate-content and error bodies as that API sends them. Names in snake_case are
taken as well, as the service does. Rules of single families count for models that carry the family in their name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from loopforge.drivers.turn import JsonObject

_BODY_NAMES = (
    "contents systemInstruction tools toolConfig generationConfig safetySettings cachedContent model labels store "
    "serviceTier modelArmorConfig"
)
_CONFIG_NAMES = (
    "temperature topP topK maxOutputTokens stopSequences seed candidateCount presencePenalty frequencyPenalty "
    "responseMimeType responseSchema responseJsonSchema responseModalities thinkingConfig responseLogprobs logprobs "
    "mediaResolution speechConfig imageConfig"
)
_TOOL_NAMES = (
    "functionDeclarations googleSearch googleSearchRetrieval codeExecution urlContext fileSearch computerUse "
    "googleMaps retrieval"
)
_DATA_NAMES = (
    "text inlineData fileData functionCall functionResponse executableCode codeExecutionResult toolCall toolResponse"
)
_FUNCTION_NAMES = "name description parameters parametersJsonSchema response responseJsonSchema behavior"
_BODY = frozenset(_BODY_NAMES.split())
_CONFIG = frozenset(_CONFIG_NAMES.split())
_TOOLS = frozenset(_TOOL_NAMES.split())
_DATA = frozenset(_DATA_NAMES.split())
_FUNCTION = frozenset(_FUNCTION_NAMES.split())
_PART = _DATA | {"thought", "thoughtSignature", "videoMetadata", "mediaResolution"}
_THINKING = frozenset({"includeThoughts", "thinkingBudget", "thinkingLevel"})
_MODES = ("AUTO", "ANY", "NONE", "VALIDATED")
_LEVELS = ("minimal", "low", "medium", "high", "xhigh")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_SNAKE = re.compile(r"_([a-z])")
_MAX_STOPS = 5
_MAX_FUNCTIONS = 512
_BEFORE_3 = ("gemini-1", "gemini-2")


class BadRequest(Exception):
    """The body is refused with status 400, INVALID_ARGUMENT."""


def check_request(raw: bytes, model: str, *, reject_unknown: bool) -> JsonObject:
    """The request's body with its names in camelCase, checked. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest('Invalid JSON payload received. Unexpected token.\n{"contents"\n^') from None
    known = _Known(reject_unknown=reject_unknown)
    body = known.object(body, "", _BODY)
    body["contents"] = _contents(body.get("contents"), known, needs_signatures="gemini-3" in model)
    body["generationConfig"] = _config(body.get("generationConfig"), known)
    body["tools"] = _tools(body.get("tools"), known)
    body["toolConfig"] = _tool_config(body.get("toolConfig"), body["tools"])
    if instruction := body.get("systemInstruction"):
        parts = instruction.get("parts") if isinstance(instruction, dict) else None
        _parts([parts] if isinstance(parts, dict) else parts, "system_instruction", known)
    has_functions = any("functionDeclarations" in tool for tool in body["tools"])
    mime = body["generationConfig"].get("responseMimeType")
    if has_functions and mime == "application/json" and any(name in model for name in _BEFORE_3):
        raise BadRequest("Function calling with a response mime type: 'application/json' is unsupported")
    if body.get("cachedContent") and (body["tools"] or body["toolConfig"] or instruction):
        raise BadRequest(
            "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
            "tool_config.\n\nProposed fix: move those values to CachedContent from GenerateContent request."
        )
    return body


def camel(name: str) -> str:
    return _SNAKE.sub(lambda found: found[1].upper(), name)


class _Known:
    """Reads objects whose members are known by name."""

    def __init__(self, *, reject_unknown: bool) -> None:
        self._reject = reject_unknown

    def object(self, value: object, where: str, names: Iterable[str]) -> JsonObject:
        """The object with its names in camelCase and without null members."""
        if not isinstance(value, Mapping):
            raise BadRequest(f"Invalid value at '{where or 'body'}': Expected an object.")
        found = {camel(str(name)): item for name, item in value.items() if item is not None}
        for name in found:
            if self._reject and name not in names:
                place = f" at '{where}'" if where else ""
                raise BadRequest(f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.')
        return found


def _list(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"Invalid value at '{where}': Expected a list.")
    return value


# -- contents ---------------------------------------------------------------------------------------------------------


def _contents(value: object, known: _Known, *, needs_signatures: bool) -> list[JsonObject]:
    contents = [known.object(item, "contents", ("role", "parts")) for item in _list(value, "contents")]
    if not contents:
        raise BadRequest("* GenerateContentRequest.contents: contents is not specified\n")
    due = 0
    before = ""
    for number, content in enumerate(contents):
        role = content.setdefault("role", "user")
        if role not in ("user", "model", "function"):
            raise BadRequest("Please use a valid role: user, model.")
        content["parts"] = _parts(content.get("parts"), f"contents[{number}]", known, says=role == "user")
        responses = sum("functionResponse" in part for part in content["parts"])
        if responses != due:
            raise BadRequest(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        calls = [part for part in content["parts"] if "functionCall" in part]
        if calls and (role != "model" or before != "user"):
            raise BadRequest(
                "Please ensure that function call turn comes immediately after a user turn or after a function "
                "response turn."
            )
        if calls and needs_signatures and not calls[0].get("thoughtSignature"):
            name = calls[0]["functionCall"]["name"]
            raise BadRequest(
                "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                f"work correctly. Additional data, function call `{name}`, position {number + 1}."
            )
        due = len(calls)
        before = "model" if role == "model" else "user"
    if due:
        raise BadRequest("Please ensure that function response turn comes immediately after a function call turn.")
    return contents


def _parts(value: object, where: str, known: _Known, *, says: bool = False) -> list[JsonObject]:
    """`says`: an empty text is refused."""
    parts = [known.object(item, f"{where}.parts[{n}]", _PART) for n, item in enumerate(_list(value, f"{where}.parts"))]
    if not parts:
        raise BadRequest(f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.\n")
    for number, part in enumerate(parts):
        place = f"{where}.parts[{number}]"
        data = part.keys() & _DATA
        if not data or (says and part.get("text") == ""):
            _fail(
                f"* GenerateContentRequest.{place}.data: required oneof field 'data' must have one initialized field\n"
            )
        if len(data) > 1:
            _fail(f"Invalid value at '{place}' (oneof), oneof field 'data' is already set. Cannot set '{max(data)}'")
        for kind, members in (("functionCall", "args"), ("functionResponse", "response")):
            if kind in part:
                part[kind] = _named(part[kind], f"{place}.{kind}", members)
        if "inlineData" in part and not _camel_members(part["inlineData"]).keys() >= {"mimeType", "data"}:
            _fail(f"* GenerateContentRequest.{place}.inline_data.mime_type: inline_data.mime_type is not specified\n")
    return parts


def _named(value: object, where: str, members: str) -> JsonObject:
    inner = _camel_members(value)
    if not isinstance(inner.get("name"), str) or not inner["name"]:
        _fail(f"* GenerateContentRequest.{where}.name: Name cannot be empty.\n")
    if not isinstance(inner.setdefault(members, {}), dict):
        _fail(f"Invalid value at '{where}.{members}' (type.googleapis.com/google.protobuf.Struct)")
    return inner


def _camel_members(value: object) -> JsonObject:
    return {camel(str(name)): item for name, item in value.items()} if isinstance(value, dict) else {}


# -- generationConfig -------------------------------------------------------------------------------------------------


def _config(value: object, known: _Known) -> JsonObject:
    config = known.object({} if value is None else value, "generation_config", _CONFIG)
    for name, low, high in (("temperature", 0, 2), ("topP", 0, 1)):
        number = config.get(name, low)
        if not isinstance(number, int | float) or not low <= number <= high:
            _fail(f"Invalid value at 'generation_config.{name}': must be in the range [{low}, {high}].")
    for name, low in (("maxOutputTokens", 1), ("seed", -(2**31))):
        number = config.get(name, low)
        if not isinstance(number, int) or not low <= number < 2**31:
            _fail(f"Invalid value at 'generation_config.{name}' (TYPE_INT32), {json.dumps(number)}")
    if len(_list(config.get("stopSequences"), "generation_config.stop_sequences")) > _MAX_STOPS:
        _fail("The number of stop sequences must not be more than 5.")
    if ("responseSchema" in config or "responseJsonSchema" in config) and "responseMimeType" not in config:
        _fail(
            "* GenerateContentRequest.generation_config.response_mime_type: must be 'application/json' with a schema\n"
        )
    if "thinkingConfig" in config:
        thinking = known.object(config["thinkingConfig"], "generation_config.thinking_config", _THINKING)
        if thinking.keys() >= {"thinkingBudget", "thinkingLevel"}:
            _fail("You can only set only one of thinking budget and thinking level.")
        if str(thinking.get("thinkingLevel", "low")).lower() not in _LEVELS:
            _fail("Invalid value at 'generation_config.thinking_config.thinking_level' (TYPE_ENUM)")
        config["thinkingConfig"] = thinking
    return config


# -- tools ------------------------------------------------------------------------------------------------------------


def _tools(value: object, known: _Known) -> list[JsonObject]:
    tools = [known.object(item, f"tools[{number}]", _TOOLS) for number, item in enumerate(_list(value, "tools"))]
    names: list[str] = []
    for tool in tools:
        functions = _list(tool.get("functionDeclarations"), "tools.function_declarations")
        functions = [known.object(item, "tools.function_declarations", _FUNCTION) for item in functions]
        for item in functions:
            name = item.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                _fail(
                    "Invalid function name. Must start with a letter or an underscore. Must be alphameric (a-z, A-Z, "
                    "0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum length of 64."
                )
            if item.keys() >= {"parameters", "parametersJsonSchema"}:
                _fail("Only one of parameters and parameters_json_schema may be set.")
            names.append(name)
        if functions:
            tool["functionDeclarations"] = functions
    if twice := next((name for name in names if names.count(name) > 1), ""):
        _fail(f"Duplicate function declaration found: {twice}")
    if len(names) > _MAX_FUNCTIONS:
        _fail(f"At most {_MAX_FUNCTIONS} function declarations can be specified.")
    return tools


def _tool_config(value: object, tools: list[JsonObject]) -> JsonObject:
    """The function calling config, {} where there is none."""
    config = _camel_members(_camel_members(value).get("functionCallingConfig"))
    if not config:
        return {}
    if not any("functionDeclarations" in tool for tool in tools):
        _fail("Function calling config is set without function_declarations.")
    mode = str(config.get("mode", "AUTO")).upper()
    if mode not in _MODES:
        _fail("Invalid value at 'tool_config.function_calling_config.mode' (TYPE_ENUM)")
    allowed = _list(config.get("allowedFunctionNames"), "tool_config.function_calling_config.allowed_function_names")
    if allowed and mode not in ("ANY", "VALIDATED"):
        _fail("Allowed function names should be set only when function calling mode is ANY or VALIDATED.")
    declared = {item["name"] for tool in tools for item in tool.get("functionDeclarations", ())}
    if unknown := [name for name in allowed if name not in declared]:
        _fail(f"Allowed function name {unknown[0]!r} is not declared.")
    return {"mode": mode, "allowed": allowed}


def _fail(message: str) -> NoReturn:
    raise BadRequest(message)

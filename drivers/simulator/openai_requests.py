"""What Chat Completions refuses: checks a request's body as strictly as OpenAI does, in OpenAI's words.

Source: https://platform.openai.com/docs/api-reference/chat/create, and error bodies as that API sends them. Fields of
other vendors of this wire are known by name and pass; an unknown one is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from loopforge.drivers.turn import JsonObject

_OPENAI_FIELDS = (
    "model messages stream stream_options max_tokens max_completion_tokens temperature top_p stop seed tools "
    "tool_choice parallel_tool_calls response_format reasoning_effort n store metadata service_tier "
    "safety_identifier verbosity prompt_cache_key prompt_cache_options prompt_cache_retention user logprobs "
    "top_logprobs logit_bias frequency_penalty presence_penalty modalities audio prediction web_search_options"
)
_VENDOR_FIELDS = (
    "thinking enable_thinking thinking_budget chat_template_kwargs reasoning reasoning_split reasoning_format "
    "tool_stream random_seed include_reasoning provider plugins models transforms route top_k min_p "
    "repetition_penalty grammar guided_json structured_outputs search_parameters options keep_alive do_sample "
    "request_id partial prefix"
)
_FIELDS = frozenset(f"{_OPENAI_FIELDS} {_VENDOR_FIELDS}".split())
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PART_TYPES = {
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal", "thinking"),
    "system": ("text",),
    "developer": ("text",),
    "tool": ("text",),
    "function": ("text",),
}
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_MAX_NAME = 64
_MAX_TOOLS = 128
_MAX_STOPS = 4
_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
_INTEGERS = ("max_tokens", "max_completion_tokens", "n", "seed", "random_seed")
_JSON_TYPES: Mapping[type, str] = {
    str: "a string", bool: "a boolean", int: "an integer", float: "a decimal", list: "an array", dict: "an object",
    type(None): "null",
}  # fmt: skip


class BadRequest(Exception):
    """The body is refused with status 400. `param`: the member at fault, `code`: OpenAI's word for it."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def check_request(raw: bytes, *, reject_unknown: bool) -> JsonObject:
    """The body as JSON, checked. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
        )
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequest("you must provide a model parameter")
    if reject_unknown:
        for name in body:
            if name not in _FIELDS:
                raise BadRequest(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    _check_scalars(body)
    _check_tools(body)
    _check_messages(body)
    _check_output(body)
    return body


def _wrong_type(param: str, wanted: str, value: object) -> BadRequest:
    got = _JSON_TYPES.get(type(value), "something else")
    message = f"Invalid type for '{param}': expected {wanted}, but got {got} instead."
    return BadRequest(message, param, "invalid_type")


def _missing(param: str) -> BadRequest:
    return BadRequest(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def _empty(param: str) -> BadRequest:
    expected = "Expected an array with minimum length 1, but got an empty array instead."
    return BadRequest(f"Invalid '{param}': empty array. {expected}", param, "empty_array")


def _above(param: str, kind: str, limit: int, length: int) -> BadRequest:
    """`kind`: array or string."""
    article = f"{'an' if kind == 'array' else 'a'} {kind}"
    expected = f"Expected {article} with maximum length {limit}, but got {article} with length {length} instead."
    return BadRequest(f"Invalid '{param}': {kind} too long. {expected}", param, f"{kind}_above_max_length")


def _out_of_range(param: str, what: str, expected: str, value: float, code: str) -> BadRequest:
    message = f"Invalid '{param}': {what} value. Expected a value {expected}, but got {value} instead."
    return BadRequest(message, param, code)


def _unsupported(param: str, value: object, known: Iterable[str]) -> BadRequest:
    listed = ", ".join(f"'{name}'" for name in known)
    return BadRequest(f"Invalid value: '{value}'. Supported values are: {listed}.", param, "invalid_value")


def _check_scalars(body: JsonObject) -> None:
    if not isinstance(body.get("stream", False), bool | None):
        raise _wrong_type("stream", "a boolean", body["stream"])
    if body.get("stream_options") is not None:
        if not body.get("stream"):
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise BadRequest(message, "stream_options")
        if not isinstance(body["stream_options"], dict):
            raise _wrong_type("stream_options", "an object", body["stream_options"])
    for name, (low, high) in _RANGES.items():
        _check_number(name, body.get(name), low, high)
    for name in _INTEGERS:
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise _wrong_type(name, "an integer", value)
        if value is not None and value < 1 and "seed" not in name:
            raise _out_of_range(name, "integer below minimum", ">= 1", value, "integer_below_min_value")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise BadRequest(message, "max_tokens", "invalid_parameter_combination")
    _check_stop(body.get("stop"))


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong_type(name, "a decimal", value)
    if value < low:
        raise _out_of_range(name, "decimal below minimum", f">= {low}", value, "decimal_below_min_value")
    if value > high:
        raise _out_of_range(name, "decimal above maximum", f"<= {high}", value, "decimal_above_max_value")


def _check_stop(stop: Any) -> None:
    if stop is None or isinstance(stop, str):
        return
    if not isinstance(stop, list) or not all(isinstance(word, str) for word in stop):
        raise _wrong_type("stop", "one of a string or array of strings", stop)
    if len(stop) > _MAX_STOPS:
        raise _above("stop", "array", _MAX_STOPS, len(stop))


def _check_tools(body: JsonObject) -> None:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None:
                raise BadRequest(f"'{name}' is only allowed when 'tools' are specified.", name)
        return
    if not isinstance(tools, list):
        raise _wrong_type("tools", "an array of objects", tools)
    if not tools:
        raise _empty("tools")
    if len(tools) > _MAX_TOOLS:
        raise _above("tools", "array", _MAX_TOOLS, len(tools))
    names = [_tool_name(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    _check_tool_choice(body.get("tool_choice"), names)


def _tool_name(tool: Any, at: str) -> str:
    if not isinstance(tool, dict):
        raise _wrong_type(at, "an object", tool)
    kind = tool.get("type")
    if kind is None:
        raise _missing(f"{at}.type")
    if kind not in ("function", "custom"):
        raise _unsupported(f"{at}.type", kind, ("function", "custom"))
    inner = tool.get(kind)
    if not isinstance(inner, dict) or "name" not in inner:
        raise _missing(f"{at}.{kind}.name")
    _check_name(inner["name"], f"{at}.{kind}.name")
    if inner.get("parameters") is not None:
        _check_parameters(inner, f"{at}.function.parameters")
    return str(inner["name"])


def _check_parameters(function: JsonObject, at: str) -> None:
    what, schema = f"function '{function['name']}'", function["parameters"]
    if not isinstance(schema, dict):
        raise _wrong_type(at, "an object", schema)
    code = "invalid_function_parameters"
    if schema.get("type") != "object":
        got = json.dumps(schema.get("type"))
        wanted = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {got}'."
        raise BadRequest(f"Invalid schema for {what}: {wanted}", at, code)
    if function.get("strict") is True:
        _check_strict_schema(schema, what, at, code)


def _check_name(name: Any, at: str) -> None:
    if not isinstance(name, str):
        raise _wrong_type(at, "a string", name)
    if not _NAME.fullmatch(name):
        expected = "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        raise BadRequest(f"Invalid '{at}': string does not match pattern. {expected}", at, "invalid_value")
    if len(name) > _MAX_NAME:
        raise _above(at, "string", _MAX_NAME, len(name))


def _check_tool_choice(choice: Any, names: list[str]) -> None:
    match choice:
        case None | "auto" | "none" | "required":
            return
        case str():
            raise _unsupported("tool_choice", choice, ("none", "auto", "required"))
        case {"type": "function", "function": {"name": str(name)}} | {"type": "custom", "custom": {"name": str(name)}}:
            if name not in names:
                message = f"Tool choice 'function' with name '{name}' not found in 'tools' parameter."
                raise BadRequest(message, "tool_choice")
        case _:
            raise _wrong_type("tool_choice", "one of 'none', 'auto', 'required' or an object", choice)


def _check_messages(body: JsonObject) -> None:
    messages = body.get("messages")
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise _empty("messages")
    unanswered: list[str] = []
    for number, message in enumerate(messages):
        unanswered = _check_message(message, f"messages[{number}]", unanswered)
    if unanswered:
        raise _unanswered(unanswered, "messages")


def _check_message(message: Any, at: str, unanswered: list[str]) -> list[str]:
    """The ids of calls that still want a result after this message."""
    if not isinstance(message, dict):
        raise _wrong_type(at, "an object", message)
    role = message.get("role")
    if role is None:
        raise _missing(f"{at}.role")
    if role not in _ROLES:
        raise _unsupported(f"{at}.role", role, _ROLES)
    if role == "tool":
        return _check_tool_result(message, at, unanswered)
    if unanswered:
        raise _unanswered(unanswered, f"{at}.role")
    if role == "assistant":
        return _check_assistant(message, at)
    _check_content(message.get("content"), role, at)
    return []


def _check_tool_result(message: JsonObject, at: str, unanswered: list[str]) -> list[str]:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str):
        raise _missing(f"{at}.tool_call_id")
    if call_id not in unanswered:
        text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
        raise BadRequest(f"Invalid parameter: {text}", f"{at}.role")
    _check_content(message.get("content"), "tool", at)
    return [waiting for waiting in unanswered if waiting != call_id]


def _check_assistant(message: JsonObject, at: str) -> list[str]:
    calls, content = message.get("tool_calls"), message.get("content")
    speechless = message.get("refusal") is None and message.get("audio") is None and calls is None
    if content is not None or speechless:
        _check_content(content, "assistant", at)
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise _wrong_type(f"{at}.tool_calls", "an array of objects", calls)
    if not calls:
        raise _empty(f"{at}.tool_calls")
    return [_check_call(call, f"{at}.tool_calls[{number}]") for number, call in enumerate(calls)]


def _check_call(call: Any, at: str) -> str:
    if not isinstance(call, dict):
        raise _wrong_type(at, "an object", call)
    for name in ("id", "type"):
        if not isinstance(call.get(name), str) or not call[name]:
            raise _missing(f"{at}.{name}")
    match call:
        case {"type": "custom", "custom": {"name": _, "input": str()}}:
            pass
        case {"function": {"name": name, "arguments": str()}}:
            _check_name(name, f"{at}.function.name")
        case {"function": {"name": _, "arguments": arguments}}:
            raise _wrong_type(f"{at}.function.arguments", "a string", arguments)
        case {"type": kind}:
            raise _missing(f"{at}.{kind}")
    return str(call["id"])


def _unanswered(ids: list[str], param: str) -> BadRequest:
    return BadRequest(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(ids)}",
        param,
    )


def _check_content(content: Any, role: str, at: str) -> None:
    if isinstance(content, str):
        return
    if content is None:
        raise BadRequest("Invalid value for 'content': expected a string, got null.", f"{at}.content")
    if not isinstance(content, list):
        raise _wrong_type(f"{at}.content", "one of a string or array of objects", content)
    if not content:
        raise _empty(f"{at}.content")
    for number, part in enumerate(content):
        _check_part(part, role, f"{at}.content[{number}]")


def _check_part(part: Any, role: str, at: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _PART_TYPES[role]:
        raise _unsupported(f"{at}.type", kind, _PART_TYPES[role])
    match part:
        case {"type": "text"} if not isinstance(part.get("text"), str):
            raise _missing(f"{at}.text")
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            if not url.startswith(("https://", "http://", "data:image/")):
                message = f"Invalid '{at}.image_url.url'. Expected a valid URL, but got a value with an invalid format."
                raise BadRequest(message, f"{at}.image_url.url", "invalid_value")
        case {"type": "image_url"}:
            raise _missing(f"{at}.image_url.url")


def _check_output(body: JsonObject) -> None:
    at = "response_format"
    match body.get(at):
        case None | {"type": "text"}:
            return
        case {"type": "json_object"}:
            if "json" not in json.dumps(body["messages"]).lower():
                use = f"to use '{at}' of type 'json_object'."
                raise BadRequest(f"'messages' must contain the word 'json' in some form, {use}", "messages")
        case {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema)} as inner}:
            _check_name(name, f"{at}.json_schema.name")
            if inner.get("strict") is True:
                _check_strict_schema(schema, f"{at} '{name}'", at, None)
        case {"type": "json_schema"}:
            raise _missing(f"{at}.json_schema")
        case {"type": kind}:
            raise _unsupported(f"{at}.type", kind, ("json_object", "json_schema", "text"))
        case other:
            raise _wrong_type(at, "an object", other)


def _check_strict_schema(schema: Any, what: str, param: str, code: str | None, context: tuple[str, ...] = ()) -> None:
    """Strict schemas close every object and require every property of it."""
    if not isinstance(schema, dict):
        return
    properties, required, choices = (schema.get(name) or () for name in ("properties", "required", "anyOf"))
    if not isinstance(properties, dict):
        properties = {}
    if schema.get("type") == "object" or properties:
        where = f"Invalid schema for {what}: In context=({', '.join(repr(step) for step in context)}),"
        supplied = "is required to be supplied and to be"
        if schema.get("additionalProperties") is not False:
            raise BadRequest(f"{where} 'additionalProperties' {supplied} false.", param, code)
        missing = [name for name in properties if not isinstance(required, list) or name not in required]
        if missing:
            listed = f"an array including every key in properties. Missing '{missing[0]}'."
            raise BadRequest(f"{where} 'required' {supplied} {listed}", param, code)
    for name, inner in properties.items():
        _check_strict_schema(inner, what, param, code, (*context, "properties", name))
    _check_strict_schema(schema.get("items"), what, param, code, (*context, "items"))
    for number, inner in enumerate(choices if isinstance(choices, list) else ()):
        _check_strict_schema(inner, what, param, code, (*context, "anyOf", str(number)))

"""What text/chatcompletion_v2 refuses: checks a request's body in MiniMax's order and words (code 2013).

Source: https://platform.minimax.io/docs/api-reference/text-post, and error texts as that API sends them. What only
single models refuse is checked where a model's name tells it; MiniMax itself passes over unknown members.
"""

from __future__ import annotations

import json
import re
from typing import Any

from loopforge.drivers.turn import JsonObject

_FIELDS = frozenset({
    "model", "messages", "stream", "stream_options", "max_completion_tokens", "max_tokens", "temperature", "top_p",
    "tools", "tool_choice", "response_format", "reasoning_split", "thinking", "mask_sensitive_info", "service_tier",
    "n", "presence_penalty", "frequency_penalty", "logit_bias", "stop", "seed",
})  # fmt: skip
_ROLES = ("system", "user", "assistant", "tool", "user_system", "group", "sample_message_user", "sample_message_ai")
_PARTS = ("text", "image_url", "video_url")
_THINKING = ("adaptive", "disabled")
_HOT = re.compile(r"minimax-m[3-9]", re.IGNORECASE)  # take temperatures from 0 to 2; all others from above 0 to 1


class BadRequest(Exception):
    """The body is refused with code 2013; the text says why."""


def check_request(raw: bytes, *, reject_unknown: bool) -> JsonObject:
    """The body as JSON, checked. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest("binding: the body is no JSON object")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequest("binding: expr_path=model, cause=missing required parameter")
    if reject_unknown and (unknown := sorted(body.keys() - _FIELDS)):
        raise BadRequest(f"unknown field {unknown[0]}")
    _check_scalars(body)
    _check_tools(body)
    _check_messages(body.get("messages"))
    _check_output(body.get("response_format"))
    return body


def _check_scalars(body: JsonObject) -> None:
    for name in ("stream", "reasoning_split", "mask_sensitive_info"):
        if not isinstance(body.get(name, False), bool | None):
            raise BadRequest(f"{name} must be a boolean")
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise BadRequest(f"{name} must be a positive integer")
    hot = bool(_HOT.search(body["model"]))
    _check_range(body.get("temperature"), "temperature", 2 if hot else 1, zero=hot)
    _check_range(body.get("top_p"), "top_p", 1, zero=False)
    if body.get("n") not in (None, 1):
        raise BadRequest("n must be 1")
    thinking = body.get("thinking")
    kind = thinking.get("type") if isinstance(thinking, dict) else thinking
    if thinking is not None and kind not in _THINKING:
        raise BadRequest(f"invalid thinking.type: {json.dumps(kind)} (allowed: {', '.join(_THINKING)})")


def _check_range(value: Any, name: str, highest: float, *, zero: bool) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadRequest(f"{name} must be a number")
    if not 0 <= value <= highest or (value == 0 and not zero):
        raise BadRequest(f"{name} must be in {'[' if zero else '('}0, {highest}]")


def _check_tools(body: JsonObject) -> None:
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise BadRequest("tools must be an array")
    for tool in tools or ():
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in ("function", "web_search"):
            raise BadRequest(f"invalid tool type: {kind}")
        function = tool.get("function")
        if kind == "function" and not (
            isinstance(function, dict) and function.get("name") and _is_schema(function.get("parameters"))
        ):
            raise BadRequest("function name or parameters is empty")
    if body.get("tool_choice") not in (None, "auto", "none"):
        raise BadRequest("invalid tool_choice (allowed: auto, none)")


def _is_schema(parameters: Any) -> bool:
    """A JSON object with something in it; clients of the oldest models send it as text."""
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters)
        except ValueError:
            return False
    return isinstance(parameters, dict) and bool(parameters)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages is empty")
    unanswered: list[str] = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES or (role == "system" and number):
            raise BadRequest(f"invalid message role: {role}")
        if role == "tool":
            _take_result(message, unanswered)
            continue
        if unanswered:
            raise BadRequest("tool call result does not follow tool call")
        calls = message.get("tool_calls")
        if not (role == "assistant" and calls):
            _check_content(message.get("content"), role)
        elif message.get("content") is not None:
            _check_content(message["content"], role)
        if calls is not None:
            unanswered = [_call_id(call) for call in calls]
    if unanswered:
        raise BadRequest("tool call result does not follow tool call")


def _take_result(message: JsonObject, unanswered: list[str]) -> None:
    call_id = message.get("tool_call_id")
    if call_id not in unanswered:
        raise BadRequest(f"tool result's tool id({call_id}) not found")
    unanswered.remove(call_id)
    if not isinstance(message.get("content"), str):
        raise BadRequest("the content of a tool message must be a string")


def _call_id(call: Any) -> str:
    match call:
        case {"id": str(call_id), "type": "function", "function": {"name": str(name), "arguments": str(arguments)}}:
            pass
        case _:
            raise BadRequest("invalid tool call")
    if not call_id or not name:
        raise BadRequest("function name or parameters is empty")
    try:
        parsed = json.loads(arguments)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise BadRequest(f"invalid function arguments json string, tool_call_id: {call_id}")
    return call_id


def _check_content(content: Any, role: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content or role in ("system", "assistant"):
        raise BadRequest(f"invalid content of a message of role {role}")
    for part in content:
        match part:
            case {"type": "text", "text": str()}:
                pass
            case {"type": "image_url" | "video_url" as kind} if isinstance(part.get(kind), dict):
                url = part[kind].get("url")
                if not isinstance(url, str) or not url.startswith(("https://", "http://", "data:")):
                    raise BadRequest(f"invalid {kind}")
            case _:
                kind = part.get("type") if isinstance(part, dict) else part
                raise BadRequest(f"invalid content type: {kind} (allowed: {', '.join(_PARTS)})")


def _check_output(wanted: Any) -> None:
    match wanted:
        case None:
            pass
        case {"type": "json_schema", "json_schema": {"name": str(name), "schema": dict()}} if name:
            pass
        case _:
            raise BadRequest("invalid response_format")

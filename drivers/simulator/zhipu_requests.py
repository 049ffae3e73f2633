"""What Zhipu's chat completions refuse: checks a request's body, and its token, in the platform's words.

Source: docs.z.ai/api-reference (chat completion, error codes) and error bodies as the platform sends them. Rules of
single families count for models that carry the family in their name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from typing import Any, Final

from loopforge.drivers.turn import JsonObject

_FIELD_NAMES = (
    "model messages stream stream_options temperature top_p do_sample max_tokens stop seed tools tool_choice "
    "tool_stream response_format thinking reasoning_effort request_id user_id sensitive_word_check watermark_enabled "
    "meta"
)
_FIELDS: Final = frozenset(_FIELD_NAMES.split())
_RANGES: Final = {"temperature": (0.0, 1.0), "top_p": (0.01, 1.0)}
_FLAGS: Final = ("stream", "do_sample", "tool_stream")
_MAX_TOKENS, _MAX_TOOLS = 131_072, 128
_ROLES: Final = ("system", "user", "assistant", "tool")
_TEXT_ONLY = re.compile(r"^glm-(4\.[5-9]|5(\.[12])?|4|z1)(-|$)", re.IGNORECASE)
_ALWAYS_THINKS = re.compile(r"^glm-5\.3", re.IGNORECASE)
_EFFORTS: Final = {
    "glm-5.2": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "glm-5.3": ("low", "high", "max"),
}
_EARLY_MS: Final = 60_000  # a token from further in the future is none


class BadRequest(Exception):
    """`code`: 1213 a field is missing, 1214 one is wrong, 1215 two exclude each other, 1210 anything else."""

    def __init__(self, message: str, code: str = "1210") -> None:
        super().__init__(message)
        self.code = code


def check_token(token: str, key: str, now_ms: float) -> str:
    """What is wrong with the token that came for `key`, as a code; "" for the key itself and for a good JWT of it."""
    if hmac.compare_digest(token.encode(), key.encode()):
        return ""
    key_id, _, secret = key.partition(".")
    signed, _, signature = token.rpartition(".")
    if signed.count(".") != 1 or not secret:
        return "1000"
    expected = base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)).rstrip(b"=")
    if not hmac.compare_digest(signature.encode(), expected):
        return "1002"
    header, claims = (_decoded(part) for part in signed.split("."))
    if header.get("alg") != "HS256" or header.get("sign_type") != "SIGN" or claims.get("api_key") != key_id:
        return "1002"
    made, ends = claims.get("timestamp"), claims.get("exp")
    if not isinstance(made, int) or not isinstance(ends, int) or made > now_ms + _EARLY_MS:
        return "1002"
    return "1003" if ends <= now_ms else ""


def _decoded(part: str) -> JsonObject:
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return value if isinstance(value, dict) else {}


def check_request(raw: bytes, *, reject_unknown: bool) -> JsonObject:
    """The body as JSON, checked. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest("Incorrect API call parameters. Please check the documentation.")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _missing("model")
    body = {name: value for name, value in body.items() if value is not None}
    if reject_unknown and (unknown := sorted(body.keys() - _FIELDS)):
        raise BadRequest(f"Incorrect API call parameters: {unknown[0]}. Please check the documentation.")
    _check_scalars(body)
    _check_thinking(body)
    _check_tools(body)
    _check_messages(body)
    return body


def _missing(field: str) -> BadRequest:
    return BadRequest(f"No {field} parameter received.", "1213")


def _wrong(field: str) -> BadRequest:
    return BadRequest(f"Invalid {field} parameter. Please check the documentation.", "1214")


def _check_scalars(body: JsonObject) -> None:
    for name, (low, high) in _RANGES.items():
        value = body.get(name, high)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise _wrong(name)
        if name == "temperature" and round(value, 2) != value:
            raise _wrong(name)
    for name in _FLAGS:
        if not isinstance(body.get(name, False), bool):
            raise _wrong(name)
    for name, high in (("max_tokens", _MAX_TOKENS), ("seed", 2**63)):
        value = body.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value > high or (value < 1 and name != "seed"):
            raise _wrong(name)
    stop = body.get("stop", ["x"])
    if not isinstance(stop, list) or len(stop) != 1 or not isinstance(stop[0], str) or not stop[0]:
        raise _wrong("stop")
    if body.get("response_format", {"type": "text"}) not in ({"type": "text"}, {"type": "json_object"}):
        raise _wrong("response_format")
    if not 6 <= len(str(body.get("user_id", "user-0"))) <= 128:
        raise _wrong("user_id")


def _check_thinking(body: JsonObject) -> None:
    thinking = body.get("thinking", {})
    if not isinstance(thinking, dict) or thinking.get("type", "enabled") not in ("enabled", "disabled"):
        raise _wrong("thinking")
    if thinking.get("type") == "disabled" and _ALWAYS_THINKS.search(body["model"]):
        raise BadRequest("This model does not support disabling thinking.")
    effort = body.get("reasoning_effort")
    known = next((efforts for family, efforts in _EFFORTS.items() if body["model"].startswith(family)), None)
    if effort is not None and (not isinstance(effort, str) or (known and effort not in known)):
        raise _wrong("reasoning_effort")


def _check_tools(body: JsonObject) -> None:
    tools = body.get("tools", [])
    if not isinstance(tools, list) or len(tools) > _MAX_TOOLS or ("tools" in body and not tools):
        raise _wrong("tools")
    names = [_tool_name(tool) for tool in tools]
    match body.get("tool_choice", "auto"):
        case "auto":
            pass
        case {"type": "function", "function": {"name": name}} if name in names:
            pass
        case _:
            raise _wrong("tool_choice")


def _tool_name(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name), "parameters": dict()}} if name:
            return name
        case {"type": "web_search" | "retrieval" | "mcp" as kind} if isinstance(tool.get(kind), dict):
            return ""
    raise _wrong("tools")


def _check_messages(body: JsonObject) -> None:
    messages = body.get("messages")
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _wrong("messages")
    if not any(message.get("role") in ("user", "tool") for message in messages):
        raise BadRequest("Input cannot be empty", "1214")
    due: list[str] = []
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in _ROLES or (role == "system" and number):
            raise _wrong("messages.role")
        if role == "tool":
            if message.get("tool_call_id") not in due or not isinstance(message.get("content"), str):
                raise _wrong("messages.tool_call_id")
            due.remove(message["tool_call_id"])
            continue
        if due:
            raise _wrong("messages.tool_calls")
        due = _check_said(message, body["model"])
    if due:
        raise _wrong("messages.tool_calls")


def _check_said(message: JsonObject, model: str) -> list[str]:
    """The ids of the calls that the message makes."""
    content = message.get("content")
    if message["role"] == "user" and isinstance(content, list) and content:
        _check_parts(content, model)
    elif not isinstance(content, str) and not (message["role"] == "assistant" and content is None):
        raise _wrong("messages.content")
    if not isinstance(message.get("reasoning_content"), str | None):  # null, as the vendor's SDKs send an answer back
        raise _wrong("messages.reasoning_content")
    calls = message.get("tool_calls") or []
    if message["role"] == "assistant" and not content and not calls:
        raise _wrong("messages.content")
    return [_call_id(call) for call in calls] if isinstance(calls, list) else []


def _call_id(call: Any) -> str:
    match call:
        case {"id": str(call_id), "type": "function", "function": {"name": str(), "arguments": str(arguments)}}:
            try:
                if call_id and isinstance(json.loads(arguments), dict):
                    return call_id
            except ValueError:
                pass
    raise _wrong("messages.tool_calls")


def _check_parts(parts: list[Any], model: str) -> None:
    kinds = set()
    for part in parts:
        match part:
            case {"type": "text", "text": str()}:
                continue
            case {"type": "image_url" | "video_url" | "file_url" as kind} if _has_url(part.get(kind)):
                kinds.add(kind)
            case _:
                raise _wrong("messages.content")
    if kinds and _TEXT_ONLY.search(model):
        raise _wrong("messages.content.type")
    if "file_url" in kinds and kinds - {"file_url"}:
        raise BadRequest("file_url and image_url cannot be set at the same time.", "1215")


def _has_url(inner: Any) -> bool:
    """An address, or the bytes in base64; with or without what makes a data URL of them."""
    url = inner.get("url") if isinstance(inner, dict) else None
    if not isinstance(url, str) or not url:
        return False
    if url.startswith(("https://", "http://")):
        return True
    try:
        base64.b64decode(url.rpartition(",")[2], validate=True)
    except binascii.Error:
        return False
    return True

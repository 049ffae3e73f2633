"""What DashScope refuses: checks a request's body as strictly as the service does, in its words.

Sources: https://help.aliyun.com/en/model-studio/error-code and error bodies as the service sends them. Rules of single
families count for models that carry the family in their name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from loopforge.drivers.turn import JsonObject

PATHS: Final = {
    "text": "/services/aigc/text-generation/generation",
    "multimodal": "/services/aigc/multimodal-generation/generation",
}
_MULTIMODAL = re.compile(
    r"^qvq|-vl|-asr|omni|audio|^kimi-k2\.[56]|^qwen3\.5|^qwen3\.6(?!-max-preview)|^qwen3\.7(?!-max)|^qwen3\.8-max"
)
_PARAMETER_NAMES = (
    "result_format incremental_output temperature top_p top_k max_tokens max_completion_tokens stop seed "
    "repetition_penalty presence_penalty n logit_bias logprobs top_logprobs tools tool_choice parallel_tool_calls "
    "tool_stream response_format enable_thinking thinking_budget reasoning_effort preserve_thinking clear_thinking "
    "enable_search search_options enable_code_interpreter vl_high_resolution_images enable_text_image_mixed "
    "ocr_options asr_options translation_options modalities audio"
)
_PARAMETERS = frozenset(_PARAMETER_NAMES.split())
_PART_NAMES = (
    "text image audio video min_pixels max_pixels total_pixels min_frames max_frames fps enable_rotate cache_control"
)
_PART = frozenset(_PART_NAMES.split())
_ROLES = ("system", "user", "assistant", "tool")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_THINKS_ALWAYS = re.compile(r"-thinking|^qwq|^qvq")
_MAX_MARKS = 4


class BadRequest(Exception):
    """The body is refused with status 400."""

    def __init__(self, message: str, code: str = "InvalidParameter") -> None:
        super().__init__(message)
        self.code = code


def is_multimodal(model: str) -> bool:
    """Which of the two paths the model answers on."""
    return _MULTIMODAL.search(model.lower()) is not None


def check_request(raw: bytes, *, multimodal: bool, reject_unknown: bool) -> JsonObject:
    """The request's body, checked. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("Required body invalid, please check the request body format.") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequest("Required parameter(s) missing or invalid, please check the request parameters: model.")
    if reject_unknown:
        _only(body, ("model", "input", "parameters"), "body")
    messages = body.get("input", {}).get("messages") if isinstance(body.get("input"), dict) else None
    if not isinstance(messages, list) or not messages:
        raise BadRequest("Required parameter(s) missing or invalid, please check the request parameters: messages.")
    _check_messages(messages, multimodal=multimodal)
    parameters = body.setdefault("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("parameters must be an object")
    if reject_unknown:
        _only(parameters, _PARAMETERS, "parameters")
    _check_parameters(parameters, messages, body["model"].lower())
    return body


def _only(value: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    for name in value:
        if name not in names:
            _fail(f"Unknown field {name!r} in {where}.")


# -- messages ---------------------------------------------------------------------------------------------------------


def _check_messages(messages: list[Any], *, multimodal: bool) -> None:
    due: list[str] = []
    marks = 0
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            _fail(
                f"<400> InternalError.Algo.InvalidParameter: 'role' must be one of {_ROLES}: messages.[{number}].role"
            )
        role, content = message["role"], message.get("content")
        if role == "system" and number:
            _fail("System message must be at the beginning of the message list.")
        marks += _check_content(content, role, multimodal=multimodal)
        if role == "tool":
            if message.get("tool_call_id") not in due:
                _fail('messages with role "tool" must be a response to a preceding message with "tool_calls".')
            due.remove(message["tool_call_id"])
        elif due:
            _fail(
                'An assistant message with "tool_calls" must be followed by tool messages responding to each '
                f'"tool_call_id". The following tool_call_ids did not have response messages: {due[0]}'
            )
        if role == "assistant":
            due = [_call_id(call) for call in message.get("tool_calls") or ()]
    if due or messages[-1]["role"] == "system":
        _fail("The last message must be of role user or tool, or an assistant message with partial.")
    if messages[-1]["role"] == "assistant" and messages[-1].get("partial") is not True:
        _fail("The last message of role assistant must have partial set to true.")
    if marks > _MAX_MARKS:
        _fail(f"At most {_MAX_MARKS} cache_control markers are allowed.")


def _check_content(content: Any, role: str, *, multimodal: bool) -> int:
    """How many cache marks are in it."""
    is_user = role == "user"
    if not multimodal:
        if role == "assistant" and content == []:
            return 0  # beside tool calls this was seen to be taken
        if is_user and isinstance(content, list) and any(_is_doc_url(part) for part in content):
            return 0
        if not isinstance(content, str):
            _fail("input content must be a string.")
        if is_user and not content:
            _fail("The content field is a required field.")
        return 0
    if not isinstance(content, list):
        _fail("Input should be a valid list: input.messages.content")
    for part in content:
        if (
            not isinstance(part, dict)
            or part.keys() - _PART
            or len(part.keys() & {"text", "image", "audio", "video"}) != 1
        ):
            _fail("Input content item is invalid: each must have one of text, image, audio and video.")
    return sum("cache_control" in part for part in content)


def _is_doc_url(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "doc_url"


def _call_id(call: Any) -> str:
    match call:
        case {"id": str(call_id), "type": "function", "function": {"name": str(name), "arguments": str(arguments)}}:
            try:
                parsed = json.loads(arguments)
            except ValueError:
                parsed = None
            if not isinstance(parsed, dict):
                _fail('The "function.arguments" parameter of the code model must be in JSON format.')
            if not _TOOL_NAME.fullmatch(name):
                _fail(f"Invalid tool name: {name}")
            return call_id
    return _fail("tool_calls is invalid.")


# -- parameters -------------------------------------------------------------------------------------------------------


def _check_parameters(parameters: JsonObject, messages: list[JsonObject], model: str) -> None:
    _in_range(parameters, "temperature", 0, 2, includes_high=False)
    _in_range(parameters, "top_p", 0, 1, includes_low=False)
    _in_range(parameters, "presence_penalty", -2, 2)
    _in_range(parameters, "seed", 0, 2**31 - 1)
    for name in ("max_tokens", "max_completion_tokens", "thinking_budget"):
        _in_range(parameters, name, 1, 2**31 - 1)
    if parameters.get("result_format", "message") != "message":
        _fail("This server answers with result_format message alone.")
    if parameters.keys() >= {"reasoning_effort", "thinking_budget"}:
        _fail("reasoning_effort and thinking_budget cannot be set at the same time.")
    _check_tools(parameters, model)
    response_format = parameters.get("response_format") or {}
    if response_format.get("type") in ("json_object", "json_schema"):
        if parameters.get("enable_thinking") is True:
            _fail("Json mode response is not supported when enable_thinking is true")
        if response_format["type"] == "json_object" and "json" not in json.dumps(messages).lower():
            _fail(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )


def _in_range(
    parameters: JsonObject,
    name: str,
    low: float,
    high: float,
    *,
    includes_low: bool = True,
    includes_high: bool = True,
) -> None:
    value = parameters.get(name)
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number and low <= value <= high and (includes_low or value > low) and (includes_high or value < high)
    if not fits:
        opens, closes = "[" if includes_low else "(", "]" if includes_high else ")"
        _fail(f"Range of {name} should be {opens}{low}, {high}{closes}")


def _check_tools(parameters: JsonObject, model: str) -> None:
    names = []
    for tool in parameters.get("tools") or ():
        match tool:
            case {"type": "function", "function": {"name": str(name)}} if _TOOL_NAME.fullmatch(name):
                names.append(name)
            case _:
                _fail("tools is invalid: each must be a function with a name of 1 to 64 letters, digits, _ and -.")
    if "search" in names:
        _fail("Tool names are not allowed to be [search]")
    choice = parameters.get("tool_choice", "auto")
    if choice in ("auto", "none"):
        return
    if not isinstance(choice, dict) or choice.get("function", {}).get("name") not in names:
        _fail("tool_choice is one of the strings that should be [none, auto], or a function of tools.")
    if parameters.get("enable_thinking") is True or _THINKS_ALWAYS.search(model):
        _fail("The tool_choice parameter does not support being set to required or object in thinking mode")


def _fail(message: str) -> NoReturn:
    raise BadRequest(message)

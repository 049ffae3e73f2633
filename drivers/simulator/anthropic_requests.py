"""What the Messages API refuses: checks a request's body as strictly as Anthropic does, in Anthropic's words.

Source: https://platform.claude.com/docs/en/api/messages and error bodies as that API sends them. Rules of single
models are not here: the simulator's models have made-up names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from loopforge.drivers.turn import JsonObject

_FIELD_NAMES = (
    "model messages max_tokens system stream temperature top_p top_k stop_sequences tools tool_choice thinking "
    "output_config output_format metadata service_tier speed inference_geo container cache_control mcp_servers "
    "context_management"
)
_FIELDS = frozenset(_FIELD_NAMES.split())
_MESSAGE_FIELDS = frozenset({"role", "content"})
_BLOCK_FIELDS = {
    "text": {"text", "citations"},
    "image": {"source"},
    "document": {"source", "title", "context", "citations"},
    "tool_use": {"id", "name", "input", "caller"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}
_OF_USERS = ("text", "image", "document", "tool_result")
_OF_ASSISTANTS = ("text", "tool_use", "thinking", "redacted_thinking")
_IN_RESULTS = ("text", "image", "document")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_TOOL_FIELDS = frozenset({
    "name", "description", "input_schema", "strict", "cache_control", "type", "eager_input_streaming", "defer_loading",
    "input_examples", "allowed_callers",
})  # fmt: skip
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MAX_MARKS = 4
_MIN_BUDGET = 1024
_NOT_ENFORCED = (
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern maxItems uniqueItems "
    "oneOf not if then else patternProperties minProperties maxProperties propertyNames contains dependentRequired "
    "prefixItems"
)


class BadRequest(Exception):
    """The body is refused with status 400, type invalid_request_error."""


def check_request(raw: bytes, *, reject_unknown: bool) -> JsonObject:
    """The request's body, checked. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("The request body is not valid JSON: expected value at line 1 column 1") from None
    if not isinstance(body, dict):
        raise BadRequest("Input should be a valid dictionary")
    _required(body, "", "model", "messages", "max_tokens")
    if reject_unknown:
        _no_more(body, _FIELDS, "")
    if not isinstance(body["model"], str) or not body["model"]:
        raise BadRequest("model: String should have at least 1 character")
    _check_scalars(body)
    _check_thinking(body)
    _check_system(body.get("system"))
    names = _check_tools(body)
    _check_tool_choice(body, names)
    _check_messages(body)
    _check_output(body)
    _check_marks(body)
    return body


def _required(value: JsonObject, at: str, *names: str) -> None:
    for name in names:
        if name not in value:
            raise BadRequest(f"{_at(at, name)}: Field required")


def _no_more(value: JsonObject, known: Iterable[str], at: str) -> None:
    for name in value:
        if name not in known:
            raise BadRequest(f"{_at(at, name)}: Extra inputs are not permitted")


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _whole_number(value: Any, at: str, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{at}: Input should be a valid integer")
    if value < least:
        raise BadRequest(f"{at}: Input should be greater than or equal to {least}")


def _check_scalars(body: JsonObject) -> None:
    _whole_number(body["max_tokens"], "max_tokens", 1)
    if not isinstance(body.get("stream", False), bool):
        raise BadRequest("stream: Input should be a valid boolean")
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise BadRequest(f"{name}: Input should be a valid number")
        if not 0 <= value <= 1:
            raise BadRequest(f"{name}: range: 0..1")
    stops = body.get("stop_sequences") or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise BadRequest("stop_sequences: Input should be a valid list")
    if any(not stop.strip() for stop in stops):
        raise BadRequest("stop_sequences: each stop sequence must contain non-whitespace")


def _check_thinking(body: JsonObject) -> None:
    thinking = body.get("thinking")
    match thinking:
        case None | {"type": "disabled"} | {"type": "adaptive"}:
            return
        case {"type": "enabled"}:
            _required(thinking, "thinking.enabled", "budget_tokens")
            _whole_number(thinking["budget_tokens"], "thinking.enabled.budget_tokens", _MIN_BUDGET)
            if thinking["budget_tokens"] >= body["max_tokens"]:
                raise BadRequest("`max_tokens` must be greater than `thinking.budget_tokens`.")
        case _:
            raise BadRequest(
                "thinking: Input tag does not match any of the expected tags: 'adaptive', 'disabled', 'enabled'"
            )
    if body.get("temperature", 1) != 1:
        raise BadRequest("`temperature` may only be set to 1 when thinking is enabled.")
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise BadRequest("Thinking may not be enabled when tool_choice forces tool use.")


def _check_system(system: Any) -> None:
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        raise BadRequest("system: Input should be a valid list")
    for number, block in enumerate(system):
        _check_block(block, ("text",), f"system.{number}")


# -- tools ------------------------------------------------------------------------------------------------------------


def _check_tools(body: JsonObject) -> list[str]:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise BadRequest("tools: Input should be a valid list")
    names = []
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise BadRequest(f"tools.{number}: Input should be a valid dictionary")
        if tool.get("type", "custom") == "custom":
            _check_tool(tool, f"tools.{number}.custom")
        names.append(str(tool.get("name", "")))
    if len(set(names)) < len(names):
        raise BadRequest("tools: Tool names must be unique.")
    return names


def _check_tool(tool: JsonObject, at: str) -> None:
    _required(tool, at, "name", "input_schema")
    _no_more(tool, _TOOL_FIELDS, at)
    if not isinstance(tool["name"], str) or not _NAME.fullmatch(tool["name"]):
        raise BadRequest(f"{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    schema = tool["input_schema"]
    if not isinstance(schema, dict):
        raise BadRequest(f"{at}.input_schema: Input does not match the expected shape.")
    _required(schema, f"{at}.input_schema", "type")
    if schema["type"] != "object":
        raise BadRequest(f"{at}.input_schema.type: Input should be 'object'")
    if schema.keys() & {"oneOf", "allOf", "anyOf"}:
        raise BadRequest(f"{at}.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level")
    if tool.get("strict"):
        _check_grammar(schema, f"{at}.input_schema")


def _check_tool_choice(body: JsonObject, names: list[str]) -> None:
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not names:
        raise BadRequest("tool_choice: tool_choice may only be specified while providing tools.")
    match choice:
        case {"type": "auto" | "any"}:
            known = {"type", "disable_parallel_tool_use"}
        case {"type": "tool", "name": name}:
            known = {"type", "name", "disable_parallel_tool_use"}
            if name not in names:
                raise BadRequest(f"tool_choice.tool.name: Tool '{name}' not found in provided tools")
        case {"type": "none"}:
            known = {"type"}
        case _:
            raise BadRequest("tool_choice: Input does not match the expected shape.")
    _no_more(choice, known, "tool_choice")


# -- messages ---------------------------------------------------------------------------------------------------------


def _check_messages(body: JsonObject) -> None:
    messages = body["messages"]
    if not isinstance(messages, list):
        raise BadRequest("messages: Input should be a valid list")
    if not messages:
        raise BadRequest("messages: at least one message is required")
    ids: set[str] = set()
    waiting: list[str] = []
    uses_tools = False
    for number, message in enumerate(messages):
        at = f"messages.{number}"
        if not isinstance(message, dict):
            raise BadRequest(f"{at}: Input does not match the expected shape.")
        _required(message, at, "role", "content")
        _no_more(message, _MESSAGE_FIELDS, at)
        role = message["role"]
        if role not in ("user", "assistant", "system"):
            raise BadRequest(f'messages: Unexpected role "{role}". Allowed roles are "user" or "assistant".')
        if not number and role != "user":
            raise BadRequest('messages: first message must use the "user" role')
        if role == "system" and messages[number - 1].get("role") == "assistant":
            raise BadRequest("messages: a system message must follow a user message")
        blocks = _check_content(message["content"], role, at, is_last=number == len(messages) - 1)
        _check_results(blocks, waiting, number)
        waiting = _calls(blocks, ids)
        uses_tools = uses_tools or any(block["type"] in ("tool_use", "tool_result") for block in blocks)
    if waiting:
        raise _unanswered(waiting, len(messages) - 1)
    if uses_tools and not body.get("tools"):
        raise BadRequest("Requests which include `tool_use` or `tool_result` blocks must define tools")


def _check_content(content: Any, role: str, at: str, *, is_last: bool) -> list[JsonObject]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
    if not blocks and not (is_last and role == "assistant"):
        raise BadRequest(
            f"{at}: all messages must have non-empty content except for the optional final assistant message"
        )
    if not isinstance(blocks, list):
        raise BadRequest(f"{at}.content: Input should be a valid list")
    known = _OF_ASSISTANTS if role == "assistant" else _OF_USERS if role == "user" else ("text",)
    for number, block in enumerate(blocks):
        _check_block(block, known, f"{at}.content.{number}")
    if role == "assistant" and blocks:
        last = blocks[-1]
        if last["type"] in ("thinking", "redacted_thinking"):
            raise BadRequest(f"{at}: The final block in an assistant message cannot be `thinking`.")
        if is_last and last["type"] == "text" and last["text"] != last["text"].rstrip():
            raise BadRequest("messages: final assistant content cannot end with trailing whitespace")
    return blocks


def _check_block(block: Any, known: tuple[str, ...], at: str) -> None:
    if not isinstance(block, dict):
        raise BadRequest(f"{at}: Input does not match the expected shape.")
    kind = block.get("type")
    if kind not in known:
        listed = ", ".join(f"'{name}'" for name in known)
        raise BadRequest(
            f"{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags: {listed}"
        )
    _no_more(block, _BLOCK_FIELDS[kind] | {"type", "cache_control"}, f"{at}.{kind}")
    match kind:
        case "text":
            _string(block, "text", at)
            if not block["text"].strip():
                raise BadRequest("messages: text content blocks must contain non-whitespace text")
        case "image" | "document":
            _check_source(block, f"{at}.{kind}")
        case "thinking":
            _string(block, "thinking", at)
            _string(block, "signature", at)
        case "redacted_thinking":
            _string(block, "data", at)
        case "tool_use":
            _check_call(block, f"{at}.tool_use")
        case "tool_result":
            _check_result(block, f"{at}.tool_result")


def _string(block: JsonObject, name: str, at: str) -> None:
    _required(block, f"{at}.{block['type']}", name)
    if not isinstance(block[name], str):
        raise BadRequest(f"{at}.{block['type']}.{name}: Input should be a valid string")


def _check_source(block: JsonObject, at: str) -> None:
    match block.get("source"):
        case {"type": "base64", "media_type": media_type, "data": str()}:
            known = _IMAGES if block["type"] == "image" else ("application/pdf",)
            if media_type not in known:
                listed = " or ".join(f"'{name}'" for name in known)
                raise BadRequest(f"{at}.source.base64.media_type: Input should be {listed}")
        case {"type": "url", "url": str()}:
            pass
        case {"type": "text", "media_type": "text/plain", "data": str(text)} if block["type"] == "document" and text:
            pass
        case _:
            raise BadRequest(f"{at}.source: Input does not match the expected shape.")


def _check_call(block: JsonObject, at: str) -> None:
    _required(block, at, "id", "name", "input")
    if not isinstance(block["id"], str) or not _ID.fullmatch(block["id"]):
        raise BadRequest(f"{at}.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not isinstance(block["name"], str) or not _NAME.fullmatch(block["name"]):
        raise BadRequest(f"{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if not isinstance(block["input"], dict):
        raise BadRequest(f"{at}.input: Input should be a valid dictionary")


def _check_result(block: JsonObject, at: str) -> None:
    _required(block, at, "tool_use_id")
    content = block.get("content", "")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise BadRequest(f"{at}.content: Input should be a valid list")
    for number, inner in enumerate(content):
        _check_block(inner, _IN_RESULTS, f"{at}.content.{number}")


def _check_results(blocks: list[JsonObject], waiting: list[str], number: int) -> None:
    """Each call of the message before has one result here, and no other result is here; they stand in front."""
    answered: list[str] = []
    for place, block in enumerate(blocks):
        if block["type"] != "tool_result":
            continue
        result_id = block["tool_use_id"]
        if result_id not in waiting:
            raise BadRequest(
                f"messages.{number}.content.{place}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{result_id}. Each `tool_result` block must have a corresponding `tool_use` block in the previous "
                "message."
            )
        if result_id in answered:
            raise BadRequest(f"messages.{number}.content.{place}: each tool_use must have a single result.")
        if place != len(answered):
            raise BadRequest(f"messages.{number}.content.{place}: `tool_result` blocks must come before other content")
        answered.append(result_id)
    if missing := [call_id for call_id in waiting if call_id not in answered]:
        raise _unanswered(missing, number - 1)


def _unanswered(ids: list[str], number: int) -> BadRequest:
    return BadRequest(
        f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(ids)}. Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )


def _calls(blocks: list[JsonObject], ids: set[str]) -> list[str]:
    made = [block["id"] for block in blocks if block["type"] == "tool_use"]
    for call_id in made:
        if call_id in ids:
            raise BadRequest("messages: `tool_use` ids must be unique")
        ids.add(call_id)
    return made


# -- structured output, cache marks -----------------------------------------------------------------------------------


def _check_output(body: JsonObject) -> None:
    config = body.get("output_config")
    if config is not None:
        if not isinstance(config, dict):
            raise BadRequest("output_config: Input should be a valid dictionary")
        _no_more(config, ("format", "effort"), "output_config")
        if config.get("effort") not in (None, "low", "medium", "high", "xhigh", "max"):
            raise BadRequest("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
    for at, asked in (
        ("output_config.format", (config or {}).get("format")),
        ("output_format", body.get("output_format")),
    ):
        if asked is None:
            continue
        if (
            not isinstance(asked, dict)
            or asked.get("type") != "json_schema"
            or not isinstance(asked.get("schema"), dict)
        ):
            raise BadRequest(f"{at}: Input does not match the expected shape.")
        _check_grammar(asked["schema"], f"{at}.schema")
        if body["messages"][-1]["role"] == "assistant":
            raise BadRequest(f"{at}: a prefilled answer cannot have a format")


def _check_grammar(schema: Any, at: str, depth: int = 0) -> None:
    """A schema that is enforced: closed objects, and none of the rules that no grammar holds."""
    if isinstance(schema, list):
        for item in schema:
            _check_grammar(item, at, depth + 1)
    if not isinstance(schema, dict) or depth > 200:
        return
    kind = schema.get("type")
    for name in _NOT_ENFORCED.split():
        if name in schema:
            raise BadRequest(f"{at}: For '{kind}' type, property '{name}' is not supported")
    kinds = kind if isinstance(kind, list) else [kind]
    if "object" in kinds and schema.get("additionalProperties") is not False:
        raise BadRequest(f"{at}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    for name, inner in schema.items():
        if name in ("properties", "$defs", "definitions") and isinstance(inner, dict):
            for below in inner.values():
                _check_grammar(below, at, depth + 1)
        elif name in ("items", "anyOf", "allOf"):
            _check_grammar(inner, at, depth + 1)


def _check_marks(body: JsonObject) -> None:
    marks = [body["cache_control"]] if body.get("cache_control") else []
    marks += [block["cache_control"] for block in _in_prefix_order(body) if block.get("cache_control")]
    if len(marks) > _MAX_MARKS:
        raise BadRequest(f"A maximum of {_MAX_MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
    short = False
    for mark in marks:
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral" or mark.get("ttl", "5m") not in ("5m", "1h"):
            raise BadRequest("cache_control: Input does not match the expected shape.")
        if short and mark.get("ttl") == "1h":
            raise BadRequest("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.")
        short = short or mark.get("ttl") != "1h"


def _in_prefix_order(body: JsonObject) -> Iterator[JsonObject]:
    yield from body.get("tools") or ()
    yield from (block for block in body.get("system") or () if isinstance(block, dict))
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            inner = block.get("content") if block["type"] == "tool_result" else None
            yield from inner if isinstance(inner, list) else ()
            if block["type"] == "thinking" and block.get("cache_control"):
                raise BadRequest("cache_control cannot be set on thinking blocks")
            yield block

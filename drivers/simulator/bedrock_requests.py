"""What Converse refuses: checks a request's body as strictly as AWS Bedrock does, in its words.

Source: the service model of bedrock-runtime (shapes, lengths, patterns) and error texts as the service sends them.
Rules of single models are not here, but for who may speak first: the simulator's models have made-up names.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from loopforge.drivers.turn import JsonObject

_FIELDS = frozenset({
    "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields",
    "promptVariables", "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "serviceTier",
    "outputConfig",
})  # fmt: skip
_OF_USERS = frozenset({
    "text", "image", "document", "video", "audio", "toolResult", "cachePoint", "guardContent", "searchResult",
})  # fmt: skip
_OF_ASSISTANTS = frozenset({"text", "toolUse", "reasoningContent", "cachePoint", "citationsContent", "image"})
_IN_RESULTS = frozenset({"text", "json", "image", "document", "video", "searchResult"})
_IMAGES = ("png", "jpeg", "gif", "webp")
_DOCUMENTS = ("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_DOCUMENT_NAME = re.compile(r"[A-Za-z0-9()\[\]_-]+( [A-Za-z0-9()\[\]_-]+)*")
_MAX_POINTS = 4
_MAX_NAME = 200
_MAY_BEGIN = ("anthropic.", "qwen.", "zai.", "moonshot")


class BadRequest(Exception):
    """The body is refused with status 400, a ValidationException."""


def check_request(raw: bytes, model: str, *, reject_unknown: bool) -> JsonObject:
    """The request's body, checked. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("Unexpected character in the request body.") from None
    if not isinstance(body, dict):
        raise BadRequest("The request body is not an object.")
    if reject_unknown:
        for name in body.keys() - _FIELDS:
            raise BadRequest(
                f"Malformed input request: #: extraneous key [{name}] is not permitted, please reformat your input and "
                "try again."
            )
    _check_inference(body.get("inferenceConfig", {}))
    _check_system(body.get("system", []))
    names = _check_tool_config(body.get("toolConfig"))
    _check_messages(body, model, has_tools=names is not None)
    _check_points(body)
    _check_output(body.get("outputConfig"))
    if not isinstance(body.get("additionalModelRequestFields", {}), dict):
        raise BadRequest("additionalModelRequestFields is not an object.")
    return body


def _object(value: Any, at: str) -> JsonObject:
    if not isinstance(value, dict):
        raise BadRequest(
            f"1 validation error detected: Value at '{at}' failed to satisfy constraint: Member must be an object"
        )
    return value


def _listed(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(
            f"1 validation error detected: Value at '{at}' failed to satisfy constraint: Member must be a list"
        )
    return value


def _no_more(value: JsonObject, known: Iterable[str], at: str) -> None:
    if unknown := sorted(value.keys() - set(known)):
        raise BadRequest(f"#/{at.replace('.', '/')}: extraneous key [{unknown[0]}] is not permitted")


def _one_of(block: Any, known: Iterable[str], at: str) -> tuple[str, Any]:
    """The one member of a union."""
    block = _object(block, at)
    if len(block) != 1 or next(iter(block)) not in set(known):
        raise BadRequest(f"The content block at {at} must have exactly one member, of {', '.join(sorted(known))}.")
    kind = next(iter(block))
    return kind, block[kind]


# -- settings, tools --------------------------------------------------------------------------------------------------


def _check_inference(config: Any) -> None:
    config = _object(config, "inferenceConfig")
    _no_more(config, ("maxTokens", "temperature", "topP", "stopSequences"), "inferenceConfig")
    tokens = config.get("maxTokens", 1)
    if not isinstance(tokens, int) or tokens < 1:
        raise BadRequest("maxTokens must be greater than or equal to 1")
    for name in ("temperature", "topP"):
        value = config.get(name, 0)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadRequest(f"1 validation error detected: {name} must be between 0 and 1")
    for stop in _listed(config.get("stopSequences", []), "inferenceConfig.stopSequences"):
        if not isinstance(stop, str) or not stop:
            raise BadRequest("stopSequences must have length greater than or equal to 1")


def _check_system(system: Any) -> None:
    for number, block in enumerate(_listed(system, "system")):
        kind, value = _one_of(block, ("text", "cachePoint", "guardContent"), f"system.{number}")
        if kind == "text":
            _check_text(value, f"system.{number}", "SystemContentBlock")
        if not number and kind == "cachePoint":
            raise BadRequest("A cachePoint must follow content.")


def _check_tool_config(config: Any) -> list[str] | None:
    """The names of the tools; None without them."""
    if config is None:
        return None
    config = _object(config, "toolConfig")
    _no_more(config, ("tools", "toolChoice"), "toolConfig")
    tools = _listed(config.get("tools"), "toolConfig.tools")
    if not tools:
        raise BadRequest("toolConfig.tools must have length greater than or equal to 1")
    names = []
    for number, tool in enumerate(tools):
        kind, value = _one_of(tool, ("toolSpec", "systemTool", "cachePoint"), f"toolConfig.tools.{number}")
        if kind == "toolSpec":
            names.append(_check_spec(value, f"toolConfig.tools.{number}.toolSpec"))
        if not number and kind == "cachePoint":
            raise BadRequest("A cachePoint must follow content.")
    if len(set(names)) < len(names):
        raise BadRequest("The tool names must be unique.")
    _check_choice(config.get("toolChoice", {"auto": {}}), names)
    return names


def _check_spec(spec: Any, at: str) -> str:
    spec = _object(spec, at)
    _no_more(spec, ("name", "description", "inputSchema", "strict"), at)
    name = spec.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadRequest(f"Value at '{at}.name' failed to satisfy constraint: must match pattern: [a-zA-Z0-9_-]+")
    if not isinstance(spec.get("description", "x"), str) or not spec.get("description", "x"):
        raise BadRequest(f"Value at '{at}.description' must have length greater than or equal to 1")
    _, schema = _one_of(spec.get("inputSchema"), ("json",), f"{at}.inputSchema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise BadRequest(f"The value at {at}.inputSchema.json.type must be one of the following: object.")
    return name


def _check_choice(choice: Any, names: list[str]) -> None:
    kind, value = _one_of(choice, ("auto", "any", "tool"), "toolConfig.toolChoice")
    if kind == "tool" and _object(value, "toolConfig.toolChoice.tool").get("name") not in names:
        raise BadRequest("toolConfig.toolChoice.tool.name is not the name of a tool in toolConfig.tools.")


def _check_output(config: Any) -> None:
    if config is None:
        return
    match config:
        case {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": str(text)}}}}:
            try:
                schema = json.loads(text)
            except ValueError:
                schema = None
            if isinstance(schema, dict):
                return
    raise BadRequest("outputConfig.textFormat holds no JSON schema.")


# -- messages ---------------------------------------------------------------------------------------------------------


def _check_messages(body: JsonObject, model: str, *, has_tools: bool) -> None:
    messages = _listed(body.get("messages"), "messages")
    if not messages:
        raise BadRequest("The messages field is empty.")
    waiting: list[str] = []
    seen: set[str] = set()
    documents: set[str] = set()
    before = ""
    for number, item in enumerate(messages):
        at = f"messages.{number}"
        message = _object(item, at)
        _no_more(message, ("role", "content"), at)
        role = message.get("role")
        if role not in ("user", "assistant"):
            raise BadRequest(f"Value '{role}' at '{at}.role' failed to satisfy constraint")
        if not number and role != "user" and not any(name in model for name in _MAY_BEGIN):
            raise BadRequest(
                "A conversation must start with a user message. Try again with a conversation that starts with a user "
                "message."
            )
        if role == before:
            raise BadRequest(
                "A conversation must alternate between user and assistant roles. Make sure the conversation alternates "
                "between user and assistant roles and try again."
            )
        before = role
        content = _listed(message.get("content"), f"{at}.content")
        if not content:
            raise BadRequest(
                f"The content field in the Message object at {at} is empty. Add a ContentBlock object to the content "
                "field and try again."
            )
        blocks = [
            (*_one_of(block, _OF_USERS if role == "user" else _OF_ASSISTANTS, f"{at}.content.{place}"), place)
            for place, block in enumerate(content)
        ]
        for kind, value, place in blocks:
            _check_block(kind, value, f"{at}.content.{place}", documents)
        kinds = [kind for kind, _, _ in blocks]
        _check_places(kinds, at)
        if not has_tools and {"toolUse", "toolResult"} & set(kinds):
            raise BadRequest("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
        _check_results([value["toolUseId"] for kind, value, _ in blocks if kind == "toolResult"], waiting, number)
        waiting = [value["toolUseId"] for kind, value, _ in blocks if kind == "toolUse"]
        for call_id in waiting:
            if call_id in seen:
                raise BadRequest(f"{at}: the toolUse id {call_id} is used twice.")
            seen.add(call_id)
    if waiting:
        raise _unanswered(waiting, len(messages))


def _check_places(kinds: list[str], at: str) -> None:
    if "document" in kinds and "text" not in kinds:
        raise BadRequest(f"{at}: a text block is required when a document is present.")
    for place, kind in enumerate(kinds):
        if kind == "cachePoint" and (not place or kinds[place - 1] in ("document", "video", "cachePoint")):
            raise BadRequest(f"{at}.content.{place}: a cachePoint cannot stand here.")
    if kinds[-1] == "reasoningContent":
        raise BadRequest(f"{at}: the final block in an assistant message cannot be thinking.")


def _check_text(text: Any, at: str, shape: str = "ContentBlock") -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(
            f"The text field in the {shape} object at {at} is blank. Add text to the text field, and try again."
        )


def _check_block(kind: str, value: Any, at: str, documents: set[str]) -> None:
    match kind:
        case "text":
            _check_text(value, at)
        case "image":
            value = _object(value, at)
            if value.get("format") not in _IMAGES:
                raise BadRequest(f"{at}.image.format: must be one of {', '.join(_IMAGES)}")
            _check_source(value.get("source"), f"{at}.image.source")
        case "document":
            _check_document(value, f"{at}.document", documents)
        case "toolUse":
            value = _object(value, at)
            _no_more(value, ("toolUseId", "name", "input", "type"), f"{at}.toolUse")
            _check_id(value, at)
            if not isinstance(value.get("name"), str) or not _NAME.fullmatch(value["name"]):
                raise BadRequest(f"Value at '{at}.toolUse.name' failed to satisfy constraint")
            if not isinstance(value.get("input"), dict):
                raise BadRequest(f"The format of the value at {at}.toolUse.input is invalid. Provide a json object.")
        case "toolResult":
            _check_result(value, at, documents)
        case "reasoningContent":
            _check_thinking(value, at)
        case "cachePoint":
            value = _object(value, at)
            if value.get("type") != "default" or value.get("ttl", "5m") not in ("5m", "1h"):
                raise BadRequest(f"{at}.cachePoint failed to satisfy constraint")


def _check_id(value: JsonObject, at: str) -> None:
    call_id = value.get("toolUseId")
    if not isinstance(call_id, str) or not _ID.fullmatch(call_id):
        raise BadRequest(
            f"Value at '{at}.toolUseId' failed to satisfy constraint: must match pattern: [a-zA-Z0-9_.:-]+"
        )


def _check_source(source: Any, at: str) -> None:
    kind, value = _one_of(source, ("bytes", "s3Location", "text", "content"), at)
    if kind == "bytes":
        try:
            base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise BadRequest(f"{at}.bytes is not base64") from None
    elif kind == "s3Location" and not str(_object(value, at).get("uri", "")).startswith("s3://"):
        raise BadRequest(f"{at}.s3Location.uri failed to satisfy constraint")


def _check_document(document: Any, at: str, names: set[str]) -> None:
    document = _object(document, at)
    _no_more(document, ("name", "source", "format", "context", "citations"), at)
    name = document.get("name")
    if not isinstance(name, str) or len(name) > _MAX_NAME or not _DOCUMENT_NAME.fullmatch(name):
        raise BadRequest(
            "The document file name can only contain alphanumeric characters, whitespace characters, hyphens, "
            "parentheses, and square brackets. The name can't contain more than one consecutive whitespace character."
        )
    if name in names:
        raise BadRequest("The document names must be unique.")
    names.add(name)
    if document.get("format", "txt") not in _DOCUMENTS:
        raise BadRequest(f"{at}.format: must be one of {', '.join(_DOCUMENTS)}")
    _check_source(document.get("source"), f"{at}.source")


def _check_result(value: Any, at: str, documents: set[str]) -> None:
    value = _object(value, at)
    _no_more(value, ("toolUseId", "content", "status", "type"), f"{at}.toolResult")
    _check_id(value, at)
    if value.get("status", "success") not in ("success", "error"):
        raise BadRequest(f"{at}.toolResult.status failed to satisfy constraint")
    content = _listed(value.get("content"), f"{at}.toolResult.content")
    if not content and value.get("status") == "error":
        raise BadRequest(f"{at}.toolResult.content is empty.")
    for number, block in enumerate(content):
        kind, inner = _one_of(block, _IN_RESULTS, f"{at}.toolResult.content.{number}")
        _check_block(kind, inner, f"{at}.toolResult.content.{number}", documents)


def _check_thinking(value: Any, at: str) -> None:
    kind, inner = _one_of(value, ("reasoningText", "redactedContent"), f"{at}.reasoningContent")
    if kind == "reasoningText" and not _object(inner, at).get("signature"):
        raise BadRequest(f"{at}.reasoningContent.reasoningText.signature: Field required")


def _check_results(answered: list[str], waiting: list[str], number: int) -> None:
    if missing := [call_id for call_id in waiting if call_id not in answered]:
        raise _unanswered(missing, number)
    if len(answered) > len(waiting) or len(set(answered)) < len(answered) or set(answered) - set(waiting):
        raise BadRequest(
            f"The number of toolResult blocks at messages.{number}.content exceeds the number of toolUse blocks of "
            "previous turn."
        )


def _unanswered(ids: list[str], number: int) -> BadRequest:
    return BadRequest(
        f"Expected toolResult blocks at messages.{number}.content for the following Ids: {', '.join(ids)}"
    )


def _check_points(body: JsonObject) -> None:
    found = sum("cachePoint" in block for block in _blocks(body))
    if found > _MAX_POINTS:
        raise BadRequest(f"You can't specify more than {_MAX_POINTS} cachePoints.")


def _blocks(body: JsonObject) -> Iterator[JsonObject]:
    yield from (body.get("toolConfig") or {}).get("tools", ())
    yield from body.get("system", ())
    for message in body["messages"]:
        yield from message["content"]

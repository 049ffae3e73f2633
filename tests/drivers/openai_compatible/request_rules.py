"""What a request body of this wire has to look like: rules that share nothing with the code that writes it.

From the wire's reference: fields and their forms, the order of messages, and what single vendors refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

COMMON_FIELDS = {
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "stop", "seed", "random_seed", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort",
}  # fmt: skip
OWN_FIELDS = {
    "deepseek": {"thinking"},
    "kimi": {"thinking"},
    "qwen": {"enable_thinking", "thinking_budget"},
    "glm": {"thinking", "tool_stream"},
    "minimax": {"thinking", "reasoning_split"},
    "nvidia": {"chat_template_kwargs"},
    "vllm": {"chat_template_kwargs"},
    "llamacpp": {"chat_template_kwargs"},
    "openrouter": {"reasoning"},
    "groq": {"reasoning_format"},
}
MESSAGE_FIELDS = {
    "system": {"role", "content"},
    "developer": {"role", "content"},
    "user": {"role", "content"},
    "tool": {"role", "content", "tool_call_id", "name"},
    "assistant": {
        "role", "content", "tool_calls", "refusal", "prefix", "reasoning_content", "reasoning", "reasoning_details",
        "extra_content", "annotations",
    },
}  # fmt: skip
NO_IMAGES = {"deepseek"}
JSON_OBJECT_ONLY = {"deepseek", "kimi", "qwen", "glm"}


def problems(body: Json, vendor: str) -> list[str]:
    """Every rule that the body breaks; none for a good one."""
    return [*_fields(body, vendor), *_messages(body["messages"], vendor), *_tools(body, vendor)]


def _fields(body: Json, vendor: str) -> Iterator[str]:
    if unknown := body.keys() - COMMON_FIELDS - OWN_FIELDS.get(vendor, set()):
        yield f"unknown fields {sorted(unknown)}"
    if nulls := [name for name, value in body.items() if value is None]:
        yield f"null fields {nulls}"
    if not isinstance(body["stream"], bool):
        yield "stream is not said"
    if "stream_options" in body and not body["stream"]:
        yield "stream_options without a stream"
    if {"max_tokens", "max_completion_tokens"} <= body.keys():
        yield "two token limits"
    if not 0 <= body.get("temperature", 1) <= (1 if vendor in ("minimax", "glm") else 2):
        yield "temperature out of range"
    if vendor == "minimax" and body.get("temperature") == 0:
        yield "MiniMax wants a temperature above 0"
    stop = body.get("stop", ["x"])
    if not (isinstance(stop, list) and 1 <= len(stop) <= 4):
        yield "stop is no list of 1 to 4"
    if ("random_seed" in body) != ("random_seed" in body and vendor == "mistral") or (
        vendor == "mistral" and "seed" in body
    ):
        yield "the seed has another name"
    yield from _response_format(body, vendor)


def _response_format(body: Json, vendor: str) -> Iterator[str]:
    wanted = body.get("response_format")
    if wanted is None:
        return
    if vendor in JSON_OBJECT_ONLY and wanted["type"] != "json_object":
        yield f"{vendor} knows no {wanted['type']}"
    if vendor == "lmstudio" and wanted["type"] == "json_object":
        yield "LM Studio knows no json_object"
    if vendor == "groq" and body.get("tools"):
        yield "Groq takes no JSON mode with tools"
    if wanted["type"] == "json_object" and "json" not in str(body["messages"]).lower():
        yield "the prompt lacks the word JSON"
    if wanted["type"] == "json_schema":
        inner = wanted["json_schema"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", inner["name"]):
            yield "the schema has no proper name"
        if inner.get("strict"):
            yield from _strictness(inner["schema"], "answer")


def _strictness(schema: Any, place: str) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _strictness(item, place)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            yield f"{place}: 'additionalProperties' is required to be supplied and to be false"
        if set(schema.get("properties", {})) - set(schema.get("required", [])):
            yield f"{place}: 'required' has to hold every property"
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions"):
            for inner in value.values():
                yield from _strictness(inner, f"{place}/{name}")
        elif name not in ("enum", "const", "default", "examples", "required"):
            yield from _strictness(value, f"{place}/{name}")


def _messages(messages: list[Json], vendor: str) -> Iterator[str]:
    if not messages:
        yield "no messages"
    open_calls: list[str] = []
    before = ""
    for number, message in enumerate(messages):
        role = message["role"]
        if role not in MESSAGE_FIELDS:
            yield f"role {role}"
            continue
        if unknown := message.keys() - MESSAGE_FIELDS[role]:
            yield f"message {number} has {sorted(unknown)}"
        if role == "developer" and vendor not in ("openai", "azure"):
            yield "only OpenAI knows developer"
        if role in ("system", "developer") and number and vendor not in (
            "openai", "azure", "openrouter", "groq", "xai"
        ):  # fmt: skip
            yield "a system message after the first"
        if role == "tool":
            if message["tool_call_id"] not in open_calls:
                yield f"message {number} answers no call"
            else:
                open_calls.remove(message["tool_call_id"])
            if not isinstance(message["content"], str):
                yield "a tool result that is no string"
        elif open_calls:
            yield f"message {number} comes before the results of {open_calls}"
        if role == "user" and before == "tool" and vendor == "mistral":
            yield "Mistral takes no user message after a tool's"
        yield from _content(message, vendor)
        for call in message.get("tool_calls", ()):
            yield from _call(call, vendor)
            open_calls.append(call["id"])
        before = role
    if open_calls:
        yield f"calls without results: {open_calls}"
    if before == "assistant" and vendor == "mistral" and not messages[-1].get("prefix"):
        yield "Mistral's last assistant message wants prefix"


def _content(message: Json, vendor: str) -> Iterator[str]:
    role, content = message["role"], message["content"]
    if content is None:
        if role != "assistant" or not (message.get("tool_calls") or message.get("refusal")):
            yield f"a {role} message with null content"
        return
    if isinstance(content, str):
        return
    kinds = [part["type"] for part in content]
    if role == "user" and set(kinds) == {"text"} and not any("cache_control" in part for part in content):
        yield "plain text that is no string"
    if "image_url" in kinds and vendor in NO_IMAGES:
        yield f"{vendor} takes no images"
    for part in content:
        match part:
            case {"type": "text", "text": str()} | {"type": "thinking", "thinking": list()}:
                pass
            case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith(("data:image/", "https://")):
                pass
            case {"type": "input_audio", "input_audio": {"data": str(), "format": str()}}:
                pass
            case {"type": "file", "file": {"filename": str(), "file_data": str()}}:
                pass
            case _:
                yield f"a part {part}"


def _call(call: Json, vendor: str) -> Iterator[str]:
    if vendor == "mistral" and not re.fullmatch("[A-Za-z0-9]{9}", call["id"]):
        yield "Mistral's call ids have 9 letters and digits"
    if vendor in ("openai", "azure") and not 0 < len(call["id"]) <= 40:
        yield "OpenAI's call ids have at most 40 characters"
    if call["type"] == "custom":
        return
    try:
        if not isinstance(json.loads(call["function"]["arguments"]), dict):
            yield "arguments that are no object"
    except ValueError:
        yield "arguments that are no JSON"


def _tools(body: Json, vendor: str) -> Iterator[str]:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body:
                yield f"{name} without tools"
        return
    if not tools:
        yield "an empty list of tools"
    for tool in tools:
        function = tool["function"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", function["name"]):
            yield f"tool name {function['name']!r}"
        parameters = function["parameters"]
        if parameters.get("type") == "object" and "properties" not in parameters:
            yield "parameters without properties"
        if function.get("strict"):
            yield from _strictness(parameters, function["name"])
        if "strict" in function and vendor not in ("openai", "azure", "mistral"):
            yield f"{vendor} knows no strict tools"
    choice = body.get("tool_choice", "auto")
    names = {tool["function"]["name"] for tool in tools}
    if isinstance(choice, dict):
        if choice.get("function", {}).get("name") not in names:
            yield "tool_choice names no tool"
    elif choice not in {"auto", "none", "any" if vendor == "mistral" else "required"}:
        yield f"tool_choice {choice}"

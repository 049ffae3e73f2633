"""The conversation of a turn as this wire's messages, in the form of the path that the model answers on.

Content is a string on the path for text, and a list of parts on the other. Everything that leaves here keeps the order
that both insist on: one system message, in front, and one result for each call directly after the message that made it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from loopforge.drivers.conversation import arguments_object, check_order, wire_call_id
from loopforge.drivers.dashscope_native.draft import Draft
from loopforge.drivers.dashscope_native.parts import content_parts, is_text, joined, text_part
from loopforge.drivers.json_values import parse_object, to_json
from loopforge.drivers.turn import (
    JsonObject,
    Message,
    OpaquePart,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")
_CALL_ID: Final = r"[A-Za-z0-9_.:-]{1,128}"
_CALL_ID_CHARS: Final = 24


def build_messages(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """The wire's `messages`. Raises TurnRefused for a conversation that the wire does not take, or such media."""
    if not any(message.role in ("user", "tool") for message in messages):
        raise draft.refuse("the turn has no user message", "add one: a system message alone asks nothing")
    check_order(messages, draft)
    last_user = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    system = _system_parts(messages, draft)
    wire: list[JsonObject] = []
    media: list[JsonObject] = []  # of tool results: it waits for the last of them, then follows as a user message
    for number, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role == "assistant":
            _append_user(wire, media, draft)
            media = []
            _append_assistant(wire, message, draft)
            continue
        results = [part for part in message.content if isinstance(part, ToolResult)]
        wire += [_tool_message(result, media, draft) for result in results]
        if content := list(content_parts(message.content, draft, asked=number >= last_user)):
            _append_user(wire, [*media, *content], draft)
            media = []
    _append_user(wire, media, draft)
    if not any(message["role"] in ("user", "tool") for message in wire):
        raise draft.refuse("the turn's user messages are all empty", "say something in the last one")
    if wire[-1]["role"] == "assistant":
        wire[-1]["partial"] = True  # the answer goes on from there
    if system:
        _put_system(wire, system, draft)
    return wire


def add_instruction(wire: list[JsonObject], text: str, draft: Draft) -> None:
    """Append a sentence to the system message, which is made when there is none."""
    first = wire[0]
    if first["role"] != "system":
        _put_system(wire, [text_part(text)], draft)
    elif isinstance(first["content"], str):
        first["content"] = f"{first['content']}\n\n{text}"
    else:
        first["content"] = [*first["content"], text_part(f"\n\n{text}")]


# -- system -----------------------------------------------------------------------------------------------------------


def _system_parts(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """The texts of all system messages: an empty line stands between two of them."""
    parts: list[JsonObject] = []
    in_front = True
    for message in messages:
        if message.role != "system":
            in_front = False
            continue
        if not in_front:
            draft.note("this wire takes a system message at the start only: later ones were moved there")
        said = [part for part in message.content if isinstance(part, Text) and part.text]
        if any(not isinstance(part, Text) for part in message.content):
            draft.note("parts of a system message that are not text were left out")
        for number, part in enumerate(said):
            text = f"\n\n{part.text}" if parts and not number else part.text
            parts.append({**text_part(text), **draft.cache_member(part.cache)})
    return parts


def _put_system(wire: list[JsonObject], parts: list[JsonObject], draft: Draft) -> None:
    if draft.profile.system:
        wire.insert(0, {"role": "system", "content": _content(parts, draft)})
        return
    draft.note(f"{draft.model} takes no system message: it was put before the first user message")
    first = next(message for message in wire if message["role"] in ("user", "tool"))
    text = joined(parts)
    if isinstance(first["content"], str):
        first["content"] = f"{text}\n\n{first['content']}"
    else:
        first["content"] = [text_part(f"{text}\n\n"), *first["content"]]


# -- user and tool ----------------------------------------------------------------------------------------------------


def _append_user(wire: list[JsonObject], parts: list[JsonObject], draft: Draft) -> None:
    if parts:
        wire.append({"role": "user", "content": _content(parts, draft)})


def _content(parts: list[JsonObject], draft: Draft) -> str | list[JsonObject]:
    """Parts as the path has them. Documents by URL have a form of their own, on the path for text alone."""
    if draft.multimodal:
        return parts
    urls = [part["doc_url"] for part in parts if "doc_url" in part]
    if not urls:
        return joined(parts)
    texts = [{"type": "text", "text": part["text"]} for part in parts if is_text(part)]
    return [*texts, {"type": "doc_url", "doc_url": urls, "file_parsing_strategy": "auto"}]


def _tool_message(result: ToolResult, media: list[JsonObject], draft: Draft) -> JsonObject:
    """One result. Its images go to `media`: a tool message holds text alone. One not taken is left out."""
    for cache in (result.cache, *(part.cache for part in result.content)):
        draft.note_cache(cache)
    parts = list(content_parts((replace(part, cache="") for part in result.content), draft, asked=False))
    text = joined(parts)
    if rest := [part for part in parts if not is_text(part)]:
        media += [text_part(f"Result of {result.name or result.call_id}:"), *rest]
        text = text or "(in the next message)"
    if result.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    content = [text_part(text)] if draft.multimodal else text
    return {"role": "tool", "tool_call_id": _wire_id(result.call_id), "content": content}


# -- assistant --------------------------------------------------------------------------------------------------------


def _append_assistant(wire: list[JsonObject], message: Message, draft: Draft) -> None:
    texts: list[JsonObject] = []
    reasoning: list[str] = []
    for part in message.content:
        if isinstance(part, Text | ToolCall) and part.opaque is not None and not draft.made_here(part.opaque):
            draft.note("signatures of another provider or model were not sent")
        match part:
            case Text():
                if part.text:
                    texts.append({**text_part(part.text), **draft.cache_member(part.cache)})
            case Refusal():
                texts += [text_part(part.text)] if part.text else []
            case Thinking():
                if draft.made_here(part.opaque):
                    reasoning.append(part.text)
                else:
                    draft.note("earlier reasoning that is not of this provider and model was not sent")
            case OpaquePart():
                if not draft.made_here(part.opaque):
                    draft.note("opaque parts of another provider or model were not sent")
            case ToolCall():
                pass
            case _:
                draft.note(f"a {part.type} part of an assistant message was left out")
    calls = [_tool_call(call, number, draft) for number, call in enumerate(message.tool_calls)]
    if not texts and not calls:
        return
    result: JsonObject = {"role": "assistant", "content": texts if draft.multimodal else joined(texts)}
    if draft.echo and any(reasoning):
        result["reasoning_content"] = "".join(reasoning)
    if calls:
        result["tool_calls"] = calls
    wire.append(result)


def _tool_call(call: ToolCall, index: int, draft: Draft) -> JsonObject:
    function = {"name": _wire_name(call.name, draft), "arguments": _arguments(call, draft)}
    return {"id": _wire_id(call.id), "type": "function", "index": index, "function": function}


def _arguments(call: ToolCall, draft: Draft) -> str:
    """A string of a JSON object: the model's own words where they are one."""
    if not call.custom and call.arguments != "{}" and parse_object(call.arguments) is not None:
        return call.arguments
    return to_json(arguments_object(call, draft))


def _wire_id(call_id: str) -> str:
    return wire_call_id(call_id, pattern=_CALL_ID, chars=_CALL_ID_CHARS)


def _wire_name(name: str, draft: Draft) -> str:
    """The name as the wire takes it: earlier calls may come from a wire with other rules."""
    if TOOL_NAME.fullmatch(name):
        return name
    sent = _NOT_IN_NAMES.sub("_", name)[:64] or "_"
    draft.note(f"the tool {name!r} of an earlier call was called {sent!r}, as this wire takes names")
    return sent

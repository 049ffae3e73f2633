"""The conversation of a turn as wire messages: roles, content parts, tool calls and results, earlier reasoning.

One system message in front, then the others, the results of a message's tool calls directly after it, one message for
each. What cannot be put in that order is refused before it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from loopforge.drivers.conversation import arguments_object, call_names, check_order, wire_call_id
from loopforge.drivers.json_values import parse_object, to_json
from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    JsonObject,
    Message,
    OpaquePart,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from loopforge.drivers.zhipu_native.draft import Draft

TAGS: Final = "think"
"""The `field` of reasoning that came in front of the text, in <think> tags, as models without a field for it write."""
REASONING: Final = "reasoning_content"
_CALL_ID = r"[A-Za-z0-9_.:-]{1,64}"
_CALL_ID_CHARS = 24
_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")
_CACHE = "cache marks were not sent: this wire decides itself what it caches"


def build_messages(messages: Sequence[Message], draft: Draft, *, keeps_thinking: bool) -> list[JsonObject]:
    """The wire's `messages`. `keeps_thinking`: reasoning goes back on all earlier answers, not in a tool loop alone.

    Raises TurnRefused for a conversation that is not taken, or media that this model does not take.
    """
    if not messages:
        raise draft.refuse("the turn has no messages", "add at least one user message")
    check_order(messages, draft)
    names = call_names(messages)
    last_user = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    wire = _system_message(messages, draft)
    media: list[JsonObject] = []  # of tool results: it waits for the last of them, then follows as a user message
    for number, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role == "assistant":
            if media:
                wire.append(_user_message(media, draft))
                media = []
            _append_assistant(wire, message, draft, echoes=keeps_thinking or number > last_user)
            continue
        for part in message.content:
            if isinstance(part, ToolResult):
                wire.append(_tool_message(part, names, media, draft))
        asked = number >= last_user
        content = _content_parts(message.content, draft, asked=asked)
        if content or (message.role == "user" and not message.content):
            wire.append(_user_message([*media, *content], draft, asked=asked and not media))
            media = []
    if media:
        wire.append(_user_message(media, draft))
    if not any(message["role"] in ("user", "tool") for message in wire):
        raise draft.refuse("this wire wants more than system and assistant messages", "add a user message")
    return wire


def add_instruction(wire: list[JsonObject], text: str) -> None:
    """Append a sentence to the system message, which is made when there is none."""
    if not wire or wire[0]["role"] != "system":
        wire.insert(0, {"role": "system", "content": text})
    else:
        before = wire[0]["content"]
        wire[0]["content"] = f"{before}\n\n{text}" if before else text


def _system_message(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """The one system message, of all that the turn has; none when it has none."""
    found = [message for message in messages if message.role == "system"]
    if not found:
        return []
    if any(message.role == "system" for message in messages[len(found) :]):
        draft.note("this wire takes a system message at the start only: later ones were moved there")
    for message in found:
        for part in message.content:
            if not isinstance(part, Text):
                draft.note("parts of a system message that are not text were left out")
            elif part.cache:
                draft.note(_CACHE)
    return [{"role": "system", "content": "\n\n".join(message.text for message in found)}]


# -- what the user and tools say --------------------------------------------------------------------------------------


def _user_message(parts: list[JsonObject], draft: Draft, *, asked: bool = False) -> JsonObject:
    """Text alone is a string. Documents and images do not go into one message."""
    kinds = {part["type"] for part in parts}
    if kinds <= {"text"}:
        return {"role": "user", "content": "".join(part["text"] for part in parts)}
    if kinds >= {"image_url", "file_url"}:
        if asked:
            raise draft.refuse("this wire takes no document beside an image", "send them in messages of their own")
        draft.note("this wire takes no document beside an image: one of a tool or an earlier message was left out")
        left_out = {"type": "text", "text": "[document left out]"}
        parts = [left_out if part["type"] == "file_url" else part for part in parts]
    return {"role": "user", "content": parts}


def _content_parts(parts: Sequence[Part], draft: Draft, *, asked: bool) -> list[JsonObject]:
    wire: list[JsonObject] = []
    for part in parts:
        match part:
            case Text():
                if part.cache:
                    draft.note(_CACHE)
                wire.append({"type": "text", "text": part.text})
            case Image() | Document() | Audio():
                wire.append(_media_part(part, draft, asked=asked))
            case ToolResult():
                pass
            case _:
                draft.note(f"a {part.type} part of a user message was left out")
    return wire


def _media_part(part: Image | Document | Audio, draft: Draft, *, asked: bool) -> JsonObject:
    profile = draft.profile
    if not isinstance(part, Audio) and part.cache:
        draft.note(_CACHE)
    match part:
        case Image() if profile.images and (part.data or part.url):
            if part.detail:
                draft.note("this wire does not know an image's detail: it was not sent")
            return {"type": "image_url", "image_url": {"url": draft.encode(part.data) if part.data else part.url}}
        case Document() if part.data and (part.media_type.startswith("text/") or part.media_type in _TEXT_TYPES):
            head = f"[{part.name}]\n" if part.name else ""
            return {"type": "text", "text": head + part.data.decode("utf-8", "replace")}
        case Document() if profile.files and part.url:
            return {"type": "file_url", "file_url": {"url": part.url}}
        case Audio() if part.transcript:
            draft.note(f"{draft.model} takes no sound: its transcript was sent")
            return {"type": "text", "text": part.transcript}
    return _left_out(part, draft, asked=asked)


def _left_out(part: Image | Document | Audio, draft: Draft, *, asked: bool) -> JsonObject:
    """Media that the person asks about is refused; what a tool gave or the history holds is named and left out."""
    by_data = isinstance(part, Document) and part.data and draft.profile.files
    kind = "documents but by their URL" if by_data else f"{part.type}s"
    if asked:
        raise draft.refuse(f"{draft.model} takes no {kind}", "leave it out or route the turn to one that does")
    draft.note(f"{draft.model} takes no {kind}: one of a tool or an earlier message was left out")
    return {"type": "text", "text": f"[{part.type} left out]"}


def _tool_message(result: ToolResult, names: dict[str, str], media: list[JsonObject], draft: Draft) -> JsonObject:
    """One result. Its images go to `media`: a tool message is a string. None is refused: a model asked."""
    text = "".join(part.text for part in result.content if isinstance(part, Text))
    rest = [_media_part(part, draft, asked=False) for part in result.content if not isinstance(part, Text)]
    if any(part["type"] != "text" for part in rest):
        name = result.name or names.get(result.call_id, "")
        media += [{"type": "text", "text": f"Result of {name or result.call_id}:"}, *rest]
        text = text or "(in the next message)"
    else:
        text += "".join(part["text"] for part in rest)
    if result.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    if result.cache or any(part.cache for part in result.content):
        draft.note(_CACHE)
    return {"role": "tool", "tool_call_id": _call_id(result.call_id), "content": text}


# -- what the model said ----------------------------------------------------------------------------------------------


def _append_assistant(wire: list[JsonObject], message: Message, draft: Draft, *, echoes: bool) -> None:
    text = "".join(part.text for part in message.content if isinstance(part, Text | Refusal))
    calls = [_tool_call(call, draft) for call in message.tool_calls]
    thinking = _own_thinking(message, draft)
    result: JsonObject = {"role": "assistant", "content": text}
    if echoes and thinking.get(TAGS):
        result["content"] = f"<think>{thinking[TAGS]}</think>\n{text}"
    if echoes and thinking.get(REASONING):
        result[REASONING] = thinking[REASONING]
    if calls:
        result["tool_calls"] = calls
    for part in message.content:
        if not isinstance(part, Text | Refusal | Thinking | ToolCall | OpaquePart):
            draft.note(f"a {part.type} part of an assistant message was left out")
        elif isinstance(part, Text) and part.cache:
            draft.note(_CACHE)
    if text or calls:
        wire.append(result)


def _own_thinking(message: Message, draft: Draft) -> dict[str, str]:
    """The message's reasoning by the field it came in, byte for byte; that of another origin is left out and said.

    What a search of this provider found is not sent back, and not missed: the wire has no place for it.
    """
    texts: dict[str, str] = {}
    for part in message.content:
        if isinstance(part, Thinking):
            if (data := draft.data_of(part.opaque)) is None:
                draft.note("earlier reasoning that is not of this provider and model was not sent")
            else:
                name = str(data.get("field", REASONING))
                texts[name] = texts.get(name, "") + part.text
        elif isinstance(part, OpaquePart) and draft.data_of(part.opaque) is None:
            draft.note("opaque parts of another provider or model were not sent")
        elif isinstance(part, Text | ToolCall) and part.opaque is not None and draft.data_of(part.opaque) is None:
            draft.note("signatures of another provider or model were not sent")
    return texts


def _tool_call(call: ToolCall, draft: Draft) -> JsonObject:
    return {
        "id": _call_id(call.id),
        "type": "function",
        "function": {"name": call.name, "arguments": _arguments(call, draft)},
    }


def _arguments(call: ToolCall, draft: Draft) -> str:
    """A string of a JSON object, as servers parse it: the model's own words where they are one."""
    if not call.custom and call.arguments != "{}" and parse_object(call.arguments) is not None:
        return call.arguments
    return to_json(arguments_object(call, draft))


def _call_id(call_id: str) -> str:
    return wire_call_id(call_id, pattern=_CALL_ID, chars=_CALL_ID_CHARS)

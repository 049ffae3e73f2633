"""The conversation of a turn as wire messages: roles, content parts, tool calls and results, earlier reasoning.

Every message list that leaves here keeps the order all vendors insist on: a system message first, the results of a
message's tool calls directly after it, one for each. What cannot be put in that order is refused before it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from loopforge.drivers.conversation import arguments_object, call_names, check_order, wire_call_id
from loopforge.drivers.json_values import parse_object, to_json
from loopforge.drivers.openai_compatible.draft import Draft
from loopforge.drivers.openai_compatible.echo import add_reasoning
from loopforge.drivers.turn import (
    Audio,
    CacheMark,
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

_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")
_SOUND_FORMATS = {"audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wave": "wav", "audio/x-wav": "wav"}


def build_messages(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """The wire's `messages`. Raises TurnRefused for a conversation that no vendor takes, or media this one does not."""
    if not messages:
        raise draft.refuse("the turn has no messages", "add at least one user message")
    check_order(messages, draft)
    names = call_names(messages)
    last_user = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    wire = _system_messages(messages, draft)
    media: list[JsonObject] = []  # of tool results: it waits for the last of them, then follows as a user message
    in_front = bool(wire)
    for number, message in enumerate(messages):
        if message.role == "system":
            if not in_front and draft.profile.systems == "anywhere":
                wire.append(_system_message([message], draft))
            continue
        in_front = False
        if message.role == "assistant":
            if media:
                _append_user(wire, media, draft)
                media = []
            _append_assistant(wire, message, draft, in_tool_loop=number > last_user)
            continue
        results = [part for part in message.content if isinstance(part, ToolResult)]
        for result in results:
            wire.append(_tool_message(result, names, media, draft))
        content = _content_parts(message.content, draft, asked=number >= last_user)
        if content or (message.role == "user" and not message.content):
            _append_user(wire, [*media, *content], draft)
            media = []
    if media:
        _append_user(wire, media, draft)
    if not wire:
        raise draft.refuse("the turn's messages are all empty", "add at least one user message with text")
    if wire[-1]["role"] == "assistant" and draft.profile.last_assistant_prefix:
        wire[-1]["prefix"] = True
    return wire


def add_instruction(wire: list[JsonObject], text: str, draft: Draft) -> None:
    """Append a sentence to the system message, which is made when there is none."""
    role = draft.profile.system_role
    first = wire[0] if wire and wire[0]["role"] == role else None
    if first is None:
        wire.insert(0, {"role": role, "content": text})
    elif isinstance(first["content"], str):
        first["content"] = f"{first['content']}\n\n{text}" if first["content"] else text
    else:
        first["content"] = [*first["content"], {"type": "text", "text": text}]


def _system_messages(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """The one message in front: of the leading system messages, or of all where a vendor takes them nowhere else."""
    leading = 0
    while leading < len(messages) and messages[leading].role == "system":
        leading += 1
    front = list(messages[:leading])
    later = [message for message in messages[leading:] if message.role == "system"]
    if later and draft.profile.systems == "first":
        draft.note(f"{draft.vendor} takes a system message at the start only: later ones were moved there")
        front += later
    return [_system_message(front, draft)] if front else []


def _system_message(messages: Sequence[Message], draft: Draft) -> JsonObject:
    texts = [part for message in messages for part in message.content if isinstance(part, Text)]
    if any(not isinstance(part, Text) for message in messages for part in message.content):
        draft.note("parts of a system message that are not text were left out")
    role = draft.profile.system_role
    if role == "user":
        draft.note(f"{draft.model} takes no system message: it was sent as a user message")
    if any(part.cache for part in texts) and draft.profile.cache_marks:
        return {"role": role, "content": [_text_part(part.text, part.cache, draft) for part in texts]}
    for part in texts:
        _note_cache(part.cache, draft)
    return {"role": role, "content": "\n\n".join(message.text for message in messages)}


def _append_user(wire: list[JsonObject], parts: list[JsonObject], draft: Draft) -> None:
    if not draft.profile.user_after_tool and wire and wire[-1]["role"] == "tool":
        draft.note(f"{draft.vendor} takes no user message after a tool result: an assistant message was put between")
        wire.append({"role": "assistant", "content": "OK."})
    if all(part.keys() == {"type", "text"} for part in parts):
        wire.append({"role": "user", "content": "".join(part["text"] for part in parts)})
    else:
        wire.append({"role": "user", "content": parts})


def _content_parts(parts: Sequence[Part], draft: Draft, *, asked: bool) -> list[JsonObject]:
    wire = []
    for part in parts:
        match part:
            case Text():
                wire.append(_text_part(part.text, part.cache, draft))
            case Image() | Document() | Audio():
                wire.append(_media_part(part, draft, asked=asked))
            case ToolResult():
                pass
            case _:
                draft.note(f"a {part.type} part of a user message was left out")
    return wire


def _text_part(text: str, cache: CacheMark, draft: Draft) -> JsonObject:
    part: JsonObject = {"type": "text", "text": text}
    if cache and draft.profile.cache_marks:
        part["cache_control"] = {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}
    else:
        _note_cache(cache, draft)
    return part


def _note_cache(cache: CacheMark, draft: Draft) -> None:
    if cache and not draft.profile.cache_marks:
        draft.note(f"cache marks were not sent: {draft.vendor} decides itself what it caches")


def _media_part(part: Image | Document | Audio, draft: Draft, *, asked: bool) -> JsonObject:
    profile = draft.profile
    match part:
        case Image() if profile.images and (part.data or (part.url and profile.image_urls)):
            image: JsonObject = {"url": draft.data_url(part.data, part.media_type) if part.data else part.url}
            if part.detail:
                image["detail"] = part.detail
            return _with_cache({"type": "image_url", "image_url": image}, part.cache, draft)
        case Document() if part.data and (part.media_type.startswith("text/") or part.media_type in _TEXT_TYPES):
            head = f"[{part.name}]\n" if part.name else ""
            return _text_part(head + part.data.decode("utf-8", "replace"), part.cache, draft)
        case Document() if profile.files and (part.data or (part.url and profile.file_urls)):
            data = draft.data_url(part.data, part.media_type) if part.data else part.url
            file = {"filename": part.name or "document.pdf", "file_data": data}
            return _with_cache({"type": "file", "file": file}, part.cache, draft)
        case Audio() if profile.audio and part.data:
            sound = _SOUND_FORMATS.get(part.media_type, part.media_type.partition("/")[2] or "wav")
            return {"type": "input_audio", "input_audio": {"data": draft.encode(part.data), "format": sound}}
        case Audio() if part.transcript:
            draft.note(f"{draft.vendor} takes no sound: its transcript was sent")
            return {"type": "text", "text": part.transcript}
    return _left_out(part, draft, asked=asked)


def _left_out(part: Image | Document | Audio, draft: Draft, *, asked: bool) -> JsonObject:
    """Media that the person asks about is refused; what a tool gave or the history holds is named and left out."""
    kind = f"{part.type} URLs" if isinstance(part, Image | Document) and part.url else f"{part.type}s"
    if asked:
        raise draft.refuse(f"{draft.vendor} takes no {kind} here", "leave it out or route the turn to one that does")
    draft.note(f"{draft.vendor} takes no {kind} here: one of a tool or an earlier message was left out")
    return {"type": "text", "text": f"[{part.type} left out]"}


def _with_cache(wire: JsonObject, cache: CacheMark, draft: Draft) -> JsonObject:
    if cache:
        draft.note("cache marks were sent on text parts only")
    return wire


def _tool_message(result: ToolResult, names: dict[str, str], media: list[JsonObject], draft: Draft) -> JsonObject:
    """One result. Its images go to `media`: a tool message cannot hold them. None is refused: a model asked."""
    text = "".join(part.text for part in result.content if isinstance(part, Text))
    name = result.name or names.get(result.call_id, "")
    rest = [_media_part(part, draft, asked=False) for part in result.content if not isinstance(part, Text)]
    if any(part["type"] != "text" for part in rest):
        media += [{"type": "text", "text": f"Result of {name or result.call_id}:"}, *rest]
        text = text or "(in the next message)"
    else:
        text += "".join(part["text"] for part in rest)
    if result.is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"
    for cache in (result.cache, *(part.cache for part in result.content)):
        if cache:
            draft.note("cache marks on tool results were not sent")
    message: JsonObject = {"role": "tool", "tool_call_id": _call_id(result.call_id, draft), "content": text}
    if name and draft.profile.tool_result_name:
        message["name"] = name
    return message


def _append_assistant(wire: list[JsonObject], message: Message, draft: Draft, *, in_tool_loop: bool) -> None:
    calls = [_tool_call(call, draft) for call in message.tool_calls]
    text = "".join(part.text for part in message.content if isinstance(part, Text))
    refusal = message.refusal
    if refusal and not draft.profile.strict_tools:  # those that know strict mode know the refusal field
        text, refusal = text + refusal, ""
    result: JsonObject = {"role": "assistant", "content": text}
    if calls:
        result["content"] = text or ("" if draft.profile.empty_content == "" else None)
        result["tool_calls"] = calls
    if refusal:
        result |= {"content": text or None, "refusal": refusal}
    add_reasoning(result, message, draft, in_tool_loop=in_tool_loop)
    for part in message.content:
        if not isinstance(part, Text | Thinking | ToolCall | Refusal | OpaquePart):
            draft.note(f"a {part.type} part of an assistant message was left out")
        elif isinstance(part, Text):
            _note_cache(part.cache, draft)
            if part.opaque is not None and draft.data_of(part.opaque) is None:
                draft.note("signatures of another provider or model were not sent")
    if result["content"] or calls or refusal:
        wire.append(result)


def _tool_call(call: ToolCall, draft: Draft) -> JsonObject:
    wire: JsonObject = {"id": _call_id(call.id, draft)}
    if call.custom and draft.profile.custom_tools:
        wire |= {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    else:
        wire |= {"type": "function", "function": {"name": call.name, "arguments": _arguments(call, draft)}}
    if call.opaque is not None:
        data = draft.data_of(call.opaque)
        if data is None:
            draft.note("signatures on tool calls of another provider or model were not sent")
        elif "extra_content" in data:
            wire["extra_content"] = data["extra_content"]
    return wire


def _arguments(call: ToolCall, draft: Draft) -> str:
    """A string of a JSON object, as servers parse it: the model's own words where they are one."""
    if not call.custom and call.arguments != "{}" and parse_object(call.arguments) is not None:
        return call.arguments
    return to_json(arguments_object(call, draft))


def _call_id(call_id: str, draft: Draft) -> str:
    return wire_call_id(call_id, pattern=draft.profile.tool_ids, chars=draft.profile.tool_id_chars)

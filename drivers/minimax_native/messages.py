"""The conversation of a turn as wire messages: one system message in front, results directly behind their calls.

What a model of this origin thought goes back as it came; what another one thought does not. What cannot be put in the
order that the vendor insists on is refused before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from loopforge.drivers.conversation import arguments_object, call_names, check_order, wire_call_id
from loopforge.drivers.json_values import parse_object, to_json
from loopforge.drivers.minimax_native.draft import Draft
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

_CALL_ID: Final = r"[A-Za-z0-9_-]{1,128}"
_MADE_ID_CHARS: Final = 24
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME: Final = 64
_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")


def build_messages(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """The wire's `messages`. Raises TurnRefused for a conversation or media that the vendor does not take."""
    if not messages:
        raise draft.refuse("the turn has no messages", "add at least one user message")
    check_order(messages, draft)
    writer = _Writer(draft, call_names(messages))
    last_user = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    for number, message in enumerate(messages):
        if message.role == "assistant":
            writer.add_assistant(message)
        elif message.role != "system":
            writer.add_user(message, asked=number >= last_user)
    writer.end()
    system = _system_message(messages, draft)
    if not writer.wire and not system:
        raise draft.refuse("the turn's messages are all empty", "add at least one user message with text")
    return [*system, *writer.wire]


def add_instruction(wire: list[JsonObject], text: str) -> None:
    """Append a sentence to the system message, which is made when there is none."""
    if wire and wire[0]["role"] == "system":
        wire[0] = {"role": "system", "content": f"{wire[0]['content']}\n\n{text}"}
    else:
        wire.insert(0, {"role": "system", "content": text})


def _system_message(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """One message of all system texts, none when there are none: a second or later one is an error to the vendor."""
    leading = 0
    while leading < len(messages) and messages[leading].role == "system":
        leading += 1
    systems = [message for message in messages if message.role == "system"]
    if len(systems) > leading:
        draft.note("this wire takes one system message, at the start: later ones were joined to it")
    for part in (part for message in systems for part in message.content):
        if isinstance(part, Text):
            draft.note_cache(part.cache)
        else:
            draft.note("parts of a system message that are not text were left out")
    text = "\n\n".join(message.text for message in systems if message.text)
    return [{"role": "system", "content": text}] if text else []


@dataclass(slots=True)
class _Writer:
    """Appends one message after the other. `names`: tools by call id."""

    draft: Draft
    names: dict[str, str]
    wire: list[JsonObject] = field(default_factory=list)
    _media: list[JsonObject] = field(default_factory=list)  # of results: waits for the last of them
    _ids: dict[str, str] = field(default_factory=dict)  # call id of the latest call with it -> id on the wire
    _used: set[str] = field(default_factory=set)

    def end(self) -> None:
        if self._media:
            self._append_user([])

    # -- user ---------------------------------------------------------------------------------------------------------

    def add_user(self, message: Message, *, asked: bool) -> None:
        for part in message.content:
            if isinstance(part, ToolResult):
                self._add_result(part)
        parts = [part for part in message.content if not isinstance(part, ToolResult)]
        content = [wire for part in parts if (wire := self._content(part, asked=asked)) is not None]
        if content or (message.role == "user" and not message.content):
            self._append_user(content)

    def _append_user(self, content: list[JsonObject]) -> None:
        content = [*self._media, *content]
        self._media = []
        if all(part["type"] == "text" for part in content):
            self.wire.append({"role": "user", "content": "".join(part["text"] for part in content)})
        else:
            self.wire.append({"role": "user", "content": content})

    def _content(self, part: Part, *, asked: bool) -> JsonObject | None:
        match part:
            case Text():
                self.draft.note_cache(part.cache)
                return {"type": "text", "text": part.text}
            case Image() | Document() | Audio():
                return self._media_part(part, asked=asked)
        self.draft.note(f"a {part.type} part of a user message was left out")
        return None

    def _media_part(self, part: Image | Document | Audio, *, asked: bool) -> JsonObject:
        draft = self.draft
        if isinstance(part, Image | Document):
            draft.note_cache(part.cache)
        match part:
            case Image() if draft.profile.images and (part.data or part.url):
                if part.detail:
                    draft.note("an image's detail was not sent: this wire knows none")
                url = draft.data_url(part.data, part.media_type) if part.data else part.url
                return {"type": "image_url", "image_url": {"url": url}}
            case Document() if part.data and (part.media_type.startswith("text/") or part.media_type in _TEXT_TYPES):
                head = f"[{part.name}]\n" if part.name else ""
                return {"type": "text", "text": head + part.data.decode("utf-8", "replace")}
            case Audio() if part.transcript:
                draft.note("this wire takes no sound: its transcript was sent")
                return {"type": "text", "text": part.transcript}
        kind = f"{part.type}s"
        if asked:  # media that the person asks about; what a tool gave or the history holds is named and left out
            raise draft.refuse(
                f"{draft.model} takes no {kind} here", "leave it out or route the turn to a model that does"
            )
        draft.note(f"{draft.model} takes no {kind} here: one of a tool or an earlier message was left out")
        return {"type": "text", "text": f"[{part.type} left out]"}

    def _add_result(self, result: ToolResult) -> None:
        """One result. Its images wait for the next user message: a tool message holds text alone."""
        draft = self.draft
        name = result.name or self.names.get(result.call_id, "")
        parts = [wire for part in result.content if (wire := self._content(part, asked=False)) is not None]
        draft.note_cache(result.cache)
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if images := [part for part in parts if part["type"] != "text"]:
            self._media += [{"type": "text", "text": f"Result of {name or result.call_id}:"}, *images]
            text = text or "(in the next message)"
        if result.is_error and not text.lower().startswith("error"):
            text = f"Error: {text}"
        self.wire.append({"role": "tool", "tool_call_id": self._ids[result.call_id], "content": text})

    # -- assistant ----------------------------------------------------------------------------------------------------

    def add_assistant(self, message: Message) -> None:
        if self._media:
            self._append_user([])
        thinking = _Echo(self.draft)
        text = ""
        calls: list[JsonObject] = []
        for part in message.content:
            match part:
                case Text():
                    self.draft.note_cache(part.cache)
                    if part.opaque is not None and self.draft.data_of(part.opaque) is None:
                        self.draft.note("signatures of another provider or model were not sent")
                    text += part.text
                case Refusal():
                    text += part.text
                case Thinking():
                    thinking.add(part)
                case ToolCall():
                    calls.append(self._call(part))
                case OpaquePart():
                    if self.draft.data_of(part.opaque) is None:
                        self.draft.note("opaque parts of another provider or model were not sent")
                case _:
                    self.draft.note(f"a {part.type} part of an assistant message was left out")
        wire: JsonObject = {"role": "assistant", "content": thinking.tags + text}
        if thinking.details:
            wire["reasoning_details"] = thinking.details
        if calls:
            wire["tool_calls"] = calls
        if wire["content"] or len(wire) > 2:
            self.wire.append(wire)

    def _call(self, call: ToolCall) -> JsonObject:
        draft = self.draft
        if call.opaque is not None and draft.data_of(call.opaque) is None:
            draft.note("signatures on tool calls of another provider or model were not sent")
        name = _NOT_IN_NAMES.sub("_", call.name)[:_MAX_NAME] or "_"
        if name != call.name:
            draft.note(f"the tool {call.name!r} of an earlier call was called {name!r}, as this wire takes names")
        if not call.custom and call.arguments != "{}" and parse_object(call.arguments) is not None:
            arguments = call.arguments  # the model's own words
        else:
            arguments = to_json(arguments_object(call, draft))
        function = {"name": name, "arguments": arguments}
        return {"id": self._new_id(call.id), "type": "function", "function": function}

    def _new_id(self, call_id: str) -> str:
        """An id that no earlier call of the conversation has: some vendors number the calls of each answer anew."""
        found = wire_call_id(call_id, pattern=_CALL_ID, chars=_MADE_ID_CHARS)
        again = 1
        while found in self._used:
            again += 1
            found = wire_call_id(f"{call_id}/{again}", pattern=r"(?!)", chars=_MADE_ID_CHARS)
        self._used.add(found)
        self._ids[call_id] = found
        return found


@dataclass(slots=True)
class _Echo:
    """Earlier thinking of one message, in the forms that it came in: in front of the content, or as items beside it.

    What this very model thought, and its API does not take again, is left out without a notice: nobody would read it.
    """

    draft: Draft
    tags: str = ""
    details: list[JsonObject] = field(default_factory=list)

    def add(self, part: Thinking) -> None:
        data = self.draft.data_of(part.opaque)
        if data is None:
            self.draft.note("earlier thinking that is not of this provider and model was not sent")
        elif self.draft.profile.echo:
            match data:
                case {"form": "tags"}:
                    self.tags += f"<think>{part.text}</think>{data.get('gap') or ''}"
                case {"form": "details", "items": list(items)}:
                    self.details += items
                case _:
                    self.details.append({"text": part.text})

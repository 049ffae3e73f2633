"""The conversation of a turn as this wire's system text and contents.

Everything that leaves here keeps the order the wire insists on: a user content first, and directly behind a content
with function calls one content with all their responses, in the order of the calls. What this model said goes back
part for part, each signature where it was: a signed part is never joined with another, moved or dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from loopforge.drivers.conversation import arguments_object, check_order
from loopforge.drivers.gemini.draft import Draft
from loopforge.drivers.gemini.parts import content_parts, is_media, own_media, text_part
from loopforge.drivers.turn import (
    Audio,
    Document,
    Image,
    JsonObject,
    Message,
    OpaquePart,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

NO_SIGNATURE: Final = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
"""The documented stand-in for calls that another model made: `skip_thought_signature_validator` in base64."""
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:-]")
_RESULT_MEDIA = ("image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain")


def build_contents(messages: Sequence[Message], draft: Draft) -> tuple[list[JsonObject], list[JsonObject]]:
    """The parts of the system instruction, and the contents.

    Raises TurnRefused for a conversation that the wire does not take, or media that this model does not.
    """
    if not any(message.role in ("user", "tool") for message in messages):
        raise draft.refuse("the turn has no user message", "add one: a system message alone asks nothing")
    check_order(messages, draft)
    last_user = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    writer = _Writer(draft)
    system = _system_parts(messages, draft)
    for number, message in enumerate(messages):
        if message.role == "assistant":
            writer.add_assistant(message)
        elif message.role != "system":
            writer.add_user(message, asked=number >= last_user)
    writer.end()
    if system and not draft.profile.system:
        draft.note(f"{draft.model} takes no system instruction: it was put before the first user message")
        first = writer.contents[0]
        writer.contents[0] = {**first, "parts": [*system, *first["parts"]]}
        system = []
    return system, writer.contents


def _system_parts(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    parts = []
    in_front = True
    for message in messages:
        if message.role != "system":
            in_front = False
            continue
        if not in_front:
            draft.note("this wire takes system messages in front only: later ones were moved there")
        for part in message.content:
            if not isinstance(part, Text):
                draft.note("parts of a system message that are not text were left out")
            elif part.text:
                draft.note_cache(part.cache)
                parts.append(text_part(part.text))
    return parts


@dataclass(slots=True)
class _Writer:
    """Appends one message after the other, and keeps the calls whose responses are still to come."""

    draft: Draft
    contents: list[JsonObject] = field(default_factory=list)
    _calls: Sequence[ToolCall] = ()
    _with_ids: bool = False
    _results: dict[str, ToolResult] = field(default_factory=dict)
    _closed: bool = False  # the last content holds function responses: nothing is added to it

    def end(self) -> None:
        if not self.contents:
            raise self.draft.refuse("the turn's messages are all empty", "say something in the last one")
        if self.contents[0]["role"] != "user":
            self.draft.note("this wire wants a user message first: one was put before the assistant's")
            self.contents.insert(0, {"role": "user", "parts": [text_part("Begin.")]})

    def _append(self, role: str, parts: list[JsonObject]) -> None:
        if not parts:
            return
        last = self.contents[-1] if self.contents else None
        if last is not None and last["role"] == role and not self._closed:
            last["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})
        self._closed = False

    # -- user -----------------------------------------------------------------------------------------------------

    def add_user(self, message: Message, *, asked: bool) -> None:
        for part in message.content:
            if isinstance(part, ToolResult):
                self._results[part.call_id] = part
        if self._calls and len(self._results) == len(self._calls):
            self._add_responses(asked=asked)
        self._append("user", list(content_parts(message.content, self.draft, asked=asked)))

    def _add_responses(self, *, asked: bool) -> None:
        """All in one content, in the order of the calls: without ids that order is what matches them."""
        responses: list[JsonObject] = []
        media: list[JsonObject] = []
        for call in self._calls:
            result = self._results[call.id]
            content = list(content_parts(result.content, self.draft, asked=asked))
            self.draft.note_cache(result.cache)
            response: JsonObject = {"id": call.id} if self._with_ids else {}
            response["name"] = _wire_name(call.name, self.draft)
            inner = [part for part in content if self._goes_inside(part)]
            outer = [part for part in content if is_media(part) and part not in inner]
            text = "".join(part["text"] for part in content if not is_media(part))
            if outer and not text:
                text = "(in the parts behind the function responses)"
            response["response"] = {"error" if result.is_error else "output": text}
            if inner:
                response["parts"] = inner
            responses.append({"functionResponse": response})
            media += outer
        self._append("user", responses + media)
        self._closed = True
        self._calls, self._results = (), {}

    def _goes_inside(self, part: JsonObject) -> bool:
        return self.draft.profile.result_media and part.get("inlineData", {}).get("mimeType") in _RESULT_MEDIA

    # -- assistant ------------------------------------------------------------------------------------------------

    def add_assistant(self, message: Message) -> None:
        calls = message.tool_calls
        self._calls = calls
        self._with_ids = bool(calls) and all((self.draft.data_of(call.opaque) or {}).get("id") for call in calls)
        parts: list[JsonObject] = []
        for part in message.content:
            match part:
                case Text():
                    self._add_text(part, parts)
                case Thinking():
                    self._add_thinking(part, parts)
                case ToolCall():
                    parts.append(self._call(part))
                case Refusal():
                    if part.text:
                        parts.append(text_part(part.text))
                case OpaquePart():
                    self._add_opaque(part, parts)
                case Image() | Document() | Audio():
                    if (media := own_media(part, self.draft)) is not None:
                        parts.append(media)
                case _:
                    self.draft.note(f"a {part.type} part of an assistant message was left out")
        if self.draft.profile.needs_signatures:
            first = next((part for part in parts if "functionCall" in part), {})
            if first and "thoughtSignature" not in first:
                first["thoughtSignature"] = NO_SIGNATURE
        self._append("model", parts)

    def _add_text(self, part: Text, parts: list[JsonObject]) -> None:
        self.draft.note_cache(part.cache)
        signature = self.draft.signature_of(part.opaque)
        if part.text or signature:
            parts.append({**text_part(part.text), **signature})

    def _add_thinking(self, part: Thinking, parts: list[JsonObject]) -> None:
        """A summary is of no use to the model that wrote it; only a signed one goes back."""
        if self.draft.data_of(part.opaque) is None:
            self.draft.note("earlier thinking that is not of this provider and model was not sent")
        elif signature := self.draft.signature_of(part.opaque):
            parts.append({"text": part.text, "thought": True, **signature})

    def _add_opaque(self, part: OpaquePart, parts: list[JsonObject]) -> None:
        data = self.draft.data_of(part.opaque)
        if data is None:
            self.draft.note("opaque parts of another provider or model were not sent")
        elif isinstance(verbatim := data.get("part"), dict):
            parts.append(verbatim)
        elif isinstance(signature := data.get("on_previous"), str) and parts:
            parts[-1] = {**parts[-1], "thoughtSignature": signature}

    def _call(self, call: ToolCall) -> JsonObject:
        wire: JsonObject = {"id": call.id} if self._with_ids else {}
        wire |= {"name": _wire_name(call.name, self.draft), "args": arguments_object(call, self.draft)}
        return {"functionCall": wire, **self.draft.signature_of(call.opaque)}


def _wire_name(name: str, draft: Draft) -> str:
    """The name as the wire takes it: earlier calls may come from a wire with other rules."""
    if NAME.fullmatch(name):
        return name
    sent = _NOT_IN_NAMES.sub("_", name)[:63]
    sent = sent if NAME.fullmatch(sent) else f"_{sent}"
    draft.note(f"the tool {name!r} of an earlier call was called {sent!r}, as this wire takes names")
    return sent

"""The conversation of a turn as this wire's system text and messages.

Everything that leaves here keeps the order the wire insists on: a user message first, roles in turn, all results of a
message's calls directly behind it and before anything else. What a model of this origin said goes back block for
block, as it came; what another one said goes back without its thinking and its opaque blocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from loopforge.drivers.anthropic.blocks import content_blocks, is_blank, text_block
from loopforge.drivers.anthropic.draft import Draft
from loopforge.drivers.conversation import arguments_object, check_order, wire_call_id
from loopforge.drivers.turn import JsonObject, Message, OpaquePart, Refusal, Text, Thinking, ToolCall, ToolResult

_CALL_ID = r"[A-Za-z0-9_-]{1,256}"
_MADE_ID_CHARS = 24
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_THINKING = ("thinking", "redacted_thinking")


@dataclass(slots=True, kw_only=True)
class Conversation:
    """`system`: text blocks. `called`: tools that the history calls. `container`: of a code execution under way.

    `prefilled`: the last message is the start of the answer, and not an answer that the model paused.
    """

    system: list[JsonObject]
    messages: list[JsonObject]
    called: list[str]
    container: str = ""
    prefilled: bool = False


def build_conversation(messages: Sequence[Message], draft: Draft) -> Conversation:
    """Raises TurnRefused for a conversation that the wire does not take, or media that this vendor does not."""
    if not any(message.role in ("user", "tool") for message in messages):
        raise draft.refuse("the turn has no user message", "add one: a system message alone asks nothing")
    check_order(messages, draft)
    leading = 0
    while messages[leading].role == "system":
        leading += 1
    writer = _Writer(draft, messages)
    system = _system_blocks(messages[:leading], draft)
    for number in range(leading, len(messages)):
        writer.add(number)
    writer.end()
    return Conversation(
        system=system,
        messages=writer.wire,
        called=writer.called,
        container=writer.container,
        prefilled=writer.wire[-1]["role"] == "assistant" and not writer.resumable,
    )


def shortened(content: list[JsonObject]) -> str | list[JsonObject]:
    """The content as a string, where it is one plain text: the form that every gateway knows."""
    plain = len(content) == 1 and content[0].keys() == {"type", "text"}
    return str(content[0]["text"]) if plain else content


def _system_blocks(messages: Sequence[Message], draft: Draft) -> list[JsonObject]:
    """One block, or one a part where a cache mark has to stand between them."""
    texts = [part for message in messages for part in _texts(message, draft)]
    if any(part.cache for part in texts) and draft.profile.cache_marks:
        return [text_block(part.text, part.cache, draft, place="system") for part in texts]
    for part in texts:
        draft.mark({}, part.cache, "system")  # for its notice: no mark will be sent
    text = "\n\n".join(message.text for message in messages if not is_blank(message.text))
    return [{"type": "text", "text": text}] if text else []


def _texts(message: Message, draft: Draft) -> list[Text]:
    """What of a system message can be sent."""
    if any(not isinstance(part, Text) for part in message.content):
        draft.note("parts of a system message that are not text were left out")
    return [part for part in message.content if isinstance(part, Text) and not is_blank(part.text)]


@dataclass(slots=True)
class _Writer:
    """Appends one message after the other, and keeps what the next one has to know."""

    draft: Draft
    messages: Sequence[Message]
    wire: list[JsonObject] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    container: str = ""
    resumable: bool = False  # the last assistant message holds blocks of the provider's own tools
    _ids: dict[str, str] = field(default_factory=dict)  # call id of the latest call with it -> id on the wire
    _used: set[str] = field(default_factory=set)

    def add(self, number: int) -> None:
        message = self.messages[number]
        if message.role == "assistant":
            self._add_assistant(message)
        elif message.role == "system":
            self._add_system(message, number)
        else:
            self._add_user(message, asked=not any(later.role == "user" for later in self.messages[number + 1 :]))

    def end(self) -> None:
        if not self.wire or (self.wire[-1]["role"] == "assistant" and self.messages[-1].role != "assistant"):
            raise self.draft.refuse("the last message of the turn is empty", "say something in it")
        if self.wire[0]["role"] != "user":
            self.draft.note("this wire wants a user message first: one was put before the assistant's")
            self.wire.insert(0, {"role": "user", "content": [{"type": "text", "text": "Begin."}]})

    def _append(self, role: str, content: list[JsonObject]) -> None:
        if not content:
            return
        if self.wire and self.wire[-1]["role"] == role:
            self.wire[-1]["content"] += content
        else:
            self.wire.append({"role": role, "content": content})

    # -- user and system ----------------------------------------------------------------------------------------------

    def _add_user(self, message: Message, *, asked: bool) -> None:
        results = [self._result(part) for part in message.content if isinstance(part, ToolResult)]
        self._append("user", [*results, *content_blocks(message.content, self.draft, asked=asked)])
        if any(not isinstance(part, ToolResult) for part in message.content):
            self.container = ""  # a new question: a container is for the results of the answer under way

    def _add_system(self, message: Message, number: int) -> None:
        """A later instruction: as such where the wire has a place for it, else as the user's words."""
        blocks = [text_block(part.text, part.cache, self.draft) for part in _texts(message, self.draft)]
        next_role = next((later.role for later in self.messages[number:] if later.role != "system"), "assistant")
        after_user = bool(self.wire) and self.wire[-1]["role"] != "assistant"
        if self.draft.profile.late_system and after_user and next_role == "assistant":
            self._append("system", blocks)
            return
        if blocks:
            self.draft.note("a system message behind the first user message was sent as the user's text")
        self._append("user", blocks)

    def _result(self, result: ToolResult) -> JsonObject:
        """One result. Media in it is never refused: the model asked for it, not the person."""
        block: JsonObject = {"type": "tool_result", "tool_use_id": self._ids[result.call_id]}
        bare = [replace(part, cache="") for part in result.content]
        if content := list(content_blocks(bare, self.draft, asked=False)):
            block["content"] = shortened(content)
        if result.is_error:
            block["is_error"] = True
        marks = [result.cache, *(part.cache for part in result.content)]
        return self.draft.mark(block, next((mark for mark in marks if mark), ""), "messages")

    # -- assistant ----------------------------------------------------------------------------------------------------

    def _add_assistant(self, message: Message) -> None:
        draft = self.draft
        self.resumable = False
        content: list[JsonObject] = []
        for part in message.content:
            match part:
                case Text():
                    if not is_blank(part.text):
                        content.append(self._text(part))
                case Thinking():
                    content += self._thinking(part)
                case ToolCall():
                    content.append(self._call(part))
                case Refusal():
                    if not is_blank(part.text):
                        content.append({"type": "text", "text": part.text})
                case OpaquePart():
                    content += self._opaque(part)
                case _:
                    draft.note(f"the {part.type} part of an assistant message was left out")
        while content and content[-1]["type"] in _THINKING:
            draft.note("thinking at the very end of an assistant message was not sent: this wire takes none there")
            content.pop()
        self._append("assistant", content)

    def _text(self, part: Text) -> JsonObject:
        own = self.draft.block_of(part.opaque)
        if part.opaque is not None and own is None:
            self.draft.note("citations of another provider or model were not sent")
        return self.draft.mark({"type": "text", "text": part.text, **(own or {})}, part.cache, "messages")

    def _thinking(self, part: Thinking) -> list[JsonObject]:
        own = self.draft.block_of(part.opaque)
        if own is None:
            self.draft.note("earlier thinking that is not of this provider and model was not sent")
            return []
        if self.draft.profile.signatures and not own.get("signature"):
            self.draft.note("earlier thinking without a signature was not sent")
            return []
        return [{"type": "thinking", "thinking": part.text, **own}] if part.text or own else []

    def _opaque(self, part: OpaquePart) -> list[JsonObject]:
        data = self.draft.data_of(part.opaque)
        if isinstance(container := data.get("container"), str):
            self.container = container
            return []
        block = self.draft.block_of(part.opaque)
        if block is None:
            self.draft.note("opaque parts of another provider or model were not sent")
            return []
        self.resumable = self.resumable or block.get("type") not in _THINKING
        return [block]

    def _call(self, call: ToolCall) -> JsonObject:
        own = self.draft.block_of(call.opaque)
        if call.opaque is not None and own is None:
            self.draft.note("signatures on tool calls of another provider or model were not sent")
        name = _NOT_IN_NAMES.sub("_", call.name)[: self.draft.profile.tool_name_chars] or "_"
        if name != call.name:
            self.draft.note(f"the tool {call.name!r} of an earlier call was called {name!r}, as this wire takes names")
        if name not in self.called:
            self.called.append(name)
        block = {"type": "tool_use", "id": self._new_id(call.id), "name": name}
        return {**block, "input": arguments_object(call, self.draft), **(own or {})}

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

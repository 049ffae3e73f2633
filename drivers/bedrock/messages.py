"""The conversation of a turn as this wire's system text and messages.

What leaves here keeps what the service insists on: roles in turn, all results of a message's calls together in the
next user message, no blank text, no empty message, text beside each document. What a model of this origin said goes
back with its signatures; what another one said goes back without its thinking and its opaque blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from loopforge.drivers.bedrock.blocks import FILLER, Blocks, is_blank
from loopforge.drivers.bedrock.draft import Draft
from loopforge.drivers.conversation import arguments_object, check_order, wire_call_id
from loopforge.drivers.json_values import parse_object
from loopforge.drivers.turn import (
    CacheMark,
    JsonObject,
    Message,
    OpaquePart,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

_CALL_ID = r"[A-Za-z0-9_.:-]{1,64}"
_MADE_ID_CHARS = 24
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
MAX_NAME = 64


@dataclass(slots=True, kw_only=True)
class Conversation:
    """`called`: tools that the history calls. `prefilled`: the last message is the assistant's."""

    system: list[JsonObject]
    messages: list[JsonObject]
    called: list[str]
    prefilled: bool


def build_conversation(messages: Sequence[Message], draft: Draft) -> Conversation:
    """Raises TurnRefused for a conversation that the wire does not take, or media that the model does not."""
    if not any(message.role in ("user", "tool") for message in messages):
        raise draft.refuse("the turn has no user message", "add one: a system message alone asks nothing")
    check_order(messages, draft)
    leading = 0
    while messages[leading].role == "system":
        leading += 1
    writer = _Writer(draft, messages)
    system = list(_system_blocks(messages[:leading], draft))
    if system and not draft.family.system:
        draft.note(f"{draft.who} takes no system text: it was put before the user's first words")
        writer.append("user", [block for block in system if "text" in block])
        system = []
    for number in range(leading, len(messages)):
        writer.add(number)
    writer.end()
    return Conversation(
        system=system,
        messages=writer.wire,
        called=writer.called,
        prefilled=writer.wire[-1]["role"] == "assistant",
    )


def _system_blocks(messages: Iterable[Message], draft: Draft) -> Iterator[JsonObject]:
    """A block a part: nothing is joined, so that a mark between two of them has its place."""
    for message in messages:
        for part in _texts(message, draft):
            yield {"text": part.text}
            yield from draft.point(part.cache, "system")


def _texts(message: Message, draft: Draft) -> list[Text]:
    """What of a system message can be sent."""
    if any(not isinstance(part, Text) for part in message.content):
        draft.note("parts of a system message that are not text were left out")
    return [part for part in message.content if isinstance(part, Text) and not is_blank(part.text)]


class _Writer:
    """Appends one message after the other, and keeps what the next one has to know."""

    def __init__(self, draft: Draft, messages: Sequence[Message]) -> None:
        self.wire: list[JsonObject] = []
        self.called: list[str] = []
        self._draft = draft
        self._messages = messages
        self._blocks = Blocks(draft)
        self._ids: dict[str, str] = {}  # call id of the latest call with it -> id on the wire
        self._used: set[str] = set()

    def add(self, number: int) -> None:
        message = self._messages[number]
        if message.role == "assistant":
            self._add_assistant(message)
        elif message.role == "system":
            self._add_system(message)
        else:
            self._add_user(message, asked=not any(later.role == "user" for later in self._messages[number + 1 :]))

    def end(self) -> None:
        if not self.wire or (self.wire[-1]["role"] == "assistant" and self._messages[-1].role != "assistant"):
            raise self._draft.refuse("the last message of the turn is empty", "say something in it")
        if self.wire[0]["role"] != "user" and not self._draft.family.leading_assistant:
            self._draft.note("this model wants a user message first: one was put before the assistant's")
            self.wire.insert(0, {"role": "user", "content": [{"text": FILLER}]})
        for message in self.wire:
            _add_text_beside_documents(message["content"])

    def append(self, role: str, content: list[JsonObject]) -> None:
        if not any("cachePoint" not in block for block in content):
            return
        if self.wire and self.wire[-1]["role"] == role:
            self.wire[-1]["content"] += content
        else:
            self.wire.append({"role": role, "content": content})

    # -- user and system ----------------------------------------------------------------------------------------------

    def _add_user(self, message: Message, *, asked: bool) -> None:
        beside: list[JsonObject] = []  # media of results that stands in none
        results: list[JsonObject] = []
        for part in message.content:
            if isinstance(part, ToolResult):
                results += self._result(part, beside)
        self.append("user", results)
        content = [*beside, *self._blocks.of(message.content, asked=asked)]
        self._append_words(content)

    def _append_words(self, content: list[JsonObject]) -> None:
        """The user's own, apart from results where the model takes those alone."""
        if content and self._draft.family.results_alone and self._ends_in_results():
            self._draft.note(f"{self._draft.who} takes tool results alone: an empty answer was put behind them")
            self.append("assistant", [{"text": FILLER}])
        self.append("user", content)

    def _ends_in_results(self) -> bool:
        last = self.wire[-1] if self.wire else {}
        return last.get("role") == "user" and any("toolResult" in block for block in last["content"])

    def _add_system(self, message: Message) -> None:
        """A later instruction goes as the user's words: which models take the role that late is not told."""
        blocks: list[JsonObject] = []
        for part in _texts(message, self._draft):
            blocks += [{"text": part.text}, *self._draft.point(part.cache, "messages")]
        if not blocks:
            return
        self._draft.note("a system message behind the first user message was sent as the user's text")
        self._append_words(blocks)

    def _result(self, result: ToolResult, beside: list[JsonObject]) -> list[JsonObject]:
        """One result. Media in it is never refused: the model asked for it, not the person."""
        family, draft = self._draft.family, self._draft
        bare = [replace(part, cache="") for part in result.content]
        content: list[JsonObject] = []
        for block in self._blocks.of(bare, asked=False):
            kind = next(iter(block))
            if kind == "text" or kind in family.result_media:
                content.append(block)
            elif family.results_alone:
                draft.note(f"{draft.who} takes no {kind} in a tool result: it was left out")
                content.append({"text": f"[{kind} left out]"})
            else:
                content.append({"text": f"[{kind} below]"})
                beside.append(block)
        if not family.tools:
            draft.note(f"{draft.who} knows no tools: earlier calls and their results were sent as text")
            return [{"text": f"[result of {result.name or 'the tool'}]"}, *content]
        if result.is_error and not family.result_status and not _says_error(content):
            content.insert(0, {"text": "Error:"})
        if result.is_error and not content:
            content.append({"text": FILLER})
        wire = {"toolUseId": self._ids[result.call_id], "content": _as_json(content) if family.result_json else content}
        if result.is_error and family.result_status:
            wire["status"] = "error"
        return [{"toolResult": wire}, *draft.point(_mark_of(result), "messages")]

    # -- assistant ----------------------------------------------------------------------------------------------------

    def _add_assistant(self, message: Message) -> None:
        draft = self._draft
        content: list[JsonObject] = []
        for part in message.content:
            match part:
                case Text():
                    content += self._text(part)
                case Thinking():
                    content += self._thinking(part)
                case ToolCall():
                    content.append(self._call(part))
                case Refusal():
                    content += [] if is_blank(part.text) else [{"text": part.text}]
                case OpaquePart():
                    content += self._opaque(part)
                case _:
                    draft.note(f"the {part.type} part of an assistant message was left out")
        while content and "reasoningContent" in content[-1]:
            draft.note("thinking at the very end of an assistant message was not sent: this wire takes none there")
            content.pop()
        self.append("assistant", content)

    def _text(self, part: Text) -> list[JsonObject]:
        if is_blank(part.text):
            return []
        citations = self._draft.data_of(part.opaque).get("citations")
        if citations:
            block: JsonObject = {"citationsContent": {"content": [{"text": part.text}], "citations": citations}}
        else:
            block = {"text": part.text}
            if part.opaque is not None:
                self._draft.note("citations of another provider or model were not sent")
        return [block, *self._draft.point(part.cache, "messages")]

    def _thinking(self, part: Thinking) -> list[JsonObject]:
        own = self._draft.data_of(part.opaque)
        if isinstance(own.get("redacted"), str):
            return [{"reasoningContent": {"redactedContent": own["redacted"]}}]
        if isinstance(own.get("signature"), str) and self._draft.family.signatures:
            return [{"reasoningContent": {"reasoningText": {"text": part.text, "signature": own["signature"]}}}]
        whose = "without a signature" if part.opaque is not None and own else "that is not of this provider and model"
        self._draft.note(f"earlier thinking {whose} was not sent")
        return []

    def _opaque(self, part: OpaquePart) -> list[JsonObject]:
        data = self._draft.data_of(part.opaque)
        if isinstance(data.get("redacted"), str):
            return [{"reasoningContent": {"redactedContent": data["redacted"]}}]
        if data:
            self._draft.note("what the model did with tools of its own was not sent back: the service refuses it")
        else:
            self._draft.note("opaque parts of another provider or model were not sent")
        return []

    def _call(self, call: ToolCall) -> JsonObject:
        if call.opaque is not None and not self._draft.owns(call.opaque):
            self._draft.note("signatures on tool calls of another provider or model were not sent")
        if not self._draft.family.tools:
            return {"text": f"[call of {call.name}: {call.arguments}]"}
        name = _NOT_IN_NAMES.sub("_", call.name)[:MAX_NAME] or "_"
        if name != call.name:
            self._draft.note(f"the tool {call.name!r} of an earlier call was called {name!r}, as this wire takes names")
        if name not in self.called:
            self.called.append(name)
        given = arguments_object(call, self._draft)
        return {"toolUse": {"toolUseId": self._new_id(call.id), "name": name, "input": given}}

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


def _add_text_beside_documents(content: list[JsonObject]) -> None:
    if any("document" in block for block in content) and not any("text" in block for block in content):
        content.append({"text": FILLER})


def _says_error(content: Sequence[JsonObject]) -> bool:
    return bool(content) and str(content[0].get("text", "")).lower().startswith("error")


def _as_json(content: list[JsonObject]) -> list[JsonObject]:
    """Text as JSON, for models that take nothing else: an object as it is, other text in a member."""
    return [
        {"json": parse_object(block["text"]) or {"output": block["text"]}} if "text" in block else block
        for block in content
    ]


def _mark_of(result: ToolResult) -> CacheMark:
    marks: list[CacheMark] = [result.cache, *(part.cache for part in result.content)]
    return next((mark for mark in marks if mark), "")

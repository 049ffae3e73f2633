"""Content blocks under way: what each kind of block becomes when it starts, grows and stops.

A block is text, thinking, a call of one of the turn's tools, or something of the provider's own (a tool that it runs
itself, its result, redacted thinking), which is kept whole to be sent back. Of text and thinking nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from loopforge.drivers.conversation import arguments_text, made_call_id, whole_call
from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.json_values import is_portable, parse_object
from loopforge.drivers.turn import (
    Delta,
    JsonObject,
    Opaque,
    OpaquePart,
    PartEnd,
    TextDelta,
    ThinkingDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    WholePart,
)

MAX_KEPT: Final = 32 * 1024 * 1024  # characters of arguments, signatures and opaque blocks of one answer
MAX_CALLS: Final = 1000
_BLOCK_COST = 64  # what an empty block counts for

Origin = Callable[[JsonObject], Opaque]
"""Marks a block's members with where they came from."""


@dataclass(slots=True)
class Memory:
    """What the blocks of one answer share: its calls so far, and how much of it is kept."""

    provider: str
    origin: Origin
    id_seed: str = ""
    answer_tool: str = ""
    started: bool = False  # something was generated
    answered: bool = False  # by way of the answer tool
    calls: int = 0
    ids: set[str] = field(default_factory=set)
    kept: int = 0

    def keep(self, size: int) -> None:
        self.kept += size
        if self.kept > MAX_KEPT:
            raise WireMismatch(self.provider, f"tool arguments and opaque blocks of more than {MAX_KEPT} characters")


class OpenBlock(Protocol):
    """A block between its start and its stop. `streams`: it is text or thinking, of which one is open at a time."""

    streams: bool

    def feed(self, kind: object, delta: JsonObject, out: list[Delta]) -> bool:
        """Take a delta of type `kind`; False when it means nothing to this block."""

    def close(self, out: list[Delta]) -> None:
        """The block is complete, or will never be."""


def open_block(start: JsonObject, memory: Memory, out: list[Delta]) -> OpenBlock:
    """The block that a `content_block_start`, or an item of a whole answer's content, begins."""
    memory.keep(_BLOCK_COST)
    match start.get("type"):
        case "text":
            return TextBlock(start, memory, out)
        case "thinking":
            return ThinkingBlock(start, memory, out)
        case "tool_use" if memory.answer_tool and start.get("name") == memory.answer_tool:
            return AnswerBlock(start, memory)
        case "tool_use":
            return CallBlock(start, memory, out)
    return OpaqueBlock(start, memory)


class TextBlock:
    """Text. Its citations, and what else comes with it, are its opaque data."""

    streams = True

    def __init__(self, start: JsonObject, memory: Memory, out: list[Delta]) -> None:
        self._memory = memory
        self._own = _members(start, "text", without_empty=True)
        self._spoken = False
        self._say(start.get("text"), out)

    def feed(self, kind: object, delta: JsonObject, out: list[Delta]) -> bool:
        if kind == "text_delta":
            self._say(delta.get("text"), out)
            return True
        citation = delta.get("citation")
        if kind != "citations_delta" or not isinstance(citation, dict) or not is_portable(citation):
            return False
        self._memory.keep(len(str(citation)))
        listed = self._own.get("citations")
        if isinstance(listed, list):
            listed.append(citation)
        else:
            self._own["citations"] = [citation]
        return True

    def _say(self, text: object, out: list[Delta]) -> None:
        if text and isinstance(text, str):
            self._spoken = self._memory.started = True
            out.append(TextDelta(text))

    def close(self, out: list[Delta]) -> None:
        if self._spoken:
            out.append(PartEnd(self._memory.origin(self._own) if self._own else None))


class ThinkingBlock:
    """Thinking. Its signature is its opaque data, in the form in which it came: also missing, also empty."""

    streams = True

    def __init__(self, start: JsonObject, memory: Memory, out: list[Delta]) -> None:
        self._memory = memory
        self._own = _members(start, "thinking")
        self._signature = [_string(start.get("signature"))]
        self._spoken = False
        self._think(start.get("thinking"), out)

    def feed(self, kind: object, delta: JsonObject, out: list[Delta]) -> bool:
        if kind == "thinking_delta":
            self._think(delta.get("thinking"), out)
            return True
        signature = delta.get("signature")
        if kind != "signature_delta" or not isinstance(signature, str):
            return False
        self._memory.keep(len(signature))
        self._signature.append(signature)
        return True

    def _think(self, text: object, out: list[Delta]) -> None:
        if text and isinstance(text, str):
            self._spoken = self._memory.started = True
            out.append(ThinkingDelta(text))

    def close(self, out: list[Delta]) -> None:
        if signature := "".join(self._signature):
            self._own["signature"] = signature
        if not self._spoken:
            if not signature:
                return
            self._memory.started = True
            out.append(ThinkingDelta(""))  # thinking that is not shown: its signature is all there is
        out.append(PartEnd(self._memory.origin(self._own)))


class CallBlock:
    """A call of one of the turn's tools. Arguments come in pieces, or whole with the start."""

    streams = False

    def __init__(self, start: JsonObject, memory: Memory, out: list[Delta]) -> None:
        if memory.calls >= MAX_CALLS:
            raise WireMismatch(memory.provider, f"the answer holds more than {MAX_CALLS} tool calls")
        self._memory = memory
        self._index = memory.calls
        self._start = start
        self._pieces: list[str] = []
        self._name = _string(start.get("name"))
        self._id = _string(start.get("id"))
        if not self._id or self._id in memory.ids:
            self._id = made_call_id(memory.id_seed, self._index)
        memory.ids.add(self._id)
        memory.calls += 1
        memory.started = True
        out.append(ToolCallStart(self._index, self._id, self._name))

    def feed(self, kind: object, delta: JsonObject, out: list[Delta]) -> bool:
        if kind != "input_json_delta":
            return False
        self._add(_string(delta.get("partial_json")), out)
        return True

    def _add(self, text: str, out: list[Delta]) -> None:
        if text:
            self._memory.keep(len(text))
            self._pieces.append(text)
            out.append(ToolCallArguments(self._index, text))

    def close(self, out: list[Delta]) -> None:
        if all(map(str.isspace, self._pieces)):
            self._add(_input_text(self._start), out)
        call = whole_call(self._id, self._name, "".join(self._pieces))
        if own := _members(self._start, "id", "name", "input", without_empty=True):
            call = replace(call, opaque=self._memory.origin(own))
        out.append(ToolCallEnd(self._index, call))


class AnswerBlock:
    """A call of the tool whose input is the answer of the turn: it is text."""

    streams = False

    def __init__(self, start: JsonObject, memory: Memory) -> None:
        self._start = start
        self._spoken = False
        memory.started = memory.answered = True

    def feed(self, kind: object, delta: JsonObject, out: list[Delta]) -> bool:
        if kind != "input_json_delta":
            return False
        if text := _string(delta.get("partial_json")):
            self._spoken = self._spoken or not text.isspace()
            out.append(TextDelta(text))
        return True

    def close(self, out: list[Delta]) -> None:
        if not self._spoken:
            out.append(TextDelta(_input_text(self._start) or "{}"))
        out.append(PartEnd())


class OpaqueBlock:
    """A block of the provider's own, or of a kind that this version does not know."""

    streams = False

    def __init__(self, start: JsonObject, memory: Memory) -> None:
        memory.keep(len(str(start)))
        self._memory = memory
        self._block = start
        self._pieces: list[str] = []

    def feed(self, kind: object, delta: JsonObject, out: list[Delta]) -> bool:  # noqa: ARG002 - it comes whole, at its stop
        if kind == "input_json_delta":
            text = _string(delta.get("partial_json"))
            self._memory.keep(len(text))
            self._pieces.append(text)
            return True
        members = _members(delta, without_empty=True)  # other deltas bring members of the block, each whole
        self._memory.keep(len(str(members)))
        self._block = {**self._block, **members}
        return bool(members)

    def close(self, out: list[Delta]) -> None:
        block = self._block
        if given := parse_object("".join(self._pieces)):
            block = {**block, "input": given}
        if is_portable(block):
            self._memory.started = True
            out.append(WholePart(OpaquePart(opaque=self._memory.origin(block))))


def _members(block: JsonObject, *but: str, without_empty: bool = False) -> JsonObject:
    """The members of a block that no neutral part has, when a channel can carry them."""
    found = {
        name: value
        for name, value in block.items()
        if name != "type" and name not in but and not (without_empty and value in (None, []))
    }
    return found if is_portable(found) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _input_text(start: JsonObject) -> str:
    """The input that a start brings, as text; "" when it brings none. Some gateways send it as text already."""
    given: Any = start.get("input")
    if isinstance(given, str):
        return given
    return arguments_text(given) if isinstance(given, dict | list) and given else ""

"""Content blocks under way: what each kind of block becomes when it starts, grows and stops.

A block is text, thinking, a call of one of the turn's tools, an image, or something of the service's own (a tool that
it runs itself, its result), which is kept whole. Of text and thinking nothing is kept.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from loopforge.drivers.conversation import arguments_text, made_call_id, whole_call
from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.json_values import is_portable
from loopforge.drivers.turn import (
    Delta,
    Image,
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

MAX_KEPT: Final = 32 * 1024 * 1024  # characters of arguments, signatures, images and opaque blocks of one answer
MAX_CALLS: Final = 1000
_BLOCK_COST = 64  # what an empty block counts for
_IMAGES = {"png": "image/png", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}

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
    """A block between its start and its stop."""

    def feed(self, delta: JsonObject, out: list[Delta]) -> bool:
        """Take a delta; False when it means nothing to this block."""

    def close(self, out: list[Delta]) -> None:
        """The block is complete, or will never be."""


def block_for(kind: str, start: JsonObject, memory: Memory, out: list[Delta]) -> OpenBlock:
    """The block that a start, or the first delta of a kind that has none, begins. `start`: the member named `kind`."""
    memory.keep(_BLOCK_COST)
    match kind:
        case "text" | "citation":
            return TextBlock(memory)
        case "reasoningContent":
            return ThinkingBlock(memory)
        case "image":
            return ImageBlock(start, memory)
        case "toolUse" if start.get("type") == "server_tool_use":
            return ServerBlock(kind, start, memory)
        case "toolUse" if memory.answer_tool and start.get("name") == memory.answer_tool:
            return AnswerBlock(memory)
        case "toolUse":
            return CallBlock(start, memory, out)
    return ServerBlock(kind, start, memory)


class TextBlock:
    """Text. Its citations are its opaque data."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._citations: list[Any] = []
        self._spoken = False

    def feed(self, delta: JsonObject, out: list[Delta]) -> bool:
        text = delta.get("text")
        if isinstance(text, str):
            if text:
                self._spoken = self._memory.started = True
                out.append(TextDelta(text))
            return True
        citation = delta.get("citation")
        if not isinstance(citation, dict) or not is_portable(citation):
            return False
        self._memory.keep(len(str(citation)))
        self._citations.append(citation)
        return True

    def close(self, out: list[Delta]) -> None:
        if self._spoken:
            out.append(PartEnd(self._memory.origin({"citations": self._citations}) if self._citations else None))


class ThinkingBlock:
    """Thinking. Its signature, or what stands for thinking that is not shown, is its opaque data."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._signature: list[str] = []
        self._redacted: list[str] = []
        self._spoken = False

    def feed(self, delta: JsonObject, out: list[Delta]) -> bool:
        content = delta.get("reasoningContent")
        if not isinstance(content, dict):
            return False
        inner = content.get("reasoningText")
        for said in (content, inner if isinstance(inner, dict) else {}):
            self._take(said, out)
        return True

    def _take(self, said: JsonObject, out: list[Delta]) -> None:
        if (text := said.get("text")) and isinstance(text, str):
            self._spoken = self._memory.started = True
            out.append(ThinkingDelta(text))
        for name, pieces in (("signature", self._signature), ("redactedContent", self._redacted)):
            if (piece := said.get(name)) and isinstance(piece, str):
                self._memory.keep(len(piece))
                pieces.append(piece)

    def close(self, out: list[Delta]) -> None:
        redacted = _joined(self._redacted)
        if self._spoken or self._signature:
            if not self._spoken:
                out.append(ThinkingDelta(""))  # thinking that is not shown: its signature is all there is
            self._memory.started = True
            signature = "".join(self._signature)
            out.append(PartEnd(self._memory.origin({"signature": signature}) if signature else None))
        if redacted:
            self._memory.started = True
            out.append(WholePart(OpaquePart(opaque=self._memory.origin({"redacted": redacted}))))


class CallBlock:
    """A call of one of the turn's tools. Arguments come in pieces of text, or whole as JSON with the start."""

    def __init__(self, start: JsonObject, memory: Memory, out: list[Delta]) -> None:
        if memory.calls >= MAX_CALLS:
            raise WireMismatch(memory.provider, f"the answer holds more than {MAX_CALLS} tool calls")
        self._memory = memory
        self._index = memory.calls
        self._start = start
        self._pieces: list[str] = []
        self._name = _string(start.get("name"))
        self._id = _string(start.get("toolUseId"))
        if not self._id or self._id in memory.ids:
            self._id = made_call_id(memory.id_seed, self._index)
        memory.ids.add(self._id)
        memory.calls += 1
        memory.started = True
        out.append(ToolCallStart(self._index, self._id, self._name))

    def feed(self, delta: JsonObject, out: list[Delta]) -> bool:
        use = delta.get("toolUse")
        if not isinstance(use, dict):
            return False
        self._add(_string(use.get("input")), out)
        return True

    def _add(self, text: str, out: list[Delta]) -> None:
        if text:
            self._memory.keep(len(text))
            self._pieces.append(text)
            out.append(ToolCallArguments(self._index, text))

    def close(self, out: list[Delta]) -> None:
        if all(map(str.isspace, self._pieces)):
            self._add(_input_text(self._start), out)
        out.append(ToolCallEnd(self._index, whole_call(self._id, self._name, "".join(self._pieces))))


class AnswerBlock:
    """A call of the tool whose input is the answer of the turn: it is text."""

    def __init__(self, memory: Memory) -> None:
        self._spoken = False
        memory.started = memory.answered = True

    def feed(self, delta: JsonObject, out: list[Delta]) -> bool:
        use = delta.get("toolUse")
        if not isinstance(use, dict):
            return False
        given = use.get("input")
        text = given if isinstance(given, str) else _input_text(use)
        if text:
            self._spoken = self._spoken or not text.isspace()
            out.append(TextDelta(text))
        return True

    def close(self, out: list[Delta]) -> None:
        if not self._spoken:
            out.append(TextDelta("{}"))
        out.append(PartEnd())


class ImageBlock:
    """An image of the model's making."""

    def __init__(self, start: JsonObject, memory: Memory) -> None:
        self._memory = memory
        self._format = _string(start.get("format"))
        self._pieces: list[str] = []

    def feed(self, delta: JsonObject, out: list[Delta]) -> bool:  # noqa: ARG002 - it comes whole, at its stop
        image = delta.get("image")
        if not isinstance(image, dict):
            return False
        source = image.get("source")
        data = source.get("bytes") if isinstance(source, dict) else None
        if isinstance(data, str):
            self._memory.keep(len(data))
            self._pieces.append(data)
        self._format = self._format or _string(image.get("format"))
        return True

    def close(self, out: list[Delta]) -> None:
        data = b"".join(_decoded(piece) for piece in self._pieces)
        if data:
            self._memory.started = True
            out.append(WholePart(Image(data=data, media_type=_IMAGES.get(self._format, ""))))


class ServerBlock:
    """A block of the service's own, such as a tool that it runs itself, or of a kind that is not known here."""

    def __init__(self, kind: str, start: JsonObject, memory: Memory) -> None:
        memory.keep(len(str(start)))
        self._memory = memory
        self._kind = kind
        self._start = start
        self._deltas: list[Any] = []

    def feed(self, delta: JsonObject, out: list[Delta]) -> bool:  # noqa: ARG002 - it comes whole, at its stop
        if self._kind not in delta:
            return False
        self._memory.keep(len(str(delta)))
        self._deltas.append(delta[self._kind])
        return True

    def close(self, out: list[Delta]) -> None:
        block: JsonObject = {self._kind: self._start}
        if self._deltas:
            block["deltas"] = self._deltas
        if is_portable(block):
            self._memory.started = True
            out.append(WholePart(OpaquePart(opaque=self._memory.origin({"block": block}))))


def _joined(pieces: list[str]) -> str:
    """Base64 in pieces as base64 of the whole: each piece may end in padding."""
    if len(pieces) < 2:
        return "".join(pieces)
    return base64.b64encode(b"".join(_decoded(piece) for piece in pieces)).decode("ascii")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _input_text(start: JsonObject) -> str:
    """The input that a start brings, as text; "" when it brings none."""
    given: Any = start.get("input")
    if isinstance(given, str):
        return given
    return arguments_text(given) if isinstance(given, dict | list) and given else ""

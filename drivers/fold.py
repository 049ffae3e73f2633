"""Deltas -> the assistant's message and all else a Reply needs. The one place that knows how deltas add up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from loopforge.drivers.turn import (
    Delta,
    Finish,
    Finished,
    Limits,
    Message,
    Notice,
    Opaque,
    Part,
    PartEnd,
    Refusal,
    RefusalDelta,
    Reply,
    ResponseInfo,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Turn,
    Usage,
    UsageDelta,
    WholePart,
)


@dataclass(slots=True)
class _Streaming:
    """A part whose text is still coming."""

    kind: type[Text | Thinking | Refusal]
    pieces: list[str] = field(default_factory=list)
    opaque: Opaque | None = None
    closed: bool = False

    def part(self) -> Part:
        text = "".join(self.pieces)
        return Refusal(text=text) if self.kind is Refusal else _with_opaque(self.kind, text, self.opaque)


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    whole: ToolCall | None = None

    def part(self) -> Part:
        if self.whole is not None:
            return self.whole
        return ToolCall(id=self.id, name=self.name, arguments="".join(self.pieces), invalid=True)


def _with_opaque(kind: type[Text | Thinking | Refusal], text: str, opaque: Opaque | None) -> Part:
    return Thinking(text=text, opaque=opaque) if kind is Thinking else Text(text=text, opaque=opaque)


class Fold:
    """Feed each delta once, in order. Cheap per delta; the message is put together on demand."""

    def __init__(self) -> None:
        self._parts: list[_Streaming | _Call | Part] = []
        self._calls: dict[int, _Call] = {}
        self.usage = Usage()
        self.warnings: list[str] = []
        self.model = ""
        self.request_id = ""
        self.limits: Limits | None = None
        self.finish: Finish | None = None
        self.finish_raw = ""
        self.content_seen = False

    def add(self, delta: Delta) -> None:
        match delta:
            case TextDelta(text):
                self._stream(Text, text)
            case ThinkingDelta(text):
                self._stream(Thinking, text)
            case RefusalDelta(text):
                self._stream(Refusal, text)
            case ToolCallStart(index, id, name):
                self._calls[index] = _Call(id, name)
                self._parts.append(self._calls[index])
                self.content_seen = True
            case ToolCallArguments(index, text):
                self._calls[index].pieces.append(text)
            case ToolCallEnd(index, call):
                self._calls[index].whole = call
            case PartEnd(opaque):
                self._end_part(opaque)
            case WholePart(part):
                self._parts.append(part)
                self.content_seen = True
            case UsageDelta(usage):
                self.usage = usage
            case Notice(text):
                if text not in self.warnings:
                    self.warnings.append(text)
            case ResponseInfo(model, request_id, limits):
                self.model = model or self.model
                self.request_id = request_id or self.request_id
                self.limits = limits or self.limits
            case Finished(finish, raw):
                self.finish, self.finish_raw = finish, raw

    def _stream(self, kind: type[Text | Thinking | Refusal], text: str) -> None:
        last = self._parts[-1] if self._parts else None
        if not (isinstance(last, _Streaming) and last.kind is kind and not last.closed):
            last = _Streaming(kind)
            self._parts.append(last)
        last.pieces.append(text)
        self.content_seen = True

    def _end_part(self, opaque: Opaque | None) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, _Streaming) and not last.closed:
            last.opaque, last.closed = opaque, True

    def message(self) -> Message:
        """What has come so far, as an assistant message. An unfinished call is marked invalid."""
        parts = (item.part() if isinstance(item, _Streaming | _Call) else item for item in self._parts)
        return Message(role="assistant", content=tuple(parts))

    def partial(self) -> Message | None:
        """What an error carries: the message so far, None when nothing had come."""
        return self.message() if self.content_seen else None

    def reply(self, turn: Turn) -> Reply:
        """The reply as far as the worker knows it; the supervisor adds attempts, queue time, route and warnings."""
        reply = Reply(
            id=turn.id,
            message=self.message(),
            finish=self.finish or "unknown",
            finish_raw=self.finish_raw,
            usage=self.usage,
            provider=turn.provider,
            model=turn.model,
            model_reported=self.model,
            request_id=self.request_id,
            limits=self.limits or Limits(),
            warnings=tuple(self.warnings),
        )
        if reply.finish == "stop" and not self.content_seen:
            return replace(reply, warnings=(*reply.warnings, "empty answer"))
        return reply

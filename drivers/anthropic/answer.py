"""The answer under way: what its events, or the members of a whole one, become, and how it ends.

Blocks come one after the other, but are told apart by their index; what a gateway leaves out (a start, a stop, the
index) is taken to be what it must have been. An error outranks a stop reason that came before it; a stop reason that is
itself a failure waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.anthropic.failures import explain_inside, is_error
from loopforge.drivers.anthropic.open_blocks import Memory, OpenBlock, open_block
from loopforge.drivers.anthropic.rate_limits import read_limits
from loopforge.drivers.anthropic.usage import UsageReports
from loopforge.drivers.errors import ContentFiltered, DriverError, GenerationFailed, WireMismatch, quote
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.turn import (
    Delta,
    Finish,
    Finished,
    JsonObject,
    Notice,
    Opaque,
    OpaquePart,
    ResponseInfo,
    Turn,
    Usage,
    UsageDelta,
    WholePart,
)
from loopforge.drivers.vendor_codes import minimax_code

FINISHES: Final[Mapping[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context_overflow",
    "content_filter": "content_filter",
}
_OUTPUT_REFUSED: Final = "1027"  # MiniMax's
_IMPLIED = {"text_delta": "text", "thinking_delta": "thinking"}  # the block that a delta without a start belongs to
_FAILED = frozenset({"error", "network_error", "insufficient_system_resource", "abort"})
_NO_INDEX = -1  # of a block that a gateway does not number, or that came whole
_MAX_NOTICES = 20  # about things that are not known: nothing a server sends may grow without bound


class Answer:
    """Turns events into deltas. `begun`: an event of this wire has come; `ended`: the wire's own end has been read."""

    def __init__(self, asked: Asked, turn: Turn, headers: Mapping[str, str], answer_tool: str) -> None:
        self.begun = False
        self.ended = False
        self._asked = asked
        self._headers = headers
        self._turn = turn
        self._memory = Memory(asked.provider, self._origin, answer_tool=answer_tool)
        self._blocks: dict[int, OpenBlock] = {}
        self._streaming: int | None = None  # index of the open block of text or thinking
        self._introduced = self._has_start = False
        self._usage = UsageReports()
        self._usage_due = False
        self._container = ""
        self._stop_reason: str | None = None
        self._details: JsonObject = {}
        self._finished = False
        self._doom: DriverError | None = None
        self._noticed: set[str] = set()

    @property
    def started(self) -> bool:
        """Something was generated."""
        return self._memory.started

    @property
    def complete(self) -> bool:
        """A stop reason was read: the body may end."""
        return self._stop_reason is not None

    @property
    def usage(self) -> Usage | None:
        """The latest count, said in a delta already or not."""
        return self._usage.total() if self._usage else None

    def read_event(self, kind: str, event: JsonObject, out: list[Delta]) -> None:
        """One event of a stream other than a delta. Raises DriverError."""
        if kind == "error" or (not kind and is_error(event)):
            raise explain_inside(self._asked, event, self._headers, started=self.started)
        for place in (event, event.get("message")):
            if isinstance(place, dict) and minimax_code(place):
                raise explain_inside(self._asked, place, self._headers, started=self.started)
        match kind:
            case "message_start":
                self._on_message_start(event, out)
            case "content_block_start":
                if not self._finished:
                    self._on_block_start(event, out)
            case "content_block_stop":
                self._close(_index(event), out)
            case "message_delta":
                self._on_message_delta(event, out)
            case "message_stop":
                self.begun = True
                self.end(out)
            case _:
                self._notice(f"an event of type {quote(kind, 40)!r} was not read", out)

    def read_whole(self, body: JsonObject, out: list[Delta]) -> None:
        """One JSON answer. Raises DriverError, also for an error that came with status 200."""
        content = body.get("content")
        if content and minimax_code(body) == _OUTPUT_REFUSED:  # what had been written before it was stopped is kept
            body = {**body, "stop_reason": "content_filter"}
        elif is_error(body):
            raise explain_inside(self._asked, body, self._headers, started=False)
        if not isinstance(content, list | str):
            what = f"the answer holds no content: {quote(str(body), 200)}"
            raise WireMismatch(self._asked.provider, what, model=self._asked.model)
        self._read_message(body, out)
        self.end(out)

    def end(self, out: list[Delta]) -> None:
        """The wire's own end, or the body's. Raises GenerationFailed or ContentFiltered when it was none."""
        if self._doom is None and not self._finished:
            self._close_all(out)
            if self._stop_reason is None and not self.started:
                self._doom = self._failed("", "the answer is empty and has no stop reason")
            else:
                self._conclude(out)
        self._flush_usage(out)
        if self._doom is not None:
            raise self._doom
        self.ended = True

    # -- the message --------------------------------------------------------------------------------------------------

    def _on_message_start(self, event: JsonObject, out: list[Delta]) -> None:
        if self._has_start:
            raise WireMismatch(self._asked.provider, "the stream starts a second message", model=self._asked.model)
        self._has_start = True
        message = event.get("message")
        self._read_message(message if isinstance(message, dict) else {}, out)

    def _read_message(self, message: JsonObject, out: list[Delta]) -> None:
        """A message: whole, or as the start of a stream, where it is whole, too, when there was nothing to generate."""
        self._introduce(message, out)
        self._usage_due = self._usage.add(message.get("usage")) or self._usage_due
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict):
                self._start(_NO_INDEX, block, out)
                self._close(_NO_INDEX, out)
        self._read_stop(message, out)

    def _introduce(self, message: JsonObject, out: list[Delta]) -> None:
        self.begun = True
        if self._introduced:
            return
        self._introduced = True
        model, own_id = (_string(message.get(name)) for name in ("model", "id"))
        self._memory.id_seed = f"{own_id}/{self._turn.id}/{len(self._turn.messages)}"
        request_id = limits.request_id(self._headers) or own_id
        out.append(ResponseInfo(model, request_id, read_limits(self._headers)))

    def _on_message_delta(self, event: JsonObject, out: list[Delta]) -> None:
        self._introduce({}, out)
        if self._usage.add(event.get("usage")):
            self._usage_due = True
            if self._finished:
                self._flush_usage(out)
        delta = event.get("delta")
        self._read_stop(delta if isinstance(delta, dict) else {}, out)

    def _read_stop(self, message: JsonObject, out: list[Delta]) -> None:
        container = message.get("container")
        if isinstance(container, dict) and isinstance(container.get("id"), str):
            self._container = container["id"]
        if isinstance(details := message.get("stop_details"), dict):
            self._details = details
        reason = message.get("stop_reason")
        if reason is None or self._finished or self._doom is not None:
            return
        self._stop_reason = reason if isinstance(reason, str) else quote(str(reason), 100)
        self._close_all(out)
        self._conclude(out)

    def _flush_usage(self, out: list[Delta]) -> None:
        if self._usage_due:
            self._usage_due = False
            out.append(UsageDelta(self._usage.total()))

    # -- blocks -------------------------------------------------------------------------------------------------------

    def _on_block_start(self, event: JsonObject, out: list[Delta]) -> None:
        self._introduce({}, out)
        start = event.get("content_block")
        if isinstance(start, dict):
            self._start(_index(event), start, out)

    def _start(self, index: int, start: JsonObject, out: list[Delta]) -> OpenBlock:
        self._close(index, out)  # without a stop: the next block says so
        if self._streaming is not None:
            self._close(self._streaming, out)
        block = self._blocks[index] = open_block(start, self._memory, out)
        if block.streams:
            self._streaming = index
        return block

    def _close(self, index: int, out: list[Delta]) -> None:
        block = self._blocks.pop(index, None)
        if index == self._streaming:
            self._streaming = None
        if block is not None:
            block.close(out)

    def _close_all(self, out: list[Delta]) -> None:
        for index in tuple(self._blocks):
            self._close(index, out)

    def read_delta(self, event: JsonObject, out: list[Delta]) -> None:
        """One event of type content_block_delta. Raises DriverError."""
        delta = event.get("delta")
        if not isinstance(delta, dict) or self._finished:
            return
        index, kind = _index(event), delta.get("type")
        block = self._blocks.get(index)
        if block is not None and block.feed(kind, delta, out):
            return
        implied = _IMPLIED.get(kind) if isinstance(kind, str) else None
        if implied is None:
            self._notice(f"a delta of type {quote(str(kind), 40)!r} was not read", out)
            return
        self._introduce({}, out)  # its start was left out, or it goes on after another block began
        self._start(index, {"type": implied}, out).feed(kind, delta, out)

    def _origin(self, block: JsonObject) -> Opaque:
        return self._opaque(block=block)

    def _opaque(self, **data: object) -> Opaque:
        asked = self._asked
        return Opaque(provider=asked.provider, model=asked.model, data={"vendor": asked.vendor, **data})

    def _notice(self, text: str, out: list[Delta]) -> None:
        if text not in self._noticed and len(self._noticed) < _MAX_NOTICES:
            self._noticed.add(text)
            out.append(Notice(text))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, out: list[Delta]) -> None:
        """Say how it ended, unless that is a failure. All blocks are closed."""
        outcome = self._judge()
        self._flush_usage(out)
        if isinstance(outcome, DriverError):
            self._doom = outcome
            return
        if self._container and outcome.finish in ("tool_calls", "pause"):
            out.append(WholePart(OpaquePart(opaque=self._opaque(container=self._container))))
        if outcome.finish == "content_filter":
            self._notice(self._refusal(), out)
        self._finished = True
        out.append(outcome)

    def _judge(self) -> Finished | DriverError:
        raw = self._stop_reason or ""
        if raw.lower() in _FAILED or raw.lower().startswith("malformed"):
            return self._failed(raw, f"stop reason {quote(raw, 100)!r}")
        finish = FINISHES.get(raw, "unknown")
        if finish == "content_filter" and not self.started:
            asked = self._asked
            request_id = limits.request_id(self._headers)
            return ContentFiltered(asked.provider, self._refusal(), model=asked.model, raw=raw, request_id=request_id)
        memory = self._memory
        if finish == "stop" and memory.calls:
            finish = "tool_calls"
        elif finish == "tool_calls" and memory.answered and not memory.calls:
            finish = "stop"
        return Finished(finish, raw)

    def _refusal(self) -> str:
        """Why the model refused, as far as the provider says."""
        category, explanation = (_string(self._details.get(name)) for name in ("category", "explanation"))
        told = ": ".join(word for word in (category, quote(explanation, 300).rstrip(".")) if word)
        return f"the model refused to answer ({told})" if told else "the model refused to answer"

    def _failed(self, raw: str, what: str) -> GenerationFailed:
        return GenerationFailed(
            self._asked.provider,
            f"the generation failed at the provider: {what}",
            model=self._asked.model,
            raw=raw,
            request_id=limits.request_id(self._headers),
            started=self.started,
        )


def _index(event: JsonObject) -> int:
    """The block that an event is about."""
    index = event.get("index")
    return index if isinstance(index, int) else _NO_INDEX


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""

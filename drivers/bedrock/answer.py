"""The answer under way: what its events, or the members of a whole one, become, and how it ends.

Blocks are told apart by their index. Text and thinking have no start of their own: they open with their first delta. A
stop reason that is itself a failure is one; an exception that comes before the stop outranks whatever came before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.bedrock.failures import Asked, explain_inside, is_error
from loopforge.drivers.bedrock.open_blocks import Memory, OpenBlock, block_for
from loopforge.drivers.bedrock.usage import read_usage
from loopforge.drivers.errors import ContentFiltered, DriverError, GenerationFailed, WireMismatch, quote
from loopforge.drivers.turn import (
    Delta,
    Finish,
    Finished,
    JsonObject,
    Notice,
    Opaque,
    ResponseInfo,
    Turn,
    Usage,
    UsageDelta,
)

FINISHES: Final[Mapping[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "model_context_window_exceeded": "context_overflow",
}
_DELTA_KINDS = ("text", "reasoningContent", "toolUse", "citation", "image", "toolResult")
_NO_INDEX = -1
_MAX_NOTICES = 20  # about things that are not known: nothing a server sends may grow without bound
_FAILED = frozenset({"error", "abort"})
_PADDING = "p"


class Answer:
    """Turns events into deltas. `begun`: an event of this wire has come; `stopped`: its stop reason, too.

    `usage`: the latest count, as a delta says it.
    """

    def __init__(self, asked: Asked, turn: Turn, headers: Mapping[str, str], answer_tool: str) -> None:
        self.begun = False
        self.stopped = False
        self.usage: Usage | None = None
        self._asked = asked
        self._headers = headers
        seed = limits.request_id(headers) or turn.id
        self._memory = Memory(asked.provider, self._origin, id_seed=seed, answer_tool=answer_tool)
        self._blocks: dict[int, OpenBlock] = {}
        self._current: tuple[int, OpenBlock] | None = None
        self._noticed: set[str] = set()

    @property
    def started(self) -> bool:
        """Something was generated."""
        return self._memory.started

    def read_event(self, name: str, event: JsonObject, out: list[Delta]) -> None:
        """One event of a stream. Raises DriverError. Behind the stop only metadata says anything."""
        if self.stopped and name != "metadata":
            return
        match name:
            case "contentBlockDelta":
                self._on_delta(event, out)
            case "contentBlockStart":
                self._on_start(event, out)
            case "contentBlockStop":
                self._close(_index(event), out)
            case "messageStart":
                if self.begun:
                    raise WireMismatch(self._asked.provider, "the stream starts a second message")
                self._introduce(out)
            case "messageStop":
                self._introduce(out)
                self._on_stop(event, out)
            case "metadata":
                self._on_metadata(event, out)
            case _:
                self._notice(f"an event of type {quote(name, 40)!r} was not read", out)

    def read_whole(self, body: JsonObject, out: list[Delta]) -> None:
        """One JSON answer. Raises DriverError, also for an error that came with status 200."""
        if is_error(body):
            raise explain_inside(self._asked, body, self._headers)
        output = body.get("output")
        message = output.get("message") if isinstance(output, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            if _string(body.get("stopReason")) not in FINISHES:
                what = f"the answer holds no message: {quote(str(body), 200)}"
                raise WireMismatch(self._asked.provider, what, model=self._asked.model)
            content = []
        self._introduce(out)
        for block in content:
            if isinstance(block, dict):
                self._read_block(block, out)
        self._on_usage(body, out)
        self._conclude(_string(body.get("stopReason")), out)

    # -- events -------------------------------------------------------------------------------------------------------

    def _introduce(self, out: list[Delta]) -> None:
        if not self.begun:
            self.begun = True
            request_id = limits.request_id(self._headers)
            out.append(ResponseInfo(request_id=request_id, limits=limits.read_limits(self._headers)))

    def _on_delta(self, event: JsonObject, out: list[Delta]) -> None:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            return
        self._introduce(out)
        index = _index(event)
        if self._current is not None and self._current[0] == index:
            block: OpenBlock | None = self._current[1]
        else:
            block = self._blocks.get(index)
        if block is not None and block.feed(delta, out):
            return
        kind = next((name for name in _DELTA_KINDS if name in delta), "")
        if not kind:
            names = ", ".join(sorted(name for name in delta if name != _PADDING))
            self._notice(f"a delta of type {quote(names, 40)!r} was not read", out)
            return
        member = delta.get(kind)
        self._open(index, kind, member if isinstance(member, dict) and kind == "toolUse" else {}, out)
        if not self._blocks[index].feed(delta, out):
            self._notice(f"a delta of type {kind!r} was not read", out)

    def _on_start(self, event: JsonObject, out: list[Delta]) -> None:
        start = event.get("start")
        if not isinstance(start, dict):
            return
        self._introduce(out)
        kind = next((name for name in start if name != _PADDING), "")
        member = start.get(kind)
        if kind and isinstance(member, dict):
            self._open(_index(event), kind, member, out)

    def _open(self, index: int, kind: str, start: JsonObject, out: list[Delta]) -> None:
        self._close(index, out)  # without a stop: the next block says so
        if self._current is not None:
            self._close(self._current[0], out)
        block = block_for(kind, start, self._memory, out)
        self._blocks[index] = block
        self._current = (index, block)

    def _close(self, index: int, out: list[Delta]) -> None:
        block = self._blocks.pop(index, None)
        if self._current is not None and self._current[0] == index:
            self._current = None
        if block is not None:
            block.close(out)

    def _on_stop(self, event: JsonObject, out: list[Delta]) -> None:
        for index in tuple(self._blocks):
            self._close(index, out)
        self._conclude(_string(event.get("stopReason")), out)

    def _on_metadata(self, event: JsonObject, out: list[Delta]) -> None:
        self._introduce(out)
        self._on_usage(event, out)

    def _on_usage(self, holder: JsonObject, out: list[Delta]) -> None:
        usage = read_usage(holder.get("usage"))
        if usage is not None:
            self.usage = usage
            out.append(UsageDelta(usage))

    # -- a whole answer -----------------------------------------------------------------------------------------------

    def _read_block(self, block: JsonObject, out: list[Delta]) -> None:
        kind = next((name for name in block if name != _PADDING), "")
        member = block.get(kind)
        if kind == "citationsContent" and isinstance(member, dict):
            self._read_citations(member, out)
            return
        start = member if isinstance(member, dict) else {}
        opened = block_for(kind, start, self._memory, out)
        if kind in ("text", "reasoningContent", "image") or (kind == "toolUse" and self._is_answer(start)):
            opened.feed(block, out)
        opened.close(out)

    def _is_answer(self, start: JsonObject) -> bool:
        return bool(self._memory.answer_tool) and start.get("name") == self._memory.answer_tool

    def _read_citations(self, member: JsonObject, out: list[Delta]) -> None:
        opened = block_for("text", {}, self._memory, out)
        for name, key in (("content", ""), ("citations", "citation")):
            listed = member.get(name)
            for item in listed if isinstance(listed, list) else ():
                if isinstance(item, dict):
                    opened.feed({key: item} if key else item, out)
        opened.close(out)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, raw: str, out: list[Delta]) -> None:
        """Say how it ended. Raises GenerationFailed or ContentFiltered when it was no answer."""
        if raw.lower() in _FAILED or raw.lower().startswith("malformed"):
            raise self._failed(raw, f"stop reason {quote(raw, 100)!r}")
        if not raw and not self.started:
            raise self._failed("", "the answer is empty and has no stop reason")
        finish = FINISHES.get(raw, "unknown")
        if finish == "content_filter":
            what = f"the answer was stopped by the service's filter ({raw})"
            if not self.started:
                raise self._error(ContentFiltered, raw, what)
            self._notice(what, out)
        memory = self._memory
        if finish == "stop" and memory.calls:
            finish = "tool_calls"
        elif finish == "tool_calls" and memory.answered and not memory.calls:
            finish = "stop"
        self.stopped = True
        out.append(Finished(finish, raw))

    def _failed(self, raw: str, what: str) -> DriverError:
        return self._error(GenerationFailed, raw, f"the generation failed at the provider: {what}")

    def _error(self, cls: type[DriverError], raw: str, what: str) -> DriverError:
        asked = self._asked
        request_id = limits.request_id(self._headers)
        return cls(asked.provider, what, model=asked.model, raw=raw, request_id=request_id, started=self.started)

    def _origin(self, data: JsonObject) -> Opaque:
        return Opaque(provider=self._asked.provider, model=self._asked.model, data=data)

    def _notice(self, text: str, out: list[Delta]) -> None:
        if text not in self._noticed and len(self._noticed) < _MAX_NOTICES:
            self._noticed.add(text)
            out.append(Notice(text))


def _index(event: JsonObject) -> int:
    """The block that an event is about."""
    index = event.get("contentBlockIndex")
    return index if isinstance(index, int) else _NO_INDEX


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""

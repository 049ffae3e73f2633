"""The answer under way: what the members of a chunk or of a whole message become, and how it ends.

The order in a chunk is reasoning, text, tool calls, then the finish reason, whichever of them it has. A finish reason
that is itself a failure waits for the end, in case an error comes that says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.answer_text import AnswerText
from loopforge.drivers.errors import ContentFiltered, DriverError, GenerationFailed, WireMismatch, quote
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import is_portable
from loopforge.drivers.tool_fragments import ToolCalls
from loopforge.drivers.turn import (
    Delta,
    Finish,
    Finished,
    JsonObject,
    Opaque,
    OpaquePart,
    PartEnd,
    ResponseInfo,
    TextDelta,
    ThinkingDelta,
    Turn,
    Usage,
    UsageDelta,
    WholePart,
)
from loopforge.drivers.zhipu_native.draft import made_here
from loopforge.drivers.zhipu_native.failures import explain_inside, is_error
from loopforge.drivers.zhipu_native.messages import REASONING, TAGS
from loopforge.drivers.zhipu_native.usage import read_usage

MAX_KEPT: Final = 16 * 1024 * 1024  # bytes, about, of what searches found
MARKS: Final = ("<|begin_of_box|>", "<|end_of_box|>")
"""Vision models put them around their answer."""

FINISHES: Final[Mapping[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "sensitive": "content_filter",
    "model_context_window_exceeded": "context_overflow",
}
_FAILED = frozenset({"error", "network_error"})


class Answer:
    """Turns chunks into deltas. `started`: something was generated. `complete`: a finish reason was read."""

    def __init__(self, turn: Turn, asked: Asked, headers: Mapping[str, str]) -> None:
        self.started = False
        self.complete = False
        self._turn = turn
        self._asked = asked
        self._headers = headers
        self._text = AnswerText(think_tags=True, trim=True, marks=MARKS)
        self._calls: ToolCalls | None = None
        self._introduced = False
        self._model_known = False
        self._id_seed = ""
        self._index: object = None  # of the choice that counts
        self._field = ""  # where reasoning comes from
        self._thinking = False  # a thinking part is open
        self._found: list[object] = []  # by a search of the provider's
        self._found_size = 0
        self._usage: Usage | None = None
        self._usage_due = False
        self._finish: Finish | None = None
        self._doom: DriverError | None = None

    @property
    def usage(self) -> Usage | None:
        """The latest count, said in a delta already or not."""
        return self._usage

    def read_chunk(self, chunk: JsonObject, out: list[Delta]) -> None:
        """One chunk of a stream. Raises DriverError."""
        if not self._model_known:
            self._introduce(chunk, out)
        if (usage := chunk.get("usage")) and isinstance(usage, dict):
            self._on_usage(usage)
        if found := chunk.get("web_search"):
            self._on_search(found)
        choices = chunk.get("choices")
        if choices and isinstance(choices, list) and isinstance(choice := choices[0], dict):
            if (index := choice.get("index")) != self._index:
                if self._index is not None and index is not None:
                    return  # of several choices the first counts
                self._index = index if self._index is None else self._index
            self._read_choice(choice, choice.get("delta") or choice.get("message"), out, whole=False)

    def read_whole(self, body: JsonObject, out: list[Delta]) -> None:
        """One JSON answer. Raises DriverError, also for an error that came with status 200."""
        if is_error(body):
            raise explain_inside(self._asked, body, self._headers, started=False)
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            if isinstance(choices, list):
                raise self._failed("", "the answer holds no choice")
            what = f"the answer holds no choices: {quote(str(body)[:200])}"
            raise WireMismatch(self._asked.provider, what, model=self._asked.model)
        self._introduce(body, out)
        if isinstance(usage := body.get("usage"), dict):
            self._on_usage(usage)
        if found := body.get("web_search"):
            self._on_search(found)
        self._read_choice(choice, choice.get("message") or choice.get("delta"), out, whole=True)
        self.end(out)

    def end(self, out: list[Delta]) -> None:
        """The wire's own end, or the body's. Raises GenerationFailed or ContentFiltered when it was none."""
        if self._doom is None and not self.complete:
            if self.started:
                self._conclude("", out)
            else:
                self._doom = self._failed("", "the answer is empty and has no finish reason")
        if self._doom is not None:
            raise self._doom
        self.flush(out)

    def flush(self, out: list[Delta]) -> None:
        """Hand on what is still held back, without ending anything."""
        self._flush_text(out)
        self._flush_usage(out)

    # -- members of a chunk -------------------------------------------------------------------------------------------

    def _introduce(self, chunk: JsonObject, out: list[Delta]) -> None:
        model = chunk.get("model")
        model = model if isinstance(model, str) else ""
        self._model_known = bool(model)
        if self._introduced:
            if model:
                out.append(ResponseInfo(model=model))
            return
        self._introduced = True
        names = (chunk.get("request_id"), chunk.get("id"))
        own_id = next((name for name in names if isinstance(name, str) and name), "")
        self._id_seed = f"{own_id}/{self._turn.id}/{len(self._turn.messages)}"
        request_id = limits.request_id(self._headers) or own_id
        out.append(ResponseInfo(model, request_id, limits.read_limits(self._headers)))

    def _on_usage(self, raw: JsonObject) -> None:
        usage = read_usage(raw)
        if usage != self._usage:
            self._usage, self._usage_due = usage, True

    def _flush_usage(self, out: list[Delta]) -> None:
        if self._usage_due and self._usage is not None:
            self._usage_due = False
            out.append(UsageDelta(self._usage))

    def _on_search(self, found: object) -> None:
        """Hits of a search on the provider's side: neither text nor a call, kept as they are."""
        if isinstance(found, list) and is_portable(found):
            self._found_size += len(str(found))
            if self._found_size > MAX_KEPT:
                raise WireMismatch(self._asked.provider, f"search results of more than {MAX_KEPT} bytes")
            self._found += found

    def _read_choice(self, choice: JsonObject, message: object, out: list[Delta], *, whole: bool) -> None:
        if error := choice.get("error"):
            raise explain_inside(self._asked, {"error": error}, self._headers, started=self.started)
        if self.complete:
            return  # behind the end there is nothing but usage, or an error
        if isinstance(message, dict):
            self._read_message(message, out, whole=whole)
        finish = choice.get("finish_reason")
        if finish:
            self._conclude(finish if isinstance(finish, str) else quote(str(finish), 100), out)

    def _read_message(self, message: JsonObject, out: list[Delta], *, whole: bool) -> None:
        if (reasoning := message.get(REASONING)) and isinstance(reasoning, str) and self._field != TAGS:
            if self._field != REASONING:
                self._field = REASONING
                self._text.no_tags()
            self._on_thinking(reasoning, out)
        if (content := message.get("content")) and isinstance(content, str):
            if self._text.plain:
                self._on_text(content, out)
            else:
                self._on_pieces(self._text.feed(content), out)
        if calls := message.get("tool_calls"):
            self._on_calls(calls, out, whole=whole)
        elif (call := message.get("function_call")) and isinstance(call, dict) and any(call.values()):
            self._on_calls(call, out, whole=whole)

    def _on_thinking(self, text: str, out: list[Delta]) -> None:
        self._thinking = self.started = True
        out.append(ThinkingDelta(text))

    def _on_text(self, text: str, out: list[Delta]) -> None:
        if self._thinking:
            self._end_thinking(out)
        self.started = True
        out.append(TextDelta(text))

    def _on_pieces(self, pieces: list[tuple[bool, str]], out: list[Delta]) -> None:
        for thinking, piece in pieces:
            if thinking:
                self._field = TAGS
                self._on_thinking(piece, out)
            else:
                self._on_text(piece, out)

    def _end_thinking(self, out: list[Delta]) -> None:
        self._thinking = False
        out.append(PartEnd(self._opaque(field=self._field)))

    def _flush_text(self, out: list[Delta]) -> None:
        if not self._text.plain:
            self._on_pieces(self._text.end(), out)

    def _leave_text(self, out: list[Delta]) -> None:
        """Something else begins: what was held back of the text comes first."""
        self._flush_text(out)
        if self._thinking:
            self._end_thinking(out)

    def _on_calls(self, calls: object, out: list[Delta], *, whole: bool) -> None:
        if self._calls is None:
            self._calls = ToolCalls(self._asked.provider, self._opaque(), self._id_seed)
        self._leave_text(out)
        if isinstance(calls, list):
            for fragment in calls:
                self._calls.add(fragment, out, whole=whole)
        else:
            self._calls.add_legacy(calls, out)
        self.started = self.started or bool(self._calls)

    def _opaque(self, **data: object) -> Opaque:
        return made_here(self._asked.provider, self._asked.model, **data)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, raw: str, out: list[Delta]) -> None:
        """Close what is open and say how it ended, unless that is a failure."""
        self.complete = True
        self._leave_text(out)
        if self._found:
            out.append(WholePart(OpaquePart(opaque=self._opaque(web_search=self._found))))
            self._found = []
        finish = self._judge(raw)
        if isinstance(finish, DriverError):
            self._doom = finish
            return
        if self._calls is not None:
            self._calls.end(out)
        self._flush_usage(out)
        out.append(Finished(finish, raw))

    def _judge(self, raw: str) -> Finish | DriverError:
        word = raw.lower()
        if word in _FAILED or word.startswith("malformed"):
            return self._failed(raw, f"finish reason {quote(raw, 100)!r}")
        finish = FINISHES.get(word, "unknown")
        if self._calls and finish == "stop":
            return "tool_calls"
        if finish == "content_filter" and not self.started:
            what = "the provider's content filter stopped the answer before it began"
            return ContentFiltered(self._asked.provider, what, model=self._asked.model, raw=raw)
        return finish

    def _failed(self, raw: str, what: str) -> GenerationFailed:
        return GenerationFailed(
            self._asked.provider,
            f"the generation failed at the provider: {what}",
            model=self._asked.model,
            raw=raw,
            request_id=limits.request_id(self._headers),
            started=self.started,
        )

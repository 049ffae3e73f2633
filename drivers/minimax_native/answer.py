"""The answer under way: what the members of a frame or of a whole message become, and how it ends.

The order of a frame is thinking, text, tool calls, whichever of them it has. The finish reason is kept until the frame
behind it has told the usage, or the body has ended: what comes behind it is a second telling of the whole answer, the
usage alone, or nothing, and it may be an error, which outranks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.answer_text import AnswerText
from loopforge.drivers.errors import ContentFiltered, GenerationFailed, WireMismatch, quote
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import is_portable
from loopforge.drivers.minimax_native.calls import Calls
from loopforge.drivers.minimax_native.draft import made_here
from loopforge.drivers.minimax_native.failures import code_of, explain_inside, flagged, is_error
from loopforge.drivers.minimax_native.thinking import Details, FieldReader, details_text
from loopforge.drivers.minimax_native.usage import read_usage
from loopforge.drivers.turn import (
    Delta,
    Finish,
    Finished,
    JsonObject,
    Notice,
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

MAX_KEPT = 64 * 1024 * 1024  # bytes, about, of items that wait for the end of their part
_MAX_NOTICES = 20  # about things that are not known: nothing a server sends may grow without bound
_PIECE = 64  # what keeping one more item costs beside its characters

FINISHES: Final[Mapping[str, Finish]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_FAILED = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})
_OUTPUT_REFUSED: Final = "1027"


class Answer:
    """Turns frames into deltas.

    `begun`: a frame of this wire has come; `started`: something was generated; `ended`: the deltas hold a Finished.
    """

    def __init__(self, turn: Turn, asked: Asked, headers: Mapping[str, str]) -> None:
        self.begun = False
        self.started = False
        self.ended = False
        self._turn = turn
        self._asked = asked
        self._headers = headers
        self._id_seed = ""
        self._choice: object = None  # index of the choice that counts
        self._content = AnswerText(think_tags=True, trim=True)
        self._reasoning = FieldReader()
        self._field = ""  # where thinking comes from
        self._thinking = False  # a thinking part is open
        self._details = Details()
        self._calls: Calls | None = None
        self._search: list[JsonObject] = []
        self._annotations: list[object] = []
        self._kept = 0
        self._spoke = False  # text has come
        self._usage: Usage | None = None
        self._usage_due = False
        self._finish_raw: str | None = None
        self._at_end = False  # a frame has come that only ends have
        self._flags: dict[str, str] = {}
        self._noticed: set[str] = set()

    @property
    def complete(self) -> bool:
        """A finish reason, or a frame that only ends have, was read: the body may end."""
        return bool(self._finish_raw) or self._at_end

    @property
    def usage(self) -> Usage | None:
        """The latest count, said in a delta already or not."""
        return self._usage

    def read_frame(self, frame: JsonObject, out: list[Delta]) -> None:
        """One frame of a stream. Raises DriverError."""
        if ("base_resp" in frame or "error" in frame or "choices" not in frame) and is_error(frame):
            if code_of(frame) == _OUTPUT_REFUSED and not self.started and _content_of(frame):
                self.read_whole(frame, out)
                return
            self._usage = read_usage(frame.get("usage")) or self._usage
            raise explain_inside(self._asked, frame, self._headers, started=self.started)
        if "choices" not in frame:
            return
        if not self.begun:
            self._introduce(frame, out)
        if frame.get("output_sensitive") is True or frame.get("input_sensitive") is True:
            self._flag(frame)
        choices = frame["choices"]
        if isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._read_choice(choice, out)
        if usage := frame.get("usage"):
            self._on_usage(usage)
        if not choices and ("base_resp" in frame or self._usage_due):
            self._at_end = True
        if self.ended:
            self._flush_usage(out)
        elif self._finish_raw and self._usage is not None:
            self._conclude(out)

    def read_whole(self, body: JsonObject, out: list[Delta]) -> None:
        """One JSON answer. Raises DriverError, also for an error that came with status 200."""
        choice = _first_choice(body)
        stopped = code_of(body) == _OUTPUT_REFUSED and bool(_content_of(body))
        if is_error(body) and not stopped:
            self._usage = read_usage(body.get("usage")) or self._usage
            raise explain_inside(self._asked, body, self._headers, started=False)
        if choice is None:
            self._flag(body)
            if self._flags:
                raise self._filtered("")
            if isinstance(body.get("choices"), list) or "base_resp" in body:
                raise self._failed("", "the answer holds no choice")
            what = f"the answer holds no choices: {quote(str(body)[:200])}"
            raise WireMismatch(self._asked.provider, what, model=self._asked.model)
        self._introduce(body, out)
        self._flag(body)
        self._read_message(_message_of(choice), out, whole=True)
        self._read_search(choice)
        self._read_finish(choice)
        if stopped:
            self._flags.setdefault("output", f"code {_OUTPUT_REFUSED}")
        self._on_usage(body.get("usage"))
        self._conclude(out)

    def end(self, out: list[Delta]) -> None:
        """The wire's own end sign, or the body's end. Raises GenerationFailed or ContentFiltered when it was none."""
        if not self.ended:
            self._conclude(out)

    def flush(self, out: list[Delta]) -> None:
        """Hand on what is still held back, without ending anything."""
        self._flush_thinking(out)
        self._flush_content(out)
        self._flush_usage(out)

    # -- members of a frame -------------------------------------------------------------------------------------------

    def _introduce(self, frame: JsonObject, out: list[Delta]) -> None:
        self.begun = True
        model, own_id = (_string(frame.get(name)) for name in ("model", "id"))
        self._id_seed = f"{own_id}/{self._turn.id}/{len(self._turn.messages)}"
        request_id = limits.request_id(self._headers) or own_id
        out.append(ResponseInfo(model, request_id, limits.read_limits(self._headers)))

    def _flag(self, frame: JsonObject) -> None:
        for what in ("input", "output"):
            if kind := flagged(frame, what):
                self._flags[what] = kind

    def _on_usage(self, raw: object) -> None:
        usage = read_usage(raw)
        if usage is not None and usage != self._usage:
            self._usage, self._usage_due = usage, True

    def _flush_usage(self, out: list[Delta]) -> None:
        if self._usage_due and self._usage is not None:
            self._usage_due = False
            if self._usage != Usage():
                out.append(UsageDelta(self._usage))

    def _read_choice(self, choice: JsonObject, out: list[Delta]) -> None:
        index = choice.get("index")
        if index != self._choice:
            if self._choice is not None and index is not None:
                return  # the first choice counts
            self._choice = index if self._choice is None else self._choice
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if delta.get("role") == "tool":  # what the vendor's own search found, with a finish reason of its own
                self._keep_search(delta)
                return
            if not self.ended:
                self._read_message(delta, out, whole=False)
        if isinstance(choice.get("message"), dict) or isinstance(choice.get("messages"), list):
            self._at_end = True
            if not self.ended:
                self._read_summary(choice, out)
        if self._at_end or not self._searches(choice):
            self._read_finish(choice)

    def _read_summary(self, choice: JsonObject, out: list[Delta]) -> None:
        """The whole answer once more, behind its stream: only what no delta brought is taken from it."""
        if not self.started:
            self._read_message(_message_of(choice), out, whole=True)
            self._read_search(choice)
            return
        message = _message_of(choice)
        content, calls = message.get("content"), message.get("tool_calls")
        self.flush(out)
        if not self._spoke and isinstance(content, str):
            again = AnswerText(think_tags=True, trim=True)
            for is_thinking, text in (*again.feed(content), *again.end()):
                if not is_thinking:
                    self._on_text(text, out)
        if not self._calls and calls and isinstance(calls, list):
            self._on_calls(calls, out, whole=True)

    def _read_message(self, message: JsonObject, out: list[Delta], *, whole: bool) -> None:
        content = message.get("content")
        details, reasoning = message.get("reasoning_details"), message.get("reasoning_content")
        if details or reasoning:
            self._read_reasoning(details, reasoning, out, whole=whole)
        if content:
            if isinstance(content, str):
                self._on_content(content, out)
            elif isinstance(content, list):
                self._on_parts(content, out)
        if (calls := message.get("tool_calls")) and isinstance(calls, list):
            self._on_calls(calls, out, whole=whole)
        elif (call := message.get("function_call")) and isinstance(call, dict) and any(call.values()):
            self._on_calls(call, out, whole=whole)
        if message.get("audio_content"):
            self._notice("the sound of the answer was not read", out)
        if (notes := message.get("annotations")) and isinstance(notes, list) and is_portable(notes):
            self._keep(len(str(notes)))
            self._annotations += notes

    def _read_finish(self, choice: JsonObject) -> None:
        finish = choice.get("finish_reason")
        if finish is None or finish == "":
            return
        self._finish_raw = finish if isinstance(finish, str) else quote(str(finish), 100)

    def _searches(self, choice: JsonObject) -> bool:
        """Whether the choice ends in calls of the vendor's own tools alone: their results and the answer follow."""
        return choice.get("finish_reason") == "tool_calls" and self._calls is not None and not self._calls

    # -- the vendor's own search --------------------------------------------------------------------------------------

    def _read_search(self, choice: JsonObject) -> None:
        """Of `messages` the last assistant's is the answer; the others are the search that led to it."""
        messages = choice.get("messages")
        if isinstance(messages, list):
            answer = _message_of(choice)
            for message in messages:
                if isinstance(message, dict) and message is not answer and message.get("role") != "user":
                    self._keep_search(message)

    def _keep_search(self, message: JsonObject) -> None:
        if is_portable(message):
            self._keep(len(str(message)))
            self._search.append(message)

    def _keep(self, size: int) -> None:
        self._kept += size + _PIECE
        if self._kept > MAX_KEPT:
            raise WireMismatch(self._asked.provider, f"items beside the answer of more than {MAX_KEPT} bytes")

    # -- thinking, text and calls -------------------------------------------------------------------------------------

    def _read_reasoning(self, details: object, reasoning: object, out: list[Delta], *, whole: bool) -> None:
        """Both members hold the same text: the first one that had some is the one that is read."""
        if details and isinstance(details, list):
            self._keep(self._details.add(details, whole=whole))
        for name in (self._field,) if self._field else ("reasoning_content", "reasoning_details"):
            text = details_text(details) if name == "reasoning_details" else reasoning
            if text and isinstance(text, str) and name != "content":
                self._field = name
                self._content.no_tags()
                if text := self._reasoning.feed(text):
                    self._on_thinking(text, out)
                return

    def _on_thinking(self, text: str, out: list[Delta]) -> None:
        self._thinking = self.started = True
        out.append(ThinkingDelta(text))

    def _on_text(self, text: str, out: list[Delta]) -> None:
        if self._thinking:
            self._end_thinking(out)
        self._spoke = self.started = True
        out.append(TextDelta(text))

    def _on_content(self, text: str, out: list[Delta]) -> None:
        if self._content.plain:
            self._on_text(text, out)
        else:
            self._on_pieces(self._content.feed(text), out)

    def _on_pieces(self, pieces: list[tuple[bool, str]], out: list[Delta]) -> None:
        for is_thinking, piece in pieces:
            if is_thinking:
                self._field = "content"
                self._on_thinking(piece, out)
            else:
                self._on_text(piece, out)

    def _on_parts(self, parts: list[object], out: list[Delta]) -> None:
        for part in parts:
            if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                self._on_content(text, out)
            elif part:
                kind = part.get("type") if isinstance(part, dict) else part
                self._notice(f"a part of type {quote(str(kind), 40)!r} of the answer was not read", out)

    def _notice(self, text: str, out: list[Delta]) -> None:
        if text not in self._noticed and len(self._noticed) < _MAX_NOTICES:
            self._noticed.add(text)
            out.append(Notice(text))

    def _on_calls(self, calls: list[object] | JsonObject, out: list[Delta], *, whole: bool) -> None:
        if self._calls is None:
            self._calls = Calls(self._asked.provider, self._opaque(), self._id_seed)
        self._flush_content(out)
        self._end_thinking(out)
        if isinstance(calls, list):
            self._calls.add(calls, out, whole=whole)
        else:
            self._calls.add_legacy(calls, out)
        self.started = self.started or len(self._calls) > 0

    def _flush_content(self, out: list[Delta]) -> None:
        if not self._content.plain:
            self._on_pieces(self._content.end(), out)

    def _flush_thinking(self, out: list[Delta]) -> None:
        if rest := self._reasoning.end():
            self._on_thinking(rest, out)

    def _end_thinking(self, out: list[Delta]) -> None:
        self._flush_thinking(out)
        items = self._details.take()
        if not self._thinking and not items:
            return
        data: JsonObject = {"form": "text"}
        if self._field == "content":
            data = {"form": "tags", "gap": self._content.gap}
        elif items:
            data = {"form": "details", "items": items}
        if not self._thinking:  # items without a text that can be read
            self._on_thinking("", out)
        self._thinking = False
        out.append(PartEnd(self._opaque(**data)))

    def _opaque(self, **data: object) -> Opaque:
        return made_here(self._asked.provider, self._asked.model, **data)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, out: list[Delta]) -> None:
        """Close what is open and say how it ended. Raises what that is when it failed."""
        self._flush_content(out)
        self._end_thinking(out)
        self._flush_search(out)
        self._flush_usage(out)
        finished = self._judge()
        if self._calls is not None:
            self._calls.end(out)
        if finished.finish == "stop" and self.started and not self._spoke:
            out.append(Notice("empty answer"))
        self.ended = True
        out.append(finished)

    def _flush_search(self, out: list[Delta]) -> None:
        search = [*(() if self._calls is None else self._calls.take_others()), *self._search]
        data = {name: items for name, items in (("search", search), ("annotations", self._annotations)) if items}
        if data:
            self.started = True
            out.append(WholePart(OpaquePart(opaque=self._opaque(**data))))

    def _judge(self) -> Finished:
        raw = self._finish_raw or ""
        word = raw.lower()
        called = len(self._calls) if self._calls is not None else 0
        if word in _FAILED or word.startswith("malformed"):
            raise self._failed(raw, f"finish reason {quote(raw, 100)!r}")
        finish = FINISHES.get(word, "unknown")
        if not self.started and (self._flags or finish == "content_filter"):
            raise self._filtered(raw)
        if not raw and not self.started:
            raise self._failed("", "the answer is empty and has no finish reason")
        if "output" in self._flags:
            return Finished("content_filter", f"{raw} (output flagged: {self._flags['output']})".strip())
        if called and finish in ("stop", "unknown"):
            finish = "tool_calls"
        elif finish == "tool_calls" and self._spoke and not called:
            finish = "stop"  # nothing is there that a client could call
        return Finished(finish, raw)

    def _filtered(self, raw: str) -> ContentFiltered:
        flags = ", ".join(f"{what} flagged: {kind}" for what, kind in self._flags.items())
        what = "the provider's content filter stopped the answer before it began"
        return ContentFiltered(
            self._asked.provider,
            f"{what} ({flags})" if flags else what,
            model=self._asked.model,
            raw=raw or flags,
            request_id=limits.request_id(self._headers),
        )

    def _failed(self, raw: str, what: str) -> GenerationFailed:
        return GenerationFailed(
            self._asked.provider,
            f"the generation failed at the provider: {what}",
            model=self._asked.model,
            raw=raw,
            request_id=limits.request_id(self._headers),
            started=self.started,
        )


def is_frame(body: JsonObject) -> bool:
    """Whether JSON that came alone is one frame of a stream, and no whole answer."""
    choice = _first_choice(body)
    return choice is not None and "delta" in choice and not choice.keys() & {"message", "messages"}


def _first_choice(body: JsonObject) -> JsonObject | None:
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else None


def _message_of(choice: JsonObject) -> JsonObject:
    """The message of a choice: of several, from the vendor's own search, the last of the assistant's."""
    messages = choice.get("messages")
    if isinstance(messages, list):
        said = [item for item in messages if isinstance(item, dict) and item.get("role") == "assistant"]
        if said:
            return said[-1]
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _content_of(body: JsonObject) -> object:
    choice = _first_choice(body)
    return None if choice is None else _message_of(choice).get("content")


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""

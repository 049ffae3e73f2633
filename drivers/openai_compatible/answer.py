"""The answer under way: what the members of a chunk or of a whole message become, and how it ends.

The order of a chunk is reasoning, text, refusal, tool calls, then the finish reason, whichever of them it has. An
error outranks a finish reason that came before it; a finish reason that is itself a failure waits one event for it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.answer_text import AnswerText
from loopforge.drivers.errors import ContentFiltered, DriverError, GenerationFailed, WireMismatch, quote
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import is_portable
from loopforge.drivers.openai_compatible import echo
from loopforge.drivers.openai_compatible.failures import explain_inside, is_error
from loopforge.drivers.openai_compatible.reasoning import ReasoningItems, details_text
from loopforge.drivers.openai_compatible.usage import is_empty, read_usage
from loopforge.drivers.tool_fragments import ToolCalls
from loopforge.drivers.turn import (
    Audio,
    Delta,
    Finish,
    Finished,
    Image,
    JsonObject,
    Notice,
    Opaque,
    OpaquePart,
    PartEnd,
    RefusalDelta,
    ResponseInfo,
    TextDelta,
    ThinkingDelta,
    Turn,
    Usage,
    UsageDelta,
    WholePart,
)
from loopforge.drivers.vendors import Profile

MAX_KEPT = 64 * 1024 * 1024  # bytes, about, of opaque items and sound that wait for the answer's end

FINISHES: Final[Mapping[str, Finish]] = {
    **dict.fromkeys(("stop", "eos", "end_turn", ""), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_calls", "tool_call", "function_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(("content_filter", "sensitive", "safety"), "content_filter"),
    "model_context_window_exceeded": "context_overflow",
}
_FAILED = frozenset({
    "error", "network_error", "insufficient_system_resource", "abort", "tool_use_failed", "unexpected_tool_call",
    "too_many_tool_calls", "no_image", "missing_thought_signature",
})  # fmt: skip
_CUT_BY_LENGTH = frozenset({"length", "max_tokens", "max_output_tokens"})
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details")
_RARE = ("audio", "images", "annotations", "extra_content")


class Answer:
    """Turns chunks into deltas. `started`: something was generated."""

    def __init__(self, turn: Turn, asked: Asked, profile: Profile, headers: Mapping[str, str]) -> None:
        self.started = False
        self._turn = turn
        self._asked = asked
        self._profile = profile
        self._headers = headers
        self._content = AnswerText(think_tags=profile.think_tags, trim=profile.trim, marks=profile.marks)
        self._calls: ToolCalls | None = None
        self._model_known = False
        self._introduced = False
        self._choice: object = None  # index of the choice that counts
        self._field = ""  # where reasoning comes from
        self._thinking = False  # a thinking part is open
        self._refused = False
        self._details = ReasoningItems()
        self._members: JsonObject = {}  # to be sent back with the message
        self._sound: list[bytes] = []
        self._kept = 0
        self._usage: Usage | None = None
        self._usage_due = False
        self._finish_raw: str | None = None
        self._native = ""
        self._finish: Finish | None = None  # as it was last said
        self._doom: DriverError | None = None
        self._id_seed = ""

    @property
    def finished(self) -> bool:
        """The deltas hold a Finished."""
        return self._finish is not None

    @property
    def complete(self) -> bool:
        """A finish reason was read: the body may end."""
        return bool(self._finish_raw)

    @property
    def usage(self) -> Usage | None:
        """The latest count, said in a delta already or not."""
        return self._usage

    def read_chunk(self, chunk: JsonObject, out: list[Delta]) -> None:
        """One chunk of a stream. Raises DriverError."""
        self._introduce(chunk, out)
        usage = chunk.get("usage")
        if not usage and (extra := chunk.get("x_groq")):
            usage = extra.get("usage") if isinstance(extra, dict) else None
        if usage:
            self._on_usage(usage, out)
        if self._doom is not None:
            raise self._doom
        choices = chunk.get("choices")
        if choices and isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._read_choice(choice, out)

    def read_whole(self, body: JsonObject, out: list[Delta]) -> None:
        """One JSON answer. Raises DriverError, also for an error that came with status 200."""
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        stopped = self._was_stopped(body, message)
        if is_error(body) and not stopped:
            self.note_usage(body)
            raise explain_inside(self._asked, body, self._headers, started=False)
        if not isinstance(choice, dict):
            if isinstance(choices, list):
                raise self._failed("", "the answer holds no choice")
            what = f"the answer holds no choices: {quote(str(body)[:200])}"
            raise WireMismatch(self._asked.provider, what, model=self._asked.model)
        self._introduce(body, out)
        usage = body.get("usage") or choice.get("usage")
        if usage:
            self._on_usage(usage, out)
        self._raise_error_of(choice)
        if not isinstance(message, dict):
            message = choice.get("delta")
        if isinstance(message, dict):
            self._read_message(message, out, whole=True)
        self._read_finish({"finish_reason": "content_filter"} if stopped else choice, out)
        self.end(out)

    def note_usage(self, failure: JsonObject) -> None:
        """Know the count that stands beside an error (OpenRouter). No delta says it: one would begin an answer."""
        if isinstance(raw := failure.get("usage"), dict):
            usage = read_usage(raw, hidden_reasoning=self._profile.hidden_reasoning)
            if not is_empty(usage):
                self._usage = usage

    def end(self, out: list[Delta]) -> None:
        """The wire's own end, or the body's. Raises GenerationFailed or ContentFiltered when it was none."""
        if self._doom is None:
            if self._finish_raw is None and not self.started:
                self._doom = self._failed("", "the answer is empty and has no finish reason")
            else:
                self._conclude(out)
        if self._doom is not None:
            raise self._doom
        self.flush(out)

    def flush(self, out: list[Delta]) -> None:
        """Hand on what is still held back, without ending anything."""
        self._flush_content(out)
        self._flush_usage(out)

    # -- members of a chunk -------------------------------------------------------------------------------------------

    def _introduce(self, chunk: JsonObject, out: list[Delta]) -> None:
        if self._model_known:
            return
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

    def _on_usage(self, raw: object, out: list[Delta]) -> None:
        if not isinstance(raw, dict):
            return
        usage = read_usage(raw, hidden_reasoning=self._profile.hidden_reasoning)
        if usage == self._usage or (self._usage is not None and is_empty(usage)):
            return
        self._usage, self._usage_due = usage, True
        if self.finished:
            self._flush_usage(out)

    def _flush_usage(self, out: list[Delta]) -> None:
        if self._usage_due and self._usage is not None:
            self._usage_due = False
            out.append(UsageDelta(self._usage))

    def _read_choice(self, choice: JsonObject, out: list[Delta]) -> None:
        index = choice.get("index")
        if index != self._choice:
            if self._choice is not None and index is not None:
                return  # n > 1: the first choice counts
            self._choice = index if self._choice is None else self._choice
        self._raise_error_of(choice)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if delta.get("role") == "tool":  # hits of a server-side search, with a finish reason of their own
                return
            self._read_message(delta, out, whole=False)
        elif not self.started and isinstance(message := choice.get("message"), dict):
            self._read_message(message, out, whole=True)  # a whole answer in one event
        if usage := choice.get("usage"):
            self._on_usage(usage, out)
        self._read_finish(choice, out)

    def _read_message(self, message: JsonObject, out: list[Delta], *, whole: bool) -> None:
        content = message.get("content")
        if len(message) > 1 or not content:
            self._read_reasoning(message, out, whole=whole)
        if content:
            if isinstance(content, str):
                self._on_content(content, out)
            elif isinstance(content, list):
                self._on_parts(content, out)
        if len(message) == 1 and content:
            return
        if (refusal := message.get("refusal")) and isinstance(refusal, str):
            self._leave_text(out)
            self._refused = self.started = True
            out.append(RefusalDelta(refusal))
        if calls := message.get("tool_calls"):
            self._on_calls(calls, out, whole=whole)
        elif (call := message.get("function_call")) and isinstance(call, dict) and any(call.values()):
            self._on_calls(call, out, whole=whole)
        for name in _RARE:
            if value := message.get(name):
                self._on_rare(name, value, message, out)

    def _read_finish(self, choice: JsonObject, out: list[Delta]) -> None:
        native = choice.get("native_finish_reason")
        if isinstance(native, str) and native:
            self._native = native
        finish = choice.get("finish_reason")
        if finish is None:
            return
        finish = finish if isinstance(finish, str) else quote(str(finish), 100)
        if finish or self._finish_raw is None:
            self._finish_raw = finish
        if finish:
            self._conclude(out)

    def _raise_error_of(self, choice: JsonObject) -> None:
        if error := choice.get("error"):
            raise explain_inside(self._asked, {"error": error}, self._headers, started=self.started)

    @staticmethod
    def _was_stopped(body: JsonObject, message: object) -> bool:
        """MiniMax 1027 with an answer: moderation cut what had been generated, and that is kept."""
        base = body.get("base_resp")
        code = base.get("status_code") if isinstance(base, dict) else None
        return code == 1027 and isinstance(message, dict) and bool(message.get("content"))

    # -- reasoning and text -------------------------------------------------------------------------------------------

    def _read_reasoning(self, message: JsonObject, out: list[Delta], *, whole: bool) -> None:
        """The first field that holds reasoning is the one: others repeat it."""
        details = message.get("reasoning_details")
        if details and isinstance(details, list):
            self._keep(self._details.add(details, whole=whole))
        for name in (self._field,) if self._field else _REASONING_FIELDS:
            text = details_text(details) if name == "reasoning_details" else message.get(name)
            if text and isinstance(text, str):
                self._field = name
                self._on_thinking(text, out)
                return

    def _on_thinking(self, text: str, out: list[Delta]) -> None:
        self._thinking = self.started = True
        out.append(ThinkingDelta(text))

    def _on_content(self, text: str, out: list[Delta]) -> None:
        if self._content.plain:
            if self._thinking:
                self._end_thinking(out)
            self.started = True
            out.append(TextDelta(text))
            return
        if self._field not in ("", echo.TAGS):
            self._content.no_tags()
        self._on_pieces(self._content.feed(text), out)

    def _on_pieces(self, pieces: list[tuple[bool, str]], out: list[Delta]) -> None:
        for thinking, piece in pieces:
            if thinking:
                self._field = echo.TAGS
                self._on_thinking(piece, out)
            else:
                if self._thinking:
                    self._end_thinking(out)
                self.started = True
                out.append(TextDelta(piece))

    def _on_parts(self, parts: list[object], out: list[Delta]) -> None:
        """Content as a list: Mistral's thinking and text."""
        for part in parts:
            if not isinstance(part, dict):
                if part and isinstance(part, str):
                    self._on_content(part, out)
                continue
            match part.get("type"):
                case "text":
                    if (text := part.get("text")) and isinstance(text, str):
                        self._on_content(text, out)
                case "thinking":
                    if self._field in ("", echo.PARTS) and (text := _joined_text(part.get("thinking"))):
                        self._field = echo.PARTS
                        self._on_thinking(text, out)
                case "image_url":
                    self._on_image(part, out)
                case other:
                    out.append(Notice(f"a part of type {quote(str(other), 40)!r} of the answer was not read"))

    def _leave_text(self, out: list[Delta]) -> None:
        """Something else begins: what was held back of the text comes first."""
        self._flush_content(out)
        if self._thinking:
            self._end_thinking(out)

    def _flush_content(self, out: list[Delta]) -> None:
        if not self._content.plain:
            self._on_pieces(self._content.end(), out)

    def _end_thinking(self, out: list[Delta]) -> None:
        self._thinking = False
        out.append(PartEnd(self._opaque(field=self._field)))

    def _opaque(self, **data: object) -> Opaque:
        asked = self._asked
        return Opaque(provider=asked.provider, model=asked.model, data=echo.mark(asked.vendor, **data))

    # -- tool calls, media, what is kept ------------------------------------------------------------------------------

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

    def _on_rare(self, name: str, value: object, message: JsonObject, out: list[Delta]) -> None:
        if name == "audio" and isinstance(value, dict):
            transcript = value.get("transcript")
            if transcript and isinstance(transcript, str) and not message.get("content"):
                self._on_content(transcript, out)
            if (data := value.get("data")) and isinstance(data, str):
                self._keep(len(data))
                self._sound.append(_decoded(data))
        elif name == "images" and isinstance(value, list):
            for image in value:
                self._on_image(image, out)
        elif name == "annotations" and isinstance(value, list) and is_portable(value):
            self._keep(len(str(value)))
            self._members.setdefault("annotations", []).extend(value)
        elif name == "extra_content" and isinstance(value, dict) and is_portable(value):
            self._keep(len(str(value)))
            self._members["extra_content"] = value

    def _on_image(self, image: object, out: list[Delta]) -> None:
        inner = image.get("image_url") if isinstance(image, dict) else None
        url = inner.get("url") if isinstance(inner, dict) else inner
        if not isinstance(url, str) or not url:
            return
        self._leave_text(out)
        self.started = True
        if url.startswith("data:"):
            head, _, data = url[len("data:") :].partition(",")
            out.append(WholePart(Image(data=_decoded(data), media_type=head.partition(";")[0])))
        else:
            out.append(WholePart(Image(url=url)))

    def _keep(self, size: int) -> None:
        self._kept += size
        if self._kept > MAX_KEPT:
            raise WireMismatch(self._asked.provider, f"reasoning items or sound of more than {MAX_KEPT} bytes")

    # -- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, out: list[Delta]) -> None:
        """Close what is open and say how it ended, unless that is a failure; said again only when it changed."""
        self._leave_text(out)
        if items := self._details.take():
            self._members["reasoning_details"] = items
        if self._members:
            self.started = True
            out.append(WholePart(OpaquePart(opaque=self._opaque(**self._members))))
            self._members = {}
        if self._sound:
            self.started = True
            out.append(WholePart(Audio(data=b"".join(self._sound), media_type=self._sound_type())))
            self._sound = []
        outcome = self._judge()
        if isinstance(outcome, DriverError):
            self._doom = outcome
            return
        if self._calls is not None:
            self._calls.end(out)
        if outcome.finish != self._finish:
            self._flush_usage(out)
            self._finish = outcome.finish
            out.append(outcome)

    def _judge(self) -> Finished | DriverError:
        raw = self._finish_raw or ""
        word, native = raw.lower(), self._native.lower()
        told = raw if not native or native == word else f"{raw} ({self._native})"
        if any(name in _FAILED or name.startswith("malformed") for name in (word, native)):
            return self._failed(told, f"finish reason {quote(told, 100)!r}")
        finish = FINISHES.get(word, "unknown")
        if finish in ("stop", "tool_calls") and native in _CUT_BY_LENGTH:
            finish = "length"
        if self._calls and finish not in ("length", "content_filter"):
            finish = "tool_calls"
        elif self._refused and finish == "stop":
            finish = "content_filter"
        elif finish == "content_filter" and not self.started:
            what = "the provider's content filter stopped the answer before it began"
            return ContentFiltered(self._asked.provider, what, model=self._asked.model, raw=told)
        return Finished(finish, told)

    def _failed(self, raw: str, what: str) -> GenerationFailed:
        return GenerationFailed(
            self._asked.provider,
            f"the generation failed at the provider: {what}",
            model=self._asked.model,
            raw=raw,
            request_id=limits.request_id(self._headers),
            started=self.started,
        )

    def _sound_type(self) -> str:
        """Of the format that was asked for: the answer does not name it."""
        asked = self._turn.provider_options.get("openai_compatible", {}).get("audio")
        name = asked.get("format") if isinstance(asked, Mapping) else ""
        return (
            {"mp3": "audio/mpeg", "pcm16": "audio/pcm"}.get(name, f"audio/{name}")
            if isinstance(name, str) and name
            else ""
        )


def _joined_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    pieces = (item.get("text") if isinstance(item, dict) else item for item in value)
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _decoded(data: str) -> bytes:
    """The bytes of base64 text; what is none is left out, a picture that cannot be read is no reason to fail."""
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4))
    except (ValueError, binascii.Error):
        return b""

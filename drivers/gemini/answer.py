"""The answer under way: what the parts of a chunk or of a whole answer become, and how it ends.

Every chunk holds new parts only, and any of them may carry a finish reason: the last one counts, and is said when the
body has ended, for parts were seen to follow it. Each signature stays on the part it came on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from loopforge.drivers import limits
from loopforge.drivers.errors import (
    ContentFiltered,
    DriverError,
    GenerationFailed,
    PermissionDenied,
    StreamBroken,
    quote,
)
from loopforge.drivers.gemini.calls import Calls
from loopforge.drivers.gemini.draft import made_here
from loopforge.drivers.gemini.failures import explain_inside
from loopforge.drivers.gemini.usage import counts_something, read_usage
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.json_values import is_portable
from loopforge.drivers.turn import (
    Audio,
    Delta,
    Document,
    Finish,
    Finished,
    Image,
    JsonObject,
    Notice,
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

FINISHES: Final[Mapping[str, Finish]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "pause",
    **dict.fromkeys((
        "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION", "MODEL_ARMOR", "ESCALATION", "LANGUAGE",
    ), "content_filter"),
}  # fmt: skip
FAILED: Final = frozenset({
    "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "NO_IMAGE", "MISSING_THOUGHT_SIGNATURE",
})  # fmt: skip
"""And every MALFORMED_ one."""
_METADATA = ("groundingMetadata", "citationMetadata", "urlContextMetadata", "continuationToken")
_MARKS = frozenset({"thought", "thoughtSignature", "videoMetadata", "mediaResolution"})


class Answer:
    """Turns chunks into deltas. `started`: something was generated. `answer_name` as calls.py says."""

    def __init__(self, turn: Turn, asked: Asked, headers: Mapping[str, str], answer_name: str) -> None:
        self.started = False
        self._turn = turn
        self._asked = asked
        self._headers = headers
        self._answer_name = answer_name
        self._calls: Calls | None = None
        self._model = ""
        self._id = ""
        self._introduced = False
        self._candidate: object = None  # index of the candidate that counts
        self._open = ""  # the part whose text is coming: "text", "thinking" or ""
        self._opaque_seen = False
        self._usage_raw: Mapping[str, Any] | None = None
        self._usage: Usage | None = None
        self._metadata: JsonObject = {}
        self._finish_raw = ""
        self._finish_message = ""
        self._blocked = ""
        self._block_message = ""

    @property
    def complete(self) -> bool:
        """The provider said how it ended: the body may end."""
        return bool(self._finish_raw or self._blocked)

    @property
    def usage(self) -> Usage | None:
        """The latest count, said in a delta already or not."""
        return self._usage if self._usage_raw is None else read_usage(self._usage_raw)

    def read_chunk(self, chunk: JsonObject, out: list[Delta]) -> None:
        """One chunk of a stream, or a whole answer: they have one form. Raises DriverError for an error in it."""
        if chunk.get("error"):
            raise explain_inside(self._asked, chunk, self._headers, started=self.started)
        if not (self._model and self._id):
            self._introduce(chunk, out)
        usage = chunk.get("usageMetadata")
        if usage and isinstance(usage, dict) and counts_something(usage):
            self._usage_raw = usage
        candidates = chunk.get("candidates")
        if candidates and isinstance(candidates, list):
            for candidate in candidates:
                if isinstance(candidate, dict):
                    self._read_candidate(candidate, out)
        if feedback := chunk.get("promptFeedback"):
            self._read_feedback(feedback)

    def end(self, out: list[Delta], *, whole: bool) -> None:
        """The body ended. Raises StreamBroken, GenerationFailed or ContentFiltered when that was no answer's end."""
        if self._calls is not None:
            self._calls.end(out)
        self._close_part(out)
        self.flush(out)
        finished = self._judge(whole=whole)
        if self._metadata and is_portable(self._metadata):
            out.append(WholePart(OpaquePart(opaque=self._made_here(metadata=self._metadata))))
        if finished.finish == "content_filter" and (self._finish_message or self._block_message):
            message = quote(self._finish_message or self._block_message)
            out.append(Notice(f"the provider stopped the answer: {message}"))
        if finished.finish == "stop" and not self.started and (self._opaque_seen or self._metadata):
            out.append(Notice("empty answer"))
        out.append(finished)

    def flush(self, out: list[Delta]) -> None:
        """Hand on what is still held back, without ending anything."""
        if self._usage_raw is not None:
            usage = read_usage(self._usage_raw)
            self._usage_raw = None
            if usage != self._usage:
                self._usage = usage
                out.append(UsageDelta(usage))

    # -- members of a chunk -------------------------------------------------------------------------------------------

    def _introduce(self, chunk: JsonObject, out: list[Delta]) -> None:
        model, own_id = _text(chunk.get("modelVersion")), _text(chunk.get("responseId"))
        if self._introduced and not (model and not self._model) and not (own_id and not self._id):
            return
        self._introduced = True
        self._model, self._id = model or self._model, own_id or self._id
        request_id = self._id or limits.request_id(self._headers)
        out.append(ResponseInfo(self._model, request_id, limits.read_limits(self._headers)))

    def _read_feedback(self, feedback: object) -> None:
        if isinstance(feedback, dict) and (reason := feedback.get("blockReason")):
            self._blocked = quote(str(reason), 100)
            self._block_message = _text(feedback.get("blockReasonMessage"))

    def _read_candidate(self, candidate: JsonObject, out: list[Delta]) -> None:
        index = candidate.get("index", 0)
        if index != self._candidate:
            if self._candidate is not None:
                return  # several candidates: the first counts
            self._candidate = index
        content = candidate.get("content")
        if content and isinstance(content, dict):
            parts = content.get("parts")
            if parts and isinstance(parts, list):
                for part in parts:
                    if isinstance(part, dict):
                        self._read_part(part, out)
        if finish := candidate.get("finishReason"):
            self._finish_raw = finish if isinstance(finish, str) else quote(str(finish), 100)
            self._finish_message = _text(candidate.get("finishMessage"))
        if len(candidate) > 2:
            for name in _METADATA:
                if value := candidate.get(name):
                    self._metadata[name] = value

    # -- parts --------------------------------------------------------------------------------------------------------

    def _read_part(self, part: JsonObject, out: list[Delta]) -> None:
        text = part.get("text")
        if isinstance(text, str):
            if len(part) == 1:
                if text:
                    self._on_text(text, out)
            else:
                self._on_marked_text(text, part, out)
        elif isinstance(call := part.get("functionCall"), dict):
            self._on_call(call, _text(part.get("thoughtSignature")), out)
        elif isinstance(media := part.get("inlineData"), dict):
            self._on_media(media, part, out)
        else:
            self._on_other(part, out)

    def _on_text(self, text: str, out: list[Delta]) -> None:
        if self._open == "thinking":
            self._close_part(out)
        self._open = "text"
        self.started = True
        out.append(TextDelta(text))

    def _on_marked_text(self, text: str, part: JsonObject, out: list[Delta]) -> None:
        signature = _text(part.get("thoughtSignature"))
        thought = part.get("thought") is True
        if not signature:
            if thought and text:
                if self._open == "text":
                    self._close_part(out)
                self._open = "thinking"
                self.started = True
                out.append(ThinkingDelta(text))
            elif text:
                self._on_text(text, out)
            return
        self._close_part(out)
        if not text and not thought:
            self._keep(out, part={"text": "", "thoughtSignature": signature})
            return
        self.started = self.started or bool(text)
        out.append(ThinkingDelta(text) if thought else TextDelta(text))
        out.append(PartEnd(self._made_here(signature=signature)))

    def _on_call(self, call: JsonObject, signature: str, out: list[Delta]) -> None:
        if self._calls is None:
            seed = f"{self._id}/{self._turn.id}/{len(self._turn.messages)}"
            self._calls = Calls(self._asked.provider, self._asked.model, seed, self._answer_name)
        self._close_part(out)
        self.started = True
        self._calls.add(call, signature, out)

    def _on_media(self, media: JsonObject, part: JsonObject, out: list[Delta]) -> None:
        """A picture or sound is a part of its own. One of the model's drafts is thinking, and not the answer's."""
        if part.get("thought") is True:
            out.append(Notice("a picture of the model's thinking was left out"))
            return
        self._close_part(out)
        data, media_type = _decoded(_text(media.get("data"))), _text(media.get("mimeType"))
        self.started = True
        match media_type.partition("/")[0]:
            case "image":
                out.append(WholePart(Image(data=data, media_type=media_type)))
            case "audio":
                out.append(WholePart(Audio(data=data, media_type=media_type)))
            case _:
                out.append(WholePart(Document(data=data, media_type=media_type)))
        if signature := _text(part.get("thoughtSignature")):
            self._keep(out, on_previous=signature)

    def _on_other(self, part: JsonObject, out: list[Delta]) -> None:
        """What the provider's own tools did, or a member that is new: kept at its place, for its origin."""
        names = sorted(part.keys() - _MARKS)
        if not names and "thoughtSignature" not in part:
            return
        if not is_portable(part):
            out.append(Notice(f"a part of the answer was not read: {quote(', '.join(names), 100)}"))
            return
        self._close_part(out)
        self.started = self.started or bool(names)
        self._keep(out, part=part)

    def _keep(self, out: list[Delta], **data: object) -> None:
        self._opaque_seen = True
        out.append(WholePart(OpaquePart(opaque=self._made_here(**data))))

    def _close_part(self, out: list[Delta]) -> None:
        if self._open == "thinking":
            out.append(PartEnd(self._made_here()))
        elif self._open == "text":
            out.append(PartEnd())
        self._open = ""

    def _made_here(self, **data: object) -> Any:
        return made_here(self._asked.provider, self._asked.model, **data)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _judge(self, *, whole: bool) -> Finished:
        raw = self._finish_raw
        if not raw:
            return self._without_reason(whole=whole)
        if raw in FAILED or raw.startswith("MALFORMED_"):
            told = f": {quote(self._finish_message, 200)}" if self._finish_message else ""
            raise self._failed(raw, f"finish reason {raw!r}{told}")
        if raw == "PUP_LIMITED_DISABLED":
            what = "the account was limited for its use of the service"
            raise PermissionDenied(
                self._asked.provider, what, model=self._asked.model, raw=raw, scope="provider", request_id=self._id
            )
        finish = FINISHES.get(raw, "unknown")
        if finish == "content_filter" and not self.started:
            raise self._filtered("the answer before it began", raw, self._finish_message)
        if finish == "stop" and self._calls is not None and self._calls.made:
            finish = "tool_calls"
        return Finished(finish, raw)

    def _without_reason(self, *, whole: bool) -> Finished:
        if self._blocked:
            if not self.started:
                raise self._filtered("the prompt", self._blocked, self._block_message)
            return Finished("content_filter", self._blocked)
        if not whole:
            raise StreamBroken(self._asked.provider, "the stream ended before the answer did", request_id=self._id)
        if not self.started:
            raise self._failed("", "the answer is empty and has no finish reason")
        return Finished("unknown")

    def _filtered(self, stopped: str, raw: str, message: str) -> DriverError:
        what = f"the provider's content filter stopped {stopped} ({raw})"
        what = f"{what}: {quote(message).rstrip('.')}" if message else what
        return ContentFiltered(
            self._asked.provider, what, model=self._asked.model, raw=raw, request_id=self._id, started=self.started
        )

    def _failed(self, raw: str, what: str) -> GenerationFailed:
        return GenerationFailed(
            self._asked.provider,
            f"the generation failed at the provider: {what}",
            model=self._asked.model,
            raw=raw,
            request_id=self._id,
            started=self.started,
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _decoded(data: str) -> bytes:
    """The bytes of base64 text; what is none is left out, a picture that cannot be read is no reason to fail."""
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4))
    except (ValueError, binascii.Error):
        return b""

"""The answer under way: what the members of a frame or of a whole answer become, and how it ends.

Both have one form: `output` with choices, with a bare text (the format of old), or with one message (research). The
word "null" is no finish reason; the first real one ends the answer. Usage is a running total: the last one counts.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

from loopforge.drivers import limits
from loopforge.drivers.dashscope_native.draft import made_here
from loopforge.drivers.dashscope_native.failures import Asked
from loopforge.drivers.dashscope_native.growth import Growth, Said
from loopforge.drivers.dashscope_native.usage import read_usage
from loopforge.drivers.errors import ContentFiltered, GenerationFailed, quote
from loopforge.drivers.json_values import is_portable
from loopforge.drivers.tool_fragments import ToolCalls
from loopforge.drivers.turn import (
    Audio,
    Delta,
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
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    **dict.fromkeys(("content_filter", "sensitive"), "content_filter"),
}
_FAILED: Final = frozenset({"error", "network_error", "insufficient_system_resource", "abort"})
_UNFINISHED: Final = (None, "null", "")
_NOTHING: Final[tuple[Any, ...]] = ()


class Answer:
    """Turns frames into deltas. `started`: something was generated. `finished`: the deltas hold a Finished."""

    def __init__(self, turn: Turn, asked: Asked, headers: Mapping[str, str], *, repeats: bool = False) -> None:
        self.started = False
        self.finished = False
        self._turn = turn
        self._asked = asked
        self._headers = headers
        self._growth = Growth(asked.provider, repeats=repeats)
        self._plain = False  # what a frame says is new
        self._whole = False  # there is one frame, with all of the answer
        self._calls: ToolCalls | None = None
        self._introduced = False
        self._model = ""
        self._id_seed = ""
        self._choice: object = None  # index of the choice that counts
        self._thinking = False  # a thinking part is open
        self._kept: dict[str, object] = {}  # for clients alone
        self._usage_raw: Mapping[str, Any] | None = None
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """The latest count, said in a delta already or not."""
        return self._usage if self._usage_raw is None else read_usage(self._usage_raw)

    def read_frame(self, frame: JsonObject, out: list[Delta]) -> bool:
        """One frame of a stream, or a whole answer. False when it says that nothing is new. Raises DriverError."""
        if not self._introduced:
            self._introduce(frame, out)
        if usage := frame.get("usage"):
            self._usage_raw = usage if isinstance(usage, dict) else self._usage_raw
        if self.finished:
            self._flush_usage(out)
            return True
        output = frame.get("output")
        if not isinstance(output, dict):
            return True
        if len(output) > 1:
            self._read_extras(output, out)
        choices = output.get("choices")
        if choices and isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._read_choice(choice, out)
        elif isinstance(text := output.get("text"), str):
            self._on_said(Said("", text, _NOTHING), out)
            self._on_finish(output.get("finish_reason"), out)
        elif isinstance(message := output.get("message"), dict):
            return self._read_research(message, output, out)
        return True

    def read_whole(self, body: JsonObject, out: list[Delta]) -> None:
        """One JSON answer. Raises GenerationFailed when it is none: it says nothing, not even why."""
        self._plain = self._whole = True
        self.read_frame(body, out)
        if self.finished:
            return
        if not self.started:
            raise self._failed("", "the answer is empty and has no finish reason")
        self._conclude(Finished("unknown"), out)

    def flush(self, out: list[Delta]) -> None:
        """Hand on what is still held back, without ending anything."""
        if not self.finished:
            for piece in self._growth.release():
                self._say(piece, out)
        self._flush_usage(out)

    # -- members of a frame -------------------------------------------------------------------------------------------

    def _introduce(self, frame: JsonObject, out: list[Delta]) -> None:
        self._introduced = True
        own_id = frame.get("request_id")
        own_id = own_id if isinstance(own_id, str) else ""
        request_id = limits.request_id(self._headers) or own_id
        self._id_seed = f"{request_id}/{self._turn.id}/{len(self._turn.messages)}"
        out.append(ResponseInfo("", request_id, limits.read_limits(self._headers)))

    def _read_extras(self, output: JsonObject, out: list[Delta]) -> None:
        """What stands beside the choices: the name of the model, and what its own tools did."""
        model = output.get("model_name")
        if model and isinstance(model, str) and model != self._model:
            self._model = model
            out.append(ResponseInfo(model=model))
        search = output.get("search_info")
        if isinstance(search, dict) and any(search.values()) and "search_info" not in self._kept:
            self._kept["search_info"] = search  # whole in an early frame, and empty in the later ones
        if isinstance(tools := output.get("tool_info"), list) and tools:
            self._kept["tool_info"] = tools
        if isinstance(sound := output.get("audio"), dict):
            self._on_sound(sound, out)

    def _read_choice(self, choice: JsonObject, out: list[Delta]) -> None:
        if self.finished:
            return
        index = choice.get("index")
        if index != self._choice:
            if self._choice is not None and index is not None:
                return  # n > 1: the first choice counts
            self._choice = index if self._choice is None else self._choice
        message = choice.get("message")
        if isinstance(message, dict):
            content = message.get("content")
            text = content if isinstance(content, str) else self._text_of_parts(content, out) if content else ""
            thinking = message.get("reasoning_content")
            calls = message.get("tool_calls")
            if not (thinking or calls) and self._plain:
                if text:
                    self._on_text(text, out)
            else:
                thinking = thinking if isinstance(thinking, str) else ""
                self._on_said(Said(thinking, text, calls if isinstance(calls, list) else _NOTHING), out)
        if choice.get("logprobs"):
            out.append(Notice("log-probabilities of the answer were not kept"))
        finish = choice.get("finish_reason")
        if finish != "null":
            self._on_finish(finish, out)

    def _read_research(self, message: JsonObject, output: JsonObject, out: list[Delta]) -> bool:
        """The model for research: phases before the answer are its thinking. Its members are misspelt."""
        phase = message.get("phase")
        content = message.get("content")
        content = content if isinstance(content, str) else ""
        if message.get("extra"):
            out.append(Notice("the steps of the model's research were not kept"))
        if phase in (None, "", "answer"):
            self._on_said(Said("", content, _NOTHING), out)
        else:
            self._on_said(Said(content, "", _NOTHING), out)
        reason = output.get("fininshed_reason", output.get("finish_reason"))
        if reason in _UNFINISHED and (output.get("fininshed") or output.get("finished")) is True:
            reason = "stop"
        self._on_finish(reason, out)
        return phase != "KeepAlive"

    # -- what is said -------------------------------------------------------------------------------------------------

    def _on_said(self, said: Said, out: list[Delta]) -> None:
        if not self._plain:
            for piece in self._growth.add(said):
                self._say(piece, out)
            self._plain = self._growth.plain
        else:
            self._say(said, out)

    def _say(self, said: Said, out: list[Delta]) -> None:
        if said.thinking:
            self._thinking = self.started = True
            out.append(ThinkingDelta(said.thinking))
        if said.text:
            self._on_text(said.text, out)
        if said.calls:
            self._on_calls(said.calls, out)

    def _on_text(self, text: str, out: list[Delta]) -> None:
        if self._thinking:
            self._end_thinking(out)
        self.started = True
        out.append(TextDelta(text))

    def _on_calls(self, calls: Sequence[Any], out: list[Delta]) -> None:
        if self._calls is None:
            self._calls = ToolCalls(self._asked.provider, self._made_here(), self._id_seed)
        self._end_thinking(out)
        for fragment in calls:
            self._calls.add(fragment, out, whole=self._whole)
        self.started = self.started or bool(self._calls)

    def _text_of_parts(self, parts: object, out: list[Delta]) -> str:
        """Content as a list: texts, joined; media are parts of their own."""
        if not isinstance(parts, list):
            return ""
        texts = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, dict):
                for name, value in part.items():
                    if name == "text" and isinstance(value, str):
                        texts.append(value)
                    elif name == "image" and isinstance(value, str) and value:
                        self._on_media(_image(value), out)
                    elif name == "audio" and isinstance(value, dict):
                        self._on_sound(value, out)
                    elif name not in ("text", "type") and value:
                        out.append(Notice(f"a part {quote(name, 40)!r} of the answer was not read"))
        return "".join(texts)

    def _on_sound(self, sound: JsonObject, out: list[Delta]) -> None:
        """A piece of sound with data; an address where all of it is kept for a day is for clients."""
        if isinstance(data := sound.get("data"), str) and data:
            self._on_media(Audio(data=_decoded(data), media_type="audio/pcm"), out)
        if isinstance(url := sound.get("url"), str) and url:
            self._kept["audio"] = {"url": url}

    def _on_media(self, part: Image | Audio, out: list[Delta]) -> None:
        self._end_thinking(out)
        self.started = True
        out.append(WholePart(part))

    def _end_thinking(self, out: list[Delta]) -> None:
        if self._thinking:
            self._thinking = False
            out.append(PartEnd(self._made_here()))

    def _made_here(self, **data: object) -> Any:
        return made_here(self._asked.provider, self._asked.model, **data)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _on_finish(self, raw: object, out: list[Delta]) -> None:
        if raw in _UNFINISHED:
            return
        if not self._plain:
            for piece in self._growth.end():
                self._say(piece, out)
        word = raw if isinstance(raw, str) else quote(str(raw), 100)
        if word.lower() in _FAILED or word.lower().startswith("malformed"):
            raise self._failed(word, f"finish reason {quote(word, 100)!r}")
        finish = FINISHES.get(word, "unknown")
        if self._calls and finish not in ("length", "content_filter"):
            finish = "tool_calls"
        elif finish == "content_filter" and not self.started:
            what = "the provider's content filter stopped the answer before it began"
            raise ContentFiltered(self._asked.provider, what, model=self._asked.model, raw=word)
        self._conclude(Finished(finish, word), out)

    def _conclude(self, finished: Finished, out: list[Delta]) -> None:
        self._end_thinking(out)
        if self._calls is not None:
            self._calls.end(out)
        if self._kept:
            if is_portable(self._kept):
                out.append(WholePart(OpaquePart(opaque=self._made_here(**self._kept))))
            if finished.finish == "stop" and not self.started:
                out.append(Notice("empty answer"))
        self._flush_usage(out)
        self.finished = True
        out.append(finished)

    def _flush_usage(self, out: list[Delta]) -> None:
        if self._usage_raw is None:
            return
        usage = read_usage(self._usage_raw)
        self._usage_raw = None
        if usage != self._usage:
            self._usage = usage
            out.append(UsageDelta(usage))

    def _failed(self, raw: str, what: str) -> GenerationFailed:
        return GenerationFailed(
            self._asked.provider,
            f"the generation failed at the provider: {what}",
            model=self._asked.model,
            raw=raw,
            request_id=limits.request_id(self._headers),
            started=self.started,
        )


def _image(url: str) -> Image:
    if not url.startswith("data:"):
        return Image(url=url)
    head, _, data = url[len("data:") :].partition(",")
    return Image(data=_decoded(data), media_type=head.partition(";")[0])


def _decoded(data: str) -> bytes:
    """The bytes of base64 text; what is none is left out, a picture that cannot be read is no reason to fail."""
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4))
    except (ValueError, binascii.Error):
        return b""

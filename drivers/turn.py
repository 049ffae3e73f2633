"""What a turn is: the neutral form that clients post, drivers translate, and replies come back in.

Every class here is a frozen dataclass; on a channel it travels as msgpack (loopforge.workers.packing), in files and
on the command line as JSON of the same member names. Readings of the wires: one per driver's own docstring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
Lane = Literal["interactive", "normal", "background"]
Finish = Literal["stop", "length", "tool_calls", "content_filter", "context_overflow", "pause", "unknown"]
CacheMark = Literal["", "5m", "1h"]
Effort = Literal["off", "low", "medium", "high"]

LANES: tuple[Lane, ...] = ("interactive", "normal", "background")
MAX_ID_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """Provider data that is carried and never read: signatures, encrypted reasoning, server-side tool blocks.

    `provider`, `model`: its origin. Drivers send `data` back verbatim to that origin and to nobody else.
    """

    provider: str
    model: str
    data: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Plain text. `cache` asks for a prompt-cache mark behind this part."""

    type: Literal["text"] = "text"
    text: str
    cache: CacheMark = ""
    opaque: Opaque | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: either `data` with its `media_type`, or an https `url`. `detail` is passed to wires that know it."""

    type: Literal["image"] = "image"
    data: bytes = b""
    media_type: str = ""
    url: str = ""
    detail: str = ""
    cache: CacheMark = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document (application/pdf, text/plain, ...): either `data` with its `media_type`, or an https `url`."""

    type: Literal["document"] = "document"
    data: bytes = b""
    media_type: str = ""
    url: str = ""
    name: str = ""
    cache: CacheMark = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """Sound as input, or in an answer. `media_type` such as audio/wav, audio/mpeg."""

    type: Literal["audio"] = "audio"
    data: bytes = b""
    media_type: str = ""
    transcript: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """Reasoning text of an assistant message; may be empty beside an `opaque` signature or encrypted block."""

    type: Literal["thinking"] = "thinking"
    text: str
    opaque: Opaque | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call the model asks for. `arguments` is the raw text; `parsed` is its JSON object, None when `invalid`.

    A `custom` call has free text as its input: `parsed` is None and `invalid` False. Never run an invalid call.
    """

    type: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    arguments: str = "{}"
    parsed: JsonObject | None = None
    invalid: bool = False
    custom: bool = False
    opaque: Opaque | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What the tool `call_id` gave, in a message of role "tool". `content` holds Text, Image or Document parts."""

    type: Literal["tool_result"] = "tool_result"
    call_id: str
    name: str = ""
    content: tuple[Text | Image | Document, ...] = ()
    is_error: bool = False
    cache: CacheMark = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The model's words for declining."""

    type: Literal["refusal"] = "refusal"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaquePart:
    """A block without a neutral meaning (server-side tool call, redacted thinking), kept in place for its origin."""

    type: Literal["opaque"] = "opaque"
    opaque: Opaque


Part: TypeAlias = Text | Image | Document | Audio | Thinking | ToolCall | ToolResult | Refusal | OpaquePart


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. Tool results stand in messages of role "tool", directly after the assistant message that called."""

    role: Literal["system", "user", "assistant", "tool"]
    content: tuple[Part, ...] = ()

    @property
    def text(self) -> str:
        """All Text parts joined, with nothing between them."""
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def thinking(self) -> str:
        return "".join(part.text for part in self.content if isinstance(part, Thinking))

    @property
    def refusal(self) -> str:
        return "".join(part.text for part in self.content if isinstance(part, Refusal))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.content if isinstance(part, ToolCall))


def system(text: str) -> Message:
    return Message(role="system", content=(Text(text=text),))


def user(*content: str | Part) -> Message:
    return Message(role="user", content=tuple(Text(text=part) if isinstance(part, str) else part for part in content))


def assistant(*content: str | Part) -> Message:
    parts = tuple(Text(text=part) if isinstance(part, str) else part for part in content)
    return Message(role="assistant", content=parts)


def tool_result(call: ToolCall, text: str, *, is_error: bool = False) -> Message:
    result = ToolResult(call_id=call.id, name=call.name, content=(Text(text=text),), is_error=is_error)
    return Message(role="tool", content=(result,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may call. `parameters`: JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: JsonObject = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None
    cache: CacheMark = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTool:
    """Forces a call of this tool."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """Asks for an answer that is JSON of this schema."""

    schema: JsonObject
    name: str = "answer"
    strict: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request to a model. `kind` routes it; all else is optional.

    `id`: at most 128 bytes, chosen by the client as idempotency key, or "" (the client library makes one).
    `thinking`: an effort, a budget in tokens, or None for the provider's default.
    `provider`, `model`: a route override as the client posts it; the worker fills in what the router chose.
    `stream`: False asks the provider for one answer instead of a stream.
    `provider_options`: {driver kind: raw body fields}, merged into the body by that kind alone.
    `detached`: the turn goes on when its client leaves. `deadline_s`: seconds from posting to outcome.
    """

    kind: str
    messages: tuple[Message, ...]
    id: str = ""
    session: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool | None = None
    output: Literal["text", "json"] | JsonSchema = "text"
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    thinking: Effort | int | None = None
    lane: Lane | None = None
    deadline_s: float | None = None
    provider: str = ""
    model: str = ""
    stream: bool = True
    provider_options: dict[str, JsonObject] = field(default_factory=dict)
    detached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens. None: the provider did not say. `input` includes cached ones, `output` includes reasoning."""

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the provider's rate-limit headers said. Resets are seconds from the answer. None: not said."""

    requests_limit: int | None = None
    requests_remaining: int | None = None
    requests_reset_s: float | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    tokens_reset_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds. `queued_s`: accepted to sent; `first_token_s`: sent to first delta; `total_s`: accepted to outcome."""

    queued_s: float = 0.0
    first_token_s: float | None = None
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The outcome of a turn that is done. `finish_raw` is the provider's own word for `finish`."""

    id: str = ""
    message: Message
    finish: Finish
    finish_raw: str = ""
    usage: Usage = field(default_factory=Usage)
    provider: str = ""
    model: str = ""
    model_reported: str = ""
    attempts: int = 1
    timings: Timings = field(default_factory=Timings)
    request_id: str = ""
    limits: Limits = field(default_factory=Limits)
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls


# -- deltas: what a reader makes of a response, in order. Folding them (fold.py) gives the reply. --------------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    text: str


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """`index` numbers the calls of one reply from 0; later deltas of the call carry it."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call is complete: `call` holds it whole, with parsed arguments."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class PartEnd:
    """Closes the text, thinking or refusal part being streamed; `opaque` is attached to it."""

    opaque: Opaque | None = None


@dataclass(frozen=True, slots=True)
class WholePart:
    """A part that does not stream: media in an answer, an opaque block."""

    part: Part


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """The latest count; it replaces earlier ones."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the person should know; lands in the reply's warnings."""

    text: str


@dataclass(frozen=True, slots=True)
class ResponseInfo:
    """What the response says of itself. Empty members change nothing that was said before."""

    model: str = ""
    request_id: str = ""
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider's own end of the answer: once, after all content; a UsageDelta may follow."""

    finish: Finish
    raw: str = ""


Delta: TypeAlias = (
    TextDelta
    | ThinkingDelta
    | RefusalDelta
    | ToolCallStart
    | ToolCallArguments
    | ToolCallEnd
    | PartEnd
    | WholePart
    | UsageDelta
    | Notice
    | ResponseInfo
    | Finished
)

# -- events: what a client sees. Deltas, and these. ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """The runtime holds the turn; it will end exactly once."""

    id: str


@dataclass(frozen=True, slots=True)
class Started:
    """Attempt number `attempt` was sent to this provider and model. Deltas that follow belong to it."""

    provider: str
    model: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """The attempt is lost: drop what came since `started`; the turn goes on at `provider`."""

    why: str
    provider: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Events were not kept: the ones that follow are live; the reply at the end is whole."""


@dataclass(frozen=True, slots=True)
class Done:
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failed:
    """`error` carries class, action, retry_after_s and the partial message."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody cancelled the turn, or its client left."""

    why: str = ""


Outcome: TypeAlias = Done | Failed | Cancelled
Event: TypeAlias = Delta | Accepted | Started | Restarted | Gap | Outcome

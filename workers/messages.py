"""What travels on a channel: frame types, the headers a supervisor must understand, and bodies it never reads.

A frame is a type, a channel-local turn number, (attempt, seq), a msgpack header where `Header` classes below say so,
and an opaque msgpack body. The supervisor relays bodies unread and rewrites only the turn number. The same frames run
on both kinds of channel: client <-> supervisor (Unix socket) and supervisor <-> worker (socketpair).

    client -> supervisor   HELLO  SUBMIT  ATTACH  CANCEL  STATUS  PING
    supervisor -> client   WELCOME  ACCEPTED  STARTED  DELTA  RESTARTED  GAP  DONE  ERROR  CANCELLED  STATUS  PONG
    supervisor -> worker   WELCOME  SUBMIT  CANCEL  PING  DRAIN
    worker -> supervisor   HELLO  READY  STARTED  DELTA  DONE  ERROR  CANCELLED  PONG
"""

from __future__ import annotations

import hashlib
from typing import Any, NotRequired, TypedDict, cast

from loopforge.drivers.turn import (
    Delta,
    Finished,
    Message,
    Notice,
    PartEnd,
    RefusalDelta,
    Reply,
    ResponseInfo,
    TextDelta,
    ThinkingDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Turn,
    UsageDelta,
    WholePart,
)
from loopforge.workers.frame_types import PROTOCOL, FrameType, pack, unpack, unpack_header
from loopforge.workers.packing import Malformed, from_plain, to_plain

__all__ = [
    "PROTOCOL",
    "AssignHeader",
    "AttachHeader",
    "CancelHeader",
    "DoneHeader",
    "ErrorHeader",
    "FrameType",
    "HelloHeader",
    "Malformed",
    "PongHeader",
    "RestartedHeader",
    "StartedHeader",
    "SubmitHeader",
    "body_hash",
    "pack",
    "pack_delta",
    "pack_message",
    "pack_reply",
    "pack_turn",
    "read_submit",
    "unpack",
    "unpack_delta",
    "unpack_header",
    "unpack_message",
    "unpack_reply",
    "unpack_turn",
]


class HelloHeader(TypedDict):
    """HELLO of a client or worker, WELCOME of the supervisor (to a worker, with the provider's settings as body)."""

    protocol: int
    version: str
    pid: int


class SubmitHeader(TypedDict):
    """SUBMIT from a client: what the supervisor must know of a turn without reading its body.

    `hash`: of the body, for IdConflict. `remaining_ms`: to the deadline, None for the route's own; clocks differ
    between processes, so no absolute time travels. `features`: what the turn asks of a route (tools, images,
    documents, audio, thinking, schema, cache), and media that the last question is about, which a driver refuses rather
    than leaves out ("new images", "new documents", "new audio"). `size`: estimate of the prompt in tokens.
    `resend_safe`: False when a lost attempt must not be sent again. `retry`: a turn of this id that failed or was
    cancelled is tried anew.
    """

    id: str
    hash: bytes
    kind: str
    session: str
    lane: str
    remaining_ms: int | None
    features: list[str]
    size: int
    provider: str
    model: str
    detached: bool
    resend_safe: bool
    retry: NotRequired[bool]


class AssignHeader(TypedDict):
    """SUBMIT to a worker: the turn's id, and what the router and the route decided. The body is the client's."""

    id: str
    model: str
    remaining_ms: int
    thinking: str | int | None
    first_event_timeout_s: float
    event_gap_timeout_s: float


class StartedHeader(TypedDict):
    provider: str
    model: str


class RestartedHeader(TypedDict):
    why: str
    provider: str


class DoneHeader(TypedDict):
    """DONE: what the supervisor keeps books on. It adds the last four before the frame reaches a client."""

    finish: str
    usage: dict[str, Any]
    model_reported: str
    request_id: str
    limits: dict[str, Any]
    timings: dict[str, float]
    has_tool_calls: bool
    attempts: NotRequired[int]
    provider: NotRequired[str]
    model: NotRequired[str]
    warnings: NotRequired[list[str]]


class ErrorHeader(TypedDict):
    """ERROR: `fields` as TurnError.to_fields gives them; the body is the packed partial message, or empty.

    `usage`, `limits`: of a worker's ERROR and CANCELLED, as in DONE, as far as they are known.
    """

    fields: dict[str, Any]
    usage: NotRequired[dict[str, Any]]
    limits: NotRequired[dict[str, Any]]
    attempts: NotRequired[int]


class CancelHeader(TypedDict):
    """CANCEL by a client names an `id` (frame turn number 0) or uses its own turn number; to a worker only `why`."""

    id: NotRequired[str]
    why: NotRequired[str]


class AttachHeader(TypedDict):
    """ATTACH: continue the turn `id` after frame (attempt, seq); (0, 0) from the beginning.

    `observer`: the turn does not end with this client. `wanted`: this client wants the outcome, as it does when it says
    nothing; a turn that is held for its client is not taken up for one that only looks on.
    """

    id: str
    after: list[int]
    observer: NotRequired[bool]
    wanted: NotRequired[bool]


class PongHeader(TypedDict):
    """PONG of a worker: resident memory, CPU seconds used, turns it runs, seconds its loop was late.

    `slots`: how many turns the provider's server said it works on at once; missing where it was not asked or did not
    tell. A PONG with news of that comes without a PING.
    """

    rss_bytes: int
    cpu_s: float
    running: int
    lag_s: float
    slots: NotRequired[int]


_SUBMIT_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "hash": (bytes,),
    "kind": (str,),
    "session": (str,),
    "lane": (str,),
    "remaining_ms": (int, type(None)),
    "features": (list,),
    "size": (int,),
    "provider": (str,),
    "model": (str,),
    "detached": (bool,),
    "resend_safe": (bool,),
}


def read_submit(data: bytes | memoryview) -> SubmitHeader:
    """A client's SUBMIT header, every member checked. Raises Malformed."""
    header = unpack_header(data)
    for name, accepted in _SUBMIT_TYPES.items():
        if not isinstance(header.get(name, ...), accepted):
            raise Malformed(f"SUBMIT.{name}", "missing or of another type; client and service differ in version")
    return cast("SubmitHeader", header)


def body_hash(body: bytes) -> bytes:
    """Tells whether two turns of one id are the same. 16 bytes; no secret, so no key."""
    return hashlib.blake2b(body, digest_size=16).digest()


# -- bodies ----------------------------------------------------------------------------------------------------------


def pack_turn(turn: Turn) -> bytes:
    return pack(to_plain(turn))


def unpack_turn(body: bytes | memoryview) -> Turn:
    """Raises Malformed."""
    return from_plain(Turn, unpack(body))


def pack_reply(reply: Reply) -> bytes:
    return pack(to_plain(reply))


def unpack_reply(body: bytes | memoryview) -> Reply:
    """Raises Malformed."""
    return from_plain(Reply, unpack(body))


def pack_message(message: Message | None) -> bytes:
    return b"" if message is None else pack(to_plain(message))


def unpack_message(body: bytes | memoryview) -> Message | None:
    """Raises Malformed."""
    return from_plain(Message, unpack(body)) if body else None


_DELTA_TYPES: tuple[type, ...] = (  # a delta's tag is its place here: append only
    TextDelta,
    ThinkingDelta,
    RefusalDelta,
    ToolCallStart,
    ToolCallArguments,
    ToolCallEnd,
    PartEnd,
    WholePart,
    UsageDelta,
    Notice,
    ResponseInfo,
    Finished,
)
_DELTA_TAGS = {cls: tag for tag, cls in enumerate(_DELTA_TYPES)}
_TEXT_TYPES = (TextDelta, ThinkingDelta, RefusalDelta)


def pack_delta(delta: Delta) -> bytes:
    """A list of the tag and, for text, the text itself; for the others the members as a map."""
    if isinstance(delta, _TEXT_TYPES):
        return pack((_DELTA_TAGS[type(delta)], delta.text))
    return pack((_DELTA_TAGS[type(delta)], to_plain(delta)))


def unpack_delta(body: bytes | memoryview) -> Delta:
    """Raises Malformed."""
    plain = unpack(body)
    match plain:
        case [int(tag), str(text)] if tag < len(_TEXT_TYPES):
            return _TEXT_TYPES[tag](text)
        case [int(tag), dict(members)] if tag < len(_DELTA_TYPES):
            return cast("Delta", from_plain(_DELTA_TYPES[tag], members))
    raise Malformed("", "not a delta this version knows")

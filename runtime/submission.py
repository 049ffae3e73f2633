"""A turn as a client posts it: its id, and what SUBMIT's header says of it. For client.py."""

from __future__ import annotations

import secrets
from dataclasses import replace

from loopforge.drivers.turn import Audio, Document, Image, JsonSchema, Part, ToolResult, Turn
from loopforge.workers.messages import body_hash, pack

_BYTES_PER_TOKEN = 4


def submit_header(turn: Turn, body: bytes, *, retry: bool = False) -> bytes:
    """Raises ValueError, OverflowError, TypeError."""
    return pack({
        "id": turn.id,
        "hash": body_hash(body),
        "kind": turn.kind,
        "session": turn.session,
        "lane": turn.lane or "",
        "remaining_ms": None if turn.deadline_s is None else max(int(turn.deadline_s * 1000), 0),
        "features": sorted(_features(turn)),
        "size": len(body) // _BYTES_PER_TOKEN,
        "provider": turn.provider,
        "model": turn.model,
        "detached": turn.detached,
        "resend_safe": True,
        "retry": retry,
    })  # fmt: skip


def with_id(turn: Turn) -> Turn:
    return turn if turn.id else replace(turn, id=f"t{secrets.token_hex(8)}")


def _features(turn: Turn) -> set[str]:
    """What the turn asks of a route, for SUBMIT's header."""
    features = {"tools"} if turn.tools and turn.tool_choice != "none" else set()
    if isinstance(turn.output, JsonSchema):
        features.add("schema")
    if turn.thinking not in (None, "off"):
        features.add("thinking")
    for message in turn.messages:
        for part in message.content:
            features |= _part_features(part)
    return features | _new_media(turn)


def _new_media(turn: Turn) -> set[str]:
    """Media of the last question that has no other form: what a driver refuses where it leaves older ones out."""
    last = max((number for number, message in enumerate(turn.messages) if message.role == "user"), default=0)
    found = set()
    for message in turn.messages[last:]:
        for part in message.content if message.role == "user" else ():
            match part:
                case Image():
                    found.add("new images")
                case Document(data=b"") | Document(media_type="application/pdf"):
                    found.add("new documents")
                case Audio(transcript=""):
                    found.add("new audio")
    return found


def _part_features(part: Part) -> set[str]:
    match part:
        case Image():
            return {"images"}
        case Document():
            return {"documents"}
        case Audio():
            return {"audio"}
        case ToolResult(content=content):
            return set().union(*(_part_features(inner) for inner in content))
    return set()

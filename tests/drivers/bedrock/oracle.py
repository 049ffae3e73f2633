"""What an answer says, by a second reading of the wire that shares no code with the driver, nor with botocore.

Simple where the driver is fast: the whole body at once, every block put together before anything is said of it. It
knows what the recordings need and is written from the wire's description alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "model_context_window_exceeded": "context_overflow",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`calls`: (id, name, parsed input or None) in order. `usage`: input, output, cache_read, cache_write.

    `kept`: what a client has to send back beside text and calls: signatures and thinking that is not shown, and what
    the service did by itself.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, Any], ...] = ()
    kept: tuple[Any, ...] = ()
    finish: str = ""
    usage: tuple[int | None, ...] = (None, None, None, None)
    request_id: str = ""
    error: str = ""


def interpret(status: int, headers: Json, body: bytes) -> Verdict:
    """The verdict on a response. `error`: the class that it is, "" for an answer."""
    if status != 200:
        text = json.loads(body)["message"]
        return Verdict(error="ModelNotFound" if "model identifier is invalid" in text else "TurnRefused")
    request_id = headers.get("x-amzn-requestid", "")
    if body.lstrip()[:1] == b"{":
        answer = json.loads(body)
        return _verdict(answer["output"]["message"]["content"], answer["stopReason"], answer.get("usage"), request_id)
    return _stream(frames(body), request_id)


def frames(body: bytes) -> list[tuple[str, Json]]:
    """(event type, JSON) of each frame, with both sums checked."""
    found = []
    at = 0
    while at < len(body):
        length, header_length, head_sum = struct.unpack(">III", body[at : at + 12])
        assert binascii.crc32(body[at : at + 8]) == head_sum
        assert binascii.crc32(body[at : at + length - 4]) == struct.unpack(">I", body[at + length - 4 : at + length])[0]
        headers = body[at + 12 : at + 12 + header_length]
        payload = body[at + 12 + header_length : at + length - 4]
        found.append((_headers(headers)[":event-type"], json.loads(payload)))
        at += length
    return found


def _headers(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        name_end = 1 + data[0]
        assert data[name_end] == 7
        (size,) = struct.unpack(">H", data[name_end + 1 : name_end + 3])
        found[data[1:name_end].decode()] = data[name_end + 3 : name_end + 3 + size].decode()
        data = data[name_end + 3 + size :]
    return found


def _stream(events: list[tuple[str, Json]], request_id: str) -> Verdict:
    blocks: dict[int, Json] = {}
    stop, usage = "", None
    for name, event in events:
        index = event.get("contentBlockIndex", 0)
        if name == "contentBlockStart":
            blocks[index] = json.loads(json.dumps(event["start"]))
        elif name == "contentBlockDelta":
            _apply(blocks.setdefault(index, {}), event["delta"])
        elif name == "messageStop":
            stop = event["stopReason"]
        elif name == "metadata":
            usage = event["usage"]
    return _verdict([_finished(blocks[index]) for index in sorted(blocks)], stop, usage, request_id)


def _apply(block: Json, delta: Json) -> None:
    match delta:
        case {"text": piece}:
            block["text"] = block.get("text", "") + piece
        case {"toolUse": {"input": piece}}:
            block["json"] = block.get("json", "") + piece
        case {"reasoningContent": {"redactedContent": piece}}:
            block.setdefault("redacted", []).append(base64.b64decode(piece))
        case {"reasoningContent": content}:
            thought = block.setdefault("reasoningContent", {"reasoningText": {}})["reasoningText"]
            for name, piece in content.items():
                thought[name] = thought.get(name, "") + piece


def _finished(block: Json) -> Json:
    if "json" in block:
        block["toolUse"]["input"] = json.loads(block.pop("json") or "{}")
    if "redacted" in block:
        block["reasoningContent"] = {"redactedContent": base64.b64encode(b"".join(block.pop("redacted"))).decode()}
    return block


def _verdict(content: list[Json], stop: str, usage: Json | None, request_id: str) -> Verdict:
    counted = usage or {}
    fresh, cached = counted.get("inputTokens"), counted.get("cacheReadInputTokens")
    written = counted.get("cacheWriteInputTokens")
    uses = [block["toolUse"] for block in content if "toolUse" in block]
    thoughts = [block["reasoningContent"] for block in content if "reasoningContent" in block]
    return Verdict(
        text="".join(block["text"] for block in content if "text" in block),
        thinking="".join(thought.get("reasoningText", {}).get("text", "") for thought in thoughts),
        calls=tuple(
            (use["toolUseId"], use["name"], use["input"]) for use in uses if use.get("type") != "server_tool_use"
        ),
        kept=tuple(kept for block in content if (kept := _kept(block))),
        finish=_FINISH[stop],
        usage=(
            None if fresh is None else fresh + (cached or 0) + (written or 0),
            counted.get("outputTokens"),
            cached,
            written,
        ),
        request_id=request_id,
    )


def _kept(block: Json) -> Any:
    match block:
        case {"reasoningContent": {"redactedContent": data}}:
            return data
        case {"reasoningContent": {"reasoningText": {"signature": signature}}}:
            return signature
        case {"toolUse": {"type": "server_tool_use"}} | {"toolResult": _}:
            return block
    return None

"""What an answer says, by a second reading of the wire that shares no code with the driver.

Simple where the driver is fast: the whole body at once, every block put together before anything is said of it. It
knows what the recordings need and is written from the wire's description alone. Where both readings agree, two people
would have to have made the same mistake.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context_overflow",
}
_BY_STATUS = {
    400: "TurnRefused",
    401: "CredentialsRejected",
    402: "QuotaExhausted",
    403: "PermissionDenied",
    404: "ModelNotFound",
    413: "TurnRefused",
    429: "RateLimited",
    500: "ProviderUnavailable",
    529: "Overloaded",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`calls`: (id, name, parsed input or None) in order. `usage`: input, output, cache_read, cache_write, reasoning.

    `kept`: the blocks that a client has to send back as they came: all but text without citations and plain calls.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, Any], ...] = ()
    kept: tuple[Any, ...] = ()
    finish: str = ""
    usage: tuple[int | None, ...] = (None, None, None, None, None)
    model: str = ""
    error: str = ""


def interpret(status: int, body: bytes) -> Verdict:
    """The verdict on a response. `error`: the class that it is, "" for an answer."""
    text = body.decode("utf-8").strip()
    if status != 200:
        return Verdict(error="ContextTooLong" if "prompt is too long" in text else _BY_STATUS[status])
    if text.startswith("{"):
        message = json.loads(text)
        return _verdict(message, message["content"])
    events = [json.loads(data) for data in re.findall(r"^data: ?(.*)$", text, re.MULTILINE)]
    return _stream([event for event in events if event["type"] != "ping"])


def _stream(events: list[Json]) -> Verdict:
    message = dict(events[0]["message"])
    message["usage"] = dict(message["usage"])
    blocks: dict[int, Json] = dict(enumerate(message["content"]))
    for event in events[1:]:
        if event["type"] == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif event["type"] == "content_block_delta":
            _apply(blocks[event["index"]], event["delta"])
        elif event["type"] == "message_delta":
            message.update({name: value for name, value in event["delta"].items() if value is not None})
            message["usage"].update({name: value for name, value in event["usage"].items() if value is not None})
    return _verdict(message, [_finished(blocks[index]) for index in sorted(blocks)])


def _apply(block: Json, delta: Json) -> None:
    match delta:
        case {"type": "citations_delta", "citation": citation}:
            block["citations"] = [*(block.get("citations") or []), citation]
        case {"type": "input_json_delta", "partial_json": piece}:
            block["json"] = block.get("json", "") + piece
        case _:
            for name, piece in delta.items():
                if name != "type":
                    block[name] = block.get(name, "") + piece


def _finished(block: Json) -> Json:
    text = block.pop("json", "")
    if text:
        try:
            block["input"] = json.loads(text)
        except ValueError:
            block["input"] = None
    return block


def _verdict(message: Json, content: list[Json]) -> Verdict:
    finish = _FINISH.get(message["stop_reason"] or "", "unknown")
    if finish == "content_filter" and not content:
        return Verdict(error="ContentFiltered")
    usage = message["usage"]
    cached, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    counts = (
        usage["input_tokens"] + (cached or 0) + (written or 0),
        usage["output_tokens"],
        cached,
        written,
        (usage.get("output_tokens_details") or {}).get("thinking_tokens"),
    )
    return Verdict(
        text="".join(block["text"] for block in content if block["type"] == "text"),
        thinking="".join(block["thinking"] for block in content if block["type"] == "thinking"),
        calls=tuple((block["id"], block["name"], block["input"]) for block in content if block["type"] == "tool_use"),
        kept=tuple(kept for block in content if (kept := _kept(block))),
        finish=finish,
        usage=counts,
        model=message["model"],
    )


def _kept(block: Json) -> Json | None:
    block = {name: value for name, value in block.items() if value not in (None, [])}
    plain = {"text": {"type", "text"}, "tool_use": {"type", "id", "name", "input"}}
    if block["type"] in plain and block.keys() <= plain[block["type"]]:
        return None
    return block if block["type"] != "text" or block.get("text") else None

"""Response bodies for tests, written as what they say rather than as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loopforge.drivers.turn import Reply, Turn
from tests.drivers.anthropic.asking import driver_for
from tests.drivers.exchanges import Exchange, Outcome, read

Json = dict[str, Any]


def start(*content: Json, **members: Any) -> Json:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "content": [*content]}
    usage = {"input_tokens": 5, "output_tokens": 1}
    return {
        "type": "message_start",
        "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage, **members},
    }


def block(index: int, content: Json, *deltas: Json) -> list[Json]:
    """A whole block of a stream."""
    return [opening(index, content), *(delta(index, item) for item in deltas), closing(index)]


def opening(index: int, content: Json) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, content: Json) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": content}


def closing(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


def words(text: str) -> Json:
    return {"type": "text_delta", "text": text}


def thought(text: str) -> Json:
    return {"type": "thinking_delta", "thinking": text}


def signed(signature: str) -> Json:
    return {"type": "signature_delta", "signature": signature}


def piece(text: str) -> Json:
    return {"type": "input_json_delta", "partial_json": text}


def text(index: int, *pieces: str, **members: Any) -> list[Json]:
    return block(index, {"type": "text", "text": "", **members}, *map(words, pieces))


def call(index: int, *pieces: str, name: str = "look", call_id: str = "toolu_1", **members: Any) -> list[Json]:
    made = {"type": "tool_use", "id": call_id, "name": name, "input": {}, **members}
    return block(index, made, *map(piece, pieces))


def stop(reason: Any = "end_turn", **members: Any) -> Json:
    """The message_delta of the end. `members`: of it, beside usage."""
    change = {"stop_reason": reason, "stop_sequence": None, **members}
    return {"type": "message_delta", "delta": change, "usage": {"output_tokens": 9}}


DONE: Json = {"type": "message_stop"}


def error(kind: str, message: str = "it broke", **members: Any) -> Json:
    return {"type": "error", "error": {"type": kind, "message": message, **members}}


def sse(*events: Json | list[Json] | str) -> bytes:
    """An event stream; a string is a line of its own."""
    found = b""
    for event in events:
        for item in event if isinstance(event, list) else [event]:
            if isinstance(item, str):
                found += f"{item}\n\n".encode()
            else:
                found += f"event: {item['type']}\ndata: {json.dumps(item)}\n\n".encode()
    return found


def said(*events: Json | list[Json] | str, reason: Any = "end_turn") -> bytes:
    """A stream of these blocks from its start to its end."""
    return sse(start(), *events, stop(reason), DONE)


def whole(*content: Json, reason: Any = "end_turn", **members: Any) -> bytes:
    """A JSON answer."""
    message = start(*content)["message"]
    usage = {"input_tokens": 5, "output_tokens": 9}
    return json.dumps({**message, "stop_reason": reason, "usage": usage, **members}).encode()


def read_body(
    body: bytes,
    vendor: str = "anthropic",
    *,
    cut: int = 0,
    turn: Turn | None = None,
    headers: Mapping[str, str] | None = None,
) -> Outcome:
    """What the driver makes of a body that came with status 200. `cut`: in pieces of that size."""
    exchange = Exchange(id="", vendor=vendor, body=body, headers=headers or {})
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)] if cut else None
    return read(driver_for(vendor), exchange, pieces, turn)


def reply_of(outcome: Outcome) -> Reply:
    assert outcome.reply is not None, outcome.error
    return outcome.reply


def error_of(outcome: Outcome) -> Any:
    """Class and fields of the error that it was."""
    assert outcome.error is not None
    return outcome.error

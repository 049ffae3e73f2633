"""Response bodies for tests, written as what they say rather than as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loopforge.drivers.simulator.bedrock import frame
from loopforge.drivers.turn import Reply, Turn
from tests.drivers.bedrock.asking import driver_for
from tests.drivers.exchanges import Exchange, Outcome, read

Json = dict[str, Any]
Event = tuple[str, Json]

START: Event = ("messageStart", {"role": "assistant"})
USAGE: Json = {"inputTokens": 5, "outputTokens": 9, "totalTokens": 14}


def delta(index: int, content: Json) -> Event:
    return ("contentBlockDelta", {"contentBlockIndex": index, "delta": content, "p": "abc"})


def opening(index: int, start: Json) -> Event:
    return ("contentBlockStart", {"contentBlockIndex": index, "start": start})


def closing(index: int) -> Event:
    return ("contentBlockStop", {"contentBlockIndex": index})


def text(index: int, *pieces: str) -> list[Event]:
    return [*(delta(index, {"text": piece}) for piece in pieces), closing(index)]


def thinking(index: int, *pieces: str, signature: str = "") -> list[Event]:
    said = [delta(index, {"reasoningContent": {"text": piece}}) for piece in pieces]
    signed = [delta(index, {"reasoningContent": {"signature": signature}})] if signature else []
    return [*said, *signed, closing(index)]


def call(index: int, *pieces: str, name: str = "look", call_id: str = "tooluse_1", **members: Any) -> list[Event]:
    start = opening(index, {"toolUse": {"toolUseId": call_id, "name": name, **members}})
    return [start, *(delta(index, {"toolUse": {"input": piece}}) for piece in pieces), closing(index)]


def stop(reason: Any = "end_turn") -> Event:
    return ("messageStop", {"stopReason": reason})


def metadata(**usage: Any) -> Event:
    return ("metadata", {"usage": usage or USAGE, "metrics": {"latencyMs": 1}})


def exception(kind: str, message: str = "it broke", **members: Any) -> bytes:
    return frame("exception", kind, json.dumps({"message": message, **members}).encode())


def frames(*events: Event | list[Event] | bytes) -> bytes:
    """An event stream; bytes are put in as they are."""
    found = b""
    for event in events:
        for item in event if isinstance(event, list) else [event]:
            found += item if isinstance(item, bytes) else frame("event", item[0], json.dumps(item[1]).encode())
    return found


def said(*events: Event | list[Event] | bytes, reason: Any = "end_turn") -> bytes:
    """A stream of these blocks from its start to its end."""
    return frames(START, *events, stop(reason), metadata())


def whole(*content: Json, reason: Any = "end_turn", **members: Any) -> bytes:
    """A JSON answer."""
    message = {"role": "assistant", "content": [*content]}
    return json.dumps({"output": {"message": message}, "stopReason": reason, "usage": USAGE, **members}).encode()


def read_body(
    body: bytes, *, cut: int = 0, turn: Turn | None = None, headers: Mapping[str, str] | None = None
) -> Outcome:
    """What the driver makes of a body that came with status 200. `cut`: in pieces of that size."""
    exchange = Exchange(id="", vendor="aws", body=body, headers=headers or {})
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)] if cut else None
    return read(driver_for(), exchange, pieces, turn)


def reply_of(outcome: Outcome) -> Reply:
    assert outcome.reply is not None, outcome.error
    return outcome.reply


def error_of(outcome: Outcome) -> Any:
    """Class and fields of the error that it was."""
    assert outcome.error is not None
    return outcome.error

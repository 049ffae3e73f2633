"""Response bodies for tests, written as what they say rather than as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loopforge.drivers.openai_compatible.reader import ChatReader
from loopforge.drivers.turn import Opaque
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome
from tests.drivers.openai_compatible.recorded import driver_for, read

Json = dict[str, Any]


def chunk(delta: Json | None = None, finish: str | None = None, **top: Any) -> Json:
    """One chunk of a stream. `top`: further members beside `choices`."""
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return {"id": "chat-1", "object": "chat.completion.chunk", "model": "m-1", "choices": [choice], **top}


def text(content: str, finish: str | None = None) -> Json:
    return chunk({"content": content}, finish)


def call(finish: str | None = None, **fragment: Any) -> Json:
    """A chunk with one tool call fragment."""
    return chunk({"tool_calls": [fragment]}, finish)


def usage(**counts: Any) -> Json:
    return {"id": "chat-1", "model": "m-1", "choices": [], "usage": counts}


def sse(*chunks: Json | str, done: bool = True) -> bytes:
    """An event stream; a string is a line of its own."""
    lines = [item if isinstance(item, str) else f"data: {json.dumps(item)}" for item in chunks]
    return "".join(f"{line}\n\n" for line in [*lines, *(["data: [DONE]"] if done else [])]).encode()


def whole(message: Json | None = None, finish: str | None = "stop", **top: Any) -> bytes:
    """A JSON answer."""
    choice = {"index": 0, "message": {"role": "assistant", **(message or {})}, "finish_reason": finish}
    return json.dumps({"id": "chat-1", "model": "m-1", "choices": [choice], **top}).encode()


def read_body(
    body: bytes, vendor: str = "openai", *, cut: int = 0, headers: Mapping[str, str] | None = None
) -> Outcome:
    """What the driver makes of a body that came with status 200. `cut`: in pieces of that size."""
    exchange = Exchange(id="", vendor=vendor, body=body, headers=headers or {})
    return read(exchange, [body[i : i + cut] for i in range(0, len(body), cut)] if cut else None)


def reader_for(vendor: str) -> ChatReader:
    return driver_for(vendor).new_reader(Exchange(id="", vendor=vendor, body=b"").turn, {})


def opaque(vendor: str, **data: Any) -> Opaque:
    """What the reader marks a part with that came from this vendor."""
    return Opaque(provider=PROVIDER, model="recorded-model", data={"vendor": vendor, **data})

"""Drivers, turns and bodies of this kind, for its tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from loopforge.drivers.gemini import Gemini, open_driver
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Message, Opaque, Turn
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome, read

KIND = "gemini"
MODEL = "gemini-3-flash-preview"
FLASH_2_5 = "gemini-2.5-flash"
FLASH_2 = "gemini-2.0-flash"
BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
Json = dict[str, Any]


def driver_for(base_url: str = BASE_URL, **changes: Any) -> Gemini:
    return open_driver(ProviderSettings(name=PROVIDER, kind="gemini", base_url=base_url, **changes))


def ask(*messages: Message, model: str = MODEL, **members: Any) -> Turn:
    return replace(Turn(kind="coding", messages=messages, provider=PROVIDER, model=model), **members)


def body_of(turn: Turn, **changes: Any) -> Json:
    """What the driver sends for the turn."""
    body: Json = json.loads(driver_for(**changes).build_request(turn).body)
    return body


def notices_of(turn: Turn, **changes: Any) -> str:
    """What the driver says that it will not send, one a line."""
    return "\n".join(driver_for(**changes).notices(turn))


def opaque(*, model: str = MODEL, provider: str = PROVIDER, **data: Any) -> Opaque:
    """What this kind's reader puts on a part."""
    return Opaque(provider=provider, model=model, data={"wire": "gemini", **data})


def chunk(*parts: Json, finish: str = "", usage: Json | None = None, **candidate: Any) -> Json:
    """One chunk of a stream, or a whole answer."""
    inner: Json = {"content": {"parts": list(parts), "role": "model"}, "index": 0, **candidate}
    if finish:
        inner["finishReason"] = finish
    answer: Json = {"candidates": [inner], "modelVersion": "gemini-m", "responseId": "answer-1"}
    return answer if usage is None else {**answer, "usageMetadata": usage}


def text(said: str, **members: Any) -> Json:
    return {"text": said, **members}


def call(name: str, args: Any = None, **members: Any) -> Json:
    inner: Json = {"name": name} if args is None else {"name": name, "args": args}
    if "id" in members:
        inner["id"] = members.pop("id")
    return {"functionCall": inner, **members}


def sse(*chunks: Json | str) -> bytes:
    """An event stream as Google frames it; a string is taken as it is."""
    lines = (item if isinstance(item, str) else f"data: {json.dumps(item)}\r\n\r\n" for item in chunks)
    return "".join(lines).encode()


def read_body(body: bytes, *, cut: int = 0, turn: Turn | None = None, **changes: Any) -> Outcome:
    """What the driver makes of a body that came with status 200. `cut`: in pieces of that size."""
    exchange = Exchange(id="", vendor="google", body=body, model=MODEL)
    pieces: Iterable[bytes] | None = (body[i : i + cut] for i in range(0, len(body), cut)) if cut else None
    return read(driver_for(**changes), exchange, pieces, turn)

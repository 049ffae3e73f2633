"""Drivers, turns and bodies of this kind, for its tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Message, Opaque, Turn
from loopforge.drivers.zhipu_native import ZhipuNative, open_driver
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome, read

KIND = "zhipu_native"
MODEL = "glm-4.7"
VISION = "glm-4.6v"
BASE_URL = "https://open.bigmodel.cn/api/paas/v4"
ANSWER_ID = "20261122110000aaaabbbbccccdddd"
Json = dict[str, Any]


def driver_for(base_url: str = BASE_URL, **changes: Any) -> ZhipuNative:
    return open_driver(ProviderSettings(name=PROVIDER, kind="zhipu_native", base_url=base_url, **changes))


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
    return Opaque(provider=provider, model=model, data={"wire": KIND, **data})


def chunk(finish: str = "", usage: Json | None = None, /, **delta: Any) -> Json:
    """One chunk of a stream."""
    choice: Json = {"index": 0, "delta": {"role": "assistant", **delta}}
    if finish:
        choice["finish_reason"] = finish
    return _answer(choice, usage)


def whole(finish: str = "stop", usage: Json | None = None, /, **message: Any) -> Json:
    """An answer in one piece."""
    return _answer({"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}, usage)


def _answer(choice: Json, usage: Json | None) -> Json:
    answer: Json = {"id": ANSWER_ID, "created": 1_795_000_000, "model": "glm-m", "choices": [choice]}
    return answer if usage is None else {**answer, "usage": usage}


def call(name: str = "look", arguments: str = "{}", *, index: int | None = 0, call_id: str = "call_1") -> Json:
    """A member of `tool_calls`."""
    wire: Json = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return wire if index is None else {**wire, "index": index}


def sse(*events: Json | str, done: bool = True) -> bytes:
    """An event stream as this wire frames it; a string is taken as it is."""
    lines = [item if isinstance(item, str) else f"data: {json.dumps(item)}\n\n" for item in events]
    return "".join([*lines, "data: [DONE]\n\n"] if done else lines).encode()


def read_body(
    body: bytes | Json, *, cut: int = 0, turn: Turn | None = None, headers: dict[str, str] | None = None
) -> Outcome:
    """What the driver makes of a body that came with status 200. `cut`: in pieces of that size."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    exchange = Exchange(id="", vendor="zhipu", body=data, model=MODEL, headers=headers or {})
    pieces: Iterable[bytes] | None = (data[i : i + cut] for i in range(0, len(data), cut)) if cut else None
    return read(driver_for(), exchange, pieces, turn)

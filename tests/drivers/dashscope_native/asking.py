"""Drivers, turns and bodies of this kind, for its tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from loopforge.drivers.dashscope_native import DashScopeNative, open_driver
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Message, Opaque, Turn
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome, read

KIND = "dashscope_native"
MODEL = "qwen-plus"
VISION = "qwen3-vl-plus"
BASE_URL = "https://dashscope-us.aliyuncs.com/api/v1"
Json = dict[str, Any]


def driver_for(base_url: str = BASE_URL, **changes: Any) -> DashScopeNative:
    return open_driver(ProviderSettings(name=PROVIDER, kind="dashscope_native", base_url=base_url, **changes))


def ask(*messages: Message, model: str = MODEL, **members: Any) -> Turn:
    return replace(Turn(kind="coding", messages=messages, provider=PROVIDER, model=model), **members)


def body_of(turn: Turn, **changes: Any) -> Json:
    """What the driver sends for the turn."""
    body: Json = json.loads(driver_for(**changes).build_request(turn).body)
    return body


def messages_of(turn: Turn, **changes: Any) -> list[Json]:
    messages: list[Json] = body_of(turn, **changes)["input"]["messages"]
    return messages


def parameters_of(turn: Turn, **changes: Any) -> Json:
    parameters: Json = body_of(turn, **changes)["parameters"]
    return parameters


def notices_of(turn: Turn, **changes: Any) -> str:
    """What the driver says that it will not send, one a line."""
    return "\n".join(driver_for(**changes).notices(turn))


def opaque(*, model: str = MODEL, provider: str = PROVIDER, **data: Any) -> Opaque:
    """What this kind's reader puts on a part."""
    return Opaque(provider=provider, model=model, data={"wire": KIND, **data})


def message(content: Any = "", **members: Any) -> Json:
    """The output of a frame or of an answer with one choice, not finished."""
    finish = members.pop("finish", "null")
    return {"choices": [{"message": {"role": "assistant", "content": content, **members}, "finish_reason": finish}]}


def body(output: Json, usage: Json | None = None, **members: Any) -> Json:
    """One frame's data, or a whole answer."""
    return {"output": output, **({} if usage is None else {"usage": usage}), "request_id": "answer-1", **members}


def fragment(index: int, name: str = "", arguments: str = "", call_id: str = "") -> Json:
    """A member of `tool_calls` as streams have it."""
    function: Json = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def sse(*frames: Json | str) -> bytes:
    """A stream as the service frames it; a string is taken as it is."""
    lines = (
        item if isinstance(item, str) else f"id:{n}\nevent:result\n:HTTP_STATUS/200\ndata:{json.dumps(item)}\n\n"
        for n, item in enumerate(frames, 1)
    )
    return "".join(lines).encode()


def error_frame(code: str, text: str = "Something is wrong.", status: int = 400) -> str:
    data = json.dumps({"code": code, "message": text, "request_id": "answer-1"})
    return f"id:9\nevent:error\n:HTTP_STATUS/{status}\ndata:{data}\n\n"


def read_body(data: bytes, *, cut: int = 0, turn: Turn | None = None, **changes: Any) -> Outcome:
    """What the driver makes of a body that came with status 200. `cut`: in pieces of that size."""
    exchange = Exchange(id="", vendor="dashscope", body=data, model=MODEL)
    pieces: Iterable[bytes] | None = (data[i : i + cut] for i in range(0, len(data), cut)) if cut else None
    return read(driver_for(**changes), exchange, pieces, turn)

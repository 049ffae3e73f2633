"""Drivers, turns and bodies of this kind, for its tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from loopforge.drivers.minimax_native import MinimaxNative, open_driver
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Message, Opaque, Tool, ToolCall, Turn, user
from tests.drivers.exchanges import PROVIDER, Exchange, Outcome, read
from tests.drivers.minimax_native.request_rules import problems

KIND = "minimax_native"
M3, M2, M1, TEXT_01, HER, ABAB = (
    "MiniMax-M3", "MiniMax-M2.5", "MiniMax-M1", "MiniMax-Text-01", "M2-her", "abab6.5s-chat",
)  # fmt: skip
BASE_URL = "https://api.minimax.io/v1"
HI = user("Hi")
LOOK = Tool(name="look", description="Looks.", parameters={"type": "object", "properties": {"at": {"type": "integer"}}})
CALL = ToolCall(id="call_function_abc_1", name="look", parsed={})
FLAGS = {
    "input_sensitive": False,
    "output_sensitive": False,
    "input_sensitive_type": 0,
    "output_sensitive_type": 0,
    "output_sensitive_int": 0,
}
USAGE = {
    "total_tokens": 120,
    "total_characters": 0,
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "completion_tokens_details": {"reasoning_tokens": 12},
    "prompt_tokens_details": {"cached_tokens": 64},
}
ZEROS = {"total_tokens": 0, "total_characters": 0}
GOOD = {"status_code": 0, "status_msg": ""}
Json = dict[str, Any]


def driver_for(base_url: str = BASE_URL, **changes: Any) -> MinimaxNative:
    return open_driver(ProviderSettings(name=PROVIDER, kind="minimax_native", base_url=base_url, **changes))


def ask(*messages: Message, model: str = M2, **members: Any) -> Turn:
    return replace(Turn(kind="coding", messages=messages, provider=PROVIDER, model=model), **members)


def body_of(turn: Turn, **changes: Any) -> Json:
    """What the driver sends for the turn."""
    body: Json = json.loads(driver_for(**changes).build_request(turn).body)
    return body


def written(*, model: str = M2, **members: Any) -> Json:
    """The body of a turn, which breaks no rule. `members`: of the turn; its messages are a greeting when not given."""
    messages = members.pop("messages", (HI,))
    body = body_of(ask(*messages, model=model, **members))
    assert problems(body) == []
    return body


def noted(*, model: str = M2, **members: Any) -> str:
    """What is said of the turn, one a line."""
    messages = members.pop("messages", (HI,))
    return "\n".join(driver_for().notices(ask(*messages, model=model, **members)))


def opaque(*, model: str = M2, provider: str = PROVIDER, **data: Any) -> Opaque:
    """What this kind's reader puts on a part."""
    return Opaque(provider=provider, model=model, data={"wire": KIND, **data})


# -- bodies -----------------------------------------------------------------------------------------------------------


def frame(delta: Json | None = None, finish: str | None = None, **top: Any) -> Json:
    """One frame of a stream. `top`: further members beside `choices`."""
    choice: Json = {"index": 0, "delta": delta or {}}
    if finish is not None:
        choice["finish_reason"] = finish
    head = {"id": "answer-1", "created": 1, "model": "MiniMax-M2.5", "object": "chat.completion.chunk"}
    return {**head, "choices": [choice], "usage": None, **FLAGS, **top}


def text(content: str, finish: str | None = None) -> Json:
    """A frame as it comes with text in it."""
    return frame({"role": "assistant", "name": "MiniMax AI", "audio_content": "", "content": content}, finish)


def thought(said: str, finish: str | None = None, *, item: str = "reasoning-text-1") -> Json:
    """A frame with thinking in both of its fields."""
    detail = {"type": "reasoning.text", "id": item, "format": "MiniMax-response-v1", "index": 0, "text": said}
    return frame({"role": "assistant", "reasoning_content": said, "reasoning_details": [detail]}, finish)


def call(finish: str | None = None, **fragment: Any) -> Json:
    """A frame with one tool call fragment."""
    return frame({"role": "assistant", "tool_calls": [fragment]}, finish)


def usage_only(**counts: Any) -> Json:
    """The last frame of many streams."""
    return {**frame(), "choices": [], "usage": counts or USAGE, "base_resp": GOOD}


def message(content: str = "", finish: str | None = "stop", *, top: Json | None = None, **members: Any) -> Json:
    """A whole answer; behind a stream it is its summary."""
    said = {"role": "assistant", "name": "MiniMax AI", "audio_content": "", "content": content, **members}
    whole = {**frame(), "object": "chat.completion", "usage": USAGE, "base_resp": GOOD}
    return {**whole, "choices": [{"finish_reason": finish, "index": 0, "message": said}], **(top or {})}


def refusal(code: int, said: str, **top: Any) -> Json:
    """An error as it comes inside a 200."""
    return {**frame(), "choices": None, "usage": ZEROS, "base_resp": {"status_code": code, "status_msg": said}, **top}


def sse(*frames: Json | str, done: bool = False) -> bytes:
    """An event stream; a string is a line of its own."""
    lines = [item if isinstance(item, str) else f"data: {json.dumps(item)}" for item in frames]
    return "".join(f"{line}\n\n" for line in [*lines, *(["data: [DONE]"] if done else [])]).encode()


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def read_body(
    body: bytes, *, cut: int = 0, turn: Turn | None = None, headers: Mapping[str, str] | None = None
) -> Outcome:
    """What the driver makes of a body that came with status 200. `cut`: in pieces of that size."""
    exchange = Exchange(id="", vendor=KIND, body=body, model=M2, headers=headers or {})
    pieces: Iterable[bytes] | None = [body[i : i + cut] for i in range(0, len(body), cut)] if cut else None
    return read(driver_for(), exchange, pieces, turn)

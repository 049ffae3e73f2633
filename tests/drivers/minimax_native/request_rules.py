"""What the vendor refuses in a request, by its page and its error texts: for whatever the driver writes.

The form of a body is checked by the simulator's half of this wire (drivers/simulator/minimax_requests.py); here is what
single models refuse or do not know, written from the vendor's pages alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from loopforge.drivers.simulator.minimax_requests import BadRequest, check_request

Json = dict[str, Any]

SEES = {"MiniMax-M3", "MiniMax-Text-01"}
TAKES_THINKING = {"MiniMax-M3"}
TAKES_SPLIT = {"MiniMax-M3", "MiniMax-M2.5", "MiniMax-M2", "MiniMax-M2.7-highspeed"}
TAKES_SCHEMA = {"MiniMax-Text-01"}
HOT = {"MiniMax-M3"}
MODELS = sorted({*SEES, *TAKES_SPLIT, "MiniMax-M1", "M2-her", "abab6.5s-chat"})
KNOWN = {
    "model", "messages", "stream", "stream_options", "max_completion_tokens", "max_tokens", "temperature", "top_p",
    "tools", "tool_choice", "response_format", "reasoning_split", "thinking",
}  # fmt: skip


def problems(body: Json) -> list[str]:
    """Every rule that the body breaks; none for a good one."""
    found: list[str] = []
    try:
        check_request(json.dumps(body).encode(), reject_unknown=True)
    except BadRequest as exc:
        found.append(str(exc))
    return [*found, *_of_model(body)]


def _of_model(body: Json) -> Iterator[str]:
    model, members = body["model"], {name for message in body["messages"] for name in message}
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    if unknown := body.keys() - KNOWN:
        yield f"unknown fields {sorted(unknown)}"
    if any(part["type"] == "image_url" for part in parts) and model not in SEES:
        yield "this model takes text only"
    if "thinking" in body and model not in TAKES_THINKING:
        yield "this model's thinking cannot be switched"
    if ("reasoning_split" in body) != (model in TAKES_SPLIT):
        yield "reasoning_split is for M2 and later"
    if "reasoning_details" in members and model not in TAKES_SPLIT:
        yield "this model does not read earlier thinking"
    if "response_format" in body and model not in TAKES_SCHEMA:
        yield "response_format is for Text-01 only"
    if body.get("temperature", 1) > (2 if model in HOT else 1) or (model not in HOT and body.get("temperature") == 0):
        yield "the temperature is out of range"
    if "reasoning_content" in members:
        yield "reasoning_details goes back, not reasoning_content"

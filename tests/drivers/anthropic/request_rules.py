"""What a request body has to keep to, by model: rules that share nothing with the code that writes it.

The form of a body is checked by the simulator's half of this wire (drivers/simulator/anthropic_requests.py); here is
what single models and gateways refuse, written from the vendors' pages alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from loopforge.drivers.simulator.anthropic_requests import BadRequest, check_request

Json = dict[str, Any]

# Models by what they refuse, as the pages list them.
NEVER_THINK = {"claude-3-5-haiku-20241022"}
ONLY_BY_BUDGET = {"claude-3-7-sonnet-20250219", "claude-sonnet-4-0", "claude-opus-4-1", "claude-haiku-4-5"}
BUDGET_REFUSED = {"claude-opus-4-7", "claude-opus-4-8", "claude-sonnet-5", "claude-opus-5-5", "claude-fable-5"}
CANNOT_STOP_THINKING = {"claude-opus-5-5", "claude-fable-5"}
NO_SAMPLING = {"claude-opus-4-7", "claude-opus-4-8", "claude-sonnet-5", "claude-opus-5-5", "claude-fable-5"}
ONE_SAMPLER = {"claude-opus-4-1", "claude-haiku-4-5", "claude-sonnet-4-6"}
NO_FORCED_TOOLS = {"claude-opus-5-5", "claude-fable-5"}
NO_PREFILL = {"claude-sonnet-4-6", *BUDGET_REFUSED}
NO_EFFORT = {*NEVER_THINK, *ONLY_BY_BUDGET}
FORMAT = {"claude-haiku-4-5", "claude-sonnet-4-6", *BUDGET_REFUSED}
LATE_SYSTEM = {"claude-opus-4-8", "claude-opus-5-5", "claude-fable-5"}
MOST_TOKENS = {
    "claude-3-5-haiku-20241022": 8192,
    "claude-opus-4-1": 32_000,
    "claude-haiku-4-5": 64_000,
    "claude-sonnet-4-6": 128_000,
}
MODELS = sorted({*NEVER_THINK, *ONLY_BY_BUDGET, "claude-sonnet-4-6", *BUDGET_REFUSED})
GATEWAY_FIELDS = {
    "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "stop_sequences", "tools",
    "tool_choice", "thinking", "container",
}  # fmt: skip


def problems(body: Json, vendor: str = "anthropic") -> list[str]:
    """Every rule that the body breaks; none for a good one."""
    claude = vendor in ("anthropic", "azure")
    found: list[str] = []
    try:
        check_request(json.dumps(body if claude else _as_of_claude(body)).encode(), reject_unknown=True)
    except BadRequest as exc:
        found.append(str(exc))
    found += _of_model(body) if claude else _of_gateway(body, vendor)
    return found


def _as_of_claude(body: Json) -> Json:
    """What gateways take beyond Claude: thinking without signatures, and any temperature."""
    body = {name: value for name, value in body.items() if name != "temperature"}
    return {**body, "messages": [_signed(message) for message in body["messages"]]}


def _signed(message: Json) -> Json:
    if isinstance(message["content"], str):
        return message
    blocks = [{**block, "signature": "s"} if block["type"] == "thinking" else block for block in message["content"]]
    return {**message, "content": blocks}


def _of_model(body: Json) -> Iterator[str]:
    model, thinking = body["model"], body.get("thinking", {}).get("type")
    if model in NEVER_THINK and thinking not in (None, "disabled"):
        yield "this model does not think"
    if model in ONLY_BY_BUDGET and thinking == "adaptive":
        yield "adaptive thinking is not supported on this model"
    if model in BUDGET_REFUSED and thinking == "enabled":
        yield "thinking.type.enabled is not supported on this model"
    if model in CANNOT_STOP_THINKING and thinking == "disabled":
        yield "thinking.type.disabled is not supported on this model"
    if model in NO_SAMPLING and {"temperature", "top_p"} & body.keys():
        yield "temperature and top_p are not supported on this model"
    if model in ONE_SAMPLER and {"temperature", "top_p"} <= body.keys():
        yield "temperature and top_p cannot both be specified for this model"
    if model in NO_FORCED_TOOLS and body.get("tool_choice", {}).get("type") in ("any", "tool"):
        yield "tool_choice forces tool use, which is not supported on this model"
    if model in NO_PREFILL and body["messages"][-1]["role"] == "assistant":
        yield "this model does not support assistant message prefill"
    if thinking in ("enabled", "adaptive") and body["messages"][-1]["role"] == "assistant":
        yield "prefill does not go with thinking"
    if model in NO_EFFORT and "effort" in body.get("output_config", {}):
        yield "this model does not support effort level"
    if model not in FORMAT and "format" in body.get("output_config", {}):
        yield "output_config.format is not supported on this model"
    if body["max_tokens"] > MOST_TOKENS.get(model, 10**9):
        yield "max_tokens is above the model's limit"
    for number, message in enumerate(body["messages"]):
        if message["role"] == "system":
            after = body["messages"][number + 1]["role"] if number + 1 < len(body["messages"]) else "assistant"
            if model not in LATE_SYSTEM or after != "assistant":
                yield "a system message is not taken here"


def _of_gateway(body: Json, vendor: str) -> Iterator[str]:
    known = GATEWAY_FIELDS | ({"output_config"} if vendor == "deepseek" else set())
    if unknown := body.keys() - known:
        yield f"unknown fields {sorted(unknown)}"
    if vendor == "deepseek" and body.get("output_config", {}).keys() - {"effort"}:
        yield "only effort is known of output_config"
    marked = '"cache_control"' in json.dumps(body)
    if vendor not in ("minimax", "openrouter") and (marked or not isinstance(body.get("system", ""), str)):
        yield "a cache mark, or a system text that is no plain string"
    if vendor == "minimax":
        if not 0 < body.get("temperature", 1) <= 1:
            yield "the temperature is not in (0, 1]"
        if "stop_sequences" in body or ('"image"' in json.dumps(body) and body["model"] != "MiniMax-M3"):
            yield "stop strings or images that are not taken"
    if '"document"' in json.dumps(body) and vendor != "openrouter":
        yield "documents are not known here"

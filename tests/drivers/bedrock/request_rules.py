"""What a request body has to keep to, by model: rules that share nothing with the code that writes it.

The form of a body is checked twice: by the simulator's half of this wire, and by botocore against AWS's own service
model; here is what single models refuse, written from the vendors' pages alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

from loopforge.drivers.simulator.bedrock_requests import BadRequest, check_request

Json = dict[str, Any]

# Models by what they refuse, as the pages list them. Matched by a part of the id.
NO_TOOLS = ("titan", "deepseek.r1", "claude-v2", "mistral-7b", "llama3-8b")
NO_SYSTEM = ("titan", "mistral-7b")
NO_IMAGES = ("titan", "nova-micro", "gpt-oss", "deepseek.r1", "claude-v2", "llama3-3")
RESULTS_ALONE = ("meta.llama", "mistral", "writer.")
RESULTS_IN_JSON = ("mistral-large", "pixtral")
NO_CHOICE = ("meta.llama", "qwen", "moonshot", "gpt-oss", "writer.", "ai21", "cohere")
ANY_ALONE = ("mistral", "deepseek.v3")
STATUS = ("anthropic", "amazon.nova")
POINTS = {"anthropic": {"tools", "system", "messages"}, "amazon.nova": {"system", "messages"}}
LONG_POINTS = ("claude-sonnet-4-5", "claude-opus-4-7", "claude-opus-5-5")
NO_SAMPLING = ("claude-opus-4-7", "claude-opus-5-5")
ONE_SAMPLER = ("claude-sonnet-4-5", "claude-opus-4-1")
BUDGET_REFUSED = ("claude-opus-4-7", "claude-opus-5-5")
ADAPTIVE_REFUSED = ("claude-sonnet-4-5", "claude-opus-4-1", "claude-3-7")
NEVER_THINK = ("claude-3-5",)
CANNOT_STOP_THINKING = ("claude-opus-5-5",)
NO_FORCED_TOOLS = ("claude-opus-5-5",)
NO_PREFILL = ("claude-opus-4-7", "claude-opus-5-5")
STRICT = ("claude-sonnet-4-5", "claude-opus-4-7", "claude-opus-5-5")
FORMAT = (*STRICT, "qwen", "gpt-oss", "deepseek.v3", "moonshot", "mistral-large-3")
OWN_FIELDS = {
    "anthropic": {"thinking", "output_config"},
    "qwen": {"reasoning_config"},
    "gpt-oss": {"reasoning_effort"},
    "nova-2": {"reasoningConfig"},
}
MODELS = (
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.anthropic.claude-opus-4-7-v1:0",
    "global.anthropic.claude-opus-5-5-v1:0", "us.anthropic.claude-opus-4-1-20250805-v1:0",
    "us.anthropic.claude-3-7-sonnet-20250219-v1:0", "anthropic.claude-3-5-sonnet-20240620-v1:0", "anthropic.claude-v2",
    "us.amazon.nova-pro-v1:0", "us.amazon.nova-2-lite-v1:0", "amazon.nova-micro-v1:0", "amazon.titan-text-express-v1",
    "us.meta.llama3-3-70b-instruct-v1:0", "meta.llama3-8b-instruct-v1:0", "mistral.mistral-large-2407-v1:0",
    "mistral.mistral-large-3-675b-instruct", "mistral.mistral-7b-instruct-v0:2", "us.mistral.pixtral-large-2502-v1:0",
    "ai21.jamba-1-5-mini-v1:0", "cohere.command-r-v1:0", "us.deepseek.r1-v1:0", "deepseek.v3-v1:0",
    "qwen.qwen3-32b-v1:0", "moonshot.kimi-k2-thinking", "openai.gpt-oss-120b-1:0", "us.writer.palmyra-x5-v1:0",
    "some.new-model-v1:0",
)  # fmt: skip


def problems(body: Json, model: str) -> list[str]:
    """Every rule that the body breaks; none for a good one."""
    found: list[str] = []
    try:
        check_request(json.dumps(body).encode(), model, reject_unknown=True)
    except BadRequest as exc:
        found.append(str(exc))
    found += _of_service_model(body, model)
    return [*found, *_of_model(body, model)]


@cache
def _input_shape() -> Shape:
    service = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"), service_name="bedrock-runtime")
    shape: Shape = service.operation_model("Converse").input_shape
    return shape


def _of_service_model(body: Json, model: str) -> list[str]:
    """What botocore says of the body as parameters of its own client."""
    report = ParamValidator().validate({**sdk_parameters(body), "modelId": model}, _input_shape())
    return [report.generate_report()] if report.has_errors() else []


def sdk_parameters(body: Json) -> Json:
    """A body as the parameters of botocore's `converse`."""
    found: Json = _parameters(body, _input_shape())
    return found


def _parameters(value: Any, shape: Any) -> Any:
    """Wire JSON as botocore's parameters: they differ in that base64 is bytes there."""
    if shape.type_name == "structure" and isinstance(value, dict) and not getattr(shape, "is_document_type", False):
        return {
            name: _parameters(item, shape.members[name]) if name in shape.members else item
            for name, item in value.items()
        }
    if shape.type_name == "list" and isinstance(value, list):
        return [_parameters(item, shape.member) for item in value]
    if shape.type_name == "blob" and isinstance(value, str):
        return base64.b64decode(value)
    return value


def _of_model(body: Json, model: str) -> Iterator[str]:
    def one_of(names: Any) -> bool:
        return any(name in model for name in names)

    config, inference = body.get("toolConfig"), body.get("inferenceConfig", {})
    fields = body.get("additionalModelRequestFields", {})
    thinking = fields.get("thinking", {}).get("type")
    if config and one_of(NO_TOOLS):
        yield "this model does not support tool use"
    if body.get("system") and one_of(NO_SYSTEM):
        yield "this model does not support system messages"
    choice = (config or {}).get("toolChoice", {"auto": {}})
    if "auto" not in choice:
        if one_of(NO_CHOICE) or (one_of(ANY_ALONE) and "any" not in choice):
            yield "this model does not support this toolChoice"
        if one_of(NO_FORCED_TOOLS) or thinking == "enabled":
            yield "thinking does not go with a forced tool"
    known = next((names for part, names in OWN_FIELDS.items() if part in model), set())
    if unknown := fields.keys() - known:
        yield f"extraneous keys {sorted(unknown)}"
    if {"temperature", "topP"} & inference.keys() and one_of(NO_SAMPLING):
        yield "this model takes neither temperature nor topP"
    if {"temperature", "topP"} <= inference.keys() and one_of(ONE_SAMPLER):
        yield "this model takes temperature or topP"
    if thinking in ("enabled", "adaptive") and inference.get("temperature", 1) != 1:
        yield "temperature may only be 1 when thinking is enabled"
    if (thinking == "enabled" and one_of(BUDGET_REFUSED)) or (thinking == "adaptive" and one_of(ADAPTIVE_REFUSED)):
        yield "this model is not asked to think like that"
    if thinking in ("enabled", "adaptive") and one_of(NEVER_THINK):
        yield "this model does not think"
    if thinking == "disabled" and one_of(CANNOT_STOP_THINKING):
        yield "this model cannot stop thinking"
    if thinking == "enabled" and fields["thinking"]["budget_tokens"] >= inference.get("maxTokens", 10**9):
        yield "max_tokens must be greater than thinking.budget_tokens"
    if fields.get("reasoningConfig", {}).get("maxReasoningEffort") == "high" and inference.keys() - {"stopSequences"}:
        yield "high effort sets length and sampling itself"
    if "outputConfig" in body and not one_of(FORMAT):
        yield "this model does not support structured output"
    if body["messages"][-1]["role"] == "assistant" and (one_of(NO_PREFILL) or thinking in ("enabled", "adaptive")):
        yield "this model does not support assistant message prefill"
    for tool in (config or {}).get("tools", ()):
        if tool.get("toolSpec", {}).get("strict") and not one_of(STRICT):
            yield "this model does not enforce tools"
    yield from _of_points(body, model)
    for message in body["messages"]:
        yield from _of_message(message["content"], model)


def _of_points(body: Json, model: str) -> Iterator[str]:
    allowed = next((places for part, places in POINTS.items() if part in model and "claude-v2" not in model), set())
    places = {
        "tools": (body.get("toolConfig") or {}).get("tools", []),
        "system": body.get("system", []),
        "messages": [block for message in body["messages"] for block in message["content"]],
    }
    short = False
    for place, blocks in places.items():
        for block in blocks:
            if "cachePoint" not in block:
                continue
            if place not in allowed:
                yield f"no cache points in {place}"
            long = block["cachePoint"].get("ttl") == "1h"
            if long and (short or not any(name in model for name in LONG_POINTS)):
                yield "a cache point of an hour is not taken here"
            short = short or not long


def _of_message(content: list[Json], model: str) -> Iterator[str]:
    kinds = {next(iter(block)) for block in content}
    alone = any(name in model for name in RESULTS_ALONE)
    if "toolResult" in kinds and alone and kinds - {"toolResult"}:
        yield "a toolResult must stand alone"
    if "image" in kinds and any(name in model for name in NO_IMAGES):
        yield "this model takes no images"
    for block in content:
        result = block.get("toolResult", {"content": []})
        if "status" in result and not any(name in model for name in STATUS):
            yield "toolResult.status is not supported"
        inside = {next(iter(inner)) for inner in result["content"]}
        if any(name in model for name in RESULTS_IN_JSON) and inside & {"text", "image"}:
            yield "the results of this model are JSON"
        if ("qwen" in model or "moonshot" in model) and inside & {"image", "document"}:
            yield "no media in results of this model"
        reasoning = block.get("reasoningContent")
        if reasoning and "anthropic" not in model:
            yield "this model takes no reasoning back"

"""What the service refuses in a request, by its page and its error texts: for whatever the driver writes.

The form of a body is checked by the simulator's half of this wire (drivers/simulator/dashscope_requests.py); here is
what single models refuse or do not know, and the path they answer on, written from the vendor's pages alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from loopforge.drivers.simulator.dashscope_requests import BadRequest, check_request

Json = dict[str, Any]

ON_THE_OTHER_PATH = {
    "qwen3-vl-plus", "qwen-vl-max", "qwen-vl-ocr-latest", "qvq-max", "qwen3.5-plus", "qwen3.6-flash", "qwen3.7-plus",
    "qwen3.8-max", "qwen3.5-omni-plus", "qwen-audio-turbo", "kimi-k2.6",
}  # fmt: skip
ON_THE_TEXT_PATH = {
    "qwen-plus", "qwen-max", "qwen3-max", "qwen3.7-max", "qwen3.6-max-preview", "qwen3-8b", "qwen3-coder-plus",
    "qwq-plus", "deepseek-v4-pro", "glm-5.1", "qwen-mt-plus", "qwen-long", "some-model",
}  # fmt: skip
MODELS = sorted(ON_THE_OTHER_PATH | ON_THE_TEXT_PATH)
NEVER_THINK = {"qwen-vl-max", "qwen-vl-ocr-latest", "qwen-audio-turbo", "qwen-max", "qwen3-coder-plus", "qwen-mt-plus"}
CANNOT_STOP = {"qvq-max", "qwq-plus"}
STREAMS_ONLY = {"qvq-max", "qwq-plus", "qwen3.5-omni-plus"}
EFFORTS = {
    "qwen3.8-max": {"low", "medium", "xhigh"}, "deepseek-v4-pro": {"high", "max"}, "glm-5.1": {"high", "max"},
}  # fmt: skip
NO_TOOLS = {"qwen-vl-ocr-latest", "qwen-audio-turbo", "qwen-mt-plus", "qvq-max"}
NO_SYSTEM = {"qwen-mt-plus"}
SCHEMA = {"qwen-plus", "qwen3.7-plus", "qwen3.7-max", "qwen3.6-max-preview", "qwen3.8-max"}
HEARS = {"qwen3.5-omni-plus", "qwen-audio-turbo"}
MARKS = {"qwen3-vl-plus", "qwen3.5-plus", "qwen3.6-flash", "qwen3.7-plus", "qwen3.8-max"}


def problems(body: Json, url: str, headers: dict[str, str]) -> list[str]:
    """Every rule that the request breaks; none for a good one."""
    multimodal = "/multimodal-generation/" in url
    found: list[str] = []
    try:
        check_request(json.dumps(body).encode(), multimodal=multimodal, reject_unknown=True)
    except BadRequest as exc:
        found.append(str(exc))
    found += _of_model(body, multimodal=multimodal)
    return [*found, *_of_stream(body, headers)]


def _of_model(body: Json, *, multimodal: bool) -> Iterator[str]:
    model, messages, parameters = body["model"], body["input"]["messages"], body["parameters"]
    said = json.dumps(messages)
    if model != "some-model" and multimodal != (model in ON_THE_OTHER_PATH):
        yield "url error, please check url"
    if "enable_thinking" in parameters and model in NEVER_THINK | CANNOT_STOP:
        yield "this model's thinking cannot be switched"
    if parameters.keys() & {"thinking_budget", "reasoning_effort"} and model in NEVER_THINK:
        yield "this model does not think"
    if parameters.get("reasoning_effort", "low") not in EFFORTS.get(model, {"low"}) | {"low"}:
        yield f"reasoning_effort {parameters['reasoning_effort']!r}"
    if parameters.get("tools") and model in NO_TOOLS:
        yield "this model takes no tools"
    if messages[0]["role"] == "system" and model in NO_SYSTEM:
        yield "this model takes no system message"
    if '"audio":' in said and model not in HEARS | {"some-model"}:
        yield "this model takes no sound"
    if '"image":' in said and model == "qwen-audio-turbo":
        yield "this model takes no images"
    if '"cache_control"' in said and model not in MARKS:
        yield "this model takes no cache marks"
    response_format = parameters.get("response_format", {})
    if response_format.get("type") == "json_schema" and model not in SCHEMA:
        yield "this model takes no schema"
    if response_format and model in CANNOT_STOP:
        yield "no JSON mode in thinking mode"
    if '"reasoning_content"' in said and model != "qwen3.8-max":
        yield "earlier reasoning is ignored"


def _of_stream(body: Json, headers: dict[str, str]) -> Iterator[str]:
    streams = headers.get("x-dashscope-sse") == "enable"
    if streams != (body["parameters"].get("incremental_output") is True):
        yield "a stream of frames that repeat each other, or increments of a whole answer"
    if streams != (headers["accept"] == "text/event-stream"):
        yield "an Accept header that says something else"
    if not streams and body["model"] in STREAMS_ONLY:
        yield "this model answers in streams only"
    if "stream" in body or "stream" in body["parameters"]:
        yield "stream is no field of this wire"
    if any("authorization" in name for name in headers):
        yield "the key is not the driver's to write"

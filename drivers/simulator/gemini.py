"""generateContent, the server half: reads a request as strictly as Google does, and answers as Google would.

Wire format: https://ai.google.dev/api/generate-content, streams as server-sent events with CRLF. Pure: no socket, clock
or log. Chunks are cut from one template an answer, for benchmarks run against this. Thoughts are counted always and
shown when they are asked for; calls come whole, the first with a signature.
"""

from __future__ import annotations

import base64
import hmac
import json
import random
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import unquote

from loopforge.drivers.simulator.faults import Problem
from loopforge.drivers.simulator.gemini_requests import BadRequest, check_request
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.saying import Said, Wanted, say, templated
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import JsonObject

_JSON = ("content-type", "application/json; charset=UTF-8")
_EVENTS = ("content-type", "text/event-stream")
_METHOD = re.compile(r"/(?:models|tunedModels)/([^/:]+):(generateContent|streamGenerateContent)$")
_BYTES_PER_TOKEN = 4
_ID_BYTES = 16
_SIGNATURE_BYTES = 96
_FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "calls": "STOP", "stop_word": "STOP"}
_ERROR = "type.googleapis.com/google.rpc."

# status, name, message: what the named problem is on this wire. {model}, {limit}, {size} and {wait} are filled in.
_PROBLEMS: dict[Problem, tuple[int, str, str]] = {
    "unauthorized": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "rate_limited": (
        429, "RESOURCE_EXHAUSTED",
        (
            "You exceeded your current quota, please check your plan and billing details. For more information on this "
            "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.\nPlease retry in {wait}."
        ),
    ),
    "quota": (
        429, "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "server_error": (500, "INTERNAL", "An internal error has occurred. Please retry or report."),
    "unavailable": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "context_too_long": (
        400, "INVALID_ARGUMENT",
        "The input token count ({size}) exceeds the maximum number of tokens allowed ({limit}).",
    ),
    "model_not_found": (
        404, "NOT_FOUND",
        (
            "models/{model} is not found for API version v1beta, or is not supported for generateContent. Call "
            "ListModels to see the list of available models and their supported methods."
        ),
    ),
    "not_found": (404, "NOT_FOUND", "Requested entity was not found."),
    "too_large": (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."),
}  # fmt: skip


class GenerateContent:
    """One for all providers of the kind: a profile says what is different."""

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        if profile.api_key and not _has_key(call, profile.api_key):
            return self.problem("unauthorized", profile)
        if call.method == "GET" and call.path.endswith("/models"):
            return _models(profile)
        found = _METHOD.search(call.path)
        if call.method != "POST" or found is None:
            return self.problem("not_found", profile)
        model = unquote(found[1])
        try:
            body = check_request(call.body, model, reject_unknown=profile.reject_unknown_fields)
        except BadRequest as exc:
            return _error(400, "INVALID_ARGUMENT", str(exc))
        asked = Asked(
            model=model,
            stream=found[2] == "streamGenerateContent",
            body=body,
            prompt_tokens=len(call.body) // _BYTES_PER_TOKEN,
        )
        if profile.models and model not in profile.models and "fault-" not in model:
            return self.problem("model_not_found", profile, asked)
        if 0 < profile.context_tokens < asked.prompt_tokens:
            return self.problem("context_too_long", profile, asked)
        return asked

    def answer(self, asked: Asked, profile: Profile, rng: random.Random) -> Answer:
        said = say(_wanted(asked.body), profile, rng)
        form = _Form(asked, said, rng)
        headers = (("server", "scaffolding on HTTPServer2"), ("server-timing", "gfet4t7; dur=48"))
        if asked.stream:
            return Answer(headers=(_EVENTS, *headers), steps=form.stream(), tokens=said.tokens)
        return Answer(headers=(_JSON, *headers), body=_pretty(form.whole()), tokens=said.tokens)

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:
        status, name, message = _PROBLEMS[problem]
        size = asked.prompt_tokens if asked else 0
        filled = message.format(
            model=asked.model if asked else "the model",
            limit=profile.context_tokens or size // 2,
            size=size,
            wait=f"{profile.retry_after_s:g}s",
        )
        return _error(status, name, filled, _details(problem, profile))

    def keep_alive(self, *, stream: bool) -> bytes:
        return b"\r\n" if stream else b"\n"  # this wire has no ping; a proxy's white space

    def malformed(self) -> bytes:
        return b'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n'

    def error(self, *, stream: bool) -> bytes:
        """Without `data:` in front, over several lines, as it is seen in streams."""
        status, name, message = _PROBLEMS["server_error"]
        del stream
        return _pretty({"error": {"code": status, "message": message, "status": name}})

    def opening(self, *, stream: bool) -> bytes:
        return (b"data: " if stream else b"") + b'{"candidates": [{"content": {"parts": [{"text": "'


WIRE = GenerateContent()


# -- what is asked for ------------------------------------------------------------------------------------------------


def _wanted(body: JsonObject) -> Wanted:
    config, calling = body["generationConfig"], body["toolConfig"]
    functions = [item for tool in body["tools"] for item in tool.get("functionDeclarations", ())]
    tools = {
        item["name"]: _plain_schema(item.get("parametersJsonSchema") or item.get("parameters")) for item in functions
    }
    mode, allowed = calling.get("mode", "AUTO"), calling.get("allowed", ())
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    is_json = config.get("responseMimeType") == "application/json"
    forced = (allowed[0] if len(allowed) == 1 else "any") if mode == "ANY" else ""
    return Wanted(
        tools={name: tools[name] for name in allowed} if allowed else tools,
        may_call=mode != "NONE",
        forced=forced,
        question=_question(body["contents"][-1]),
        schema=_plain_schema(schema) if is_json else None,
        stops=tuple(config.get("stopSequences") or ()),
        budget=config.get("maxOutputTokens", float("inf")),
        thinks=_thinking(body).get("thinkingBudget") != 0,
    )


def _thinking(body: JsonObject) -> JsonObject:
    thinking: JsonObject = body["generationConfig"].get("thinkingConfig") or {}
    return thinking


def _plain_schema(schema: Any) -> Any:
    """The schema with its types in small letters, {} for none."""
    if isinstance(schema, list):
        return [_plain_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return {} if schema is None else schema
    plain = {name: _plain_schema(item) for name, item in schema.items()}
    if isinstance(kind := plain.get("type"), str):
        plain["type"] = kind.lower()
    return plain


def _question(content: JsonObject) -> str | None:
    """The text of a user content; None after function responses, which go with an answer and no further call."""
    if content["role"] == "model" or any("functionResponse" in part for part in content["parts"]):
        return None
    return "".join(part["text"] for part in content["parts"] if "text" in part)


# -- as a whole answer, as a stream, as an error ----------------------------------------------------------------------


class _Form:
    """One answer, as a whole or as a stream. Parts in order: thoughts, text or calls."""

    def __init__(self, asked: Asked, said: Said, rng: random.Random) -> None:
        self._asked = asked
        self._said = said
        self._id = base64.urlsafe_b64encode(rng.randbytes(_ID_BYTES)).rstrip(b"=").decode()
        self._signature = base64.b64encode(rng.randbytes(_SIGNATURE_BYTES)).decode()
        self._shows_thoughts = bool(said.thinking_tokens and _thinking(asked.body).get("includeThoughts"))

    def whole(self) -> JsonObject:
        parts: list[JsonObject] = []
        if self._shows_thoughts:
            parts.append({"text": "".join(self._said.thinking), "thought": True})
        if text := "".join(self._said.text):
            parts.append({"text": text})
        return self._chunk([*parts, *self._calls()], self._said.tokens, finish=True)

    def stream(self) -> Iterator[bytes]:
        """One step a token, and one a call; the finish comes with an empty text behind the last."""
        said = self._said
        counted = said.thinking_tokens + 1
        thoughts = templated(_event(self._chunk([{"text": "\0", "thought": True}], 1)), said.thinking)
        texts = templated(_event(self._chunk([{"text": "\0"}], counted)), said.text)
        calls = (_event(self._chunk([call], counted)) for call in self._calls())
        closing = _event(self._chunk([{"text": ""}], said.tokens, finish=True))
        before: bytes | None = None
        for step in chain(thoughts if self._shows_thoughts else (), texts, calls):
            if before is not None:
                yield before
            before = step
        yield (before or b"") + closing

    def _calls(self) -> list[JsonObject]:
        parts: list[JsonObject] = []
        for call in self._said.calls:
            wire = {"name": call.name, "args": json.loads("".join(call.arguments)), "id": call.id[:8]}
            parts.append({"functionCall": wire} | ({} if parts else {"thoughtSignature": self._signature}))
        return parts

    def _chunk(self, parts: list[JsonObject], tokens: int, *, finish: bool = False) -> JsonObject:
        candidate: JsonObject = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if not any(part != {"text": ""} for part in parts) and not finish:
            candidate["content"] = {"role": "model"}
        if finish:
            candidate["finishReason"] = _FINISHES[self._said.finish]
        return {
            "candidates": [candidate],
            "usageMetadata": self._usage(tokens),
            "modelVersion": self._asked.model,
            "responseId": self._id,
        }

    def _usage(self, tokens: int) -> JsonObject:
        """Counts of 0 are left out."""
        prompt, thoughts = self._asked.prompt_tokens, min(self._said.thinking_tokens, tokens)
        usage: JsonObject = {"promptTokenCount": prompt, "totalTokenCount": prompt + tokens}
        if answer := tokens - thoughts:
            usage["candidatesTokenCount"] = answer
        if thoughts:
            usage["thoughtsTokenCount"] = thoughts
        usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": prompt}]
        return usage


def _details(problem: Problem, profile: Profile) -> list[JsonObject]:
    match problem:
        case "unauthorized":
            return [{"@type": f"{_ERROR}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
        case "rate_limited":
            return [
                _violation("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
                {"@type": f"{_ERROR}RetryInfo", "retryDelay": f"{profile.retry_after_s:g}s"},
            ]
        case "quota":
            return [_violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier")]
        case "unavailable" | "overloaded":
            return [{"@type": f"{_ERROR}RetryInfo", "retryDelay": f"{profile.retry_after_s:g}s"}]
    return []


def _violation(quota: str) -> JsonObject:
    metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
    violation = {"quotaMetric": metric, "quotaId": quota, "quotaValue": "50"}
    return {"@type": f"{_ERROR}QuotaFailure", "violations": [violation]}


def _models(profile: Profile) -> Answer:
    models = [
        {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": ["generateContent"]}
        for name in profile.models
    ]
    return Answer(headers=(_JSON,), body=_pretty({"models": models}))


def _error(status: int, name: str, message: str, details: list[JsonObject] | None = None) -> Answer:
    error: JsonObject = {"code": status, "message": message, "status": name}
    if details:
        error["details"] = details
    return Answer(status=status, headers=(_JSON,), body=_pretty({"error": error}))


def _has_key(call: Call, key: str) -> bool:
    sent = call.headers.get("x-goog-api-key", "") or call.headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(sent.encode(), key.encode())


def _event(value: JsonObject) -> bytes:
    return b"data: %b\r\n\r\n" % json.dumps(value).encode()


def _pretty(value: JsonObject) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"

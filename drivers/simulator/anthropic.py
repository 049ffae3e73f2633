"""The Messages API, the server half: reads a request as strictly as Anthropic does, and answers as Anthropic would.

Wire format: https://platform.claude.com/docs/en/api/messages and its streaming page, version 2023-06-01; pings for
keep-alives. Pure: no socket, clock or log. Events are cut from one template a block, for benchmarks run against this.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

from loopforge.drivers.simulator.anthropic_requests import BadRequest, check_request
from loopforge.drivers.simulator.faults import Problem
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.saying import Said, SaidCall, Wanted, say, templated
from loopforge.drivers.simulator.used_up import (
    GLM_CODE,
    MINIMAX_CODE,
    claude_words,
    glm_words,
    is_glm,
    is_minimax,
    minimax_words,
)
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import JsonObject

_JSON = ("content-type", "application/json")
_EVENTS = ("content-type", "text/event-stream; charset=utf-8")
_BYTES_PER_TOKEN = 4
_ID_BITS = 96
_SIGNATURE_BITS = 1024
_CREATED = "2026-11-01T00:00:00Z"  # nothing in an answer depends on the clock
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "calls": "tool_use", "stop_word": "stop_sequence"}
_WAITING: tuple[Problem, ...] = ("rate_limited", "overloaded", "unavailable")

# status, type, error code, message: what the named problem is on this wire. {model}, {limit}, {size} are filled in.
_PROBLEMS: dict[Problem, tuple[int, str, str, str]] = {
    "unauthorized": (401, "authentication_error", "", "invalid x-api-key"),
    "rate_limited": (
        429, "rate_limit_error", "",
        "This request would exceed your account's rate limit. Please try again later.",
    ),
    "quota": (
        429, "rate_limit_error", "enforced_spend_limit_reached",
        "Your organization has reached its monthly API usage threshold.",
    ),
    "server_error": (500, "api_error", "", "Internal server error"),
    "unavailable": (503, "api_error", "", "Service unavailable"),
    "overloaded": (529, "overloaded_error", "", "Overloaded"),
    "context_too_long": (400, "invalid_request_error", "", "prompt is too long: {size} tokens > {limit} maximum"),
    "model_not_found": (404, "not_found_error", "", "model: {model}"),
    "not_found": (404, "not_found_error", "", "Not found"),
    "too_large": (413, "request_too_large", "", "Request exceeds the maximum size"),
}  # fmt: skip


class Messages:
    """One for all providers of the kind: a profile says what is different."""

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        if profile.api_key and not _has_key(call, profile.api_key):
            return self.problem("unauthorized", profile)
        if call.method == "GET" and call.path.endswith("/models"):
            return _models(profile)
        if call.method != "POST" or not call.path.endswith("/messages"):
            return self.problem("not_found", profile)
        if "anthropic-version" not in call.headers:
            return _error(400, "invalid_request_error", "anthropic-version: header is required")
        try:
            body = check_request(call.body, reject_unknown=profile.reject_unknown_fields)
        except BadRequest as exc:
            return _error(400, "invalid_request_error", str(exc))
        asked = Asked(
            model=body["model"],
            stream=bool(body.get("stream")),
            body=body,
            prompt_tokens=len(call.body) // _BYTES_PER_TOKEN,
        )
        if profile.models and asked.model not in profile.models and "fault-" not in asked.model:
            return self.problem("model_not_found", profile, asked)
        if 0 < profile.context_tokens < asked.prompt_tokens:
            return self.problem("context_too_long", profile, asked)
        return asked

    def answer(self, asked: Asked, profile: Profile, rng: random.Random) -> Answer:
        said = say(_wanted(asked.body), profile, rng)
        form = _Form(asked, said, f"msg_{rng.getrandbits(_ID_BITS):024x}", f"{rng.getrandbits(_SIGNATURE_BITS):x}")
        headers = (("request-id", f"req_{rng.getrandbits(_ID_BITS):024x}"),)
        if asked.stream:
            return Answer(
                headers=(_EVENTS, ("cache-control", "no-cache"), *headers), steps=form.stream(), tokens=said.tokens
            )
        return Answer(headers=(_JSON, *headers), body=_encode(form.whole()), tokens=said.tokens)

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:
        status, kind, code, message = _PROBLEMS[problem]
        size = asked.prompt_tokens if asked else 0
        filled = message.format(
            model=asked.model if asked else "the model", limit=profile.context_tokens or size // 2, size=size
        )
        headers: tuple[tuple[str, str], ...] = ()
        if problem in _WAITING:
            headers = (("retry-after", f"{profile.retry_after_s:g}"), ("x-should-retry", "true"))
        elif status < 429:
            headers = (("x-should-retry", "false"),)
        if problem == "rate_limited":
            headers = (*headers, ("anthropic-ratelimit-requests-remaining", "0"))
        return _error(status, kind, filled, code=code, headers=headers)

    def used_up(self, resets_at: float, asked: Asked) -> Answer:
        if is_minimax(asked.model):
            return _error(429, "rate_limit_error", f"{minimax_words(resets_at)} ({MINIMAX_CODE})")
        if is_glm(asked.model):
            error = {"code": GLM_CODE, "message": glm_words(resets_at)}
            return Answer(status=429, headers=(_JSON,), body=_encode({"error": error, "request_id": "req_0"}))
        return _error(400, "invalid_request_error", claude_words(resets_at), headers=(("x-should-retry", "false"),))

    def keep_alive(self, *, stream: bool) -> bytes:
        return _event({"type": "ping"}) if stream else b"\n"

    def malformed(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_de\n\n'

    def error(self, *, stream: bool) -> bytes:
        _, kind, _, message = _PROBLEMS["server_error"]
        body = {"type": "error", "error": {"type": kind, "message": message}}
        return _event(body) if stream else _encode(body)

    def opening(self, *, stream: bool) -> bytes:
        if not stream:
            return b'{"id":"'
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"'


WIRE = Messages()


def _wanted(body: JsonObject) -> Wanted:
    choice = body.get("tool_choice") or {"type": "auto"}
    tools = {tool["name"]: tool["input_schema"] for tool in body.get("tools") or () if "input_schema" in tool}
    asked_format = (body.get("output_config") or {}).get("format") or body.get("output_format")
    return Wanted(
        tools=tools,
        may_call=choice["type"] != "none",
        forced=choice.get("name", "any") if choice["type"] in ("any", "tool") else "",
        question=_question(body["messages"][-1]),
        schema=asked_format["schema"] if asked_format else None,
        stops=tuple(body.get("stop_sequences") or ()),
        budget=body["max_tokens"],
        thinks=(body.get("thinking") or {}).get("type") != "disabled",
    )


def _question(message: JsonObject) -> str | None:
    """The text of a user message; None after tool results, which go with an answer and no further call."""
    content = message["content"]
    if message["role"] != "user":
        return None
    if isinstance(content, str):
        return content
    if any(block["type"] == "tool_result" for block in content):
        return None
    return "".join(block["text"] for block in content if block["type"] == "text")


class _Form:
    """One answer, as a whole or as a stream. Blocks in order: thinking, text or calls."""

    def __init__(self, asked: Asked, said: Said, message_id: str, signature: str) -> None:
        self._asked = asked
        self._said = said
        self._id = message_id
        self._signature = signature

    def whole(self) -> JsonObject:
        said = self._said
        content: list[JsonObject] = []
        if said.thinking_tokens:
            thinking = "".join(said.thinking)
            content.append({"type": "thinking", "thinking": thinking, "signature": self._signature})
        if text := "".join(said.text):
            content.append({"type": "text", "text": text})
        content += [{**_call_start(call), "input": json.loads("".join(call.arguments))} for call in said.calls]
        return self._message(content, self._usage(said.tokens), **self._end())

    def stream(self) -> Iterator[bytes]:
        """One step a token: what opens goes with the first, what closes with the last."""
        opening = _event({"type": "message_start", "message": self._message([], self._usage(1))})
        opening += _event({"type": "ping"})
        closing = _event({"type": "message_delta", "delta": self._end(), "usage": self._usage(self._said.tokens)})
        closing += _event({"type": "message_stop"})
        steps = chain.from_iterable(self._blocks())
        before = next(steps, None)
        if before is None:
            yield opening + closing
            return
        before = opening + before
        for step in steps:
            yield before
            before = step
        yield before + closing

    def _blocks(self) -> Iterator[Iterator[bytes]]:
        said, index = self._said, 0
        if said.thinking_tokens:
            start = {"type": "thinking", "thinking": "", "signature": ""}
            delta = {"type": "thinking_delta", "thinking": "\0"}
            signature = _delta(index, {"type": "signature_delta", "signature": self._signature})
            yield _block(index, start, b"", templated(_delta(index, delta), said.thinking), signature)
            index += 1
        if said.text_tokens:
            tokens = templated(_delta(index, {"type": "text_delta", "text": "\0"}), said.text)
            yield _block(index, {"type": "text", "text": ""}, b"", tokens, b"")
            index += 1
        for call in said.calls:
            nothing = _delta(index, {"type": "input_json_delta", "partial_json": ""})
            pieces = templated(_delta(index, {"type": "input_json_delta", "partial_json": "\0"}), call.arguments)
            yield _block(index, {**_call_start(call), "input": {}}, nothing, pieces, b"")
            index += 1

    def _message(self, content: list[JsonObject], usage: JsonObject, **end: Any) -> JsonObject:
        message = {"id": self._id, "type": "message", "role": "assistant", "model": self._asked.model}
        return {**message, "content": content, "stop_reason": None, "stop_sequence": None, **end, "usage": usage}

    def _end(self) -> JsonObject:
        return {"stop_reason": _STOP_REASONS[self._said.finish], "stop_sequence": self._said.stop_word or None}

    def _usage(self, output: int) -> JsonObject:
        usage: JsonObject = {
            "input_tokens": self._asked.prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output,
        }
        if self._said.thinking_tokens and output > 1:
            usage["output_tokens_details"] = {"thinking_tokens": self._said.thinking_tokens}
        return usage


def _call_start(call: SaidCall) -> JsonObject:
    return {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name}


def _block(index: int, start: JsonObject, head: bytes, steps: Iterator[bytes], tail: bytes) -> Iterator[bytes]:
    """The steps of one block: its start, and `head`, with the first of them, `tail` and its stop with the last."""
    before = _event({"type": "content_block_start", "index": index, "content_block": start}) + head
    before += next(steps, b"")
    for step in steps:
        yield before
        before = step
    yield before + tail + _event({"type": "content_block_stop", "index": index})


def _delta(index: int, delta: JsonObject) -> bytes:
    return _event({"type": "content_block_delta", "index": index, "delta": delta})


def _models(profile: Profile) -> Answer:
    data = [{"type": "model", "id": name, "display_name": name, "created_at": _CREATED} for name in profile.models]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return Answer(headers=(_JSON,), body=_encode({"data": data, "has_more": False, "first_id": first, "last_id": last}))


def _error(
    status: int, kind: str, message: str, *, code: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Answer:
    error: JsonObject = {"type": kind, "message": message}
    if code:
        error["details"] = {"error_code": code}
    body = _encode({"type": "error", "error": error, "request_id": "req_simulated"})
    return Answer(status=status, headers=(_JSON, *headers), body=body)


def _has_key(call: Call, key: str) -> bool:
    sent = call.headers.get("x-api-key", "") or call.headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(sent.encode(), key.encode())


def _event(value: JsonObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), _encode(value))


def _encode(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

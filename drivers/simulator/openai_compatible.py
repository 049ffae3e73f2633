"""Chat Completions, the server half: reads a request as strictly as OpenAI does, and answers as OpenAI would.

Wire format: https://platform.openai.com/docs/api-reference/chat and its streaming page; DeepSeek's `reasoning_content`
for thinking; OpenRouter's comment for keep-alives. Pure: no socket, clock or log. Chunks are cut from one template an
answer, for benchmarks run against this.

What the model does: it says words. It makes the calls of its script, or the one that the last user message asks for
with `call NAME {json}`, or one that tool_choice forces; with JSON asked for, it says JSON that fits.
"""

from __future__ import annotations

import hmac
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from loopforge.drivers.simulator.faults import Problem
from loopforge.drivers.simulator.openai_requests import BadRequest, check_request
from loopforge.drivers.simulator.profile import Profile, ScriptedCall
from loopforge.drivers.simulator.used_up import (
    GLM_CODE,
    MINIMAX_CODE,
    glm_words,
    is_glm,
    is_minimax,
    minimax_words,
)
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.simulator.wording import example_of, pieces, speak
from loopforge.drivers.turn import JsonObject

_JSON = ("content-type", "application/json")
_EVENTS = ("content-type", "text/event-stream; charset=utf-8")
_CREATED = 1_790_000_000  # nothing in an answer depends on the clock
_BYTES_PER_TOKEN = 4
_ID_BITS = 96
_CALL_COMMAND = re.compile(r"\bcall ([A-Za-z0-9_-]+) (\{.*\})", re.DOTALL)
_NO_THINKING = ("none", "off", "disabled")
_quoted = json.JSONEncoder().encode  # what json.dumps ends in, after 1 µs of looking at its options
_DONE = b"data: [DONE]\n\n"

# status, type, code, message: what the named problem is on this wire. {model}, {limit} and {size} are filled in.
_PROBLEMS: dict[Problem, tuple[int, str, str | None, str]] = {
    "unauthorized": (
        401, "invalid_request_error", "invalid_api_key",
        "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
    ),
    "rate_limited": (
        429, "requests", "rate_limit_exceeded",
        "Rate limit reached for {model} on requests per min (RPM). Please try again in {wait}.",
    ),
    "quota": (
        429, "insufficient_quota", "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "server_error": (
        500, "server_error", None,
        "The server had an error while processing your request. Sorry about that!",
    ),
    "unavailable": (
        503, "server_error", "server_is_overloaded", "The engine is currently overloaded, please try again later.",
    ),
    "overloaded": (529, "overloaded_error", None, "Overloaded"),
    "context_too_long": (
        400, "invalid_request_error", "context_length_exceeded",
        (
            "This model's maximum context length is {limit} tokens. However, your messages resulted in {size} tokens. "
            "Please reduce the length of the messages."
        ),
    ),
    "model_not_found": (
        404, "invalid_request_error", "model_not_found",
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    "not_found": (404, "invalid_request_error", "unknown_url", "Unknown request URL. Please check the URL for typos."),
    "too_large": (413, "invalid_request_error", None, "Maximum content size limit exceeded."),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Said:
    """What the model says to one request, in tokens, with the budget and the stop words already applied."""

    thinking: Iterable[str]
    text: Iterable[str]
    calls: tuple[tuple[str, str, list[str]], ...]  # (id, name, argument text in pieces)
    finish: str
    thinking_tokens: int
    text_tokens: int

    @property
    def tokens(self) -> int:
        return self.thinking_tokens + self.text_tokens + sum(len(arguments) for _, _, arguments in self.calls)


class OpenAiCompatible:
    """One for all providers of the kind: a profile says what is different."""

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        if profile.api_key and not _has_key(call, profile.api_key):
            return self.problem("unauthorized", profile)
        if call.method == "GET" and profile.slots and call.path in _SLOTS:
            return Answer(headers=(_JSON,), body=_encode(_SLOTS[call.path](profile)))
        if call.method == "GET" and call.path.endswith("/models"):
            return _models(profile)
        if call.method != "POST" or not call.path.endswith("/chat/completions"):
            return self.problem("not_found", profile)
        try:
            body = check_request(call.body, reject_unknown=profile.reject_unknown_fields)
        except BadRequest as exc:
            return _error(400, exc.message, "invalid_request_error", exc.code, param=exc.param)
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
        said = _say(asked.body, profile, rng)
        answer_id = f"chatcmpl-{rng.getrandbits(_ID_BITS):024x}"
        headers = (("x-request-id", f"req_{rng.getrandbits(_ID_BITS):024x}"), ("openai-version", "2020-10-01"))
        if asked.stream:
            steps = _stream(asked, said, answer_id)
            return Answer(headers=(_EVENTS, ("cache-control", "no-cache"), *headers), steps=steps, tokens=said.tokens)
        return Answer(headers=(_JSON, *headers), body=_whole(asked, said, answer_id), tokens=said.tokens)

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:
        status, kind, code, message = _PROBLEMS[problem]
        size = asked.prompt_tokens if asked else 0
        filled = message.format(
            model=asked.model if asked else "the model",
            limit=profile.context_tokens or size // 2,
            size=size,
            wait=f"{profile.retry_after_s:g}s",
        )
        extra: tuple[tuple[str, str], ...] = ()
        if problem in ("rate_limited", "overloaded", "unavailable"):
            extra = (("retry-after", f"{profile.retry_after_s:g}"),)
        if problem == "rate_limited":
            reset = ("x-ratelimit-reset-requests", f"{profile.retry_after_s:g}s")
            extra = (*extra, ("x-ratelimit-remaining-requests", "0"), reset)
        return _error(status, filled, kind, code, headers=extra)

    def used_up(self, resets_at: float, asked: Asked) -> Answer | None:
        """OpenAI tells no time; two vendors of this kind that sell plans do."""
        if is_minimax(asked.model):
            error = {"type": "rate_limit_error", "message": f"{minimax_words(resets_at)} ({MINIMAX_CODE})"}
            return Answer(status=429, headers=(_JSON,), body=_encode({"type": "error", "error": error}))
        if is_glm(asked.model):
            error = {"code": GLM_CODE, "message": glm_words(resets_at)}
            return Answer(status=429, headers=(_JSON,), body=_encode({"error": error}))
        return None

    def keep_alive(self, *, stream: bool) -> bytes:
        return b": OPENROUTER PROCESSING\n\n" if stream else b"\n"

    def malformed(self) -> bytes:
        return b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"con\n\n'

    def error(self, *, stream: bool) -> bytes:
        status, kind, code, message = _PROBLEMS["server_error"]
        body = _error(status, message, kind, code).body
        return b"data: " + body + b"\n\n" if stream else body

    def opening(self, *, stream: bool) -> bytes:
        return b'data: {"id":"chatcmpl-0","choices":[{"index":0,"delta":{"content":"' if stream else b'{"id":"'


WIRE = OpenAiCompatible()


# -- what the model says ----------------------------------------------------------------------------------------------


def _say(body: JsonObject, profile: Profile, rng: random.Random) -> _Said:
    budget = body.get("max_completion_tokens") or body.get("max_tokens") or float("inf")
    thinking_tokens = int(min(0 if _thinking_is_off(body) else profile.thinking_tokens, budget))
    thinking = speak(rng, thinking_tokens)
    budget -= thinking_tokens
    calls = tuple(
        (f"call_{rng.getrandbits(_ID_BITS):024x}", call.name, pieces(json.dumps(call.arguments)))
        for call in _calls(body, profile)
    )
    if calls:
        return _Said(thinking, (), calls, "tool_calls", thinking_tokens, 0)
    text, wanted = _text(body, profile, rng)
    count = int(min(wanted, budget))
    finish = "length" if count < wanted else "stop"
    said: Iterable[str] = _first(text, count)
    if stops := _stop_words(body):
        # Only the whole text shows where to cut. Without stop words a long answer is never held in memory.
        said = list(said)
        whole = "".join(said)
        if (kept := _until(whole, stops)) != whole:
            said = pieces(kept)
            count, finish = len(said), "stop"
    return _Said(thinking, said, (), finish, thinking_tokens, count)


def _text(body: JsonObject, profile: Profile, rng: random.Random) -> tuple[Iterator[str], int]:
    """The answer in tokens, and how many they are."""
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            said = pieces(json.dumps(example_of(schema)))
            return iter(said), len(said)
        case {"type": "json_object"}:
            said = pieces(json.dumps({"answer": "".join(speak(rng, min(profile.answer_tokens, 100))).strip()}))
            return iter(said), len(said)
    return speak(rng, profile.answer_tokens, profile.token_bytes), profile.answer_tokens


def _calls(body: JsonObject, profile: Profile) -> tuple[ScriptedCall, ...]:
    """Which calls the model makes: what the user asks for in so many words, else the script, else what is forced."""
    functions = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    offered = {function["name"]: function.get("parameters") for function in functions}
    choice = body.get("tool_choice")
    last = body["messages"][-1]
    if not offered or choice == "none" or last["role"] != "user":
        return ()
    scripted = tuple(call for call in profile.tool_calls if call.name in offered)
    forced = choice["function"]["name"] if isinstance(choice, dict) else ""
    if forced:
        fitting = tuple(call for call in scripted if call.name == forced)
        return fitting or (ScriptedCall(name=forced, arguments=_object(example_of(offered[forced]))),)
    if (asked := _CALL_COMMAND.search(_plain(last["content"]))) and asked[1] in offered:
        arguments = _json_start(asked[2])
        if arguments is not None:
            return (ScriptedCall(name=asked[1], arguments=arguments),)
    if choice == "required" and not scripted:
        name, schema = next(iter(offered.items()))
        return (ScriptedCall(name=name, arguments=_object(example_of(schema))),)
    return scripted


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _json_start(text: str) -> JsonObject | None:
    """The JSON object that `text` begins with; what follows it is the user's prose."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    return _object(value)


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _thinking_is_off(body: JsonObject) -> bool:
    thinking = body.get("thinking")
    return (
        body.get("reasoning_effort") in _NO_THINKING
        or body.get("enable_thinking") is False
        or (isinstance(thinking, dict) and thinking.get("type") in _NO_THINKING)
    )


def _stop_words(body: JsonObject) -> list[str]:
    stop = body.get("stop") or []
    return [word for word in ([stop] if isinstance(stop, str) else stop) if word]


def _until(text: str, stops: list[str]) -> str:
    return text[: min((place for word in stops if (place := text.find(word)) >= 0), default=len(text))]


def _first(tokens: Iterator[str], count: int) -> Iterator[str]:
    for _, token in zip(range(count), tokens, strict=False):
        yield token


# -- as a whole answer, as a stream, as an error ----------------------------------------------------------------------


def _whole(asked: Asked, said: _Said, answer_id: str) -> bytes:
    message: JsonObject = {"role": "assistant", "content": "".join(said.text) if not said.calls else None}
    if said.thinking_tokens:
        message["reasoning_content"] = "".join(said.thinking)
    if said.calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
            for call_id, name, arguments in said.calls
        ]
    choice = {"index": 0, "message": message | {"refusal": None}, "logprobs": None, "finish_reason": said.finish}
    return _encode(
        {
            "id": answer_id,
            "object": "chat.completion",
            "created": _CREATED,
            "model": asked.model,
            "choices": [choice],
            "usage": _usage(asked, said),
        }
    )


def _stream(asked: Asked, said: _Said, answer_id: str) -> Iterator[bytes]:
    """One step a token: the role goes with the first, finish, usage and [DONE] with the last."""
    base = {"id": answer_id, "object": "chat.completion.chunk", "created": _CREATED, "model": asked.model}
    with_usage = bool((asked.body.get("stream_options") or {}).get("include_usage"))

    def chunk(delta: JsonObject, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(base | {"choices": [choice]} | ({"usage": None} if with_usage else {}))

    opening = chunk({"role": "assistant", "content": None if said.calls else "", "refusal": None})
    closing = chunk({}, said.finish)
    if with_usage:
        closing += _event(base | {"choices": [], "usage": _usage(asked, said)})
    closing += _DONE
    steps = chain(
        _templated(chunk({"reasoning_content": "\0"}), said.thinking),
        _templated(chunk({"content": "\0"}), said.text),
        *(_call_steps(chunk, number, call) for number, call in enumerate(said.calls)),
    )
    before = next(steps, None)
    if before is None:
        yield opening + closing
        return
    before = opening + before
    for step in steps:
        yield before
        before = step
    yield before + closing


def _call_steps(chunk: Any, number: int, call: tuple[str, str, list[str]]) -> Iterator[bytes]:
    call_id, name, arguments = call
    start = {"index": number, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
    template = chunk({"tool_calls": [{"index": number, "function": {"arguments": "\0"}}]})
    steps = _templated(template, arguments)
    yield chunk({"tool_calls": [start]}) + next(steps)
    yield from steps


def _templated(template: bytes, tokens: Iterable[str]) -> Iterator[bytes]:
    """The event with each token in the place of its NUL: encoding a chunk costs 4 µs, filling one in 0.25."""
    head, _, tail = template.rpartition(rb"\u0000")
    for token in tokens:
        yield head + _quoted(token)[1:-1].encode() + tail


def _usage(asked: Asked, said: _Said) -> JsonObject:
    return {
        "prompt_tokens": asked.prompt_tokens,
        "completion_tokens": said.tokens,
        "total_tokens": asked.prompt_tokens + said.tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": said.thinking_tokens},
    }


def _llamacpp_props(profile: Profile) -> JsonObject:
    return {"total_slots": profile.slots, "model_path": "simulated.gguf", "chat_template": "", "is_sleeping": False}


def _lmstudio_models(profile: Profile) -> JsonObject:
    loaded = [{"id": "simulated", "config": {"context_length": 8192, "parallel": profile.slots}}]
    chat = {"type": "llm", "key": "simulated", "loaded_instances": loaded}
    return {"models": [chat, {"type": "embedding", "key": "not-loaded", "loaded_instances": []}]}


# what local servers say of themselves beside this wire: the vendors and the sources are those of drivers/slots.py
_SLOTS = {"/props": _llamacpp_props, "/api/v1/models": _lmstudio_models}


def _models(profile: Profile) -> Answer:
    data = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "simulator"} for name in profile.models]
    return Answer(headers=(_JSON,), body=_encode({"object": "list", "data": data}))


def _error(
    status: int,
    message: str,
    kind: str,
    code: str | None,
    *,
    param: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    body = _encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
    return Answer(status=status, headers=(_JSON, *headers), body=body)


def _has_key(call: Call, key: str) -> bool:
    sent = call.headers.get("authorization", "").removeprefix("Bearer ") or call.headers.get("api-key", "")
    return hmac.compare_digest(sent.encode(), key.encode())


def _event(value: JsonObject) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _encode(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

"""Zhipu's chat completions, the server half: reads a request as strictly as the platform's pages, answers as it would.

Wire format: https://docs.z.ai/api-reference/llm/chat-completion and recorded traffic: line feeds in front of the text,
usage beside the finish reason, calls whole unless tool_stream asks for pieces. Pure: no socket or log; the clock, which
tokens are held against, is given to it. Chunks are cut from one template an answer, for benchmarks run against this.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from loopforge.drivers.simulator.faults import Problem
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.saying import Said, SaidCall, Wanted, say, templated
from loopforge.drivers.simulator.used_up import GLM_CODE, glm_words
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.simulator.zhipu_requests import BadRequest, check_request, check_token
from loopforge.drivers.turn import JsonObject

_JSON = ("content-type", "application/json; charset=UTF-8")
_EVENTS = ("content-type", "text/event-stream;charset=UTF-8")
_CREATED = 1_790_000_000  # nothing in an answer depends on the clock
_BYTES_PER_TOKEN = 4
_ID_BITS = 64
_FINISHES = {"stop": "stop", "length": "length", "calls": "tool_calls", "stop_word": "stop"}
_NO_THINKING = ("none", "minimal")
_DONE = b"data: [DONE]\n\n"

_KEY_PROBLEMS = {
    "1000": "Authentication Failed",
    "1001": "Authentication parameter not received in Header, unable to authenticate",
    "1002": "Invalid Authentication Token, please confirm the correct transmission of the Authentication Token",
    "1003": "Authentication Token expired, please regenerate/obtain",
}
# status, code, message: what the named problem is on this wire. {model} is filled in.
_PROBLEMS: dict[Problem, tuple[int, str, str]] = {
    "unauthorized": (401, "1000", _KEY_PROBLEMS["1000"]),
    "rate_limited": (
        429, "1302",
        "High concurrency usage of this API, please reduce concurrency or contact customer service to increase limits",
    ),
    "quota": (429, "1113", "Insufficient balance or no resource package. Please recharge."),
    "server_error": (500, "500", "Internal Error"),
    "unavailable": (503, "1312", "This model is currently experiencing high traffic, please try again later"),
    "overloaded": (
        429, "1312",
        "The model {model} is currently experiencing high traffic, please try again later or switch to another model",
    ),
    "context_too_long": (400, "1261", "Prompt exceeds max length"),
    "model_not_found": (400, "1211", "Unknown Model, please check the model code."),
    "too_large": (435, "1210", "The file size exceeds the limit."),
}  # fmt: skip


class ZhipuNative:
    """One for all providers of the kind: a profile says what is different. `wall`: unix seconds."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        if profile.api_key and (code := self._key_problem(call, profile.api_key)):
            return _error(401, code, _KEY_PROBLEMS[code])
        if call.method == "GET" and call.path.endswith("/models"):
            listed = [{"id": name, "object": "model", "owned_by": "z-ai"} for name in profile.models]
            return Answer(headers=(_JSON,), body=_encode({"object": "list", "data": listed}))
        if call.method != "POST" or not call.path.endswith("/chat/completions"):
            return self.problem("not_found", profile)
        try:
            body = check_request(call.body, reject_unknown=profile.reject_unknown_fields)
        except BadRequest as exc:
            return _error(400, exc.code, str(exc))
        asked = Asked(
            model=body["model"],
            stream=body.get("stream", False),
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
        form = _Form(asked, said, f"20261122110000{rng.getrandbits(_ID_BITS):016x}")
        log_id = ("x-log-id", form.id)
        if asked.stream:
            return Answer(headers=(_EVENTS, log_id), steps=form.stream(), tokens=said.tokens)
        return Answer(headers=(_JSON, log_id), body=_encode(form.whole()), tokens=said.tokens)

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:
        if problem == "not_found":  # the web server's own, not the platform's
            body = {"timestamp": "2026-09-21T13:33:20.000+00:00", "status": 404, "error": "Not Found", "path": "/v4"}
            return Answer(status=404, headers=(_JSON,), body=_encode(body))
        status, code, message = _PROBLEMS[problem]
        waits = problem in ("rate_limited", "overloaded", "unavailable")
        extra = (("retry-after", f"{profile.retry_after_s:g}"),) if waits else ()
        return _error(status, code, message.format(model=asked.model if asked else "asked for"), extra)

    def used_up(self, resets_at: float, asked: Asked) -> Answer:
        del asked  # one vendor, all its models
        return _error(429, GLM_CODE, glm_words(resets_at))

    def keep_alive(self, *, stream: bool) -> bytes:
        return b": keep-alive\n\n" if stream else b"\n"

    def malformed(self) -> bytes:
        return b'data: {"id":"20261122110000","choices":[{"index":0,"delta":{"role":"assistant","con\n\n'

    def error(self, *, stream: bool) -> bytes:
        body = _error(500, "1234", "Network error, error id: 20261122110000, please contact customer service").body
        return b"data: " + body + b"\n\n" if stream else body

    def opening(self, *, stream: bool) -> bytes:
        return (b"data: " if stream else b"") + b'{"id":"20261122110000","choices":[{"index":0,"delta":{"content":"'

    def _key_problem(self, call: Call, key: str) -> str:
        scheme, _, token = call.headers.get("authorization", "").rpartition(" ")
        if not token or scheme not in ("", "Bearer"):
            return "1001"
        return check_token(token, key, self._wall() * 1000)


WIRE = ZhipuNative()


# -- what is asked for ------------------------------------------------------------------------------------------------


def _wanted(body: JsonObject) -> Wanted:
    functions = [tool["function"] for tool in body.get("tools", ()) if tool["type"] == "function"]
    choice = body.get("tool_choice")
    return Wanted(
        tools={function["name"]: function["parameters"] for function in functions},
        forced=choice["function"]["name"] if isinstance(choice, dict) else "",
        question=_question(body["messages"][-1]),
        schema=_schema(body["messages"]) if body.get("response_format") == {"type": "json_object"} else None,
        stops=tuple(body.get("stop", ())),
        budget=body.get("max_tokens", float("inf")),
        thinks=body.get("thinking", {}).get("type") != "disabled" and body.get("reasoning_effort") not in _NO_THINKING,
    )


def _question(message: JsonObject) -> str | None:
    if message["role"] != "user":
        return None
    return _plain(message["content"])


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or () if part["type"] == "text")


def _schema(messages: list[JsonObject]) -> JsonObject:
    """The JSON Schema that the system message ends in, as models of this wire are told one; {} for any object."""
    text = _plain(messages[0]["content"]) if messages[0]["role"] == "system" else ""
    _, found, schema = text.rpartition("JSON Schema: ")
    try:
        value = json.loads(schema) if found else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# -- as a whole answer, as a stream, as an error ----------------------------------------------------------------------


class _Form:
    """One answer, as a whole or as a stream: reasoning, then text behind a line feed, or calls."""

    def __init__(self, asked: Asked, said: Said, answer_id: str) -> None:
        self.id = answer_id
        self._asked = asked
        self._said = said

    def whole(self) -> JsonObject:
        text = "".join(self._said.text)
        message: JsonObject = {"role": "assistant", "content": f"\n{text}" if text else ""}
        if self._said.thinking_tokens:
            message["reasoning_content"] = "".join(self._said.thinking)
        if self._said.calls:
            message["tool_calls"] = [self._call(number, call) for number, call in enumerate(self._said.calls)]
        choice = {"index": 0, "finish_reason": _FINISHES[self._said.finish], "message": message}
        return {**self._base(), "request_id": self.id, "choices": [choice], "usage": self._usage()}

    def stream(self) -> Iterator[bytes]:
        """One step a token, and one a call unless its pieces were asked for; the end comes with the last."""
        said = self._said
        in_pieces = bool(self._asked.body.get("tool_stream"))
        steps = chain(
            templated(self._delta(reasoning_content="\0"), said.thinking),
            templated(self._delta(content="\0"), said.text),
            *(self._call_steps(number, call, in_pieces=in_pieces) for number, call in enumerate(said.calls)),
        )
        choice = {"index": 0, "finish_reason": _FINISHES[said.finish], "delta": {"role": "assistant", "content": ""}}
        closing = _event({**self._base(), "choices": [choice], "usage": self._usage()}) + _DONE
        before, text_at = b"", said.thinking_tokens
        for number, step in enumerate(steps):
            if number:
                yield before
            before = self._delta(content="\n") + step if number == text_at and not said.calls else step
        yield before + closing

    def _call_steps(self, number: int, call: SaidCall, *, in_pieces: bool) -> Iterator[bytes]:
        if not in_pieces:
            yield self._delta(tool_calls=[self._call(number, call)])
            return
        opening = self._delta(tool_calls=[self._call(number, SaidCall(call.id, call.name, []))])
        template = self._delta(tool_calls=[{"index": number, "function": {"arguments": "\0"}}])
        for step in templated(template, call.arguments):
            yield opening + step
            opening = b""

    @staticmethod
    def _call(number: int, call: SaidCall) -> JsonObject:
        function = {"name": call.name, "arguments": "".join(call.arguments)}
        return {"id": f"call_{call.id}", "index": number, "type": "function", "function": function}

    def _delta(self, **members: Any) -> bytes:
        return _event({**self._base(), "choices": [{"index": 0, "delta": {"role": "assistant", **members}}]})

    def _base(self) -> JsonObject:
        return {"id": self.id, "created": _CREATED, "model": self._asked.model}

    def _usage(self) -> JsonObject:
        prompt, answer = self._asked.prompt_tokens, self._said.tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self._said.thinking_tokens},
        }


def _error(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status=status, headers=(_JSON, *headers), body=_encode({"error": {"code": code, "message": message}}))


def _event(value: JsonObject) -> bytes:
    return b"data: %b\n\n" % _encode(value)


def _encode(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

"""MiniMax's own wire, the server half: reads a request as its API does, and answers as it would.

Wire format: https://platform.minimax.io/docs/api-reference/text-post, errors: .../errorcode. Most errors come with
status 200 in base_resp, some with their own status, as it has been seen. Thinking comes in fields of its own when
`reasoning_split` asks for it, else in tags. A stream ends as models end theirs: M3, and any with tools, tell the whole
answer once more; abab models send the usage with an empty delta, all others without a choice; none says [DONE].
Pure: no socket, clock or log. Frames are cut from one template an answer, for benchmarks run against this.
"""

from __future__ import annotations

import hmac
import json
import random
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from loopforge.drivers.simulator.faults import Problem
from loopforge.drivers.simulator.minimax_requests import BadRequest, check_request
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.saying import Said, SaidCall, Wanted, say, templated
from loopforge.drivers.simulator.used_up import MINIMAX_CODE, minimax_words
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import JsonObject

_JSON = ("content-type", "application/json; charset=utf-8")
_EVENTS = ("content-type", "text/event-stream")
_PATHS = ("/text/chatcompletion_v2", "/chat/completions")
_CREATED = 1_790_000_000  # nothing in an answer depends on the clock
_BYTES_PER_TOKEN = 4
_ID_BITS = 128
_GOOD = {"status_code": 0, "status_msg": ""}
_ZEROS = {"total_tokens": 0, "total_characters": 0}
_FLAGS = {
    "input_sensitive": False,
    "output_sensitive": False,
    "input_sensitive_type": 0,
    "output_sensitive_type": 0,
    "output_sensitive_int": 0,
}
_FINISHES = {"stop": "stop", "length": "length", "calls": "tool_calls", "stop_word": "stop"}
_TELLS_TWICE = re.compile(r"minimax-m[3-9]", re.IGNORECASE)

# status, code, type, message: what the named problem is on this wire; those without a type come in base_resp.
_PROBLEMS: dict[Problem, tuple[int, int, str, str]] = {
    "unauthorized": (
        200, 1004, "", "login fail: Please carry the API secret key in the 'Authorization' field of the request header",
    ),
    "rate_limited": (200, 1002, "", "rate limit"),
    "quota": (429, 1008, "insufficient_balance_error", "insufficient balance"),
    "server_error": (500, 1000, "api_error", "unknown error"),
    "unavailable": (503, 0, "overloaded_error", "The server cluster is currently under high load. Please retry later"),
    "overloaded": (529, 0, "overloaded_error", "The server cluster is currently under high load. Please retry later"),
    "context_too_long": (400, 2013, "bad_request_error", "invalid params, context window exceeds limit"),
    "model_not_found": (200, 2013, "", "invalid params, unknown model '{model}'"),
    "not_found": (404, 0, "not_found_error", "404 page not found"),
    "too_large": (413, 0, "bad_request_error", "request entity too large"),
}  # fmt: skip


class ChatCompletionV2:
    """One for all providers of the kind: a profile says what is different."""

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        if profile.api_key and not _has_key(call, profile.api_key):
            return self.problem("unauthorized", profile)
        if call.method == "GET" and call.path.endswith("/models"):
            return _models(profile)
        if call.method != "POST" or not call.path.endswith(_PATHS):
            return self.problem("not_found", profile)
        try:
            body = check_request(call.body, reject_unknown=profile.reject_unknown_fields)
        except BadRequest as exc:
            return _error(200, 2013, "", f"invalid params, {exc}")
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
        answer_id = f"{rng.getrandbits(_ID_BITS):032x}"
        form = _Form(asked, said, answer_id)
        headers = (("trace-id", answer_id), ("minimax-request-id", answer_id))
        if asked.stream:
            return Answer(headers=(_EVENTS, *headers), steps=form.stream(), tokens=said.tokens)
        return Answer(headers=(_JSON, *headers), body=_encode(form.whole()), tokens=said.tokens)

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:
        del profile  # this vendor says neither its limits nor when to come back, but for a plan's
        status, code, kind, message = _PROBLEMS[problem]
        return _error(status, code, kind, message.format(model=asked.model if asked else "the model"))

    def used_up(self, resets_at: float, asked: Asked) -> Answer:
        del asked  # one vendor, all its models
        return _error(429, MINIMAX_CODE, "rate_limit_error", minimax_words(resets_at))

    def keep_alive(self, *, stream: bool) -> bytes:
        return b": keep-alive\n\n" if stream else b"\n"  # this wire has no ping of its own; a proxy's comment

    def malformed(self) -> bytes:
        return b'data: {"id":"0","choices":[{"index":0,"delta":{"con\n\n'

    def error(self, *, stream: bool) -> bytes:
        body = _error(200, 1033, "", "system error").body
        return b"data: " + body + b"\n\n" if stream else body

    def opening(self, *, stream: bool) -> bytes:
        return b'data: {"id":"0","choices":[{"index":0,"delta":{"content":"' if stream else b'{"id":"'


WIRE = ChatCompletionV2()


# -- what is asked for ------------------------------------------------------------------------------------------------


def _wanted(body: JsonObject) -> Wanted:
    functions = [tool["function"] for tool in body.get("tools") or () if tool["type"] == "function"]
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    return Wanted(
        tools={function["name"]: _schema(function["parameters"]) for function in functions},
        may_call=body.get("tool_choice") != "none",
        question=_question(body["messages"][-1]),
        schema=schema,
        budget=body.get("max_completion_tokens") or body.get("max_tokens") or float("inf"),
        thinks=(body.get("thinking") or {}).get("type") != "disabled",
    )


def _schema(parameters: Any) -> Any:
    return json.loads(parameters) if isinstance(parameters, str) else parameters


def _question(message: JsonObject) -> str | None:
    """The text of a user message; None for a tool's."""
    if message["role"] != "user":
        return None
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


# -- as a whole answer, as a stream, as an error ----------------------------------------------------------------------


class _Form:
    """One answer, as a whole or as a stream."""

    def __init__(self, asked: Asked, said: Said, answer_id: str) -> None:
        self._asked = asked
        self._said = said
        self._id = answer_id
        self._splits = bool(asked.body.get("reasoning_split"))

    def whole(self) -> JsonObject:
        return self._summary("".join(self._said.thinking), "".join(self._said.text))

    def stream(self) -> Iterator[bytes]:
        """One step a token; the finish reason comes with an empty delta behind the last, then the usage."""
        told: tuple[list[str], list[str]] = ([], [])
        tells_twice = bool(_TELLS_TWICE.search(self._asked.model)) or bool(self._said.calls)
        thinking, text = (
            (_kept(tokens, kept) for tokens, kept in zip((self._said.thinking, self._said.text), told, strict=True))
            if tells_twice
            else (iter(self._said.thinking), iter(self._said.text))
        )
        steps = chain(
            self._thinking_steps(thinking),
            templated(self._event({"content": "\0"}), text),
            *(self._call_steps(number, call) for number, call in enumerate(self._said.calls)),
        )
        before: bytes | None = None
        for step in steps:
            if before is not None:
                yield before
            before = step
        finish = self._event({}, _FINISHES[self._said.finish])
        summary = self._summary("".join(told[0]), "".join(told[1])) if tells_twice else {}
        yield (before or b"") + finish + self._ending(summary)

    def _thinking_steps(self, tokens: Iterator[str]) -> Iterator[bytes]:
        if not self._said.thinking_tokens:
            return
        if self._splits:
            detail = _detail("\0")
            head, _, tail = self._event({"reasoning_content": "\0", "reasoning_details": [detail]}).partition(
                rb"\u0000"
            )
            for token in tokens:
                quoted = json.dumps(token)[1:-1].encode()
                yield head + quoted + tail.replace(rb"\u0000", quoted)
            return
        before = self._event({"content": "<think>\n"})
        steps = templated(self._event({"content": "\0"}), tokens)
        before += next(steps)
        for step in steps:
            yield before
            before = step
        yield before + self._event({"content": "\n</think>\n\n"})

    def _call_steps(self, number: int, call: SaidCall) -> Iterator[bytes]:
        """The first piece has all but the rest of the arguments."""
        first, *rest = call.arguments
        function = {"name": call.name, "arguments": first}
        opening = {"id": _call_id(call, number), "type": "function", "index": number, "function": function}
        yield self._event({"tool_calls": [opening]})
        yield from templated(
            self._event({"tool_calls": [{"type": "function", "index": number, "function": {"arguments": "\0"}}]}), rest
        )

    def _event(self, delta: JsonObject, finish: str = "") -> bytes:
        choice: JsonObject = {"index": 0, "delta": delta and {"role": "assistant", "name": "MiniMax AI", **delta}}
        if finish:
            choice = {"finish_reason": finish, **choice}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], "usage": None, **_FLAGS})

    def _ending(self, summary: JsonObject) -> bytes:
        if summary:
            return _event(summary)
        head = self._head("chat.completion.chunk")
        if self._asked.model.startswith("abab"):
            return _event({**head, "choices": [{"index": 0, "delta": {}}], "usage": self._usage()})
        return _event({**head, "choices": [], "usage": self._usage(), "base_resp": _GOOD})

    def _summary(self, thinking: str, text: str) -> JsonObject:
        message: JsonObject = {"role": "assistant", "name": "MiniMax AI", "audio_content": "", "content": text}
        if thinking and self._splits:
            message |= {"reasoning_content": thinking, "reasoning_details": [_detail(thinking)]}
        elif thinking:
            message["content"] = f"<think>\n{thinking}\n</think>\n\n{text}"
        if self._said.calls:
            message["tool_calls"] = [
                {
                    "id": _call_id(call, number),
                    "type": "function",
                    "index": number,
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for number, call in enumerate(self._said.calls)
            ]
        choice = {"finish_reason": _FINISHES[self._said.finish], "index": 0, "message": message}
        head = self._head("chat.completion")
        return {**head, "choices": [choice], "usage": self._usage(), **_FLAGS, "base_resp": _GOOD}

    def _head(self, kind: str) -> JsonObject:
        return {"id": self._id, "object": kind, "created": _CREATED, "model": self._asked.model}

    def _usage(self) -> JsonObject:
        prompt, said = self._asked.prompt_tokens, self._said
        usage: JsonObject = {
            "total_tokens": prompt + said.tokens,
            "total_characters": 0,
            "prompt_tokens": prompt,
            "completion_tokens": said.tokens,
        }
        if said.thinking_tokens:
            usage["completion_tokens_details"] = {"reasoning_tokens": said.thinking_tokens}
        return usage


def _kept(tokens: Any, kept: list[str]) -> Iterator[str]:
    """The tokens, each of them kept."""
    for token in tokens:
        kept.append(token)
        yield token


def _detail(text: str) -> JsonObject:
    head = {"type": "reasoning.text", "id": "reasoning-text-1", "format": "MiniMax-response-v1", "index": 0}
    return {**head, "text": text}


def _call_id(call: SaidCall, number: int) -> str:
    return f"call_function_{call.id[:12]}_{number + 1}"


def _models(profile: Profile) -> Answer:
    data = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "minimax"} for name in profile.models]
    return Answer(headers=(_JSON,), body=_encode({"object": "list", "data": data}))


def _error(status: int, code: int, kind: str, message: str) -> Answer:
    """With a type in the form of its own status, the code in brackets; else in base_resp."""
    body: JsonObject
    if kind:
        text = f"{message} ({code})" if code else message
        body = {"type": "error", "error": {"type": kind, "message": text, "http_code": str(status)}, "request_id": "0"}
    else:
        base = {"status_code": code, "status_msg": message}
        body = {"id": "0", "choices": None, "created": _CREATED, "usage": _ZEROS, **_FLAGS, "base_resp": base}
    return Answer(status=status, headers=(_JSON,), body=_encode(body))


def _has_key(call: Call, key: str) -> bool:
    sent = call.headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(sent.encode(), key.encode())


def _event(value: JsonObject) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _encode(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

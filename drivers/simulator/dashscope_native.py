"""DashScope's own wire, the server half: reads a request as strictly as the service does, and answers as it would.

Wire format: https://help.aliyun.com/en/model-studio/qwen-api-via-dashscope, frames as they were seen in traffic. Pure:
no socket, clock or log. Frames are cut from one template an answer, for benchmarks run against this; asked for in the
form of old, each repeats all that came before it. Thoughts come when thinking is on, or not switched off.
"""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, chain
from typing import Any, Final

from loopforge.drivers.simulator.dashscope_requests import PATHS, BadRequest, check_request, is_multimodal
from loopforge.drivers.simulator.faults import Problem
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.saying import Said, Wanted, say, templated
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import JsonObject

_JSON = ("content-type", "application/json")
_EVENTS = ("content-type", "text/event-stream;charset=UTF-8")
_BYTES_PER_TOKEN = 4
_ID_BITS = 128
_MODELS = "/models"
_FINISHES: Final = {"stop": "stop", "length": "length", "calls": "tool_calls", "stop_word": "stop"}
_STREAM_ONLY: Final = ("omni", "qwq", "qvq")

# status, code, message: what the named problem is on this wire. {model} and {limit} are filled in.
_PROBLEMS: dict[Problem, tuple[int, str, str]] = {
    "unauthorized": (401, "InvalidApiKey", "Invalid API-key provided."),
    "rate_limited": (429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later."),
    "quota": (400, "Arrearage", "Access denied, please make sure your account is in good standing."),
    "server_error": (500, "InternalError", "Internal server error!"),
    "unavailable": (503, "ModelUnavailable", "Model is unavailable, please try again later."),
    "overloaded": (
        503, "ModelServingError",
        "Too many requests. Your requests are being throttled due to system capacity limits. Please try again later.",
    ),
    "context_too_long": (400, "InvalidParameter", "Range of input length should be [1, {limit}]"),
    "model_not_found": (404, "ModelNotFound", "Model can not be found: {model}."),
    "not_found": (400, "InvalidParameter", "url error, please check url!"),
    "too_large": (413, "BadRequest.TooLarge", "Payload Too Large"),
}  # fmt: skip


class DashScope:
    """One for all providers of the kind: a profile says what is different."""

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        if profile.api_key and not _has_key(call, profile.api_key):
            return self.problem("unauthorized", profile)
        if call.method == "GET" and call.path.endswith(_MODELS):
            return _models(profile)
        multimodal = call.path.endswith(PATHS["multimodal"])
        if call.method != "POST" or not (multimodal or call.path.endswith(PATHS["text"])):
            return self.problem("not_found", profile)
        stream = call.headers.get("x-dashscope-sse", "").lower() == "enable"
        try:
            body = check_request(call.body, multimodal=multimodal, reject_unknown=profile.reject_unknown_fields)
        except BadRequest as exc:
            return _error(400, exc.code, str(exc))
        asked = Asked(model=body["model"], stream=stream, body=body, prompt_tokens=len(call.body) // _BYTES_PER_TOKEN)
        if is_multimodal(asked.model) != multimodal:
            return self.problem("not_found", profile)
        if not stream and any(name in asked.model for name in _STREAM_ONLY):
            return _error(400, "InvalidParameter", "This model only support stream mode, please enable the stream.")
        if profile.models and asked.model not in profile.models and "fault-" not in asked.model:
            return self.problem("model_not_found", profile, asked)
        if 0 < profile.context_tokens < asked.prompt_tokens:
            return self.problem("context_too_long", profile, asked)
        return asked

    def answer(self, asked: Asked, profile: Profile, rng: random.Random) -> Answer:
        said = say(_wanted(asked.body), profile, rng)
        form = _Form(asked, said, rng)
        finished = ("x-dashscope-finished", "false" if asked.stream else "true")
        headers = (("x-request-id", form.id), finished, ("x-dashscope-timeout", "298"), ("req-cost-time", "48"))
        if asked.stream:
            return Answer(headers=(_EVENTS, *headers), steps=form.stream(), tokens=said.tokens)
        return Answer(headers=(_JSON, *headers), body=_encode(form.whole()), tokens=said.tokens)

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:
        status, code, message = _PROBLEMS[problem]
        size = asked.prompt_tokens if asked else 0
        filled = message.format(model=asked.model if asked else "the model", limit=profile.context_tokens or size // 2)
        passing = problem in ("rate_limited", "overloaded", "unavailable")
        extra = (("retry-after", f"{profile.retry_after_s:g}"),) if passing else ()
        return _error(status, code, filled, extra)

    def keep_alive(self, *, stream: bool) -> bytes:
        return b":keep-alive\n\n" if stream else b"\n"

    def malformed(self) -> bytes:
        return b'id:0\nevent:result\n:HTTP_STATUS/200\ndata:{"output":{"choices":[{"message":{"con\n\n'

    def error(self, *, stream: bool) -> bytes:
        status, code, message = _PROBLEMS["server_error"]
        body = _error(status, code, message).body
        return b"id:0\nevent:error\n:HTTP_STATUS/%d\ndata:%b\n\n" % (status, body) if stream else body

    def opening(self, *, stream: bool) -> bytes:
        start = b'{"output":{"choices":[{"message":{"content":"'
        return b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:" + start if stream else start


WIRE = DashScope()


# -- what is asked for ------------------------------------------------------------------------------------------------


def _wanted(body: JsonObject) -> Wanted:
    parameters = body["parameters"]
    functions = [tool["function"] for tool in parameters.get("tools") or ()]
    choice = parameters.get("tool_choice")
    stop = parameters.get("stop") or ()
    return Wanted(
        tools={function["name"]: function.get("parameters") or {} for function in functions},
        may_call=choice != "none",
        forced=choice["function"]["name"] if isinstance(choice, dict) else "",
        question=_question(body["input"]["messages"][-1]),
        schema=_schema(parameters.get("response_format") or {}),
        stops=(stop,) if isinstance(stop, str) else tuple(word for word in stop if isinstance(word, str)),
        budget=parameters.get("max_completion_tokens") or parameters.get("max_tokens") or float("inf"),
        thinks=parameters.get("enable_thinking") is not False,
    )


def _schema(response_format: JsonObject) -> JsonObject | None:
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_object"}:
            return {}
    return None


def _question(message: JsonObject) -> str | None:
    """The text of a user message; None after tool results, which go with an answer and no further call."""
    if message["role"] != "user":
        return None
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


# -- as a whole answer, as a stream, as an error ----------------------------------------------------------------------


class _Form:
    """One answer, as a whole or as a stream. Thoughts come first, then text or calls."""

    def __init__(self, asked: Asked, said: Said, rng: random.Random) -> None:
        number = f"{rng.getrandbits(_ID_BITS):032x}"
        self.id = "-".join((number[:8], number[8:12], number[12:16], number[16:20], number[20:]))
        self._asked = asked
        self._said = said
        self._multimodal = is_multimodal(asked.model)
        self._grows = asked.body["parameters"].get("incremental_output") is not True

    def whole(self) -> JsonObject:
        said = self._said
        message = self._message("".join(said.text), "".join(said.thinking))
        if said.calls:
            message["tool_calls"] = [
                self._call(number, {"name": call.name, "arguments": "".join(call.arguments)}, call.id)
                for number, call in enumerate(said.calls)
            ]
        return self._body(message, _FINISHES[said.finish])

    def stream(self) -> Iterator[bytes]:
        """One step a token; the finish comes behind the last, with empty content or, in the form of old, with all."""
        steps = self._growing() if self._grows else self._pieces()
        before: bytes | None = None
        number = 0
        for number, step in enumerate(steps, 1):
            if before is not None:
                yield before
            before = _frame(number, step)
        closing = self.whole() if self._grows else self._body(self._message(""), _FINISHES[self._said.finish])
        yield (before or b"") + _frame(number + 1, _encode(closing))

    def _pieces(self) -> Iterator[bytes]:
        said = self._said
        thoughts = templated(_encode(self._body(self._message("", "\0"))), said.thinking)
        texts = templated(_encode(self._body(self._message("\0"))), said.text)
        return chain(thoughts, texts, *(self._call_pieces(*item) for item in enumerate(said.calls)))

    def _call_pieces(self, number: int, call: Any) -> Iterator[bytes]:
        """The id and the name come with the first piece alone; later ones have an empty id."""
        first, *rest = call.arguments
        message = self._message("")
        message["tool_calls"] = [self._call(number, {"name": call.name, "arguments": first}, call.id)]
        yield _encode(self._body(message))
        message["tool_calls"] = [self._call(number, {"arguments": "\0"})]
        yield from templated(_encode(self._body(message)), rest)

    def _growing(self) -> Iterator[bytes]:
        said = self._said = replace(self._said, thinking=list(self._said.thinking), text=list(self._said.text))
        thinking = ""
        for thinking in accumulate(said.thinking):
            yield _encode(self._body(self._message("", thinking)))
        for text in accumulate(said.text):
            yield _encode(self._body(self._message(text, thinking)))

    def _message(self, text: str, thinking: str = "") -> JsonObject:
        content: object = text
        if self._multimodal:
            content = [{"text": text}] if text else []
        message: JsonObject = {"role": "assistant", "content": content}
        if thinking:
            message["reasoning_content"] = thinking
        return message

    def _call(self, number: int, function: JsonObject, call_id: str = "") -> JsonObject:
        wire_id = f"call_{call_id[:22]}" if call_id else ""
        return {"index": number, "id": wire_id, "type": "function", "function": function}

    def _body(self, message: JsonObject, finish: str = "null") -> JsonObject:
        return {
            "output": {"choices": [{"message": message, "index": 0, "finish_reason": finish}]},
            "usage": self._usage(),
            "request_id": self.id,
        }

    def _usage(self) -> JsonObject:
        prompt, said = self._asked.prompt_tokens, self._said
        usage: JsonObject = {
            "input_tokens": prompt,
            "output_tokens": said.tokens,
            "total_tokens": prompt + said.tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        if said.thinking_tokens:
            usage["output_tokens_details"] = {"reasoning_tokens": said.thinking_tokens}
        return usage


def _models(profile: Profile) -> Answer:
    models = [{"model": name, "name": name} for name in profile.models]
    return Answer(headers=(_JSON,), body=_encode({"output": {"models": models}, "request_id": "simulator"}))


def _error(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    body = _encode({"code": code, "message": message, "request_id": "00000000-0000-9000-8000-000000000000"})
    return Answer(status=status, headers=(_JSON, *headers), body=body)


def _has_key(call: Call, key: str) -> bool:
    sent = call.headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(sent.encode(), key.encode())


def _frame(number: int, data: bytes) -> bytes:
    return b"id:%d\nevent:result\n:HTTP_STATUS/200\ndata:%b\n\n" % (number, data)


def _encode(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

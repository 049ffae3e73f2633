"""Converse of AWS Bedrock, the server half: reads a request as strictly as the service does, and answers as it would.

Wire format: the service model of bedrock-runtime, and recorded streams for the order of events and their padding.
Pure: no socket, clock or log. Signatures are not checked, only whose they are: tests do that with a verifier of theirs.
"""

from __future__ import annotations

import hmac
import json
import random
import re
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from struct import Struct
from urllib.parse import unquote
from zlib import crc32

from loopforge.drivers.simulator.bedrock_requests import BadRequest, check_request
from loopforge.drivers.simulator.faults import HUGE_BYTES, Problem
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.saying import Said, SaidCall, Wanted, say
from loopforge.drivers.simulator.wires import Answer, Asked, Call
from loopforge.drivers.turn import JsonObject

_JSON = ("content-type", "application/json")
_FRAMES = ("content-type", "application/vnd.amazon.eventstream")
_BYTES_PER_TOKEN = 4
_SIGNATURE_BITS = 1024
_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_PATH = re.compile(r"/model/(?P<model>[^/]+)/converse(?P<stream>-stream)?$")
_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/")
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "calls": "tool_use", "stop_word": "stop_sequence"}
_WAITING: tuple[Problem, ...] = ("rate_limited", "overloaded", "unavailable")
_PRELUDE = Struct(">II")
_SUM = Struct(">I")

# status, exception, message: what the named problem is on this wire.
_PROBLEMS: dict[Problem, tuple[int, str, str]] = {
    "unauthorized": (403, "UnrecognizedClientException", "The security token included in the request is invalid."),
    "rate_limited": (429, "ThrottlingException", "Too many requests, please wait before trying again."),
    "quota": (429, "ThrottlingException", "Too many tokens per day, please wait before trying again."),
    "server_error": (
        500, "InternalServerException",
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
    "unavailable": (503, "ServiceUnavailableException", "Bedrock is unable to process your request."),
    "overloaded": (429, "ModelNotReadyException", "Model is not ready for inference. Wait and try again."),
    "context_too_long": (400, "ValidationException", "Input is too long for requested model."),
    "model_not_found": (400, "ValidationException", "The provided model identifier is invalid."),
    "not_found": (404, "UnknownOperationException", "Unable to determine service/operation name to be authorized"),
    "too_large": (413, "RequestEntityTooLargeException", "Request Entity Too Large"),
}  # fmt: skip
_BAD_KEY = "Authentication failed: Please make sure your API Key is valid."


class Converse:
    """One for all providers of the kind: a profile says what is different."""

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        found = _PATH.search(call.path)
        if profile.api_key and (refused := _refused_key(call, profile.api_key)):
            return refused
        if call.method != "POST" or found is None:
            return self.problem("not_found", profile)
        model = unquote(found["model"])
        try:
            body = check_request(call.body, model, reject_unknown=profile.reject_unknown_fields)
        except BadRequest as exc:
            return _error(400, "ValidationException", str(exc))
        asked = Asked(
            model=model,
            stream=found["stream"] is not None,
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
        form = _Form(asked, said, f"{rng.getrandbits(_SIGNATURE_BITS):x}")
        headers = (("x-amzn-requestid", str(uuid.UUID(int=rng.getrandbits(128), version=4))),)
        if asked.stream:
            return Answer(headers=(_FRAMES, *headers), steps=form.stream(), tokens=said.tokens)
        return Answer(headers=(_JSON, *headers), body=_encode(form.whole()), tokens=said.tokens)

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:  # noqa: ARG002 - its texts name nothing
        status, exception, message = _PROBLEMS[problem]
        headers = (("retry-after", f"{profile.retry_after_s:g}"),) if problem in _WAITING else ()
        return _error(status, exception, message, headers=headers)

    def keep_alive(self, *, stream: bool) -> bytes:
        """This wire has none so far; other event streams of AWS have empty events."""
        return frame("event", "heartbeat", b"") if stream else b"\n"

    def malformed(self) -> bytes:
        return frame("event", "contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"te')

    def error(self, *, stream: bool) -> bytes:
        _, exception, message = _PROBLEMS["server_error"]
        if stream:
            return frame("exception", exception[0].lower() + exception[1:], _encode({"message": message}))
        return _encode({"__type": exception, "message": message})

    def opening(self, *, stream: bool) -> bytes:
        if not stream:
            return b'{"output":"'
        prelude = _PRELUDE.pack(HUGE_BYTES, 0)
        return prelude + _SUM.pack(crc32(prelude))


WIRE = Converse()


def frame(kind: str, name: str, payload: bytes) -> bytes:
    """One frame of an event stream. `kind`: "event" or "exception"; `name`: its type."""
    return _framed(_headers(kind, name), payload)


def _headers(kind: str, name: str) -> bytes:
    pairs = ((f":{kind}-type", name), (":content-type", "application/json"), (":message-type", kind))
    return b"".join(
        b"%c%b\x07%b%b" % (len(key), key.encode(), len(value).to_bytes(2, "big"), value.encode())
        for key, value in pairs
    )


def _framed(headers: bytes, payload: bytes) -> bytes:
    prelude = _PRELUDE.pack(16 + len(headers) + len(payload), len(headers))
    data = b"".join((prelude, _SUM.pack(crc32(prelude)), headers, payload))
    return data + _SUM.pack(crc32(data))


def _wanted(body: JsonObject) -> Wanted:
    config = body.get("toolConfig") or {}
    choice = config.get("toolChoice") or {"auto": {}}
    tools = {
        tool["toolSpec"]["name"]: tool["toolSpec"]["inputSchema"]["json"]
        for tool in config.get("tools", ())
        if "toolSpec" in tool
    }
    inference = body.get("inferenceConfig", {})
    return Wanted(
        tools=tools,
        forced="any" if "any" in choice else choice.get("tool", {}).get("name", ""),
        question=_question(body["messages"][-1]),
        schema=_schema(body.get("outputConfig")),
        stops=tuple(inference.get("stopSequences", ())),
        budget=inference.get("maxTokens", float("inf")),
        thinks=body.get("additionalModelRequestFields", {}).get("thinking", {}).get("type") != "disabled",
    )


def _schema(config: JsonObject | None) -> JsonObject | None:
    if config is None:
        return None
    schema: JsonObject = json.loads(config["textFormat"]["structure"]["jsonSchema"]["schema"])
    return schema


def _question(message: JsonObject) -> str | None:
    """The text of a user message; None after tool results, which go with an answer and no further call."""
    if message["role"] != "user" or any("toolResult" in block for block in message["content"]):
        return None
    return "".join(block["text"] for block in message["content"] if "text" in block)


class _Form:
    """One answer, as a whole or as a stream. Blocks in order: thinking, text or calls."""

    def __init__(self, asked: Asked, said: Said, signature: str) -> None:
        self._asked = asked
        self._said = said
        self._signature = signature

    def whole(self) -> JsonObject:
        said = self._said
        content: list[JsonObject] = []
        if said.thinking_tokens:
            thought = {"text": "".join(said.thinking), "signature": self._signature}
            content.append({"reasoningContent": {"reasoningText": thought}})
        if text := "".join(said.text):
            content.append({"text": text})
        content += [
            {"toolUse": {**_call_start(call), "input": json.loads("".join(call.arguments))}} for call in said.calls
        ]
        return {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": _STOP_REASONS[said.finish],
            **self._end(),
        }

    def stream(self) -> Iterator[bytes]:
        """One step a token: what opens goes with the first, what closes with the last."""
        opening = _event("messageStart", {"role": "assistant"})
        closing = _event("messageStop", {"stopReason": _STOP_REASONS[self._said.finish]})
        closing += _event("metadata", self._end())
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
            signature = _event("contentBlockDelta", _delta(index, {"reasoningContent": {"signature": self._signature}}))
            pieces = _deltas(_delta(index, {"reasoningContent": {"text": "\0"}}), said.thinking)
            yield _block(index, b"", pieces, signature)
            index += 1
        if said.text_tokens:
            yield _block(index, b"", _deltas(_delta(index, {"text": "\0"}), said.text), b"")
            index += 1
        for call in said.calls:
            start = {"contentBlockIndex": index, "start": {"toolUse": _call_start(call)}}
            pieces = _deltas(_delta(index, {"toolUse": {"input": "\0"}}), call.arguments)
            yield _block(index, _event("contentBlockStart", start), pieces, b"")
            index += 1

    def _end(self) -> JsonObject:
        tokens, output = self._asked.prompt_tokens, self._said.tokens
        usage = {"inputTokens": tokens, "outputTokens": output, "totalTokens": tokens + output}
        return {"usage": usage, "metrics": {"latencyMs": 500 + output}}  # nothing in an answer depends on the clock


def _call_start(call: SaidCall) -> JsonObject:
    return {"toolUseId": f"tooluse_{call.id}", "name": call.name}


def _block(index: int, start: bytes, steps: Iterator[bytes], tail: bytes) -> Iterator[bytes]:
    """The steps of one block: `start` with the first of them, `tail` and its stop with the last."""
    before = start + next(steps, b"")
    for step in steps:
        yield before
        before = step
    yield before + tail + _event("contentBlockStop", {"contentBlockIndex": index})


def _delta(index: int, delta: JsonObject) -> JsonObject:
    return {"contentBlockIndex": index, "delta": delta, "p": _PADDING[: 8 + index]}


def _deltas(template: JsonObject, tokens: Iterable[str]) -> Iterator[bytes]:
    """A frame a token, which stands in the place of the template's NUL."""
    head, _, tail = _encode(template).partition(rb'"\u0000"')
    headers = _headers("event", "contentBlockDelta")
    for token in tokens:
        yield _framed(headers, b"%b%b%b" % (head, json.dumps(token).encode(), tail))


def _event(name: str, value: JsonObject) -> bytes:
    return frame("event", name, _encode({**value, "p": _PADDING[: 4 + len(name)]}))


def _error(status: int, exception: str, message: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    kind = ("x-amzn-errortype", f"{exception}:http://internal.amazon.com/coral/com.amazon.bedrock/")
    request_id = ("x-amzn-requestid", "00000000-0000-4000-8000-000000000000")
    return Answer(status=status, headers=(_JSON, kind, request_id, *headers), body=_encode({"message": message}))


def _refused_key(call: Call, key: str) -> Answer | None:
    """None for the right key, as it is or as the name of the one that signed."""
    sent = call.headers.get("authorization", "")
    if not sent:
        return _error(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
    if sent.startswith("Bearer "):
        good = hmac.compare_digest(sent.removeprefix("Bearer ").encode(), key.encode())
        return None if good else _error(403, "AccessDeniedException", _BAD_KEY)
    signer = _CREDENTIAL.match(sent)
    return None if signer and signer[1] == key else _error(*_PROBLEMS["unauthorized"])


def _encode(value: JsonObject) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

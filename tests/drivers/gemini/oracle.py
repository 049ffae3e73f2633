"""What an answer says, by a second reading of the wire that shares no code with the driver.

Simple where the driver is fast: the whole body at once, every rule applied to the whole answer, no state. It knows
what the recordings need and is written from the wire's description alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`calls`: (name, arguments). `ids`: of calls, None where the wire sent none. `signatures`: with what they are on.

    `usage`: input, output, cache_read, reasoning. `kept`: kinds of parts that go back verbatim.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    ids: tuple[str | None, ...] = ()
    signatures: tuple[tuple[str, str], ...] = ()
    kept: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    finish: str = ""
    usage: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)
    model: str = ""
    request_id: str = ""
    error: str = ""


def interpret(status: int, body: bytes) -> Verdict:
    """The verdict on a response. `error`: the class that it is, "" for an answer."""
    said = body.decode("utf-8").strip()
    if status != 200:
        return Verdict(error=_class_of(status, json.loads(said)["error"]))
    if said[0] in "{[":
        answer = json.loads(said)
        chunks = answer if isinstance(answer, list) else [answer]
    else:
        chunks = [json.loads(line[len("data:") :]) for line in re.split(r"\r?\n", said) if line.startswith("data:")]
    return _verdict(chunks, streamed=said[0] != "{")


def _verdict(chunks: list[Json], *, streamed: bool) -> Verdict:
    candidates = [chunk["candidates"][0] for chunk in chunks if chunk.get("candidates")]
    parts = [part for item in candidates for part in item.get("content", {}).get("parts", [])]
    words = [item["finishReason"] for item in candidates if "finishReason" in item]
    calls = _calls(parts)
    if not words and streamed:
        return Verdict(error="StreamBroken")
    word = words[-1] if words else ""
    blocked = {"MODEL_ARMOR", "SAFETY", "RECITATION", "PROHIBITED_CONTENT"}
    if word in blocked and not any(part.keys() - {"thoughtSignature"} for part in parts):
        return Verdict(error="ContentFiltered")
    finish = {"STOP": "tool_calls" if calls else "stop", "MAX_TOKENS": "length", "": "unknown"}.get(word)
    if word in blocked:
        finish = "content_filter"
    assert finish, word
    return Verdict(
        text="".join(part.get("text", "") for part in parts if not part.get("thought")),
        thinking="".join(part.get("text", "") for part in parts if part.get("thought")),
        calls=tuple((item["name"], item["args"]) for item in calls),
        ids=tuple(item["id"] for item in calls),
        signatures=tuple((_on(part), part["thoughtSignature"]) for part in parts if "thoughtSignature" in part),
        kept=tuple(kind for part in parts for kind in part if kind in _VERBATIM),
        media=tuple(part["inlineData"]["mimeType"] for part in parts if "inlineData" in part),
        finish=finish,
        usage=_usage(chunks),
        model=next((chunk["modelVersion"] for chunk in chunks if "modelVersion" in chunk), ""),
        request_id=next((chunk["responseId"] for chunk in chunks if "responseId" in chunk), ""),
    )


_VERBATIM = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")


def _on(part: Json) -> str:
    """What the signature is on: the call's name, the text, or the kind of part."""
    if "functionCall" in part:
        return f"call {part['functionCall']['name']}"
    if "text" in part:
        return f"text {part['text']}"
    return next(kind for kind in part if kind in _VERBATIM)


def _calls(parts: list[Json]) -> list[Json]:
    """Each with name, args and id; partial arguments are of one string each in what was recorded."""
    found: list[Json] = []
    for part in parts:
        wire = part.get("functionCall")
        if wire is None:
            continue
        if "name" in wire:
            found.append({"name": wire["name"], "args": dict(wire.get("args") or {}), "id": wire.get("id")})
        for piece in wire.get("partialArgs", []):
            name = piece["jsonPath"].removeprefix("$.")
            found[-1]["args"][name] = found[-1]["args"].get(name, "") + piece["stringValue"]
    return found


def _usage(chunks: list[Json]) -> tuple[int | None, int | None, int | None, int | None]:
    """The last one that counts. Absent counts are 0 where the total proves it; thoughts are beside the answer."""
    reports = [chunk["usageMetadata"] for chunk in chunks if "usageMetadata" in chunk]
    reports = [report for report in reports if any(name.endswith("TokenCount") for name in report)]
    if not reports:
        return (None, None, None, None)
    last = reports[-1]
    thoughts = last.get("thoughtsTokenCount")
    if "promptTokenCount" not in last:
        return (None, last["candidatesTokenCount"] + thoughts, None, thoughts)
    given = last["promptTokenCount"] + last.get("toolUsePromptTokenCount", 0)
    output = last.get("candidatesTokenCount", 0) + (thoughts or 0)
    assert last["totalTokenCount"] >= given + output
    hidden = last["totalTokenCount"] - given - output
    if hidden and thoughts is None:
        thoughts, output = (hidden if "candidatesTokenCount" in last else None), output + hidden
    return (given, output, last.get("cachedContentTokenCount"), thoughts)


def _class_of(status: int, error: Json) -> str:
    reasons = [detail.get("reason") for detail in error.get("details", [])]
    if "API_KEY_INVALID" in reasons:
        return "CredentialsRejected"
    return {400: "TurnRefused", 404: "ModelNotFound", 429: "RateLimited"}[status]

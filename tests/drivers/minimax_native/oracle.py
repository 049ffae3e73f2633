"""What an answer says, by a second reading of the wire that shares no code with the driver.

Simple where the driver is fast: the whole body at once, every rule applied to the whole answer, no state. It is written
from the wire's description alone. Where both readings agree, two people would have to have made the same mistake.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_CLASSES = {
    "ProviderUnavailable": [1000, 1001, 1013, 1024, 1033],
    "RateLimited": [1002, 1039, 1041, 2045],
    "CredentialsRejected": [1004, 2049],
    "QuotaExhausted": [1008, 2056],
    "ContentFiltered": [1026, 1027],
    "TurnRefused": [1042, 2013, 20132],
    "PermissionDenied": [2044],
}
_BY_CODE = {code: name for name, codes in _CLASSES.items() for code in codes}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`calls`: (id, name, parsed arguments or None) in order. `usage`: input, output, cache_read, reasoning."""

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, Any], ...] = ()
    finish: str = ""
    usage: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)
    model: str = ""
    error: str = ""


def interpret(status: int, body: bytes) -> Verdict:
    """The verdict on a response. `error`: the class that it is, "" for an answer."""
    said = body.decode("utf-8").strip()
    if status != 200:
        message = json.loads(said)["error"]["message"]
        return Verdict(error=_class_of(int(re.findall(r"\((\d+)\)$", message)[0]), message))
    if said.startswith("data:"):
        lines = [line.removeprefix("data:").strip() for line in said.splitlines() if line.startswith("data:")]
        return _stream([json.loads(line) for line in lines if line != "[DONE]"])
    lines = said.splitlines()
    if len(lines) > 1 and lines[0].endswith("}"):
        return _stream([json.loads(line) for line in lines if line.startswith("{")])
    return _whole(json.loads(said))


def _class_of(code: int, text: str) -> str:
    if "context window" in text:
        return "ContextTooLong"
    return "ModelNotFound" if "unknown model" in text else _BY_CODE[code]


def _error_of(frame: Json) -> str:
    base = frame.get("base_resp") or {}
    return _class_of(base["status_code"], base["status_msg"]) if base.get("status_code") else ""


def _whole(answer: Json) -> Verdict:
    error = _error_of(answer)
    if error and not (error == "ContentFiltered" and answer["choices"]):
        return Verdict(error=error)
    choice = answer["choices"][0]
    message = choice.get("message") or [item for item in choice["messages"] if item["role"] == "assistant"][-1]
    flagged = bool(answer.get("output_sensitive")) or bool(error)
    return _verdict(message, choice.get("finish_reason") or "", answer["usage"], answer["model"], flagged)


def _stream(frames: list[Json]) -> Verdict:
    for frame in frames:
        if error := _error_of(frame):
            return Verdict(error=error)
    choices = [choice for frame in frames for choice in frame["choices"]]
    deltas = [choice["delta"] for choice in choices if "delta" in choice and choice["delta"].get("role") != "tool"]
    words = [
        choice["finish_reason"]
        for choice in choices
        if choice.get("finish_reason") and choice.get("delta", {}).get("role") != "tool"
    ]
    if not words:
        return Verdict(error="StreamBroken")
    summaries = [choice["message"] for choice in choices if "message" in choice]
    if summaries and not any(delta.keys() & {"content", "reasoning_content", "tool_calls"} for delta in deltas):
        message = summaries[-1]
    else:
        message = {
            "content": "".join(delta.get("content") or "" for delta in deltas),
            "reasoning_content": "".join(delta.get("reasoning_content") or "" for delta in deltas),
            "tool_calls": _joined([call for delta in deltas for call in delta.get("tool_calls") or []]),
        }
    usages = [frame["usage"] for frame in frames if any((frame.get("usage") or {}).values())]
    flagged = any(frame.get("output_sensitive") for frame in frames)
    return _verdict(message, words[-1], usages[-1] if usages else {}, frames[0]["model"], flagged)


def _joined(fragments: list[Json]) -> list[Json]:
    """Calls by index; the first piece has the id."""
    calls: dict[int, Json] = {}
    for fragment in fragments:
        call = calls.setdefault(fragment.get("index", 0), {"function": {"arguments": ""}, "id": "", "type": ""})
        call["id"] = call["id"] or fragment.get("id", "")
        call["type"] = call["type"] or fragment.get("type", "")
        function = fragment.get("function", {})
        call["function"]["name"] = call["function"].get("name") or function.get("name", "")
        call["function"]["arguments"] += function.get("arguments") or ""
    return [calls[index] for index in sorted(calls)]


def _verdict(message: Json, word: str, usage: Json, model: str, flagged: bool) -> Verdict:
    text, thinking = message.get("content") or "", message.get("reasoning_content") or ""
    if not thinking and (found := re.match(r"\s*<think>", text)):
        thinking, _, text = text[found.end() :].partition("</think>")
        text = text.lstrip("\r\n")
    text = text.lstrip("\n")
    thinking = re.sub(r"</think>\s*$", "", thinking)
    calls = [call for call in message.get("tool_calls") or [] if call["type"] == "function"]
    finish = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}.get(word, "unknown")
    if flagged or word == "content_filter":
        finish = "content_filter"
    elif calls and finish == "stop":
        finish = "tool_calls"
    return Verdict(
        text=text,
        thinking=thinking,
        calls=tuple((call["id"], call["function"]["name"], _object(call["function"]["arguments"])) for call in calls),
        finish=finish,
        usage=(
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
            (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
        ),
        model=model,
    )


def _object(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return None

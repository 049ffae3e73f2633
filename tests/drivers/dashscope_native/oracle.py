"""What an answer says, by a second reading of the wire that shares no code with the driver.

Simple where the driver is fast: the whole body at once, every rule applied to the whole answer, no state. It knows
what the recordings need and is written from the wire's description alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`calls`: (id, name, arguments). `usage`: input, output, cache_read, cache_write, reasoning.

    `kept`: names of what is kept for clients.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, Any], ...] = ()
    kept: tuple[str, ...] = ()
    finish: str = ""
    usage: tuple[int | None, int | None, int | None, int | None, int | None] = (None, None, None, None, None)
    model: str = ""
    request_id: str = ""
    error: str = ""


def interpret(status: int, body: bytes) -> Verdict:
    """The verdict on a response. `error`: the class that it is, "" for an answer."""
    said = body.decode("utf-8").strip()
    if status != 200:
        return Verdict(error=_class_of(status, json.loads(said)["code"]))
    if said.startswith("{"):
        return _verdict([json.loads(said)])
    frames = [json.loads(data) for data in re.findall(r"^data: ?(\{.*\})\r?$", said, re.MULTILINE)]
    for frame in frames:
        if "output" not in frame:
            return Verdict(error=_class_of(400, frame["code"]))
    return _verdict(frames)


def _verdict(frames: list[Json]) -> Verdict:
    outputs = [frame["output"] for frame in frames]
    words = [word for output in outputs if (word := _finish_word(output)) not in (None, "null")]
    if not words:
        return Verdict(error="StreamBroken")
    messages = [_message(output) for output in outputs]
    texts = _together([_text(message.get("content", "")) for message in messages])
    calls = _calls(messages)
    tools = {name for output in outputs for name in ("search_info", "tool_info") if _says_something(output.get(name))}
    return Verdict(
        text=texts,
        thinking=_together([message.get("reasoning_content") or "" for message in messages]),
        calls=tuple((call["id"], call["name"], json.loads(call["arguments"])) for call in calls),
        kept=tuple(sorted(tools)),
        finish="tool_calls" if calls else words[0],
        usage=_usage(frames[-1]["usage"]),
        model=next((output["model_name"] for output in outputs if "model_name" in output), ""),
        request_id=frames[0]["request_id"],
    )


def _message(output: Json) -> Json:
    if "choices" in output:
        message: Json = output["choices"][0]["message"]
        return message
    return output["message"] if "message" in output else {"content": output["text"]}


def _finish_word(output: Json) -> Any:
    if "choices" in output:
        return output["choices"][0]["finish_reason"]
    return output.get("fininshed_reason", output.get("finish_reason"))


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _together(texts: list[str]) -> str:
    """The pieces joined; or the last of them, when each begins with all of the one before, whatever was asked for."""
    said = [text for text in texts if text]
    grows = all(later.startswith(earlier) for earlier, later in pairwise(said))
    return said[-1] if len(said) > 1 and grows and texts[-1] else "".join(said)


def _calls(messages: list[Json]) -> list[Json]:
    calls: dict[int, Json] = {}
    for fragment in (fragment for message in messages for fragment in message.get("tool_calls") or []):
        call = calls.setdefault(fragment.get("index", 0), {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or fragment["id"]
        call["name"] = call["name"] or fragment["function"].get("name", "")
        call["arguments"] += fragment["function"].get("arguments", "")
    return [calls[index] for index in sorted(calls)]


def _says_something(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _usage(usage: Json) -> tuple[int | None, int | None, int | None, int | None, int | None]:
    prompt = usage.get("prompt_tokens_details", {})
    return (
        usage["input_tokens"],
        usage["output_tokens"],
        prompt.get("cached_tokens", usage.get("cached_tokens")),
        prompt.get("cache_creation_input_tokens"),
        usage.get("output_tokens_details", {}).get("reasoning_tokens"),
    )


def _class_of(status: int, code: str) -> str:
    known = {"InvalidApiKey": "CredentialsRejected", "DataInspectionFailed": "ContentFiltered"}
    by_status = {400: "TurnRefused", 401: "CredentialsRejected", 403: "PermissionDenied"}
    return known.get(code, by_status[status])

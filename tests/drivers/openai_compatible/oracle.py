"""What an answer says, by a second reading of the wire that shares no code with the driver.

Simple where the driver is fast: the whole body at once, every rule applied to the whole answer, no state. It knows
what the recordings need and is written from the wire's description alone. Where both readings agree, two people
would have to have made the same mistake.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

# Those whose own service takes <think> tags out of the content; all others may be raw local models.
_TAGS_TAKEN_OUT = {"openai", "deepseek", "moonshot", "qwen", "openrouter", "mistral", "xai"}
_WORDS = {
    "stop": ["stop", "eos", "end_turn"],
    "length": ["length", "max_tokens", "model_length"],
    "tool_calls": ["tool_calls", "tool_call", "function_call", "tool_use"],
    "content_filter": ["content_filter", "sensitive", "safety"],
    "context_overflow": ["model_context_window_exceeded"],
    "FAILED": ["error", "network_error", "insufficient_system_resource", "abort"],
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`calls`: (name, parsed arguments or None) in order. `usage`: input, output, cache_read, reasoning."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    call_ids: tuple[str, ...] = ()
    finish: str = ""
    usage: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)
    cost: float | None = None
    model: str = ""
    error: str = ""


def interpret(vendor: str, status: int, body: bytes) -> Verdict:
    """The verdict on a response. `error`: the class that it is, "" for an answer."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff").strip()
    if status != 200:
        return Verdict(error=_class_of(status, _error_text(json.loads(text)), json.loads(text)))
    if text[:1] in "{[":
        return _whole(vendor, json.loads(text))
    return _stream(vendor, text)


# -- the two forms of an answer ---------------------------------------------------------------------------------------


def _whole(vendor: str, answer: Json) -> Verdict:
    if answer.get("error"):
        return Verdict(error=_class_of(int(answer["error"].get("code", 0)), _error_text(answer), answer))
    choice = answer["choices"][0]
    message = choice["message"]
    return _verdict(vendor, [message], [choice], [answer], _whole_calls(message))


def _stream(vendor: str, text: str) -> Verdict:
    events = [block for block in re.split(r"(?:\r\n|\r|\n){2,}", text) if not block.lstrip().startswith(":")]
    data = ["\n".join(re.findall(r"^data: ?(.*)$", block, re.MULTILINE)).strip() for block in events]
    chunks = [json.loads(item) for item in data if item and item != "[DONE]"]
    for chunk in chunks:
        if chunk.get("error"):
            code = chunk["error"].get("status_code", chunk["error"].get("code", 0))
            return Verdict(error=_class_of(int(code), _error_text(chunk), chunk))
    choices = [choice for chunk in chunks for choice in chunk.get("choices") or [] if choice.get("index", 0) == 0]
    deltas = [choice["delta"] for choice in choices if choice.get("delta")]
    return _verdict(vendor, deltas, choices, chunks, _stream_calls(deltas))


def _verdict(vendor: str, messages: list[Json], choices: list[Json], tops: list[Json], calls: list[Json]) -> Verdict:
    content, thinking_parts = "", ""
    for message in messages:
        for part in _parts(message.get("content")):
            if part["type"] == "text":
                content += part["text"]
            elif part["type"] == "thinking":
                thinking_parts += "".join(inner["text"] for inner in part["thinking"])
    if not content:
        content = "".join((message.get("audio") or {}).get("transcript") or "" for message in messages)
    thinking = _reasoning(messages) or thinking_parts
    if not thinking and vendor not in _TAGS_TAKEN_OUT and (found := re.match(r"\s*<think>", content)):
        thinking, _, content = content[found.end() :].partition("</think>")
        content = content.lstrip("\n")
    if vendor in ("glm", "minimax"):
        content = re.sub(r"<\|(begin|end)_of_box\|>", "", content).lstrip("\n")
    refusal = "".join(message.get("refusal") or "" for message in messages)
    words = [choice["finish_reason"] for choice in choices if choice.get("finish_reason") is not None]
    natives = [choice["native_finish_reason"] for choice in choices if choice.get("native_finish_reason")]
    hidden = any(message.get("reasoning_details") for message in messages)
    anything = bool(content or thinking or refusal or calls or hidden)
    finish = _finish(words, natives, bool(calls), bool(refusal), anything)
    return Verdict(
        text=content,
        thinking=thinking,
        refusal=refusal,
        calls=tuple((call["name"], _arguments(call["arguments"])) for call in calls),
        call_ids=tuple(call["id"] for call in calls),
        finish=finish if finish not in ("GenerationFailed", "ContentFiltered") else "",
        error=finish if finish in ("GenerationFailed", "ContentFiltered") else "",
        usage=_usage(tops, choices),
        cost=_cost(tops),
        model=next((top["model"] for top in tops if top.get("model")), ""),
    )


# -- members ----------------------------------------------------------------------------------------------------------


def _parts(content: Any) -> list[Json]:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _reasoning(messages: list[Json]) -> str:
    """The first field of the list that holds anything in the whole answer."""
    for name in ("reasoning_content", "reasoning"):
        if text := "".join(message.get(name) or "" for message in messages):
            return text
    items = [item for message in messages for item in message.get("reasoning_details") or []]
    return "".join(item.get("text") or item.get("summary") or "" for item in items)


def _whole_calls(message: Json) -> list[Json]:
    calls = [
        {"id": call.get("id"), **(call["custom"] if call.get("type") == "custom" else call["function"])}
        for call in message.get("tool_calls") or []
    ]
    old = message.get("function_call")
    if not calls and old and old.get("name"):
        calls = [{"id": "", **old}]
    return calls


def _stream_calls(deltas: list[Json]) -> list[Json]:
    """Group the fragments: a fragment opens a call when it has an id that its index does not have yet."""
    calls: list[Json] = []
    for fragment in (fragment for delta in deltas for fragment in delta.get("tool_calls") or []):
        index, call_id, function = fragment.get("index"), fragment.get("id"), fragment.get("function") or {}
        same = [call for call in calls if call["index"] == index] if index is not None else calls[-1:]
        if not same or (call_id and same[-1]["id"] != call_id):
            same = [{"index": index, "id": call_id, "name": "", "arguments": ""}]
            calls += same
        if not same[-1]["arguments"]:
            same[-1]["name"] += function.get("name") or ""
        same[-1]["arguments"] += function.get("arguments") or ""
    return calls


def _arguments(text: Any) -> Any:
    if isinstance(text, dict):
        return text
    if text in (None, "", "null"):
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _finish(words: list[str], natives: list[str], calls: bool, refused: bool, anything: bool) -> str:
    if not words and not anything:
        return "GenerationFailed"
    word = next((word for word in words if word), "stop")
    neutral = next((name for name, known in _WORDS.items() if word in known), "unknown")
    if neutral == "FAILED":
        return "GenerationFailed"
    if neutral in ("stop", "tool_calls") and {"length", "max_output_tokens", "MAX_TOKENS"} & set(natives):
        return "length"
    if calls and neutral not in ("length", "content_filter"):
        return "tool_calls"
    if refused and neutral == "stop":
        return "content_filter"
    return "ContentFiltered" if neutral == "content_filter" and not anything else neutral


def _usage(tops: list[Json], choices: list[Json]) -> tuple[int | None, int | None, int | None, int | None]:
    sources = [top.get("usage") or (top.get("x_groq") or {}).get("usage") for top in tops]
    sources += [choice.get("usage") for choice in choices]
    last = next((usage for usage in reversed(sources) if usage), None)
    if last is None:
        return (None, None, None, None)
    prompt, completion, total = (last.get(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    reasoning = (last.get("completion_tokens_details") or {}).get("reasoning_tokens", last.get("reasoning_tokens"))
    cached = (last.get("prompt_tokens_details") or {}).get("cached_tokens")
    names = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "num_cached_tokens")
    for name in names:
        cached = last.get(name) if cached is None else cached
    if cached is not None:
        cached = min(cached, prompt)
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    return (prompt, completion, cached, None if reasoning is None else min(reasoning, completion))


def _cost(tops: list[Json]) -> float | None:
    for usage in (top.get("usage") for top in reversed(tops)):
        if usage:
            cost = usage.get("cost")
            cost = cost.get("total_cost") if isinstance(cost, dict) else cost
            ticks = usage.get("cost_in_usd_ticks")
            return cost if cost is not None else None if ticks is None else ticks / 10_000_000_000
    return None


# -- errors -----------------------------------------------------------------------------------------------------------


def _error_text(body: Any) -> str:
    return json.dumps(body)


def _class_of(status: int, text: str, body: Json) -> str:
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else body.get("code")
    if code == "tool_use_failed":
        return "GenerationFailed"
    if status == 403 and "usage guidelines" in text:
        return "ContentFiltered"
    if status == 403 and "not allowed to sample from this model" in text:
        return "ModelNotFound"
    if status == 404 and "support tool use" in text:
        return "TurnRefused"
    if status == 400 and ("Invalid model" in text or "not a valid model ID" in text):
        return "ModelNotFound"
    if status == 500 and ("not supported" in text or "requires" in text):
        return "TurnRefused"
    by_status = {401: "CredentialsRejected", 403: "PermissionDenied", 404: "ModelNotFound", 429: "RateLimited"}
    return by_status.get(status, "TurnRefused" if status < 500 else "ProviderUnavailable")

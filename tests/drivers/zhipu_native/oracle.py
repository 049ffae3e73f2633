"""What an answer says, by a second reading of the wire that shares no code with the driver.

Simple where the driver is fast: the whole body at once, every rule applied to the whole answer, no state. It knows what
the recordings and the hand-written replies need and is written from the wire's description alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
CLASSES = {
    "500": "ProviderUnavailable",
    "1002": "CredentialsRejected",
    "1214": "TurnRefused",
    "1301": "ContentFiltered",
    "1302": "RateLimited",
    "1303": "RateLimited",
    "1308": "QuotaExhausted",
    "1312": "Overloaded",
}
FINISHES = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "sensitive": "content_filter"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`calls`: (id, name, parsed arguments). `usage`: input, output, cache_read, reasoning. `hits`: of a search.

    `partial`: the text of an answer that an error ended.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[tuple[str, str, Any], ...] = ()
    finish: str = ""
    usage: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)
    model: str = ""
    request_id: str = ""
    hits: tuple[str, ...] = ()
    error: str = ""
    partial: str = ""


def interpret(status: int, headers: dict[str, str], body: bytes) -> Verdict:
    """The verdict on a response. `error`: the class that it is, "" for an answer."""
    said = body.decode("utf-8").strip()
    if status != 200:
        return Verdict(error=CLASSES[json.loads(said)["error"]["code"]])
    if said[0] == "{":
        chunks = [json.loads(said)]
    else:
        lines = [line[len("data:") :].strip() for line in said.split("\n") if line.startswith("data:")]
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
    messages = [choice.get("delta") or choice["message"] for choice in choices]
    text = "".join(message.get("content") or "" for message in messages).lstrip("\n")
    for mark in ("<|begin_of_box|>", "<|end_of_box|>"):
        text = text.replace(mark, "")
    for chunk in chunks:
        if "error" in chunk:
            return Verdict(error=CLASSES[chunk["error"]["code"]], partial=text)
    return Verdict(
        text=text,
        thinking="".join(message.get("reasoning_content") or "" for message in messages),
        calls=_calls([call for message in messages for call in message.get("tool_calls") or []]),
        finish=FINISHES[next(choice["finish_reason"] for choice in choices if choice.get("finish_reason"))],
        usage=_usage([chunk["usage"] for chunk in chunks if chunk.get("usage")][-1]),
        model=chunks[0]["model"],
        request_id=headers.get("x-log-id") or chunks[0].get("request_id") or chunks[0]["id"],
        hits=tuple(hit["title"] for chunk in chunks for hit in chunk.get("web_search", [])),
    )


def _calls(fragments: list[Json]) -> tuple[tuple[str, str, Any], ...]:
    """One call for each fragment with an id; those without one belong to the call of their index."""
    made: list[Json] = []
    for fragment in fragments:
        if "id" in fragment:
            made.append({"id": fragment["id"], "index": fragment["index"], **fragment["function"]})
        else:
            (known,) = [call for call in made if call["index"] == fragment["index"]]
            known["arguments"] += fragment["function"]["arguments"]
    return tuple((call["id"], call["name"], json.loads(call["arguments"])) for call in made)


def _usage(raw: Json) -> tuple[int | None, int | None, int | None, int | None]:
    cached = raw.get("prompt_tokens_details", {}).get("cached_tokens")
    reasoning = raw.get("completion_tokens_details", {}).get("reasoning_tokens")
    assert raw["total_tokens"] == raw["prompt_tokens"] + raw["completion_tokens"]
    return (raw["prompt_tokens"], raw["completion_tokens"], cached, reasoning)

"""Runs in an environment of its own, with the official SDK in it: holds conversations, and checks bodies by its types.

Not a test: test_sdk.py starts it. In: one JSON object on standard input, `base_url`, `conversations` and `bodies`.
Out: one JSON object, `problems` with the bodies. Of LoopForge runtime it imports nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import openai  # type: ignore[import-not-found]  # it lives in the other environment
from openai.types.chat import completion_create_params  # type: ignore[import-not-found]
from pydantic import BaseModel, TypeAdapter, ValidationError


class Point(BaseModel):
    x: int
    y: int


class Look(BaseModel):
    """Look at it."""

    at: str
    closely: bool


def main() -> None:
    asked = json.load(sys.stdin)
    for conversation in asked["conversations"]:
        hold(conversation, asked["base_url"])
    json.dump({"problems": {name: list(problems(body)) for name, body in asked["bodies"].items()}}, sys.stdout)


def hold(conversation: dict[str, Any], base_url: str) -> None:
    """Ask, append what came and the results of its calls, and ask again, as often as there are `rounds`."""
    client = client_for(conversation, base_url)
    messages = list(conversation["messages"])
    options = dict(conversation["options"])
    if options.get("tools") == "Look":
        options["tools"] = [openai.pydantic_function_tool(Look, name="look")]
    for _ in range(conversation["rounds"]):
        message = ask(client, conversation["how"], messages, options)
        messages.append(message)
        for call in message.tool_calls or []:
            content = conversation["results"][call.function.name]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        messages += conversation.get("then", [])


def client_for(conversation: dict[str, Any], base_url: str) -> Any:
    name = conversation["name"]
    if conversation["how"] == "azure":
        return openai.AzureOpenAI(
            azure_endpoint=f"{base_url}/{name}", api_version="2024-10-21", api_key="key", max_retries=0
        )
    return openai.OpenAI(base_url=f"{base_url}/{name}/v1", api_key="key", max_retries=0)


def ask(client: Any, how: str, messages: list[Any], options: dict[str, Any]) -> Any:
    chat = client.chat.completions
    if how == "parse":
        return chat.parse(messages=messages, response_format=Point, **options).choices[0].message
    if how == "stream":
        with chat.stream(messages=messages, stream_options={"include_usage": True}, **options) as stream:
            return stream.get_final_completion().choices[0].message
    return chat.create(messages=messages, **options).choices[0].message


def problems(body: dict[str, Any]) -> Iterator[str]:
    """What the SDK's own types have against a body."""
    form = (
        completion_create_params.CompletionCreateParamsStreaming
        if body["stream"]
        else completion_create_params.CompletionCreateParamsNonStreaming
    )
    known = {name for base in (form, *form.__orig_bases__) for name in getattr(base, "__annotations__", {})}
    if unknown := body.keys() - known:
        yield f"unknown: {sorted(unknown)}"
    adapter = TypeAdapter(form)  # it has to live as long as what it validates late
    try:
        consume(adapter.validate_python(body))
    except ValidationError as exc:
        yield str(exc)


def consume(value: Any) -> None:
    """Look at every member: pydantic checks what the types call Iterable only as it is read."""
    if isinstance(value, dict):
        for item in value.values():
            consume(item)
    elif hasattr(value, "__iter__") and not isinstance(value, str):
        for item in value:
            consume(item)


if __name__ == "__main__":
    main()

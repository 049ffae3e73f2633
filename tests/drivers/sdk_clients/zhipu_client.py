"""Holds conversations with `zhipuai`, or with `zai-sdk`, its successor with the same form, where that one is there."""

from __future__ import annotations

import json
from typing import Any

from holding import Json, Said, main  # type: ignore[import-not-found]  # a neighbour when this runs

try:
    from zhipuai import ZhipuAI as Client  # type: ignore[import-not-found]  # it lives in the other environment
except ImportError:
    from zai import ZhipuAiClient as Client  # type: ignore[import-not-found]

KEY = "0123456789abcdef0123456789abcdef.SecretSecret1234"
"""Of the form that these SDKs sign a token with, where they are told to keep one."""


class Chat:
    def __init__(self, base_url: str, how: str, asked: Json) -> None:
        cached = how == "signed"
        self._client = Client(
            base_url=f"{base_url}/api/paas/v4", api_key=KEY, max_retries=0, disable_token_cache=not cached
        )
        self._streamed = how == "stream"
        self._asked = asked

    def ask(self) -> Said:
        create = self._client.chat.completions.create
        if self._streamed:
            answers = [chunk.model_dump() for chunk in create(stream=True, **self._asked)]
            message = _together([choice["delta"] for answer in answers for choice in answer["choices"]])
        else:
            answers = [create(**self._asked).model_dump()]
            message = answers[0]["choices"][0]["message"]
        self._asked["messages"] = [*self._asked["messages"], message]
        usage = answers[-1]["usage"]
        return Said(
            text=message["content"] or "",
            thinking=message.get("reasoning_content") or "",
            calls=[
                [call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])]
                for call in message.get("tool_calls") or ()
            ],
            finish=answers[-1]["choices"][0]["finish_reason"],
            usage=[usage["prompt_tokens"], usage["completion_tokens"]],
        )

    def answer(self, results: list[tuple[list[Any], str, bool]]) -> None:
        for call, text, failed in results:
            content = f"Error: {text}" if failed else text
            self._asked["messages"].append({"role": "tool", "tool_call_id": call[0], "content": content})

    def say(self, text: str) -> None:
        self._asked["messages"].append({"role": "user", "content": text})


def _together(deltas: list[Json]) -> Json:
    message: Json = {"role": "assistant", "content": ""}
    calls: dict[int, Json] = {}
    for delta in deltas:
        message["content"] += delta.get("content") or ""
        if reasoning := delta.get("reasoning_content"):
            message["reasoning_content"] = message.get("reasoning_content", "") + reasoning
        for call in delta.get("tool_calls") or ():
            if call["index"] in calls:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            else:
                calls[call["index"]] = call
    return message | ({"tool_calls": list(calls.values())} if calls else {})


if __name__ == "__main__":
    main(Chat)

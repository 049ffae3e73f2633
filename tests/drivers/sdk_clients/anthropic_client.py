"""Holds conversations with the `anthropic` SDK: messages.create, or messages.stream as its helper puts it together."""

from __future__ import annotations

from typing import Any

import anthropic  # type: ignore[import-not-found]  # it lives in the other environment
from holding import Json, Said, main  # type: ignore[import-not-found]  # a neighbour when this runs


class Chat:
    """The answer goes back as the SDK's own objects: it writes them."""

    def __init__(self, base_url: str, how: str, asked: Json) -> None:
        self._client = anthropic.Anthropic(base_url=base_url, api_key="key", max_retries=0)
        self._streamed = how == "stream"
        self._asked = {name: value for name, value in asked.items() if name != "messages"}
        self._messages: list[Any] = list(asked["messages"])

    def ask(self) -> Said:
        message = self._message()
        self._messages.append({"role": "assistant", "content": message.content})
        blocks = message.content
        return Said(
            text="".join(block.text for block in blocks if block.type == "text"),
            thinking="".join(block.thinking for block in blocks if block.type == "thinking"),
            calls=[[block.id, block.name, block.input] for block in blocks if block.type == "tool_use"],
            finish=message.stop_reason,
            usage=[message.usage.input_tokens, message.usage.output_tokens],
        )

    def _message(self) -> Any:
        if not self._streamed:
            return self._client.messages.create(messages=self._messages, **self._asked)
        with self._client.messages.stream(messages=self._messages, **self._asked) as stream:
            return stream.get_final_message()

    def answer(self, results: list[tuple[list[Any], str, bool]]) -> None:
        blocks = [
            {"type": "tool_result", "tool_use_id": call[0], "content": text, **({"is_error": True} if failed else {})}
            for call, text, failed in results
        ]
        self._messages.append({"role": "user", "content": blocks})

    def say(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})


if __name__ == "__main__":
    main(Chat)

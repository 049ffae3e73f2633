"""Holds conversations with `dashscope`: Generation for text, MultiModalConversation for models that see.

"stream" puts the pieces of a stream together as the vendor's examples do. "merged" leaves that to the SDK, and "grown"
to the service: every piece then has all that came so far.
"""

from __future__ import annotations

import json
from typing import Any

import dashscope  # type: ignore[import-not-found]  # it lives in the other environment
from holding import Json, Said, main  # type: ignore[import-not-found]  # a neighbour when this runs

HOW: dict[str, Json] = {
    "whole": {},
    "stream": {"stream": True, "incremental_output": True},
    "merged": {"stream": True, "incremental_output": False},
    "grown": {"stream": True},
}


class AnswerError(Exception):
    """The SDK raises nothing: an error is an answer with another status."""


class Chat:
    def __init__(self, base_url: str, how: str, asked: Json) -> None:
        self._base_url = f"{base_url}/api/v1"
        self._how = how
        self._asked = dict(asked)
        multimodal = self._asked.pop("multimodal", False)
        self._multimodal = multimodal
        self._api = dashscope.MultiModalConversation if multimodal else dashscope.Generation

    def ask(self) -> Said:
        dashscope.base_http_api_url = self._base_url
        as_messages = {} if self._multimodal else {"result_format": "message"}
        answer = self._api.call(api_key="key", **as_messages, **HOW[self._how], **self._asked)
        pieces = [answer] if self._how == "whole" else list(answer)
        for piece in pieces:
            if piece.status_code != 200:
                raise AnswerError(f"{piece.status_code} {piece.code}: {piece.message}")
        choices = [json.loads(json.dumps(piece.output.choices[0])) for piece in pieces]
        message = _together(choices) if self._how == "stream" else choices[-1]["message"]
        self._asked["messages"] = [*self._asked["messages"], message]
        usage = pieces[-1].usage
        return Said(
            text=_text(message["content"]),
            thinking=message.get("reasoning_content") or "",
            calls=[
                [call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])]
                for call in message.get("tool_calls") or ()
            ],
            finish=choices[-1]["finish_reason"],
            usage=[usage.input_tokens, usage.output_tokens],
        )

    def answer(self, results: list[tuple[list[Any], str, bool]]) -> None:
        for call, text, failed in results:
            content = f"Error: {text}" if failed else text
            self._asked["messages"].append({"role": "tool", "tool_call_id": call[0], "content": self._content(content)})

    def say(self, text: str) -> None:
        self._asked["messages"].append({"role": "user", "content": self._content(text)})

    def _content(self, text: str) -> Any:
        return [{"text": text}] if self._multimodal else text


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _together(choices: list[Json]) -> Json:
    whole: Json = {"role": "assistant", "content": "", "reasoning_content": ""}
    calls: list[Json] = []
    seen = False
    for choice in choices:
        message = choice["message"]
        seen = seen or isinstance(message["content"], list)
        whole["content"] += _text(message["content"])
        whole["reasoning_content"] += message.get("reasoning_content") or ""
        for call in message.get("tool_calls") or ():
            if call["index"] == len(calls):
                calls.append(call)
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if seen:
        whole["content"] = [{"text": whole["content"]}]
    if calls:
        whole["tool_calls"] = calls
    return whole if whole["reasoning_content"] else {name: whole[name] for name in whole if name != "reasoning_content"}


if __name__ == "__main__":
    main(Chat)

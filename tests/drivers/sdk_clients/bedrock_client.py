"""Holds conversations with `boto3`: converse, or converse_stream, whose events a caller puts together himself."""

from __future__ import annotations

import json
from typing import Any

import boto3  # type: ignore[import-not-found]  # it lives in the other environment
from botocore.config import Config
from holding import Json, Said, main  # type: ignore[import-not-found]  # a neighbour when this runs

ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"})


class Chat:
    def __init__(self, base_url: str, how: str, asked: Json) -> None:
        self._client = boto3.client(
            "bedrock-runtime",
            endpoint_url=base_url,
            region_name="us-west-2",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            config=ONCE,
        )
        self._streamed = how == "stream"
        self._asked = asked

    def ask(self) -> Said:
        answer = self._streamed_answer() if self._streamed else self._client.converse(**self._asked)
        message = answer["output"]["message"]
        self._asked["messages"].append(message)
        content = message["content"]
        calls = [block["toolUse"] for block in content if "toolUse" in block]
        return Said(
            text="".join(block.get("text", "") for block in content),
            thinking="".join(
                block["reasoningContent"]["reasoningText"]["text"] for block in content if "reasoningContent" in block
            ),
            calls=[[call["toolUseId"], call["name"], call["input"]] for call in calls],
            finish=answer["stopReason"],
            usage=[answer["usage"]["inputTokens"], answer["usage"]["outputTokens"]],
        )

    def _streamed_answer(self) -> Json:
        answer: Json = {}
        blocks: dict[int, Json] = {}
        for event in self._client.converse_stream(**self._asked)["stream"]:
            match event:
                case {"messageStart": {"role": role}}:
                    answer["output"] = {"message": {"role": role}}
                case {"contentBlockStart": {"contentBlockIndex": at, "start": {"toolUse": call}}}:
                    blocks[at] = {"toolUse": {**call, "input": ""}}
                case {"contentBlockDelta": {"contentBlockIndex": at, "delta": delta}}:
                    _extend(blocks.setdefault(at, {}), delta)
                case {"contentBlockStop": {"contentBlockIndex": at}}:
                    if call := blocks[at].get("toolUse"):
                        call["input"] = json.loads(call["input"] or "{}")
                case {"messageStop": stop}:
                    answer |= stop
                case {"metadata": metadata}:
                    answer |= metadata
                case _:
                    raise ValueError(f"an event without a place here: {event}")
        answer["output"]["message"]["content"] = [blocks[at] for at in sorted(blocks)]
        return answer

    def answer(self, results: list[tuple[list[Any], str, bool]]) -> None:
        blocks = [
            {
                "toolResult": {
                    "toolUseId": call[0],
                    "content": [{"text": text}],
                    **({"status": "error"} if failed else {}),
                }
            }
            for call, text, failed in results
        ]
        self._asked["messages"].append({"role": "user", "content": blocks})

    def say(self, text: str) -> None:
        self._asked["messages"].append({"role": "user", "content": [{"text": text}]})


def _extend(block: Json, delta: Json) -> None:
    match delta:
        case {"text": text}:
            block["text"] = block.get("text", "") + text
        case {"toolUse": {"input": text}}:
            block["toolUse"]["input"] += text
        case {"reasoningContent": pieces}:
            reasoning = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {"text": ""})
            for name, piece in pieces.items():
                reasoning[name] = reasoning.get(name, "") + piece


if __name__ == "__main__":
    main(Chat)

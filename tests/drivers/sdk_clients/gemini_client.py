"""Holds conversations with `google-genai`: models.generate_content, or generate_content_stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google import genai  # type: ignore[import-not-found]  # it lives in the other environment
from google.genai import types  # type: ignore[import-not-found]
from holding import Json, Said, main  # type: ignore[import-not-found]  # a neighbour when this runs


class Chat:
    """The parts of an answer go back as the SDK's own objects, each as it came: Google's guide to signatures."""

    def __init__(self, base_url: str, how: str, asked: Json) -> None:
        self._client = genai.Client(api_key="key", http_options=types.HttpOptions(base_url=base_url))
        self._streamed = how == "stream"
        self._model = asked["model"]
        self._config = types.GenerateContentConfig.model_validate(asked.get("config") or {})
        self._contents = [types.Content.model_validate(content) for content in asked["contents"]]

    def ask(self) -> Said:
        answers = list(self._answers())
        parts = [part for answer in answers for part in (answer.candidates[0].content.parts or [])]
        parts = [part for part in parts if part.text != ""]  # what closes a stream
        self._contents.append(types.Content(role="model", parts=parts))
        usage = answers[-1].usage_metadata
        calls = [part.function_call for part in parts if part.function_call]
        return Said(
            text="".join(part.text for part in parts if part.text and not part.thought),
            thinking="".join(part.text for part in parts if part.text and part.thought),
            calls=[[call.id, call.name, call.args] for call in calls],
            finish=answers[-1].candidates[0].finish_reason.value,
            usage=[
                usage.prompt_token_count,
                (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
            ],
        )

    def _answers(self) -> Iterator[Any]:
        asked = {"model": self._model, "contents": self._contents, "config": self._config}
        if self._streamed:
            yield from self._client.models.generate_content_stream(**asked)
        else:
            yield self._client.models.generate_content(**asked)

    def answer(self, results: list[tuple[list[Any], str, bool]]) -> None:
        parts = [
            types.Part(
                function_response=types.FunctionResponse(
                    id=call[0], name=call[1], response={"error" if failed else "output": text}
                )
            )
            for call, text, failed in results
        ]
        self._contents.append(types.Content(role="user", parts=parts))

    def say(self, text: str) -> None:
        self._contents.append(types.Content(role="user", parts=[types.Part(text=text)]))


if __name__ == "__main__":
    main(Chat)

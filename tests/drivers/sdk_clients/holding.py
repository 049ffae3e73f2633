"""The frame of every client here. Standard library only, and run as a neighbour of the script that imports it.

In: one JSON object on standard input, `base_url` and `conversations` (see tests/drivers/sdks.py). Out: one JSON object,
by conversation what the SDK made of each answer.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass
class Said:
    """An answer as the SDK gives it. `calls`: id, name and arguments of each. `usage`: input and output tokens."""

    text: str = ""
    thinking: str = ""
    calls: list[list[Any]] = field(default_factory=list)
    finish: str = ""
    usage: list[int | None] = field(default_factory=lambda: [None, None])


class Chat(Protocol):
    """One conversation in the SDK's own words. It keeps the messages."""

    def ask(self) -> Said:
        """Send what there is, and keep the answer as the SDK's documentation says it goes back."""

    def answer(self, results: list[tuple[list[Any], str, bool]]) -> None:
        """Add the results of all calls of the last answer: call, text, whether it is an error."""

    def say(self, text: str) -> None:
        """Add what the user says next."""


def main(open_chat: Callable[[str, str, Json], Chat]) -> None:
    """`open_chat`: of a base URL, a method's name and its keyword arguments."""
    given = json.load(sys.stdin, object_hook=_with_bytes)
    said = {item["name"]: _hold(item, given["base_url"], open_chat) for item in given["conversations"]}
    json.dump(said, sys.stdout)


def _hold(item: Json, base_url: str, open_chat: Callable[[str, str, Json], Chat]) -> list[Json]:
    chat = open_chat(f"{base_url}/{item['name']}", item["how"], item["asked"])
    told: list[Json] = []
    later = list(item["then"])
    while True:
        try:
            said = chat.ask()
        except Exception as exc:  # noqa: BLE001 - each SDK has classes of its own: which, is what is asked for
            return [*told, {"error": type(exc).__name__, "words": str(exc)}]
        told.append(asdict(said))
        if said.calls:
            chat.answer([(call, item["results"][call[1]], call[1] in item["failing"]) for call in said.calls])
        elif later:
            chat.say(later.pop(0))
        else:
            return told


def _with_bytes(value: Json) -> Any:
    return base64.b64decode(value["$bytes"]) if value.keys() == {"$bytes"} else value

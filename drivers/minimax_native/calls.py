"""The calls of one answer: those for the client, and apart from them those of tools that the vendor runs itself.

What tells calls apart is the index, where there is none the place in the list. A call of another type than function
(web_search) is none for the client: it is kept as it came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from loopforge.drivers.conversation import arguments_text
from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.tool_fragments import ToolCalls
from loopforge.drivers.turn import Delta, JsonObject, Opaque

MAX_OTHERS: Final = 1024 * 1024  # characters over all calls that are not the client's, with _PIECE for each fragment
_PIECE = 64  # what keeping one more string costs beside its characters


@dataclass(slots=True)
class _Other:
    """A call of the vendor's own tool."""

    type: str
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Calls:
    """Feed the `tool_calls` lists in order. `origin`: marks the answer's opaque data; `id_seed`: for missing ids."""

    def __init__(self, provider: str, origin: Opaque, id_seed: str) -> None:
        self._provider = provider
        self._calls = ToolCalls(provider, origin, id_seed)
        self._others: dict[int, _Other] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many of them are the client's."""
        return len(self._calls)

    def add(self, fragments: list[object], out: list[Delta], *, whole: bool) -> None:
        """Take a `tool_calls` list; `whole`: each of its members is a call by itself."""
        for place, fragment in enumerate(fragments):
            if not isinstance(fragment, dict):
                continue
            index = fragment.get("index")
            index = index if isinstance(index, int) else place
            kind = fragment.get("type")
            if isinstance(kind, str) and kind not in ("", "function"):
                self._add_other(index, kind, fragment)
            elif index in self._others and not kind and not whole:
                self._add_other(index, "", fragment)
            else:
                self._calls.add({**fragment, "index": index}, out, whole=whole)

    def add_legacy(self, function_call: JsonObject, out: list[Delta]) -> None:
        """Take the `function_call` of old: one call, without index or id."""
        self._calls.add_legacy(function_call, out)

    def end(self, out: list[Delta]) -> None:
        """No more fragments: each call is ended with its parsed arguments."""
        self._calls.end(out)

    def take_others(self) -> list[JsonObject]:
        """The calls that are not the client's; they are not kept."""
        others, self._others = self._others, {}
        return [
            {
                "id": other.id,
                "type": other.type,
                "function": {"name": other.name, "arguments": "".join(other.arguments)},
            }
            for other in others.values()
        ]

    def _add_other(self, index: int, kind: str, fragment: JsonObject) -> None:
        inner = fragment.get("function")
        inner = inner if isinstance(inner, dict) else {}
        arguments = inner.get("arguments")
        if isinstance(arguments, dict | list):
            arguments = arguments_text(arguments)
        call_id, name, text = (
            value if isinstance(value, str) else "" for value in (fragment.get("id"), inner.get("name"), arguments)
        )
        self._size += len(call_id) + len(name) + len(text) + len(kind) + _PIECE
        if self._size > MAX_OTHERS:
            raise WireMismatch(
                self._provider, f"calls of the provider's own tools of more than {MAX_OTHERS} characters"
            )
        other = self._others.setdefault(index, _Other(kind))
        other.id = other.id or call_id
        other.name = other.name or name
        if text:
            other.arguments.append(text)

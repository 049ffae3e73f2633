"""Tool calls put together from their fragments, in all the ways vendors cut them.

One call is one fragment with everything, or an opening one (id, name) and many with arguments. What tells calls apart
is the index, where there is one, else the id; a new id on a known index is a new call, for some gateways number every
call 0. Names, and ids that come late, are only taken until arguments have come; an empty value never replaces one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from loopforge.drivers.conversation import arguments_text, made_call_id, whole_call
from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.json_values import is_portable, parse_object
from loopforge.drivers.turn import (
    Delta,
    JsonObject,
    Opaque,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)

MAX_CALLS = 1000
MAX_ARGUMENTS = 64 * 1024 * 1024  # characters over all calls of an answer, with PIECE for each fragment
PIECE = 64  # what keeping one more string costs beside its characters


@dataclass(slots=True)
class _Call:
    index: int
    id: str = ""
    name: str = ""
    custom: bool = False
    pieces: list[str] = field(default_factory=list)
    started: bool = False
    ended: bool = False
    extra: JsonObject | None = None


class ToolCalls:
    """The calls of one answer. `origin`: what an opaque part of this answer is marked with."""

    def __init__(self, provider: str, origin: Opaque, id_seed: str) -> None:
        self._provider = provider
        self._origin = origin
        self._id_seed = id_seed
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, fragment: object, out: list[Delta], *, whole: bool = False) -> None:
        """Take one member of `tool_calls`. `whole`: it is a call by itself, whatever its index."""
        if not isinstance(fragment, Mapping):
            return
        call_id = _text(fragment.get("id"))
        inner, custom = _function(fragment)
        name, arguments = _text(inner.get("name")), inner.get("input" if custom else "arguments")
        text = _text_of(arguments)
        call = self._open(None, call_id) if whole else self._find(fragment.get("index"), call_id, name, text)
        if call_id and not call.id and not call.started:
            call.id = call_id
            self._by_id.setdefault(call_id, call)
        call.custom = call.custom or custom
        if isinstance(extra := fragment.get("extra_content"), dict) and extra and is_portable(extra):
            call.extra = extra
        if name and not call.pieces and name != call.name:
            self._grow(len(name))
            call.name += name
        if text:
            self._add_arguments(call, text, out)

    def add_legacy(self, function_call: object, out: list[Delta]) -> None:
        """Take the `function_call` of old: one call, without index or id."""
        if isinstance(function_call, Mapping) and any(function_call.get(key) for key in ("name", "arguments")):
            self.add({"index": 0, "function": function_call}, out)

    def end(self, out: list[Delta]) -> None:
        """No more fragments: each call is started, if it was not, and ended with its parsed arguments."""
        for call in self._calls:
            self._start(call, out)
            if not call.ended:
                call.ended = True
                out.append(ToolCallEnd(call.index, self._whole(call)))

    def _find(self, index: object, call_id: str, name: str, text: str) -> _Call:
        if isinstance(index, str) and index.isdecimal() and len(index) < 9:
            index = int(index)
        if isinstance(index, int):
            known = self._by_index.get(index)
            if known is None or known.ended or (call_id and known.id and call_id != known.id):
                return self._open(index, call_id)
            if not call_id and name and text and known.pieces and parse_object("".join(known.pieces)) is not None:
                return self._open(index, "")  # another whole call: the one before it is complete
            return known
        last = self._calls[-1] if self._calls else None
        known = self._by_id.get(call_id) if call_id else last
        return self._open(None, call_id) if known is None or known.ended else known

    def _open(self, index: int | None, call_id: str) -> _Call:
        if len(self._calls) >= MAX_CALLS:
            raise WireMismatch(self._provider, f"the answer holds more than {MAX_CALLS} tool calls")
        call = _Call(len(self._calls), call_id)
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        if call_id:
            self._by_id[call_id] = call
        return call

    def _add_arguments(self, call: _Call, text: str, out: list[Delta]) -> None:
        self._grow(len(text) + PIECE)
        if not call.started:
            for earlier in self._calls[: call.index]:
                self._start(earlier, out)  # calls start in order
            self._start(call, out)
        call.pieces.append(text)
        out.append(ToolCallArguments(call.index, text))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_ARGUMENTS:
            raise WireMismatch(self._provider, f"tool call arguments of more than {MAX_ARGUMENTS} characters")

    def _start(self, call: _Call, out: list[Delta]) -> None:
        if not call.started:
            call.started = True
            call.id = call.id or made_call_id(self._id_seed, call.index)
            out.append(ToolCallStart(call.index, call.id, call.name))

    def _whole(self, call: _Call) -> ToolCall:
        text = "".join(call.pieces)
        opaque = None
        if call.extra is not None:
            data = {**self._origin.data, "extra_content": call.extra}
            opaque = Opaque(provider=self._origin.provider, model=self._origin.model, data=data)
        if call.custom:
            return ToolCall(id=call.id, name=call.name, arguments=text, custom=True, opaque=opaque)
        return replace(whole_call(call.id, call.name, text), opaque=opaque)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _function(fragment: Mapping[str, object]) -> tuple[Mapping[str, object], bool]:
    """The member that holds name and arguments, and whether it is a custom call. Snowflake sends both, one empty."""
    function, custom = fragment.get("function"), fragment.get("custom")
    if isinstance(custom, Mapping) and (fragment.get("type") == "custom" or not isinstance(function, Mapping)):
        return custom, True
    return (function, False) if isinstance(function, Mapping) else ({}, False)


def _text_of(arguments: object) -> str:
    """The arguments as text; a vendor that sends an object means its JSON."""
    if isinstance(arguments, str):
        return arguments
    if isinstance(arguments, dict | list):
        return arguments_text(arguments)
    return ""

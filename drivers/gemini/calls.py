"""Function calls: whole in one part, as they come nearly always, or in partial arguments, each with a JSON path.

A call's id is the wire's where it sent one that tells its calls apart, else made here; only the former goes back.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loopforge.drivers.conversation import arguments_text, made_call_id, whole_call
from loopforge.drivers.errors import WireMismatch
from loopforge.drivers.gemini.draft import made_here
from loopforge.drivers.json_values import MAX_DEPTH
from loopforge.drivers.turn import (
    Delta,
    JsonObject,
    Opaque,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)

MAX_CALLS = 1000
MAX_ARGUMENTS = 64 * 1024 * 1024  # characters of all partial arguments, with PIECE for each
PIECE = 64  # what keeping one more string costs beside its characters
_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d{1,6})\]|\['([^']*)'\]|\["([^"]*)"\]""")
_VALUES = ("stringValue", "numberValue", "boolValue", "nullValue")


@dataclass(slots=True)
class _Call:
    """A call whose arguments are coming. `values`: by JSON path, strings in pieces."""

    index: int
    id: str
    name: str
    base: JsonObject
    opaque: Opaque | None
    values: dict[str, Any] = field(default_factory=dict)
    growing: set[str] = field(default_factory=set)


class Calls:
    """The calls of one answer. `answer_name`: the function whose arguments are the answer's text, "" for none."""

    def __init__(self, provider: str, model: str, id_seed: str, answer_name: str) -> None:
        self.made = 0
        self._provider = provider
        self._model = model
        self._id_seed = id_seed
        self._answer_name = answer_name
        self._ids: set[str] = set()
        self._open: _Call | None = None
        self._size = 0

    def add(self, wire: Mapping[str, Any], signature: str, out: list[Delta]) -> None:
        """Take one `functionCall`. Without a name it goes on with the call before, or ends it."""
        name = wire.get("name")
        pieces = wire.get("partialArgs")
        if isinstance(name, str) and name:
            self.end(out)
            call = self._start(name, wire, signature, out)
            if wire.get("willContinue") is not True and not pieces:
                self._finish(call, out)
                return
            self._open = call
        if self._open is None:
            return  # the end sign of a call that was whole
        if isinstance(pieces, list):
            for piece in pieces:
                self._add_piece(self._open, piece)
        if wire.get("willContinue") is not True:
            self.end(out)

    def end(self, out: list[Delta]) -> None:
        """The call under way, if there is one, is complete: its end sign may be missing."""
        if self._open is not None:
            call, self._open = self._open, None
            self._finish(call, out)

    def _start(self, name: str, wire: Mapping[str, Any], signature: str, out: list[Delta]) -> _Call:
        if name == self._answer_name:
            return _Call(-1, "", name, _arguments(wire), None)
        if self.made >= MAX_CALLS:
            raise WireMismatch(self._provider, f"the answer holds more than {MAX_CALLS} tool calls")
        call_id = wire.get("id")
        own = isinstance(call_id, str) and bool(call_id) and call_id not in self._ids
        call_id = call_id if own and isinstance(call_id, str) else made_call_id(self._id_seed, self.made)
        self._ids.add(call_id)
        data: JsonObject = {"id": True} if own else {}
        if signature:
            data["signature"] = signature
        opaque = made_here(self._provider, self._model, **data) if data else None
        call = _Call(self.made, call_id, name, _arguments(wire), opaque)
        self.made += 1
        out.append(ToolCallStart(call.index, call.id, call.name))
        return call

    def _finish(self, call: _Call, out: list[Delta]) -> None:
        text, valid = _whole_text(call)
        if call.index < 0:
            out.append(TextDelta(text))
            return
        whole = whole_call(call.id, call.name, text, call.opaque)
        if not valid:
            whole = replace(whole, parsed=None, invalid=True)
        out += (ToolCallArguments(call.index, text), ToolCallEnd(call.index, whole))

    def _add_piece(self, call: _Call, piece: object) -> None:
        if not isinstance(piece, Mapping):
            return
        path = piece.get("jsonPath")
        kind = next((name for name in _VALUES if name in piece), "")
        if not isinstance(path, str) or not kind:
            return
        value = None if kind == "nullValue" else piece[kind]
        self._size += len(path) + (len(value) if isinstance(value, str) else 0) + PIECE
        if self._size > MAX_ARGUMENTS:
            raise WireMismatch(self._provider, f"tool call arguments of more than {MAX_ARGUMENTS} characters")
        if not isinstance(value, str):
            call.values[path] = value
        elif path in call.growing:
            call.values[path].append(value)
        else:
            call.values[path] = [value]
        if isinstance(value, str) and piece.get("willContinue") is True:
            call.growing.add(path)
        else:
            call.growing.discard(path)


def _arguments(wire: Mapping[str, Any]) -> Any:
    args = wire.get("args")
    return {} if args is None else args


def _whole_text(call: _Call) -> tuple[str, bool]:
    """The arguments as JSON text, and whether every path led somewhere."""
    if not call.values:
        return arguments_text(call.base), True
    values = {path: "".join(value) if isinstance(value, list) else value for path, value in call.values.items()}
    whole = copy.deepcopy(call.base)
    for path, value in values.items():
        steps = _steps(path)
        if not steps or not _put(whole, steps, value):
            return arguments_text(values), False
    return arguments_text(whole), True


def _steps(path: str) -> list[str | int]:
    """The names and places of `$.a[0]['b']`; [] for a path of another form."""
    rest = path.removeprefix("$")
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        found = _STEP.match(rest, at)
        if found is None or len(steps) >= MAX_DEPTH - 2:
            return []
        name, place, single, double = found.groups()
        steps.append(
            int(place) if place is not None else next(key for key in (name, single, double) if key is not None)
        )
        at = found.end()
    return steps


def _put(target: Any, steps: list[str | int], value: Any) -> bool:
    """Set the value at the end of the path, making what is missing on the way; False where it leads nowhere."""
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        below: Any = value if last else [] if isinstance(steps[number + 1], int) else {}
        if isinstance(step, int):
            if not isinstance(target, list) or step > len(target):
                return False
            if step == len(target):
                target.append(below)
            elif last:
                target[step] = below
        else:
            if not isinstance(target, dict):
                return False
            if last:
                target[step] = below
            else:
                target.setdefault(step, below)
        target = target[step]
    return True

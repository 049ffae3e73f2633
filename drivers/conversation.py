"""What every wire asks of a conversation, whatever its form: order of calls and results, ids, arguments. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from loopforge.drivers.draft import Draft
from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.json_values import parse_object
from loopforge.drivers.turn import JsonObject, Message, Opaque, ToolCall, ToolResult

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps makes one each time


def check_order(messages: Iterable[Message], draft: Draft) -> None:
    """Raises TurnRefused unless each tool call is answered once, directly after the message that made it."""
    open_calls: dict[str, str] = {}
    for message in messages:
        for part in message.content:
            if isinstance(part, ToolResult):
                if part.call_id not in open_calls:
                    raise draft.refuse(
                        f"the tool result {part.call_id!r} answers no call of the message before it",
                        "put each result directly after the assistant message that made the call",
                    )
                del open_calls[part.call_id]
        has_other = any(not isinstance(part, ToolResult) for part in message.content) or message.role == "assistant"
        if open_calls and has_other:
            raise _unanswered(open_calls, draft)
        if message.role == "assistant":
            for call in message.tool_calls:
                if call.id in open_calls:
                    raise draft.refuse(f"two tool calls have the id {call.id!r}", "give each call its own id")
                open_calls[call.id] = call.name
    if open_calls:
        raise _unanswered(open_calls, draft)


def _unanswered(open_calls: dict[str, str], draft: Draft) -> TurnRefused:
    call_id, name = next(iter(open_calls.items()))
    return draft.refuse(
        f"the call {call_id!r} of tool {name!r} has no result", "add a tool result for it, even if the tool did not run"
    )


def call_names(messages: Iterable[Message]) -> dict[str, str]:
    """The tool's name by call id: results need it on some wires, and may not carry it."""
    return {call.id: call.name for message in messages for call in message.tool_calls}


def wire_call_id(call_id: str, *, pattern: str, chars: int) -> str:
    """The id itself where it fits `pattern`, else one of `chars` characters [0-9a-z] that always comes out the same."""
    if re.fullmatch(pattern, call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest(), "big")
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 36)
        digits.append(_BASE36[digit])
    return "".join(digits)


def made_call_id(seed: str, index: int) -> str:
    """An id for a call that came without one: the same however the bytes were cut, another in every answer."""
    return f"call_{hashlib.sha256(f'{seed}/{index}'.encode('utf-8', 'replace')).hexdigest()[:24]}"


def arguments_object(call: ToolCall, draft: Draft) -> JsonObject:
    """A call's arguments as the object that most wires want. What is none goes into a member that says so."""
    if call.custom:
        draft.note("this wire knows no custom tool calls: one was sent as a function call")
        return {"input": call.arguments}
    if call.parsed is not None:
        return call.parsed
    parsed = parse_object(call.arguments or "{}")
    if parsed is None:
        draft.note("a tool call with invalid arguments was sent back with its text in invalid_json")
        return {"invalid_json": call.arguments}
    return parsed


def whole_call(call_id: str, name: str, text: str, opaque: Opaque | None = None) -> ToolCall:
    """A finished call from its raw arguments: "" and null are {}, invalid JSON keeps its text and is marked."""
    if text.strip() in ("", "null"):
        text = "{}"
    parsed = parse_object(text)
    return ToolCall(id=call_id, name=name, arguments=text, parsed=parsed, invalid=parsed is None, opaque=opaque)


def arguments_text(arguments: object) -> str:
    """Arguments that came as an object, as the text a ToolCall keeps."""
    return _write(arguments)

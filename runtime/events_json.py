r"""Events of a turn as JSON, one object a line: what `loopforge ask --json` prints. Pure.

The format is stable: members may be added, none is renamed or removed. Each line is ASCII (other characters as
\uXXXX), has no line break inside, and names its event in the first member:

    {"event": "accepted", "id"}                       the runtime holds the turn; it will end exactly once
    {"event": "started", "provider", "model", "attempt"}
    {"event": "text", "text"}                         a piece of the answer
    {"event": "thinking", "text"}                     a piece of the reasoning
    {"event": "refusal", "text"}                      a piece of the model's words for declining
    {"event": "tool_call_start", "index", "id", "name"}
    {"event": "tool_call_arguments", "index", "text"} a piece of the raw arguments
    {"event": "tool_call_end", "index", "call"}       the call whole; "invalid": true means never run it
    {"event": "part_end", "opaque"}                   closes the text, thinking or refusal that was coming
    {"event": "part", "part"}                         a part that does not stream: media, an opaque block
    {"event": "usage", "usage"}                       the latest count, replaces earlier ones
    {"event": "notice", "text"}                       something worth knowing; also in the reply's warnings
    {"event": "info", "model", "request_id", "limits"} what the response says of itself
    {"event": "finished", "finish", "raw"}            the provider's own end of the answer
    {"event": "restarted", "why", "provider"}         drop what came since "started"; the turn goes on at "provider"
    {"event": "gap"}                                  events are missing here; the reply at the end is whole

The last line is the outcome, exactly one of:

    {"event": "done", "text", "reply"}                "reply": the whole Reply, every member; "text": its text joined
    {"event": "failed", "class", "message", "action", "retry_after_s", "what", "provider", "model", "scope", "status",
     "raw", "request_id", "reset_at", "started", "text", "partial"}
    {"event": "cancelled", "why"}

Of "failed": branch on "class" (RateLimited, NoRoute, ...), show "message", do "action"; "retry_after_s" is null when
nobody named a time; "partial" is the message as far as it had come, or null, and "text" its text. Reply, parts, calls
and usage have the members of drivers/turn.py; bytes are base64 text; a number that JSON cannot write (NaN) is null.
"""

from __future__ import annotations

import json
import math
from typing import Any, assert_never

from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import (
    Accepted,
    Cancelled,
    Done,
    Event,
    Failed,
    Finished,
    Gap,
    Notice,
    PartEnd,
    RefusalDelta,
    ResponseInfo,
    Restarted,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    UsageDelta,
    WholePart,
)
from loopforge.workers.packing import to_plain


def event_line(event: Event) -> str:
    """The event as one line of JSON, with its line break; all ASCII."""
    return json.dumps(event_to_json(event), allow_nan=False, separators=(",", ":")) + "\n"


def event_to_json(event: Event) -> dict[str, Any]:
    """The event as values that json.dumps takes."""
    match event:
        case TextDelta(text):
            return {"event": "text", "text": text}
        case ThinkingDelta(text):
            return {"event": "thinking", "text": text}
        case RefusalDelta(text):
            return {"event": "refusal", "text": text}
        case ToolCallStart(index, id, name):
            return {"event": "tool_call_start", "index": index, "id": id, "name": name}
        case ToolCallArguments(index, text):
            return {"event": "tool_call_arguments", "index": index, "text": text}
        case ToolCallEnd(index, call):
            return {"event": "tool_call_end", "index": index, "call": _plain(call)}
        case PartEnd(opaque):
            return {"event": "part_end", "opaque": _plain(opaque)}
        case WholePart(part):
            return {"event": "part", "part": _plain(part)}
        case UsageDelta(usage):
            return {"event": "usage", "usage": _plain(usage)}
        case Notice(text):
            return {"event": "notice", "text": text}
        case ResponseInfo(model, request_id, limits):
            return {"event": "info", "model": model, "request_id": request_id, "limits": _plain(limits)}
        case Finished(finish, raw):
            return {"event": "finished", "finish": finish, "raw": raw}
        case Accepted(id):
            return {"event": "accepted", "id": id}
        case Started(provider, model, attempt):
            return {"event": "started", "provider": provider, "model": model, "attempt": attempt}
        case Restarted(why, provider):
            return {"event": "restarted", "why": why, "provider": provider}
        case Gap():
            return {"event": "gap"}
        case Done(reply):
            return {"event": "done", "text": reply.text, "reply": _plain(reply)}
        case Failed(error):
            return {"event": "failed", **_error_to_json(error)}
        case Cancelled(why):
            return {"event": "cancelled", "why": why}
        case _:
            assert_never(event)


def _error_to_json(error: Exception) -> dict[str, Any]:
    if not isinstance(error, TurnError):  # Failed promises no more than an Exception
        error = TurnError(what=f"{type(error).__name__}: {error}")
    return {
        "class": type(error).__name__,
        "message": str(error),
        "action": error.action,
        "retry_after_s": _finite(error.retry_after_s),
        "what": error.what,
        "provider": error.provider,
        "model": error.model,
        "scope": error.scope,
        "status": error.status,
        "raw": error.raw,
        "request_id": error.request_id,
        "reset_at": _finite(error.reset_at),
        "started": error.started,
        "text": "" if error.partial is None else error.partial.text,
        "partial": _plain(error.partial),
    }


def _plain(value: object) -> Any:
    return _finite(to_plain(value, defaults=True, text_bytes=True))


def _finite(value: Any) -> Any:
    """The value with null for each NaN and infinity: they come in tool arguments, and JSON has no word for them."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [_finite(item) for item in value]
        case dict():
            return {key: _finite(item) for key, item in value.items()}
    return value

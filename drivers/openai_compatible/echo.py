"""Earlier reasoning on its way back: which field, on which messages, and only to the provider and model it came from.

The reader marks every thinking part with the field it came in, and keeps what must go back verbatim. Reasoning of this
origin that its own API does not take back is left out without a notice: nobody there would have read it.
"""

from __future__ import annotations

from typing import Final

from loopforge.drivers.openai_compatible.draft import Draft
from loopforge.drivers.turn import JsonObject, Message, OpaquePart, Thinking

# Where reasoning text came from: a field of the message, or one of these two.
TAGS: Final = "think"
PARTS: Final = "content"


def mark(vendor: str, **data: object) -> JsonObject:
    """The opaque data of a part that came from this vendor."""
    return {"vendor": vendor, **data}


def add_reasoning(wire: JsonObject, message: Message, draft: Draft, *, in_tool_loop: bool) -> None:
    """Put the message's reasoning and opaque members where the vendor wants them again, or leave them out."""
    texts: dict[str, str] = {}
    members: JsonObject = {}
    for part in message.content:
        if isinstance(part, Thinking):
            if (data := draft.data_of(part.opaque)) is not None:
                name = str(data.get("field", ""))
                texts[name] = texts.get(name, "") + part.text
            else:
                draft.note("earlier reasoning that is not of this provider and model was not sent")
        elif isinstance(part, OpaquePart):
            if (data := draft.data_of(part.opaque)) is not None:
                members |= data
            else:
                draft.note("opaque parts of another provider or model were not sent")
    if "extra_content" in members:
        wire["extra_content"] = members["extra_content"]
    if "annotations" in members and draft.profile.echo_annotations:
        wire["annotations"] = members["annotations"]
    rule = draft.profile.echo
    if rule == "with_tool_calls":
        if "tool_calls" in wire:
            wire["reasoning_content"] = texts.get("reasoning_content", "")
    elif rule == "always" or (rule == "tool_loop" and in_tool_loop):
        if "reasoning_details" in members:
            wire["reasoning_details"] = members["reasoning_details"]
        _put(wire, texts, with_fields="reasoning_details" not in members)


def _put(wire: JsonObject, texts: dict[str, str], *, with_fields: bool) -> None:
    for name, text in texts.items():
        if name == TAGS:
            wire["content"] = f"<think>{text}</think>\n\n{wire['content'] or ''}"
        elif name == PARTS:
            thinking = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
            answer = [{"type": "text", "text": wire["content"]}] if wire["content"] else []
            wire["content"] = [thinking, *answer]
        elif with_fields and name in ("reasoning_content", "reasoning"):
            wire[name] = text

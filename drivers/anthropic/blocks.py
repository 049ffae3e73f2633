"""Parts of a message as content blocks: text, images, documents. What cannot be one is named or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loopforge.drivers.anthropic.cache import Place
from loopforge.drivers.anthropic.draft import Draft
from loopforge.drivers.turn import Audio, CacheMark, Document, Image, JsonObject, Part, Text, ToolResult

_IMAGES = {"image/png": "image/png", "image/jpeg": "image/jpeg", "image/jpg": "image/jpeg", "image/gif": "image/gif",
           "image/webp": "image/webp"}  # fmt: skip
_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")
_PDF = "application/pdf"
_MAX_TITLE = 500


def is_blank(text: str) -> bool:
    """Whether the wire refuses a text block of it. Streams do produce such blocks."""
    return not text.strip()


def text_block(text: str, cache: CacheMark, draft: Draft, *, place: Place = "messages") -> JsonObject:
    return draft.mark({"type": "text", "text": text}, cache, place)


def content_blocks(parts: Iterable[Part], draft: Draft, *, asked: bool) -> Iterator[JsonObject]:
    """The parts of a user message or of a tool result, without results. `asked`: the person asks about them.

    Raises TurnRefused for media that the person asks about and that this vendor does not take.
    """
    for part in parts:
        match part:
            case Text():
                if not is_blank(part.text):
                    yield text_block(part.text, part.cache, draft)
                elif part.cache:
                    draft.note("a cache mark behind empty text was not sent")
            case Image():
                yield _image_block(part, draft, asked=asked)
            case Document():
                yield _document_block(part, draft, asked=asked)
            case Audio():
                yield _sound_block(part, draft, asked=asked)
            case ToolResult():
                pass
            case _:
                draft.note(f"the {part.type} part of a user message was left out")


def _image_block(image: Image, draft: Draft, *, asked: bool) -> JsonObject:
    profile = draft.profile
    if image.detail not in ("", "auto"):
        draft.note("this wire knows no image detail: it was not sent")
    if image.data and profile.images:
        media_type = _IMAGES.get(image.media_type.lower()) or _sniffed(image)
        if not media_type:
            return _left_out(f"image of type {image.media_type or 'unknown'}", draft, asked=asked)
        source = {"type": "base64", "media_type": media_type, "data": draft.encode(image.data)}
    elif image.url and profile.images and profile.image_urls:
        source = {"type": "url", "url": image.url}
    else:
        return _left_out("image", draft, asked=asked)
    return draft.mark({"type": "image", "source": source}, image.cache, "messages")


def _sniffed(image: Image) -> str:
    """The type by the first bytes, where none was given."""
    if image.media_type:
        return ""
    head = image.data[:12]
    if head.startswith(b"\x89PNG"):
        return "image/png"
    if head.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if head.startswith(b"GIF8"):
        return "image/gif"
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""


def _document_block(document: Document, draft: Draft, *, asked: bool) -> JsonObject:
    media_type = document.media_type.lower().partition(";")[0].strip()
    source: JsonObject | None = None
    if document.data and (media_type.startswith("text/") or media_type in _TEXT_TYPES):
        text = document.data.decode("utf-8", "replace")
        if not draft.profile.documents or is_blank(text):
            head = f"[{document.name or 'document'}]\n"
            return text_block(head + text, document.cache, draft)
        source = {"type": "text", "media_type": "text/plain", "data": text}
    elif not draft.profile.documents:
        return _left_out("document", draft, asked=asked)
    elif document.data and (media_type == _PDF or (not media_type and document.data.startswith(b"%PDF"))):
        source = {"type": "base64", "media_type": _PDF, "data": draft.encode(document.data)}
    elif document.url and not document.data:
        source = {"type": "url", "url": document.url}
    if source is None:
        return _left_out(f"document of type {document.media_type or 'unknown'}", draft, asked=asked)
    block: JsonObject = {"type": "document", "source": source}
    if document.name:
        block["title"] = document.name[:_MAX_TITLE]
    return draft.mark(block, document.cache, "messages")


def _sound_block(sound: Audio, draft: Draft, *, asked: bool) -> JsonObject:
    if is_blank(sound.transcript):
        return _left_out("sound", draft, asked=asked)
    draft.note("this wire takes no sound: its transcript was sent")
    return {"type": "text", "text": sound.transcript}


def _left_out(what: str, draft: Draft, *, asked: bool) -> JsonObject:
    """Media that the person asks about is refused; what a tool gave or the history holds is named and left out."""
    kind = what.partition(" ")[0]
    if asked:
        raise draft.refuse(
            f"{draft.vendor} takes no {what} here",
            "leave it out or route the turn to a provider that takes it",
        )
    draft.note(f"{draft.vendor} takes no {what} here: one of a tool or an earlier message was left out")
    return {"type": "text", "text": f"[{kind} left out]"}

"""Text, images, sound and documents as content. What the model cannot take is named or refused.

Parts are written as the path for multimodal models has them, {"text": ...} or {"image": ...}; messages.py makes one
string of them on the path for text, where only texts, and documents by URL, ever come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from loopforge.drivers.dashscope_native.draft import Draft
from loopforge.drivers.turn import Audio, Document, Image, JsonObject, Part, Text, ToolResult

_TEXT_TYPES: Final = (
    "application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml",
)  # fmt: skip
_SCHEMES: Final = ("http", "https", "oss", "data")


def text_part(text: str) -> JsonObject:
    return {"text": text}


def is_text(part: JsonObject) -> bool:
    return "text" in part


def joined(parts: Iterable[JsonObject]) -> str:
    """The texts of content parts, with nothing between them."""
    return "".join(part["text"] for part in parts if "text" in part)


def content_parts(parts: Iterable[Part], draft: Draft, *, asked: bool) -> Iterator[JsonObject]:
    """The parts of a user message or of a tool result, without results and empty texts.

    `asked`: it is what the turn is about. Raises TurnRefused for media that the turn is about and that the model does
    not take; other media is named, and a word put in its place.
    """
    for part in parts:
        match part:
            case Text():
                if part.text:
                    yield {**text_part(part.text), **draft.cache_member(part.cache)}
            case Image():
                yield _image(part, draft, asked=asked)
            case Audio():
                yield _sound(part, draft, asked=asked)
            case Document():
                yield _document(part, draft, asked=asked)
            case ToolResult():
                pass
            case _:
                draft.note(f"a {part.type} part of a user message was left out")


def _image(image: Image, draft: Draft, *, asked: bool) -> JsonObject:
    if draft.takes_images and (image.data or _is_url(image.url)):
        if image.detail not in ("", "auto"):
            draft.note("this wire knows no image detail: it was not sent")
        url = draft.data_url(image.data, image.media_type or sniffed(image.data)) if image.data else image.url
        return {"image": url, **draft.cache_member(image.cache)}
    draft.note_cache(image.cache)
    return _left_out("image", "images", draft, asked=asked)


def sniffed(data: bytes) -> str:
    """The type of an image by its first bytes, where none was given."""
    head = data[:12]
    if head.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return "image/gif" if head.startswith(b"GIF8") else "image/png"


def _sound(sound: Audio, draft: Draft, *, asked: bool) -> JsonObject:
    if draft.takes_sound and sound.data:
        return {"audio": draft.data_url(sound.data, sound.media_type or "audio/wav")}
    if sound.transcript:
        draft.note(f"{draft.model} takes no sound: its transcript was sent")
        return text_part(sound.transcript)
    return _left_out("sound", "sound", draft, asked=asked)


def _document(document: Document, draft: Draft, *, asked: bool) -> JsonObject:
    media_type = document.media_type.lower().partition(";")[0].strip()
    if document.data and (media_type.startswith("text/") or media_type in _TEXT_TYPES):
        text = document.data.decode("utf-8", "replace")
        head = f"[{document.name}]\n" if document.name else ""
        return {**text_part(head + text), **draft.cache_member(document.cache)}
    draft.note_cache(document.cache)
    if draft.profile.doc_urls and not document.data and _is_url(document.url):
        return {"doc_url": document.url}
    what = "documents of this type" if document.data else "documents by URL"
    return _left_out("document", what, draft, asked=asked)


def _is_url(url: str) -> bool:
    try:
        return urlsplit(url).scheme in _SCHEMES
    except ValueError:
        return False


def _left_out(kind: str, what: str, draft: Draft, *, asked: bool) -> JsonObject:
    """Media that is asked about is refused; what merely stands in the history is named and left out."""
    if asked:
        raise draft.refuse(f"{draft.model} takes no {what} here", "leave it out or route the turn to a model that does")
    draft.note(f"{draft.model} takes no {what} here: one of a tool or an earlier message was left out")
    return text_part(f"[{kind} left out]")

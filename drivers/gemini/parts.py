"""Text, images, documents and sound as parts. What cannot be one is named or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from loopforge.drivers.gemini.draft import Draft
from loopforge.drivers.turn import Audio, Document, Image, JsonObject, Part, Text, ToolResult

_IMAGES: Final = {
    "image/png": "image/png", "image/jpeg": "image/jpeg", "image/jpg": "image/jpeg", "image/webp": "image/webp",
    "image/heic": "image/heic", "image/heif": "image/heif",
}  # fmt: skip
_SOUNDS: Final = {
    "audio/wav": "audio/wav", "audio/wave": "audio/wav", "audio/x-wav": "audio/wav", "audio/mpeg": "audio/mpeg",
    "audio/mp3": "audio/mp3", "audio/aiff": "audio/aiff", "audio/aac": "audio/aac", "audio/ogg": "audio/ogg",
    "audio/flac": "audio/flac",
}  # fmt: skip
_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")
_PDF = "application/pdf"
_SUFFIXES: Final = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".heic": "image/heic",
    ".heif": "image/heif", ".pdf": _PDF, ".txt": "text/plain", ".html": "text/html",
}  # fmt: skip
_OWN_HOSTS = ("generativelanguage.googleapis.com", "www.youtube.com", "youtube.com", "youtu.be")
"""URLs that every model takes: uploaded files, and videos."""


def text_part(text: str) -> JsonObject:
    return {"text": text}


def content_parts(parts: Iterable[Part], draft: Draft, *, asked: bool) -> Iterator[JsonObject]:
    """The parts of a user message or of a tool result, without results. `asked`: it is what the turn is about.

    Empty text is left out: the wire refuses it. Raises TurnRefused for media that the turn is about and that the
    model does not take.
    """
    for part in parts:
        match part:
            case Text():
                draft.note_cache(part.cache)
                if part.text:
                    yield text_part(part.text)
            case Image():
                draft.note_cache(part.cache)
                yield _image(part, draft, asked=asked)
            case Document():
                draft.note_cache(part.cache)
                yield _document(part, draft, asked=asked)
            case Audio():
                yield _sound(part, draft, asked=asked)
            case ToolResult():
                pass
            case _:
                draft.note(f"a {part.type} part of a user message was left out")


def own_media(part: Image | Document | Audio, draft: Draft) -> JsonObject | None:
    """Media of an assistant message, on its way back; None, with a notice, for a model that makes none."""
    if draft.profile.draws and part.data and part.media_type:
        return _inline(part.media_type, part.data, draft)
    if isinstance(part, Audio) and part.transcript:
        return text_part(part.transcript)
    draft.note(f"a {part.type} part of an assistant message was left out")
    return None


def is_media(part: JsonObject) -> bool:
    return "text" not in part


def _inline(media_type: str, data: bytes, draft: Draft) -> JsonObject:
    return {"inlineData": {"mimeType": media_type, "data": draft.encode(data)}}


def _image(image: Image, draft: Draft, *, asked: bool) -> JsonObject:
    if image.detail not in ("", "auto"):
        draft.note("this wire knows no image detail: it was not sent")
    if image.data:
        media_type = _IMAGES.get(image.media_type.lower()) or _sniffed(image)
        if media_type:
            return _inline(media_type, image.data, draft)
    elif image.url:
        return _by_url("image", image.url, image.media_type, draft, asked=asked)
    return _left_out(f"image of type {image.media_type or 'unknown'}", draft, asked=asked)


def _sniffed(image: Image) -> str:
    """The type by the first bytes, where none was given."""
    if image.media_type:
        return ""
    head = image.data[:12]
    if head.startswith(b"\x89PNG"):
        return "image/png"
    if head.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""


def _document(document: Document, draft: Draft, *, asked: bool) -> JsonObject:
    media_type = document.media_type.lower().partition(";")[0].strip()
    if document.data and (media_type.startswith("text/") or media_type in _TEXT_TYPES):
        text = document.data.decode("utf-8", "replace")
        return text_part(f"[{document.name or 'document'}]\n{text}")
    if document.data and (media_type == _PDF or (not media_type and document.data.startswith(b"%PDF"))):
        if document.name:
            draft.note("this wire knows no names of documents: they were not sent")
        return _inline(_PDF, document.data, draft)
    if document.url and not document.data:
        return _by_url("document", document.url, media_type, draft, asked=asked)
    return _left_out(f"document of type {document.media_type or 'unknown'}", draft, asked=asked)


def _sound(sound: Audio, draft: Draft, *, asked: bool) -> JsonObject:
    media_type = _SOUNDS.get(sound.media_type.lower())
    if sound.data and media_type:
        return _inline(media_type, sound.data, draft)
    if sound.transcript:
        draft.note("a sound that this wire does not take was sent as its transcript")
        return text_part(sound.transcript)
    return _left_out(f"sound of type {sound.media_type or 'unknown'}", draft, asked=asked)


def _by_url(what: str, url: str, media_type: str, draft: Draft, *, asked: bool) -> JsonObject:
    try:
        place = urlsplit(url)
        own = place.scheme == "gs" or (place.hostname or "") in _OWN_HOSTS
    except ValueError:
        return _left_out(f"{what} URL that is none", draft, asked=asked)
    if not (own or draft.profile.urls):
        return _left_out(f"{what} URL", draft, asked=asked)
    suffix = f".{place.path.rpartition('.')[2].lower()}"
    file: JsonObject = {"fileUri": url}
    if media_type or suffix in _SUFFIXES:
        file = {"mimeType": media_type or _SUFFIXES[suffix], **file}
    return {"fileData": file}


def _left_out(what: str, draft: Draft, *, asked: bool) -> JsonObject:
    """Media that is asked about is refused; what merely stands in the history is named and left out."""
    if asked:
        raise draft.refuse(
            f"{draft.model} takes no {what} here", "send it in another form or route the turn to a provider that does"
        )
    draft.note(f"{draft.model} takes no {what} here: one of an earlier message was left out")
    return text_part(f"[{what.split(maxsplit=1)[0]} left out]")

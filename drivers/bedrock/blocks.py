"""Parts of a message as content blocks: text, images, documents. What cannot be one is named or refused.

Limits of size and number are the service's to tell: it names them in its answer, and they differ by model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from loopforge.drivers.bedrock.draft import Draft
from loopforge.drivers.turn import Audio, Document, Image, JsonObject, Part, Text, ToolResult

FILLER = "."
"""Where the wire wants text and there is none: it takes neither nothing nor white space."""

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_OFFICE = "application/vnd.openxmlformats-officedocument"
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    f"{_OFFICE}.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    f"{_OFFICE}.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/markdown": "md",
}
_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml")
_AS_TEXT = ("csv", "html", "md", "txt")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\] -]+")
_MAX_NAME = 200


def is_blank(text: str) -> bool:
    return not text.strip()


@dataclass(slots=True)
class Blocks:
    """Makes the blocks of one request: names of documents are told apart over all of it."""

    draft: Draft
    _names: set[str] = field(default_factory=set)

    def of(self, parts: Iterable[Part], *, asked: bool) -> Iterator[JsonObject]:
        """The parts of a user message or of a tool result, without results. `asked`: the person asks about them.

        Raises TurnRefused for media that the person asks about and that the model does not take.
        """
        draft = self.draft
        for part in parts:
            match part:
                case Text():
                    if not is_blank(part.text):
                        yield {"text": part.text}
                        yield from draft.point(part.cache, "messages")
                    elif part.cache:
                        draft.note("a cache mark behind empty text was not sent")
                case Image():
                    yield self._image(part, asked=asked)
                    yield from draft.point(part.cache, "messages")
                case Document():
                    yield self._document(part, asked=asked)
                    yield from draft.point(part.cache, "messages")
                case Audio():
                    yield self._sound(part, asked=asked)
                case ToolResult():
                    pass
                case _:
                    draft.note(f"the {part.type} part of a user message was left out")

    def _image(self, image: Image, *, asked: bool) -> JsonObject:
        draft = self.draft
        if image.detail not in ("", "auto"):
            draft.note("this wire knows no image detail: it was not sent")
        media_type = image.media_type.lower().partition(";")[0].strip()
        kind = _IMAGES.get(media_type) or (_sniffed(image.data, image.url) if not media_type else "")
        source = self._source(image.data, image.url)
        if not draft.family.images or not kind or source is None:
            return self._left_out(_named("image", image.media_type, image.url, source), asked=asked)
        return {"image": {"format": kind, "source": source}}

    def _document(self, document: Document, *, asked: bool) -> JsonObject:
        draft = self.draft
        kind = _document_kind(document)
        source = self._source(document.data, document.url)
        if not draft.family.documents and document.data and kind in _AS_TEXT:
            head = f"[{document.name or 'document'}]\n"
            return {"text": head + document.data.decode("utf-8", "replace")}
        if not draft.family.documents or not kind or source is None:
            return self._left_out(_named("document", document.media_type, document.url, source), asked=asked)
        return {"document": {"name": self._new_name(document.name), "format": kind, "source": source}}

    def _source(self, data: bytes, url: str) -> JsonObject | None:
        if data:
            return {"bytes": self.draft.encode(data)}
        if url.startswith("s3://") and self.draft.family.s3:
            return {"s3Location": {"uri": url}}
        return None

    def _new_name(self, wanted: str) -> str:
        """A name that the wire takes and no other document of the request has; that of the file without its ending."""
        stem = PurePosixPath(wanted).stem if wanted else ""
        name = " ".join(_NOT_IN_NAMES.sub(" ", stem).split())[: _MAX_NAME - 6].strip() or "document"
        found, number = name, 1
        while found in self._names:
            number += 1
            found = f"{name} {number}"
        self._names.add(found)
        return found

    def _sound(self, sound: Audio, *, asked: bool) -> JsonObject:
        if is_blank(sound.transcript):
            return self._left_out("sound", asked=asked)
        self.draft.note("no sound is sent over this wire: its transcript was")
        return {"text": sound.transcript}

    def _left_out(self, what: str, *, asked: bool) -> JsonObject:
        """Media that the person asks about is refused; what a tool gave or the history holds is named and left out."""
        who = self.draft.who
        if asked:
            raise self.draft.refuse(
                f"{who} takes no {what} here",
                "leave it out, send its bytes in place of a URL, or route the turn to a model that takes it",
            )
        self.draft.note(f"{who} takes no {what} here: one of a tool or an earlier message was left out")
        return {"text": f"[{what.partition(' ')[0]} left out]"}


def _named(what: str, media_type: str, url: str, source: JsonObject | None) -> str:
    if url and source is None:
        return f"{what} by {'S3 location' if url.startswith('s3://') else 'URL'}"
    return f"{what} of type {media_type}" if media_type else what


def _sniffed(data: bytes, url: str) -> str:
    """The format by the first bytes, or by the name's ending, where no type was given."""
    head = data[:12]
    if head.startswith(b"\x89PNG"):
        return "png"
    if head.startswith(b"\xff\xd8"):
        return "jpeg"
    if head.startswith(b"GIF8"):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    ending = PurePosixPath(url).suffix[1:].lower()
    return _IMAGES.get(f"image/{ending}", "") if not data else ""


def _document_kind(document: Document) -> str:
    media_type = document.media_type.lower().partition(";")[0].strip()
    if media_type in _DOCUMENTS:
        return _DOCUMENTS[media_type]
    if media_type.startswith("text/") or media_type in _TEXT_TYPES:
        return "txt"
    if media_type:
        return ""
    if document.data.startswith(b"%PDF"):
        return "pdf"
    ending = PurePosixPath(document.name or document.url).suffix[1:].lower()
    return ending if ending in {*_DOCUMENTS.values(), "txt"} else ""

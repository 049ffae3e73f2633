"""A turn that a person or a script wrote as JSON: what `loopforge ask --turn` reads. Every problem names its place.

The members are those of `Turn` in drivers/turn.py, with three comforts: `kind` may be left out; `content` of a message
or tool result may be text instead of a list of parts, and a part may be text; the data of an image, document or sound
is base64 text or {"path": "cat.png"}, relative to the turn's file, and its media_type is recognised when left out.

    {"kind": "coding", "max_output_tokens": 500,
     "messages": [{"role": "system", "content": "Be brief."},
                  {"role": "user", "content": ["What is this?", {"type": "image", "data": {"path": "cat.png"}}]}]}
"""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from loopforge.drivers.turn import Turn
from loopforge.runtime.errors import BadTurn
from loopforge.workers.packing import Malformed, from_plain

MAX_TURN_FILE_BYTES = 64 * 2**20
"""A turn of 32 MiB, all of it base64, has 43."""
MAX_MEDIA_BYTES = 32 * 2**20

_MEDIA = {"image": "image/", "document": "", "audio": "audio/"}
_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"%PDF-"), "application/pdf"),
    (re.compile(rb"RIFF....WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"ID3|\xff[\xfb\xf3\xf2]"), "audio/mpeg"),
    (re.compile(rb"fLaC"), "audio/flac"),
    (re.compile(rb"OggS"), "audio/ogg"),
)
_SNIFF_BYTES = 12
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_turn(data: bytes, *, source: str, folder: Path, defaults: Mapping[str, Any] | None = None) -> Turn:
    """The turn that the JSON text `data` describes.

    `source`: its name for errors. `folder`: where relative paths start. `defaults`: members for a turn that leaves
    them out. Raises BadTurn with the place of the first problem.
    """
    try:
        plain = _parse(data)
        if isinstance(plain, dict):  # else from_plain says what to write
            plain = {**(defaults or {}), **plain}
            _comforts(plain, folder)
        return from_plain(Turn, plain)
    except Malformed as exc:
        raise BadTurn(what=f"{source}: {exc}") from exc


# -- JSON ------------------------------------------------------------------------------------------------------------


def _parse(data: bytes) -> Any:
    """Strict JSON. Raises Malformed."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Malformed("", f"not UTF-8 text: byte {exc.object[exc.start]:#04x} at offset {exc.start}") from exc
    try:
        plain = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_whole_number)
        if "\\ud" in text or "\\uD" in text:
            _refuse_surrogates(plain, "")
    except json.JSONDecodeError as exc:
        raise Malformed(f"line {exc.lineno}, column {exc.colno}", f"not JSON: {exc.msg}") from exc
    except RecursionError as exc:
        raise Malformed("", "objects and lists are nested too deeply") from exc
    return plain


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed("", f"the member {twice!r} stands twice in one object")
    return members


def _refuse_constant(text: str) -> NoReturn:
    raise Malformed("", f"{text} is no JSON")


def _whole_number(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**64:
        raise Malformed("", f"the number {text[:40]} does not fit into 64 bits")
    return number


def _refuse_surrogates(value: object, path: str) -> None:
    """A half of a surrogate pair is no character: no wire can carry it."""
    match value:
        case str() if found := _LONE_SURROGATE.search(value):
            raise Malformed(path, f"\\u{ord(found[0]):04x} is half a character")
        case list():
            for index, item in enumerate(value):
                _refuse_surrogates(item, f"{path}[{index}]")
        case dict():
            for name, item in value.items():
                _refuse_surrogates(name, path)
                _refuse_surrogates(item, f"{path}.{name}".lstrip("."))


# -- comforts --------------------------------------------------------------------------------------------------------


def _comforts(plain: dict[str, Any], folder: Path) -> None:
    """Replace the short forms in place; what is neither short nor right is left for from_plain to refuse."""
    messages = plain.get("messages")
    if not isinstance(messages, list):
        return
    for index, message in enumerate(messages):
        if isinstance(message, dict):
            _write_out(message, f"messages[{index}]", folder)


def _write_out(holder: dict[str, Any], path: str, folder: Path) -> None:
    """The `content` of a message or tool result as a list of whole parts."""
    content = holder.get("content")
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, list):
        return
    holder["content"] = [{"type": "text", "text": item} if isinstance(item, str) else item for item in content]
    for index, part in enumerate(holder["content"]):
        if isinstance(part, dict):
            place = f"{path}.content[{index}]"
            match part.get("type"):
                case "tool_result":
                    _write_out(part, place, folder)
                case "image" | "document" | "audio":
                    _media(part, place, folder)


def _media(part: dict[str, Any], path: str, folder: Path) -> None:
    if "path" in part and "data" not in part:
        raise Malformed(f"{path}.path", f'no such member; write "data": {json.dumps({"path": part["path"]})}')
    data, name = part.get("data"), ""
    if isinstance(data, dict):
        name, data = _read_media(data, f"{path}.data", folder)
        part["data"] = data
    if not data or part.get("media_type"):
        return
    start = data[:_SNIFF_BYTES] if isinstance(data, bytes) else _base64_start(data)
    if not start:
        return  # from_plain says better what is wrong with it
    guess = next((media_type for magic, media_type in _MAGIC if magic.match(start)), None)
    guess = guess or mimetypes.guess_type(name)[0] or ""
    if not guess.startswith(_MEDIA[part["type"]] or guess[:1] or "?"):
        raise Malformed(f"{path}.media_type", f"not recognised; write it, such as {_example(part['type'])}")
    part["media_type"] = guess


def _read_media(reference: dict[str, Any], path: str, folder: Path) -> tuple[str, bytes]:
    """Name and bytes of the file in {"path": NAME}. Raises Malformed."""
    match reference:
        case {"path": str(name), **others} if name and not others:
            file = folder / name
        case _:
            raise Malformed(path, 'write base64 text here, or {"path": "FILE"}')
    try:
        regular = stat.S_ISREG(file.stat().st_mode)  # a pipe or terminal could keep us waiting
        with file.open("rb") if regular else io.BytesIO() as opened:
            data = opened.read(MAX_MEDIA_BYTES + 1)
    except FileNotFoundError as exc:
        raise Malformed(f"{path}.path", f"there is no file {file}") from exc
    except OSError as exc:
        raise Malformed(f"{path}.path", f"{file}: {exc.strerror}") from exc
    except ValueError as exc:
        raise Malformed(f"{path}.path", f"no name of a file: {exc}") from exc
    if not regular:
        raise Malformed(f"{path}.path", f"{file}: not a file")
    if len(data) > MAX_MEDIA_BYTES:
        raise Malformed(f"{path}.path", f"{file}: larger than {MAX_MEDIA_BYTES // 2**20} MiB")
    if not data:
        raise Malformed(f"{path}.path", f"{file}: empty")
    return name, data


def _base64_start(text: object) -> bytes:
    """The first bytes that base64 text stands for; empty when it is none."""
    try:
        return base64.b64decode(text[: _SNIFF_BYTES // 3 * 4], validate=True) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _example(part_type: str) -> str:
    return {"image": "image/png", "document": "application/pdf", "audio": "audio/wav"}[part_type]

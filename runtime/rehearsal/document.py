"""Writes a result to a file, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def to_json(document: dict[str, Any]) -> str:
    """The document as text, with its last line break."""
    return json.dumps(document, allow_nan=False, ensure_ascii=False, indent=2) + "\n"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """As `write_text`, for a document."""
    write_text(path, to_json(document))


def write_text(path: Path, text: str) -> None:
    """Put the text in place of the file; a reader sees the old one or the new one. Raises OSError.

    A file that is none (/dev/stdout, a pipe) is written to as it is.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    descriptor, draft = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
            os.fchmod(descriptor, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        Path(draft).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(draft).unlink()
        raise


def _umask() -> int:
    """There is no way to read it without setting it; one thread alone does so."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

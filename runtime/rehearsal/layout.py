"""Durations and tables as text for people."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO

NARROW = 80
PLAIN_WIDTH = 120
"""Of lines that go to a file or a pipe."""
NOTHING = "-"
GAP = "  "


def duration(seconds: float | None) -> str:
    """Three digits and a unit, at most seven characters up to a day: 3.14 ms, 31.4 ms, 314 ms, 3.14 s, 314 s."""
    if seconds is None:
        return NOTHING
    value, unit = (seconds * 1000, "ms") if seconds < 0.9995 else (seconds, "s")
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def count(number: int, noun: str) -> str:
    """1 turn, 2 turns."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """The lines of a table, each column as wide as its widest cell. `right`: columns whose cells end in line.

    A row shorter than the head ends in a text of any length, which widens no column.
    """
    aligned = [row if len(row) == len(head) else row[:-1] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in aligned if column < len(row)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(widths[column]) if column in right and len(row) == len(head) else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ]
        lines.append(GAP.join(cells).rstrip())
    return lines


def fill(sentences: Iterable[str], width: int, *, indent: str = "") -> list[str]:
    """The sentences, one after the other, in lines of at most `width` characters; `indent` begins all but the first."""
    return textwrap.wrap(" ".join(sentences), width, subsequent_indent=indent, break_on_hyphens=False)


def width_of(out: TextIO) -> int:
    """How long a line may be there."""
    return max(shutil.get_terminal_size().columns, 40) if out.isatty() else PLAIN_WIDTH

"""Plain text for a terminal: aligned columns within its width, durations, sizes, times of day. No rich: it is slow."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence

MIN_CELL = 8
"""A shortened column keeps so many characters."""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    *,
    shrink: Sequence[int] = (),
    drop: Sequence[int] = (),
    width: int = 0,
) -> list[str]:
    """Aligned columns, two spaces apart; those in `right` end in line.

    `width`: characters a line may have, 0 for any number. Columns in `shrink` give way to it, the first one first; then
    those in `drop` are left out. The others stay as they are, whatever the width.
    """
    whole = [tuple(head), *map(tuple, rows)]
    widths = {column: max(len(row[column]) for row in whole) for column in range(len(head))}
    fitted = _fit(widths, shrink, width)
    for column in drop:
        if width and _total(fitted) > width:
            del widths[column]
            fitted = _fit(widths, shrink, width)
    return [
        "  ".join(
            row[column].rjust(room) if column in right else cut(row[column], room).ljust(room)
            for column, room in fitted.items()
        ).rstrip()
        for row in whole
    ]


def _fit(widths: Mapping[int, int], shrink: Sequence[int], width: int) -> dict[int, int]:
    fitted = dict(widths)
    for column in shrink:
        excess = _total(fitted) - width
        if width and excess > 0 and column in fitted:
            fitted[column] = min(fitted[column], max(fitted[column] - excess, MIN_CELL))
    return fitted


def _total(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def wrap(text: str, width: int, indent: str = "  ") -> list[str]:
    """A line in as many as it takes; 0 is any width."""
    if not width or len(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def terminal_width() -> int:
    """Of standard output; 0 when that is no terminal, and lines may be as long as they are."""
    if sys.stdout is None or not sys.stdout.isatty():
        return 0
    return shutil.get_terminal_size().columns


def duration(seconds: float) -> str:
    """Two units at most: 0.4 s, 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit_s, unit, below_s, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // below_s} {below}"
    return f"{whole} s"


def size(count: float) -> str:
    """Bytes in the unit that fits: 512 B, 3.4 KB, 25.0 MB, 1.2 GB; 1 KB = 1024 B."""
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"


def clock_time(at: float, now: float) -> str:
    """Of a wall time, local: 18:04:05 when it is of today, else 11-22 18:04, with the year when that is another."""
    then, today = time.localtime(at), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%m-%d %H:%M" if then[0] == today[0] else "%Y-%m-%d %H:%M", then)


def full_time(at: float) -> str:
    """Of a wall time, local: 2026-11-22 18:04:05."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))

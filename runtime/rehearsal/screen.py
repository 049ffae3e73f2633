"""Draws a view: a live table on a terminal, a line a second elsewhere. rich is loaded for the terminal alone.

The loop that draws is the loop that is measured: rich's own Table takes 4 ms a time, a turn takes 2. So the table is
made here (0.3 ms), and rich keeps it in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from loopforge.runtime.rehearsal.layout import duration
from loopforge.runtime.rehearsal.view import Row, View

Show = Callable[[View], None]
Line = list[tuple[str, str]]
"""Pieces of text with rich's name of their style, "" for none."""

LINE_EVERY_S = 1.0
WIDE = 110
MEDIUM = 92
NOTES = 6
CLOCK_WIDTH, KIND_WIDTH = 25, 14

_WORKER_STYLE = {"ready": "green", "starting": "yellow", "stopped": "yellow", "down": "bold red"}


@contextmanager
def open_screen(out: TextIO, clock: Callable[[], float]) -> Iterator[Show]:
    """The function that draws a view on `out`, as suits it. When the block ends a terminal is as it was before."""
    if not out.isatty():
        yield Lines(out, clock).show
        return
    from rich.console import Console
    from rich.live import Live
    from rich.segment import Segment, Segments
    from rich.style import Style

    def segments(lines: Sequence[Line]) -> Iterator[Segment]:
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from (Segment(text, Style.parse(style) if style else None) for text, style in line)

    console = Console(file=out, highlight=False)
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:

        def show(view: View) -> None:
            live.update(Segments(segments(draw(view, console.width))), refresh=True)

        yield show


class Lines:
    """One line a second, at most 80 characters for four kinds, and one for each incident when it is first seen."""

    def __init__(self, out: TextIO, clock: Callable[[], float]) -> None:
        self._out = out
        self._clock = clock
        self._next = 0.0
        self._notes = 0
        self._kinds: Sequence[str] = ()

    def show(self, view: View) -> None:
        for said in view.notes[self._notes :]:
            self._print(said)
        self._notes = len(view.notes)
        if self._clock() < self._next:
            return
        self._next = self._clock() + LINE_EVERY_S
        kinds = [row.kind for row in view.rows]
        if kinds != self._kinds:
            self._kinds = kinds
            self._print(f"{view.title}; turns open/done/failed:")
            self._print(" " * CLOCK_WIDTH + "".join(f"{kind[: KIND_WIDTH - 1]:<{KIND_WIDTH}}" for kind in kinds))
        cells = "".join(f"{f'{row.open}/{row.done}/{row.failed}':<{KIND_WIDTH}}" for row in view.rows)
        self._print(f"{view.clock:<{CLOCK_WIDTH}}{cells}")

    def _print(self, text: str) -> None:
        self._out.write(text.rstrip() + "\n")
        self._out.flush()


def draw(view: View, width: int) -> list[Line]:
    """The view as lines of styled pieces, none longer than `width`. Pure."""
    lines: list[Line] = [[(view.title, "bold"), ("   ", ""), (view.clock, "cyan")]]
    lines += [[(view.intro, "")], []] if view.intro else [[]]
    lines += _table(view.rows, width)
    if view.lines:
        lines += [[], *([(text, "")] for text in view.lines)]
    if view.notes:
        lines += [[], *([(text, "yellow")] for text in view.notes[-NOTES:])]
    return [_cut(line, width) for line in lines]


def _cut(line: Line, width: int) -> Line:
    left, kept = width, []
    for text, style in line:
        kept.append((text[:left], style))
        left -= len(kept[-1][0])
    return kept


def _table(rows: Sequence[Row], width: int) -> list[Line]:
    heading = [
        ("TASK KIND", False), ("PROVIDER", False), ("BEHAVIOUR", False), ("WORKER", False), ("PID", True),
        ("DIED", True), ("OPEN", True), ("DONE", True), ("FAILED", True), ("P50", True), ("P99", True),
    ]  # fmt: skip
    grid = [[(name, "dim") for name, _ in heading], *map(_cells, rows)]
    dropped = {"BEHAVIOUR": WIDE, "P50": MEDIUM}
    shown = [column for column, (name, _) in enumerate(heading) if width >= dropped.get(name, 0)]
    widths = [max(len(row[column][0]) for row in grid) for column in range(len(heading))]
    widths[-1] = max(widths[-1], 7)  # a duration at its longest: the table does not jump while figures grow
    return [
        [
            (f"{row[column][0]:{'>' if heading[column][1] else '<'}{widths[column]}}  ", row[column][1])
            for column in shown
        ]
        for row in grid
    ]


def _cells(row: Row) -> Line:
    p50_s, p99_s = (row.latency.p50_s, row.latency.p99_s) if row.latency else (None, None)
    return [
        (row.kind, "bold"),
        (row.provider, ""),
        (row.behaviour, ""),
        (row.worker, _WORKER_STYLE.get(row.worker, "")),
        (str(row.pid or "-"), ""),
        (str(row.deaths), "yellow" if row.deaths else ""),
        (str(row.open), ""),
        (str(row.done), ""),
        (str(row.failed), "red" if row.failed else ""),
        (duration(p50_s), ""),
        (duration(p99_s), "bold"),
    ]

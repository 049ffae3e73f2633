"""Tables for a Markdown page. Text of others stands in them (vendors' errors, names), and cannot break them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, as GitHub, GitLab and pandoc read it."""
    return [_line(head), _line(["---"] * len(head)), *(_line([cell(text) for text in row]) for row in rows)]


def cell(text: str) -> str:
    """Text inside a table, on one line: neither columns nor code nor the page's HTML are its own to write."""
    escaped = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"

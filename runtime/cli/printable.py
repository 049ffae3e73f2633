"""Text that others wrote (models, providers, other clients), made safe to show on a terminal.

A terminal obeys control characters: an answer could retitle the window, fill the clipboard (OSC 52) or overwrite what
stands above it. Only for terminals: a pipe or file gets the text as it came.
"""

from __future__ import annotations

_PICTURES = 0x2400  # U+2400 is the visible form of U+0000, and so on
_SHOWN: dict[int, str | None] = {
    **{code: chr(_PICTURES + code) for code in range(0x20)},
    ord("\t"): "\t",
    ord("\n"): "\n",
    ord("\r"): None,  # of \r\n the line break is left; alone it would hide what stands on the line
    0x7F: "\u2421",
    **{code: f"<{code:02X}>" for code in range(0x80, 0xA0)},
    **{code: f"<{code:04X}>" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},  # turn the line's direction
}


def printable(text: str) -> str:
    """The text with every control character but tab and line break made visible."""
    return text.translate(_SHOWN)


def one_line(text: str, limit: int = 0) -> str:
    """The same on one line, cut to `limit` characters when there is a limit."""
    line = printable(" ".join(text.split()))
    return line if not limit or len(line) <= limit else f"{line[: limit - 1]}…"

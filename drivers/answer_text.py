"""An answer's text as it streams: reasoning in <think> tags in front of it, marks and line feeds that go.

Tags and marks come in pieces. Where nothing of this applies, text passes as it is (`plain`).
"""

from __future__ import annotations

import re
from typing import Literal

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"
_MAX_BLANKS = 1024  # white space held back in front of a tag; models that lost their way send it without end
_MAX_GAP = 16  # of the line feeds behind a tag that are kept


class AnswerText:
    """Feed the text in order; get (is thinking, text) pieces. Holds back a few characters at most.

    `think_tags`: it may begin with <think>; `trim`: leading line feeds go; `marks`: strings that go wherever they are.
    `gap`: the line feeds that were left out behind </think>, for those who send the text back as it came.
    """

    def __init__(self, *, think_tags: bool = False, trim: bool = False, marks: tuple[str, ...] = ()) -> None:
        self.gap = ""
        self._marks = marks
        self._mark = re.compile("|".join(map(re.escape, marks))) if marks else None
        self._trim = trim
        self._state: Literal["start", "thinking", "after", "trimming", "text"]
        self._state = "start" if think_tags else "trimming" if trim else "text"
        self._held = ""  # of what may be a tag
        self._held_mark = ""  # of what may be a mark

    @property
    def plain(self) -> bool:
        """Text passes as it is from here on."""
        return self._state == "text" and self._mark is None

    def no_tags(self) -> None:
        """Reasoning has come in a field of its own: a tag in the content is the model's text."""
        if self._state == "start" and not self._held:
            self._state = "trimming" if self._trim else "text"

    def feed(self, text: str) -> list[tuple[bool, str]]:
        if self._mark is not None and (self._held_mark or any(mark[0] in text for mark in self._marks)):
            text = self._without_marks(text, self._mark)
        if self._state == "text":
            return [(False, text)] if text else []
        return self._read(text) if text else []

    def end(self) -> list[tuple[bool, str]]:
        """The content is over: what was held back is what it looked like."""
        pieces = self._read(self._held_mark) if self._held_mark else []
        held, self._held, self._held_mark = self._held, "", ""
        was, self._state = self._state, "text"
        if was == "start" and self._trim:
            held = held.lstrip("\n")
        if held:
            pieces.append((was == "thinking", held))
        return pieces

    def _read(self, text: str) -> list[tuple[bool, str]]:
        if self._state == "text":
            return [(False, text)]
        if self._state == "start":
            text = self._at_start(text)
        pieces: list[tuple[bool, str]] = []
        if self._state == "thinking" and text:
            text = self._in_thinking(text, pieces)
        if self._state == "after":
            rest = text.lstrip("\r\n")
            self.gap = (self.gap + text[: len(text) - len(rest)])[:_MAX_GAP]
            if not (text := rest):
                return pieces
            self._state = "text"
        if self._state == "trimming":
            if not (text := text.lstrip("\n")):
                return pieces
            self._state = "text"
        if text:
            pieces.append((False, text))
        return pieces

    def _at_start(self, text: str) -> str:
        """Decide whether a tag comes first; "" while that is open."""
        text, self._held = self._held + text, ""
        ahead = text.lstrip()
        if len(text) - len(ahead) < _MAX_BLANKS:
            if ahead.startswith(OPEN_TAG):
                self._state = "thinking"
                return ahead[len(OPEN_TAG) :]
            if OPEN_TAG.startswith(ahead):
                self._held = text
                return ""
        self._state = "trimming" if self._trim else "text"
        return text

    def _in_thinking(self, text: str, pieces: list[tuple[bool, str]]) -> str:
        """Take the thinking off the front of `text`; what follows the tag is returned."""
        text, self._held = self._held + text, ""
        thinking, tag, rest = text.partition(CLOSE_TAG)
        if tag:
            self._state = "after"
        else:
            keep = _open_suffix(thinking, CLOSE_TAG)
            thinking, self._held = thinking[: len(thinking) - keep], thinking[len(thinking) - keep :]
        if thinking:
            pieces.append((True, thinking))
        return rest

    def _without_marks(self, text: str, mark: re.Pattern[str]) -> str:
        *before, last = mark.split(self._held_mark + text)
        keep = max(_open_suffix(last, form) for form in self._marks)
        self._held_mark = last[len(last) - keep :]
        return "".join(before) + last[: len(last) - keep]


def _open_suffix(text: str, tag: str) -> int:
    """How many characters at the end of `text` could be the beginning of `tag`."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0

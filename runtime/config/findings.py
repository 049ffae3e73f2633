"""Collects what is wrong with a configuration, each finding with its line, its value and what to write instead.

A value is quoted only where it cannot be a secret: people do paste keys into the wrong place, and what a check prints
ends up in terminals, logs and bug reports.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from loopforge.runtime.config.positions import PathPart, Place, scan
from loopforge.runtime.config.values import Problem

Path = tuple[PathPart, ...]

MAX_FINDINGS = 100  # of each severity; a generated file with 50,000 bad keys is one mistake, not 50,000
MAX_QUOTED = 60
MAX_PLACE = 120
MAX_COMPARED = 500  # names that an unknown one is compared with: 20 µs each
MAX_LISTED = 24

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_KEY_PREFIX = re.compile(
    r"(?:sk|pk|rk)-|gsk_|xai-|nvapi-|hf_|gh[pousr]_|AIza|A[KS]IA[0-9A-Z]|eyJ|(?:bearer|basic)\s",
    re.IGNORECASE,
)
_LONG_RUN = re.compile(r"[A-Za-z0-9]{20,}")


class Findings:
    """Errors and warnings about one file, in the order of their lines when asked for."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._text = text
        self._found: dict[str, list[Problem]] = {"error": [], "warning": []}
        self._left_off = {"error": 0, "warning": 0}

    def error(self, path: Path, problem: str, suggestion: str = "") -> None:
        """Something that forbids this configuration. `path`: keys and indices down to the value."""
        self._add("error", path, problem, suggestion)

    def warn(self, path: Path, problem: str, suggestion: str = "") -> None:
        """Something worth saying about a configuration that works."""
        self._add("warning", path, problem, suggestion)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return self._sorted("error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return self._sorted("warning")

    @property
    def full(self) -> bool:
        """No further error will be kept, so looking for more is a waste."""
        return self._left_off["error"] > 0

    @cached_property
    def _root(self) -> Place:
        return scan(self._text).root

    def _add(self, severity: str, path: Path, problem: str, suggestion: str) -> None:
        found = self._found[severity]
        if len(found) >= MAX_FINDINGS:
            self._left_off[severity] += 1
            return
        line = self._root.line_of(path)
        found.append(
            Problem(
                file=self.file,
                line=line,
                place=_printable(spell(path)),
                problem=_printable(problem),
                suggestion=_printable(suggestion),
                severity=severity,
            )
        )

    def _sorted(self, severity: str) -> tuple[Problem, ...]:
        found = sorted(self._found[severity], key=lambda problem: problem.line or math.inf)
        if self._left_off[severity]:
            found.append(
                Problem(
                    file=self.file,
                    line=0,
                    place="",
                    problem="there is more than is listed here",
                    suggestion="correct these first and check again",
                    severity=severity,
                )
            )
        return tuple(found)


def spell(path: Iterable[PathPart]) -> str:
    """The path as a person would write it in TOML: providers.ollama.headers."X-Y", fallbacks[1]."""
    spelled = ""
    for part in path:
        if isinstance(part, int):
            spelled += f"[{part}]"
            continue
        name = shorten(part) if _BARE_KEY.fullmatch(part) else json.dumps(shorten(part), ensure_ascii=False)
        spelled += f".{name}" if spelled else name
    return shorten(spelled, MAX_PLACE)


def describe(value: object) -> str:
    """The value as it stands in the file, shortened; hidden when it looks like a key."""
    match value:
        case str() if looks_like_key(value):
            return "a text that looks like a key (not shown)"
        case str():
            return json.dumps(shorten(value), ensure_ascii=False)
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 63:
            return "a number beyond 64 bits"
        case int() | float():
            return str(value)
        case dict():
            return "a table"
        case list():
            return "a list"
    return str(value)  # the four kinds of dates and times


def _printable(text: str) -> str:
    """The text without what could steer a terminal: keys and names may hold any character."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def shorten(text: str, limit: int = MAX_QUOTED) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def looks_like_key(text: str) -> bool:
    """Whether this may be an API key. Rather once too often: it only decides what is not printed."""
    if _KEY_PREFIX.match(text):
        return True
    return any(
        any(char.isdigit() for char in run) and any(char.isalpha() for char in run) for run in _LONG_RUN.findall(text)
    )


def did_you_mean(name: str, known: Sequence[str], write: str = "{}", *, only_near: bool = False) -> str:
    """What to write instead of an unknown name: the one that is near, else all there are."""
    if near := difflib.get_close_matches(name.lower()[:MAX_QUOTED], known[:MAX_COMPARED], n=1):
        return f"did you mean {write.format(near[0])}?"
    if only_near or not known:
        return ""
    return f"known here: {', '.join(known[:MAX_LISTED])}{', …' if len(known) > MAX_LISTED else ''}"

"""On which line of a TOML text each key, table and array element stands.

tomli says what a text means, not where; this scanner says where, and nothing about meaning. It passes over headers,
dotted and quoted keys, inline tables, arrays, arrays of tables and multi-line strings, in one linear pass without
recursion. It is written for texts that tomli has accepted; on others it stops, without an error, where it is lost.

Grammar: https://toml.io/en/v1.1.0. Nesting rules as in tomli: a header that names an array of tables means its last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_GAP = re.compile(r"(?:[ \t\n]|#[^\n]*+)*+")
_BLANK = re.compile(r"[ \t]*+")
_KEY_PART = re.compile(r"""([A-Za-z0-9_-]++)|"((?:[^"\\\n]|\\.)*+)"|'([^'\n]*+)'""")
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}
# Any value but an array or inline table. The last branch takes numbers, booleans and dates up to what must follow them.
_SCALAR = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|[^\[\]{},#\n\"']++",
    re.DOTALL,
)

PathPart = str | int


class Place:
    """Where one key or array element begins, and what stands below it. `given`: it has a value or header of its own."""

    __slots__ = ("given", "items", "line", "members")

    def __init__(self, line: int) -> None:
        self.line = line
        self.given = False
        self.members: dict[str, Place] | None = None
        self.items: list[Place] | None = None

    def find(self, path: Sequence[PathPart]) -> Place | None:
        """The place of exactly this path of keys and array indices."""
        place, rest = self._follow(path)
        return None if rest else place

    def line_of(self, path: Sequence[PathPart]) -> int:
        """The line of the path's deepest part that stands in the text; 0 when none does."""
        return self._follow(path)[0].line

    def _follow(self, path: Sequence[PathPart]) -> tuple[Place, Sequence[PathPart]]:
        """The deepest place on the path, and the part of the path that leads nowhere."""
        place = self
        for depth, part in enumerate(path):
            below = None
            if isinstance(part, str):
                below = (place.members or {}).get(part)
            elif place.items is not None and 0 <= part < len(place.items):
                below = place.items[part]
            if below is None:
                return place, path[depth:]
            place = below
        return place, ()


@dataclass(frozen=True, slots=True)
class Repeated:
    """A key or table that the text gives twice. `name` as written: `kind`, or `[providers.ollama]` for a header."""

    name: str
    first_line: int
    line: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The places of a whole text. `repeated`: the first repetition, which TOML forbids and tomli reports unplaced."""

    root: Place
    repeated: Repeated | None


def scan(text: str) -> Scan:
    """The places of all keys. Takes time and memory linear in the text, whatever stands in it."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    with suppress(_LostError):  # not TOML from there on: whoever parses the text says so, with a better message
        scanner.read_document()
    return Scan(scanner.root, scanner.repeated)


class _LostError(Exception):
    pass


class _Scanner:
    def __init__(self, text: str) -> None:
        self.root = Place(0)
        self.repeated: Repeated | None = None
        self._text = text
        self._at = 0
        self._line = 1
        self._counted_to = 0

    def read_document(self) -> None:
        table = self.root
        while True:
            self._skip(_GAP)
            if self._at >= len(self._text):
                return
            if self._take("[["):
                table = self._array_header()
            elif self._take("["):
                table = self._table_header()
            else:
                self._value_at(self._key_at(table))

    def _table_header(self) -> Place:
        line, key = self._here(), self._key()
        place = _enter_all(self.root, key[:-1], line)
        place = _enter(place, key[-1], line)
        self._give(place, f"[{'.'.join(key)}]", line)
        place.line = line  # [a.b] may have mentioned `a` before [a] says where it is
        self._expect("]")
        return place

    def _array_header(self) -> Place:
        line, key = self._here(), self._key()
        array = _child(_enter_all(self.root, key[:-1], line), key[-1], line)
        if array.items is None:
            array.items = []
        array.items.append(Place(line))
        self._expect("]]")
        return array.items[-1]

    def _key_at(self, table: Place) -> Place:
        """Pass over `a.b =`; the place of b below the table."""
        line, key = self._here(), self._key()
        place = _child(_enter_all(table, key[:-1], line), key[-1], line)
        self._give(place, ".".join(key), line)
        self._expect("=")
        self._skip(_BLANK)
        return place

    def _value_at(self, place: Place) -> None:
        """Pass over one value, recording the places inside it. Open brackets wait on a list, not on the call stack."""
        opened: list[tuple[Place, str]] = []
        self._open_or_pass(place, opened)
        while opened:
            self._skip(_GAP)
            container, closing = opened[-1]
            if self._take(closing):
                opened.pop()
            elif self._take(","):
                pass
            elif container.items is not None:
                element = Place(self._here())
                container.items.append(element)
                self._open_or_pass(element, opened)
            else:
                self._open_or_pass(self._key_at(container), opened)

    def _open_or_pass(self, place: Place, opened: list[tuple[Place, str]]) -> None:
        if self._take("["):
            place.items = []
            opened.append((place, "]"))
        elif self._take("{"):
            place.members = {}
            opened.append((place, "}"))
        else:
            self._at = self._match(_SCALAR).end()

    def _key(self) -> list[str]:
        self._skip(_BLANK)
        parts = [self._key_part()]
        while self._skip(_BLANK) and self._take("."):
            self._skip(_BLANK)
            parts.append(self._key_part())
        return parts

    def _key_part(self) -> str:
        match = self._match(_KEY_PART)
        self._at = match.end()
        bare, basic, literal = match.groups()
        if basic is not None:
            return _ESCAPE.sub(_unescape, basic)
        return bare if literal is None else literal

    def _give(self, place: Place, name: str, line: int) -> None:
        if place.given and self.repeated is None:
            self.repeated = Repeated(name, place.line, line)
        place.given = True

    def _here(self) -> int:
        """The line number of the current place; counted onwards from the last call."""
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line

    def _skip(self, gap: re.Pattern[str]) -> bool:
        self._at = self._match(gap).end()
        return True

    def _take(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise _LostError

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        if (match := pattern.match(self._text, self._at)) is None:
            raise _LostError
        return match


def _child(place: Place, name: str, line: int) -> Place:
    if place.members is None:
        place.members = {}
    if (below := place.members.get(name)) is None:
        below = place.members[name] = Place(line)
    return below


def _enter(place: Place, name: str, line: int) -> Place:
    """The table of this name; of an array of tables, its last."""
    below = _child(place, name, line)
    return below.items[-1] if below.items else below


def _enter_all(place: Place, names: Sequence[str], line: int) -> Place:
    for name in names:
        place = _enter(place, name, line)
    return place


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if len(code) == 1:
        return _ESCAPED.get(code, code)
    number = int(code[1:], 16)
    return chr(number) if number <= 0x10FFFF else "�"

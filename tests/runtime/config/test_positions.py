"""The scanner against tomli: a line for every key that tomli returns, and the right one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import tomli
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loopforge.runtime.config.positions import PathPart, scan

Path = tuple[PathPart, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

KEYS = st.one_of(
    st.text("abAB01_-", min_size=1, max_size=3),
    st.sampled_from(["", "a.b", "x y", 'q"q', "'", "é", "#", "[x]", "=", "a\\b", "\t", "\x7f", "🙂", "]", "}", ","]),
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["[a]", "a = 1", "# no", '"', "'", '"""', "'''", "}", "]", ",", "\n", "x\n[y]\nz = 1\n", "\\"]),
).filter(lambda text: "\r" not in text)
SCALARS = st.one_of(
    st.integers(-999, 999),
    st.booleans(),
    TEXTS,
    st.sampled_from([tomli.loads(f"x={text}")["x"] for text in ("1979-05-27 07:32:00", "07:32:00", "1e3", "-inf")]),
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(KEYS, below, max_size=3)),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)


@dataclass
class Writer:
    """Writes a document as TOML in ways that are drawn, and notes on which line each key and element stands."""

    draw: Draw
    text: str = ""
    lines: dict[Path, int] = field(default_factory=dict)

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def put(self, text: str) -> None:
        self.text += text

    def note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def gap(self, *, breaks: bool) -> None:
        """White space wherever TOML has room for it; line breaks and comments where it has room for these."""
        self.put(self.one_of("", " ", "\t ", *(("\n", "# [c] = \"'''\n", " \n\t") if breaks else ())))

    def end_line(self) -> None:
        self.put(self.one_of("", " ", "  # x = [1", "# '''"))
        self.put(self.one_of("\n", "\n\n", "\n# [t]\n", "\n  \t\n"))

    def name(self, name: str) -> None:
        spellings = [f'"{"".join(map(_escape, name))}"']
        if name and name.isascii() and name.replace("_", "a").replace("-", "a").isalnum():
            spellings.append(name)
        if name.isprintable() and "'" not in name:
            spellings.append(f"'{name}'")
        self.put(self.one_of(*spellings))

    def names(self, names: Path) -> None:
        for index, name in enumerate(names):
            if index:
                self.gap(breaks=False)
                self.put(".")
                self.gap(breaks=False)
            assert isinstance(name, str)
            self.name(name)

    def scalar(self, value: Any) -> None:
        if isinstance(value, bool):
            self.put("true" if value else "false")
        elif isinstance(value, str):
            self.put(self.one_of(*_spellings(value)))
        else:
            self.put(str(value))

    def value(self, value: Any, path: Path) -> None:
        if isinstance(value, list):
            self.array(value, path)
        elif isinstance(value, dict):
            self.inline_table(value, path)
        else:
            self.scalar(value)

    def array(self, items: list[Any], path: Path) -> None:
        self.put("[")
        for index, item in enumerate(items):
            self.gap(breaks=True)
            self.note((*path, index))
            self.value(item, (*path, index))
            self.gap(breaks=True)
            if index < len(items) - 1 or self.one_of(True, False):
                self.put(",")
        self.gap(breaks=True)
        self.put("]")

    def inline_table(self, table: dict[str, Any], path: Path) -> None:
        self.put("{")
        for index, (name, item) in enumerate(table.items()):
            self.gap(breaks=True)
            self.assignment((*path, name), len(path), item)
            self.gap(breaks=True)
            if index < len(table) - 1 or self.one_of(True, False):
                self.put(",")
        self.gap(breaks=True)
        self.put("}")

    def assignment(self, path: Path, depth: int, value: Any) -> None:
        """`a.b = value`: the key is what of the path lies below `depth`; a table of one key may become more of it."""
        while isinstance(value, dict) and len(value) == 1 and self.one_of(True, False):
            ((name, value),) = value.items()
            path = (*path, name)
        for length in range(depth + 1, len(path) + 1):
            self.note(path[:length])
        self.names(path[depth:])
        self.gap(breaks=False)
        self.put("=")
        self.gap(breaks=False)
        self.value(value, path)

    def table(self, table: dict[str, Any], path: Path) -> None:
        """The table's own lines, then its tables under headers."""
        below = []
        for name, value in table.items():
            if _is_tables(value) and self.one_of(True, False):
                below.append((name, value))
            else:
                self.assignment((*path, name), len(path), value)
                self.end_line()
        for name, value in below:
            self.tables(value, (*path, name))

    def tables(self, value: Any, path: Path) -> None:
        if isinstance(value, dict):
            self.note(path)
            self.header("[", path, "]")
            self.table(value, path)
            return
        for index, item in enumerate(value):
            self.note(path)
            self.note((*path, index))
            self.header("[[", path, "]]")
            self.table(item, (*path, index))

    def header(self, opening: str, path: Path, closing: str) -> None:
        self.put(self.one_of("", "  ") + opening)
        self.gap(breaks=False)
        self.names(tuple(part for part in path if isinstance(part, str)))
        self.gap(breaks=False)
        self.put(closing)
        self.end_line()


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and len(value) > 0 and all(isinstance(item, dict) for item in value)
    )


def _escape(char: str) -> str:
    return f"\\u{ord(char):04X}" if ord(char) < 0x10000 else f"\\U{ord(char):08X}"


def _spellings(text: str) -> list[str]:
    body = "".join(map(_escape, text))
    spellings = [f'"{body}"', f'"""{body}"""', f'"""\n{body}\\\n  \n """']
    if all(char.isprintable() or char in "\t\n" for char in text):
        if "'" not in text:
            spellings.append(f"'''\n{text}'''")
            if "\n" not in text:
                spellings.append(f"'{text}'")
        if "\\" not in text and '""' not in text:
            spellings.append(f'"""\n{text}"""')
    return spellings


def paths_in(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every key and array element below `value`."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, below in items:
        yield (*path, part)
        yield from paths_in(below, (*path, part))


@given(st.data(), DOCUMENTS, st.booleans())
def test_every_key_that_tomli_returns_has_the_line_on_which_it_was_written(
    data: st.DataObject, document: dict[str, Any], windows: bool
) -> None:
    writer = Writer(data.draw)
    writer.table(document, ())
    text = writer.text.replace("\n", "\r\n") if windows else writer.text
    assert tomli.loads(text) == document
    root = scan(text).root
    found = {path: place.line for path in paths_in(document) if (place := root.find(path)) is not None}
    assert found == writer.lines


PIECES = st.sampled_from(
    ["a", "b", "a.b", '"a"', "'b'", '"\\u0061"', " = ", "=1", "=[", "={", "[", "]", "}", ",", "\n", "\r\n", "# c\n",
     " ", '"x"', "'x'", '"""', "'''", '"', "1", "2020-01-01", "true"]
)  # fmt: skip
STATEMENTS = st.sampled_from(
    ["[a]", "[[a]]", "[a.b]", "[[a.b]]", "[b]", "[[b]]", "a=1", "b=[1,\n2,\n{a=1}]", "a={b=1}", "b.a=1", "a.b.a=[]",
     "# [a]", "c='''\n[a]\n'''", "d={\na=1,\nb={c=2}\n}", ""]
)  # fmt: skip
SOUPS = st.one_of(
    st.lists(STATEMENTS, max_size=8).map("\n".join), st.lists(PIECES | STATEMENTS, max_size=20).map("".join)
)


@settings(max_examples=300)
@given(SOUPS)
@example("[[a]]\n[a.b]\n[[a]]\n[a.b]\n")
@example("[a.b]\n[a]\n")
@example('a=[{b=1},\n{b=2,\n"a"=[[],[1]]}]')
@example('a="""\n[b]\n""" # """\nb=1')
@example("a=''''''\nb=1")
@example('a="""""" \nb=""" "" """"\n[a1]')
def test_in_any_text_that_tomli_accepts_each_key_stands_on_the_line_named_for_it(text: str) -> None:
    try:
        document = tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError):
        scan(text)  # whatever comes of it, it ends
        return
    scanned = scan(text)
    root, lines = scanned.root, text.split("\n")
    assert scanned.repeated is None
    for path in paths_in(document):
        place = root.find(path)
        assert place is not None, path
        if isinstance(path[-1], str):
            line = lines[place.line - 1]
            assert path[-1] in line or _escape(path[-1]) in line


@given(st.text(), st.text("[]{}\"'\\\n=#.,ab1 ", max_size=80))
def test_no_text_breaks_the_scanner(anything: str, brackets: str) -> None:
    scan(anything)
    scan(brackets)


def test_a_table_is_where_its_own_header_is_even_when_a_table_below_it_came_first() -> None:
    root = scan("[a.b]\nx = 1\n\n[a]\ny = 2\n").root
    assert [root.line_of(path) for path in [("a",), ("a", "b"), ("a", "b", "x"), ("a", "y")]] == [4, 1, 2, 5]


def test_a_path_that_leads_nowhere_gets_the_line_of_its_deepest_part() -> None:
    root = scan("[a]\nb = [\n  1,\n  { c = 2 },\n]\n").root
    assert root.line_of(("a", "missing")) == 1
    assert root.line_of(("a", "b", 1, "c")) == 4
    assert root.line_of(("a", "b", 1, "missing")) == 4
    assert root.line_of(("a", "b", 7)) == 2
    assert root.line_of(("nothing",)) == 0
    assert root.find(("a", "b", 7)) is None


@pytest.mark.parametrize(
    ("text", "name", "first", "second"),
    [
        ("[a]\nx = 1\n[b]\n[a]\n", "[a]", 1, 4),
        ("[a]\nx = 1\ny = 2\nx = 3\n", "x", 2, 4),
        ("[a]\nx.y = 1\nx.y = 2\n", "x.y", 2, 3),
        ("a = { b = 1,\n b = 2 }\n", "b", 1, 2),
    ],
)
def test_what_a_text_gives_twice_is_told_with_both_lines(text: str, name: str, first: int, second: int) -> None:
    with pytest.raises(tomli.TOMLDecodeError):
        tomli.loads(text)
    repeated = scan(text).repeated
    assert repeated is not None
    assert (repeated.name, repeated.first_line, repeated.line) == (name, first, second)


@given(st.data(), DOCUMENTS)
def test_a_text_that_tomli_accepts_repeats_nothing(data: st.DataObject, document: dict[str, Any]) -> None:
    writer = Writer(data.draw)
    writer.table(document, ())
    assert scan(writer.text).repeated is None


@pytest.mark.parametrize(
    "build",
    [
        lambda size: "a = [" + "1," * size + "]",
        lambda size: "a = " + "[" * size,
        lambda size: "a." * size + "b = 1",
        lambda size: "".join(f"k{number} = 1\n" for number in range(size)),
        lambda size: 'a = """' + '\\"a' * size + '"""',
        lambda size: "[a.b.c.d]\n" * size,
        lambda size: "\n# x" * size,
        lambda size: 'a = "' + "\\" * size,
    ],
    ids=["elements", "brackets", "dots", "keys", "escapes", "headers", "comments", "backslashes"],
)
def test_memory_grows_with_the_text_and_no_faster(build: Callable[[int], str]) -> None:
    def most_memory(text: str) -> int:
        tracemalloc.start()
        scan(text)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = most_memory(build(2_000)), most_memory(build(16_000))
    assert large < 8 * 2 * max(small, 10_000)  # a path for each key would need 64 times as much for the dots

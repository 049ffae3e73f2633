"""Changes single values in the text of a config.toml and leaves every other character as the person wrote it. Pure.

tomlkit replaces values where they stand, in whatever form the table has: under a header, dotted, inline. A key or
table that is not there yet is put in as lines of text, because tomlkit appends it behind the comments that belong to
what follows (seen with 0.15), and with the wrong line ends in a file with CRLF. Whatever was done, the outcome is
parsed again: it must mean the old text with exactly the change asked for, or CannotEdit is raised.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import tomli
import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable

from loopforge.runtime.config.positions import scan

DEFAULT_MODEL = "default"
_BYTE_ORDER_MARK = "\ufeff"
_BLANK_OR_HEADER = re.compile(r"\s*(?:\[|$)")


class CannotEdit(Exception):
    """The text has a form that this cannot change; the text of the error says what to write by hand."""


def set_route(text: str, kind: str, provider: str, model: str = DEFAULT_MODEL) -> str:
    """The text with [router.KIND] going to this provider and model; other keys of the route stay.

    `text`: a whole file that is valid TOML, with its own line ends. A model of "default" is written only where a model
    stands already. Raises CannotEdit.
    """
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    body = text.removeprefix(mark)
    after = _parsed(body)
    values = {"provider": provider, "model": model}
    router = after.setdefault("router", {})
    route = router.setdefault(kind, {}) if isinstance(router, dict) else None
    if isinstance(route, dict):
        if model == DEFAULT_MODEL and "model" not in route:
            del values["model"]
        route.update(values)
        for changed in _attempts(body, kind, values):
            if _means(changed, after):
                return mark + changed
    lines = "; ".join(f"{key} = {_quoted(value)}" for key, value in values.items())
    raise CannotEdit(f"this form of writing it cannot be changed here; write by hand: [router.{kind}] {lines}")


def routed_kinds(text: str) -> tuple[str, ...]:
    """The kinds of task that the text itself has a table for. `text`: valid TOML."""
    return tuple(tomli.loads(text.removeprefix(_BYTE_ORDER_MARK)).get("router", {}))


def _means(text: str, document: dict[str, Any]) -> bool:
    try:
        return _parsed(text) == document
    except (ValueError, RecursionError):
        return False


def _parsed(text: str) -> dict[str, Any]:
    """What the text says; numbers with a fraction as they are written, because nan is not equal to itself."""
    return tomli.loads(text, parse_float=lambda written: ("float", written))


# -- ways to write it ------------------------------------------------------------------------------------------------


def _attempts(text: str, kind: str, values: dict[str, str]) -> Iterator[str]:
    """Texts that may be it, the tidiest first."""
    document = _parsed(text)
    try:
        if kind in document.get("router", {}):
            yield _in_place(text, kind, values)
            return
        if inline := _new_inline(text, kind, values):
            yield inline
    except (TOMLKitError, RecursionError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        pass  # tomlkit's own limits; the ways below do without it
    yield _new_table(text, kind, values, _line_after_routes(text, document))
    yield _new_table(text, kind, values, len(_lines(text)))


def _in_place(text: str, kind: str, values: dict[str, str]) -> str:
    """Replace the values that stand there, then add those that do not."""
    document = tomlkit.parse(text)
    router: Any = document["router"]
    route: Any = router[kind]
    inline = isinstance(route, InlineTable) or isinstance(router, InlineTable)
    missing = {}
    for key, value in values.items():
        if key in route or inline:
            route[key] = value
        else:
            missing[key] = value
    changed = tomlkit.dumps(document)
    for key, value in missing.items():
        changed = _with_key(changed, kind, key, value)
    return changed


def _with_key(text: str, kind: str, key: str, value: str) -> str:
    """Add a line to a table that is written in lines: the model below the provider, the provider above all keys."""
    root = scan(text).root
    table = root.find(("router", kind))
    assert table is not None, "tomli found it"
    places = {name: place.line for name, place in (table.members or {}).items()}
    lines = _lines(text)
    if not places:
        return _insert(lines, table.line, f"{key} = {_quoted(value)}")
    anchor = "provider" if "provider" in places else min(places, key=lambda name: places[name])
    at = places[anchor]
    written = lines[at - 1].partition("=")[0].rstrip()
    bare = written.rstrip("\"'")
    prefix = bare[: len(bare) - len(anchor)].rstrip("\"'") if bare.endswith(anchor) else ""
    return _insert(lines, at if anchor == "provider" else at - 1, f"{prefix}{key} = {_quoted(value)}")


def _new_inline(text: str, kind: str, values: dict[str, str]) -> str:
    """A further member of `router = { ... }`; "" when the routes are not written so."""
    document = tomlkit.parse(text)
    router = document.get("router")
    if not isinstance(router, InlineTable):
        return ""
    route = tomlkit.inline_table()
    route.update(values)
    members: MutableMapping[str, Any] = router
    members[kind] = route
    return tomlkit.dumps(document)


def _new_table(text: str, kind: str, values: dict[str, str], after: int) -> str:
    """The table under a header of its own, below line `after`, with a blank line on either side."""
    lines = _lines(text)
    new = [f"[router.{kind}]", *(f"{key} = {_quoted(value)}" for key, value in values.items())]
    if after and lines[after - 1].strip():
        new.insert(0, "")
    if after < len(lines) and lines[after].strip():
        new.append("")
    return _insert(lines, after, *new)


def _line_after_routes(text: str, document: dict[str, Any]) -> int:
    """The last line of the last route's table, with the comments that stand directly below its keys."""
    root = scan(text).root
    lines = _lines(text)
    last = 0
    for kind, route in document.get("router", {}).items():
        for key in (None, *(route if isinstance(route, dict) else ())):
            path = ("router", kind) if key is None else ("router", kind, key)
            last = max(last, root.line_of(path))
    if not last:
        return len(lines)
    while last < len(lines) and not _BLANK_OR_HEADER.match(lines[last]):
        last += 1
    return last


# -- lines -----------------------------------------------------------------------------------------------------------


def _lines(text: str) -> list[str]:
    """With their ends; only what TOML calls a line break is one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _insert(lines: Sequence[str], after: int, *new: str) -> str:
    """The lines with new ones below the first `after` of them, ended as the file ends its lines."""
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    above, below = list(lines[:after]), list(lines[after:])
    if above and not above[-1].endswith("\n"):
        above[-1] += end
    return "".join([*above, *(f"{line}{end}" for line in new), *below])


def _quoted(value: str) -> str:
    return tomlkit.string(value).as_string()

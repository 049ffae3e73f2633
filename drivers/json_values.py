"""JSON from outside, made fit for what lies behind: a channel carries UTF-8, 64-bit integers and a bounded depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loopforge.drivers.turn import JsonObject

MAX_DEPTH = 100
_MAX_INT_DIGITS = 18  # always fits 64 bits
_raw_decode = json.JSONDecoder().raw_decode


def parse_json(text: str) -> Any:
    """The value of JSON without white space in front, at most MAX_DEPTH deep, without half surrogate pairs.

    json.loads with fewer calls, for readers: this runs once an event. Raises ValueError. What is kept of the value, and
    not only looked at, goes through `is_portable` first: it may hold an integer beyond 64 bits.
    """
    try:
        value, end = _raw_decode(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if end != len(text) and not text[end:].isspace():
        raise ValueError("more than one value")
    if text.count("{") + text.count("[") > MAX_DEPTH and not _is_shallow(value):
        raise ValueError("nested too deeply")
    return without_surrogates(value, text)


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, as parse_json gives it, and where it ends. Raises ValueError.

    Of what is no scalar the end is certain: nothing that begins an object is an object.
    """
    try:
        value, end = _raw_decode(text, start)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if text.count("{", start, end) + text.count("[", start, end) > MAX_DEPTH and not _is_shallow(value):
        raise ValueError("nested too deeply")
    if text.find("\\ud", start, end) < 0 and text.find("\\uD", start, end) < 0:
        return value, end
    return _scrub(value), end


def ends_early(text: str, error: ValueError) -> bool:
    """Whether JSON that parse_json raised `error` for was cut, and is not something else: by where reading it ended."""
    if isinstance(error, json.JSONDecodeError) and error.pos >= len(text):
        return True
    return text[-1:] not in ("}", "]")


def parse_object(text: str) -> JsonObject | None:
    """The JSON object that `text` is, None for anything else. An integer beyond 64 bits becomes a float."""
    try:
        parsed = _object_decoder.decode(text)
    except (ValueError, RecursionError):
        return None
    return without_surrogates(parsed, text) if isinstance(parsed, dict) and is_portable(parsed) else None


def is_portable(value: object) -> bool:
    """Whether it is not nested deeper than MAX_DEPTH and holds no integer beyond 64 bits."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                return False
        if not below:
            return True
        level = below
    return False


def without_surrogates(value: Any, text: str) -> Any:
    """The value parsed from `text` with U+FFFD for half surrogate pairs, which JSON can spell and UTF-8 cannot."""
    if "\\ud" not in text and "\\uD" not in text:
        return value
    return _scrub(value)


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_scrub(item) for item in value]
    if isinstance(value, dict):
        return {_scrub(key): _scrub(item) for key, item in value.items()}
    return value


def _is_shallow(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return True
        level = below
    return False


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else float(digits)


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


_object_decoder = json.JSONDecoder(
    parse_int=_parse_int, parse_constant=_no_constant
)  # made once: it costs as much as 60 B


def to_json(value: object) -> str:
    """Compact JSON. Raises ValueError or TypeError for what is none: nan, sets, cycles."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def merge(body: JsonObject, extra: Mapping[str, object]) -> None:
    """Put `extra` into `body`, member by member where both hold objects. `None` takes a member out."""
    for name, value in extra.items():
        there = body.get(name)
        if value is None:
            body.pop(name, None)
        elif isinstance(there, dict) and isinstance(value, Mapping):
            inner = dict(there)
            merge(inner, value)
            body[name] = inner
        else:
            body[name] = value

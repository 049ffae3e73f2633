"""Frozen dataclasses <-> plain values (dicts, lists, str, int, float, bool, None, bytes).

One codec for the channel (msgpack), for `ask --turn` and `--json` (JSON, bytes as base64) and for the checked
configuration on its way to the supervisor. Reading checks every value against the field's annotation and names the
place of the first one that does not fit, because the bytes may come from another program.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Unpacker = Callable[[object, str], Any]


class Malformed(ValueError):
    """A plain value does not describe the class. `path` names the place, such as messages[0].content[1].text."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'the value'}: {problem}")
        self.path = path
        self.problem = problem


def to_plain(value: object, *, defaults: bool = False, text_bytes: bool = False) -> Any:
    """Plain form of a dataclass, tuple, dict or scalar.

    `defaults`: also write members that hold their default. `text_bytes`: bytes become base64 text, for JSON.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii") if text_bytes else value
    if isinstance(value, tuple | list):
        return [to_plain(item, defaults=defaults, text_bytes=text_bytes) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item, defaults=defaults, text_bytes=text_bytes) for key, item in value.items()}
    plain = {}
    for name, default, always in _members(type(value)):
        member = getattr(value, name)
        if always or defaults or member != default:
            plain[name] = to_plain(member, defaults=defaults, text_bytes=text_bytes)
    return plain


def from_plain(cls: type[T], value: object, path: str = "") -> T:
    """The `cls` that `value` describes. Raises Malformed naming the first place that does not fit."""
    return cast("T", _unpacker(cls)(value, path))


_NO_DEFAULT = object()
_MEMBERS: dict[Any, tuple[tuple[str, object, bool], ...]] = {}
_UNPACKERS: dict[Any, Unpacker] = {}


def _members(cls: Any) -> tuple[tuple[str, object, bool], ...]:
    """(name, default, always written) of each field; the `type` tag of a union member is always written."""
    if (known := _MEMBERS.get(cls)) is not None:
        return known
    members = []
    for item in dataclasses.fields(cls):
        default: object = item.default
        if default is dataclasses.MISSING:
            factory = item.default_factory
            default = _NO_DEFAULT if factory is dataclasses.MISSING else factory()
        members.append((item.name, default, item.name == "type"))
    _MEMBERS[cls] = tuple(members)
    return _MEMBERS[cls]


def _unpacker(annotation: Any) -> Unpacker:
    """The reader of one annotation, built once."""
    if (unpacker := _UNPACKERS.get(annotation)) is None:
        unpacker = _UNPACKERS[annotation] = _build_unpacker(annotation)
    return unpacker


def _build_unpacker(annotation: Any) -> Unpacker:
    if dataclasses.is_dataclass(annotation):
        return _dataclass_unpacker(cast("type", annotation))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _literal_unpacker(arguments)
    if origin is tuple:
        return _tuple_unpacker(arguments)
    if origin is dict:
        return _dict_unpacker(arguments[1])
    if origin in (Union, types.UnionType):
        return _union_unpacker(arguments)
    return _scalar_unpacker(annotation)


def _dataclass_unpacker(cls: type) -> Unpacker:
    hints = get_type_hints(cls)
    readers: dict[str, Unpacker] = {}
    required = {name for name, default, _ in _members(cls) if default is _NO_DEFAULT}

    def unpack(value: object, path: str) -> Any:
        if not isinstance(value, dict):
            raise Malformed(path, f"write an object here, not {_describe(value)}")
        if not readers:  # built on first use: the classes refer to one another
            readers.update({name: _unpacker(hints[name]) for name, _, _ in _members(cls)})
        members = {}
        for name, item in value.items():
            if (reader := readers.get(name)) is None:
                raise Malformed(f"{path}.{name}".lstrip("."), f"no such member{_did_you_mean(name, readers)}")
            members[name] = reader(item, f"{path}.{name}" if path else name)
        if missing := sorted(required - members.keys()):
            raise Malformed(path, f"the member {missing[0]!r} is missing")
        return cls(**members)

    return unpack


def _literal_unpacker(allowed: tuple[object, ...]) -> Unpacker:
    def unpack(value: object, path: str) -> object:
        if value not in allowed or isinstance(value, bool):
            choices = ", ".join(repr(choice) for choice in allowed)
            raise Malformed(path, f"{value!r} is not one of {choices}{_did_you_mean(value, allowed)}")
        return value

    return unpack


def _tuple_unpacker(arguments: tuple[Any, ...]) -> Unpacker:
    item_unpacker = _unpacker(arguments[0])

    def unpack(value: object, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Malformed(path, f"write a list here, not {_describe(value)}")
        return tuple([item_unpacker(item, f"{path}[{index}]") for index, item in enumerate(value)])

    return unpack


def _dict_unpacker(item_annotation: Any) -> Unpacker:
    item_unpacker = None if item_annotation is Any else _unpacker(item_annotation)

    def unpack(value: object, path: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Malformed(path, f"write an object here, not {_describe(value)}")
        if item_unpacker is None:
            return value
        return {key: item_unpacker(item, f"{path}.{key}") for key, item in value.items()}

    return unpack


def _union_unpacker(arguments: tuple[Any, ...]) -> Unpacker:
    """Members of a union are told apart by the `type` tag of dataclasses, else by the value's own kind."""
    classes = [cls for cls in arguments if dataclasses.is_dataclass(cls)]
    others = [other for other in arguments if not dataclasses.is_dataclass(other)]
    tagged = {_tag(cls): cls for cls in classes} if len(classes) > 1 else {}

    def unpack(value: object, path: str) -> Any:
        if isinstance(value, dict) and classes:
            if not tagged:
                return _unpacker(classes[0])(value, path)
            tag = value.get("type")
            if not isinstance(tag, str) or tag not in tagged:
                raise Malformed(f"{path}.type", f"{tag!r} is not one of {', '.join(map(repr, tagged))}")
            return _unpacker(tagged[tag])(value, path)
        problem = None
        for other in others:
            try:
                return _unpacker(other)(value, path)
            except Malformed as exc:
                problem = problem or exc
        raise problem or Malformed(path, f"write an object here, not {_describe(value)}")

    return unpack


def _tag(cls: Any) -> object:
    return next(default for name, default, _ in _members(cls) if name == "type")


def _scalar_unpacker(annotation: Any) -> Unpacker:
    if annotation is Any:
        return lambda value, _path: value
    if annotation is bytes:
        return _unpack_bytes
    if annotation in (None, type(None)):
        accepted: tuple[type, ...] = (type(None),)
    elif annotation is float:
        accepted = (float, int)
    else:
        accepted = (annotation,)
    wanted = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}

    def unpack(value: object, path: str) -> object:
        if not isinstance(value, accepted) or (isinstance(value, bool) and annotation is not bool):
            name = "null" if type(None) in accepted else wanted.get(annotation.__name__, annotation.__name__)
            raise Malformed(path, f"write {name} here, not {_describe(value)}")
        return value

    return unpack


def _unpack_bytes(value: object, path: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError as exc:  # binascii.Error is one; text beyond ASCII raises another
            raise Malformed(path, f"not base64: {exc}") from exc
    raise Malformed(path, f"write base64 text here, not {_describe(value)}")


def _describe(value: object) -> str:
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _did_you_mean(name: object, known: Any) -> str:
    close = difflib.get_close_matches(str(name), [str(item) for item in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

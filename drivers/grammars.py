"""JSON Schemas as Claude models enforce them, whoever serves them. Pure; never changes the schema it was given.

What is enforced is compiled to a grammar: closed objects, no recursion, and of the rules on values only types, choices
and a few formats. A rule that it does not know would get the whole request refused, so it moves into the description,
where the model reads it, and the caller is told. Source: the structured-outputs page and the schema transformation of
Anthropic's own SDK (anthropic 2.12.0, lib/_parse/_transform.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from loopforge.drivers.draft import Draft
from loopforge.drivers.schemas import CannotInlineError, as_parameters, inline_definitions
from loopforge.drivers.turn import JsonObject

MAX_STRICT_TOOLS: Final = 20
MAX_OPTIONAL: Final = 24
MAX_UNIONS: Final = 16
"""Of all schemas that one request has enforced, together."""
_MAX_DEPTH = 64

_FORMATS = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
})  # fmt: skip
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_KEPT = frozenset({"title", "description", "default", "const", "required"})
_COMBINATIONS = ("anyOf", "oneOf", "allOf", "$ref")
_SILENT = frozenset({"$schema", "$id", "$comment"})  # they restrict nothing, and tell the model nothing
_ANNOTATIONS = frozenset({"examples", "deprecated", "readOnly", "writeOnly", "nullable"})
_LOCAL_REF = re.compile(r"#/(\$defs|definitions)/[^/]+|#")


class CannotEnforceError(Exception):
    """No grammar can be made of the schema. The text is a clause that says why."""


@dataclass(slots=True)
class Enforced:
    """A schema as it is sent. `loose`: rules of it that only its descriptions tell. `optional`, `unions`: its price."""

    schema: JsonObject
    loose: list[str] = field(default_factory=list)
    optional: int = 0
    unions: int = 0


def enforce(schema: JsonObject) -> Enforced:
    """The schema as a grammar is made of it. Raises CannotEnforceError."""
    if _refers_to_itself(schema):
        raise CannotEnforceError("it refers to itself")
    result = Enforced({})
    result.schema = _enforced(schema, "", result, 0)
    return result


def as_input(schema: JsonObject) -> tuple[JsonObject, str]:
    """A tool's input_schema that is not enforced, and what its description has to add, "" when nothing.

    The root must be a plain object. One that combines schemas is told in words, with the properties that it names.
    """
    schema = as_parameters(schema)
    if "$ref" in schema:
        with suppress(CannotInlineError):
            schema = as_parameters(inline_definitions(schema))
    if schema.get("type") == "object" and not any(key in schema for key in _COMBINATIONS):
        return schema, ""
    properties: JsonObject = {}
    for branch in _branches(schema):
        if isinstance(inner := branch.get("properties"), dict):
            properties = {**inner, **properties}
    plain: JsonObject = {"type": "object", "properties": properties}
    for name in ("$defs", "definitions"):
        if name in schema:
            plain[name] = schema[name]
    told = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return plain, f"The input must follow this JSON Schema: {told}"


def _branches(schema: JsonObject) -> Iterator[JsonObject]:
    yield schema
    for key in ("anyOf", "oneOf", "allOf"):
        listed = schema.get(key)
        yield from (branch for branch in (listed if isinstance(listed, list) else ()) if isinstance(branch, dict))


class EnforcedSchemas:
    """The schemas that a request has enforced: each is looked at by itself, and all share one budget."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._optional = self._unions = self._tools = 0

    def add(self, schema: JsonObject, whose: str, *, tool: bool = False) -> JsonObject | None:
        """The schema in the form that is enforced, None, with a notice, when it cannot be."""
        try:
            enforced = enforce(schema)
            self._pay(enforced, tool=tool)
        except CannotEnforceError as exc:
            self._draft.note(f"the schema of {whose} is not enforced: {exc}")
            return None
        if enforced.loose:
            told = ", ".join(enforced.loose[:5]) + (", …" if len(enforced.loose) > 5 else "")
            self._draft.note(f"of the schema of {whose} this wire does not enforce {told}: the model was told in words")
        return enforced.schema

    def _pay(self, enforced: Enforced, *, tool: bool) -> None:
        optional, unions = self._optional + enforced.optional, self._unions + enforced.unions
        if tool and self._tools >= MAX_STRICT_TOOLS:
            raise CannotEnforceError(f"this wire enforces those of {MAX_STRICT_TOOLS} tools")
        if optional > MAX_OPTIONAL:
            raise CannotEnforceError(f"this wire enforces {MAX_OPTIONAL} optional properties in all")
        if unions > MAX_UNIONS:
            raise CannotEnforceError(f"this wire enforces {MAX_UNIONS} choices between types in all")
        self._optional, self._unions, self._tools = optional, unions, self._tools + tool


# -- enforcing --------------------------------------------------------------------------------------------------------


def _enforced(schema: Any, where: str, result: Enforced, depth: int) -> JsonObject:
    place = where or "the root"
    if not isinstance(schema, dict):
        raise CannotEnforceError(f"{place} is no schema object")
    if depth > _MAX_DEPTH:
        raise CannotEnforceError(f"{place} is nested too deeply")
    wire: JsonObject = {}
    for name in ("$defs", "definitions"):
        if isinstance(inner := schema.get(name), dict):
            wire[name] = {key: _enforced(item, f"{where}/{key}", result, depth + 1) for key, item in inner.items()}
    if "$ref" in schema:
        return {
            **wire,
            "$ref": schema["$ref"],
            **{key: schema[key] for key in ("title", "description") if key in schema},
        }
    rest = {key: value for key, value in schema.items() if key not in _SILENT and key not in wire}
    wire |= {key: rest.pop(key) for key in tuple(rest) if key in _KEPT}
    _take_kind(rest, wire, place, result)
    _take_combination(rest, wire, where, result, depth)
    kind = wire.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        _take_object(rest, wire, where, result, depth)
    if isinstance(items := rest.get("items"), dict):
        wire["items"] = _enforced(rest.pop("items"), f"{where}/items", result, depth + 1) if items else {}
        if not items:
            raise CannotEnforceError(f"{where}/items allows anything")
    if rest.get("minItems") in (0, 1):
        wire["minItems"] = rest.pop("minItems")
    if rest.get("format") in _FORMATS:
        wire["format"] = rest.pop("format")
    _tell(rest, wire, place, result)
    return wire


def _take_kind(rest: JsonObject, wire: JsonObject, place: str, result: Enforced) -> None:
    kind, choices = rest.pop("type", None), rest.get("enum")
    if isinstance(choices, list) and choices and all(_is_primitive(choice) for choice in choices):
        wire["enum"] = rest.pop("enum")
    if kind is not None:
        kinds = kind if isinstance(kind, list) else [kind]
        if not kinds or any(name not in _TYPES for name in kinds):
            raise CannotEnforceError(f"{place} has the type {kind!r}")
        wire["type"] = kind
        result.unions += len(kinds) > 1
    elif "properties" in rest:
        wire["type"] = "object"
    elif not (wire.keys() & {"enum", "const"} or rest.keys() & {"anyOf", "oneOf", "allOf"}):
        raise CannotEnforceError(f"{place} allows anything")
    if not _is_primitive(wire.get("const")):
        raise CannotEnforceError(f"{place} has a const that is no plain value")


def _take_combination(rest: JsonObject, wire: JsonObject, where: str, result: Enforced, depth: int) -> None:
    for name, sent in (("anyOf", "anyOf"), ("oneOf", "anyOf"), ("allOf", "allOf")):
        branches = rest.get(name)
        if not isinstance(branches, list) or not branches or sent in wire:
            continue
        del rest[name]
        wire[sent] = [
            _enforced(branch, f"{where}/{name}[{number}]", result, depth + 1) for number, branch in enumerate(branches)
        ]
        result.unions += sent == "anyOf"
        if name == "oneOf":
            result.loose.append(f"oneOf at {where or 'the root'}")


def _take_object(rest: JsonObject, wire: JsonObject, where: str, result: Enforced, depth: int) -> None:
    place = where or "the root object"
    properties = rest.pop("properties", {})
    if rest.pop("additionalProperties", False) is not False:
        raise CannotEnforceError(f"{place} allows additional properties")
    if not isinstance(properties, dict) or not properties:
        raise CannotEnforceError(f"{place} names no properties")
    wire["properties"] = {
        name: _enforced(inner, f"{where}/{name}", result, depth + 1) for name, inner in properties.items()
    }
    wire["additionalProperties"] = False
    required = wire.get("required")
    if required is not None and not (isinstance(required, list) and all(name in properties for name in required)):
        raise CannotEnforceError(f"{place} requires what it does not name")
    result.optional += len(set(properties) - set(required or ()))


def _tell(rest: JsonObject, wire: JsonObject, place: str, result: Enforced) -> None:
    """What the grammar cannot hold goes into the description."""
    if not rest:
        return
    result.loose += [f"{name} at {place}" for name in rest if name not in _ANNOTATIONS]
    rules = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False, default=str)}" for name, value in rest.items())
    before = wire.get("description")
    wire["description"] = f"{before}\n\n{{{rules}}}" if isinstance(before, str) and before else f"{{{rules}}}"


def _is_primitive(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _refers_to_itself(schema: JsonObject) -> bool:
    """Whether following the references of any definition, or of the root, comes back to it; or one leads outside."""
    definitions: dict[str, Any] = {"#": {key: item for key, item in schema.items() if key not in _DEFINITIONS}}
    for name in _DEFINITIONS:
        if isinstance(inner := schema.get(name), dict):
            definitions |= {f"#/{name}/{key}": item for key, item in inner.items()}
    edges = {name: set(_references(item, 0)) for name, item in definitions.items()}
    for reference in {reference for found in edges.values() for reference in found}:
        if reference not in definitions or not _LOCAL_REF.fullmatch(reference):
            raise CannotEnforceError(f"the reference {reference!r} leads nowhere")
    done: set[str] = set()
    return any(_has_cycle(start, edges, done) for start in edges)


_DEFINITIONS = ("$defs", "definitions")


def _has_cycle(start: str, edges: dict[str, set[str]], done: set[str]) -> bool:
    """Depth first, without recursion: schemas come from outside."""
    path: list[tuple[str, Iterable[str]]] = [(start, iter(edges[start]))]
    open_names = {start}
    while path:
        name, targets = path[-1]
        target = next(iter(targets), None)
        if target is None:
            path.pop()
            open_names.discard(name)
            done.add(name)
        elif target in open_names:
            return True
        elif target not in done:
            open_names.add(target)
            path.append((target, iter(edges[target])))
    return False


def _references(value: Any, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH * 2:
        raise CannotEnforceError("it is nested too deeply")
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for item in value.values():
            yield from _references(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item, depth + 1)

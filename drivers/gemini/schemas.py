"""JSON Schemas as the OpenAPI 3.0 subset that models before 2.5 take. Pure; never changes the schema it was given.

A rule that the subset cannot say moves into the description, where the model reads it, and the caller is told. Source:
https://ai.google.dev/api/caching#Schema, and the conversions of the clients whose requests were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from loopforge.drivers.schemas import CannotInlineError, as_parameters, inline_definitions
from loopforge.drivers.turn import JsonObject

_MAX_DEPTH = 64
_KEPT: Final = (
    "description", "minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength", "pattern", "nullable",
    "minProperties", "maxProperties", "propertyOrdering",
)  # fmt: skip
_SILENT: Final = frozenset({
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "examples", "default", "discriminator", "deprecated",
    "readOnly", "writeOnly",
})  # fmt: skip
"""They restrict nothing."""
_STRUCTURE: Final = frozenset({
    "type", "enum", "const", "format", "properties", "required", "items", "prefixItems", "anyOf", "oneOf",
})  # fmt: skip
_FORMATS: Final = {
    "string": ("enum", "date-time"),
    "integer": ("int32", "int64"),
    "number": ("float", "double"),
}
_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")


class CannotExpressError(Exception):
    """The subset has no form of the schema. The text is a clause that says why."""


@dataclass(slots=True)
class Subset:
    """A schema as it is sent. `loose`: rules of it that only its descriptions tell."""

    schema: JsonObject
    loose: list[str] = field(default_factory=list)


def has_no_members(schema: JsonObject) -> bool:
    """Whether it is an object without properties: some models refuse such parameters, and none needs them."""
    schema = as_parameters(schema)
    return schema.get("type") == "object" and not schema.get("properties") and not (
        schema.keys() & {"$ref", "anyOf", "oneOf", "allOf", "patternProperties"}
    ) and not isinstance(schema.get("additionalProperties"), dict)  # fmt: skip


def as_subset(schema: JsonObject) -> Subset:
    """The schema in the subset. Raises CannotExpressError."""
    try:
        bare = inline_definitions(schema)
    except CannotInlineError as exc:
        raise CannotExpressError(f"its reference {exc} cannot be written out") from exc
    result = Subset({})
    result.schema = _subset(bare, "", result, 0)
    return result


def _subset(schema: Any, where: str, result: Subset, depth: int) -> JsonObject:
    place = where or "the root"
    if depth > _MAX_DEPTH:
        raise CannotExpressError(f"{place} is nested too deeply")
    if not isinstance(schema, dict):
        if schema is not True:
            raise CannotExpressError(f"{place} is no schema object")
        schema = {}
    schema = _merged(schema, place)
    wire: JsonObject = {key: schema[key] for key in _KEPT if key in schema}
    told = {key: value for key, value in schema.items() if key not in _SILENT and key not in wire}
    told = {key: value for key, value in told.items() if key not in _STRUCTURE and key != "allOf"}
    if told.get("additionalProperties") is False:
        del told["additionalProperties"]  # models add none
    kinds = _kinds(schema, wire, place)
    branches = _branches(schema, wire)
    if branches:
        wire["anyOf"] = [_subset(item, f"{where}/anyOf[{n}]", result, depth + 1) for n, item in enumerate(branches)]
        if len(branches) == 1:
            wire = {**wire.pop("anyOf")[0], **wire}
    elif len(kinds) > 1:
        rest = {key: value for key, value in schema.items() if key in _STRUCTURE and key != "type"}
        wire["anyOf"] = [_subset({**rest, "type": kind}, where, result, depth + 1) for kind in kinds]
    else:
        _take_kind(schema, kinds[0] if kinds else "", wire, told)
        if wire["type"] == "OBJECT":
            _take_properties(schema, wire, where, result, depth)
        elif wire["type"] == "ARRAY":
            _take_items(schema, wire, where, result, depth)
    if told:
        result.loose += [f"{name} at {place}" for name in told]
        rules = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in told.items())
        wire["description"] = f"{wire['description']} {{{rules}}}" if wire.get("description") else f"{{{rules}}}"
    return wire


def _merged(schema: JsonObject, place: str) -> JsonObject:
    """The schema with what its `allOf` says put into it."""
    parts = schema.get("allOf")
    if not isinstance(parts, list):
        return schema
    whole = {key: value for key, value in schema.items() if key != "allOf"}
    for part in parts:
        if not isinstance(part, dict):
            raise CannotExpressError(f"{place} combines what is no schema object")
        for key, value in _merged(part, place).items():
            there = whole.get(key)
            if key == "properties" and isinstance(there, dict) and isinstance(value, dict):
                whole[key] = {**value, **there}
            elif key == "required" and isinstance(there, list) and isinstance(value, list):
                whole[key] = [*there, *(name for name in value if name not in there)]
            else:
                whole.setdefault(key, value)
    return whole


def _kinds(schema: JsonObject, wire: JsonObject, place: str) -> list[str]:
    """The types but null, which makes the schema nullable."""
    kind = schema.get("type", [])
    kinds = kind if isinstance(kind, list) else [kind]
    if any(name not in _TYPES for name in kinds):
        raise CannotExpressError(f"{place} has the type {kind!r}")
    if "null" in kinds:
        wire["nullable"] = True
    return [name for name in kinds if name != "null"]


def _branches(schema: JsonObject, wire: JsonObject) -> list[Any]:
    found = [
        branch for key in ("anyOf", "oneOf") if isinstance(listed := schema.get(key), list) for branch in listed
    ]  # fmt: skip
    kept = [branch for branch in found if not (isinstance(branch, dict) and branch.get("type") == "null")]
    if len(kept) < len(found):
        wire["nullable"] = True
    return kept


def _take_kind(schema: JsonObject, kind: str, wire: JsonObject, told: JsonObject) -> None:
    choices = schema["enum"] if isinstance(schema.get("enum"), list) else None
    if "const" in schema:
        choices = [schema["const"]]
    if not kind:
        kind = _guessed(schema, choices)
    wire["type"] = kind.upper()
    if choices is not None:
        if None in choices:
            wire["nullable"] = True
        names = [choice for choice in choices if choice is not None]
        if kind == "string" and names and all(isinstance(name, str) and name for name in names):
            wire["enum"] = names
        else:
            told["one of"] = choices
    form = schema.get("format")
    if form in _FORMATS.get(kind, ()):
        wire["format"] = form
    elif form is not None:
        told["format"] = form


def _guessed(schema: JsonObject, choices: list[Any] | None) -> str:
    if "properties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    for cls, name in ((bool, "boolean"), (int, "integer"), (float, "number")):
        if choices and all(isinstance(choice, cls) for choice in choices):
            return name
    return "string"


def _take_properties(schema: JsonObject, wire: JsonObject, where: str, result: Subset, depth: int) -> None:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return
    wire["properties"] = {
        name: _subset(inner, f"{where}/{name}", result, depth + 1) for name, inner in properties.items()
    }
    required = schema.get("required")
    if named := [name for name in (required if isinstance(required, list) else ()) if name in properties]:
        wire["required"] = named


def _take_items(schema: JsonObject, wire: JsonObject, where: str, result: Subset, depth: int) -> None:
    prefix = schema.get("prefixItems")
    if isinstance(prefix, list) and prefix:
        wire["items"] = _subset({"anyOf": prefix}, f"{where}/items", result, depth + 1)
        wire["minItems"], wire["maxItems"] = wire.get("minItems", len(prefix)), wire.get("maxItems", len(prefix))
        result.loose.append(f"the order of prefixItems at {where or 'the root'}")
    else:
        wire["items"] = _subset(schema.get("items", {"type": "string"}), f"{where}/items", result, depth + 1)

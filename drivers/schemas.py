"""JSON Schemas as a vendor takes them. Pure; never changes the schema it was given.

A change here may narrow what the model can answer, never widen it: what fits the result fits the schema of the turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from loopforge.drivers.turn import JsonObject

MAX_DEPTH = 64
MAX_INLINED_BYTES = 1_000_000

_LOCAL_REF = re.compile(r"#/(\$defs|definitions)/([^/]+)")
_SUBSCHEMA_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_SUBSCHEMAS = ("items", "additionalProperties", "not", "contains", "if", "then", "else")
_NOT_IN_STRICT_MODE = ("allOf", "oneOf", "not", "if", "then", "else", "patternProperties", "dependentRequired")
_SUBSCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


class CannotInlineError(Exception):
    """The schema refers to itself, or grows too large when its references are replaced."""


def as_parameters(schema: JsonObject) -> JsonObject:
    """A tool's parameters: an object schema in any case, with a `properties` member when it says nothing else."""
    if not schema:
        return {"type": "object", "properties": {}}
    if schema.get("type") == "object" and "properties" not in schema and not _combines(schema):
        return {**schema, "properties": {}}
    return schema if "type" in schema or _combines(schema) else {"type": "object", **schema}


def close_objects(schema: JsonObject) -> JsonObject:
    """The schema with `additionalProperties: false`, as strict mode wants it, on every object that does not say."""
    return _walk(schema, _close_object, 0)


def why_not_strict(schema: JsonObject) -> str:
    """What of OpenAI's strict mode the schema breaks, as a clause with the place; "" when it keeps all rules."""
    if schema.get("type") != "object":
        return "its root is not an object"
    return _why_not_strict(schema, "", 0)


def inline_definitions(schema: JsonObject) -> JsonObject:
    """The schema without `$ref`: every local definition in place. Raises CannotInlineError."""
    definitions = {**_mapping(schema.get("definitions")), **_mapping(schema.get("$defs"))}
    if not definitions and "$ref" not in json.dumps(schema):
        return schema
    budget = [MAX_INLINED_BYTES]
    bare = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
    result = _inline(bare, definitions, (), budget)
    return result if isinstance(result, dict) else bare


def push_type_into_any_of(schema: JsonObject) -> JsonObject:
    """No `type` beside `anyOf`: it moves into the branches that have none."""
    return _walk(schema, _push_type, 0)


def _combines(schema: JsonObject) -> bool:
    return any(key in schema for key in ("$ref", *_SUBSCHEMA_LISTS))


def _mapping(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _walk(schema: JsonObject, change: Callable[[JsonObject], JsonObject], depth: int) -> JsonObject:
    """The schema with `change` applied to a copy of every subschema, innermost first."""
    if depth > MAX_DEPTH:
        return schema

    def below(value: object) -> object:
        return _walk(value, change, depth + 1) if isinstance(value, dict) else value

    result = dict(schema)
    for key in _SUBSCHEMA_MAPS:
        if isinstance(inner := result.get(key), dict):
            result[key] = {name: below(value) for name, value in inner.items()}
    for key in _SUBSCHEMAS:
        if key in result:
            result[key] = below(result[key])
    for key in _SUBSCHEMA_LISTS:
        if isinstance(branches := result.get(key), list):
            result[key] = [below(value) for value in branches]
    return change(result)


def _is_object(schema: JsonObject) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema


def _close_object(schema: JsonObject) -> JsonObject:
    if _is_object(schema) and "additionalProperties" not in schema:
        schema["additionalProperties"] = False
    return schema


def _push_type(schema: JsonObject) -> JsonObject:
    branches = schema.get("anyOf")
    if "type" not in schema or not isinstance(branches, list):
        return schema
    kind = schema.pop("type")
    schema["anyOf"] = [
        {"type": kind, **branch} if isinstance(branch, dict) and not _combines(branch) else branch
        for branch in branches
    ]
    return schema


def _why_not_strict(schema: Any, where: str, depth: int) -> str:
    if not isinstance(schema, dict):
        return f"{where or 'the root'} is no schema object"
    if depth > MAX_DEPTH:
        return f"{where} is nested too deeply"
    if banned := next((key for key in _NOT_IN_STRICT_MODE if key in schema), ""):
        return f"{where or 'the root'} uses {banned}"
    if _is_object(schema):
        place = where or "the root object"
        if schema.get("additionalProperties") is not False:
            return f"{place} allows additional properties"
        required = schema.get("required")
        missing = sorted(set(_mapping(schema.get("properties"))) - set(required if isinstance(required, list) else ()))
        if missing:
            return f"{place} has optional properties ({', '.join(missing)})"
    for key in ("properties", "$defs", "definitions"):
        for name, inner in _mapping(schema.get(key)).items():
            if why := _why_not_strict(inner, f"{where}/{name}", depth + 1):
                return why
    if "items" in schema and (why := _why_not_strict(schema["items"], f"{where}/items", depth + 1)):
        return why
    for key in _SUBSCHEMA_LISTS:
        branches = schema.get(key)
        for number, inner in enumerate(branches if isinstance(branches, list) else ()):
            if why := _why_not_strict(inner, f"{where}/{key}[{number}]", depth + 1):
                return why
    return ""


def _inline(value: Any, definitions: JsonObject, inside: tuple[str, ...], budget: list[int]) -> Any:
    """`inside`: the definitions being written out. `budget`: bytes that may still be added."""
    if isinstance(value, list):
        return [_inline(item, definitions, inside, budget) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if not isinstance(reference, str):
        return {key: _inline(item, definitions, inside, budget) for key, item in value.items()}
    found = _LOCAL_REF.fullmatch(reference)
    if found is None or found[2] not in definitions or found[2] in inside or len(inside) > MAX_DEPTH:
        raise CannotInlineError(reference)
    target = definitions[found[2]]
    budget[0] -= len(json.dumps(target))
    if budget[0] < 0:
        raise CannotInlineError(reference)
    beside = {key: item for key, item in value.items() if key != "$ref"}
    whole = _inline(target, definitions, (*inside, found[2]), budget)
    return {**whole, **beside} if isinstance(whole, dict) else whole

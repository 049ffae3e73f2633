"""JSON Schemas as the subset that older models take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.gemini.schemas import CannotExpressError, as_subset
from tests.drivers.gemini.request_rules import subset_problems

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        ({"type": "string", "title": "T", "default": "a", "$schema": "x"}, {"type": "STRING"}),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"type": "INTEGER", "nullable": True}),
        (
            {"oneOf": [{"type": "integer"}, {"type": "string"}], "description": "d"},
            {"anyOf": [{"type": "INTEGER"}, {"type": "STRING"}], "description": "d"},
        ),
        ({"type": ["integer", "string"]}, {"anyOf": [{"type": "INTEGER"}, {"type": "STRING"}]}),
        ({"const": "a"}, {"type": "STRING", "enum": ["a"]}),
        ({"enum": ["a", None]}, {"type": "STRING", "enum": ["a"], "nullable": True}),
        ({"type": "array"}, {"type": "ARRAY", "items": {"type": "STRING"}}),
        (
            {"items": {"type": "number", "format": "float"}},
            {"type": "ARRAY", "items": {"type": "NUMBER", "format": "float"}},
        ),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"properties": {"a": True}, "required": ["a", "b"], "additionalProperties": False},
         {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]}),
        ({"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]},
                    {"properties": {"b": {"type": "string"}}, "required": ["b"]}]},
         {"type": "OBJECT", "properties": {"b": {"type": "STRING"}, "a": {"type": "STRING"}}, "required": ["a", "b"]}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}}, {"type": "BOOLEAN"}),
    ],
)  # fmt: skip
def test_a_schema_has_a_form_in_the_subset(schema: Json, sent: Json) -> None:
    found = as_subset(schema)
    assert (found.schema, found.loose) == (sent, [])


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "number", "exclusiveMinimum": 3}, "exclusiveMinimum: 3"),
        ({"type": "integer", "enum": [1, 2]}, "one of: [1, 2]"),
        ({"type": "string", "format": "email"}, 'format: "email"'),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "additionalProperties"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
        ({"type": "string", "not": {"const": "a"}}, "not"),
    ],
)
def test_a_rule_that_the_subset_cannot_say_is_told_in_words(schema: Json, told: str) -> None:
    found = as_subset({**schema, "description": "Which."})
    assert found.schema["description"].startswith("Which. {")
    assert told in found.schema["description"]
    assert len(found.loose) == 1


def test_a_tuple_becomes_a_list_of_its_length() -> None:
    found = as_subset({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]})
    assert found.schema == {
        "type": "ARRAY", "items": {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}, "minItems": 2, "maxItems": 2,
    }  # fmt: skip
    assert found.loose == ["the order of prefixItems at the root"]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
        {"$ref": "https://elsewhere.example/a"},
        {"type": "object", "properties": {"a": False}},
        {"type": "tuple"},
    ],
)
def test_what_the_subset_has_no_form_for_is_named(schema: Json) -> None:
    with pytest.raises(CannotExpressError):
        as_subset(schema)


schemas: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "null", ["string", "null"], ["integer", "string"]]),
            "enum": st.lists(st.sampled_from(["a", 1, None]), max_size=2),
            "const": st.sampled_from(["a", 1, None, [1]]),
            "format": st.sampled_from(["email", "int32", "date-time"]),
            "minimum": st.integers(0, 3),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            "required": st.lists(st.sampled_from(["a", "c"]), max_size=2),
            "items": inner,
            "prefixItems": st.lists(inner, max_size=2),
            "anyOf": st.lists(inner, max_size=3),
            "allOf": st.lists(inner, max_size=2),
            "type": st.sampled_from(["object", "array", ["object", "null"]]),
            "additionalProperties": st.booleans() | inner,
        },
    ),
    max_leaves=8,
)


@given(schemas)
def test_any_schema_becomes_one_that_is_taken_or_is_named(schema: Json) -> None:
    try:
        found = as_subset(schema)
    except CannotExpressError:
        return
    assert list(subset_problems(found.schema)) == []

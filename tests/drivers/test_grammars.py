"""Schemas that are enforced, and tool inputs that only describe."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.grammars import CannotEnforceError, as_input, enforce
from loopforge.drivers.simulator.anthropic_requests import check_request

STRING = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "additionalProperties": False, "required": list(properties),
    }  # fmt: skip


def test_a_schema_that_can_be_enforced_stays_as_it_is() -> None:
    schema = {
        **closed(
            name={"type": "string", "format": "date", "description": "when", "title": "Name"},
            kind={"enum": ["a", "b", None]},
            one={"const": 1},
            many={"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1},
            either={"anyOf": [STRING, {"type": "null"}]},
            all={"allOf": [STRING]},
            flag={"type": ["boolean", "null"], "default": None},
        ),
        "$defs": {"item": closed(x={"type": "number"})},
    }
    before = deepcopy(schema)
    result = enforce(schema)
    assert result.schema == before == schema
    assert (result.loose, result.optional, result.unions) == ([], 0, 2)


def test_objects_are_closed_and_what_is_optional_is_counted() -> None:
    result = enforce(
        {"properties": {"a": STRING, "b": {"type": "object", "properties": {"c": STRING}}}, "required": ["a"]}
    )
    assert result.schema["type"] == "object"
    assert result.schema["additionalProperties"] is result.schema["properties"]["b"]["additionalProperties"] is False
    assert result.optional == 2


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 5}, "{minimum: 1, maximum: 5}"),
        ({"type": "string", "pattern": "^a", "maxLength": 3}, '{pattern: "^a", maxLength: 3}'),
        ({"type": "string", "format": "phone"}, '{format: "phone"}'),
        ({"type": "array", "items": STRING, "minItems": 2, "uniqueItems": True}, "{minItems: 2, uniqueItems: true}"),
        ({"type": "string", "enum": ["a", ["b"]]}, '{enum: ["a", ["b"]]}'),
        ({"type": "integer", "not": {"const": 3}}, '{not: {"const": 3}}'),
    ],
)
def test_a_rule_that_is_not_enforced_is_told_in_words(rules: dict[str, Any], told: str) -> None:
    result = enforce(closed(x=rules, y={**rules, "description": "Why"}))
    properties = result.schema["properties"]
    assert properties["x"]["description"] == told
    assert properties["y"]["description"] == f"Why\n\n{told}"
    assert {place.partition(" at ")[2] for place in result.loose} == {"/x", "/y"}
    checked(result.schema)


def test_one_of_becomes_any_of_and_says_so() -> None:
    result = enforce(closed(x={"oneOf": [STRING, {"type": "null"}]}))
    assert result.schema["properties"]["x"] == {"anyOf": [STRING, {"type": "null"}]}
    assert result.loose == ["oneOf at /x"]


def test_what_only_describes_is_told_and_is_no_loss() -> None:
    schema = {**closed(x={**STRING, "examples": ["a"]}), "$schema": "https://json-schema.org/draft/2020-12/schema"}
    result = enforce(schema)
    assert result.schema["properties"]["x"]["description"] == '{examples: ["a"]}'
    assert "$schema" not in result.schema
    assert result.loose == []


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({}, "the root allows anything"),
        ({"type": "object"}, "names no properties"),
        ({"type": "object", "properties": {}}, "names no properties"),
        ({"type": "object", "additionalProperties": STRING}, "allows additional properties"),
        (
            closed(x={"type": "object", "additionalProperties": True, "properties": {"a": STRING}}),
            "/x allows additional",
        ),
        (closed(x={}), "/x allows anything"),
        (closed(x={"description": "any"}), "/x allows anything"),
        (closed(x={"type": "array", "items": {}}), "/x/items allows anything"),
        (closed(x={"type": "any"}), "has the type 'any'"),
        (closed(x={"type": []}), "has the type []"),
        (closed(x={"const": {"a": 1}}), "no plain value"),
        (closed(x="string"), "/x is no schema object"),
        ({**closed(x=STRING), "required": ["y"]}, "requires what it does not name"),
        ({**closed(x={"$ref": "#/$defs/a"}), "$defs": {"a": closed(b={"$ref": "#/$defs/a"})}}, "refers to itself"),
        (closed(x={"$ref": "#"}), "refers to itself"),
        (
            {
                **closed(x={"$ref": "#/$defs/a"}),
                "$defs": {"a": closed(b={"$ref": "#/$defs/b"}), "b": closed(a={"$ref": "#/$defs/a"})},
            },
            "refers to itself",
        ),
        (closed(x={"$ref": "#/$defs/none"}), "leads nowhere"),
        (closed(x={"$ref": "https://example.com/schema"}), "leads nowhere"),
    ],
)
def test_a_schema_that_no_grammar_holds_says_why(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(CannotEnforceError) as caught:
        enforce(schema)
    assert why in str(caught.value)


@pytest.mark.parametrize("depth", [70, 130, 300])
def test_a_schema_that_is_too_deep_says_so(depth: int) -> None:
    items: dict[str, Any] = STRING
    properties, definitions, branches = items, items, items
    for _ in range(depth):
        items = {"type": "array", "items": items}
        properties = closed(x=properties)
        definitions = {**STRING, "$defs": {"a": definitions}}
        branches = {"anyOf": [branches]}
    for schema in (items, properties, definitions, branches):
        with pytest.raises(CannotEnforceError, match="too deeply"):
            enforce(closed(x=schema))


def checked(schema: dict[str, Any]) -> None:
    """The schema as the simulator, which shares nothing with the driver, takes it."""
    output = {"format": {"type": "json_schema", "schema": schema}}
    message = {"role": "user", "content": "x"}
    body = {"model": "m", "max_tokens": 1, "messages": [message], "output_config": output}
    check_request(json.dumps(body).encode(), reject_unknown=True)


NAMES = st.sampled_from(["a", "b", "c"])
PLAIN = st.sampled_from([STRING, {"type": "integer", "minimum": 0}, {"enum": [1, 2]}, {"type": ["null", "string"]}, {}])
SCHEMAS = st.recursive(
    PLAIN | st.fixed_dictionaries({"$ref": st.sampled_from(["#/$defs/a", "#/$defs/z"])}),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(NAMES, inner, max_size=3)},
            optional={
                "additionalProperties": st.booleans() | inner,
                "required": st.lists(NAMES, max_size=2),
                "$defs": st.dictionaries(NAMES, inner, max_size=2),
            },
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"minItems": st.integers(0, 3)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, max_size=3)}, optional={"not": inner}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
    ),
    max_leaves=10,
)


@given(schema=SCHEMAS)
def test_a_schema_of_any_shape_is_enforced_as_the_wire_takes_it_or_not_at_all(schema: dict[str, Any]) -> None:
    before = deepcopy(schema)
    try:
        result = enforce(schema)
    except CannotEnforceError:
        return
    assert schema == before
    checked(result.schema)


# -- inputs that only describe ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [closed(x=STRING), {"type": "object", "properties": {}, "x-more": 1}])
def test_a_plain_input_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert as_input(schema) == (schema, "")


@pytest.mark.parametrize("schema", [{}, {"type": "object"}])
def test_an_input_that_says_nothing_is_an_object(schema: dict[str, Any]) -> None:
    assert as_input(schema) == ({"type": "object", "properties": {}}, "")


def test_a_reference_at_the_root_is_followed() -> None:
    assert as_input({"$ref": "#/$defs/a", "$defs": {"a": closed(x=STRING)}}) == (closed(x=STRING), "")


def test_a_root_that_combines_schemas_is_told_in_words_with_its_properties() -> None:
    schema = {"anyOf": [closed(x=STRING), closed(y=STRING)], "$defs": {"d": STRING}, "properties": {"z": STRING}}
    plain, told = as_input(schema)
    assert plain == {
        "type": "object",
        "properties": {"x": STRING, "y": STRING, "z": STRING},
        "$defs": {"d": STRING},
    }
    assert json.dumps(schema["anyOf"], separators=(",", ":")) in told


@given(schema=SCHEMAS)
def test_an_input_of_any_shape_is_one_that_the_wire_takes(schema: dict[str, Any]) -> None:
    plain, _ = as_input(schema)
    tool = {"name": "look", "input_schema": plain}
    message = {"role": "user", "content": "x"}
    body = {"model": "m", "max_tokens": 1, "messages": [message], "tools": [tool]}
    check_request(json.dumps(body).encode(), reject_unknown=True)

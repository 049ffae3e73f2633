"""JSON from outside: what is taken, what is refused, and that what is taken fits the channel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.json_values import (
    MAX_DEPTH,
    ends_early,
    is_portable,
    merge,
    parse_json,
    parse_json_at,
    parse_object,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_the_standard_library_reads_it(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value) + " \n") == value


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.text(max_size=9), st.text(max_size=9))
def test_an_object_is_read_where_it_stands_and_ends_where_it_ends(value: object, before: str, behind: str) -> None:
    written = json.dumps(value)
    read, end = parse_json_at(before + written + behind, len(before))
    assert (read, end) == (parse_json(written), len(before) + len(written))


@pytest.mark.parametrize("inner", ["[" * MAX_DEPTH + "]" * MAX_DEPTH, "[" * 100_000 + "]" * 100_000, "{", "", '"\n"'])
def test_what_is_no_object_where_it_stands_is_a_value_error(inner: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json_at(f', {{"a": {inner}}}, ', 2)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1} {"b": 2}', "{]", "nonsense", '{"a": "\n"}'])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@given(st.dictionaries(st.text(max_size=5), JSON, min_size=1, max_size=3), st.data())
def test_json_that_was_cut_anywhere_is_told_from_what_is_no_json(value: object, data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(1, len(text) - 1))].strip()
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(cut)
    assert ends_early(cut, caught.value)


@pytest.mark.parametrize("text", ['{"a" 1}', '{"a": }', "{]}", '{"a": 1} {"b": 2}', "[" * 200 + "]" * 200])
def test_json_that_is_wrong_before_its_end_was_not_cut(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text)
    assert not ends_early(text, caught.value)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5000, 100_000])
def test_json_that_is_too_deep_is_a_value_error_at_any_depth(depth: int) -> None:
    with pytest.raises(ValueError, match="deep"):
        parse_json("[" * depth + "]" * depth)
    assert parse_json("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    assert parse_json('["' + "[" * depth + '"]') == ["[" * depth]


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert parse_json('{"\\ud83d": ["\\uDE00", "\\ud83d\\ude00"]}') == {"�": ["�", "😀"]}


def test_an_integer_beyond_64_bits_is_seen() -> None:
    assert not is_portable(parse_json('{"a": [100000000000000000000]}'))
    assert parse_object('{"a": 100000000000000000000}') == {"a": 1e20}


@pytest.mark.parametrize(
    ("extra", "merged"),
    [
        ({}, {"a": {"b": 1, "c": 2}, "d": 3}),
        ({"a": {"b": 5}}, {"a": {"b": 5, "c": 2}, "d": 3}),
        ({"a": {"b": None}}, {"a": {"c": 2}, "d": 3}),
        ({"a": None, "e": None}, {"d": 3}),
        ({"a": 1, "d": {"x": {"y": 0}}}, {"a": 1, "d": {"x": {"y": 0}}}),
    ],
)
def test_options_are_merged_member_by_member(extra: dict[str, Any], merged: dict[str, Any]) -> None:
    inner = {"b": 1, "c": 2}
    body: dict[str, Any] = {"a": inner, "d": 3}
    merge(body, extra)
    assert body == merged
    assert inner == {"b": 1, "c": 2}

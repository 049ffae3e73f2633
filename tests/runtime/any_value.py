"""Hypothesis strategies for the frozen dataclasses of a turn, made from their annotations: nothing is left out."""

from __future__ import annotations

import dataclasses
import types
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

T = TypeVar("T")

TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(0, 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),  # times and prices; models write the others in JSON
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    types.NoneType: st.none(),
    Any: JSON,
}


@cache
def any_value(annotation: Any) -> st.SearchStrategy[Any]:
    """Any value that fits the annotation."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return st.deferred(lambda: any_of(annotation))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(any_value(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, any_value(arguments[1]), max_size=2)
    if origin in (Union, types.UnionType):
        return st.one_of([any_value(argument) for argument in arguments])
    return _SCALARS[annotation]


def any_of(cls: type[T], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Any instance of the dataclass; `fixed` replaces the strategies of some members."""
    hints = get_type_hints(cls)
    names = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]  # T is a dataclass
    return st.builds(cls, **{name: fixed[name] if name in fixed else any_value(hints[name]) for name in names})

"""Which error a body is. The bodies are written by hand, in tests/recordings/gemini/errors.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import MAX_QUOTE, DriverError
from loopforge.drivers.turn import user
from tests.drivers.gemini.asking import ask, driver_for, read_body, sse

BODIES = Path(__file__).resolve().parents[2] / "recordings" / "gemini" / "errors.jsonl"
CASES = [json.loads(line) for line in BODIES.read_text(encoding="utf-8").splitlines()]
TURN = ask(user("hello"), model="model-1")

each_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def error_of(case: Mapping[str, Any]) -> DriverError:
    return driver_for().explain(TURN, case["status"], case["headers"], case["body"].encode())


@each_case
def test_an_error_body_becomes_the_class_that_says_what_to_do(case: Mapping[str, Any]) -> None:
    error = error_of(case)
    expected = dict(case["expect"])
    assert type(error).__name__ == expected.pop("class"), error
    assert expected.pop("says", "") in str(error)
    if never := expected.pop("never", ""):
        assert never not in str(error)
        assert never not in json.dumps(error.to_fields())
    for name, value in expected.items():
        assert getattr(error, name) == (pytest.approx(value) if isinstance(value, float) else value), name


@each_case
def test_every_error_names_provider_model_and_what_to_do_in_one_bounded_line(case: Mapping[str, Any]) -> None:
    error = error_of(case)
    assert (error.provider, error.model, error.status) == ("recorded", "model-1", case["status"])
    assert str(error).startswith("recorded: ")
    assert str(error).endswith(error.action)
    assert len(str(error)) < MAX_QUOTE + 400
    assert "\n" not in str(error)


@each_case
def test_the_same_error_inside_a_stream_is_the_same_class(case: Mapping[str, Any]) -> None:
    try:
        body = json.loads(case["body"])
    except ValueError:
        pytest.skip("no JSON could be inside a stream")
    if not isinstance(body, dict) or "error" not in body:
        pytest.skip("inside a stream an error is an object that says so")
    inside = read_body(sse(body)).error
    assert inside is not None
    assert inside["class"] == case["expect"]["class"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["error", "message", "code", "status", "details", "reason", "violations", "quotaId",
                         "quotaValue", "retryDelay", "fieldViolations", "field", "description", "detail"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(status=st.integers(100, 599), body=JSON)
def test_json_of_any_shape_is_explained(status: int, body: object) -> None:
    error = driver_for().explain(TURN, status, {}, json.dumps(body).encode())
    assert error.status == status
    assert read_body(json.dumps(body).encode()).error


@given(status=st.integers(100, 599), body=st.binary(max_size=300), wait=st.text(max_size=20))
def test_bytes_and_headers_of_any_kind_are_explained(status: int, body: bytes, wait: str) -> None:
    error = driver_for().explain(TURN, status, {"retry-after": wait}, body)
    assert isinstance(error, DriverError)
    assert error.retry_after_s is None or error.retry_after_s >= 0

"""Which error a body is. The bodies are written by hand, in tests/recordings/openai_compatible/errors.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import MAX_QUOTE, DriverError, TurnError
from tests.drivers.exchanges import Exchange
from tests.drivers.openai_compatible.recorded import driver_for, read

BODIES = Path(__file__).resolve().parents[2] / "recordings" / "openai_compatible" / "errors.jsonl"
CASES = [json.loads(line) for line in BODIES.read_text(encoding="utf-8").splitlines()]


def error_of(case: Mapping[str, Any]) -> DriverError:
    exchange = Exchange(id="", vendor=case["vendor"], body=b"", model="model-1")
    body = case["body"].encode("utf-8", "surrogateescape")
    return driver_for(case["vendor"]).explain(exchange.turn, case["status"], case["headers"], body)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
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


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_error_names_provider_model_and_what_to_do_in_one_bounded_line(case: Mapping[str, Any]) -> None:
    error = error_of(case)
    assert (error.provider, error.model) == ("recorded", "model-1")
    assert str(error).startswith("recorded: ")
    assert str(error).endswith(error.action)
    assert len(str(error)) < MAX_QUOTE + 400
    assert "\n" not in str(error)
    assert error.status == case["status"]


def test_an_error_survives_the_channel_in_its_fields() -> None:
    error = error_of(CASES[0])
    again = TurnError.from_fields(error.to_fields())
    assert (type(again), str(again), again.to_fields()) == (type(error), str(error), error.to_fields())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["error", "message", "code", "type", "detail", "metadata", "raw", "headers", "base_resp",
                         "status_code", "status", "param", "innererror", "failed_generation", "details", "reasons"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(status=st.integers(100, 599), body=JSON, vendor=st.sampled_from(["openai", "glm", "minimax", "generic"]))
def test_json_of_any_shape_is_explained(status: int, body: object, vendor: str) -> None:
    error = error_of({"vendor": vendor, "status": status, "headers": {}, "body": json.dumps(body)})
    assert error.status == status
    inside = read(Exchange(id="", vendor=vendor, body=json.dumps(body).encode()))
    assert inside.error


@given(status=st.integers(100, 599), body=st.binary(max_size=300), headers=st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens", "date"]),
    st.text(max_size=30),
))  # fmt: skip
def test_bytes_and_headers_of_any_kind_are_explained(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = driver_for("openai").explain(Exchange(id="", vendor="", body=b"").turn, status, headers, body)
    assert isinstance(error, DriverError)
    assert error.retry_after_s is None or error.retry_after_s >= 0

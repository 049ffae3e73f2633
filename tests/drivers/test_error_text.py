"""What is read from, and never shown of, the text of an error."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.error_text import CHINA, moment_in, page_title, redact


@pytest.mark.parametrize(
    "key",
    [
        "sk-ant-api03-abcDEF_123",
        "AIzaSyA1234567890abcdefghij",
        "Bearer abc.def-123",
        "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2ln",
        "0123456789abcdef0123456789abcdef.0123456789abcdef",
    ],
)
def test_what_looks_like_a_key_is_not_shown(key: str) -> None:
    assert redact(f"the key {key} is wrong") == "the key [key removed] is wrong"


def test_a_quoted_key_of_any_form_is_not_shown() -> None:
    assert redact("Incorrect API key provided: 4f9a. See") == "Incorrect API key provided: [key removed] See"


def test_ordinary_words_stay() -> None:
    text = "messages.0.content: task-list risk_level must be a string; model claude-sonnet-4-6"
    assert redact(text) == text


def test_of_a_web_page_the_title_is_told() -> None:
    assert page_title("<html><head><TITLE>502\n Bad Gateway</TITLE></head>") == "502\n Bad Gateway"
    assert page_title(" upstream error ") == "upstream error"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("You will regain access on 2026-04-01 at 00:00 UTC.", datetime(2026, 4, 1, tzinfo=UTC)),
        ("resets at 2026-05-15T15:00:00Z (2056)", datetime(2026, 5, 15, 15, tzinfo=UTC)),
        ("resets at 2026-05-15T15:00:00+08:00", datetime(2026, 5, 15, 7, tzinfo=UTC)),
        ("resets at 2026-05-15T15:00:00.25-0130", datetime(2026, 5, 15, 16, 30, tzinfo=UTC)),
        ("2026-05-15 15:00:30 or later", datetime(2026, 5, 15, 15, 0, 30, tzinfo=UTC)),
    ],
)
def test_the_moment_that_a_text_names_is_read(text: str, moment: datetime) -> None:
    assert moment_in(text) == moment.timestamp()


def test_a_moment_without_a_zone_is_the_callers() -> None:
    assert moment_in("2026-05-15 15:00:00", zone=CHINA) == datetime(2026, 5, 15, 7, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2026-05-15", "2026-13-01 00:00", "2026-02-30T00:00:00Z", "1-2-3 4:5"]
)
def test_what_is_no_moment_is_none(text: str) -> None:
    assert moment_in(text) is None


@given(st.from_regex(r"\A\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?\Z"))
def test_no_text_of_that_form_raises(text: str) -> None:
    assert moment_in(text) is None or isinstance(moment_in(text), float)

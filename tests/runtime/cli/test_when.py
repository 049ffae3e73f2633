"""Times and lengths of time as a person writes them."""

from __future__ import annotations

import time

import click
import pytest

from loopforge.runtime.cli.when import Moment, Span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5h", 5400), ("30m", 1800), ("30min", 1800), ("3d", 259_200), ("2w", 1_209_600)],
)
def test_a_length_of_time_has_a_unit(text: str, seconds: float) -> None:
    assert Span().convert(text, None, None) == seconds
    assert Moment().convert(text, None, None) == pytest.approx(time.time() - seconds, abs=60)


@pytest.mark.parametrize("text", ["", "3", "d", "-3d", "3 days ago", "3dd", "inf"])
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(click.BadParameter, match="3d or 2w"):
        Span().convert(text, None, None)
    with pytest.raises(click.BadParameter, match="2026-11-22T18:00"):
        Moment().convert(text, None, None)


def test_a_date_is_local_unless_it_says_where() -> None:
    assert Moment().convert("2026-11-22", None, None) == time.mktime((2026, 11, 22, 0, 0, 0, 0, 0, -1))
    assert Moment().convert("2026-11-22T18:30", None, None) == time.mktime((2026, 11, 22, 18, 30, 0, 0, 0, -1))
    assert Moment().convert("2026-11-22T18:30:00+00:00", None, None) == 1_795_372_200.0

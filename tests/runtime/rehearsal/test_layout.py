import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.rehearsal.layout import columns, count, duration, fill


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0.00 ms"), (0.00314, "3.14 ms"), (0.0314, "31.4 ms"), (0.314, "314 ms"), (0.9994, "999 ms"),
     (0.9996, "1.00 s"), (3.14159, "3.14 s"), (9.996, "10.0 s"), (31.4, "31.4 s"), (99.96, "100 s"), (3600, "3600 s")],
)  # fmt: skip
def test_a_duration_has_three_digits_and_a_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 9_999))
def test_a_duration_never_needs_more_than_seven_characters(seconds: float) -> None:
    assert len(duration(seconds)) <= 7


def test_one_turn_is_no_turns() -> None:
    assert [count(number, "turn") for number in (0, 1, 2)] == ["0 turns", "1 turn", "2 turns"]


def test_columns_stand_below_each_other_and_numbers_end_in_line() -> None:
    assert columns(("KIND", "N", "P99"), [("a", "1", "10 ms"), ("planning", "100", "-")], right=(1, 2)) == [
        "KIND        N    P99",
        "a           1  10 ms",
        "planning  100      -",
    ]


def test_a_shorter_row_may_end_in_something_long_without_widening_a_column() -> None:
    rows = [("planning", "a", "7"), ("a-longer-kind", "was not rehearsed at all")]
    assert columns(("KIND", "BY", "N"), rows, right=(1, 2)) == [
        "KIND           BY  N",
        "planning        a  7",
        "a-longer-kind  was not rehearsed at all",
    ]


@given(st.lists(st.text("ab ", min_size=1, max_size=30), max_size=9), st.integers(40, 200))
def test_filled_lines_keep_to_the_width(sentences: list[str], width: int) -> None:
    assert all(len(line) <= width for line in fill(sentences, width, indent="  "))

"""No text of a model, provider or other client may steer the terminal that shows it."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.cli.printable import one_line, printable


@given(st.text())
def test_no_control_character_but_tab_and_line_break_is_left(text: str) -> None:
    left = {character for character in printable(text) if unicodedata.category(character) == "Cc"}
    assert left <= {"\t", "\n"}


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"])))
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_an_escape_sequence_and_a_turn_of_direction_become_visible() -> None:
    assert printable("a\x1b]52;c;x\x07\u202eb\r\n") == "a␛]52;c;x␇<202E>b\n"


@given(st.text(), st.integers(1, 50))
def test_one_line_is_one_line_and_no_longer_than_asked(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert not set(line) & {"\n", "\r", "\x1b", "\u2028"}

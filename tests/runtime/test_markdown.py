"""Tables whose cells hold what others wrote."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.markdown import cell, table

UNESCAPED_BAR = re.compile(r"(?<!\\)(?:\\\\)*\|")


def test_a_table_has_its_head_a_rule_and_its_rows() -> None:
    assert table(("Name", "Why"), [("a", "b|c"), ("", "x\ny")]) == [
        "| Name | Why |",
        "| --- | --- |",
        r"| a | b\|c |",
        "|  | x y |",
    ]


@given(st.text(alphabet=st.sampled_from('a \\|`<&>\n\r\t"'), max_size=40) | st.text())
def test_a_cell_keeps_its_words_and_has_no_column_no_line_no_code_and_no_html_of_its_own(text: str) -> None:
    made = cell(text)
    assert not UNESCAPED_BAR.search(made)
    assert not re.search(r"[\n\r<]", made)
    assert not re.search(r"(?<!\\)(?:\\\\)*`", made)
    shown = re.sub(r"\\([\\|`])", r"\1", made.replace("&lt;", "<").replace("&amp;", "&"))
    assert shown == " ".join(text.split())

"""The README's table of what each kind carries is what the registry and the recordings say today."""

from __future__ import annotations

import pytest

from loopforge.drivers.capabilities import Capabilities
from loopforge.drivers.registry import KINDS
from tests.drivers import capability_table
from tests.drivers.capability_table import COLUMNS, README, block_of, cells, table
from tests.recorded import MISSING, recordings_folder

WRITE_IT = "write it anew: python -m tests.drivers.capability_table"
README_TABLE = block_of(README.read_text("utf-8"))


@pytest.mark.skipif(recordings_folder() is None, reason=MISSING)
def test_the_readme_shows_the_table_of_today() -> None:
    assert README_TABLE.splitlines() == table().splitlines(), WRITE_IT


def test_what_the_readme_says_of_each_kind_is_what_the_registry_says() -> None:
    head, *rows = cells(README_TABLE)
    assert head == ["kind", "recorded", *COLUMNS], WRITE_IT
    assert [row[0] for row in rows] == [f"`{kind}`" for kind in KINDS]
    for kind, row in zip(KINDS, rows, strict=True):
        shown = [cell.partition(" · ")[0] for cell in row[2:]]
        assert shown == list(capability_table.told_of(kind)), WRITE_IT


def test_no_cell_is_empty_and_each_that_is_not_a_no_tells_what_it_was_tested_with() -> None:
    for row in cells(README_TABLE)[1:]:
        for cell in row[2:]:
            assert cell
            assert (" · " in cell) == (cell != "no")


@pytest.mark.parametrize(
    ("column", "families", "told"),
    [
        ("images", [Capabilities(images=True), Capabilities(image_urls=True)], "yes"),
        ("images", [Capabilities(images=True), Capabilities()], "some"),
        ("images", [Capabilities()], "no"),
        ("one call at a time", [Capabilities(tools=False), Capabilities(one_call=True)], "yes"),
        ("forced call", [Capabilities(named_tool="unsure")], "not promised"),
        ("forced call", [Capabilities(named_tool="unsure"), Capabilities()], "some"),
        ("schema of the answer", [Capabilities(schema="enforced"), Capabilities(schema="not_thinking")], "yes"),
        ("schema of the answer", [Capabilities(schema="enforced"), Capabilities()], "some, else by prompt"),
        ("schema of the answer", [Capabilities(schema="tool"), Capabilities()], "by call or prompt"),
        ("thinking", [Capabilities(thinks=True), Capabilities(thinks=True, budgets=True)], "budget, switch"),
        ("thinking", [Capabilities()], "no"),
        ("stream", [Capabilities(streaming="without_tools")], "yes, some without tools"),
        ("stop strings", [Capabilities(stops=0), Capabilities(stops=1)], "some"),
    ],
)
def test_a_cell_says_what_holds_for_all_models_or_some(column: str, families: list[Capabilities], told: str) -> None:
    assert COLUMNS[column](families) == told

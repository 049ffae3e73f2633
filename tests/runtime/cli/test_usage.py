"""loopforge usage: sums and prices. Against a real service: test_turns.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.cli.exits import CommandFailed
from loopforge.runtime.cli.usage import _about_prices, _lines, add_up, cost_usd, read_prices
from loopforge.runtime.journal.operations import UsageRow, UsageTable
from loopforge.runtime.queries import answer_of

PRICES = {("cloud", "big"): {"input": 10.0, "output": 100.0, "cache_read": 1.0}}


def row(*key: str, **counts: int) -> dict[str, Any]:
    members = dict.fromkeys(
        ("turns", "failed", "cancelled", "attempts", "input", "output", "cache_read", "cache_write", "reasoning"), 0
    )
    told: dict[str, Any] = answer_of(UsageTable((UsageRow(key=key, **(members | counts)),), (), more=False))["rows"][0]
    return told


def table_of(rows: list[dict[str, Any]], *left_off: dict[str, Any]) -> dict[str, Any]:
    """What the journal tells: the totals are of these rows and of those that it left off."""
    totals = [{**row, "key": row["key"][-2:]} for row in (*rows, *left_off)]
    return {"rows": rows, "totals": totals, "more": bool(left_off)}


@pytest.mark.parametrize(
    ("price", "usd"),
    [
        ({"input": 10.0, "output": 100.0, "cache_read": 1.0, "cache_write": 12.0}, 0.5 + 0.04 + 0.12 + 2.0),
        ({"input": 10.0, "output": 100.0}, 1.0 + 2.0),  # what is not said about the cache costs as any input
        ({"output": 100.0}, 2.0),
        ({"input": 10.0, "cache_read": 0.0, "cache_write": 0.0}, 0.5),
    ],
)
def test_cached_input_has_its_own_price_and_is_not_paid_twice(price: dict[str, float], usd: float) -> None:
    sums = row("p", "m", input=100_000, cache_read=40_000, cache_write=10_000, output=20_000, reasoning=5_000)
    assert cost_usd(sums, price) == pytest.approx(usd)


def test_a_count_of_cached_tokens_that_is_too_large_makes_no_negative_cost() -> None:
    assert cost_usd(row("p", "m", input=1, cache_read=2), {"input": 10.0, "cache_read": 0.0}) == 0


def test_sums_say_what_of_them_has_no_price() -> None:
    rows = [
        row("coding", "cloud", "big", turns=2, attempts=3, input=1_000_000, output=100_000, failed=1),
        row("coding", "ollama", "small", turns=1, attempts=1, input=500, output=7),
        row("planning", "ollama", "small", turns=1, attempts=1, input=5, output=7),
        row("planning", "down", "m", turns=1, attempts=2, failed=1),  # cost nothing whatever its price
    ]
    groups, total = add_up(table_of(rows), ("kind", "provider", "model"), 1, PRICES)
    assert _lines(("kind",), groups, total, 0) == [
        "KIND      TURNS  FAILED  TRIES      INPUT   OUTPUT     COST",
        "coding        3       1      4  1,000,500  100,007  >$20.00",
        "planning      2       1      3          5        7        -",
        "total         5       2      7  1,000,505  100,014  >$20.00",
    ]
    assert list(_about_prices(total, Path("c"))) == ["Without a price: ollama/small."]


def test_without_any_price_there_is_no_column_for_it() -> None:
    groups, total = add_up(table_of([row("ollama", "small", turns=1, input=5)]), ("provider", "model"), 2, {})
    assert _lines(("provider", "model"), groups, total, 0) == [
        "PROVIDER  MODEL  TURNS  INPUT  OUTPUT",
        "ollama    small      1      5       0",
    ]
    assert "no prices of these models in c;" in " ".join(_about_prices(total, Path("c")))


def test_the_total_is_of_all_groups_shown_or_not() -> None:
    shown = [row("s2", "cloud", "big", turns=1, input=1_000_000), row("s1", "cloud", "big", turns=1, input=10)]
    told = table_of(shown, row("s3", "cloud", "big", turns=3, input=2_000_000), row("s4", "", "", turns=1, input=4))
    groups, total = add_up(told, ("session", "provider", "model"), 1, PRICES)
    assert _lines(("session",), groups, total, 0) == [
        "SESSION  TURNS      INPUT  OUTPUT     COST",
        "s2           1  1,000,000       0   $10.00",
        "s1           1         10       0  $0.0001",
        "total        6  3,000,014       0  >$30.00",
    ]
    assert list(_about_prices(total, Path("c"))) == ["Without a price: others."]


def test_one_group_of_more_is_not_taken_for_all() -> None:
    told = table_of([row("s1", "p", "m", turns=1, input=5)], row("s2", "p", "m", turns=1, input=2))
    groups, total = add_up(told, ("session", "provider", "model"), 1, {})
    assert _lines(("session",), groups, total, 0)[-1].split() == ["total", "2", "7", "0"]


def test_prices_are_read_from_the_file_as_it_stands(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    assert read_prices(config) == {}
    config.write_text('[providers.cloud]\nkind = "nonsense"\nprices = { "big" = { input = 3, output = 15.5 } }\n')
    assert read_prices(config) == {("cloud", "big"): {"input": 3.0, "output": 15.5}}
    for broken in ('[providers.cloud]\nprices = { "big" = 3 }', "prices = [", 'providers = { a = { prices = "x" } }'):
        config.write_text(broken)
        with pytest.raises(CommandFailed, match="config validate"):
            read_prices(config)

"""bench/report.py: medians, the order of rounds, tables, goals, and figures from /proc."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path

import pytest

from bench import report
from bench.report import (
    Goal,
    interleaved,
    markdown_table,
    medians,
    number,
    open_report,
    options_parser,
    parse_options,
    percentile,
)


def test_within_a_round_each_variant_runs_once_and_another_one_is_first_each_time() -> None:
    ran: list[str] = []

    def variant(name: str) -> int:
        ran.append(name)
        return len(ran)

    results = interleaved({name: partial(variant, name) for name in "abc"}, 3)
    assert "".join(ran) == "abc" + "bca" + "cab"
    assert results == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_medians_are_taken_figure_by_figure_over_the_rounds_that_have_it() -> None:
    assert medians([{"a": 1, "b": 5}, {"a": 9}, {"a": 2, "b": 7}]) == {"a": 2, "b": 6}


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentiles_are_nearest_rank(percent: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_a_percentile_of_nothing_is_nan() -> None:
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.01234, "0.0123"), (3.14159, "3.14"), (42, "42"), (999.6, "1,000"), (123_456.7, "123,457"), (math.nan, "-")],
)
def test_numbers_are_shown_with_the_digits_that_mean_something(value: float, shown: str) -> None:
    assert number(value) == shown


def test_tables_are_markdown_with_numbers_to_the_right() -> None:
    assert markdown_table(["", "per s"], [["ours", 1234.4], ["theirs", 7]]) == (
        "|        | per s |\n|--------|------:|\n| ours   | 1,234 |\n| theirs |     7 |"
    )


@pytest.mark.parametrize(("relation", "value", "reached"), [("<=", 2, True), ("<=", 2.1, False), (">=", 1.9, False)])
def test_a_goal_says_whether_it_was_reached(relation: str, value: float, reached: bool) -> None:
    goal = Goal(name="planning p99", value=value, relation=relation, target=2, unit="ms")  # type: ignore[arg-type]
    assert goal.reached is reached
    assert str(goal).startswith("reached: " if reached else "MISSED: ")


def test_a_report_is_markdown_at_once_and_json_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    parser = options_parser("example", "An example.", rounds=9)
    options = parse_options(parser, ["--json", str(file), "--rounds", "3"])
    with open_report(options) as written:
        written.table("Speed", ["", "per s"], [["ours", 5.0]])
        written.figures = {"ours": {"rate": 5.0, "p99": math.nan}}
        written.goal("speed", 5.0, ">=", 4, "/s")
        assert not file.exists()
    printed = capsys.readouterr().out
    assert "bench.example: medians of 3 interleaved rounds" in printed
    assert "- reached: speed 5 /s (≥ 4)" in printed
    saved = json.loads(file.read_text())
    assert saved["figures"] == {"ours": {"rate": 5.0, "p99": None}}
    assert saved["machine"]["cores"] >= 1
    assert saved["goals"][0]["reached"] is True


def test_rounds_default_to_the_benchmarks_own_and_to_one_when_quick() -> None:
    parser = options_parser("example", "An example.", rounds=9)
    assert parse_options(parser, []).rounds == 9
    assert parse_options(parser, ["--quick"]).rounds == 1
    assert parse_options(parser, ["--quick", "--rounds", "2"]).rounds == 2


def test_memory_and_cpu_of_a_process_are_read_from_proc() -> None:
    own = os.getpid()
    assert 5_000_000 < report.pss_bytes(own) <= report.rss_bytes(own) + 1_000_000
    assert report.cpu_s() > 0
    assert report.cpu_s(own) > 0
    assert report.precise_cpu_s(own) == pytest.approx(report.cpu_s(own), abs=1)

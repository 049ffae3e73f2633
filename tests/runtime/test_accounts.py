"""What a lost attempt leaves behind: withdrawn text on the terminal, its tokens in the books. `loopforge`, real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.cli.running import succeed
from tests.runtime.cli.service import asking, events_of, open_service, open_simulator

PROFILES: dict[str, dict[str, Any]] = {
    "flaky": {"kind": "anthropic", "first_token_s": 0, "tokens_per_s": 100, "answer_tokens": 30, "fault": "cut"},
    "quiet": {"kind": "anthropic", "first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 30, "fault": "stall"},
    "well": {"kind": "anthropic", "first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 8},
}
PRICES = {"flaky": (1000.0, 2000.0), "quiet": (0.0, 0.0), "well": (3000.0, 5000.0)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a service whose planning turns are cut twice at `flaky`, then answered by `well`; `quiet` stops midway."""
    folder = tmp_path_factory.mktemp("home")
    with open_simulator(folder, PROFILES) as simulator:
        tables = "".join(
            f'[providers.{name}]\nkind = "anthropic"\nbase_url = "{simulator.url}/{name}"\napi_key_env = ""\n'
            f'default_model = "m"\n[providers.{name}.prices]\nm = {{ input = {price[0]}, output = {price[1]} }}\n'
            for name, price in PRICES.items()
        )
        route = '[router.planning]\nprovider = "flaky"\nmodel = "default"\nfallbacks = ["well"]\n'
        others = "".join(f'[router.{kind}]\nprovider = "well"\nmodel = "default"\n' for kind in ("coding", "summary"))
        (folder / "config.toml").write_text(tables + route + others)
        with open_service(folder):
            yield folder


def sums(home: Path, *keys: str) -> list[dict[str, Any]]:
    told = json.loads(succeed(home, "usage", "--json", *(word for key in keys for word in ("--by", key))))
    rows: list[dict[str, Any]] = told["rows"]
    return rows


def sum_of(home: Path, provider: str) -> int:
    """The tokens of input in the books of a provider."""
    return sum(int(row["input"]) for row in sums(home, "provider") if row["provider"] == provider)


def test_text_of_a_cut_answer_is_marked_as_withdrawn_before_the_next_provider_answers(home: Path) -> None:
    with asking(home, "--id", "seen", "hi", terminal=True) as ask:
        assert ask.wait() == 0
    shown = ask.out
    assert shown.count("withdrawn, what stands above is void") == 2
    *_, last = shown.split("void: ")
    assert "starts again at well" in last.splitlines()[0]
    text = json.loads(succeed(home, "turns", "show", "seen", "--json"))["text"]
    assert " ".join(last.split()).endswith(text)
    assert len(text.split()) == PROFILES["well"]["answer_tokens"]


def test_lost_attempts_are_in_the_books_with_their_provider_and_price(home: Path) -> None:
    before = {row["provider"]: row for row in sums(home, "provider")}
    nothing = dict.fromkeys(("turns", "attempts", "input", "output", "cost_usd"), 0)
    events = events_of(succeed(home, "ask", "--json", "--session", "night", "--id", "books", "a question"))
    assert [event["event"] for event in events].count("restarted") == 2
    reply = events[-1]["reply"]
    assert (reply["provider"], reply["attempts"]) == ("well", 3)
    spent = {
        row["provider"]: {name: row[name] - before.get(row["provider"], nothing)[name] for name in nothing}
        for row in sums(home, "provider")
    }
    assert (spent["flaky"]["attempts"], spent["flaky"]["turns"]) == (2, 0)
    assert (spent["well"]["attempts"], spent["well"]["turns"]) == (1, 1)
    assert spent["well"]["input"] == reply["usage"]["input"]
    assert spent["well"]["output"] == reply["usage"]["output"]
    for name in ("flaky", "well"):
        of_input, of_output = PRICES[name]
        cost = (spent[name]["input"] * of_input + spent[name]["output"] * of_output) / 1e6
        assert spent[name]["cost_usd"] == pytest.approx(cost)
    lost = json.loads(succeed(home, "turns", "show", "books", "--json"))["lost"]
    assert [(attempt["attempt"]["provider"], attempt["error"]) for attempt in lost] == [("flaky", "StreamBroken")] * 2


def test_the_tokens_that_a_cut_attempt_is_known_to_have_cost_stay_in_the_books(home: Path) -> None:
    """This wire tells the input's tokens at the start of its answer, of which all but the end had come."""
    before = sum_of(home, "flaky")
    events = events_of(succeed(home, "ask", "--json", "--id", "cut", "a question"))
    read = events[-1]["reply"]["usage"]["input"]
    lost = json.loads(succeed(home, "turns", "show", "cut", "--json"))["lost"]
    assert {attempt["attempt"]["provider"] for attempt in lost} == {"flaky"}
    assert {(attempt["input"], attempt["output"]) for attempt in lost} == {(read, 1)}
    assert succeed(home, "turns", "show", "cut").count(f"({read} tokens in, 1 out)") == len(lost)
    assert sum_of(home, "flaky") - before == len(lost) * read


def test_the_tokens_that_a_cancelled_turn_is_known_to_have_cost_stay_in_the_books(home: Path) -> None:
    before = sum_of(home, "quiet")
    with asking(home, "--json", "--id", "left", "--model", "quiet", "a question") as ask:
        ask.wait_for('"event":"text"', times=5)
        succeed(home, "cancel", "left")
        ask.wait()
    answered = events_of(succeed(home, "ask", "--json", "--model", "well", "a question"))
    assert sum_of(home, "quiet") - before == answered[-1]["reply"]["usage"]["input"] > 0


@pytest.mark.parametrize("key", ["provider", "model", "kind", "session", "day"])
def test_the_books_are_summed_by_each_of_their_columns(home: Path, key: str) -> None:
    succeed(home, "ask", "--kind", "coding", "--session", "other", "hi")
    rows, all_rows = sums(home, key), sums(home, "provider", "model", "kind", "session", "day")
    for name in ("input", "output", "attempts", "turns"):
        assert sum(row[name] for row in rows) == sum(row[name] for row in all_rows) > 0
    assert {row[key] for row in rows} == {row[key] for row in all_rows}
    assert len(rows) == len({row[key] for row in rows})

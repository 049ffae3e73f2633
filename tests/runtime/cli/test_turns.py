"""loopforge turns, usage, reload against a real service and its journal. What they print: test_turns_text.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.cli.running import LOOPFORGE, environment, loopforge, loopforge_here, succeed
from tests.runtime.cli.service import (
    Process,
    Service,
    Simulator,
    asking,
    events_of,
    open_service,
    open_simulator,
    wait_until,
    write_config,
)

NOWHERE = """
[providers.away]
kind = "openai_compatible"
base_url = "http://127.0.0.1:9/v1"
api_key_env = ""
default_model = "m"
"""
PRICES = """
[providers.quick.prices]
m = { input = 1000.0, output = 2000.0 }
"""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture(scope="module")
def service(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    write_config(home, simulator, NOWHERE + PRICES)
    with open_service(home) as running:
        yield running


def said(home: Path, *arguments: str) -> str:
    """What a question that must succeed prints."""
    run = loopforge_here(home, *arguments)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def shown(home: Path, turn_id: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(said(home, "turns", "show", turn_id, "--json"))
    return told


def listed(home: Path, *arguments: str) -> list[str]:
    run = loopforge_here(home, "turns", "list", "--json", *arguments)
    assert (run.returncode, run.stderr) == (0, "")
    return [turn["id"] for turn in json.loads(run.stdout)["turns"]]


def test_a_turn_that_failed_is_kept_with_its_request_and_is_tried_again_when_its_provider_is_back(
    simulator: Simulator, tmp_path: Path
) -> None:
    config = write_config(tmp_path, simulator, NOWHERE)
    with open_service(tmp_path):
        failed = loopforge(tmp_path, "ask", "--model", "away", "--id", "night", "--deadline-s", "100", "hi")
        assert (failed.returncode, failed.stdout) == (75, "")
        told = shown(tmp_path, "night")
        assert (told["state"], told["error"]["class"]) == ("failed", "ProviderUnavailable")
        assert [lost["error"] for lost in told["lost"]] == ["ProviderUnavailable"] * (told["attempts"] - 1)
        text = said(tmp_path, "turns", "show", "night")
        assert "refuses the connection" in text
        config.write_text(config.read_text().replace("http://127.0.0.1:9/v1", f"{simulator.url}/quick/v1"))
        assert "changed providers: away" in said(tmp_path, "reload")
        assert said(tmp_path, "turns", "retry", "night") == "night is accepted again\n"
        wait_until(lambda: shown(tmp_path, "night")["state"] == "done", "the turn is done")
        again = shown(tmp_path, "night")
        assert again["deadline"] - again["accepted_at"] == pytest.approx(100, abs=0.01)
        assert said(tmp_path, "turns", "show", "night", "--text").strip() == again["text"] != ""
        assert events_of(succeed(tmp_path, "turns", "tail", "night", "--json"))[-1]["text"] == again["text"]
        for turn_id, why in (("night", "it is done"), ("day", "there is no turn with the id 'day'")):
            refused = loopforge_here(tmp_path, "turns", "retry", turn_id)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert why in refused.stderr


def test_a_cancelled_turn_is_tried_again_after_the_service_was_killed(simulator: Simulator, tmp_path: Path) -> None:
    write_config(tmp_path, simulator)
    with open_service(tmp_path) as service, asking(tmp_path, "--model", "slow", "--id", "long", "--json", "hi") as ask:
        ask.wait_for('"text"')
        assert loopforge_here(tmp_path, "turns", "retry", "long").returncode == 1
        said(tmp_path, "cancel", "long")
        ask.wait()
        service.stop(signal.SIGKILL)
        service.process.wait()
    with open_service(tmp_path) as service:
        mixed = loopforge_here(tmp_path, "turns", "retry", "nobody", "long")
        assert (mixed.returncode, mixed.stdout) == (1, "long is accepted again\n")
        assert mixed.stderr.startswith("Error: nobody: ")
        wait_until(lambda: service.provider("slow")["running"] == 1, "it runs")
        said(tmp_path, "cancel", "long")


def test_a_list_is_narrowed_by_state_kind_session_provider_and_time(simulator: Simulator, tmp_path: Path) -> None:
    write_config(tmp_path, simulator, NOWHERE)
    with open_service(tmp_path):
        narrow(tmp_path)


def narrow(home: Path) -> None:
    succeed(home, "ask", "--id", "first", "--session", "s1", "hi")
    succeed(home, "ask", "--id", "second", "--kind", "coding", "hi")
    assert loopforge(home, "ask", "--id", "third", "--model", "away", "--session", "s1", "hi").returncode == 75
    assert listed(home) == ["third", "second", "first"]
    assert listed(home, "--session", "s1") == ["third", "first"]
    assert listed(home, "--state", "failed", "--state", "live") == ["third"]
    assert listed(home, "--kind", "coding") == ["second"]
    assert listed(home, "--provider", "quick") == ["second", "first"]
    assert listed(home, "--before", "1d") == []
    assert listed(home, "--since", "1h", "--limit", "1") == ["third"]
    table = loopforge_here(home, "turns", "list", "--limit", "2")
    assert [line.split()[:3] for line in table.stdout.splitlines()] == [
        ["TURN", "KIND", "STATE"], ["third", "planning", "failed"], ["second", "coding", "done"],
    ]  # fmt: skip
    assert table.stderr.startswith("There are more")
    assert said(home, "turns", "list", "--kind", "other") == "There are no such turns.\n"


def test_one_turn_is_followed_and_left_running(service: Service) -> None:
    with asking(service.home, "--model", "slow", "--id", "story", "--json", "hi") as ask:
        ask.wait_for('"text"')
        argv = [*LOOPFORGE, "turns", "tail", "story"]
        tail = Process(argv, environment(service.home), terminal=True)
        try:
            tail.wait_for(" ", times=3)  # between words of the answer
            tail.type("\x03")
            tail.wait_for("the turn goes on")
            assert tail.wait() == 130
        finally:
            tail.close()
        assert shown(service.home, "story")["state"] == "running"
        unread = loopforge_here(service.home, "turns", "show", "story", "--text")
        assert (unread.returncode, unread.stdout) == (1, "")
        said(service.home, "cancel", "story")
        assert ask.wait() == 1
    late = loopforge(service.home, "turns", "tail", "story")
    assert (late.returncode, late.stdout) == (1, "")
    assert "Cancelled: cancelled with 'loopforge cancel'" in late.stderr


def test_all_turns_are_named_as_they_come_and_end(service: Service) -> None:
    with asking(service.home, "--model", "slow", "--id", "before", "--json", "hi") as ask:
        ask.wait_for('"text"')
        tail = Process([*LOOPFORGE, "turns", "tail", "--json"], environment(service.home))
        try:
            tail.wait_for('"before"')
            succeed(service.home, "ask", "--id", "meanwhile", "hi")
            said(service.home, "cancel", "before")
            tail.wait_for('"cancelled"')
            tail.wait_for('"meanwhile"', times=2)
            tail.popen.send_signal(signal.SIGINT)
            assert tail.wait() == 130
        finally:
            tail.close()
    seen = [(event["event"], event["turn"]["id"]) for event in events_of(tail.out)]
    assert sorted(seen) == [
        ("accepted", "meanwhile"), ("cancelled", "before"), ("done", "meanwhile"), ("running", "before"),
    ]  # fmt: skip


MORE = "There are more: raise --limit, or narrow the time with --since.\n"


def test_ended_turns_are_deleted_and_what_they_cost_stays_in_the_books(simulator: Simulator, tmp_path: Path) -> None:
    write_config(tmp_path, simulator, PRICES)
    with open_service(tmp_path), asking(tmp_path, "--model", "slow", "--id", "alive", "--json", "hi") as ask:
        for name in ("a", "b", "c"):
            succeed(tmp_path, "ask", "--id", name, "--session", name, "hi")
        ask.wait_for('"text"')
        books = json.loads(said(tmp_path, "usage", "--json"))
        assert [(row["provider"], row["model"], row["turns"]) for row in books["rows"]] == [("quick", "m", 3)]
        total = books["total"]
        assert total["cost_usd"] == pytest.approx(total["input"] / 1000 + total["output"] / 500)
        assert loopforge_here(tmp_path, "turns", "purge", "a").returncode == 2, "nobody is there to say yes"
        some = loopforge_here(tmp_path, "turns", "purge", "a", "alive", "--yes")
        assert (some.returncode, some.stdout) == (1, "deleted 1 turn\n")
        assert said(tmp_path, "turns", "purge", "--older-than", "1h", "--yes") == "deleted 0 turns\n"
        assert said(tmp_path, "turns", "purge", "--all-ended", "--yes") == "deleted 2 turns\n"
        assert listed(tmp_path) == ["alive"]
        gone = loopforge_here(tmp_path, "turns", "show", "a")
        assert (gone.returncode, gone.stdout) == (1, "")
        assert "There is no turn with the id 'a'" in gone.stderr
        assert json.loads(said(tmp_path, "usage", "--json")) == books
        by_session = json.loads(said(tmp_path, "usage", "--by", "session", "--since", "2d", "--json"))
        assert ({row["session"] for row in by_session["rows"]}, by_session["more"]) == ({"a", "b", "c"}, False)
        two = loopforge_here(tmp_path, "usage", "--by", "session", "--limit", "2")
        assert two.stdout.splitlines()[-1].split()[:2] == ["total", "3"]
        assert (len(two.stdout.splitlines()), two.stderr) == (4, MORE)
        told = json.loads(said(tmp_path, "usage", "--by", "session", "--limit", "2", "--json"))
        assert (len(told["rows"]), told["more"], told["total"]) == (2, True, total)
        said(tmp_path, "cancel", "alive")


def test_a_reload_tells_what_changed_and_a_mistake_changes_nothing(simulator: Simulator, tmp_path: Path) -> None:
    config = write_config(tmp_path, simulator, "[runtime]\nretain_days = 7\ndrain_s = 1\n")
    with open_service(tmp_path) as service:
        assert said(tmp_path, "reload") == f"reloaded {config}\n  nothing is different\n"
        text = config.read_text()
        config.write_text(text.replace("[router.coding]\n", '[router.coding]\nlane = "laneless"\n'))
        wrong = loopforge(tmp_path, "reload")
        checked = loopforge_here(tmp_path, "config", "validate")
        assert (wrong.returncode, wrong.stdout) == (78, "")
        assert wrong.stderr.strip() in checked.stdout
        assert wrong.stderr.startswith(f"{config}:")
        told = loopforge_here(tmp_path, "reload", "--json")
        assert (told.returncode, json.loads(told.stdout)["ok"]) == (78, False)
        changed = text.replace("retain_days = 7\ndrain_s = 1", "retain_days = 3\ndrain_s = 2")
        config.write_text(changed.replace("[router.coding]\n", '[router.coding]\nlane = "background"\n') + NOWHERE)
        summary = said(tmp_path, "reload")
        assert "new providers: away\n" in summary
        assert "changed routes: coding\n" in summary
        assert "changed settings in [runtime]: drain_s\n" in summary
        assert "retain_days in [runtime] counts from the next start on" in summary
        assert service.provider("away")["state"] == "stopped"


def test_without_a_service_or_a_journal_it_is_said_what_to_do(simulator: Simulator, tmp_path: Path) -> None:
    for arguments in (["turns", "list"], ["turns", "tail"], ["turns", "retry", "a"], ["usage"], ["reload"]):
        run = loopforge_here(tmp_path, *arguments)
        assert (run.returncode, run.stdout) == (1, "")
        assert "start one with 'loopforge serve'" in run.stderr
    write_config(tmp_path, simulator, "[runtime]\njournal = false\n")
    with open_service(tmp_path):
        for arguments in (["turns", "list"], ["turns", "retry", "a"], ["usage"]):
            run = loopforge_here(tmp_path, *arguments)
            assert (run.returncode, run.stdout) == (1, "")
            assert "set journal = true in [runtime]" in run.stderr


@pytest.mark.parametrize("arguments", [["turns", "list"], ["usage"], ["turns", "purge", "x", "--yes"], ["reload"]])
def test_no_heavy_library_is_loaded_for_a_question(service: Service, arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "loopforge.runtime", *arguments],
        capture_output=True, text=True, env=environment(service.home),
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "loopforge.runtime.blocking" in loaded
    assert not {name.split(".")[0] for name in loaded} & {"trio", "pydantic", "httpx2", "httpcore2", "rich"}

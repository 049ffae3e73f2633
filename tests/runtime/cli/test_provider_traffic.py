"""loopforge providers report: what it makes of a status, and what a real service's own traffic looks like in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.cli.provider_traffic import latency, to_lines, to_markdown, traffic_of
from loopforge.runtime.records import Desk
from loopforge.runtime.traffic import Traffic
from tests.runtime.cli.running import loopforge, loopforge_here
from tests.runtime.cli.service import Service, Simulator, open_service, open_simulator, write_config


def told(**providers: Traffic | None) -> dict[str, Any]:
    """A status with these providers, at second 1000."""
    return {
        "version": "0.1.0",
        "config": "/srv/agents/config.toml",
        "uptime_s": 7300.0,
        "providers": [
            {
                "name": name,
                "kind": "openai_compatible",
                "state": "ready",
                "down_reason": "",
                "traffic": None if traffic is None else traffic.snapshot(1000.0),
            }
            for name, traffic in providers.items()
        ],
    }


def busy() -> Traffic:
    made = Traffic()
    for number in range(1, 101):
        made.record("done", 800.0 + number, total_s=number / 10, first_token_s=number / 100)
    for _ in range(3):
        made.record("failed", 950.0, total_s=1.0, error="RateLimited", next_step="resend this turn in 3 s")
    made.record("failed", 958.0, total_s=1.0, error="Stalled", next_step="resend | this\x1b[2J turn")
    made.record("cancelled", 959.0, total_s=1.0)
    return made


STATUS = told(glm=busy(), quiet=Traffic())


def test_a_person_sees_latencies_outcomes_and_the_last_good_turn() -> None:
    traffic = traffic_of(STATUS)
    assert traffic is not None
    assert to_lines(traffic) == [
        "LoopForge 0.1.0, up 2 h 1 min: 105 attempts, 100 done, 4 failed, 1 cancelled",
        "",
        "PROVIDER  ATTEMPTS  DONE  FAILED  CANCELLED  FIRST TOKEN P50     P99  TOTAL P50     P99       LAST GOOD",
        "glm            105   100       4          1           500 ms  990 ms     5.00 s  9.90 s  1 min 40 s ago",
        "glm: 3 RateLimited, 1 Stalled; last Stalled 42 s ago: resend | this␛[2J turn",
        "no traffic so far: quiet",
    ]


def test_latencies_say_so_when_they_are_of_the_last_attempts_only() -> None:
    made = Traffic()
    for number in range(2000):
        made.record("done", number / 2, total_s=1.0)
    traffic = traffic_of(told(glm=made))
    assert traffic is not None
    assert "latencies: of each provider's last 512 attempts" in to_lines(traffic)


def test_a_provider_that_never_answered_has_no_latency() -> None:
    made = Traffic()
    made.record("failed", 999.0, total_s=0.1, error="CredentialsRejected", next_step="set the key")
    traffic = traffic_of(told(glm=made))
    assert traffic is not None
    row, said = to_lines(traffic)[3:]
    assert row.split() == ["glm", "1", "0", "1", "0", "-", "-", "-", "-", "never"]
    assert said == "glm: 1 CredentialsRejected; last CredentialsRejected 1.0 s ago: set the key"


def test_markdown_has_one_row_a_provider_and_its_text_cannot_break_the_table() -> None:
    traffic = traffic_of(STATUS)
    assert traffic is not None
    lines = to_markdown(traffic)
    assert lines[0] == "# Provider traffic"
    (row,) = [line for line in lines if line.startswith("| glm")]
    assert row.startswith(
        "| glm | 105 | 100 | 4 | 1 | 500 ms | 990 ms | 5.00 s | 9.90 s | 1 min 40 s ago | 3 RateLimited"
    )
    assert r"resend \| this␛[2J turn |" in row
    assert lines[-1] == "No traffic so far: quiet."


def test_json_is_the_whole_of_it() -> None:
    traffic = json.loads(json.dumps(traffic_of(STATUS)))
    assert traffic["totals"] == {"attempts": 105, "done": 100, "cancelled": 1, "failed": 4}
    glm = traffic["providers"][0]
    assert glm["window"]["total"] == {"count": 100, "p50_s": 5.0, "p99_s": 9.9, "max_s": 10.0}
    assert glm["failed"] == {"RateLimited": 3, "Stalled": 1}
    assert glm["last_done_ago_s"] == 100.0


def test_a_service_without_traffic_in_its_status_is_told_from_one_without_turns() -> None:
    assert traffic_of(told(glm=None)) is None
    nothing = traffic_of(told(glm=Traffic()))
    assert nothing is not None
    assert to_lines(nothing)[2:] == ["no traffic so far: glm"]
    assert to_markdown(nothing)[-1] == "No traffic so far: glm."


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0004, "0 ms"), (0.34, "340 ms"), (1.236, "1.24 s"), (12.34, "12.3 s"), (185, "3 min 5 s")],
)
def test_a_latency_is_short(seconds: float, shown: str) -> None:
    assert latency(seconds) == shown


def test_json_and_markdown_exclude_one_another_and_nobody_listening_is_a_failure(tmp_path: Path) -> None:
    assert loopforge_here(tmp_path, "providers", "report", "--json", "--markdown").returncode == 2
    run = loopforge_here(tmp_path, "providers", "report")
    assert (run.returncode, run.stdout) == (1, "")
    assert "start one with 'loopforge serve'" in run.stderr


# ---- a real service --------------------------------------------------------------------------------------------------

records_traffic = pytest.mark.skipif(
    "traffic" not in Desk.__dataclass_fields__, reason="no desk of the supervisor records its traffic yet"
)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, simulator: Simulator) -> Iterator[Service]:
    write_config(tmp_path, simulator, "[runtime]\nmax_attempts = 1\n")
    with open_service(tmp_path) as running:
        yield running


@records_traffic
def test_the_report_is_what_the_services_own_turns_came_to(tmp_path: Path, service: Service) -> None:
    for _ in range(3):
        assert loopforge(tmp_path, "ask", "hello").returncode == 0
    assert loopforge(tmp_path, "ask", "--model", "quick/fault-500", "hello").returncode != 0
    run = loopforge(tmp_path, "providers", "report", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    providers = {provider["name"]: provider for provider in json.loads(run.stdout)["providers"]}
    quick = providers.pop("quick")
    assert (quick["attempts"], quick["done"], quick["failed"]) == (4, 3, {"ProviderUnavailable": 1})
    assert 0 < quick["window"]["first_token"]["p50_s"] <= quick["window"]["total"]["p50_s"]
    assert quick["last_done_ago_s"] > quick["last_failure"]["ago_s"] > 0
    assert quick["last_failure"]["next_step"]
    assert all(provider["attempts"] == 0 for provider in providers.values())
    text = loopforge(tmp_path, "providers", "report").stdout
    assert "4 attempts, 3 done, 1 failed, 0 cancelled" in text
    assert "quick: 1 ProviderUnavailable; last ProviderUnavailable" in text
    assert loopforge(tmp_path, "providers", "report", "--markdown").stdout.startswith("# Provider traffic")

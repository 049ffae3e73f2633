"""The report's two files and its exit code, from results as they stand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loopforge.drivers.turn import Usage
from loopforge.runtime.smoke.cases import CASES
from loopforge.runtime.smoke.report import Report, key_states, overall, plan, to_markdown, to_plain, write
from loopforge.runtime.smoke.results import CaseResult, blank
from loopforge.runtime.smoke.targets import Target, targets_of
from tests.runtime.smoke.playing import KEY, every_key, presets

ENV = every_key()
TARGETS = targets_of(presets(), {**ENV, "DEEPSEEK_API_KEY": ""}, ["glm", "deepseek", "gemini"])
GLM, DEEPSEEK, GEMINI = TARGETS
GOOD: dict[str, Any] = {"first_token_s": 0.41261, "total_s": 1.5, "usage": Usage(input=12, output=34), "finish": "stop"}
BAD: dict[str, Any] = {
    "error": "RateLimited",
    "reason": "rate limit | reached <now>\nsaid `it`",
    "next_step": "resend this turn in 3 s",
    "total_s": 0.2,
}


def skipped(target: Target) -> list[CaseResult]:
    return [blank(target, case, "skipped", reason=target.skip, next_step=target.next_step) for case in CASES]


def report(*results: CaseResult, **members: Any) -> Report:
    given: dict[str, Any] = {
        "config": "/srv/agents/config.toml",
        "ran": True,
        "started_at": datetime(2026, 11, 22, 3, 15, tzinfo=UTC),
        "duration_s": 7.25,
        "targets": TARGETS,
        "results": results,
        "keys": key_states(TARGETS, {**ENV, "DEEPSEEK_API_KEY": ""}),
    }
    return Report(**(given | members))


MIXED = report(
    *[blank(GLM, case, "ok", **GOOD) for case in CASES],
    *skipped(DEEPSEEK),
    blank(GEMINI, "text", "ok", **GOOD),
    blank(GEMINI, "stream", "failed", **BAD),
    blank(GEMINI, "tool", "ok", **(GOOD | {"usage": Usage()})),
)


def test_json_tells_totals_host_time_and_each_case() -> None:
    told = json.loads(json.dumps(to_plain(MIXED)))
    assert told["totals"] == {
        "cases": 9, "ok": 5, "failed": 1, "skipped": 3, "planned": 0, "tokens": {"input": 48, "output": 136},
    }  # fmt: skip
    assert (told["mode"], told["started_at"], told["duration_s"]) == ("run", "2026-11-22T03:15:00+00:00", 7.25)
    assert told["host"].keys() == {"name", "system", "python", "cpus"}
    glm, deepseek, gemini = told["providers"]
    assert [glm["status"], deepseek["status"], gemini["status"]] == ["ok", "skipped", "failed"]
    assert glm["key"] == {"variable": "ZHIPUAI_API_KEY", "state": "set"}
    assert deepseek["key"]["state"] == "not set"
    assert glm["cases"][0] == {
        "case": "text",
        "status": "ok",
        "model": "glm-4",
        "reason": "",
        "error": "",
        "next_step": "",
        "first_token_s": 0.4126,
        "total_s": 1.5,
        "tokens": {"input": 12, "output": 34},
        "finish": "stop",
        "model_reported": "",
        "request_id": "",
        "warnings": [],
    }
    failed = gemini["cases"][1]
    assert (failed["error"], failed["next_step"]) == ("RateLimited", "resend this turn in 3 s")
    assert failed["first_token_s"] is None


def test_markdown_has_a_row_a_case_that_ran_and_one_a_provider_that_did_not() -> None:
    text = to_markdown(MIXED)
    assert text.startswith(
        "# Provider health, 2026-11-22 03:15 UTC\n\n9 cases: 5 ok, 1 failed, 3 skipped. It took 7.2 s.\n"
    )
    rows = re.findall(r"^\| (glm|gemini|deepseek) \|.*$", text, re.MULTILINE)
    assert rows == ["glm"] * 3 + ["gemini"] * 3 + ["deepseek"]
    assert "| glm | openai_compatible | glm-4 | text | ok | 0.41 s | 1.50 s | 12 / 34 |  |  |" in text
    assert "| deepseek | DEEPSEEK_API_KEY is not set here | export DEEPSEEK_API_KEY=… |" in text
    assert "| Tokens | 48 in, 136 out |" in text


def test_what_a_vendor_says_cannot_break_the_table() -> None:
    (row,) = [line for line in to_markdown(MIXED).splitlines() if "RateLimited" in line]
    assert r"RateLimited: rate limit \| reached &lt;now> said \`it\` | resend this turn in 3 s |" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 11


def test_a_failure_decides_about_the_exit_code_and_nothing_else_does() -> None:
    assert MIXED.exit_code == 1
    assert report(*skipped(DEEPSEEK), blank(GLM, "text", "ok", **GOOD)).exit_code == 0
    assert report(*plan(TARGETS), ran=False).exit_code == 0


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [
        ("ok ok ok", "ok"),
        ("ok failed skipped", "failed"),
        ("ok skipped", "ok"),
        ("skipped skipped", "skipped"),
        ("planned planned", "planned"),
        ("", "skipped"),
    ],
)
def test_a_provider_is_what_the_worst_of_its_cases_is(statuses: str, whole: str) -> None:
    assert overall(statuses.split()) == whole


def test_a_plan_says_what_would_run_and_what_would_not() -> None:
    planned = report(*plan(TARGETS), ran=False, duration_s=0.0)
    assert [result.status for result in planned.results] == ["planned"] * 3 + ["skipped"] * 3 + ["planned"] * 3
    assert to_plain(planned)["mode"] == "plan"
    assert "9 cases: 3 skipped, 6 planned. This is a plan: nothing was asked and nothing spent." in to_markdown(planned)


def test_an_interrupted_run_says_so() -> None:
    stopped = replace(MIXED, interrupted=True)
    assert to_plain(stopped)["interrupted"] is True
    assert "It took 7.2 s and was interrupted." in to_markdown(stopped)


def test_both_files_are_put_in_place_whole_in_a_folder_made_for_them(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    files = write(MIXED, folder)
    assert [file.name for file in files] == ["provider-health.json", "provider-health.md"]
    assert sorted(folder.iterdir()) == sorted(files)
    before = [file.stat().st_ino for file in files]
    assert write(MIXED, folder) == files
    assert all(
        file.stat().st_ino != inode for file, inode in zip(files, before, strict=True)
    )  # replaced, not rewritten
    assert json.loads(files[0].read_text())["totals"]["ok"] == 5


def test_no_key_gets_into_the_report() -> None:
    assert KEY not in json.dumps(to_plain(MIXED)) + to_markdown(MIXED)

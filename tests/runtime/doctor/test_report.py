"""The order of next steps, and a run as text and as a document."""

from __future__ import annotations

import json

import pytest

from loopforge.runtime.doctor.finding import CHECKS, STATUSES, Finding, error, in_order, next_actions, ok, warn
from loopforge.runtime.doctor.report import Report, to_lines, to_plain

FINDINGS = (
    error("reachable", "it is away", "check base_url", subject="acme"),
    ok("disk", "4 GB are free at /"),
    warn("config", "there is no file", "write one: loopforge init"),
    error("ollama", "it is not there", "install Ollama", subject="ollama"),
    error("reachable", "nobody listens", "install Ollama", subject="ollama"),
    ok("service", "none is running", "start one: loopforge serve"),
)


def report(*findings: Finding, valid: bool = True, spare: tuple[str, ...] = ()) -> Report:
    return Report(config="/c.toml", valid=valid, findings=findings, spare=spare, took_s=0.25)


def test_next_steps_come_in_the_order_in_which_things_are_mended_each_once() -> None:
    assert next_actions(FINDINGS) == ["write one: loopforge init", "install Ollama", "acme: check base_url"]


def test_a_step_that_many_providers_share_is_told_once_with_their_names() -> None:
    shared = [error("reachable", "no", "check the DNS", subject=name) for name in ("a", "b", "a")]
    assert next_actions(shared) == ["a, b: check the DNS"]


def test_an_action_takes_the_place_of_a_step_that_needs_its_finding() -> None:
    lines = [
        Finding(check="config", status="error", what=f"l{n}", next_step=f"s{n}", action="correct it") for n in (1, 2)
    ]
    assert next_actions(lines) == ["correct it"]


def test_every_family_has_its_place() -> None:
    findings = [ok(check, "x") for check in reversed(CHECKS)]
    assert [found.check for found in in_order(findings)] == list(CHECKS)


@pytest.mark.parametrize(
    ("findings", "status", "last"),
    [
        ((), "ok", "send a turn: loopforge ask hello"),
        ((ok("disk", "x"), warn("disk", "y", "free some")), "warn", "send a turn: loopforge ask hello"),
        ((error("disk", "x", "free some"), warn("clock", "y", "set it")), "error", "then look again: loopforge doctor"),
    ],
)
def test_there_is_always_something_to_do_next(findings: tuple[Finding, ...], status: str, last: str) -> None:
    made = report(*findings)
    assert (made.status, made.next_actions[-1]) == (status, last)


def test_a_key_that_is_there_is_offered_where_turns_cannot_be_served() -> None:
    step = "or use acme, whose key is set: loopforge route set planning acme --check"
    failing = error("ollama", "it is not there", "install Ollama", subject="ollama")
    assert step in report(failing, spare=("acme", "other")).next_actions
    assert step not in report(warn("config", "x", "y"), spare=("acme",)).next_actions
    assert any("use a cloud provider" in each for each in report(failing).next_actions)
    other = error("reachable", "x", "y", subject="acme")
    assert not any("use a cloud provider" in each for each in report(failing, other).next_actions)


def test_the_document_has_a_summary_the_checks_and_the_next_actions() -> None:
    document = json.loads(json.dumps(to_plain(report(*FINDINGS))))
    assert list(document) == ["summary", "checks", "next_actions"]
    assert {name: document["summary"][name] for name in ("status", *STATUSES, "config")} == {
        "status": "error", "ok": 2, "warn": 1, "error": 3, "config": "/c.toml",
    }  # fmt: skip
    assert document["checks"][0] == {
        "check": "config",
        "subject": "",
        "status": "warn",
        "message": "there is no file",
        "next_step": "write one: loopforge init",
    }
    assert document["next_actions"][-1] == "then look again: loopforge doctor"


def test_the_text_has_each_finding_with_its_step_below_and_ends_with_what_to_do() -> None:
    lines = to_lines(report(*FINDINGS), 0, lambda text, _status: text)
    assert lines[:3] == ["config", "  warn   there is no file", "         -> write one: loopforge init"]
    assert "  error  acme: it is away" in lines
    assert lines[-5:] == [
        "3 errors, 1 warning, 2 ok in 0.2 s. Next:",
        "  1. write one: loopforge init",
        "  2. install Ollama",
        "  3. acme: check base_url",
        "  4. then look again: loopforge doctor",
    ]


def test_lines_fit_the_terminal_and_commands_are_not_cut() -> None:
    command = "loopforge route set planning anthropic/claude-sonnet-4-6-20250929 --check"
    long = error("keys", "a sentence that is rather long " * 5, f"do this: {command}", subject="acme")
    lines = to_lines(report(long), 60, lambda text, _status: text)
    assert max(map(len, lines)) <= 60
    assert "anthropic/claude-sonnet-4-6-20250929" in "\n".join(lines)


def test_colour_stands_on_the_status_and_dims_what_matters_less() -> None:
    painted: list[tuple[str, str | None]] = []

    def paint(text: str, status: str | None) -> str:
        painted.append((text, status))
        return text

    to_lines(report(*FINDINGS[:2]), 0, paint)
    assert painted == [("reachable", None), ("  error  ", "error"), ("disk", None), ("  ok     ", "ok")]

"""Short ways to check a text as a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loopforge.runtime.config.load import check_text
from loopforge.runtime.config.values import Config, Problem

FILE = Path("/etc/loopforge/config.toml")
OLLAMA = '[providers.ollama]\nbase_url = "http://127.0.0.1:11434/v1"\ndefault_model = "llama3.2"\n'


def accepted(text: str, env: Mapping[str, str] | None = None) -> Config:
    """The configuration that the text describes; fails with its problems when there are any."""
    checked = check_text(text, FILE, env or {})
    assert checked.config is not None, "\n".join(map(str, checked.problems))
    assert checked.problems == ()
    return checked.config


def refused(text: str) -> tuple[Problem, ...]:
    """The problems that forbid the text."""
    checked = check_text(text, FILE, {})
    assert checked.config is None
    assert checked.problems
    assert all(problem.severity == "error" and problem.file == str(FILE) for problem in checked.problems)
    return checked.problems


def only_problem(text: str) -> Problem:
    problems = refused(text)
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]

"""scripts/test and .ci/run with tools that do as the test says: order, arguments, where they stop, what stands last."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.tree import ROOT

CLOSING = "=== 7 passed in 1.23s ==="

# Writes down how it was called; fails when its call holds the word in the file fails-at.
FAKE_TOOL = """#!/bin/sh
call="$(basename "$0") $*"
echo "$call" >> {folder}/calls
case "$call" in
  *"$(cat {folder}/fails-at)"*) echo "{closing}" | sed s/passed/failed/; exit 3 ;;
  *pytest*|*check-slow*|test*) echo "{closing}" ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    root: Path

    def run(self, script: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run it without a terminal; its two outputs as one text, in the order they came."""
        process = subprocess.Popen(
            [str(self.root / script), *args],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _ = process.communicate()
        return subprocess.CompletedProcess([script, *args], process.returncode, output)

    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()

    def fail_at(self, word: str) -> None:
        (self.root / "fails-at").write_text(word)


def checkout_with(folder: Path, script: str, *tools: str) -> Checkout:
    (folder / script).parent.mkdir(parents=True)
    shutil.copy(ROOT / script, folder / script)
    for tool in tools:
        (folder / tool).parent.mkdir(parents=True, exist_ok=True)
        (folder / tool).write_text(FAKE_TOOL.format(folder=folder, closing=CLOSING))
        (folder / tool).chmod(0o755)
    made = Checkout(folder)
    made.fail_at("nothing")
    return made


# ---- scripts/test ----------------------------------------------------------------------------------------------------

STEPS = [
    ("setup", "setup dev"),
    ("lint", "python -m ruff check --quiet"),
    ("format", "python -m ruff format --check --quiet"),
    ("types", "python -m mypy"),
    ("import rules", "lint-imports "),
    ("the guard", "python -m pytest -q -m not slow tests/guard"),
    ("tests", "python -m pytest -n auto --dist loadfile -m not slow --ignore tests/guard"),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return checkout_with(tmp_path, "scripts/test", "scripts/setup", ".venv/bin/python", ".venv/bin/lint-imports")


def test_every_step_runs_in_order_and_pytests_closing_line_stands_last(checkout: Checkout) -> None:
    done = checkout.run("scripts/test")
    assert done.returncode == 0, done.stdout
    assert checkout.calls() == [call for _, call in STEPS]
    assert [line[3:] for line in done.stdout.splitlines() if line.startswith("== ")] == [name for name, _ in STEPS]
    assert done.stdout.splitlines()[-1] == CLOSING


@pytest.mark.parametrize(("name", "call"), STEPS)
def test_the_first_step_that_fails_ends_it_and_is_named_last(name: str, call: str, checkout: Checkout) -> None:
    checkout.fail_at(call)
    failed = checkout.run("scripts/test")
    assert failed.returncode == 1
    assert checkout.calls() == [made for _, made in STEPS[: STEPS.index((name, call)) + 1]]
    assert failed.stdout.splitlines()[-1].startswith(f"scripts/test: FAILED at {name}. This step alone: ")


def test_arguments_go_to_pytest(checkout: Checkout) -> None:
    checkout.run("scripts/test", "tests/drivers", "-k", "two words")
    assert checkout.calls()[-1] == "python -m pytest -m not slow tests/drivers -k two words"


def test_coverage_is_measured_when_it_is_asked_for(checkout: Checkout) -> None:
    checkout.run("scripts/test", "--coverage", "-x")
    assert checkout.calls()[-3:] == [
        "python -m coverage run -m pytest -m not slow -x",
        "python -m coverage combine --quiet",
        "python -m coverage report --skip-covered",
    ]


# ---- .ci/run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ci(tmp_path: Path) -> Checkout:
    return checkout_with(tmp_path, ".ci/run", "scripts/test", "scripts/demo", "scripts/check-slow")


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="an sdist holds no .ci")
def test_ci_ends_with_the_closing_lines_of_both_runs(ci: Checkout) -> None:
    done = ci.run(".ci/run")
    assert done.returncode == 0, done.stdout
    assert [call.split()[0] for call in ci.calls() if "demo" not in call] == ["test", "check-slow"]
    total, *closing = done.stdout.splitlines()[-3:]
    assert total.startswith("#### total: ")
    assert closing == [CLOSING, CLOSING]


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="an sdist holds no .ci")
@pytest.mark.parametrize("section", ["test", "check-slow"])
def test_ci_ends_at_the_first_section_that_fails(section: str, ci: Checkout) -> None:
    ci.fail_at(section)
    failed = ci.run(".ci/run")
    assert failed.returncode == 1
    assert ci.calls()[-1].split()[0] == section
    assert failed.stdout.splitlines()[-1].startswith(f"#### FAILED: {section}, after ")

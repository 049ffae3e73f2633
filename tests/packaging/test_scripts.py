"""scripts/setup with a Python and a pip that do as the test says: what is done, what is skipped, what a person reads.

The fake interpreter answers to `-c` as the real one would, makes environments of itself, and writes down each pip call.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.tree import ROOT, project_files

FAKE_PYTHON = """#!/bin/sh
case "$1 $2 $3" in
  "-c "*) exec {python} -c "{age}; import sys; exec(sys.argv.pop(1))" "$2" ;;
  "-m venv --clear") rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  "-m pip --version") ;;
  "-m pip --disable"*)
    mkdir {folder}/busy || exit 9
    echo "$@" >> {folder}/pip-calls
    cat {folder}/pip-says >&2
    sleep "$(cat {folder}/pip-takes)"
    rmdir {folder}/busy
    exit "$(cat {folder}/pip-ends)" ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of what scripts/setup reads, and an interpreter for it."""

    root: Path
    python: Path
    pip: Path

    def setup(self, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*args, **variables)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(args, process.returncode, output, errors)

    def start(self, *args: str, **variables: str) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHON": str(self.python), **variables}
        command = [str(self.root / "scripts" / "setup"), *args]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def pip_calls(self) -> list[str]:
        """What pip was asked to install since the last time: locks, or the project."""
        calls = self.pip / "pip-calls"
        asked = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [
            "project" if "--editable ." in call else " ".join(w for w in call.split() if w.endswith(".txt"))
            for call in asked
        ]

    def pip_will(self, *, say: str = "", end: int = 0, take: str = "0") -> None:
        for name, content in {"pip-says": say, "pip-ends": str(end), "pip-takes": take}.items():
            (self.pip / name).write_text(content)

    def write_python(self, age: str = "pass") -> None:
        self.python.write_text(FAKE_PYTHON.format(python=sys.executable, folder=self.pip, age=age))
        self.python.chmod(0o755)


OFFLINE = """WARNING: Retrying after connection broken by 'NewConnectionError(...: Name or service not known)'
ERROR: No matching distribution found for attrs==26.1.0
"""
RUN = "scripts/locks/runtime.txt scripts/locks/build.txt"
DEV = "scripts/locks/dev.txt"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "a checkout"
    for name in ["scripts/setup", "pyproject.toml", "src/loopforge/__init__.py", *RUN.split(), DEV]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    made = Checkout(root, tmp_path / "fake-python", tmp_path)
    made.pip_will()
    made.write_python()
    return made


def change(path: Path) -> None:
    path.write_text(path.read_text() + "# changed\n")


def test_the_first_setup_installs_what_is_locked_and_then_the_project_without_a_word(checkout: Checkout) -> None:
    done = checkout.setup("run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert checkout.pip_calls() == [RUN, "project"]


def test_nothing_is_installed_when_nothing_changed(checkout: Checkout) -> None:
    checkout.setup("dev")
    checkout.pip_calls()
    assert checkout.setup("dev").returncode == 0
    assert checkout.setup("run").returncode == 0  # dev holds all of run
    assert checkout.pip_calls() == []


def test_the_tests_tools_are_added_to_what_a_run_needs(checkout: Checkout) -> None:
    checkout.setup("run")
    (checkout.root / ".venv" / "kept").touch()
    checkout.setup("dev")
    assert checkout.pip_calls() == [RUN, "project", DEV, "project"]
    assert (checkout.root / ".venv" / "kept").exists()


@pytest.mark.parametrize("name", ["pyproject.toml", "src/loopforge/__init__.py"])
def test_a_change_of_the_projects_own_data_installs_the_project_alone(name: str, checkout: Checkout) -> None:
    checkout.setup("run")
    checkout.pip_calls()
    change(checkout.root / name)
    checkout.setup("run")
    assert checkout.pip_calls() == ["project"]


@pytest.mark.parametrize("profile", ["run", "dev"])
def test_a_change_of_a_lock_makes_the_environment_anew_so_that_no_package_stays_behind(
    profile: str, checkout: Checkout
) -> None:
    checkout.setup("run")
    checkout.pip_calls()
    stale = checkout.root / ".venv" / "stale"
    stale.touch()
    change(checkout.root / "scripts" / "locks" / "runtime.txt")
    checkout.setup(profile)
    assert checkout.pip_calls() == [RUN if profile == "run" else DEV, "project"]
    assert not stale.exists()


def test_an_environment_that_someone_else_made_is_filled_and_never_emptied(checkout: Checkout) -> None:
    own = checkout.root / ".venv" / "bin" / "own-tool"
    own.parent.mkdir(parents=True)
    own.touch()
    shutil.copy(checkout.python, own.parent / "python")
    checkout.setup("run")
    change(checkout.root / "scripts" / "locks" / "runtime.txt")
    checkout.setup("run")
    assert checkout.pip_calls() == [RUN, "project"] * 2
    assert own.exists()


def test_a_moved_checkout_is_set_up_anew(checkout: Checkout, tmp_path: Path) -> None:
    checkout.setup("run")
    checkout.pip_calls()
    moved = Checkout(checkout.root.rename(tmp_path / "moved"), checkout.python, checkout.pip)
    moved.setup("run")
    assert moved.pip_calls() == [RUN, "project"]


def test_a_setup_that_was_stopped_half_way_starts_from_nothing(checkout: Checkout) -> None:
    checkout.setup("run")
    half_way = checkout.root / ".venv" / "half-way"
    half_way.touch()
    checkout.pip_will(end=1)
    assert checkout.setup("dev").returncode == 1
    checkout.pip_will()
    checkout.pip_calls()
    assert checkout.setup("run").returncode == 0
    assert checkout.pip_calls() == [RUN, "project"]
    assert not half_way.exists()


def test_what_works_keeps_working_when_more_cannot_be_fetched(checkout: Checkout) -> None:
    checkout.setup("run")
    checkout.pip_will(say=OFFLINE, end=1)
    assert checkout.setup("dev").returncode == 1
    checkout.pip_calls()
    assert checkout.setup("run").returncode == 0
    assert checkout.pip_calls() == []


def test_of_two_at_once_one_installs_and_the_other_waits(checkout: Checkout) -> None:
    checkout.pip_will(take="0.1")  # the fake pip fails if it is called while it runs
    both = [checkout.start("run"), checkout.start("run")]
    words = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], words
    assert checkout.pip_calls() == [RUN, "project"]


def test_the_users_settings_for_other_installs_do_not_reach_pip(checkout: Checkout) -> None:
    probe = checkout.python.read_text().replace(
        'echo "$@"', 'echo "target=$PIP_TARGET mirror=$PIP_INDEX_URL" >&2; echo "$@"'
    )
    checkout.python.write_text(probe)
    checkout.setup("run", PIP_TARGET="/elsewhere", PIP_INDEX_URL="mirror")
    assert (checkout.root / ".venv/.loopforge/pip.log").read_text() == "target= mirror=mirror\n"


def test_python_from_the_environment_is_taken_if_it_is_new_enough(checkout: Checkout) -> None:
    checkout.write_python(age="import sys; sys.version_info = (3, 9, 18)")
    refused = checkout.setup("run")
    assert refused.returncode == 1
    assert refused.stderr.startswith("scripts/setup: CPython 3.11 or newer is needed; ")
    assert "fake-python is cpython 3.9.18" in refused.stderr
    assert "\nNext: install one" in refused.stderr
    assert not (checkout.root / ".venv").exists()


def test_a_python_without_venv_is_told_apart_from_an_old_one(checkout: Checkout) -> None:
    checkout.write_python(age="import sys; sys.modules['ensurepip'] = None")
    refused = checkout.setup("run")
    assert refused.returncode == 1
    assert "without ensurepip" in refused.stderr
    assert "apt-get install python3-venv" in refused.stderr


def test_a_python_that_is_not_there_is_named(checkout: Checkout) -> None:
    refused = checkout.setup("run", PYTHON="python-of-nobody")
    assert refused.returncode == 1
    assert "no python-of-nobody on PATH" in refused.stderr


def test_without_a_choice_the_newest_python_that_the_project_lists_is_taken(checkout: Checkout, tmp_path: Path) -> None:
    listed = re.findall(r"Python :: 3\.(\d+)", (ROOT / "pyproject.toml").read_text())
    newest = f"python3.{max(map(int, listed))}"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ["python3", "python3.11", "python3.99", newest]:
        (tools / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/asked\n" + checkout.python.read_text())
        (tools / name).chmod(0o755)
    checkout.setup("run", PYTHON="", PATH=f"{tools}:/usr/bin:/bin")
    assert set((tmp_path / "asked").read_text().split()) == {newest}


@pytest.mark.parametrize(
    ("said", "told", "next_step"),
    [
        (
            OFFLINE,
            "offline: the package index cannot be reached",
            "connect, or let pip use a mirror",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n",
            "is not the one that was locked",
            "do not trust",
        ),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))\n",
            "a certificate that is not trusted",
            "PIP_CERT=",
        ),
        (
            "WARNING: x\nERROR: [Errno 28] No space left on device\n",
            "pip failed: ERROR: [Errno 28] No space left on device.",
            "mend that",
        ),
        ("", "pip failed: no message.", "mend that"),
    ],
)
def test_a_failure_of_pip_is_told_once_with_the_next_step(
    said: str, told: str, next_step: str, checkout: Checkout
) -> None:
    checkout.pip_will(say=said, end=2)
    failed = checkout.setup("run")
    assert failed.returncode == 1
    what, then = failed.stderr.splitlines()
    assert told in what
    assert then.startswith("Next: ")
    assert next_step in then
    assert (checkout.root / ".venv/.loopforge/pip.log").read_text() == said


@pytest.mark.parametrize("args", [[], ["both"], ["run", "dev"]])
def test_a_wrong_call_shows_the_right_one(args: list[str], checkout: Checkout) -> None:
    wrong = checkout.setup(*args)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: scripts/setup run|dev\n")


SHELL_SCRIPTS = [
    path
    for path in project_files()
    if path.parts[0] in {"scripts", ".ci"}
    and not path.suffix
    and (ROOT / path).read_text().startswith("#!/usr/bin/env bash")
]


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=str)
def test_a_script_can_be_run_parses_and_stops_at_the_first_error(script: Path) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert "\nset -euo pipefail\n" in (ROOT / script).read_text()


def test_the_scripts_have_been_found() -> None:
    assert {path.name for path in SHELL_SCRIPTS} >= {"setup", "demo", "test", "check-slow", "lock"}

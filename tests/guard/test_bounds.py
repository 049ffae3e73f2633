"""A test that leaves its bounds fails though its assertions hold: seen in a run of such tests under our conftest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guard import environment

ROOT = Path(__file__).resolve().parents[2]

MISBEHAVING = """
import contextlib, os, socket, subprocess, sys

KEPT = []

def test_that_hides_a_refused_connection():
    with contextlib.suppress(Exception), socket.socket() as sock:
        sock.connect(("192.0.2.1", 443))

def test_that_leaves_a_child_and_a_grandchild():
    KEPT.append(subprocess.Popen(["sleep", "60"]))
    code = "import subprocess; subprocess.Popen(['sleep', '61'])"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)

def test_that_leaves_a_file_open():
    KEPT.append(socket.socket())

def test_that_changes_the_environment():
    os.environ["LEFT_OVER"] = "value"

def test_that_changes_the_working_folder(tmp_path):
    os.chdir(tmp_path)

def test_that_keeps_its_bounds():
    assert "LEFT_OVER" not in os.environ
    assert not [name for name in os.environ if "API_KEY" in name or "proxy" in name.lower()]
    assert not os.listdir(os.environ["HOME"])

def test_that_fails_on_its_own_account():
    left = socket.socket()
    assert not left
"""

WORDS = {
    "test_that_hides_a_refused_connection": [r"network: socket.connect \('192.0.2.1', 443\)"],
    "test_that_leaves_a_child_and_a_grandchild": [r"process \d+: sleep 60", r"process \d+: sleep 61"],
    "test_that_leaves_a_file_open": [r"file \d+: socket:\["],
    "test_that_changes_the_environment": [r"environment: LEFT_OVER changed"],
    "test_that_changes_the_working_folder": [r"working folder: "],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("misbehaving") / "test_misbehaving.py"
    file.write_text(MISBEHAVING)
    options = f"-p tests.conftest -p no:cacheprovider -rA --color=no --rootdir {ROOT} -c {ROOT}/pyproject.toml"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options.split(), file],
        cwd=ROOT,
        env={**os.environ, "DEEPSEEK_API_KEY": "sk-of-the-caller", "https_proxy": "http://192.0.2.1:3128"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("name", WORDS)
def test_leaving_the_bounds_is_an_error_that_names_what_was_left(name: str, report: str) -> None:
    assert re.search(rf"^ERROR \S*::{name}\b", report, re.MULTILINE)
    section = report.partition(f"ERROR at teardown of {name} ")[2].partition("\n____")[0]
    for words in WORDS[name]:
        assert re.search(words, section)


def test_the_others_are_left_alone(report: str) -> None:
    assert re.search(r"^PASSED \S*::test_that_keeps_its_bounds$", report, re.MULTILINE)
    assert re.search(r"^FAILED \S*::test_that_fails_on_its_own_account\b", report, re.MULTILINE)
    assert f"1 failed, {len(WORDS) + 1} passed, {len(WORDS)} errors" in report.splitlines()[-1]


def test_only_listed_variables_are_kept() -> None:
    given = dict.fromkeys(
        ["PATH", "LC_ALL", "LOOPFORGE_RECORDINGS", "PYTHONDEVMODE", "LOOPFORGE_HOME", "PYTHONPATH"], "value"
    )
    given |= dict.fromkeys(
        ["ANTHROPIC_API_KEY", "AWS_PROFILE", "HTTPS_PROXY", "SSL_CERT_FILE", "NOTIFY_SOCKET", "HOME"], "value"
    )
    assert list(environment.kept(given)) == ["PATH", "LC_ALL", "LOOPFORGE_RECORDINGS", "PYTHONDEVMODE"]


def test_each_test_has_an_empty_home_of_its_own(home: Path) -> None:
    assert home == Path.home()
    assert not list(home.iterdir())
    assert len(str(home / ".loopforge" / "run" / "loopforge.sock")) < 100  # a Unix socket's path ends at 107

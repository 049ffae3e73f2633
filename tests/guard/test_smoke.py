"""Smoke tests run when they are asked for alone, and only then is there a network and a key to ask with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.guard import smoke
from tests.guard.test_bounds import ROOT

KEY = "sk-of-the-caller"
OLLAMA_PORT = "11434"

TRIAL = f"""
import os, socket
import pytest

@pytest.mark.smoke
def test_that_asks_a_provider():
    assert os.environ["DEEPSEEK_API_KEY"] == "{KEY}"
    assert os.environ["https_proxy"]
    assert "SOMETHING_ELSE" not in os.environ
    assert not hasattr(socket, "_loopforge_guard")
    assert not os.listdir(os.environ["HOME"])

def test_that_asks_nobody():
    assert "DEEPSEEK_API_KEY" not in os.environ
    assert hasattr(socket, "_loopforge_guard")
"""


def run_pytest(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """As somebody calls it from a shell: without the guard that this very run hands to its children."""
    options = "-p no:cacheprovider --color=no -c"
    outside = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTEST_CURRENT_TEST"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options.split(), ROOT / "pyproject.toml", "--rootdir", ROOT, *arguments],
        cwd=ROOT,
        env={**outside, **(env or {})},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("selection", "passed"),
    [
        ([], "1 passed, 1 deselected"),
        (["-m", "smoke"], "1 passed, 1 deselected"),
        (["-m", "smoke or not smoke"], "1 passed, 1 deselected"),
        (["-m", "smoke and not slow"], "2 deselected"),
    ],
    ids=["nothing asked for", "smoke alone", "everything", "smoke and a condition"],
)
def test_keys_and_the_network_are_there_for_smoke_tests_alone(
    tmp_path: Path, selection: Sequence[str], passed: str
) -> None:
    file = tmp_path / "test_trial.py"
    file.write_text(TRIAL)
    variables = {"DEEPSEEK_API_KEY": KEY, "https_proxy": "http://192.0.2.1:3128", "SOMETHING_ELSE": "x"}
    run = run_pytest("-p", "tests.conftest", "-q", *selection, file, env=variables)
    assert passed in run.stdout, run.stdout + run.stderr
    assert "failed" not in run.stdout
    assert (smoke.HINT in run.stdout) == ("passed" not in passed)


def test_without_a_key_every_smoke_test_is_skipped_with_the_variable_to_set() -> None:
    run = run_pytest("-q", "-m", "smoke", "tests/smoke")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^64 skipped in", run.stdout, re.MULTILINE)
    for variable in ("ZHIPUAI_API_KEY", "MINIMAX_API_KEY", "NVIDIA_API_KEY", "LOOPFORGE_OLLAMA_MODEL"):
        assert f"export {variable}=" in run.stdout
    assert "LOOPFORGE_BEDROCK_MODEL" in run.stdout


@pytest.fixture
def _ollama(tmp_path: Path) -> Iterator[None]:
    """A simulated one where the real one would be: what stands first in a path, v1, is its name."""
    profiles = tmp_path / "profiles.json"
    profiles.write_text('{"v1": {"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 20}}')
    argv = [sys.executable, "-m", "loopforge.drivers.simulator", "--port", OLLAMA_PORT, "--profiles", str(profiles)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            pytest.skip(f"port {OLLAMA_PORT} is taken, as it may be without a network of the tests' own")
        yield
    finally:
        process.stdin.close()  # its end
        process.wait()
        process.stdout.close()


@pytest.mark.usefixtures("_ollama")
def test_a_preset_that_can_be_asked_is_asked_and_a_failure_names_class_and_next_step() -> None:
    good = run_pytest("-q", "-m", "smoke", "tests/smoke", "-k", "ollama", env={"LOOPFORGE_OLLAMA_MODEL": "m"})
    assert good.returncode == 0, good.stdout + good.stderr
    assert "3 passed, 61 deselected" in good.stdout
    bad = run_pytest(
        "-q", "-m", "smoke", "tests/smoke", "-k", "ollama", env={"LOOPFORGE_OLLAMA_MODEL": "fault-no-model"}
    )
    assert bad.returncode == 1
    assert "3 failed" in bad.stdout
    assert "ModelNotFound: " in bad.stdout


def test_what_a_smoke_run_keeps_of_the_callers_variables(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").touch()
    kept = smoke.kept({
        "HOME": str(tmp_path),
        "GEMINI_API_KEY": KEY,
        "LOOPFORGE_GLM_MODEL": "glm-5.3",
        "AWS_PROFILE": "dev",
        "HTTPS_PROXY": "http://192.0.2.1:3128",
        "OTHER_API_KEY": KEY,
        "LOOPFORGE_HOME": "/x",
    })  # fmt: skip
    assert kept == {
        "GEMINI_API_KEY": KEY,
        "LOOPFORGE_GLM_MODEL": "glm-5.3",
        "AWS_PROFILE": "dev",
        "HTTPS_PROXY": "http://192.0.2.1:3128",
        "AWS_CONFIG_FILE": str(tmp_path / ".aws" / "config"),
    }

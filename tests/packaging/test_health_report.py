"""scripts/provider_health_report.py as a person and a nightly job call it: plan, run, interrupt, any Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from loopforge.runtime.smoke.targets import SKIP_OLLAMA
from tests.packaging.tree import ROOT
from tests.runtime.cli.service import Process, Simulator, open_simulator

SCRIPT = ROOT / "scripts" / "provider_health_report.py"
KEY = "sk-of-nobody-0123456789"

FAKE_SETUP = """#!/bin/sh
echo "setup $*" >> {folder}/calls
[ ! -e {folder}/fails ] || {{ echo "Next: connect to the network" >&2; exit 3; }}
mkdir -p {folder}/.venv/bin
cat > {folder}/.venv/bin/python <<'END'
#!/bin/sh
echo "python $*" >> {folder}/calls
END
chmod +x {folder}/.venv/bin/python
"""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with open_simulator(tmp_path_factory.mktemp("simulator")) as running:
        yield running


def configuration(folder: Path, simulator: Simulator, **models: str) -> Path:
    """Providers of tests.runtime.cli.service with their models, one without a key, and an Ollama that is not there."""
    file = folder / "config.toml"
    tables = [
        f'[providers.{name}]\nbase_url = "{simulator.url}/{name}/v1"\napi_key_env = "QUICK_KEY"\n'
        f'default_model = "{model}"\n'
        for name, model in models.items()
    ]
    tables.append('[providers.locked]\nbase_url = "https://a.invalid/v1"\napi_key_env = "LOCKED_KEY"\n')
    tables.append('[providers.ollama]\nbase_url = "http://127.0.0.1:11434/v1"\ndefault_model = "m"\n')
    file.write_text("\n".join(tables))
    return file


def run(folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """With this test's Python, which knows the checkout; the working folder is `folder`."""
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env={**os.environ, "QUICK_KEY": KEY, **(env or {})},
        capture_output=True,
        text=True,
    )


def told(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "provider-health.json").read_text())
    return document


def test_without_run_it_plans_the_presets_and_asks_nobody(tmp_path: Path) -> None:
    made = run(tmp_path, env={SKIP_OLLAMA: "1"})
    assert (made.returncode, made.stderr) == (0, "")
    document = told(tmp_path / ".tmp" / "provider-health")
    assert document["mode"] == "plan"
    assert len(document["providers"]) == 19
    assert document["totals"]["skipped"] == document["totals"]["cases"] == 57
    assert "This was a plan: nothing was asked and nothing spent." in made.stdout


def test_a_run_asks_those_whose_key_is_set_and_one_failure_stops_nothing(tmp_path: Path, simulator: Simulator) -> None:
    file = configuration(tmp_path, simulator, brief="fault-500", quick="m")
    arguments = ["--out-dir", "out", "--run", "--config", str(file)]
    made = run(tmp_path, *arguments, env={SKIP_OLLAMA: "1"})
    assert (made.returncode, made.stderr) == (1, "")
    document = told(tmp_path / "out")
    assert (document["mode"], document["config"]) == ("run", str(file))
    statuses = {provider["name"]: [case["status"] for case in provider["cases"]] for provider in document["providers"]}
    assert statuses == {
        "brief": ["failed"] * 3, "quick": ["ok"] * 3, "locked": ["skipped"] * 3, "ollama": ["skipped"] * 3,
    }  # fmt: skip
    brief, quick, locked, ollama = document["providers"]
    assert {case["error"] for case in brief["cases"]} == {"ProviderUnavailable"}
    assert all(case["next_step"] and case["total_s"] for case in brief["cases"])
    assert all(0 < case["first_token_s"] <= case["total_s"] and case["tokens"]["output"] for case in quick["cases"])
    assert locked["cases"][0]["reason"] == "LOCKED_KEY is not set here"
    assert SKIP_OLLAMA in ollama["cases"][0]["reason"]
    assert document["totals"] | {"tokens": None} == {
        "cases": 12, "ok": 3, "failed": 3, "skipped": 6, "planned": 0, "tokens": None,
    }  # fmt: skip
    assert "12 cases: 3 ok, 3 failed, 6 skipped." in made.stdout
    markdown = (tmp_path / "out" / "provider-health.md").read_text()
    assert "| quick | openai_compatible | m | stream | ok |" in markdown
    assert KEY not in made.stdout + markdown + json.dumps(document)


def test_a_run_in_which_nothing_failed_ends_with_0(tmp_path: Path, simulator: Simulator) -> None:
    file = configuration(tmp_path, simulator, quick="m")
    made = run(tmp_path, "--out-dir", "out", "--run", "--config", file, "--only", "quick", "--only", "locked")
    assert (made.returncode, made.stderr) == (0, "")
    assert [provider["status"] for provider in told(tmp_path / "out")["providers"]] == ["ok", "skipped"]


def test_an_ollama_that_is_not_there_is_a_failure_unless_it_is_left_out(tmp_path: Path, simulator: Simulator) -> None:
    file = configuration(tmp_path, simulator)
    made = run(tmp_path, "--out-dir", "out", "--run", "--config", file)
    assert made.returncode == 1
    (case, *_) = told(tmp_path / "out")["providers"][1]["cases"]
    assert (case["status"], case["error"]) == ("failed", "ProviderUnavailable")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_still_writes_down_what_it_has(
    tmp_path: Path, simulator: Simulator, number: signal.Signals
) -> None:
    file = configuration(tmp_path, simulator, silent="m", quick="m")
    out = tmp_path / "out"
    arguments = ["--run", "--config", str(file), "--out-dir", str(out), "--only", "quick", "--only", "silent"]
    process = Process([sys.executable, str(SCRIPT), *arguments], {**os.environ, "QUICK_KEY": KEY})
    try:
        process.wait_for("quick/tool")
        process.popen.send_signal(number)
        assert process.wait() == 130
    finally:
        process.close()
    document = told(out)
    assert document["interrupted"] is True
    assert [provider["status"] for provider in document["providers"]] == ["ok", "skipped"]
    assert process.err == ""


def test_what_cannot_be_used_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    unknown = run(tmp_path, "--only", "glmm")
    assert unknown.returncode == 2
    assert "there is no provider 'glmm'" in unknown.stderr
    (tmp_path / "bad.toml").write_text('[router.coding]\nprovider = "nobody"\n')
    bad = run(tmp_path, "--config", "bad.toml")
    assert bad.returncode == 78
    assert "nobody" in bad.stderr
    assert run(tmp_path, "--timeout", "nan").returncode == run(tmp_path, "--jobs", "0").returncode == 2
    assert not (tmp_path / ".tmp").exists()
    (tmp_path / "taken").touch()
    taken = run(tmp_path, "--out-dir", "taken")
    assert taken.returncode == 1
    assert "--out-dir" in taken.stderr


# ---- any Python ------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script alone, with a scripts/setup that makes a .venv of a Python that only writes down its arguments."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    setup = tmp_path / "scripts" / "setup"
    setup.write_text(FAKE_SETUP.format(folder=tmp_path))
    setup.chmod(0o755)
    return tmp_path


def run_bare(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With a Python that has nothing installed: -S."""
    script = str(checkout / "scripts" / SCRIPT.name)
    return subprocess.run([sys.executable, "-S", script, *arguments], cwd="/", capture_output=True, text=True)


@pytest.mark.parametrize("flags", [["-S"], []], ids=["bare", "with another checkout's package"])
def test_another_python_hands_over_to_the_checkouts_own(checkout: Path, flags: list[str]) -> None:
    script = str(checkout / "scripts" / SCRIPT.name)
    made = subprocess.run([sys.executable, *flags, script, "--run", "--only", "glm"], capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    calls = (checkout / "calls").read_text().splitlines()
    assert calls == ["setup run", f"python {script} --run --only glm"]


def test_a_setup_that_fails_has_the_last_word(checkout: Path) -> None:
    (checkout / "fails").touch()
    made = run_bare(checkout)
    assert (made.returncode, made.stderr) == (3, "Next: connect to the network\n")


def test_a_venv_without_the_project_does_not_go_round_in_circles(checkout: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    script = str(checkout / "scripts" / SCRIPT.name)
    made = subprocess.run([checkout / ".venv" / "bin" / "python", script], capture_output=True, text=True)
    assert made.returncode == 1
    assert "Next: rm -r .venv" in made.stderr
    assert not (checkout / "calls").exists()

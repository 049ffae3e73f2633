"""loopforge rehearse, as a person calls it. What a rehearsal finds out is tested in tests/runtime/rehearsal/."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from loopforge.drivers.registry import KINDS, has_driver, has_simulator
from tests.runtime.cli.running import LOOPFORGE, environment, loopforge, loopforge_here

WITHOUT_DRIVER = [kind for kind in KINDS if not (has_driver(kind) and has_simulator(kind))]
ROUTES = """
[providers.local]
base_url = "http://127.0.0.1:9/v1"
default_model = "m"

[providers.cloud]
base_url = "https://cloud.invalid/v1"
api_key_env = "CLOUD_KEY"
default_model = "m"

[providers.spare]
base_url = "https://spare.invalid/v1"

[router]
planning = { provider = "local" }
coding = { provider = "cloud" }
summary = { provider = "cloud" }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "routes.toml"
    file.write_text(ROUTES)
    return file


def test_a_rehearsal_without_a_key_answers_every_turn_and_says_what_comes_next(tmp_path: Path, config: Path) -> None:
    file = tmp_path / "result.json"
    run = loopforge(tmp_path, "rehearse", "--config", config, "--seconds", "1", "--json-file", file)
    assert (run.returncode, run.stderr) == (0, "")
    posted = json.loads(file.read_text())["turns"]["posted"]
    said = " ".join(run.stdout.split())
    assert said.startswith(f"Rehearsed {config} for 1 s: {posted} turns posted, {posted} done, 0 failed, 0 lost.")
    assert (
        "Every turn was answered. Next, see what a fault does to them: loopforge rehearse --fault local=kill-worker"
        in said
    )


def test_json_is_one_document_and_nothing_else(tmp_path: Path, config: Path) -> None:
    arguments = ["--config", str(config), "--seconds", "1", "--rate", "coding=4", "--rate", "summary=0", "--seed", "9"]
    run = loopforge(tmp_path, "rehearse", *arguments, "--fault", "cloud=500", "--json", env={"CLOUD_KEY": "sk-secret"})
    assert (run.returncode, run.stderr) == (0, "")
    document = json.loads(run.stdout)
    assert document["rates"] == {"planning": 3.0, "coding": 4.0, "summary": 0.0}
    assert (document["seed"], document["faults"]) == (9, {"cloud": ["500"]})
    failed = {route["kind"]: route["failed_with"] for route in document["routes"]}
    assert failed == {"planning": {}, "coding": {"ProviderUnavailable": 4}}
    assert "sk-secret" not in run.stdout


def test_ctrl_c_ends_it_with_the_figures_so_far(tmp_path: Path, config: Path) -> None:
    process = subprocess.Popen(
        [*LOOPFORGE, "rehearse", "--config", config, "--seconds", "600", "--fault", "cloud=silence"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
        start_new_session=True,
    )
    wait_for_grandchildren(process, 4)  # a simulator for the good, one for the bad, two workers
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to every process of the group
    out, err = process.communicate()
    assert (process.returncode, err) == (130, b"")
    assert b", 0 lost." in out
    assert b"WorkerLost" not in out


def wait_for_grandchildren(process: subprocess.Popen[bytes], number: int) -> None:
    """Until the process has so many children of its own; it must not end before."""
    watched = os.pidfd_open(process.pid)
    try:
        file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(file.read_text().split()) < number:
            assert not select.select([watched], [], [], 0.05)[0], "it ended too early"
    finally:
        os.close(watched)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fault", "clud=cut"], "no provider 'clud'; did you mean 'cloud'? configured: local, cloud, spare"),
        (["--fault", "spare=cut"], "no route leads to spare, so nobody would notice; routed: local, cloud"),
        (["--rate", "codng=2"], "no kind 'codng'; did you mean 'coding'? configured: planning, coding, summary"),
        (["--rate", "coding=1e9"], "at most 100,000 fit into one run"),
        (["--seconds", "0"], "0.0 is not in the range 0.5<=x<=3600.0"),
        (["--seconds", "nan"], "nan is not a number of seconds"),
        (["--json-file", "/no/such/folder/out.json"], "there is no folder /no/such/folder"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_to_write_instead(
    tmp_path: Path, config: Path, arguments: list[str], said: str
) -> None:
    run = loopforge_here(tmp_path, "rehearse", "--config", config, *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert said in " ".join(run.stderr.split())


@pytest.mark.skipif(not WITHOUT_DRIVER, reason="every kind has its driver and its simulator")
def test_a_kind_of_provider_without_a_driver_is_told_before_anything_starts(tmp_path: Path, config: Path) -> None:
    later = (
        f'[providers.later]\nkind = "{WITHOUT_DRIVER[0]}"\nbase_url = "https://later.invalid"\ndefault_model = "m"\n'
    )
    config.write_text(ROUTES + later)
    one = loopforge_here(tmp_path, "rehearse", "--config", config, "--fault", "later=cut")
    assert one.returncode == 2
    assert "later cannot be rehearsed, there is no " in " ".join(one.stderr.split())
    config.write_text(config.read_text().replace('"local"', '"later"').replace('"cloud"', '"later"'))
    none = loopforge_here(tmp_path, "rehearse", "--config", config)
    assert none.returncode == 1
    assert "nothing to rehearse: later cannot be rehearsed, there is no " in none.stderr


def test_a_configuration_with_errors_is_not_rehearsed(tmp_path: Path, config: Path) -> None:
    config.write_text(ROUTES.replace("default_model", "defualt_model"))
    run = loopforge_here(tmp_path, "rehearse", "--config", config)
    assert run.returncode == 78
    assert f"{config}:4: error:" in run.stderr
    assert "default_model" in run.stderr


def test_a_file_that_is_not_there_is_not_replaced_by_the_presets(tmp_path: Path) -> None:
    run = loopforge_here(tmp_path, "rehearse", "--config", tmp_path / "no.toml")
    assert run.returncode == 78
    assert "there is no such file" in run.stderr


def test_the_faults_can_be_listed_without_a_configuration(tmp_path: Path) -> None:
    run = loopforge_here(tmp_path, "rehearse", "--list-faults")
    assert run.returncode == 0
    assert {"cut", "429", "kill-worker"} <= {line.split()[0] for line in run.stdout.splitlines()}

"""Disk, service and systemd unit: what they tell, and what of it is worth a warning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import loopforge
from loopforge.runtime.config.values import Config
from loopforge.runtime.doctor.disk import judge_disk
from loopforge.runtime.doctor.programs import Said, run_program
from loopforge.runtime.doctor.service import Service, judge_service
from loopforge.runtime.doctor.systemd import judge_unit
from tests.runtime.config.checking import OLLAMA, accepted

# -- disk ------------------------------------------------------------------------------------------------------------


def volume(*, free_mb: int = 4096, inodes: int = 1000, read_only: bool = False) -> os.statvfs_result:
    blocks = free_mb * 256
    return os.statvfs_result((4096, 4096, blocks * 2, blocks, blocks, 2000, inodes, inodes, int(read_only), 255))


@pytest.mark.parametrize(
    ("found", "status", "what"),
    [
        (volume(), "ok", "4.0 GB are free at"),
        (volume(free_mb=300), "warn", "300 MB are free at"),
        (volume(free_mb=63), "error", "63 MB are free at"),
        (volume(inodes=0), "error", "no inode is free at"),
        (volume(read_only=True), "error", "the file system of"),
    ],
)
def test_room_is_judged_by_what_turns_may_take(
    found: os.statvfs_result, status: str, what: str, tmp_path: Path
) -> None:
    (finding,) = judge_disk(tmp_path, 512, lambda _path: found)
    assert (finding.status, finding.what.startswith(what)) == (status, True)
    assert bool(finding.next_step) == (status != "ok")


def test_the_file_system_of_a_folder_that_is_not_there_yet_is_that_of_the_one_above(tmp_path: Path) -> None:
    looked: list[str] = []

    def statvfs(path: str) -> os.statvfs_result:
        looked.append(path)
        return volume()

    list(judge_disk(tmp_path / "a" / "b", 1, statvfs))
    assert looked == [str(tmp_path)]


# -- service ---------------------------------------------------------------------------------------------------------

READ_AGAIN = "let it read the file again: loopforge reload"
PATH = Path("/srv/agents/config.toml")
CONFIG = accepted(OLLAMA)
TOLD: Mapping[str, Any] = {
    "version": loopforge.__version__,
    "pid": 42,
    "config": str(PATH),
    "routes": {kind: ["ollama/llama3.2"] for kind in ("planning", "coding", "summary")},
    "providers": [
        {
            "name": "ollama",
            "kind": "openai_compatible",
            "base_url": "http://127.0.0.1:11434/v1",
            "slots": 2,
            "state": "ready",
        }
    ],
}


def service(written: Config | None = CONFIG, **changes: Any) -> list[tuple[str, str, str]]:
    running = Service(socket=Path("/run/s"), told={**TOLD, **changes})
    found = judge_service(running, PATH, written)
    return [(each.status, each.what, each.next_step) for each in found if each.status != "ok"]


def test_a_service_that_runs_well_has_nothing_to_say() -> None:
    assert service() == []
    assert service(None, routes={}) == []  # a file with errors is compared with nothing


@pytest.mark.parametrize(
    ("changes", "what", "step"),
    [
        ({"version": "0.0.1"}, "the service is version 0.0.1", "restart the service"),
        ({"config": "/other.toml"}, "the service runs with /other.toml, not with", "name that file with --config"),
        ({"draining": True}, "the service is draining", "wait for its end"),
        (
            {"providers": [{**TOLD["providers"][0], "state": "down", "down_reason": "no key; set A_KEY and restart"}]},
            "ollama is down: no key",
            "set A_KEY and restart",
        ),
    ],
)
def test_what_is_wrong_with_a_running_service_is_a_warning(changes: dict[str, Any], what: str, step: str) -> None:
    ((status, said, next_step),) = service(**changes)
    assert (status, said.startswith(what), next_step.startswith(step)) == ("warn", True, True), said


def test_a_service_that_refuses_turns_because_its_journal_cannot_write_is_an_error() -> None:
    journal = {"problem": "database or disk is full", "path": "/srv/agents/journal/journal.db"}
    ((status, said, next_step),) = service(journal=journal)
    assert (status, said.endswith("its journal cannot write (database or disk is full)")) == ("error", True)
    assert next_step.startswith("free space on the disk of /srv/agents/journal;")
    assert service(journal={**journal, "problem": ""}) == []


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (OLLAMA.replace("llama3.2", "qwen"), "router.coding, router.planning, router.summary"),
        (OLLAMA + '[router.review]\nprovider = "ollama"\n', "router.review"),
        (OLLAMA.replace("11434", "11435") + 'vendor = "ollama"\n', "providers.ollama"),
        (OLLAMA + "max_concurrency = 4\n", "providers.ollama"),
        (OLLAMA + '[providers.x]\nbase_url = "https://x"\n', "providers.x"),
    ],
)
def test_a_file_that_was_changed_since_the_service_read_it_is_to_be_read_again(text: str, places: str) -> None:
    assert service(accepted(text)) == [
        ("warn", f"the service has not read {PATH} since it was changed: {places}", READ_AGAIN)
    ]


def test_a_worker_that_ends_its_last_turns_is_no_difference() -> None:
    retiring = {**TOLD["providers"][0], "base_url": "http://old", "state": "retiring"}
    assert service(providers=[retiring, *TOLD["providers"]]) == []
    assert service(providers=[*TOLD["providers"], retiring]) == []


def test_no_service_is_no_fault_but_its_socket_left_behind_is(tmp_path: Path) -> None:
    (found,) = judge_service(Service(socket=tmp_path / "s", absent=True), PATH, CONFIG)
    assert (found.status, found.next_step) == ("ok", "one that outlives its clients: loopforge serve")
    (tmp_path / "s").write_text("")
    (found,) = judge_service(Service(socket=tmp_path / "s", absent=True), PATH, CONFIG)
    assert (found.status, found.next_step) == ("warn", "start the service again: loopforge serve")


def test_a_service_that_does_not_answer_as_it_should_is_an_error_with_its_own_advice() -> None:
    trouble = "the service at /run/s did not answer within 5 s; see its log; if it hangs, restart it"
    (found,) = judge_service(Service(socket=Path("/run/s"), trouble=trouble), PATH, CONFIG)
    assert (found.status, found.next_step) == ("error", "see its log; if it hangs, restart it")


# -- systemd ---------------------------------------------------------------------------------------------------------


class Systemctl:
    """Answers `systemctl show` for the units it has."""

    def __init__(self, status: int | None = 0, **units: str) -> None:
        self._status = status
        self._units = units

    async def __call__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
        assert env is None  # systemctl --user finds its bus by the person's own variables
        scope = "user" if "--user" in argv else "system"
        lines = self._units.get(scope, "LoadState=not-found ActiveState=inactive").split()
        return Said(self._status, "".join(f"{line}\n" for line in lines))


ACTIVE = "LoadState=loaded ActiveState=active UnitFileState=enabled NeedDaemonReload=no NRestarts=0"


@pytest.mark.parametrize(
    ("unit", "status", "what", "step"),
    [
        (ACTIVE, "ok", "loopforge.service runs", ""),
        (ACTIVE.replace("NRestarts=0", "NRestarts=7"), "warn", "was restarted 7 times", "journalctl -u loopforge"),
        (ACTIVE.replace("=enabled", "=disabled"), "warn", "does not start with the machine", "sudo systemctl enable"),
        (ACTIVE.replace("Reload=no", "Reload=yes"), "warn", "was changed on disk", "sudo systemctl daemon-reload"),
        (ACTIVE.replace("=active", "=inactive"), "warn", "is inactive", "sudo systemctl start loopforge.service"),
        (
            "LoadState=loaded ActiveState=failed Result=exit-code ExecMainStatus=78",
            "error",
            "its configuration has errors",
            "loopforge config validate",
        ),
        ("LoadState=loaded ActiveState=failed Result=signal ExecMainStatus=9", "error", "signal", "journalctl -u"),
        ("LoadState=masked", "warn", "is masked", "sudo systemctl unmask"),
        ("LoadState=bad-setting", "error", "cannot be loaded", "systemd-analyze verify"),
    ],
)
async def test_the_state_of_the_unit_is_told_with_the_command_that_helps(
    unit: str, status: str, what: str, step: str
) -> None:
    found = [each for each in await judge_unit(Systemctl(system=unit), booted=True) if each.status == status]
    assert [(what in each.what, step in each.next_step) for each in found] == [(True, True)]


async def test_a_unit_of_ones_own_is_told_with_its_own_commands() -> None:
    (found,) = await judge_unit(Systemctl(user=ACTIVE.replace("=active", "=inactive")), booted=True)
    assert found.next_step == "systemctl --user start loopforge.service"


async def test_no_unit_and_no_systemd_are_no_fault() -> None:
    for findings in [
        await judge_unit(Systemctl(), booted=True),
        await judge_unit(Systemctl(status=1), booted=True),
        await judge_unit(Systemctl(status=None), booted=False),
    ]:
        assert [each.status for each in findings] == ["ok"]


# -- programs --------------------------------------------------------------------------------------------------------


async def test_a_program_tells_its_status_and_output() -> None:
    assert await run_program(["sh", "-c", "echo hello; echo no >&2; exit 3"]) == Said(3, "hello\n")
    assert await run_program(["sh", "-c", "echo $A"], {"A": "b", "PATH": os.environ["PATH"]}) == Said(0, "b\n")
    assert await run_program(["/nonexistent/program"]) == Said(None)

"""A whole run: everything at once, each check within its time, and none able to stop the others."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import loopforge
from loopforge.drivers.errors import TurnError
from loopforge.runtime.blocking import NoAnswer
from loopforge.runtime.config.load import check
from loopforge.runtime.config.paths import PRESETS, Environment
from loopforge.runtime.config.values import Checked
from loopforge.runtime.doctor.dial import NoContact, Progress
from loopforge.runtime.doctor.finding import CHECKS, Finding
from loopforge.runtime.doctor.programs import Said
from loopforge.runtime.doctor.report import Report
from loopforge.runtime.doctor.run import Tools, examine, examine_providers
from tests.fakes.dial import FakeDial, answer
from tests.runtime.config.checking import accepted
from tests.runtime.doctor.asking import CLOUD, two_providers

NEAR = "http://127.0.0.1:11434/v1"
TAGS = "http://127.0.0.1:11434/api/tags"
PULLED = json.dumps({"models": [{"name": "llama3.2:latest"}]}).encode()
WELL = {NEAR: answer(404), TAGS: answer(body=PULLED), CLOUD: answer(401, date="Sun, 09 Sep 2001 01:46:40 GMT")}
TIMEOUT_S = 5.0
BEDROCK = '[providers.b]\nkind = "bedrock"\ndefault_model = "m"\n' + "".join(
    f'[router.{kind}]\nprovider = "b"\n' for kind in ("planning", "coding", "summary")
)


async def _check_here(path: Path, env: Environment, _timeout_s: float) -> Checked:
    return check(path, env)


def _nobody(path: Path, _answer_s: float) -> Mapping[str, Any]:
    raise NoAnswer(f"no service is running: there is no socket at {path}; start one") from FileNotFoundError()


async def _here(work: Callable[[], Any]) -> Any:
    return work()


class Programs:
    """`units`: what systemctl shows of a unit."""

    def __init__(self, **units: str) -> None:
        self._units = units

    async def __call__(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
        assert env is None
        unit = next(word for word in argv if word.endswith(".service"))
        return Said(0, self._units.get(unit.removesuffix(".service"), "LoadState=not-found\n"))


def tools(home: Path, **changes: Any) -> Tools:
    """A machine on which all is well; `changes` say what is not."""
    env = {"LOOPFORGE_HOME": str(home), **changes.pop("env", {})}
    machine = Tools(
        env=env,
        clock=lambda: 1_000_000_000.0,
        dial=FakeDial(WELL),
        run=Programs(),
        find_program=lambda name: f"/usr/bin/{name}",
        check_config=_check_here,
        ask_status=_nobody,
        aside=_here,
        uid=home.stat().st_uid if home.exists() else 0,
        booted=False,
    )
    return replace(machine, **changes)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def configured(home: Path) -> Path:
    """The presets, as loopforge init writes them."""
    (home / "config.toml").write_bytes(PRESETS.read_bytes())
    (home / "config.toml").chmod(0o600)
    return home


def by_check(report: Report) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, []).append(finding)
    return found


async def test_a_machine_that_is_well_is_told_to_send_a_turn(configured: Path) -> None:
    report = await examine(None, tools(configured), TIMEOUT_S)
    assert (report.status, report.valid) == ("ok", True), report.findings
    assert report.next_actions == ["send a turn: loopforge ask hello"]
    assert set(by_check(report)) == set(CHECKS) - {"aws", "clock"}  # nobody far away is routed


async def test_a_newcomer_is_told_exactly_what_to_do(home: Path) -> None:
    away = NoContact("connection", "nobody listens on 127.0.0.1:11434", "start the server that base_url names")
    fresh = tools(home, dial=FakeDial({NEAR: away}), find_program=lambda _name: None)
    assert (await examine(None, fresh, TIMEOUT_S)).next_actions == [
        "write a configuration to edit: loopforge init",
        "install Ollama from https://ollama.com/download, then ollama pull llama3.2",
        "or use a cloud provider: set its key variable, then loopforge route set planning NAME --check",
        "then look again: loopforge doctor",
    ]
    with_key = replace(fresh, env={**fresh.env, "DEEPSEEK_API_KEY": "sk-1"})
    assert (await examine(None, with_key, TIMEOUT_S)).next_actions[2] == (
        "or use deepseek, whose key is set: loopforge route set planning deepseek --check"
    )
    installed = replace(fresh, find_program=lambda name: name)
    assert "start Ollama: ollama serve" in (await examine(None, installed, TIMEOUT_S)).next_actions
    empty = tools(home, dial=FakeDial({**WELL, TAGS: answer(body=b'{"models": []}')}))
    assert "ollama pull llama3.2" in (await examine(None, empty, TIMEOUT_S)).next_actions


async def test_providers_that_no_route_names_are_not_asked(configured: Path) -> None:
    dial = FakeDial(WELL)
    await examine(None, tools(configured, dial=dial), TIMEOUT_S)
    assert dial.asked == [("HEAD", NEAR), ("GET", TAGS)]


async def test_a_broken_file_costs_only_the_checks_that_need_it(home: Path) -> None:
    (home / "config.toml").write_text("[providers.ollama]\nfoo = 1\n")
    report = await examine(None, tools(home), TIMEOUT_S)
    found = by_check(report)
    assert (report.valid, found["config"][0].status) == (False, "error")
    assert set(found) == {"config", "permissions", "disk", "service", "systemd"}


async def test_a_named_file_that_is_not_there_does_not_make_the_presets_count(home: Path) -> None:
    report = await examine(str(home / "other.toml"), tools(home), TIMEOUT_S)
    assert (report.valid, report.config) == (False, str(home / "other.toml"))
    assert "loopforge init" in report.next_actions[0]


async def test_a_running_service_whose_provider_has_answered_proves_the_key(configured: Path) -> None:
    path = configured / "config.toml"
    path.write_text(path.read_text().replace('provider = "ollama"', 'provider = "deepseek"'))
    told = {
        "version": loopforge.__version__,
        "pid": 9,
        "config": str(path),
        "providers": [{"name": "deepseek", "state": "ready", "traffic": {"done": 3}}],
    }
    machine = tools(configured, ask_status=lambda _path, _answer_s: told)
    assert [found.status for found in by_check(await examine(None, machine, TIMEOUT_S))["keys"]] == ["ok"]
    told["config"] = "/another.toml"
    assert [found.status for found in by_check(await examine(None, machine, TIMEOUT_S))["keys"]] == ["error"]


async def test_a_refusal_of_the_service_is_told_with_its_own_advice(configured: Path) -> None:
    def refuse(_path: Path, _answer_s: float) -> Mapping[str, Any]:
        raise TurnError(what="user nobody may not use this service", action="ask its owner")

    report = await examine(None, tools(configured, ask_status=refuse), TIMEOUT_S)
    (found,) = by_check(report)["service"]
    assert (found.status, found.what, found.next_step) == (
        "error", "user nobody may not use this service", "ask its owner",
    )  # fmt: skip


async def test_the_slots_of_ollamas_unit_are_seen(configured: Path) -> None:
    machine = tools(configured, booted=True, run=Programs(ollama="Environment=OLLAMA_NUM_PARALLEL=4\n"))
    texts = [found.what for found in by_check(await examine(None, machine, TIMEOUT_S))["ollama"]]
    assert texts == ["llama3.2 is pulled", "runs 4 turns at once, is sent 2 to begin with, then what it keeps up with"]


# -- time and bugs ---------------------------------------------------------------------------------------------------


async def _never(*_arguments: object) -> Any:
    await trio.sleep_forever()


async def _buggy(*_arguments: object) -> Any:
    raise ZeroDivisionError


HANGING: list[tuple[str, dict[str, Any], str]] = [
    ("reachable", {"dial": FakeDial({NEAR: "TLS"})}, "127.0.0.1:11434: no end of the TLS within 5 s"),
    ("ollama", {"dial": FakeDial({**WELL, TAGS: "answer"})}, "127.0.0.1:11434: no end of the answer within 5 s"),
    ("systemd", {"run": _never, "booted": True}, "no end of it within 5 s: asking systemctl"),
    ("permissions", {"aside": _never}, "no end of it within 5 s: looking at the files"),
    ("config", {"check_config": _never}, "config.toml could not be read and checked within 10 s"),
]


@pytest.mark.parametrize(("family", "change", "what"), HANGING)
async def test_a_check_that_hangs_is_told_and_the_others_are_made(
    configured: Path, autojump_clock: MockClock, family: str, change: dict[str, Any], what: str
) -> None:
    report = await examine(None, tools(configured, **change), TIMEOUT_S)
    found = by_check(report)
    assert any(finding.status == "error" and what in finding.what for finding in found[family]), report.findings
    assert all(finding.next_step for finding in report.findings if finding.status != "ok")
    assert {"service", "systemd", "disk"} <= set(found)
    assert trio.current_time() <= 4 * TIMEOUT_S


BUGGY: list[tuple[str, dict[str, Any]]] = [
    ("reachable", {"dial": _buggy}),
    ("systemd", {"run": _buggy, "booted": True}),
    ("disk", {"aside": _buggy}),
    ("config", {"check_config": _buggy}),
]


@pytest.mark.parametrize(("family", "change"), BUGGY)
async def test_a_bug_in_one_check_is_told_as_ours_and_the_others_are_made(
    configured: Path, family: str, change: dict[str, Awaitable[Any]]
) -> None:
    report = await examine(None, tools(configured, **change), TIMEOUT_S)
    bugs = [found for found in report.findings if "failed itself (ZeroDivisionError)" in found.what]
    assert family in {found.check for found in bugs}
    assert len(report.findings) > len(bugs)


async def test_providers_are_asked_at_the_same_time(home: Path, autojump_clock: MockClock) -> None:
    class Slow(FakeDial):
        async def __call__(self, method: Any, url: str, progress: Progress) -> Any:
            await trio.sleep(3)
            return await super().__call__(method, url, progress)

    config = two_providers()
    found = await examine_providers(config, {"acme", "ollama"}, tools(home, dial=Slow(WELL)), TIMEOUT_S)
    assert {each.subject for each in found if each.check == "reachable"} == {"acme", "ollama"}
    assert trio.current_time() == 6  # two requests to Ollama, one of them alone


async def test_a_bedrock_provider_is_reached_where_aws_says_and_its_clock_is_compared(home: Path) -> None:
    endpoint = "https://bedrock.test"
    config = accepted(BEDROCK)

    async def probe(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Said:
        return Said(0, json.dumps({"region": "us-east-1", "endpoint": endpoint, "source": "env"}))

    late = answer(403, date="Sun, 09 Sep 2001 01:36:40 GMT")  # ten minutes before this machine's clock
    machine = tools(home, run=probe, dial=FakeDial({endpoint: late}))
    found = await examine_providers(config, {"b"}, machine, TIMEOUT_S)
    assert [(each.check, each.status) for each in found] == [
        ("keys", "ok"), ("aws", "ok"), ("reachable", "ok"), ("clock", "error"),
    ]  # fmt: skip
    assert "10 min ahead of that of b; b refuses requests signed so" in found[-1].what


async def test_aws_credentials_that_never_come_do_not_keep_the_rest(home: Path, autojump_clock: MockClock) -> None:
    config = accepted(BEDROCK)
    found = await examine_providers(config, {"b"}, tools(home, run=_never), TIMEOUT_S)
    assert [(each.check, each.status) for each in found if each.status == "error"] == [("aws", "error")]


async def test_an_ollama_elsewhere_that_is_away_is_not_to_be_installed_here(home: Path) -> None:
    far = "http://10.0.0.5:11434/v1"
    config = accepted(f'[providers.ollama]\nbase_url = "{far}"\ndefault_model = "m"\n')
    away = NoContact("connection", "no connection to 10.0.0.5:11434", "check base_url and the network")
    found = await examine_providers(config, {"ollama"}, tools(home, dial=FakeDial({far: away})), TIMEOUT_S)
    assert [each.next_step for each in found if each.status == "error"] == [
        "check base_url of [providers.ollama] and the network"
    ]
    there = FakeDial({far: answer(), far.replace("/v1", "/api/tags"): answer(body=PULLED)})
    found = await examine_providers(config, {"ollama"}, tools(home, dial=there, booted=True), TIMEOUT_S)
    assert any("unless OLLAMA_NUM_PARALLEL says more" in each.what for each in found)  # its unit is not ours to see


async def test_another_server_on_ollamas_port_does_not_make_one_install_ollama(configured: Path) -> None:
    odd = NoContact("answer", "127.0.0.1:11434 does not answer in HTTP", "check base_url")
    report = await examine(None, tools(configured, dial=FakeDial({NEAR: odd})), TIMEOUT_S)
    assert "ollama" not in by_check(report)
    assert report.next_actions[0] == "check base_url of [providers.ollama]"


async def test_a_home_too_deep_for_a_socket_is_told_once(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    report = await examine(None, tools(deep), TIMEOUT_S)
    assert [found.next_step for found in by_check(report)["permissions"]] == ["set LOOPFORGE_SOCKET to a shorter path"]
    assert "service" not in by_check(report)


# -- one provider ----------------------------------------------------------------------------------------------------


async def test_one_provider_can_be_looked_at_alone(home: Path) -> None:
    dial = FakeDial(WELL)
    machine = tools(home, dial=dial, env={"ACME_KEY": "k"})
    found = await examine_providers(two_providers(), {"acme"}, machine, TIMEOUT_S)
    assert [(each.check, each.status) for each in found] == [("keys", "ok"), ("reachable", "ok"), ("clock", "ok")]
    assert dial.asked == [("HEAD", CLOUD)]

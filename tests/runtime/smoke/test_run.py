"""The smoke cases over real worker processes, against simulated vendors: good ones, failing ones, hanging ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from loopforge.drivers.registry import KINDS, has_driver, has_simulator
from loopforge.drivers.simulator.faults import FaultName
from loopforge.runtime.smoke.cases import CASES
from loopforge.runtime.smoke.results import CaseResult
from loopforge.runtime.smoke.run import CASE_S, LOCAL_CASE_S, smoke_all, smoke_now, time_for
from loopforge.runtime.smoke.targets import targets_of
from tests.runtime.smoke.playing import every_key, keys_in_environment, open_stage, playable, presets, simple


@pytest.fixture
def _keys() -> Iterator[None]:
    with keys_in_environment():
        yield


@pytest.mark.usefixtures("_keys")
async def test_every_preset_with_a_driver_passes_every_case_against_its_own_wire() -> None:
    targets = list(targets_of(presets(), every_key(), playable()))
    assert {target.settings.kind for target in targets} == {
        kind for kind in KINDS if has_driver(kind) and has_simulator(kind)
    }
    async with open_stage(targets) as stage:
        results = await smoke_all(stage.targets, timeout_s=30, jobs=3)
    assert [result for result in results if result.status != "ok"] == []
    assert [(result.provider, result.case) for result in results] == [(n, case) for n in playable() for case in CASES]
    for result in results:
        assert result.first_token_s is not None
        assert result.total_s is not None
        assert 0 < result.first_token_s <= result.total_s
        assert result.usage.input
        assert result.usage.output
        assert result.finish == ("tool_calls" if result.case == "tool" else "stop")


FAULTS: dict[str, tuple[FaultName, set[str]]] = {
    "rejected": ("401", {"CredentialsRejected"}),
    "broken": ("500", {"ProviderUnavailable"}),
    "proxied": ("wrong-type", {"WireMismatch"}),
    "cut": ("cut", {"StreamBroken"}),
    "silent": ("silence", {"ProviderUnavailable"}),
    "stalled": ("stall", {"Stalled", "ProviderUnavailable"}),  # of a whole answer nothing is an event yet
    "dripping": ("drip", {"DeadlineExceeded", "ProviderUnavailable", "Stalled"}),
}


@pytest.mark.slow
async def test_each_failing_or_hanging_vendor_is_told_by_its_class_and_the_others_go_on() -> None:
    targets = [simple(name) for name in ("healthy", *FAULTS)]
    async with open_stage(targets, {name: fault for name, (fault, _) in FAULTS.items()}) as stage:
        results = await smoke_all([*stage.targets[1:], stage.targets[0]], CASES[:2], timeout_s=2, jobs=5)
    by_name = {name: [result for result in results if result.provider == name] for name in ("healthy", *FAULTS)}
    assert [result.status for result in by_name["healthy"]] == ["ok"] * 2
    for name, (_, errors) in FAULTS.items():
        assert {result.status for result in by_name[name]} == {"failed"}
        assert {result.error for result in by_name[name]} <= errors, by_name[name]
        assert all(result.reason and result.next_step for result in by_name[name])
        assert all(result.total_s is not None for result in by_name[name])
    stream = by_name["stalled"][CASES.index("stream")]
    assert stream.error == "Stalled"
    assert stream.first_token_s is not None
    assert all(result.first_token_s is None for result in by_name["silent"])


async def test_a_worker_that_dies_fails_its_case_and_the_next_case_gets_a_new_one() -> None:
    async with open_stage([simple("hit")], {"hit": "silence"}) as stage, trio.open_nursery() as nursery:

        async def kill_worker() -> None:
            await stage.simulator.stats.wait(lambda stats: stats.active == 1)
            (worker,) = [pid for pid in children() if b"loopforge.workers\0hit\0" in command_of(pid)]
            os.kill(worker, signal.SIGKILL)

        nursery.start_soon(kill_worker)
        results = await smoke_all(stage.targets, CASES[:2], timeout_s=2)
    assert [result.error for result in results] == ["WorkerLost", "ProviderUnavailable"]
    assert stage.simulator.stats.of("hit").requests == 2


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in listed]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_skipped_target_starts_nothing_and_says_why() -> None:
    (target,) = targets_of({"deepseek": presets()["deepseek"]}, {})
    before = children()
    results = await smoke_all([target])
    assert children() == before
    assert [result.status for result in results] == ["skipped"] * 3
    assert {(result.reason, result.next_step) for result in results} == {
        ("DEEPSEEK_API_KEY is not set here", "export DEEPSEEK_API_KEY=…")
    }


async def test_a_kind_that_no_worker_can_serve_is_a_failure_and_not_an_exception() -> None:
    target = replace(simple("foreign", kind="no_such_wire"), skip="")
    results = await smoke_all([target], timeout_s=10)
    assert {result.status for result in results} == {"failed"}
    assert all(result.error in {"DriverMissing", "ProviderDown"} for result in results), results


async def test_what_had_no_result_when_it_was_stopped_is_skipped_as_interrupted() -> None:
    stop = trio.Event()
    told: list[CaseResult] = []

    def tell(result: CaseResult) -> None:
        told.append(result)
        if result.provider == "quick" and result.case == CASES[-1]:
            stop.set()

    async with open_stage([simple("quick"), simple("hanging")], {"hanging": "silence"}) as stage:
        results = await smoke_all(stage.targets, timeout_s=60, tell=tell, stop=stop)
    assert [result.status for result in results] == ["ok"] * 3 + ["skipped"] * 3
    assert {result.reason for result in results[3:]} == {"interrupted"}
    assert sorted(told, key=results.index) == list(results)


def test_a_program_without_a_loop_gets_the_same_results() -> None:
    (target,) = targets_of({"glm": presets()["glm"]}, {})
    (result,) = smoke_now(target, CASES[:1])
    assert (result.provider, result.case, result.status) == ("glm", "text", "skipped")


def test_a_local_server_gets_the_time_to_load_its_model() -> None:
    settings = presets()
    assert time_for(targets_of(settings, {}, ["ollama"])[0]) == LOCAL_CASE_S
    assert time_for(targets_of(settings, {}, ["glm"])[0]) == CASE_S
    assert time_for(targets_of(settings, {}, ["bedrock"])[0]) == CASE_S

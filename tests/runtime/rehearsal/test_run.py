"""A real rehearsal: simulator processes, worker processes, loopback. One run, one fault a provider."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import cast

import trio

from loopforge.drivers.registry import Kind, ProviderSettings
from loopforge.runtime.config.values import Config, Route, Target
from loopforge.runtime.rehearsal.faults import read_faults
from loopforge.runtime.rehearsal.figures import Figures, by_route, figures
from loopforge.runtime.rehearsal.report import ok
from loopforge.runtime.rehearsal.run import Progress, Result, Script, rehearse
from loopforge.runtime.rehearsal.stage import KEY_VARIABLE
from loopforge.runtime.rehearsal.workload import KindLoad

FAULTS = {"cut": "StreamBroken", "429": "RateLimited", "silence": "ProviderUnavailable", "stall": "Stalled"}


def configuration(*names: str) -> Config:
    """A provider and a kind of task for each name."""
    providers = {
        name: ProviderSettings(
            name=name, kind="openai_compatible", base_url="http://127.0.0.1:1/v1", api_key_env="REAL_KEY"
        )
        for name in names
    }
    routes = {name: Route(kind=name, targets=(Target(provider=name, model="m"),)) for name in names}
    return Config(path="/x/config.toml", providers=providers, routes=routes)


def script(names: tuple[str, ...], *faults: str, seconds: float = 1.0) -> Script:
    loads = tuple(
        KindLoad(kind=name, per_second=6, prompt_chars=(50, 100), answer_tokens=(30, 60), tool_every=4)
        for name in names
    )
    return Script(seconds=seconds, seed=1, loads=loads, faults=read_faults(faults, names))


async def play(names: tuple[str, ...], what: Script) -> tuple[Result, list[float]]:
    seen: list[float] = []

    def show(progress: Progress) -> None:
        seen.append(progress.elapsed_s)

    return await rehearse(configuration(*names), what, show, trio.Event()), seen


def of_kind(result: Result, kind: str) -> Figures:
    return by_route(result.entries)[kind, kind]


async def test_each_fault_shows_as_its_own_class_and_the_others_do_not_notice() -> None:
    names = ("healthy", "slow", *FAULTS)
    result, seen = await play(names, script(names, "slow=slow", *(f"{name}={name}" for name in FAULTS)))
    assert ok(result)
    assert (result.late, result.interrupted) == ((), False)
    for name, error in FAULTS.items():
        assert of_kind(result, name).failed == {error: 6}
    for name in ("healthy", "slow"):
        assert of_kind(result, name).done == 6
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert KEY_VARIABLE not in os.environ


async def test_a_killed_worker_costs_only_its_own_turns_and_is_replaced() -> None:
    names = ("healthy", "hit")
    result, _ = await play(names, script(names, "hit=kill-worker", seconds=1.5))
    assert ok(result)
    assert of_kind(result, "healthy").done == 9
    hit = of_kind(result, "hit")
    assert hit.done + hit.failures == 9
    assert set(hit.failed) <= {"WorkerLost"}
    deaths = {provider["name"]: (provider["deaths"], provider["state"]) for provider in result.providers}
    assert deaths == {"healthy": (0, "ready"), "hit": (1, "ready")}
    assert [incident.what.split()[0] for incident in result.incidents] == ["SIGKILL", "the", "worker"]


async def test_a_kind_whose_provider_cannot_be_played_posts_nothing_and_the_others_go_on() -> None:
    config = configuration("healthy", "foreign")
    config.providers["foreign"] = replace(config.providers["foreign"], kind=cast("Kind", "no_such_wire"))
    result = await rehearse(config, script(("healthy", "foreign"), seconds=0.5), lambda _: None, trio.Event())
    assert ok(result)
    assert {entry.kind for entry in result.entries} == {"healthy"}
    assert list(result.stage.unplayable()) == ["foreign"]


async def test_a_rehearsal_that_is_stopped_cancels_what_is_open_and_counts_it() -> None:
    stop = trio.Event()

    def show(progress: Progress) -> None:
        if progress.player.ledger.open > 2:
            stop.set()

    names = ("silent",)
    result = await rehearse(configuration(*names), script(names, "silent=silence", seconds=600), show, stop)
    total = figures(result.entries)
    assert result.interrupted
    assert total.cancelled > 2
    assert total.lost == 0

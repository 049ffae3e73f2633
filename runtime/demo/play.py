"""Plays the demo: planning alone, then all kinds at once, and half way through that a SIGKILL."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from loopforge.runtime.client import load_config, open_runtime
from loopforge.runtime.config.values import Config
from loopforge.runtime.demo import ollama
from loopforge.runtime.demo.cast import (
    CLOUD_LOADS,
    CRASH,
    PLANNING,
    TARGETS,
    Phases,
    cloud_profiles,
    config_text,
    local_profile,
    phases,
)
from loopforge.runtime.rehearsal.figures import Entry
from loopforge.runtime.rehearsal.play import Incident, Player
from loopforge.runtime.rehearsal.run import SHOW_EVERY_S, leave_when
from loopforge.runtime.rehearsal.simulator import open_simulators
from loopforge.runtime.rehearsal.workload import KindLoad, schedule

SEED = 1
GRACE_S = 10.0
"""For the last turns, beyond what the slowest takes; a quiet machine needs none of it."""


@dataclass(slots=True, kw_only=True)
class Clock:
    """When each phase began, seconds on the trio clock; None until it does."""

    warm_up: float | None = None
    idle: float | None = None
    load: float | None = None
    ending: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The demo as it runs, and when it is over: what the screen and the summary are made of."""

    plan: Phases
    clock: Clock
    entries: Sequence[Entry]
    incidents: Sequence[Incident]
    status: Mapping[str, Any]
    now: float
    late: tuple[str, ...] = ()
    interrupted: bool = False
    has_ollama: bool = False


async def play(seconds: float, show: Callable[[Scene], None], stop: trio.Event) -> Scene:
    """Run the demo for about `seconds`; it ends early when `stop` is set. Raises SimulatorFailed, TurnError."""
    plan = phases(seconds)
    clock = Clock()
    has_ollama = await ollama.answers()
    async with _configured(plan) as config, open_runtime(config) as runtime:
        player = Player(runtime=runtime, targets=TARGETS)

        def scene() -> Scene:
            return Scene(
                plan=plan,
                clock=clock,
                entries=player.ledger.entries,
                incidents=player.incidents,
                status=player.status,
                now=trio.current_time(),
                has_ollama=has_ollama,
            )

        late = await player.wait_ready(TARGETS.values())
        async with trio.open_nursery() as background:
            background.start_soon(player.watch)
            background.start_soon(_show, show, scene)
            async with trio.open_nursery() as turns:
                await leave_when(stop, _acts, player, plan, clock, turns)
                clock.ending = clock.ending or trio.current_time()
                await player.settle(0)
                turns.cancel_scope.cancel()
            await player.look()
            background.cancel_scope.cancel()
        return replace(scene(), late=late, interrupted=stop.is_set())


@asynccontextmanager
async def _configured(plan: Phases) -> AsyncIterator[Config]:
    """The demo's own config.toml, checked as any other; its providers are played by two processes, local and cloud."""
    async with open_simulators(local_profile(), cloud_profiles(plan)) as base_urls:
        with _file(config_text(base_urls, plan)) as file:
            config = await load_config(file)
        yield config


@contextmanager
def _file(text: str) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile("w", prefix="loopforge-demo-", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)


async def _acts(player: Player, plan: Phases, clock: Clock, turns: trio.Nursery) -> None:
    """Post everything and wait for the outcomes."""
    clock.warm_up = trio.current_time()
    await _post(player, [PLANNING], plan.warm_up_s, turns, measured=False)
    clock.idle = trio.current_time()
    await _post(player, [PLANNING], plan.idle_s, turns)
    clock.load = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_post, player, [PLANNING, *CLOUD_LOADS], plan.load_s, turns)
        await trio.sleep(plan.kill_at_s)
        await player.hurt(CRASH, "kill-worker")
    clock.ending = trio.current_time()
    await player.settle(plan.silence_s + plan.first_token_s + GRACE_S)


async def _post(
    player: Player, loads: Sequence[KindLoad], seconds: float, turns: trio.Nursery, *, measured: bool = True
) -> None:
    end = trio.current_time() + seconds
    await player.post_all(schedule(loads, seconds, SEED), turns, measured=measured)
    await trio.sleep_until(end)


async def _show(show: Callable[[Scene], None], scene: Callable[[], Scene]) -> None:
    while True:
        show(scene())
        await trio.sleep(SHOW_EVERY_S)

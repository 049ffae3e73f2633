"""One rehearsal from start to end: simulator, runtime, turns, damage, result. Shows its progress through a function."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import trio

from loopforge.runtime.client import open_runtime
from loopforge.runtime.config.values import Config
from loopforge.runtime.rehearsal.faults import Faults
from loopforge.runtime.rehearsal.figures import Entry
from loopforge.runtime.rehearsal.play import Incident, Player
from loopforge.runtime.rehearsal.simulator import open_simulators
from loopforge.runtime.rehearsal.stage import KEY, KEY_VARIABLE, Stage, profiles, stage
from loopforge.runtime.rehearsal.workload import KindLoad, schedule

GRACE_S = 15.0
"""For turns still open after the last post: a worker that hangs is noticed after 6 s, and only then are they resent."""
SHOW_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What to rehearse. `loads`: one for each kind that is to be played; `seconds`: how long turns are posted."""

    seconds: float
    seed: int
    loads: tuple[KindLoad, ...]
    faults: Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A moment of a running rehearsal. `elapsed_s`: since `began_at`, when the first turns were due."""

    stage: Stage
    player: Player
    began_at: float
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a rehearsal was and what came of it. `began_at`: on the clock of entries and incidents.

    `providers`: the runtime's last status of each. `late`: routed providers whose workers were not ready in time.
    """

    script: Script
    stage: Stage
    entries: Sequence[Entry]
    incidents: Sequence[Incident]
    providers: Sequence[dict[str, Any]]
    late: tuple[str, ...]
    began_at: float
    interrupted: bool


async def rehearse(config: Config, script: Script, show: Callable[[Progress], None], stop: trio.Event) -> Result:
    """Play the script against the configuration's own routes. Raises SimulatorFailed, TurnError.

    `stop`: when it is set, no further turn is posted and the open ones are cancelled.
    """
    async with _simulated(config, script) as staged, open_runtime(staged.config) as runtime:
        targets = {kind: route.targets[0].provider for kind, route in staged.config.routes.items()}
        player = Player(runtime=runtime, targets=targets)
        playable = [load for load in script.loads if load.kind not in staged.unplayable()]
        late = await player.wait_ready({targets[load.kind] for load in playable})
        began_at = trio.current_time()
        async with trio.open_nursery() as background:
            background.start_soon(player.watch)
            background.start_soon(_show, show, staged, player, began_at)
            background.start_soon(_hurt_half_way, player, script)
            async with trio.open_nursery() as turns:
                await leave_when(stop, _post, player, playable, script, turns)
                await leave_when(stop, player.settle, GRACE_S)
                await player.settle(0)
                turns.cancel_scope.cancel()
            await player.look()
            background.cancel_scope.cancel()
        return Result(
            script=script,
            stage=staged,
            entries=player.ledger.entries,
            incidents=[incident for incident in player.incidents if incident.at >= began_at],
            providers=player.status["providers"],
            late=late,
            began_at=began_at,
            interrupted=stop.is_set(),
        )


@asynccontextmanager
async def _simulated(config: Config, script: Script) -> AsyncIterator[Stage]:
    """The staged configuration, its providers being played. Those that misbehave have a simulator of their own:
    what one of them costs the simulator is not to delay the others' answers.
    """
    wanted = profiles(config, script.faults, script.seconds, script.seed)
    good, bad = (
        {name: profile for name, profile in wanted.items() if (profile["fault"] is None) is well}
        for well in (True, False)
    )
    async with open_simulators(good, bad) as base_urls:
        with _rehearsal_key():
            yield stage(config, base_urls, script.seconds)


@contextmanager
def _rehearsal_key() -> Iterator[None]:
    """Workers take their key from the environment, by the name that the staged configuration gives."""
    os.environ[KEY_VARIABLE] = KEY
    try:
        yield
    finally:
        del os.environ[KEY_VARIABLE]


async def _post(player: Player, loads: Sequence[KindLoad], script: Script, nursery: trio.Nursery) -> None:
    start = trio.current_time()
    await player.post_all(schedule(loads, script.seconds, script.seed), nursery)
    await trio.sleep_until(start + script.seconds)


async def leave_when(stop: trio.Event, work: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Do the work, or leave it when `stop` is set."""
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(leave)
        await work(*arguments)
        nursery.cancel_scope.cancel()


async def _hurt_half_way(player: Player, script: Script) -> None:
    await trio.sleep(script.seconds / 2)
    for provider, names in script.faults.of_worker.items():
        for name in names:
            await player.hurt(provider, name)


async def _show(show: Callable[[Progress], None], staged: Stage, player: Player, began_at: float) -> None:
    while True:
        elapsed_s = trio.current_time() - began_at
        show(Progress(stage=staged, player=player, began_at=began_at, elapsed_s=elapsed_s))
        await trio.sleep(SHOW_EVERY_S)


async def stop_on_interrupt(stop: trio.Event) -> None:
    """Ctrl-C sets `stop`; a second one raises KeyboardInterrupt."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            if stop.is_set():
                raise KeyboardInterrupt
            stop.set()

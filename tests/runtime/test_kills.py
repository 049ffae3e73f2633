"""kill -9 of the service, a worker or a client at each point of a turn's life: what was accepted has its one outcome.

Real processes, the journal on disk, the simulator over loopback. The points are those at which the journal has, or has
not yet, what a turn's next step rests on, and the middle of the answer: mortal_service.py kills there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.turn import Accepted, Done, Event, Restarted, TextDelta, Turn, user
from loopforge.runtime.client import Runtime, connect
from loopforge.runtime.config.values import Config, Route, RuntimeSettings, Target
from loopforge.runtime.errors import TurnCancelled
from loopforge.runtime.journal.operations import Recover, Show, StoredTurn
from loopforge.workers.packing import to_plain
from tests.runtime.journal.sample import do, open_store

PATIENCE_S = 60.0
HERE = Path(__file__).parent
TOKENS = 6
QUICK = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=TOKENS, fault_after_tokens=3)
SLOW = Profile(first_token_s=0, tokens_per_s=40, answer_tokens=40)
ENDLESS = Profile(first_token_s=0, tokens_per_s=40, answer_tokens=100_000)


def provider(simulator: Simulator, name: str) -> ProviderSettings:
    return ProviderSettings(
        name=name, kind="openai_compatible", base_url=simulator.base_url(name), api_key_env="", default_model="m"
    )


def configuration(simulator: Simulator, **ways: tuple[str, ...]) -> Config:
    """`ways`: by task kind, whom its turns go to, as PROVIDER/MODEL."""
    routes = {}
    for kind, targets in ways.items():
        named = (target.partition("/") for target in targets)
        routes[kind] = Route(kind=kind, targets=tuple(Target(provider=name, model=model) for name, _, model in named))
    names = {target.partition("/")[0] for targets in ways.values() for target in targets}
    providers = {name: provider(simulator, name) for name in names}
    return Config(path="test", providers=providers, routes=routes, runtime=RuntimeSettings(max_attempts=6))


@dataclass
class Kept:
    """A service that is started again whenever it dies."""

    home: Path
    config: Config
    deaths: int = 0
    process: trio.Process | None = field(default=None, init=False)

    async def run(self) -> None:
        argv = [
            sys.executable,
            "-P",
            str(HERE / "mortal_service.py"),
            str(self.home),
            json.dumps(to_plain(self.config)),
        ]
        while True:
            async with trio.open_nursery() as nursery:
                self.process = await nursery.start(partial(trio.run_process, argv, check=False))
            assert self.process.returncode == -signal.SIGKILL, "it died of nothing else"
            self.deaths += 1

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()


@asynccontextmanager
async def open_kept(home: Path, config: Config) -> AsyncIterator[tuple[Kept, Runtime]]:
    """A service that is kept, and a client of it that comes back by itself; its workers are ready."""
    kept = Kept(home, config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        while not (home / "s").exists():  # noqa: ASYNC110 - another process makes it
            await trio.sleep(0.01)
        async with connect(home / "s") as runtime:
            await all_ready(runtime)
            yield kept, runtime
        nursery.cancel_scope.cancel()


async def all_ready(runtime: Runtime) -> None:
    while any(desk["state"] != "ready" for desk in (await runtime.status())["providers"]):  # noqa: ASYNC110 - polled
        await trio.sleep(0.01)


async def follow(runtime: Runtime, turn_id: str, kind: str) -> list[Event]:
    async with runtime.stream(Turn(id=turn_id, kind=kind, messages=(user("hello"),))) as events:
        return [event async for event in events]


def assert_told_well(events: list[Event], tokens: int) -> None:
    """One acceptance, one outcome, and what stands at the end is the whole reply."""
    done = events[-1]
    assert isinstance(done, Done)
    assert sum(isinstance(event, Accepted) for event in events) == 1
    standing = ""
    for event in events:
        if isinstance(event, Restarted):
            standing = ""
        elif isinstance(event, TextDelta):
            standing += event.text
    assert standing in (done.reply.text, ""), "what stands is the answer, or all of it comes with the outcome"
    assert len(done.reply.text.split()) == tokens


def stored(home: Path) -> dict[str, StoredTurn]:
    """What the journal of a service that is gone holds, by id. Nothing is left for the next one to do."""
    with open_store(home / "journal.db") as store:
        assert do(store, Recover())[0].turns == ()
        ids = [path.name for path in (home / "killed").iterdir()]
        found = [do(store, Show(id=turn_id))[0].turn for turn_id in ids]
    return {turn.id: turn for turn in found if turn is not None}


# -- the service -----------------------------------------------------------------------------------------------------

SERVICE_POINTS: dict[str, tuple[set[int], int]] = {
    "Accept:before": ({1}, 1),
    "Accept:after": ({1, 2}, 1),  # its attempt is on disk by then, too, or it is not
    "Running:before": ({1}, 1),
    "Running:after": ({2}, 1),  # it may have been sent, for all that the next service can know
    "Finish:before": ({2}, 2),
    "Finish:after": ({1}, 1),
}
"""After which death: how many attempts the turn may have in all, and how often it was asked of its provider."""


async def test_a_service_killed_at_any_point_of_a_turn_loses_nothing_and_buys_nothing_twice_unsaid(
    tmp_path: Path,
) -> None:
    found: dict[str, int] = {}
    with trio.fail_after(PATIENCE_S):
        async with (
            open_simulator({"cloud": QUICK}) as simulator,
            open_kept(tmp_path, configuration(simulator, quick=("cloud/m",))) as (kept, runtime),
        ):
            for deaths, point in enumerate(SERVICE_POINTS, 1):
                before = simulator.stats.requests
                events = await follow(runtime, f"service:cloud:{point}", "quick")
                assert kept.deaths == deaths, f"{point}: the service was killed"
                assert_told_well(events, TOKENS)
                done = events[-1]
                assert isinstance(done, Done)
                attempts, requests = SERVICE_POINTS[point]
                assert done.reply.attempts in attempts, point
                assert simulator.stats.requests - before == requests, point
                found[point] = done.reply.attempts
    turns = stored(tmp_path)
    assert {turn_id.partition("cloud:")[2]: turn.attempts for turn_id, turn in turns.items()} == found
    for turn in turns.values():
        assert turn.state == "done"
        assert [(lost.error, lost.ambiguous) for lost in turn.lost] == [("WorkerLost", True)] * (turn.attempts - 1)


async def test_a_service_killed_in_the_middle_of_an_answer_or_between_two_providers_goes_on(tmp_path: Path) -> None:
    cut = ("faulty/fault-cut", "cloud/m")
    with trio.fail_after(PATIENCE_S):
        async with open_simulator({"slow": SLOW, "faulty": QUICK, "cloud": QUICK}) as simulator:
            config = configuration(simulator, slow=("slow/m",), cut=cut)
            async with open_kept(tmp_path, config) as (kept, runtime):
                async with runtime.stream(Turn(id="story", kind="slow", messages=(user("hello"),))) as story:
                    events: list[Event] = []
                    async for event in story:
                        if isinstance(event, TextDelta) and not any(isinstance(seen, TextDelta) for seen in events):
                            kept.kill()
                        events.append(event)
                assert_told_well(events, SLOW.answer_tokens)
                assert sum(isinstance(event, Restarted) for event in events) == 1
                assert simulator.stats.of("slow").requests == 2
                for when in ("before", "after"):
                    await all_ready(runtime)
                    events = await follow(runtime, f"service:faulty:AttemptEnded:{when}", "cut")
                    assert_told_well(events, TOKENS)
                    done = events[-1]
                    assert isinstance(done, Done)
                    assert done.reply.provider == "cloud"
                assert kept.deaths == 3
                asked = simulator.stats.of("faulty").requests + simulator.stats.of("cloud").requests
    turns = stored(tmp_path)
    noted = sum(turn.attempts for turn in turns.values())
    maybe_never_sent = sum(lost.ambiguous for turn in turns.values() for lost in turn.lost)
    assert noted - maybe_never_sent <= asked <= noted, "each request is an attempt in the books"
    assert all(len(turn.lost) == turn.attempts - 1 for turn in turns.values())


# -- workers and clients ---------------------------------------------------------------------------------------------

EARLY = {(1, 1), (2, 1)}  # it was posted to the dead worker before the death was seen, or it was not
WORKER_POINTS: dict[str, set[tuple[int, int]]] = {
    "Accept:before": EARLY,
    "Accept:after": EARLY,
    "Running:before": EARLY,
    "Running:after": {(2, 1)},
    "stream": {(2, 2)},
    "Finish:before": {(1, 1)},  # the answer is there: it is not bought again
    "Finish:after": {(1, 1)},
}
"""After which death: how many attempts the turn had, and how often it was asked of its provider."""


async def test_a_worker_killed_at_any_point_of_a_turn_costs_at_most_that_attempt(tmp_path: Path) -> None:
    names = {point: f"cloud-{number}" for number, point in enumerate(WORKER_POINTS)}
    profiles = dict.fromkeys(names.values(), QUICK) | {names["stream"]: SLOW}
    seen: dict[str, list[Event]] = {}

    async def one(runtime: Runtime, point: str) -> None:
        seen[point] = await follow(runtime, f"worker:{names[point]}:{point}", names[point])

    async def in_the_middle(runtime: Runtime) -> None:
        """Killed as the first text comes."""
        pid = next(d["pid"] for d in (await runtime.status())["providers"] if d["name"] == names["stream"])
        seen["stream"] = []
        async with runtime.stream(Turn(kind=names["stream"], messages=(user("hello"),))) as events:
            async for event in events:
                seen["stream"].append(event)
                if isinstance(event, TextDelta) and pid:
                    os.kill(pid, signal.SIGKILL)
                    pid = 0

    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator:
            config = configuration(simulator, **{name: (f"{name}/m",) for name in names.values()})
            async with open_kept(tmp_path, config) as (kept, runtime):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(in_the_middle, runtime)
                    for point in WORKER_POINTS.keys() - {"stream"}:
                        nursery.start_soon(one, runtime, point)
                await all_ready(runtime)
                desks = {desk["name"]: desk for desk in (await runtime.status())["providers"]}
                assert kept.deaths == 0
    for point, events in seen.items():
        assert_told_well(events, SLOW.answer_tokens if point == "stream" else TOKENS)
        done = events[-1]
        assert isinstance(done, Done)
        assert desks[names[point]]["deaths"] == 1, f"{point}: its worker was killed"
        assert desks[names[point]]["running"] == 0
        attempts, requests = done.reply.attempts, simulator.stats.of(names[point]).requests
        assert (attempts, requests) in WORKER_POINTS[point], point
    assert all(turn.state == "done" for turn in stored(tmp_path).values())


async def test_a_client_killed_at_any_point_loses_no_detached_turn_and_leaves_no_other_one_running(
    tmp_path: Path,
) -> None:
    points = ("Accept:before", "Accept:after", "Running:before", "Running:after", "stream", "Finish:before")
    asked = [{"kind": "quick", "detached": True, "point": point} for point in points]
    asked += [{"kind": "endless", "detached": False, "point": point} for point in points[:-1]]
    asked += [{"kind": "quick", "detached": False, "point": "Finish:after"}]
    with trio.fail_after(PATIENCE_S):
        async with open_simulator({"cloud": QUICK, "slow": ENDLESS}) as simulator:
            config = configuration(simulator, quick=("cloud/m",), endless=("slow/m",))
            async with open_kept(tmp_path, config) as (kept, runtime):
                argv = [sys.executable, "-P", str(HERE / "doomed_clients.py"), str(tmp_path / "s")]
                lines = "".join(json.dumps(one) + "\n" for one in asked).encode()
                died = await trio.run_process(argv, stdin=lines, capture_stdout=True, check=False)
                assert died.returncode == 0, "each client was killed at its point"
                outcomes = {}
                for line in died.stdout.splitlines():
                    told = json.loads(line)
                    outcomes[told["id"]] = await outcome_of(runtime, told["id"])
                    expected = "cancelled" if told["kind"] == "endless" else "done"
                    assert outcomes[told["id"]] == expected, told
                await simulator.stats.wait(lambda stats: not stats.active)
                assert (await runtime.status())["turns"]["running"] == 0
                assert kept.deaths == 0
    assert simulator.stats.of("cloud").requests == len(points) + 1
    assert {turn.id: turn.state for turn in stored(tmp_path).values()}.items() <= outcomes.items()


async def outcome_of(runtime: Runtime, turn_id: str) -> str:
    try:
        await runtime.wait(turn_id)
    except TurnCancelled:
        return "cancelled"
    return "done"

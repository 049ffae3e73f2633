"""Faults at every tick, and programs of operations drawn by hypothesis: what must hold whatever happens.

Each accepted turn has exactly one outcome, and it is its last event; deltas come in order and never twice within an
attempt; no more turns run than there are slots; at the end nothing is left of any turn, slot, byte, watcher or task.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from loopforge.drivers.errors import RateLimited, TurnError, WorkerLost
from loopforge.drivers.turn import Accepted, Cancelled, Done, Event, Failed, Gap, Restarted, Started, TextDelta
from loopforge.runtime import client as client_module
from loopforge.runtime.client import Runtime
from loopforge.runtime.errors import UnknownTurn
from loopforge.runtime.listener import serve_client
from loopforge.runtime.records import Phase
from loopforge.runtime.stream import EventStream
from tests.fakes.worker import Break, Cling, Die, FakeWorkers, Finish, Hang, Say, Script, Wait
from tests.runtime.core import Core, config, disconnect, open_core, provider, turn

SLOTS = 2
WORDS = tuple("abcdefgh")
PATIENCE_S = 400  # virtual: beyond the deadline of every turn here and beyond the pause of a provider that is down
OUTCOMES = (Done, Failed, Cancelled)


@dataclass
class Ledger:
    """What the followers of turns have seen: how often a turn was accepted, and how often an accepted one ended."""

    accepted: Counter[str] = field(default_factory=Counter)

    async def follow(self, stream: EventStream, *, until: Callable[[Event], bool] = lambda _: False) -> Event | None:
        """Read the stream and check it as it comes; ends early once `until` holds. The last event read."""
        said: list[str] = []
        attempt = 0
        last: Event | None = None
        async for event in stream:
            assert not isinstance(last, OUTCOMES), "an event came behind the outcome"
            last = event
            match event:
                case Accepted():
                    assert not attempt
                    self.accepted[stream.id] += 1
                case Started():
                    assert event.attempt > attempt
                    attempt, said = event.attempt, []
                case Restarted():
                    said = ["(withdrawn)"]  # until `started` says that the next attempt runs, nothing may come
                case Gap():
                    said = []
                    attempt = 0
                case TextDelta(text):
                    said.append(text)
                    assert tuple(said) == WORDS[: len(said)], "deltas out of order, or twice"
            if until(event):
                return last
        assert isinstance(last, OUTCOMES), f"ended with {last}"
        if isinstance(last, Done) and attempt:
            assert last.reply.text == "".join(said)
        return last


def answering(pause_s: float = 0.0) -> Script:
    steps = [step for word in WORDS for step in (Say(word), Wait(pause_s))]
    return (*steps, Finish())


async def check_nothing_left(core: Core, workers: FakeWorkers) -> None:
    """Once all turns have ended: in a moment the workers have let go, too."""
    dispatcher = core.supervisor.dispatcher
    with trio.fail_after(PATIENCE_S):
        while dispatcher.ledger.live or any(desk.running for desk in dispatcher.desks.values()):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(1)
    assert dispatcher.ledger._by_id == {}
    assert (dispatcher.ledger.budget.held_bytes, dispatcher.ledger.budget._sizes) == (0, {})
    assert dispatcher.ledger.kept.by_age == {}
    assert dispatcher.ledger.kept._running == {}
    for desk in dispatcher.desks.values():
        assert (desk.running, len(desk.queue), desk.queue.free_slots) == ({}, 0, SLOTS)
        queue = desk.queue.snapshot(trio.current_time())
        assert (queue.queued_bytes, queue.running, queue.places) == (0, {}, 0)
        assert workers.most_running[desk.name] <= SLOTS


@asynccontextmanager
async def a_core(workers: FakeWorkers, **runtime: Any) -> AsyncIterator[Core]:
    setup = config(
        provider("local", max_concurrency=SLOTS), provider("cloud", max_concurrency=SLOTS, reserve=0), **runtime
    )
    async with open_core(setup, workers) as core:
        yield core


# -- one fault at every tick -----------------------------------------------------------------------------------------


async def _kill(core: Core, _: Runtime) -> None:
    core.workers.alive["local"].kill()


async def _cancel(core: Core, runtime: Runtime) -> None:
    del runtime
    try:
        await core.runtime.cancel("t1")
    except UnknownTurn:
        return  # not posted yet


async def _leave(core: Core, runtime: Runtime) -> None:
    del core
    await disconnect(runtime)


async def _kill_and_cancel(core: Core, runtime: Runtime) -> None:
    await _kill(core, runtime)
    await _cancel(core, runtime)


async def _cancel_and_kill(core: Core, runtime: Runtime) -> None:
    await _cancel(core, runtime)
    await _kill(core, runtime)


async def _abandon(core: Core, runtime: Runtime) -> None:
    del runtime
    core.supervisor.dispatcher.abandon("the service stops")


Fault: TypeAlias = Callable[[Core, Runtime], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    "kill": _kill,
    "cancel": _cancel,
    "leave": _leave,
    "kill, then cancel": _kill_and_cancel,
    "cancel, then kill": _cancel_and_kill,
    "abandon": _abandon,
}


HELD_S = 30
WHOLE: dict[str, Script] = {
    "at once": answering(),
    "held": (Say("a"), Say("b"), Wait(HELD_S), *answering()[4:]),
    "silent": (Wait(HELD_S), *answering()),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("script", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("detached", [False, True], ids=["attached", "detached"])
def test_a_fault_after_any_tick_leaves_one_outcome_and_nothing_else(
    fault: Fault, script: Script, detached: bool
) -> None:
    for ticks in range(32):
        trio.run(_one_fault, fault, script, ticks, detached, clock=MockClock(autojump_threshold=0))


async def _one_fault(fault: Fault, script: Script, ticks: int, detached: bool) -> None:
    workers = FakeWorkers(scripts={"t1": [script]})
    ledger = Ledger()
    async with a_core(workers) as core, core.another_client() as other:
        start = trio.current_time()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stream, ledger, other, turn("t1", detached=detached, deadline_s=100))
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                await fault(core, other)
        while fault is _leave and core.supervisor.dispatcher.clients > 1:
            await core.runtime.ping()  # else the turn goes on for us, who attach to it
        known = bool(core.supervisor.dispatcher.ledger._by_id or ledger.accepted)
        async with core.runtime.attach("t1") as stream:
            outcome = await ledger.follow(stream)
        took_s = trio.current_time() - start
        if isinstance(outcome, Failed) and isinstance(outcome.error, UnknownTurn):
            assert not known  # it never came as far as the service
        else:
            _check_outcome(fault, outcome, len(workers.attempts["t1"]), detached=detached, took_s=took_s)
        await check_nothing_left(core, workers)
        assert trio.current_time() - start < 2 * HELD_S + 3, "something waited for its deadline"
        if fault in {_cancel, _leave, _abandon}:
            assert core.supervisor.dispatcher.desks["local"].deaths == 0


def _check_outcome(fault: Fault, outcome: Event | None, attempts: int, *, detached: bool, took_s: float) -> None:
    """Which outcome it may be. The fault may have come behind a quick turn's own."""
    if isinstance(outcome, Cancelled):
        assert fault not in {_kill, _abandon}
        assert took_s < 3, "it was cancelled, and not ended at once"
        assert not (fault is _leave and detached)
    if isinstance(outcome, Failed):
        assert isinstance(outcome.error, WorkerLost) if fault is _kill else fault is _abandon
    if fault in {_cancel, _cancel_and_kill} and isinstance(outcome, Done):
        assert attempts == 1, "it went on after it was cancelled"
    if fault is _leave and isinstance(outcome, Done) and not detached:
        assert took_s < 3, "it went on without its client"


async def _stream(ledger: Ledger, runtime: Runtime, wanted: Any) -> None:
    try:
        async with runtime.stream(wanted) as stream:
            await ledger.follow(stream)
    except TurnError:
        return  # its connection is gone, or it was not accepted


# -- programs --------------------------------------------------------------------------------------------------------

SCRIPTS: dict[str, list[Script]] = {
    "at once": [answering()],
    "slow": [answering(0.5)],
    "dies once": [(Die(),), answering()],
    "dies streaming": [(Say("a"), Say("b"), Die()), answering()],
    "dies always": [(Die(),)],
    "hangs once": [(Say("a"), Hang()), answering()],
    "clings": [(Say("a"), Cling(30), Finish())],
    "clings for ever": [(Cling(10_000),)],
    "breaks": [(Say("a"), Break(RateLimited("local", retry_after_s=1)))],
    "late": [(Wait(1000), Finish())],
}
KINDS = st.sampled_from(["planning", "coding", "summary"])
TURNS = st.integers(0, 5)
OPERATIONS = st.one_of(
    st.tuples(st.just("post"), TURNS, KINDS, st.booleans()),
    st.tuples(st.just("ask"), TURNS, KINDS, st.booleans()),
    st.tuples(st.just("stream"), TURNS, KINDS, st.booleans()),
    st.tuples(st.just("stream and leave"), TURNS, KINDS, st.booleans()),
    st.tuples(st.just("attach"), TURNS, st.integers(0, 2), st.integers(0, 4)),
    st.tuples(st.just("cancel"), TURNS),
    st.tuples(st.just("kill"), st.sampled_from(["local", "cloud"])),
    st.tuples(st.just("client gone")),
    st.tuples(st.just("drain")),
    st.tuples(st.just("ticks"), st.integers(1, 12)),
    st.tuples(st.just("sleep"), st.sampled_from([0.001, 0.6, 2.5, 11.0, 70.0])),
)


@given(
    program=st.lists(OPERATIONS, min_size=1, max_size=14),
    scripts=st.lists(st.sampled_from(sorted(SCRIPTS)), min_size=6, max_size=6),
)
@settings(max_examples=100)
def test_any_program_of_operations_keeps_the_promises(program: list[tuple[Any, ...]], scripts: list[str]) -> None:
    trio.run(_play, program, scripts, clock=MockClock(autojump_threshold=0))


@dataclass
class _Player:
    """Runs a program's operations against one core. `clients[0]` comes and goes; the core's own stays."""

    core: Core
    ledger: Ledger
    nursery: trio.Nursery
    leaving: Runtime
    gone: bool = False
    accepted: set[str] = field(default_factory=set)

    async def play(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case ("post" | "ask" | "stream" | "stream and leave" as how, int(number), str(kind), bool(mine)):
                runtime = self.leaving if mine and not self.gone else self.core.runtime
                wanted = turn(f"t{number}", kind=kind, deadline_s=60, detached=number % 3 == 0)
                self.nursery.start_soon(self.use, how, runtime, wanted)
            case ("attach", int(number), int(attempt), int(seq)):
                self.nursery.start_soon(self.attach, f"t{number}", (attempt, seq))
            case ("cancel", int(number)):
                self.nursery.start_soon(self.cancel, f"t{number}")
            case ("kill", str(name)):
                if name in self.core.workers.alive:
                    self.core.workers.alive[name].kill()
            case ("client gone",):
                self.gone = True
                await disconnect(self.leaving)
            case ("drain",):
                self.nursery.start_soon(self.core.supervisor.drain)
            case ("ticks", int(ticks)):
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
            case ("sleep", float(seconds)):
                await trio.sleep(seconds)

    async def use(self, how: str, runtime: Runtime, wanted: Any) -> None:
        try:
            match how:
                case "post":
                    await runtime.post(wanted)
                case "ask":
                    assert (await runtime.ask(wanted)).text in ("".join(WORDS), "", "a")
                case _:
                    async with runtime.stream(wanted) as stream:
                        leave = how == "stream and leave"
                        await self.ledger.follow(stream, until=lambda event: leave and isinstance(event, TextDelta))
        except TurnError:
            return

    async def attach(self, turn_id: str, after: tuple[int, int]) -> None:
        try:
            async with self.core.runtime.attach(turn_id, after=after) as stream:
                events = [event async for event in stream]
        except TurnError:
            return
        assert isinstance(events[-1], OUTCOMES)
        assert not any(isinstance(event, OUTCOMES) for event in events[:-1])

    async def cancel(self, turn_id: str) -> None:
        try:
            await self.core.runtime.cancel(turn_id)
        except UnknownTurn:
            return


def _check_books(core: Core) -> None:
    """Bytes are held for the turns that wait and for no others; what runs holds its slot."""
    dispatcher = core.supervisor.dispatcher
    waiting = [record for record in dispatcher.ledger.live.values() if record.phase is Phase.WAITING]
    assert dispatcher.ledger.budget.held_bytes == sum(record.size for record in waiting)
    assert sum(len(desk.queue) for desk in dispatcher.desks.values()) == len(waiting)
    for desk in dispatcher.desks.values():
        assert len(desk.running) == SLOTS - desk.queue.free_slots


async def _play(program: list[tuple[Any, ...]], chosen: list[str]) -> None:
    workers = FakeWorkers(scripts={f"t{number}": SCRIPTS[name] for number, name in enumerate(chosen)})
    ledger = Ledger()
    async with a_core(workers, drain_s=30) as core:
        ours, theirs = socket.socketpair()
        core.nursery.start_soon(serve_client, theirs, core.supervisor.dispatcher)
        async with client_module._over(ours) as leaving:
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    player = _Player(core, ledger, nursery, leaving)
                    for operation in program:
                        await player.play(operation)
                        _check_books(core)
            await check_nothing_left(core, workers)
            assert core.runtime._open.keys() <= {number for number, _ in core.runtime._posted.values()}
    assert core.supervisor.dispatcher.clients == 0

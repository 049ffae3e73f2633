"""Posts turns to a runtime as its client would, and keeps the books. Knows no simulator and no screen.

Every turn is entered before it is posted. At the end the turns that are still open are given time, then cancelled by
their ids; one that has no outcome even then is lost. What happens to workers is read from the runtime's own status.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import (
    Cancelled,
    Done,
    Event,
    Failed,
    RefusalDelta,
    Restarted,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolCallStart,
    Turn,
    WholePart,
)
from loopforge.runtime.client import Runtime
from loopforge.runtime.errors import ConnectionLost, SlowConsumer
from loopforge.runtime.rehearsal.figures import Entry, Ledger
from loopforge.runtime.rehearsal.layout import count
from loopforge.runtime.rehearsal.workload import Arrival, build_turn

READY_S = 15.0
"""A worker is ready in 0.15 s; many at once on a busy machine take seconds."""
CANCEL_S = 5.0
"""A cancelled turn ends within milliseconds; the supervisor itself ends an overdue one after 2 s."""
LOOK_EVERY_S = 0.1

_SIGNALS = {"kill-worker": signal.SIGKILL, "stop-worker": signal.SIGSTOP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that happened to a provider's worker. `at`: seconds on the trio clock."""

    at: float
    provider: str
    what: str


def note(entry: Entry, event: Event, now: float) -> None:
    """Enter what an event says about its turn."""
    match event:
        case Started(provider, _, attempt):
            entry.provider, entry.attempts = provider, attempt
        case Restarted():
            entry.restarts += 1
        case Done(reply):
            entry.attempts, entry.queued_s = reply.attempts, reply.timings.queued_s
            entry.end("done", now)
        case Failed(error):
            entry.end("failed", now, error=type(error).__name__, message=str(error))
        case Cancelled():
            entry.end("cancelled", now)
        case TextDelta() | ThinkingDelta() | RefusalDelta() | ToolCallStart() | WholePart():
            if entry.first_token_at is None:
                entry.first_token_at = now


@dataclass(slots=True, kw_only=True)
class Player:
    """A client that posts many turns over one runtime. `targets`: kind -> the provider its route begins with.

    `status` is the runtime's latest, as `watch` saw it; `incidents` what became of workers meanwhile.
    """

    runtime: Runtime
    targets: Mapping[str, str]
    ledger: Ledger = field(default_factory=Ledger)
    incidents: list[Incident] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = trio.current_time
    send_signal: Callable[[int, int], None] = os.kill
    _open: dict[str, Entry] = field(default_factory=dict)
    _idle: trio.Event = field(default_factory=trio.Event)

    # -- turns -------------------------------------------------------------------------------------------------------

    async def post_all(self, arrivals: Iterable[Arrival], nursery: trio.Nursery, *, measured: bool = True) -> None:
        """Post each turn at its time, counted from now, and run it in `nursery`. Returns after the last post."""
        start = self.clock()
        for arrival in arrivals:
            await trio.sleep_until(start + arrival.at_s)
            self.post(arrival, nursery, measured=measured)

    def post(self, arrival: Arrival, nursery: trio.Nursery, *, measured: bool = True) -> None:
        """Enter a turn and start it."""
        number = len(self.ledger.entries)
        turn = replace(build_turn(arrival), id=f"rehearsal-{number}-{arrival.kind}")
        entry = self.ledger.post(arrival.kind, self.targets[arrival.kind], self.clock(), measured=measured)
        self._open[turn.id] = entry
        nursery.start_soon(self._follow, turn, entry)

    async def _follow(self, turn: Turn, entry: Entry) -> None:
        try:
            async with self.runtime.stream(turn) as events:
                async for event in events:
                    note(entry, event, self.clock())
        except (ConnectionLost, SlowConsumer):
            pass  # nobody knows what becomes of it now: without an outcome it is counted as lost
        except TurnError as error:  # refused before it left this client
            entry.end("failed", self.clock(), error=type(error).__name__, message=str(error))
        finally:
            del self._open[turn.id]
            if not self._open:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no turn is open."""
        while self._open:
            self._idle = trio.Event()
            await self._idle.wait()

    async def settle(self, grace_s: float) -> None:
        """Give the open turns `grace_s`, then cancel them and wait for that to arrive."""
        with trio.move_on_after(grace_s):
            await self.wait_idle()
        with trio.move_on_after(CANCEL_S):
            for turn_id in list(self._open):
                with contextlib.suppress(TurnError):  # it has just ended, or the connection has
                    await self.runtime.cancel(turn_id, "the rehearsal is over")
            await self.wait_idle()

    # -- workers -----------------------------------------------------------------------------------------------------

    def provider(self, name: str) -> dict[str, Any]:
        """The latest status of a provider; empty before the first look."""
        listed: list[dict[str, Any]] = self.status.get("providers", [])
        return next((provider for provider in listed if provider["name"] == name), {})

    async def look(self) -> None:
        """Read the runtime's status, and note which workers died or came back since the last look."""
        before = {provider["name"]: provider for provider in self.status.get("providers", [])}
        self.status = await self.runtime.status()
        for provider in self.status["providers"]:
            if known := before.get(provider["name"]):
                self.incidents += incidents_between(known, provider, self.clock())

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_EVERY_S)

    async def wait_ready(self, providers: Iterable[str]) -> tuple[str, ...]:
        """Wait until these providers' workers are ready; returns those that are not within READY_S."""
        wanted = tuple(providers)
        with trio.move_on_after(READY_S):
            while True:
                await self.look()
                if all(self.provider(name).get("state") == "ready" for name in wanted):
                    return ()
                await trio.sleep(LOOK_EVERY_S / 5)
        return tuple(name for name in wanted if self.provider(name).get("state") != "ready")

    async def hurt(self, provider: str, fault: str) -> None:
        """Send the provider's worker process the signal that the fault is."""
        number = _SIGNALS[fault]
        await self.look()  # a fresh pid: the worker may have been replaced since the last look
        pid = self.provider(provider).get("pid")
        if pid is None:
            self._say(provider, f"no worker to send {number.name} to")
            return
        running = self.provider(provider).get("running", 0)
        try:
            self.send_signal(pid, number)
        except ProcessLookupError:
            self._say(provider, f"worker {pid} was gone before {number.name}")
        else:
            self._say(provider, f"{number.name} to worker {pid}, {count(running, 'turn')} in flight")

    def _say(self, provider: str, what: str) -> None:
        self.incidents.append(Incident(at=self.clock(), provider=provider, what=what))


def incidents_between(before: Mapping[str, Any], after: Mapping[str, Any], now: float) -> list[Incident]:
    """What happened to one provider between two looks at its status, in the order in which it must have happened."""
    found = []
    if after["deaths"] > before["deaths"]:
        found.append(f"the worker died: {after['last_death']}")
    if after["state"] == "down" and before["state"] != "down":
        found.append(f"down: {after['down_reason']}")
    if after["state"] == "ready" and (before["state"], before["pid"]) != ("ready", after["pid"]):
        found.append(f"worker {after['pid']} is ready")
    return [Incident(at=now, provider=after["name"], what=what) for what in found]

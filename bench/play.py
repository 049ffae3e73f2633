"""Plays a workload: posts its arrivals in time and counts what comes back, through the service or in one process.

`Player.measure` times the turns of one load, `Player.post` keeps others in flight until `stop`. What stands between
the turn and its provider is a `Way`: the whole runtime, or driver and transport called right here.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from bench.workload import Arrival, Workload, build_turn
from loopforge.drivers.auth import open_auth
from loopforge.drivers.errors import TurnError
from loopforge.drivers.registry import ProviderSettings, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.turn import Delta, Failed, TextDelta, Turn
from loopforge.drivers.wire import Auth, Driver, Transport
from loopforge.runtime.client import Runtime
from loopforge.runtime.errors import ConnectionLost, SlowConsumer

AGAIN_AFTER_S = 0.1
"""Between an end and the next post of a turn that is to stay in flight: clients wait a little, too."""


class Way(Protocol):
    """What becomes of a turn. Both raise TurnError when it fails."""

    async def ask(self, turn: Turn) -> None:
        """Until its whole reply is here."""

    async def follow(self, turn: Turn, on_text: Callable[[], None], /) -> None:
        """The same, with its text as it comes."""


class ThroughService:
    """Client, service, worker, provider."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def ask(self, turn: Turn) -> None:
        await self._runtime.ask(turn)

    async def follow(self, turn: Turn, on_text: Callable[[], None]) -> None:
        async with self._runtime.stream(turn) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    on_text()
                elif isinstance(event, Failed):
                    raise event.error


@dataclass(frozen=True)
class _Equipment:
    driver: Driver
    auth: Auth
    transport: Transport


class InThisProcess:
    """The workers' drivers and transports on this loop: planning and all else in one process."""

    def __init__(self, equipment: Mapping[str, _Equipment], routes: Mapping[str, str]) -> None:
        self._equipment = equipment
        self._routes = routes

    async def ask(self, turn: Turn) -> None:
        await self.follow(turn, _nothing)

    async def follow(self, turn: Turn, on_text: Callable[[], None]) -> None:
        async def emit(delta: Delta) -> None:
            if isinstance(delta, TextDelta):
                on_text()

        provider = turn.provider or self._routes[turn.kind]
        use = self._equipment[provider]
        turn = replace(turn, provider=provider, model=turn.model or "m")
        await run_turn(use.driver, use.auth, turn, use.transport, emit, Watchdogs(600, 300))


def _nothing() -> None:
    return


@asynccontextmanager
async def in_this_process(workload: Workload, urls: Mapping[str, str]) -> AsyncIterator[InThisProcess]:
    """`urls`: the base_url of each provider of the workload."""
    from loopforge.drivers.transport import open_transport

    async with AsyncExitStack() as stack:
        equipment = {}
        for name, provider in workload.providers.items():
            settings = ProviderSettings(
                name=name,
                kind="openai_compatible",
                base_url=urls[name],
                default_model="m",
                vendor="generic",
                max_concurrency=int(provider.settings.get("max_concurrency", 64)),
            )
            transport = await stack.enter_async_context(open_transport(settings))
            equipment[name] = _Equipment(open_driver(settings), open_auth(settings, ""), transport)
        yield InThisProcess(equipment, workload.routes)


@dataclass(kw_only=True)
class Player:
    """Posts turns. `texts`: deltas of text that have come; `ends`: how the turns of `post` ended, by class name."""

    workload: Workload
    way: Way
    nursery: trio.Nursery
    texts: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    _flights: list[_Flight] = field(default_factory=list)

    async def measure(self, load: str, seconds: float, *, seed: int) -> list[float]:
        """Milliseconds of each turn from post to whole reply, in order of arrival. Raises what one of them raises.

        Open loop: a turn is posted at its time, whether or not those before it have ended.
        """
        arrivals = self.workload.arrivals([load], seconds, seed=seed)
        times = [math.nan] * len(arrivals)

        async def time_one(place: int) -> None:
            turn = build_turn(arrivals[place])
            before = time.perf_counter()
            await self.way.ask(turn)
            times[place] = (time.perf_counter() - before) * 1e3

        async with trio.open_nursery() as nursery:
            await _in_time(arrivals, lambda place: nursery.start_soon(time_one, place))
        return times

    def post(self, loads: Sequence[str], seconds: float, *, seed: int) -> None:
        """Start to post these loads, for so long. Their turns end by themselves, or by `stop`."""
        flight = _Flight()
        self._flights.append(flight)
        self.nursery.start_soon(self._fly, flight, self.workload.arrivals(loads, seconds, seed=seed))

    async def stop(self) -> None:
        """Cancel what is being posted or in flight, and see it end."""
        flights, self._flights = self._flights, []
        for flight in flights:
            flight.scope.cancel()
        for flight in flights:
            await flight.ended.wait()

    async def _fly(self, flight: _Flight, arrivals: Sequence[Arrival]) -> None:
        with flight.scope:
            async with trio.open_nursery() as nursery:
                await _in_time(arrivals, lambda place: nursery.start_soon(self._keep, arrivals[place]))
        flight.ended.set()

    async def _keep(self, arrival: Arrival) -> None:
        """One turn, or one after the other in its place."""
        turn = build_turn(arrival)
        await self._play(turn)
        while arrival.load.again:
            await trio.sleep(AGAIN_AFTER_S)
            await self._play(turn)

    async def _play(self, turn: Turn) -> None:
        try:
            if turn.stream:
                await self.way.follow(turn, self._count)
            else:
                await self.way.ask(turn)
        except (ConnectionLost, SlowConsumer):
            raise  # this client is out of the game, and what it measures means nothing
        except TurnError as error:
            self.ends[type(error).__name__] += 1
        else:
            self.ends["done"] += 1

    def _count(self) -> None:
        self.texts += 1


@dataclass
class _Flight:
    """What one `post` started."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


async def _in_time(arrivals: Sequence[Arrival], start: Callable[[int], None]) -> None:
    """Call `start` with the place of each arrival when it is due."""
    began = trio.current_time()
    for place, arrival in enumerate(arrivals):
        if began + arrival.at_s > trio.current_time():
            await trio.sleep_until(began + arrival.at_s)
        start(place)
    await trio.lowlevel.checkpoint()

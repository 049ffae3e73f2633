"""Opens the whole runtime over fake workers: real dispatcher, supervisor, listener and client, no process."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Turn, user
from loopforge.runtime import client as client_module
from loopforge.runtime.client import Runtime
from loopforge.runtime.config.values import Config, Route, RuntimeSettings, Target
from loopforge.runtime.journal.operations import Journal
from loopforge.runtime.listener import serve_client
from loopforge.runtime.supervisor import Supervisor
from tests.fakes.worker import FakeWorkers


def provider(name: str, **settings: Any) -> ProviderSettings:
    defaults: dict[str, Any] = {
        "base_url": "http://127.0.0.1:1/v1",
        "default_model": f"{name}-model",
        "max_concurrency": 4,
    }
    return ProviderSettings(name=name, kind="openai_compatible", **(defaults | settings))


def config(*providers: ProviderSettings, **runtime: Any) -> Config:
    """planning goes to the first provider, coding to the second (or the first), summary to the first."""
    first, second = providers[0], providers[min(1, len(providers) - 1)]
    routes = {
        "planning": Route(kind="planning", targets=(_target(first),), lane="interactive"),
        "coding": Route(kind="coding", targets=(_target(second),), lane="normal"),
        "summary": Route(kind="summary", targets=(_target(first),), lane="background"),
    }
    settings = RuntimeSettings(**runtime)
    return Config(path="test", providers={item.name: item for item in providers}, routes=routes, runtime=settings)


def with_fallback(setup: Config, kind: str, fallback: ProviderSettings, *, spill: bool) -> Config:
    """The same configuration with a second target behind the kind's first."""
    route = setup.routes[kind]
    changed = replace(route, targets=(*route.targets, _target(fallback)), spill=spill)
    return replace(setup, routes={**setup.routes, kind: changed})


def _target(settings: ProviderSettings) -> Target:
    return Target(provider=settings.name, model=settings.default_model)


def turn(turn_id: str = "", kind: str = "planning", **members: Any) -> Turn:
    return Turn(kind=kind, id=turn_id, messages=(user("hello"),), **members)


@dataclass
class Core:
    supervisor: Supervisor
    workers: FakeWorkers
    nursery: trio.Nursery
    runtimes: list[Runtime] = field(default_factory=list)

    @property
    def runtime(self) -> Runtime:
        return self.runtimes[0]

    @asynccontextmanager
    async def another_client(self) -> AsyncIterator[Runtime]:
        ours, theirs = socket.socketpair()
        self.nursery.start_soon(serve_client, theirs, self.supervisor.dispatcher)
        async with client_module._over(ours) as runtime:
            yield runtime


@asynccontextmanager
async def open_core(
    configuration: Config | None = None,
    workers: FakeWorkers | None = None,
    *,
    journal: Journal | None = None,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Core]:
    """`journal`: what it holds is taken up before the block begins. `wall`: unix seconds."""
    fakes = workers or FakeWorkers()
    chosen = configuration or config(provider("local"), provider("cloud"))
    supervisor = Supervisor(config=chosen, journal=journal, launch=fakes.open, jitter=lambda: 0.0)
    supervisor.dispatcher.ledger.wall = wall
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        core = Core(supervisor, fakes, nursery)
        async with core.another_client() as runtime:
            core.runtimes.append(runtime)
            yield core
        nursery.cancel_scope.cancel()


async def disconnect(runtime: Runtime) -> None:
    """The client's connection breaks, as when its process is killed."""
    if runtime._channel is not None:
        await runtime._channel.aclose()

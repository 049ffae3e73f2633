"""Workers of which the system says that they are well and which are not: blocked, spinning, grown. As processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.turn import Restarted, TextDelta, Turn, user
from loopforge.runtime import client as client_module
from loopforge.runtime.client import Runtime
from loopforge.runtime.config.values import Config
from loopforge.runtime.listener import serve_client
from loopforge.runtime.process import GRACE_S, Worker
from loopforge.runtime.supervisor import Supervisor
from loopforge.workers.channel import Channel
from tests.runtime.core import config, provider
from tests.workers.real_worker import wait_dead

PATIENCE_S = 60.0
SCRIPT = Path(__file__).with_name("blocked_worker.py")
QUICK = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=5)
LONG = Profile(first_token_s=0, tokens_per_s=20, answer_tokens=300)


def spawn(name: str) -> Worker:
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-P", str(SCRIPT), name, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
    with theirs:
        return Worker(subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL), Channel(ours))


@asynccontextmanager
async def open_blocked_worker(settings: ProviderSettings) -> AsyncIterator[Worker]:
    """As process.open_worker, of blocked_worker.py."""
    worker = spawn(settings.name)
    try:
        yield worker
    finally:
        with trio.move_on_after(GRACE_S, shield=True):
            await worker.channel.aclose()
            await worker.wait_exited()
        worker.kill()
        with trio.CancelScope(shield=True):
            await worker.wait_exited()
        worker.close()


@dataclass
class Stage:
    simulator: Simulator
    runtime: Runtime

    async def desk(self, name: str) -> dict[str, Any]:
        return next(desk for desk in (await self.runtime.status())["providers"] if desk["name"] == name)

    async def wait_desk(self, name: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not true(desk := await self.desk(name)):  # noqa: ASYNC110 - status is asked for, it does not tell
            await trio.sleep(0.02)
        return desk


@asynccontextmanager
async def a_stage(profiles: dict[str, Profile], **settings: Any) -> AsyncIterator[Stage]:
    """All the profiles' providers; planning goes to the first, coding to the second. `settings`: of the second."""
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator:
            names = list(profiles)
            made = [
                provider(name, base_url=simulator.base_url(name), **(settings if name == names[1] else {}))
                for name in names
            ]
            async with open_supervised(config(*made)) as runtime:
                yield Stage(simulator, runtime)


@asynccontextmanager
async def open_supervised(configuration: Config) -> AsyncIterator[Runtime]:
    supervisor = Supervisor(config=configuration, launch=open_blocked_worker)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        ours, theirs = socket.socketpair()
        nursery.start_soon(serve_client, theirs, supervisor.dispatcher)
        async with client_module._over(ours) as runtime:
            yield runtime
        nursery.cancel_scope.cancel()


def a_turn(text: str = "hello", **members: Any) -> Turn:
    return Turn(**({"kind": "planning"} | members), messages=(user(text),))


@pytest.mark.slow
async def test_a_worker_that_spins_or_sleeps_is_replaced_its_turn_goes_on_and_nobody_else_waits(
    tmp_path: Path,
) -> None:
    replies: dict[str, int] = {}
    flags = [tmp_path / "spin", tmp_path / "sleep"]
    async with a_stage({"local": QUICK, "spinning": QUICK, "sleeping": QUICK}) as stage:

        async def block(name: str, flag: Path) -> None:
            replies[name] = (await stage.runtime.ask(a_turn(str(flag), provider=name, model=flag.name))).attempts

        async with trio.open_nursery() as nursery:
            nursery.start_soon(block, "spinning", flags[0])
            nursery.start_soon(block, "sleeping", flags[1])
            while not all(map(Path.exists, flags)):
                assert (await stage.runtime.ask(a_turn())).attempts == 1
                await trio.sleep(0.01)
            pid = (await stage.desk("local"))["pid"]
            while len(replies) < 2:
                assert (await stage.runtime.ask(a_turn())).attempts == 1, "others are served all the while"
                await trio.sleep(0.05)
        for name in ("spinning", "sleeping"):
            desk = await stage.desk(name)
            assert (replies[name], desk["deaths"]) == (2, 1)
            assert "no sign of life" in desk["last_death"]
        assert (await stage.desk("local"))["pid"] == pid
        assert (await stage.desk("local"))["deaths"] == 0


async def test_a_worker_of_twice_its_memory_limit_is_killed_at_once_and_alone() -> None:
    async with a_stage({"local": QUICK, "cloud": LONG}, memory_limit_mb=100) as stage:
        async with stage.runtime.stream(a_turn(provider="cloud", model="glutton")) as events:
            async for event in events:
                if isinstance(event, Restarted):
                    break
            desk = await stage.wait_desk("cloud", lambda desk: desk["deaths"] >= 1)
        assert "twice its memory_limit_mb" in desk["last_death"]
        assert (await stage.desk("local"))["deaths"] == 0
        assert (await stage.runtime.ask(a_turn())).attempts == 1


@pytest.mark.slow  # a worker is not looked at before it is 10 s old
async def test_a_worker_over_its_memory_limit_ends_its_turn_while_another_takes_the_next() -> None:
    async with a_stage({"local": QUICK, "cloud": LONG}, memory_limit_mb=80) as stage:
        async with stage.runtime.stream(a_turn(provider="cloud", model="greedy")) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
            old = (await stage.desk("cloud"))["pid"]
            desk = await stage.wait_desk("cloud", lambda desk: desk["state"] == "ready" and desk["pid"] != old)
            os.kill(old, 0)
            async with stage.runtime.stream(a_turn(provider="cloud")) as second:
                async for event in second:
                    if isinstance(event, TextDelta):
                        break
            reply = await events.reply()
        assert reply.attempts == 1
        assert len(reply.text.split()) == LONG.answer_tokens
        assert await trio.to_thread.run_sync(wait_dead, old)
        assert desk["deaths"] == 0

"""The runtime over real worker processes and loopback HTTP: what only processes can show. Real time, waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.turn import Done, Event, Restarted, TextDelta, Turn, user
from loopforge.runtime.client import Runtime, connect, open_runtime
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import ConnectionLost, DeadlineExceeded, IdConflict, ProviderDown
from loopforge.runtime.process import KEPT_VARIABLES
from tests.runtime.core import config, provider
from tests.workers.real_worker import stop, wait_dead

PATIENCE_S = 20.0

PROFILES = {
    "local": Profile(first_token_s=0, tokens_per_s=0, answer_tokens=5),
    "cloud": Profile(first_token_s=0, tokens_per_s=100, answer_tokens=100_000),
}


@dataclass
class Stage:
    simulator: Simulator
    runtime: Runtime

    async def desk(self, name: str) -> dict[str, Any]:
        return next(desk for desk in (await self.runtime.status())["providers"] if desk["name"] == name)

    async def wait_desk(self, name: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look every 20 ms until it holds; the test's own bound ends it."""
        while not condition(desk := await self.desk(name)):  # noqa: ASYNC110 - status is asked for, it does not tell
            await trio.sleep(0.02)
        return desk

    async def ready_pid(self, name: str) -> int:
        return int((await self.wait_desk(name, lambda desk: desk["state"] == "ready"))["pid"])


def a_config(simulator: Simulator, **members: Any) -> Config:
    """planning goes to local, which is quick; coding to cloud, which streams for a quarter of an hour."""
    local, cloud = (provider(name, base_url=simulator.base_url(name), **members) for name in ("local", "cloud"))
    return config(local, cloud)


@asynccontextmanager
async def a_stage(**members: Any) -> AsyncIterator[Stage]:
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(PROFILES) as simulator, open_runtime(a_config(simulator, **members)) as runtime:
            yield Stage(simulator, runtime)


def proc(pid: int, name: str) -> bytes:
    """A file of /proc; b"" when the process is gone."""
    path = Path(f"/proc/{pid}/{name}")
    return path.read_bytes() if path.exists() else b""


def a_turn(kind: str, **members: Any) -> Turn:
    return Turn(kind=kind, messages=(user("hello"),), **members)


async def first_text(events: Any) -> None:
    async for event in events:
        if isinstance(event, TextDelta):
            return


async def until_restarted(events: Any) -> None:
    async for event in events:
        if isinstance(event, Restarted):
            return


async def test_kill_9_with_turns_in_flight_sends_them_again_and_says_what_is_withdrawn() -> None:
    async with a_stage() as stage:
        runtime = stage.runtime
        pid = await stage.ready_pid("cloud")
        seen: list[Event] = []

        async def silent(begun: trio.Event) -> None:
            async with runtime.stream(a_turn("coding", model="fault-silence")) as events:
                async for event in events:
                    seen.append(event)
                    if isinstance(event, Restarted):
                        break
            begun.set()

        async with trio.open_nursery() as nursery, runtime.stream(a_turn("coding")) as streaming:
            restarted = trio.Event()
            nursery.start_soon(silent, restarted)
            await first_text(streaming)
            await stage.simulator.stats.wait(lambda stats: stats.of("cloud").active == 2)
            os.kill(pid, signal.SIGKILL)
            assert (await runtime.ask(a_turn("planning"))).attempts == 1
            await until_restarted(streaming)
            await first_text(streaming)
            await restarted.wait()
        assert isinstance(seen[-1], Restarted)
        assert await stage.ready_pid("cloud") != pid
        await stage.simulator.stats.wait(lambda stats: not stats.of("cloud").active)


async def test_a_stopped_process_is_killed_after_the_heartbeat_and_its_turn_goes_on() -> None:
    async with a_stage() as stage:
        pid = await stage.ready_pid("local")
        stop(pid)
        reply = await stage.runtime.ask(a_turn("planning"))
        assert reply.attempts == 2
        desk = await stage.desk("local")
        assert desk["pid"] != pid
        assert "no sign of life" in desk["last_death"]


async def test_cancelling_a_turn_closes_the_connection_to_the_provider() -> None:
    async with a_stage() as stage:
        async with stage.runtime.stream(a_turn("coding")) as events:
            await first_text(events)
            assert stage.simulator.stats.of("cloud").active == 1
        await stage.simulator.stats.wait(lambda stats: stats.of("cloud").cancelled == 1)
        desk = await stage.wait_desk("cloud", lambda desk: not desk["running"])
        assert desk["outcomes"]["cancelled"] == 1


async def test_a_deadline_ends_the_turn_and_its_connection() -> None:
    async with a_stage() as stage:
        await stage.ready_pid("cloud")
        with pytest.raises(DeadlineExceeded) as caught:
            await stage.runtime.ask(a_turn("coding", deadline_s=0.3))
        assert caught.value.partial is not None
        await stage.simulator.stats.wait(lambda stats: stats.of("cloud").cancelled == 1)


async def test_a_worker_is_started_with_its_own_key_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may read another process' environment once it is not dumpable")
    monkeypatch.setenv("LOCAL_KEY", "sk-local-1")
    monkeypatch.setenv("OTHER_KEY", "sk-other-2")
    monkeypatch.setenv("SECRET_TOKEN", "sk-third-3")
    async with a_stage(api_key_env="LOCAL_KEY") as stage:
        pid = await stage.ready_pid("local")
        environ, argv = proc(pid, "environ"), proc(pid, "cmdline")
        assert b"sk-other-2" not in environ
        assert b"sk-third-3" not in environ
        names = {item.partition(b"=")[0].decode() for item in environ.split(b"\0") if item}
        assert "LOCAL_KEY" in names
        assert names - {"LOCAL_KEY"} <= {name for name in names if name in KEPT_VARIABLES or name.startswith("LC_")}
        assert b"sk-" not in argv


async def test_a_provider_whose_worker_keeps_crashing_goes_down_alone() -> None:
    async with a_stage() as stage:
        killed: set[int] = set()
        while (desk := await stage.desk("cloud"))["state"] != "down":
            if desk["pid"] is not None and desk["pid"] not in killed:
                killed.add(desk["pid"])
                os.kill(desk["pid"], signal.SIGKILL)
                assert (await stage.runtime.ask(a_turn("planning"))).attempts == 1
            await trio.sleep(0.02)
        with pytest.raises(ProviderDown) as caught:
            await stage.runtime.ask(a_turn("coding"))
        assert caught.value.retry_after_s is not None
        assert 50 < caught.value.retry_after_s <= 60
        assert len(killed) == 6
        assert (await stage.runtime.ask(a_turn("planning"))).attempts == 1


async def test_no_process_is_left_when_the_body_raises() -> None:
    pids: list[int] = []

    async def use_and_raise(simulator: Simulator) -> None:
        async with open_runtime(a_config(simulator)) as runtime:
            stage = Stage(simulator, runtime)
            pids.extend([await stage.ready_pid(name) for name in ("local", "cloud")])
            await runtime.post(a_turn("coding"))
            raise ZeroDivisionError

    with trio.fail_after(PATIENCE_S):
        async with open_simulator(PROFILES) as simulator:
            with pytest.raises(ZeroDivisionError):
                await use_and_raise(simulator)
            assert [proc(pid, "stat") for pid in pids] == [b"", b""]
            await simulator.stats.wait(lambda stats: not stats.active)


SERVICE = """
import sys
from pathlib import Path
import trio
from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.config.values import Config, Route, RuntimeSettings, Target
from loopforge.runtime.serve import serve

base_url, path = sys.argv[1:]
settings = ProviderSettings(name="cloud", kind="openai_compatible", base_url=base_url, default_model="m")
route = Route(kind="coding", targets=(Target(provider="cloud", model="m"),), lane="normal")
config = Config(path="test", providers={"cloud": settings}, routes={"coding": route}, runtime=RuntimeSettings())
sys.exit(trio.run(serve, config, Path(path)))
"""


@contextmanager
def a_service(base_url: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"LOOPFORGE_HOME": str(path.parent.parent)}
    service = subprocess.Popen([sys.executable, "-c", SERVICE, base_url, str(path)], env=environment)
    try:
        yield service
    finally:
        service.kill()
        service.wait()


async def test_kill_9_of_the_supervisor_leaves_no_worker_and_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    async with open_simulator(PROFILES) as simulator:
        with trio.fail_after(PATIENCE_S), a_service(simulator.base_url("cloud"), path) as service:
            while not path.exists():  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.02)
            async with connect(path, reconnect_s=0) as runtime, runtime.stream(a_turn("coding")) as events:
                await first_text(events)
                pid = await Stage(simulator, runtime).ready_pid("cloud")
                service.kill()
                assert wait_dead(pid)
                await simulator.stats.wait(lambda stats: not stats.active)
                with pytest.raises(ConnectionLost):
                    await events.reply()


async def test_a_stream_goes_on_after_kill_9_of_the_supervisor(tmp_path: Path) -> None:
    """What was accepted is on disk: the next service sends it again, and the client sees that what it had is void."""
    path = tmp_path / "run" / "s"
    slow = {"cloud": Profile(first_token_s=0, tokens_per_s=50, answer_tokens=50)}
    async with open_simulator(slow) as simulator:
        with trio.fail_after(2 * PATIENCE_S), a_service(simulator.base_url("cloud"), path) as service:
            while not path.exists():  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.02)
            async with connect(path) as runtime, runtime.stream(a_turn("coding")) as events:
                await first_text(events)
                service.kill()
                with a_service(simulator.base_url("cloud"), path):
                    seen: list[Event] = [event async for event in events]
    restarted = next(index for index, event in enumerate(seen) if isinstance(event, Restarted))
    done = seen[-1]
    assert isinstance(done, Done)
    assert done.reply.attempts == 2
    assert done.reply.text == "".join(event.text for event in seen[restarted:] if isinstance(event, TextDelta))


async def test_a_second_post_of_a_turn_that_ended_before_a_crash_is_answered_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    async with open_simulator(PROFILES) as simulator:
        base_url, asked = simulator.base_url("local"), replace(a_turn("coding"), id="once")
        with trio.fail_after(2 * PATIENCE_S), a_service(base_url, path) as service:
            while not path.exists():  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.02)
            async with connect(path) as runtime:
                first = await runtime.ask(asked)
                service.kill()
                with a_service(base_url, path):
                    again = await runtime.ask(asked)
                    assert again == first
                    assert await runtime.wait("once") == first
                    with pytest.raises(IdConflict):
                        await runtime.ask(replace(asked, kind="coding", max_output_tokens=7))
        assert simulator.stats.requests == 1


async def test_sigterm_to_a_worker_by_hand_lets_its_turn_end_while_another_takes_the_next() -> None:
    async with a_stage() as stage:
        async with stage.runtime.stream(a_turn("coding")) as events:
            await first_text(events)
            pid = await stage.ready_pid("cloud")
            os.kill(pid, signal.SIGTERM)
            successor = pid
            while successor == pid:
                successor = await stage.ready_pid("cloud")
            await first_text(events)
            os.kill(pid, 0)
        assert await trio.to_thread.run_sync(wait_dead, pid)

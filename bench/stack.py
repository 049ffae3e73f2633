"""The whole system for benchmarks: simulators, service and workers as real processes, and a client in this one.

    async with open_stack({"local": Provider(...)}, routes={"planning": "local"}) as stack:
        await stack.runtime.ask(...)

The service is `loopforge serve` over a config.toml written here; its processes are known by pid for /proc. A provider
is a process of its own, as it is another machine in life: what one has to do does not slow another's answers.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import trio

from bench.children import Child, open_child, raise_file_limit
from loopforge.drivers.turn import JsonObject, Turn, user
from loopforge.runtime.client import Runtime, connect

LANES = {"planning": "interactive", "coding": "normal", "summary": "background"}
START_S = 30.0
STOP_S = 5.0
LOOK_EVERY_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Provider:
    """How the simulator plays it (members of its Profile), and further keys of its [providers.NAME] table.

    `host`: the provider in whose process it is played, its own unless said. `url`: its address when it is played
    elsewhere.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # workloads are files

    profile: JsonObject = field(default_factory=dict)
    settings: JsonObject = field(default_factory=dict)
    host: str = ""
    url: str = ""


INSTANT = Provider(profile={"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 1})
"""Answers one token at once: what is left is the way there and back."""


@dataclass(kw_only=True)
class Played:
    """Running simulators. `urls`: the base_url of each provider."""

    urls: dict[str, str]
    _hosts: Mapping[str, Child]

    async def change(self, provider: str, profile: JsonObject) -> None:
        """This profile counts from the next request on."""
        await self._hosts[provider].ask({"play": {provider: profile}})

    async def stats(self, provider: str) -> dict[str, Any]:
        """The simulator's ProviderStats."""
        stats: dict[str, Any] = await self._hosts[provider].ask({"stats": provider})
        return stats

    async def wait_active(self, provider: str, least: int, most: float = float("inf")) -> None:
        """Until so many of its requests are being answered. Raises trio.TooSlowError."""
        with trio.fail_after(START_S):
            while True:
                if least <= (await self.stats(provider))["active"] <= most:
                    return
                await trio.sleep(LOOK_EVERY_S)

    def pid(self, provider: str) -> int:
        """Of the process that plays it."""
        return self._hosts[provider].pid


@dataclass(kw_only=True)
class Stack:
    runtime: Runtime
    service_pid: int
    played: Played
    socket: Path
    config: Path

    @property
    def urls(self) -> Mapping[str, str]:
        return self.played.urls

    async def worker_pids(self) -> dict[str, int]:
        """By provider; those that run."""
        status = await self.runtime.status()
        return {desk["name"]: desk["pid"] for desk in status["providers"] if desk["pid"] is not None}

    async def desk(self, provider: str) -> dict[str, Any]:
        """What the service says of a provider."""
        status = await self.runtime.status()
        return next(desk for desk in status["providers"] if desk["name"] == provider)

    async def wait_ready(self, provider: str, running: int | None = None) -> None:
        """Until its worker is ready, and holds so many turns. Raises trio.TooSlowError."""
        with trio.fail_after(START_S):
            while True:
                desk = await self.desk(provider)
                if desk["state"] == "ready" and running in (None, desk["running"]):
                    return
                await trio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def open_played(providers: Mapping[str, Provider]) -> AsyncIterator[Played]:
    """Simulators of these providers."""
    async with AsyncExitStack() as stack:
        hosts: dict[str, Child] = {}
        urls = {name: provider.url for name, provider in providers.items() if provider.url}
        for name, provider in providers.items():
            if name in urls:
                continue
            host = provider.host or name
            if host not in hosts:
                hosts[host] = await stack.enter_async_context(open_child("bench.provider"))
            hosts[name] = hosts[host]
            urls[name] = f"{await hosts[host].ask({'play': {name: provider.profile}})}/{name}/v1"
        yield Played(urls=urls, _hosts=hosts)


@asynccontextmanager
async def open_stack(
    providers: Mapping[str, Provider], routes: Mapping[str, str], *, warm: bool = True, journal: bool = True
) -> AsyncIterator[Stack]:
    """`routes`: kind -> provider. `warm`: every routed worker has served a turn when the block starts."""
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="loopforge-bench-") as folder:
        async with open_played(providers) as played:
            path = Path(folder, "run", "loopforge.sock")
            config = _write(Path(folder, "config.toml"), config_text(providers, routes, played.urls, journal=journal))
            async with open_service(config, path) as pid, connect(path) as runtime:
                if warm:
                    for kind in routes:
                        await runtime.ask(Turn(kind=kind, messages=(user("warm up"),), max_output_tokens=1))
                yield Stack(runtime=runtime, service_pid=pid, played=played, socket=path, config=config)


@asynccontextmanager
async def open_service(config: Path, path: Path) -> AsyncIterator[int]:
    """`loopforge serve`, listening on `path`: its pid. It is gone with the block."""
    service = start_service(config, path)
    try:
        await wait_listening(path)
        yield service.pid
    finally:
        service.terminate()
        try:
            service.wait(STOP_S)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def start_service(config: Path, path: Path) -> subprocess.Popen[bytes]:
    """`loopforge serve`, which says nothing but errors."""
    command = [sys.executable, "-P", "-m", "loopforge.runtime", "serve", "--config", str(config), "--socket", str(path)]
    home = os.environ | {"LOOPFORGE_HOME": str(path.parent)}  # its journal, too, goes with the folder
    return subprocess.Popen([*command, "--log-level", "error"], env=home, stdin=subprocess.DEVNULL)


async def wait_listening(path: Path) -> None:
    """Until the service accepts connections."""
    with trio.fail_after(START_S):
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    await trio.sleep(0.002)
                else:
                    return


def config_text(
    providers: Mapping[str, Provider], routes: Mapping[str, str], urls: Mapping[str, str], *, journal: bool = True
) -> str:
    lines = ["[runtime]", f"journal = {_toml(journal)}"]
    for name, provider in providers.items():
        lines += [f"[providers.{name}]", 'kind = "openai_compatible"', f'base_url = "{urls[name]}"']
        lines += ['api_key_env = ""', 'default_model = "m"', 'vendor = "generic"']
        settings = {"max_concurrency": 64, **provider.settings}
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items()]
    first = next(iter(providers))
    for kind in dict.fromkeys((*LANES, *routes)):
        lines += [f"[router.{kind}]", f'provider = "{routes.get(kind, first)}"', 'model = "default"']
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)

"""The whole system for benchmarks: simulator, service and workers as real processes, and a client in this one.

    async with open_stack({"local": Provider(...)}, routes={"planning": "local"}) as stack:
        await stack.runtime.ask(...)

The service is `loopforge serve` over a config.toml written here; its processes are known by pid for /proc.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from loopforge.drivers.turn import Turn, user
from loopforge.runtime.client import Runtime, connect
from loopforge.runtime.rehearsal.simulator import open_simulator

LANES = {"planning": "interactive", "coding": "normal", "summary": "background"}
START_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Provider:
    """How the simulator plays it (members of its Profile), and further keys of its [providers.NAME] table."""

    profile: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


INSTANT = Provider(profile={"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 1})
"""Answers one token at once: what is left is the way there and back."""


@dataclass(kw_only=True)
class Stack:
    runtime: Runtime
    service_pid: int
    urls: Mapping[str, str]
    socket: Path

    async def worker_pids(self) -> dict[str, int]:
        """By provider; those that run."""
        status = await self.runtime.status()
        return {desk["name"]: desk["pid"] for desk in status["providers"] if desk["pid"] is not None}


@asynccontextmanager
async def open_stack(providers: Mapping[str, Provider], routes: Mapping[str, str]) -> AsyncIterator[Stack]:
    """`routes`: kind -> provider. Every worker is running and warm when the block starts."""
    with tempfile.TemporaryDirectory(prefix="loopforge-bench-") as folder:
        async with open_simulator({name: dict(item.profile) for name, item in providers.items()}) as urls:
            path = Path(folder, "run", "loopforge.sock")
            service = start_service(_write(Path(folder, "config.toml"), config_text(providers, routes, urls)), path)
            try:
                await wait_listening(path)
                async with connect(path) as runtime:
                    for kind in routes:
                        await runtime.ask(Turn(kind=kind, messages=(user("warm up"),)))
                    yield Stack(runtime=runtime, service_pid=service.pid, urls=urls, socket=path)
            finally:
                service.terminate()
                try:
                    service.wait(5)
                except subprocess.TimeoutExpired:
                    service.kill()
                    service.wait()


def start_service(config: Path, path: Path) -> subprocess.Popen[bytes]:
    """`loopforge serve`, which says nothing but warnings."""
    command = [sys.executable, "-P", "-m", "loopforge.runtime", "serve", "--config", str(config), "--socket", str(path)]
    return subprocess.Popen([*command, "--log-level", "error"], env=dict(os.environ), stdin=subprocess.DEVNULL)


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


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def config_text(providers: Mapping[str, Provider], routes: Mapping[str, str], urls: Mapping[str, str]) -> str:
    lines = []
    for name, provider in providers.items():
        lines += [f"[providers.{name}]", 'kind = "openai_compatible"', f'base_url = "{urls[name]}"']
        lines += ['api_key_env = ""', 'default_model = "m"', 'vendor = "generic"']
        settings = {"max_concurrency": 64, **provider.settings}
        lines += [f"{key} = {_toml(value)}" for key, value in settings.items()]
    first = next(iter(providers))
    for kind in dict.fromkeys((*LANES, *routes)):
        lines += [f"[router.{kind}]", f'provider = "{routes.get(kind, first)}"', 'model = "default"']
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)

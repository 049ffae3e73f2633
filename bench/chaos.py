"""What goes wrong during a soak: processes killed and stopped, providers with faults, a full disk. For faults.py.

`Service` keeps `loopforge serve` running: whatever ended it, it is started again at once. `Chaos` draws what happens
next, and when, from a seed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from bench.proc import worker_processes
from bench.stack import Played
from loopforge.runtime.client import connect
from loopforge.runtime.errors import ConnectionLost

ANSWER_S = 1.0
STOP_S = 40.0
WEATHER = ("cut", "stall", "silence", "malformed", "reset", "reset-midway", "429", "500", "503", "error-event")
"""Faults of providers that come and go; what opens a breaker for good (a wrong key) is none of them."""
FULL_S = 1.5
_CLONE_NEWNS = 0x00020000  # linux/sched.h


class Service:
    """`loopforge serve` over one folder. `starts`: how often it was started; `unasked`: ends that nobody had caused."""

    def __init__(self, home: Path, config: Path, socket: Path) -> None:
        self.starts = 0
        self.unasked: list[str] = []
        self.workers_seen: set[int] = set()
        self._home = home
        self._config = config
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None
        self._expected = False
        self._stopping = False
        self._log = (home / "service.log").open("ab")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        argv = [sys.executable, "-P", "-m", "loopforge.runtime", "serve", "--config", str(self._config)]
        argv += ["--socket", str(self._socket), "--log-level", "warning"]
        env = {**os.environ, "LOOPFORGE_HOME": str(self._home)}
        self._process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=self._log, stdout=self._log)
        self._expected = False
        self.starts += 1

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start it, and again whenever it ends, until `stop`."""
        self.start()
        task_status.started()
        while True:
            await self._wait_dead()
            if self._stopping:
                return
            if not self._expected:
                assert self._process is not None
                self.unasked.append(f"exit code {self._process.returncode}")
            self.start()

    def kill(self) -> None:
        self._expected = True
        os.kill(self.pid, signal.SIGKILL)

    async def answers(self) -> bool:
        """Whether it serves: before that SIGHUP, or a file with errors, would be its end."""
        with trio.move_on_after(ANSWER_S), contextlib.suppress(ConnectionLost):
            async with connect(self._socket, reconnect_s=0) as runtime:
                return bool((await runtime.status())["pid"] == self.pid)
        return False

    def hang_up(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def workers(self) -> list[int]:
        """Pids of its workers; none while it has just died."""
        try:
            pids = worker_processes(self.pid)
        except OSError:
            return []
        self.workers_seen.update(pids)
        return pids

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    async def stop(self) -> int | None:
        """SIGTERM; its exit code, None when it had to be killed."""
        self._stopping = True
        os.kill(self.pid, signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            await self._wait_dead()
            assert self._process is not None
            return self._process.returncode
        self.abandon()
        return None

    def abandon(self) -> None:
        """Gone now, whatever it does."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.close()

    async def _wait_dead(self) -> None:
        assert self._process is not None
        pidfd = os.pidfd_open(self._process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        self._process.wait()


@asynccontextmanager
async def open_kept_service(home: Path, config: Path, socket: Path) -> AsyncIterator[Service]:
    """A service that is there again whenever it ends; gone with the block."""
    service = Service(home, config, socket)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(service.keep)
            yield service
            nursery.cancel_scope.cancel()
    finally:
        service.abandon()


@dataclass
class Chaos:
    """Runs until cancelled. `counts`: what was done, by name. `rate`: things a second."""

    service: Service
    played: Played
    profiles: Mapping[str, dict[str, Any]]
    config: Path
    disk: Path | None
    random: random.Random
    rate: float
    counts: Counter[str] = field(default_factory=Counter)
    enough: trio.Event = field(default_factory=trio.Event)

    @property
    def kills(self) -> int:
        return self.counts["kill -9 of a worker"] + self.counts["kill -9 of the service"]

    async def run(self, *, until_kills: int) -> None:
        """Strike until cancelled. `enough` is set once there were so many kills."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._weather)
            while True:
                await trio.sleep(self.random.expovariate(self.rate))
                await self._strike(nursery)
                if self.kills >= until_kills:
                    self.enough.set()

    async def _strike(self, nursery: trio.Nursery) -> None:
        actions = {
            self._kill_worker: 60,
            self._kill_service: 20,
            self._stop_worker: 8,
            self._stop_service: 4,
            self._reload: 6,
        }
        if self.disk is not None:
            actions[self._fill_disk] = 2
        (action,) = self.random.choices(list(actions), list(actions.values()))
        await action(nursery)

    async def _kill_worker(self, _: trio.Nursery) -> None:
        if pids := self.service.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(pids), signal.SIGKILL)
                self.counts["kill -9 of a worker"] += 1

    async def _kill_service(self, _: trio.Nursery) -> None:
        self.service.workers()
        self.service.kill()
        self.counts["kill -9 of the service"] += 1

    async def _stop_worker(self, nursery: trio.Nursery) -> None:
        """For a moment, or for longer than a heartbeat may fail to come."""
        if pids := self.service.workers():
            self.counts["SIGSTOP of a worker"] += 1
            nursery.start_soon(_stop_for, self.random.choice(pids), self.random.choice((0.1, 0.5, 2.0, 8.0)))

    async def _stop_service(self, _: trio.Nursery) -> None:
        self.counts["SIGSTOP of the service"] += 1
        await _stop_for(self.service.pid, self.random.uniform(0.05, 1.0))

    async def _reload(self, _: trio.Nursery) -> None:
        """The providers' entries are others from now on; now and then the file has an error, for a moment."""
        if not await self.service.answers():
            return
        slots = self.random.randint(6, 12)
        lines = self.config.read_text().splitlines()
        text = "\n".join(f"max_concurrency = {slots}" if line.startswith("max_conc") else line for line in lines)
        broken = self.random.random() < 0.2
        self.config.write_text(text + "\n" + ("[providers.\n" if broken else ""))
        self.service.hang_up()
        self.counts["reload"] += 1
        if broken:  # as a person would, at once; nothing else strikes meanwhile
            await trio.sleep(0.5)
            self.config.write_text(text + "\n")

    async def _fill_disk(self, _: trio.Nursery) -> None:
        assert self.disk is not None
        self.counts["full disk"] += 1
        with _filled(self.disk):
            await trio.sleep(FULL_S)

    async def _weather(self) -> None:
        while True:
            for name, profile in self.profiles.items():
                fault = self.random.choice((None, *WEATHER))
                share = self.random.choice((0.1, 0.3, 0.8))
                await self.played.change(name, {**profile, "fault": fault, "fault_share": share})
                self.counts["change of a provider's faults"] += 1
                await trio.sleep(self.random.expovariate(1.0))

    async def clear_up(self) -> None:
        """Every provider is well."""
        for name, profile in self.profiles.items():
            await self.played.change(name, profile)


async def _stop_for(pid: int, seconds: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)  # the pid may be another process's by the time it is to go on
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            try:
                await trio.sleep(seconds)
            finally:
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    finally:
        os.close(pidfd)


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(65536)):
                continue
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of that size at `folder`, where that can be had: only root may, and not everywhere.

    It is mounted in a namespace of this process and its children: whatever becomes of them, nothing stays mounted.
    """
    folder.mkdir(mode=0o700, parents=True)
    options = f"size={megabytes}m,mode=0700"
    mounted = _enter_own_mounts() and _quietly("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted and not _quietly("umount", str(folder)):
            _quietly("umount", "--lazy", str(folder))


def _enter_own_mounts() -> bool:
    if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return False
    return _quietly("mount", "--make-rprivate", "/")


def _quietly(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False

"""What a worker's process is given: its own key and no other, by environment or by one descriptor; and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.process import (
    EXIT_S,
    GRACE_S,
    Worker,
    open_credential,
    open_worker,
    reaped,
    worker_environment,
)
from loopforge.runtime.records import Desk, DeskState
from loopforge.runtime.supervisor import Supervisor
from loopforge.workers.channel import Channel
from tests.runtime.core import config, provider

OURS = ProviderSettings(name="deepseek", kind="openai_compatible", api_key_env="DEEPSEEK_API_KEY")
BEDROCK = ProviderSettings(name="bedrock", kind="bedrock", api_key_env="AWS_BEARER_TOKEN_BEDROCK")
ENVIRON = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LC_ALL": "C.UTF-8",
    "HTTPS_PROXY": "http://127.0.0.1:3128",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "TZ": "UTC",
    "DEEPSEEK_API_KEY": "ours",
    "ANTHROPIC_API_KEY": "another's",
    "AWS_SECRET_ACCESS_KEY": "another's",
    "AWS_PROFILE": "work",
    "GITHUB_TOKEN": "nobody's business",
    "PYTHONPATH": "/tmp/evil",
    "LD_PRELOAD": "/tmp/evil.so",
}


def test_a_worker_sees_path_locale_proxy_ca_time_zone_and_its_own_key() -> None:
    assert worker_environment(OURS, ENVIRON) == {
        name: ENVIRON[name] for name in ("PATH", "LC_ALL", "HTTPS_PROXY", "SSL_CERT_FILE", "TZ", "DEEPSEEK_API_KEY")
    }


def test_only_bedrock_gets_home_and_the_aws_variables() -> None:
    seen = worker_environment(BEDROCK, ENVIRON)
    assert {"HOME", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} <= seen.keys()
    assert not {"DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "PYTHONPATH"} & seen.keys()


def test_a_provider_without_a_key_variable_gets_no_key() -> None:
    local = ProviderSettings(name="ollama", kind="openai_compatible")
    assert not any(name.endswith(("KEY", "TOKEN")) for name in worker_environment(local, ENVIRON))


def test_of_a_credentials_folder_only_the_one_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "DEEPSEEK_API_KEY").write_text("ours")
    (tmp_path / "ANTHROPIC_API_KEY").write_text("another's")
    fd = open_credential(OURS, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert fd is not None
    with os.fdopen(fd) as file:
        assert file.read() == "ours"


def test_without_a_folder_or_a_file_there_is_no_descriptor(tmp_path: Path) -> None:
    assert open_credential(OURS, {}) is None
    assert open_credential(OURS, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    outside = ProviderSettings(name="x", kind="openai_compatible", api_key_env="../secret")
    assert open_credential(outside, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None


# -- the end of a process ----------------------------------------------------------------------------------------------

HANGS_UP = """
import os, sys
os.close(int(sys.argv[1]))
sys.stdin.read()
os._exit(78)
"""
"""Closes its channel, and ends when its standard input does: a worker that is long in ending, or never ends."""


@dataclass
class HungUp:
    """Such a process. `left`: the block around it was left, and waits for its end."""

    worker: Worker
    popen: subprocess.Popen[bytes]
    left: trio.Event = field(default_factory=trio.Event)

    def let_end(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.close()


def start_one_that_hangs_up() -> HungUp:
    ours, theirs = socket.socketpair()
    with theirs:
        argv = [sys.executable, "-I", "-S", "-c", HANGS_UP, str(theirs.fileno())]
        popen = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE)
    return HungUp(Worker(popen, Channel(ours)), popen)


async def leave_at_its_end(hung_up: HungUp, codes: list[int]) -> None:
    async with reaped(hung_up.worker) as worker:
        assert await worker.channel.receive() == []
        hung_up.left.set()
    hung_up.let_end()
    codes.append(await worker.wait_exited())


@asynccontextmanager
async def a_nursery(clock: MockClock) -> AsyncIterator[trio.Nursery]:
    """Time passes while it is left: a test that failed would else wait in a shielded grace for ever."""
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        finally:
            clock.rate = 1


async def is_waited_for(hung_up: HungUp) -> None:
    await hung_up.left.wait()
    await wait_all_tasks_blocked()


async def test_the_exit_code_of_a_worker_that_hung_up_is_waited_for_however_busy_the_machine_is(
    mock_clock: MockClock,
) -> None:
    hung_up, codes = start_one_that_hangs_up(), list[int]()
    async with a_nursery(mock_clock) as nursery:
        nursery.start_soon(leave_at_its_end, hung_up, codes)
        await is_waited_for(hung_up)
        mock_clock.jump(EXIT_S * 0.9)
        await wait_all_tasks_blocked()
        assert hung_up.popen.poll() is None
        hung_up.let_end()
    assert codes == [78]


async def test_a_worker_that_hangs_up_and_does_not_end_is_killed(mock_clock: MockClock) -> None:
    hung_up, codes = start_one_that_hangs_up(), list[int]()
    async with a_nursery(mock_clock) as nursery:
        nursery.start_soon(leave_at_its_end, hung_up, codes)
        for bound in (EXIT_S, GRACE_S):
            await is_waited_for(hung_up)
            assert hung_up.popen.poll() is None
            mock_clock.jump(bound)
    assert codes == [-signal.SIGKILL]


async def test_a_service_that_stops_does_not_wait_long_for_a_worker_that_hung_up(mock_clock: MockClock) -> None:
    hung_up = start_one_that_hangs_up()
    async with a_nursery(mock_clock) as nursery:
        nursery.start_soon(leave_at_its_end, hung_up, [])
        await is_waited_for(hung_up)
        nursery.cancel_scope.cancel()
        await is_waited_for_in_vain(hung_up, mock_clock)
    hung_up.let_end()
    assert hung_up.popen.returncode == -signal.SIGKILL
    assert trio.current_time() < EXIT_S / 2


async def is_waited_for_in_vain(hung_up: HungUp, mock_clock: MockClock) -> None:
    with trio.CancelScope(shield=True):
        await is_waited_for(hung_up)
        assert hung_up.popen.poll() is None
        mock_clock.jump(GRACE_S)


async def test_a_provider_is_down_for_its_configuration_though_its_worker_ends_late(mock_clock: MockClock) -> None:
    started: list[HungUp] = []

    @asynccontextmanager
    async def launch(settings: ProviderSettings) -> AsyncIterator[Worker]:
        assert settings.name == "local"
        started.append(start_one_that_hangs_up())
        async with reaped(started[-1].worker) as worker:
            yield worker
            started[-1].left.set()

    supervisor = Supervisor(config=config(provider("local")), launch=launch)
    async with a_nursery(mock_clock) as nursery:
        await nursery.start(supervisor.run)
        await wait_all_tasks_blocked()
        (hung_up,) = started
        mock_clock.rate = 1  # the supervisor gives it a moment to say why, then decides
        await hung_up.left.wait()
        mock_clock.rate = 0
        await wait_all_tasks_blocked()
        desk = supervisor.dispatcher.desks["local"]
        assert desk.worker is None, "what its turns have to know, they know"
        mock_clock.jump(EXIT_S * 0.9)
        await wait_all_tasks_blocked()
        hung_up.let_end()
        while desk.state is not DeskState.DOWN and len(started) == 1:
            await trio.lowlevel.checkpoint()  # the process takes real time, of which this clock knows nothing
        mock_clock.jump(30)
        await wait_all_tasks_blocked()
        assert len(started) == 1, "another start is of no use"
        nursery.cancel_scope.cancel()


# -- signals ---------------------------------------------------------------------------------------------------------


@dataclass
class SignalledWorkers:
    """Real workers, each of which gets the signals of its turn the moment it is there."""

    signals: list[signal.Signals]
    pids: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, settings: ProviderSettings) -> AsyncIterator[Worker]:
        async with open_worker(settings) as worker:
            self.pids.append(worker.pid)
            if self.signals:
                os.kill(worker.pid, self.signals.pop(0))
            yield worker


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGINT, 1)])
async def test_a_signal_to_a_worker_that_has_just_begun_kills_it_not(number: signal.Signals, workers: int) -> None:
    """SIGTERM means what it means later: that another one takes its place. SIGINT means nothing."""
    signalled = SignalledWorkers([number])
    supervisor = Supervisor(config=config(provider("local")), launch=signalled.open)

    def desk() -> Desk:
        return supervisor.dispatcher.desks["local"]

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            while len(signalled.pids) < workers or desk().state is not DeskState.READY:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.02)
            assert (len(signalled.pids), desk().deaths) == (workers, 0)
            assert os.getsid(signalled.pids[-1]) == signalled.pids[-1], "what is sent to our group is not for it"
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT} == set()
            nursery.cancel_scope.cancel()

"""One OS process a worker: spawn it with its own key and no other, talk to it, reap it.

`open_worker` owns the process: leaving its block leaves nothing behind, even when cancelled, and cannot hang. What a
worker's death means is supervisor.py's. Facts on spawning stand beside the lines that they explain.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

import trio

from loopforge.drivers.registry import ProviderSettings
from loopforge.workers.channel import Channel

GRACE_S = 0.5
"""How long a worker may take to end by itself once its channel is closed here; it has been drained before."""
EXIT_S = 10.0
"""How long one may take that has hung up itself. Nobody waits for it but its successor, and its exit code is wanted: an
interpreter ends within 0.1 s of its last words, and on a machine with too much to do within seconds."""

KEPT_VARIABLES = frozenset({
    "PATH", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "LOOPFORGE_DEBUG",
})  # fmt: skip


WORKER_HOLDS_BACK = (signal.SIGTERM, signal.SIGINT)
"""Blocked as a worker begins, which a new process takes over: they would end it before it can say what they mean to it.
It lets them through itself."""


class WorkerHandle(Protocol):
    """A started worker, as the supervisor sees it; tests give one over memory streams."""

    pid: int
    channel: Channel

    def kill(self) -> None: ...

    def abort(self) -> None:
        """SIGABRT: the worker's faulthandler prints the line that blocks it, then it dies."""

    async def wait_exited(self) -> int:
        """The exit code; negative is the signal's number."""


class OpenWorker(Protocol):
    def __call__(self, settings: ProviderSettings) -> AbstractAsyncContextManager[WorkerHandle]: ...


def worker_environment(settings: ProviderSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """What the worker of this provider may see: path, locale, time zone, proxy, CA, and its own key.

    Bedrock's credential chain reads files below HOME and AWS_* variables; no other kind gets these.
    """
    kept = {name: value for name, value in environ.items() if name in KEPT_VARIABLES or name.startswith("LC_")}
    if settings.api_key_env and settings.api_key_env in environ:
        kept[settings.api_key_env] = environ[settings.api_key_env]
    if settings.kind == "bedrock":
        kept |= {name: value for name, value in environ.items() if name == "HOME" or name.startswith("AWS_")}
    return kept


def open_credential(settings: ProviderSettings, environ: Mapping[str, str]) -> int | None:
    """A descriptor of the provider's key file in $CREDENTIALS_DIRECTORY, None when there is no such file.

    The worker gets this one descriptor: it never learns the folder, where other providers' keys lie.
    """
    folder, name = environ.get("CREDENTIALS_DIRECTORY"), settings.api_key_env
    if not folder or not name or "/" in name:
        return None
    try:
        return os.open(Path(folder, name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


class Worker:
    """A spawned worker process and the supervisor's end of its channel."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self._process = process
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:  # no descriptor is free: a process that could not be waited for is not kept
            process.kill()
            process.wait()  # short: it has been killed just now
            raise
        self.pid = process.pid
        self.channel = channel

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def abort(self) -> None:
        self._signal(signal.SIGABRT)

    def _signal(self, number: signal.Signals) -> None:
        if self.running:  # poll() reaps: the pid cannot have gone to another process
            self._process.send_signal(number)

    async def wait_exited(self) -> int:
        while (code := self._process.poll()) is None:
            await trio.lowlevel.wait_readable(self._pidfd)  # readable once the process is dead: exact, needs no thread
        return code

    def close(self) -> None:
        os.close(self._pidfd)


@contextmanager
def held_back(*numbers: signal.Signals) -> Iterator[None]:
    """This thread, and what it spawns, does not get these signals meanwhile; they come afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(settings: ProviderSettings, environ: Mapping[str, str]) -> Worker:
    """Start `python -m loopforge.workers NAME` with its end of a socketpair. Raises OSError.

    On the calling thread, which must be the loop's: the worker dies with the *thread* that spawned it
    (PR_SET_PDEATHSIG), and trio's own spawn helpers use a thread that ends after 10 s. No preexec_fn: it turns vfork
    off (0.3 -> 13 ms) and can deadlock beside threads.

    In a session of its own: what a terminal, timeout(1) or kill(1) sends to the service's group is the service's, which
    may still drain on its workers. It costs no vfork.
    """
    ours, theirs = socket.socketpair()
    key_fd = open_credential(settings, environ)
    try:
        argv = [sys.executable, "-P", "-m", "loopforge.workers", settings.name]  # -P: nothing is imported from the cwd
        argv += ["--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
        passed = [theirs.fileno()]
        if key_fd is not None:
            argv += ["--key-fd", str(key_fd)]
            passed.append(key_fd)
        with held_back(*WORKER_HOLDS_BACK):
            process = subprocess.Popen(
                argv,
                pass_fds=passed,
                env=worker_environment(settings, environ),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()  # at once: only then is the worker's death an end of file on our side
        if key_fd is not None:
            os.close(key_fd)
    try:
        return Worker(process, Channel(ours))
    except BaseException:
        ours.close()
        raise


@asynccontextmanager
async def open_worker(settings: ProviderSettings) -> AsyncIterator[Worker]:
    """A running worker process; it is dead and reaped when the block is left. Raises OSError when it cannot start.

    A block that ends by itself has seen the end of the channel or killed the worker. It waits for the worker's own exit
    code, which says whether another start is of any use; one that is cancelled or fails does not.
    """
    async with reaped(spawn(settings, os.environ)) as worker:
        yield worker


@asynccontextmanager
async def reaped(worker: Worker) -> AsyncIterator[Worker]:
    """What open_worker does with a process once it has been started."""
    try:
        yield worker
        with trio.move_on_after(EXIT_S):
            await worker.channel.aclose()
            await worker.wait_exited()
    finally:
        with trio.move_on_after(GRACE_S, shield=True):
            await worker.channel.aclose()  # end of file: the worker stops at once
            await worker.wait_exited()
        worker.kill()
        with trio.CancelScope(shield=True):  # short: the process is already dead or dying
            await worker.wait_exited()
        worker.close()

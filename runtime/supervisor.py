"""Ordered start, one keeper task a worker, drain, reverse stop. What a turn does is dispatch.py's.

A keeper owns its provider's worker for life: starts it when wanted, hands its frames to the dispatcher, watches its
heartbeat, and after its death asks restarts.py what next. Nothing a worker does ends another keeper.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

import loopforge
from loopforge.runtime.config.values import Config
from loopforge.runtime.dispatch import Dispatcher
from loopforge.runtime.errors import ProviderDown, VersionMismatch
from loopforge.runtime.journal.operations import Journal, Recover, ask_journal
from loopforge.runtime.process import OpenWorker, WorkerHandle, open_worker
from loopforge.runtime.records import Desk, DeskState
from loopforge.runtime.reload import Changes
from loopforge.runtime.restarts import Down, RestartHistory, RestartPolicy, after_death, after_ready
from loopforge.workers.channel import BufferFull, ChannelClosed
from loopforge.workers.framing import Frame, FrameError, encode
from loopforge.workers.messages import PROTOCOL, FrameType, pack, unpack_header
from loopforge.workers.packing import to_plain

log = logging.getLogger("loopforge")

BOOT_S = 15.0
"""Six workers at once on two cores took 0.6 s; a cold disk or no .pyc files, several times that."""
PING_EVERY_S = 1.0
HUNG_AFTER_S = 5.0
"""Blocking calls in a worker are normal (client set-up, TLS, a 5 MB parse): well under this."""
ABORT_GRACE_S = 0.5
RETIRE_LOOK_S = 0.2
MIN_AGE_S = 10.0
TELL_WHY_S = 0.01
"""How long a dead worker's turns wait for its exit code, which makes a better message."""


@dataclass(slots=True)
class Watch:
    """What the tasks around one running worker tell one another. `why`: the first reason for its end, "" so far."""

    ready: trio.Event = field(default_factory=trio.Event)
    ready_at: float | None = None
    heard_at: float = -math.inf
    why: str = ""
    stopping: bool = False


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Runs the workers of one configuration. Start `run` in the caller's nursery.

    `journal`: None keeps turns in memory only. What it holds from before is taken up before anything else.
    """

    config: Config
    journal: Journal | None = None
    launch: OpenWorker = open_worker
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    jitter: Callable[[], float] = random.random
    dispatcher: Dispatcher = field(init=False)
    _nursery: trio.Nursery = field(init=False)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.config, journal=self.journal, jitter=self.jitter)
        if self.journal is not None:
            self.journal.around = self.dispatcher.outbox

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep every desk until cancelled; then the workers are stopped in reverse order of their start."""
        if self.journal is not None:
            self.dispatcher.recover((await ask_journal(self.journal, Recover())).turns)
        for desk in self.dispatcher.desks.values():
            if desk.routed:
                desk.wanted.set()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_time)
            for desk in self.dispatcher.desks.values():
                nursery.start_soon(self._keep, desk)
            task_status.started()

    def adopt(self, config: Config) -> Changes:
        """Go on with another configuration: workers of changed providers end with their last turn, new ones begin."""
        changes, opened = self.dispatcher.adopt(config)
        self.config = config
        for desk in opened:
            self._nursery.start_soon(self._keep, desk)
        for desk in self.dispatcher.desks.values():
            if desk.routed or not desk.idle:
                desk.wanted.set()
        return changes

    async def drain(self) -> tuple[int, int]:
        """Refuse new turns and wait, at most drain_s, for the running ones; then Dispatcher.abandon, and its answer."""
        self.dispatcher.drain()
        with trio.move_on_after(self.config.runtime.drain_s):
            await self.dispatcher.idle.wait()
        return self.dispatcher.abandon("the service stopped before this turn was done")

    async def _keep_time(self) -> None:
        dispatcher = self.dispatcher
        while True:
            try:
                wait_s = dispatcher.attempts.tick()
            except Exception:
                log.exception("the look at what is due failed through a bug of ours")
                wait_s = 1.0
            dispatcher.floor.look_soon = trio.Event()
            with trio.move_on_after(math.inf if wait_s is None else wait_s):
                await dispatcher.floor.look_soon.wait()
                continue

    # -- one worker --------------------------------------------------------------------------------------------------

    async def _keep(self, desk: Desk) -> None:
        """Run the desk's worker whenever it is wanted, until the desk is retired."""
        history = RestartHistory()
        while True:
            await desk.wanted.wait()
            if desk.retired.is_set():
                self.dispatcher.floor.forget_desk(desk)
                return
            watch = Watch()
            code = await self._run_worker(desk, watch)
            desk.wanted = trio.Event()
            if not desk.idle or desk.routed or desk.retired.is_set():
                desk.wanted.set()
            if not watch.stopping and not desk.retired.is_set():
                if watch.ready_at is not None:
                    history = after_ready(history, watch.ready_at)
                history = await self._after_death(desk, history, watch.why, code)

    async def _after_death(self, desk: Desk, history: RestartHistory, why: str, code: int | None) -> RestartHistory:
        """Wait out the back-off, or take the provider down for a while: then the next turn probes it."""
        desk.deaths, desk.last_death = desk.deaths + 1, why
        log.warning("worker %s died: %s", desk.name, why)
        decision = after_death(history, trio.current_time(), self.policy, self.jitter(), exit_code=code)
        if isinstance(decision, Down):
            error = _down_error(desk, decision, why)
            log.error("%s", error)
            self.dispatcher.attempts.provider_down(desk, decision.until, error)
            await _sleep_until(decision.until, desk)
            if desk.retired.is_set():
                return decision.history
            desk.wanted = trio.Event()
            self.dispatcher.attempts.provider_up(desk)
            if not desk.idle:  # the router may have let a turn in since, on its own look at the clock
                desk.wanted.set()
        else:
            desk.back_at = decision.start_at
            await _sleep_until(decision.start_at, desk)
        return decision.history

    async def _run_worker(self, desk: Desk, watch: Watch) -> int | None:
        """One generation, from spawn to death; all its turns are decided when this returns. Its exit code, if any.

        Raises no Exception: whatever goes wrong is the end of this worker, and of no other.
        """
        desk.generation += 1
        desk.state = DeskState.STARTING
        try:
            async with self.launch(desk.settings) as worker:
                desk.worker = worker
                try:
                    await self._serve_worker(desk, worker, watch)
                    with trio.move_on_after(TELL_WHY_S):
                        watch.why = watch.why or _exit_reason(await worker.wait_exited())
                finally:
                    watch.why = watch.why or "it closed its channel"
                    self.dispatcher.attempts.worker_gone(desk, watch.why)
            return await worker.wait_exited()  # at once: it has been reaped; above the code may have come too late
        except OSError as exc:
            watch.why = watch.why or f"it could not be started: {exc}"
        except Exception as exc:
            log.exception("worker %s was given up through a bug of ours", desk.name)
            watch.why = watch.why or f"it could not be kept: {exc}"
        self.dispatcher.attempts.worker_gone(desk, watch.why)
        return None

    async def _serve_worker(self, desk: Desk, worker: WorkerHandle, watch: Watch) -> None:
        """Until the worker's channel has been read to its end: only that ends a generation, whoever kills it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.channel.run)
            nursery.start_soon(self._watch_boot, worker, watch)
            nursery.start_soon(self._watch_heartbeat, desk, worker, watch)
            nursery.start_soon(self._stop_idle, desk, worker, watch)
            try:
                await self._read(desk, worker, watch)
            except (FrameError, VersionMismatch, ValueError, TypeError) as exc:  # what it sends makes no sense
                watch.why = watch.why or f"it sent what makes no sense: {exc}"
                worker.kill()
            except Exception as exc:
                log.exception("what worker %s sent met a bug of ours", desk.name)
                watch.why = watch.why or f"it sent what could not be handled: {exc}"
                worker.kill()
            nursery.cancel_scope.cancel()

    async def _read(self, desk: Desk, worker: WorkerHandle, watch: Watch) -> None:
        while frames := await worker.channel.receive():
            watch.heard_at = trio.current_time()
            with self.dispatcher.outbox:
                for frame in frames:
                    if frame.type == FrameType.HELLO:
                        _welcome(desk, worker, frame)
                    elif frame.type == FrameType.READY:
                        watch.ready.set()
                        watch.ready_at = trio.current_time()
                        log.info("worker %s ready (pid %d)", desk.name, worker.pid)
                        self.dispatcher.attempts.worker_ready(desk)
                    elif frame.type == FrameType.DRAIN:
                        self._replace(desk, watch, "somebody told it to end")
                    else:
                        self.dispatcher.attempts.worker_frame(desk, frame)

    async def _watch_boot(self, worker: WorkerHandle, watch: Watch) -> None:
        with trio.move_on_after(BOOT_S):
            await watch.ready.wait()
            return
        watch.why = f"it was not ready within {BOOT_S:g} s"
        worker.kill()

    async def _watch_heartbeat(self, desk: Desk, worker: WorkerHandle, watch: Watch) -> None:
        """A ping a second; no sign of life for 5 s is a hang: SIGABRT shows the line that blocks, SIGKILL ends it."""
        await watch.ready.wait()
        silent_since: float | None = None
        while True:
            asked_at = trio.current_time()
            _post(worker, encode(FrameType.PING))
            await trio.sleep(PING_EVERY_S)
            await trio.lowlevel.checkpoint()  # what came while this loop was late is read before it is judged
            now = trio.current_time()
            self._watch_memory(desk, worker, watch)
            if self.dispatcher.attempts.is_stuck(desk):
                watch.why = watch.why or "it did not let go of the turns that were ended"
                worker.kill()
                return
            if watch.heard_at >= asked_at or now - asked_at >= PING_EVERY_S + 1.0:  # or the lag was ours
                silent_since = None
                continue
            silent_since = asked_at if silent_since is None else silent_since
            if now - silent_since >= HUNG_AFTER_S:
                watch.why = watch.why or f"it gave no sign of life for {HUNG_AFTER_S:g} s"
                worker.abort()
                await trio.sleep(ABORT_GRACE_S)
                worker.kill()
                return

    def _watch_memory(self, desk: Desk, worker: WorkerHandle, watch: Watch) -> None:
        """Over its limit a worker finishes its turns while another one takes new ones; at twice the limit it is killed.

        A worker that has just begun is that large by nature: replacing it would never end.
        """
        limit = desk.settings.memory_limit_mb * 2**20
        if desk.rss_bytes > 2 * limit:
            watch.why = watch.why or f"it had {desk.rss_bytes / 2**20:.0f} MiB, twice its memory_limit_mb"
            worker.kill()
        elif desk.rss_bytes > limit and not desk.retired.is_set() and _age_s(watch) > MIN_AGE_S:
            self._replace(desk, watch, f"it has {desk.rss_bytes / 2**20:.0f} MiB, more than its memory_limit_mb")

    def _replace(self, desk: Desk, watch: Watch, why: str) -> None:
        """Another worker takes new turns; this one ends with those that it has."""
        if desk.retired.is_set():
            return
        watch.why = watch.why or why
        log.warning("worker %s is replaced: %s", desk.name, why)
        successor = self.dispatcher.floor.succeed(desk)
        self._nursery.start_soon(self._keep, successor)
        if successor.routed or not successor.idle:
            successor.wanted.set()

    async def _stop_idle(self, desk: Desk, worker: WorkerHandle, watch: Watch) -> None:
        """A worker ends that no route needs, after idle_worker_s without a turn; one whose desk is retired, at once."""
        await watch.ready.wait()
        while not desk.retired.is_set():
            left_s = desk.idle_since + self.config.runtime.idle_worker_s - trio.current_time()
            if not desk.routed and desk.idle and left_s <= 0:
                break
            with trio.move_on_after(math.inf if desk.routed else max(left_s, 1.0)):
                await desk.retired.wait()
        while desk.running:  # noqa: ASYNC110 - a look now and then costs less than a word at every turn's end
            await trio.sleep(RETIRE_LOOK_S)
        desk.state = DeskState.STOPPED  # from here on no turn is assigned to it
        watch.stopping = True
        watch.why = watch.why or "it was idle"
        _post(worker, encode(FrameType.DRAIN))
        await trio.sleep(HUNG_AFTER_S)
        worker.kill()


def _age_s(watch: Watch) -> float:
    return 0.0 if watch.ready_at is None else trio.current_time() - watch.ready_at


async def _sleep_until(at: float, desk: Desk) -> None:
    """A desk that is retired meanwhile waits no longer."""
    with trio.move_on_at(at):
        await desk.retired.wait()


def _welcome(desk: Desk, worker: WorkerHandle, hello: Frame) -> None:
    """Answer HELLO with the provider's settings. Raises VersionMismatch."""
    header = unpack_header(hello.header)
    if (header.get("protocol"), header.get("version")) != (PROTOCOL, loopforge.__version__):
        what = f"the worker is version {header.get('version')}, the service {loopforge.__version__}"
        raise VersionMismatch(desk.name, what)
    welcome = pack({"protocol": PROTOCOL, "version": loopforge.__version__, "pid": os.getpid()})
    _post(worker, encode(FrameType.WELCOME, header=welcome, body=pack(to_plain(desk.settings))))


def _down_error(desk: Desk, decision: Down, why: str) -> ProviderDown:
    if decision.why == "configuration":
        action = "see the daemon's log, correct config.toml and restart the service"
        return ProviderDown(desk.name, f"its worker cannot run with this configuration ({why})", action=action)
    deaths = len(decision.history.deaths)
    return ProviderDown(desk.name, f"its worker died {deaths} times in a short while, last: {why}")


def _post(worker: WorkerHandle, frame: bytes) -> None:
    """A closed or stuffed channel decides nothing: the reader's end, or the missed heartbeats, do."""
    with contextlib.suppress(ChannelClosed, BufferFull):
        worker.channel.post(frame)


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"it exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"killed by signal {-code}"

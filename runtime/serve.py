"""The daemon: one configuration, one socket, signals. `loopforge serve` runs it in the foreground.

SIGTERM drains; a second SIGTERM later than SAME_SIGNAL_S, or SIGINT, stops now. SIGHUP reads the configuration again.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import loopforge
from loopforge.runtime.config import paths
from loopforge.runtime.config.child import check_in_child
from loopforge.runtime.config.values import Config, RuntimeSettings
from loopforge.runtime.journal.disk import open_journal
from loopforge.runtime.journal.operations import Journal
from loopforge.runtime.listener import bound_socket, listen
from loopforge.runtime.supervisor import Supervisor
from loopforge.workers.packing import to_plain

log = logging.getLogger("loopforge")

_PR_SET_DUMPABLE = 4
SAME_SIGNAL_S = 0.1
"""timeout(1) tells its child to end and then the whole group: that is one wish, of which 9 ms lay between the two."""
STOPPED = 0
STOPPED_WITH_TURNS = 1


async def serve(config: Config, socket_path: Path | None = None) -> int:
    """Run until a signal ends it. The exit code: 0, or 1 when turns had to be abandoned.

    `socket_path`: None takes [runtime] socket, else run/loopforge.sock in LoopForge's home. Raises SocketBusy when
    another service holds it, UnusablePath, UnusableSocket, OSError when it cannot be made.
    """
    hide_memory()
    path = socket_path or paths.server_socket(config.runtime.socket, os.environ)
    with bound_socket(path, config.runtime) as listener:
        async with _journal(config.runtime) as journal:
            supervisor = Supervisor(config=config, journal=journal)
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                await nursery.start(listen, listener, supervisor.dispatcher)
                tame_collector()
                log.info("LoopForge %s serves %s on %s", loopforge.__version__, config.path, path)
                abandoned = await until_stopped(supervisor)
                nursery.cancel_scope.cancel()
    log.info("stopped")
    return STOPPED_WITH_TURNS if abandoned else STOPPED


@asynccontextmanager
async def _journal(settings: RuntimeSettings) -> AsyncIterator[Journal | None]:
    """Where accepted turns are on disk, None when [runtime] journal is false. Raises UnusableJournal."""
    if not settings.journal:
        yield None
        return
    path = paths.journal_path(os.environ)
    async with open_journal(path, retain_days=settings.retain_days, retain_mb=settings.retain_mb) as journal:
        yield journal


async def until_stopped(supervisor: Supervisor) -> int:
    """Wait for the signals and obey them. How many turns failed by that."""
    left: list[tuple[int, int]] = []
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            supervisor.dispatcher.reload = lambda told: nursery.start_soon(_reload, supervisor, told)
            draining, same_until = False, 0.0

            async def drain() -> None:
                supervisor.dispatcher.drain()
                await trio.sleep(SAME_SIGNAL_S)  # told when another one counts
                log.info("SIGTERM: draining for at most %g s", supervisor.config.runtime.drain_s)
                left.append(await supervisor.drain())
                nursery.cancel_scope.cancel()

            async for number in signals:
                if number == signal.SIGHUP:
                    nursery.start_soon(_reload, supervisor, _ignore)
                elif number == signal.SIGTERM and not draining:
                    draining, same_until = True, trio.current_time() + SAME_SIGNAL_S
                    nursery.start_soon(drain)
                elif number == signal.SIGTERM and trio.current_time() < same_until:
                    continue
                else:
                    log.info("%s: stopping now", signal.Signals(number).name)
                    left.append(supervisor.dispatcher.abandon("the service was stopped before this turn was done"))
                    nursery.cancel_scope.cancel()
    if kept := sum(kept for _, kept in left):
        log.warning("turns that wait in the journal for the next start: %d", kept)
    return sum(failed for failed, _ in left)


async def _reload(supervisor: Supervisor, told: Callable[[dict[str, Any]], None]) -> None:
    """Read the configuration again; one that has errors changes nothing. `told` hears what came of it."""
    checked = await check_in_child(Path(supervisor.config.path), os.environ)
    if checked.config is None:
        for problem in checked.problems:
            log.error("not reloaded: %s", problem)
        told({"ok": False, "problems": [to_plain(problem) for problem in checked.problems]})
        return
    changes = supervisor.adopt(checked.config)
    for problem in checked.config.warnings:
        log.warning("%s", problem)
    log.info("reloaded %s: %s", checked.config.path, changes)
    told(
        {
            "ok": True,
            "path": checked.config.path,
            "summary": str(changes),
            "changes": changes.to_plain(),
            "warnings": [to_plain(problem) for problem in checked.config.warnings],
        }
    )


def _ignore(_: object) -> None:
    """A signal waits for no answer; the log has it."""


def hide_memory() -> None:
    """PR_SET_DUMPABLE 0: another process of this user cannot read our environment or memory through /proc."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def tame_collector() -> None:
    """The collector's full passes were most of a busy loop's tail (30 -> 3.4 ms p99 with 1,000 streams)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)

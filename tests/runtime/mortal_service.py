"""A service of one's own process that is killed, or kills, at an exact point of a turn's life. For tests of kill -9.

`python -P mortal_service.py HOME CONFIG`: the listener, the supervisor and the journal on disk as `serve` has them;
CONFIG is a Config as JSON. A turn whose id is VICTIM:PROVIDER:OPERATION:WHEN meets its point when the journal is about
to get that operation of it (WHEN is "before"), or has it on disk while nobody has been told ("after"): then VICTIM is
killed, once, over restarts too. VICTIM: "service" is this process, "worker" PROVIDER's, a number a process by its id.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import trio

from loopforge.runtime.config.values import Config, RuntimeSettings
from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.disk import SqliteJournal, open_journal
from loopforge.runtime.journal.operations import Backlog, Operation
from loopforge.runtime.listener import bound_socket, listen
from loopforge.runtime.supervisor import Supervisor
from loopforge.workers.packing import from_plain

R = TypeVar("R")
SOCKET = "s"


class DeathRow:
    """A journal around which processes die. `supervisor` is known once there is one."""

    durability = "disk"

    def __init__(self, journal: SqliteJournal, folder: Path) -> None:
        self.supervisor: Supervisor | None = None
        self._journal = journal
        self._folder = folder

    @property
    def around(self) -> AbstractContextManager[Any]:
        return self._journal.around

    @around.setter
    def around(self, around: AbstractContextManager[Any]) -> None:
        self._journal.around = around

    @property
    def backlog(self) -> Backlog:
        return self._journal.backlog

    def post(self, operation: Operation[R], done: Callable[[R | JournalFailed], None], *, urgent: bool = False) -> None:
        turn_id, name = str(getattr(operation, "id", "")), type(operation).__name__

        def told(answer: R | JournalFailed) -> None:
            self._meet(turn_id, name, "after")
            done(answer)

        self._meet(turn_id, name, "before")
        self._journal.post(operation, told, urgent=urgent)

    def status(self) -> dict[str, Any]:
        return self._journal.status()

    async def aclose(self) -> None:
        await self._journal.aclose()

    def _meet(self, turn_id: str, operation: str, when: str) -> None:
        victim, _, point = turn_id.partition(":")
        provider, _, at = point.partition(":")
        if at != f"{operation}:{when}":
            return
        try:
            (self._folder / turn_id).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(self._pid(victim, provider), signal.SIGKILL)

    def _pid(self, victim: str, provider: str) -> int:
        if victim == "service":
            return os.getpid()
        if victim == "worker":
            assert self.supervisor is not None
            worker = self.supervisor.dispatcher.desks[provider].worker
            assert worker is not None, "there is a worker to kill"
            return worker.pid
        return int(victim)


async def main(home: Path, config: Config) -> None:
    killed = home / "killed"
    killed.mkdir(exist_ok=True)
    with bound_socket(home / SOCKET, RuntimeSettings()) as listener:
        async with open_journal(home / "journal.db") as journal, trio.open_nursery() as nursery:
            row = DeathRow(journal, killed)
            row.supervisor = Supervisor(config=config, journal=row)
            await nursery.start(row.supervisor.run)
            await nursery.start(listen, listener, row.supervisor.dispatcher)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(main, Path(sys.argv[1]), from_plain(Config, json.loads(sys.argv[2])))

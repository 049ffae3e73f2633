"""Sixty-four clients in a process that is going to be killed: says what was acknowledged, a line for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from loopforge.runtime.journal.disk import SqliteJournal, open_journal
from loopforge.runtime.journal.operations import Accepted, Written
from tests.runtime.journal.sample import accept, attempt, finish, running

CLIENTS = 64
FOR_EVER = 1e6  # days


async def write(path: Path, first: int) -> None:
    async with open_journal(path, retain_days=FOR_EVER, ballast_bytes=0) as journal:
        for client in range(CLIENTS):
            _go_on(journal, f"{first}-{client}", 0)
        await trio.sleep_forever()


def _go_on(journal: SqliteJournal, client: str, number: int) -> None:
    """One turn after the other; every third is never finished, every other is accepted with its attempt."""
    turn_id = f"{client}-{number}"

    def told(state: str, then: Callable[[], None]) -> Callable[[object], None]:
        def done(answer: object) -> None:
            assert answer in (Accepted(), Written()), answer
            os.write(1, f"{turn_id} {state}\n".encode())
            then()

        return done

    def accepted() -> None:
        journal.post(running(turn_id), told("running", started))

    def started() -> None:
        if number % 3 == 0:
            following()
        else:
            journal.post(finish(turn_id), told("done", following))

    def following() -> None:
        _go_on(journal, client, number + 1)

    if number % 2:
        journal.post(accept(turn_id, running=attempt()), told("running", started))
    else:
        journal.post(accept(turn_id), told("accepted", accepted))


if __name__ == "__main__":
    trio.run(write, Path(sys.argv[1]), int(sys.argv[2]))

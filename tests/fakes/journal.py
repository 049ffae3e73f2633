"""A journal on disk without a thread: the real store, whose commits a test lets through, holds back, or cuts off.

Works in virtual time. Like its twin it never answers within `post`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import trio

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.operations import Backlog, Operation, weight_bytes
from loopforge.runtime.journal.store import Store

R = TypeVar("R")


class SteppedJournal:
    """`held`: what is posted waits for `release`. `refuses`: kinds of operations that fail, as on a full disk.

    `crash`, or the commit of operation number `crash_after` (the first one is 1): from then on nothing is written and
    nobody is answered, as after kill -9. `crashed` is set then.

    `committed`: the operations that were written, in order.
    """

    durability = "disk"

    def __init__(self, store: Store, *, held: bool = False, crash_after: int | None = None) -> None:
        self.around: AbstractContextManager[Any] = nullcontext()
        self.refuses: tuple[type, ...] = ()
        self.committed: list[Operation[Any]] = []
        self.crashed = trio.Event()
        self._store = store
        self._held = held
        self._crash_after = crash_after
        self._waiting: list[tuple[Operation[Any], Callable[[Any], None]]] = []
        self._token = trio.lowlevel.current_trio_token()

    @property
    def backlog(self) -> Backlog:
        return Backlog(len(self._waiting), sum(weight_bytes(operation) for operation, _ in self._waiting))

    def post(
        self,
        operation: Operation[R],
        done: Callable[[R | JournalFailed], None],
        *,
        urgent: bool = False,  # noqa: ARG002 - commits are the test's to order
    ) -> None:
        if self.crashed.is_set():
            return
        self._waiting.append((operation, done))
        if not self._held:
            self._token.run_sync_soon(self._commit)

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        self._commit()

    def crash(self) -> None:
        self._waiting.clear()
        self.crashed.set()

    def status(self) -> dict[str, Any]:
        return {"durability": self.durability, "problem": ""}

    async def aclose(self) -> None:
        """Nothing waits that anybody would write."""

    def _commit(self) -> None:
        if self._held:
            return
        group, self._waiting = self._waiting, []
        with self.around:
            for operation, done in group:
                if self.crashed.is_set():
                    return
                if isinstance(operation, self.refuses):
                    done(JournalFailed(what="no space is left on the disk"))
                    continue
                [answer] = self._store.apply([operation], 0.0)
                self.committed.append(operation)
                if len(self.committed) == self._crash_after:  # written, and nobody learns of it
                    self.crash()
                    return
                done(answer)

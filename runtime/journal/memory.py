"""The journal of a runtime inside another program: it answers at once and keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.operations import (
    Accept,
    Accepted,
    Backlog,
    Found,
    List,
    Listing,
    Lookup,
    Operation,
    Purge,
    Purged,
    Recover,
    Recovered,
    Show,
    Usage,
    UsageTable,
    Written,
)

R = TypeVar("R")


class MemoryJournal:
    """Answers at once and keeps nothing: ids and outcomes are known as long as kept.py knows them."""

    durability = "memory"
    backlog = Backlog(0, 0)

    def __init__(self) -> None:
        self.around: AbstractContextManager[Any] = nullcontext()

    def post(
        self,
        operation: Operation[R],
        done: Callable[[R | JournalFailed], None],
        *,
        urgent: bool = False,  # noqa: ARG002 - nothing waits here
    ) -> None:
        done(cast("R", _answer(operation)))

    def status(self) -> dict[str, Any]:
        return {"durability": self.durability, "problem": ""}

    async def aclose(self) -> None:
        """Nothing waits."""


def _answer(operation: Operation[Any]) -> object:
    match operation:
        case Accept():
            return _ACCEPTED
        case Lookup() | Show():
            return Found(None)
        case List():
            return Listing((), more=False)
        case Usage():
            return UsageTable((), (), more=False)
        case Purge():
            return Purged(0)
        case Recover():
            return Recovered(())
    return _WRITTEN


_ACCEPTED = Accepted()
_WRITTEN = Written()

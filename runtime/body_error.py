"""Keeps a nursery of ours from wrapping the exceptions of the caller's block. For client.py."""

from __future__ import annotations

from types import TracebackType

import trio


class BodyError:
    """Carries the caller's own exception past the nursery: it leaves as itself, not inside a group.

    A Cancelled, or a group of nothing else, is not the caller's own: what stands beside it says what went wrong.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None) -> None:
        cancelled = isinstance(exc, trio.Cancelled) or _is_all_cancelled(exc)
        self.error = None if cancelled else exc

    def is_all_of(self, group: BaseExceptionGroup[BaseException]) -> bool:
        """Whether nothing else went wrong: a crash of ours is not hidden behind what the caller made of it."""
        if self.error is None:
            return False
        own = {id(leaf) for leaf in _leaves(self.error)}  # nurseries make groups anew; what is in them stays
        return _is_all_cancelled(group.split(lambda exc: id(exc) in own)[1])


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
    return [exc]


def _is_all_cancelled(exc: BaseException | None) -> bool:
    return exc is None or (isinstance(exc, BaseExceptionGroup) and exc.split(trio.Cancelled)[1] is None)

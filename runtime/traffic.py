"""What a provider's own traffic says about its health: outcomes, error classes, latencies, its last good turn. Pure.

An attempt (one turn, sent once) is recorded when it ends, in constant time; the caller reads the clock. The last WINDOW
attempts are kept for percentiles, everything else is a count, so a provider takes 90 KB at most however long the
service runs, and next to nothing before its first turn. Percentiles are nearest-rank: always a value that was seen.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from loopforge.runtime.rehearsal.figures import spread

WINDOW = 512
"""Attempts that the percentiles are of: enough for a p99, little enough to be about today."""
MAX_CLASSES = 32
"""Error classes that are told apart. There are about 30; a worker of another version may know others."""
OTHER = "other"
MAX_NAME = 64
MAX_TEXT = 300

Outcome = Literal["done", "failed", "cancelled"]

_DONE, _CANCELLED = 0, 1


class _Ended(NamedTuple):
    """`what`: which class it ended in. `first_s`, `total_s`: seconds, None when not measured."""

    at: float
    what: int
    first_s: float | None
    total_s: float | None


class Traffic:
    """One provider's attempts, as they ended."""

    def __init__(self) -> None:
        self._classes: list[str] = ["done", "cancelled"]  # then those of failures, in the order they came
        self._index: dict[str, int] = {}
        self._counts: list[int] = [0, 0]  # since the service started, by class
        self._window: deque[_Ended] = deque(maxlen=WINDOW)
        self._last_done: float | None = None
        self._last_failed: tuple[float, str, str] | None = None
        self._told: dict[str, Any] | None = None  # the window as it was last told; None since something has come

    def record(
        self,
        outcome: Outcome,
        now: float,
        *,
        total_s: float,
        first_token_s: object = None,
        error: str = "",
        next_step: str = "",
    ) -> None:
        """An attempt has ended, `total_s` after it was sent.

        `first_token_s`: as the worker measured it; whatever is no duration counts as not measured. `error`: class name
        of a failure, `next_step`: its action. Raises nothing.
        """
        what = _DONE if outcome == "done" else _CANCELLED
        if outcome == "done":
            self._last_done = now
        elif outcome == "failed":
            what = self._class_of(error)
            self._last_failed = (now, self._classes[what], next_step[:MAX_TEXT])
        self._counts[what] += 1
        self._window.append(_Ended(now, what, _duration(first_token_s), _duration(total_s)))
        self._told = None

    def snapshot(self, now: float) -> dict[str, Any]:
        """Plain values. Counts are since the service started; `window` is of the last WINDOW attempts alone.

        Durations in seconds; `first_token` and `total` are of attempts that were done, None when there were none.
        """
        if self._told is None:
            self._told = self._tell_window()
        since_s = now - self._window[0].at if self._window else 0.0
        return {
            "attempts": sum(self._counts),
            "done": self._counts[_DONE],
            "cancelled": self._counts[_CANCELLED],
            "failed": self._failures(enumerate(self._counts)),
            "last_done_ago_s": None if self._last_done is None else now - self._last_done,
            "last_failure": self._tell_last_failure(now),
            "window": {"since_s": since_s, **self._told},
        }

    def _class_of(self, error: str) -> int:
        name = error[:MAX_NAME] or OTHER
        if name not in self._index and len(self._index) >= MAX_CLASSES - 1:
            name = OTHER
        if name not in self._index:
            self._index[name] = len(self._classes)
            self._classes.append(name)
            self._counts.append(0)
        return self._index[name]

    def _failures(self, counts: Iterable[tuple[int, int]]) -> dict[str, int]:
        """Class name -> how often, the most frequent first."""
        failed = [(self._classes[what], count) for what, count in counts if what > _CANCELLED and count]
        return dict(sorted(failed, key=lambda item: -item[1]))

    def _tell_window(self) -> dict[str, Any]:
        counts = Counter(ended.what for ended in self._window)
        done = [ended for ended in self._window if ended.what == _DONE]
        first = spread(ended.first_s for ended in done if ended.first_s is not None)
        total = spread(ended.total_s for ended in done if ended.total_s is not None)
        return {
            "attempts": len(self._window),
            "done": counts[_DONE],
            "cancelled": counts[_CANCELLED],
            "failed": self._failures(sorted(counts.items())),
            "first_token": None if first is None else first.to_plain(),
            "total": None if total is None else total.to_plain(),
        }

    def _tell_last_failure(self, now: float) -> dict[str, Any] | None:
        if self._last_failed is None:
            return None
        at, error, next_step = self._last_failed
        return {"error": error, "next_step": next_step, "ago_s": now - at}


def _duration(value: object) -> float | None:
    """Seconds, or None for what is no duration: it may come from a worker of another version."""
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None

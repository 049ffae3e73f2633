"""What became of each turn, and the numbers made of it. Pure: the caller reads the clock.

A turn is entered in the ledger before it is posted and ended when its outcome has arrived; one that is entered and
never ended is lost, whatever the runtime says about it. Percentiles are nearest-rank: always a value that was seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["done", "failed", "cancelled"]


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest of `values` that at least `percent` % of them do not exceed (nearest rank). Any order will do.

    `percent`: 1 to 100; 100 is the largest value. Raises ValueError without values or outside that range.
    """
    if not values:
        raise ValueError("no values")
    if not 1 <= percent <= 100:
        raise ValueError(f"percent is 1 to 100, not {percent}")
    rank = -(-len(values) * percent // 100)  # rounded up, in whole numbers: 0.07 * 100 is 7.000000000000001
    return sorted(values)[rank - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a set of durations lies, in seconds. `count` says how much p99 is worth: below 100 it is the largest."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float

    def to_plain(self) -> dict[str, Any]:
        return {"count": self.count, "p50_s": self.p50_s, "p99_s": self.p99_s, "max_s": self.max_s}


def spread(values: Iterable[float]) -> Spread | None:
    """None when there are no values: there is no latency of nothing."""
    seen = sorted(values)
    if not seen:
        return None
    return Spread(count=len(seen), p50_s=percentile(seen, 50), p99_s=percentile(seen, 99), max_s=seen[-1])


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One posted turn. Times are seconds on one clock, None until it happens.

    `measured`: False for a warm-up turn: it is counted, and in no duration.
    `provider`: where the route sends it, then the one that served it last. `queued_s`: what the runtime measured
    between accepting and sending it. `attempts`: how often it was sent, 0 before the first. `restarts`: how often the
    client was told to drop what had come.
    """

    kind: str
    provider: str
    posted_at: float
    measured: bool = True
    first_token_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    error: str = ""
    message: str = ""
    queued_s: float | None = None
    attempts: int = 0
    restarts: int = 0

    def end(self, outcome: Outcome, now: float, *, error: str = "", message: str = "") -> None:
        """The one outcome. `error`, `message`: class name and text of what a failed turn failed with."""
        if self.outcome is not None:
            raise AssertionError(f"a {self.kind} turn that was {self.outcome} is now {outcome}")
        self.outcome, self.ended_at, self.error, self.message = outcome, now, error, message


@dataclass(slots=True)
class Ledger:
    """Every turn of a run, in the order of posting."""

    entries: list[Entry] = field(default_factory=list)

    def post(self, kind: str, provider: str, now: float, *, measured: bool = True) -> Entry:
        entry = Entry(kind=kind, provider=provider, posted_at=now, measured=measured)
        self.entries.append(entry)
        return entry

    @property
    def open(self) -> int:
        """Turns without an outcome so far."""
        return sum(entry.outcome is None for entry in self.entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The numbers of a set of turns; posted = done + failed + cancelled + lost.

    `failed`: class name of the error -> turns, most frequent first. `latency`: of the turns that are done, posted to
    outcome at the client. `failed_after`: the same of those that failed: how long a caller waited for bad news.
    `first_token`: posted to first delta at the client, of all that got one. `queued`: as the runtime measured it, of
    those that are done. `resent`: attempts beyond each turn's first.
    """

    posted: int
    done: int
    failed: dict[str, int]
    cancelled: int
    lost: int
    latency: Spread | None
    failed_after: Spread | None
    first_token: Spread | None
    queued: Spread | None
    resent: int
    restarts: int

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    def to_plain(self) -> dict[str, Any]:
        """For JSON. A spread that nothing was measured for is null."""
        return {
            "posted": self.posted,
            "done": self.done,
            "failed": self.failures,
            "failed_with": dict(self.failed),
            "cancelled": self.cancelled,
            "lost": self.lost,
            "latency": _plain(self.latency),
            "failed_after": _plain(self.failed_after),
            "first_token": _plain(self.first_token),
            "queued": _plain(self.queued),
            "resent": self.resent,
            "restarts": self.restarts,
        }


def _plain(value: Spread | None) -> dict[str, Any] | None:
    return None if value is None else value.to_plain()


def figures(entries: Iterable[Entry]) -> Figures:
    """Count and measure."""
    turns = list(entries)
    timed = [turn for turn in turns if turn.measured]
    outcomes = Counter(turn.outcome for turn in turns)
    errors = Counter(turn.error for turn in turns if turn.outcome == "failed")
    return Figures(
        posted=len(turns),
        done=outcomes["done"],
        failed=dict(errors.most_common()),
        cancelled=outcomes["cancelled"],
        lost=outcomes[None],
        latency=spread(durations(timed, "done")),
        failed_after=spread(durations(timed, "failed")),
        first_token=spread(turn.first_token_at - turn.posted_at for turn in timed if turn.first_token_at is not None),
        queued=spread(turn.queued_s for turn in timed if turn.outcome == "done" and turn.queued_s is not None),
        resent=sum(max(turn.attempts - 1, 0) for turn in turns),
        restarts=sum(turn.restarts for turn in turns),
    )


def durations(turns: Iterable[Entry], outcome: Outcome) -> Iterable[float]:
    """Posted to outcome, of the turns that had this one."""
    return (turn.ended_at - turn.posted_at for turn in turns if turn.outcome == outcome and turn.ended_at is not None)


def by_route(entries: Iterable[Entry]) -> dict[tuple[str, str], Figures]:
    """(kind, provider) -> its figures, in the order in which the pairs first appear."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.kind, entry.provider), []).append(entry)
    return {pair: figures(group) for pair, group in groups.items()}

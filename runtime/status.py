"""What `loopforge status` shows, as plain values made of the supervisor's records. Reads them and changes nothing."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import loopforge
from loopforge.runtime.breakers import BreakerStatus
from loopforge.runtime.config.values import Config, Target
from loopforge.runtime.records import Desk, DeskState, Phase, TurnRecord
from loopforge.runtime.taskqueue import QueueStatus, TaskQueue

OUTCOMES = ("done", "failed", "cancelled")
MAX_LIVE = 100
"""Turns listed one by one; the counts are of all."""


def describe(
    config: Config, desks: Sequence[Desk], outcomes: Iterable[Counter[str]], live: Sequence[TurnRecord], now: float
) -> dict[str, Any]:
    """Everything but what the service knows of itself. Times in seconds, sizes in bytes.

    `outcomes`: of every provider that there is, or was since the service began.
    """
    ended = list(outcomes)
    totals = {name: sum(counts[name] for counts in ended) for name in OUTCOMES}
    held = sum(record.phase is Phase.HELD for record in live)
    waiting = sum(record.phase is Phase.WAITING for record in live) + held
    return {
        "version": loopforge.__version__,
        "pid": os.getpid(),
        "rss_bytes": memory_bytes(),
        "config": config.path,
        "turns": {"waiting": waiting, "held": held, "running": len(live) - waiting, **totals},
        "providers": [_desk_status(desk, now) for desk in desks],
        "routes": {kind: _route_status(route.targets) for kind, route in config.routes.items()},
        "live": [_turn_status(record, now) for record in live[:MAX_LIVE]],
    }


def memory_bytes() -> int:
    """Resident memory of this process; 0 when no descriptor is free to look it up with."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _desk_status(desk: Desk, now: float) -> dict[str, Any]:
    down_for_s = desk.down_until - now
    has_queue = desk.successor is None  # else that one has it, and shows it
    queue = (desk.queue if has_queue else TaskQueue(desk.settings)).snapshot(now)
    return {
        "name": desk.name,
        "kind": desk.settings.kind,
        "base_url": desk.settings.base_url,
        "state": "retiring" if desk.retired.is_set() else desk.state.value,
        "pid": None if desk.worker is None else desk.worker.pid,
        "generation": desk.generation,
        "deaths": desk.deaths,
        "last_death": desk.last_death,
        "back_in_s": _back_in_s(desk, now),
        "down_for_s": down_for_s if 0 < down_for_s < math.inf else None,
        "down_reason": desk.down_reason if desk.state is DeskState.DOWN else "",
        "slots": desk.settings.max_concurrency,
        "slots_now": queue.max_concurrency,
        "slots_from": "config" if desk.adaptive is None else desk.adaptive.source,
        "slots_told": None if desk.adaptive is None else desk.adaptive.told,
        "running": len(desk.running),
        "reserve": queue.reserve,
        "queued": dict(queue.waiting),
        "queued_bytes": queue.queued_bytes,
        "oldest_wait_s": queue.oldest_wait_s,
        "rss_bytes": desk.rss_bytes,
        "cpu_s": desk.cpu_s,
        "outcomes": {name: desk.outcomes[name] for name in OUTCOMES},
        "traffic": desk.traffic.snapshot(now),
        "limits": _limits_status(queue, now),
    }


def _back_in_s(desk: Desk, now: float) -> float | None:
    """Until the worker is started again that waits out its back-off after a death; None when none waits."""
    waits = desk.state is DeskState.STOPPED and desk.wanted.is_set() and not desk.retired.is_set()
    return desk.back_at - now if waits and desk.back_at > now else None


def _limits_status(queue: QueueStatus, now: float) -> dict[str, Any]:
    """The last minute; limits of 0 are none. `next_in_s`: until they let the next turn start; None: they do."""
    next_in_s = queue.limited_until - now
    return {
        "requests": queue.rates.requests,
        "requests_limit": queue.rates.requests_limit,
        "tokens": queue.rates.tokens,
        "tokens_limit": queue.rates.tokens_limit,
        "next_in_s": next_in_s if 0 < next_in_s < math.inf else None,
    }


def breaker_status(row: BreakerStatus, now: float) -> dict[str, Any]:
    """`for_s`: until it is half open, or until the provider's own time to come back; None when no time is known."""
    for_s = row.until - now
    return {
        "provider": row.provider,
        "model": row.model,
        "state": row.state,
        "failures": row.failures,
        "for_s": for_s if 0 < for_s < math.inf else None,
        "why": row.why,
    }


def _route_status(targets: tuple[Target, ...]) -> list[str]:
    return [f"{target.provider}/{target.model}" for target in targets]


def _turn_status(record: TurnRecord, now: float) -> dict[str, Any]:
    return {
        "id": record.id,
        "kind": record.kind,
        "session": record.session,
        "lane": record.lane,
        "provider": record.target.provider,
        "model": record.target.model,
        "phase": record.phase.value,
        "held_for": record.held_for,
        "held_s": max(record.due - now, 0.0) if record.held_for else None,
        "attempt": record.attempt,
        "age_s": now - record.accepted_at,
        "deadline_in_s": record.deadline - now,
    }

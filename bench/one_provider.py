"""All kinds at one provider, as the default configuration has it: what planning waits, in virtual time.

A process per provider isolates nothing here; the order of the queue must. The real TaskQueue of bench/workloads/
one-provider.toml: 4 slots, 40 coding turns of 15 to 25 s waiting, a planning turn of 2 to 4 s about every 5 s. With a
reserved slot, with lanes alone, and first come first served. Called by isolation.py.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bench.report import percentile
from bench.workload import Arrival, Workload
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Lane
from loopforge.runtime.config.resolve import LANE_OF_KIND
from loopforge.runtime.taskqueue import Item, TaskQueue

Order = Literal["reserved slot", "lanes alone", "first come, first served"]
ORDERS: tuple[Order, ...] = ("reserved slot", "lanes alone", "first come, first served")


@dataclass(frozen=True)
class Ran:
    """Seconds: what the turns of each kind waited for their slot, and when the kind's last one ended.

    `alone`: the waits of planning turns that came while no other one waited or ran. A reserved slot is free then.
    """

    waits: Mapping[str, list[float]]
    alone: list[float]
    ends: Mapping[str, float]


def simulate(workload: Workload, order: Order, seed: int) -> Ran:
    """Play the workload's turns at its provider, in virtual time."""
    arrivals = workload.arrivals(workload.loads, math.inf, seed=seed)
    queue = TaskQueue(_settings(workload, order))
    events: list[tuple[float, int, bool]] = [(arrival.at_s, place, True) for place, arrival in enumerate(arrivals)]
    heapq.heapify(events)
    waits: dict[int, float] = {}
    ends: dict[str, float] = {}
    planning: set[int] = set()  # that wait or run
    alone: list[int] = []
    while events:
        now, place, arrives = heapq.heappop(events)
        kind = arrivals[place].load.kind
        if arrives:
            queue.offer(_item(place, arrivals[place], order), now)
            if kind == "planning":
                if not planning:
                    alone.append(place)
                planning.add(place)
        else:
            queue.release(1, str(place))
            planning.discard(place)
            ends[kind] = now
        for assignment in queue.assign(now, generation=1):
            begun = int(assignment.item.id)
            waits[begun] = assignment.waited_s
            heapq.heappush(events, (now + arrivals[begun].takes_s, begun, False))
    by_kind: dict[str, list[float]] = {}
    for place, arrival in enumerate(arrivals):
        by_kind.setdefault(arrival.load.kind, []).append(waits[place])
    return Ran(by_kind, [waits[place] for place in alone], ends)


def figures(ran: Iterable[Ran]) -> dict[str, float]:
    """Planning's waits over several runs, and when the last coding turn ended at the latest."""
    runs = list(ran)
    waits = [wait for one in runs for wait in one.waits["planning"]]
    return {
        "planning p50": percentile(waits, 50),
        "planning max": max(waits),
        "no other planning turn there, max": max(wait for one in runs for wait in one.alone),
        "coding ends at": max(one.ends["coding"] for one in runs),
    }


def _settings(workload: Workload, order: Order) -> ProviderSettings:
    ((name, provider),) = workload.providers.items()
    settings = {**provider.settings} if order == "reserved slot" else {**provider.settings, "reserve": 0}
    return ProviderSettings(name=name, kind="openai_compatible", **settings)


def _item(place: int, arrival: Arrival, order: Order) -> Item:
    lane: Lane = LANE_OF_KIND[arrival.load.kind]
    if order == "first come, first served":  # one lane, one session: nobody before anybody else
        return Item(id=str(place))
    return Item(id=str(place), session=arrival.session, lane=lane)

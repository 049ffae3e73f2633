"""The case the default configuration makes, in virtual time: planning, coding and summaries at one provider."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

import pytest

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Lane
from loopforge.runtime.taskqueue import PASSED_OVER_S, Item, TaskQueue
from tests.runtime.queueing import settings, turn


@dataclass(frozen=True)
class Arrival:
    at: float
    item: Item
    takes_s: float


def simulate(provider: ProviderSettings, arrivals: list[Arrival]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds each turn waited, and when it ended, at a provider that is as parallel as its settings say."""
    queue = TaskQueue(provider)
    takes = {arrival.item.id: arrival.takes_s for arrival in arrivals}
    events: list[tuple[float, int, Item | str]] = [(a.at, number, a.item) for number, a in enumerate(arrivals)]
    heapq.heapify(events)
    waits: dict[str, float] = {}
    ends: dict[str, float] = {}
    while events:
        now, number, what = heapq.heappop(events)
        if isinstance(what, Item):
            queue.offer(what, now)
        else:
            ends[what] = now
            assert queue.release(1, what)
        for assignment in queue.assign(now, generation=1):
            turn_id = assignment.item.id
            waits[turn_id] = assignment.waited_s
            heapq.heappush(events, (now + takes[turn_id], number, turn_id))
    assert len(queue) == 0
    assert set(ends) == set(takes)
    return waits, ends


LONGEST_S = 25.0


def default_case(rng: random.Random, lanes: dict[str, Lane]) -> list[Arrival]:
    """40 coding turns at once; then 30 planning turns 5 s apart, and a summary every 20 s."""
    arrivals = [
        Arrival(0.0, turn(f"coding{number}", lanes["coding"], f"agent{number % 5}"), rng.uniform(15, LONGEST_S))
        for number in range(40)
    ]
    arrivals += [
        Arrival(10 + 5.0 * number, turn(f"planning{number}", lanes["planning"], "chat"), rng.uniform(2, 4))
        for number in range(30)
    ]
    arrivals += [
        Arrival(10 + 20.0 * number, turn(f"summary{number}", lanes["summary"], "chat"), 5.0) for number in range(10)
    ]
    return arrivals


BY_KIND: dict[str, Lane] = {"planning": "interactive", "coding": "normal", "summary": "background"}
ALL_ALIKE: dict[str, Lane] = dict.fromkeys(BY_KIND, "normal")


def of_kind(kind: str, waits: dict[str, float]) -> list[float]:
    return sorted(wait for turn_id, wait in waits.items() if turn_id.startswith(kind))


@pytest.mark.parametrize("seed", range(5))
def test_planning_waits_0_s_on_a_provider_with_40_long_coding_turns_and_a_free_reserved_slot(seed: int) -> None:
    waits, ends = simulate(settings(4, reserve=1), default_case(random.Random(seed), BY_KIND))
    assert of_kind("planning", waits) == [0.0] * 30
    # the price of the reserve: coding, and the summaries that age into it, have three slots of four
    arrivals = default_case(random.Random(seed), BY_KIND)
    shared_work_s = sum(arrival.takes_s for arrival in arrivals if arrival.item.lane != "interactive")
    assert max(ends.values()) < shared_work_s / 3 + LONGEST_S
    # background's promise: a start each PASSED_OVER_S, and twice the time until a slot comes free
    summaries = [arrival for arrival in arrivals if arrival.item.lane == "background"]
    before = 0.0
    for arrival in summaries:
        started = arrival.at + waits[arrival.item.id]
        assert started - max(before, arrival.at) <= PASSED_OVER_S + 2 * LONGEST_S
        before = started


@pytest.mark.parametrize("seed", range(5))
def test_without_a_reserve_planning_waits_for_one_running_turn_at_most(seed: int) -> None:
    waits, _ = simulate(settings(4, reserve=0), default_case(random.Random(seed), BY_KIND))
    planning = of_kind("planning", waits)
    assert 0 < planning[15] < LONGEST_S
    assert planning[-1] < 2 * LONGEST_S  # a coding turn that was passed over may go before it, once


def test_without_lanes_planning_waits_behind_the_coding_turns() -> None:
    everyone_alike = [
        Arrival(arrival.at, turn(arrival.item.id, "normal"), arrival.takes_s)
        for arrival in default_case(random.Random(0), ALL_ALIKE)
    ]
    waits, _ = simulate(settings(4, reserve=0), everyone_alike)
    assert of_kind("planning", waits)[15] > 100

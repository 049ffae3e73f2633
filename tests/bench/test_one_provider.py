"""bench/one_provider.py: the order of the queue is what its table says."""

from __future__ import annotations

import pytest

from bench.one_provider import ORDERS, figures, simulate
from bench.workload import read_workload

WORKLOAD = read_workload("one-provider")


@pytest.mark.parametrize("seed", range(3))
def test_planning_waits_only_for_other_planning_turns_where_a_slot_is_kept_for_it(seed: int) -> None:
    ran = simulate(WORKLOAD, "reserved slot", seed)
    assert len(ran.waits["coding"]) == 40
    assert len(ran.alone) > 15
    assert set(ran.alone) == {0.0}
    assert max(ran.waits["planning"]) <= 4.0


def test_the_orders_are_far_apart() -> None:
    reserved, lanes, fifo = (figures([simulate(WORKLOAD, order, 0)]) for order in ORDERS)
    assert reserved["planning p50"] == 0
    assert 0 < lanes["planning p50"] < 25
    assert fifo["planning p50"] > 100
    assert fifo["coding ends at"] < reserved["coding ends at"]  # the price of the slot

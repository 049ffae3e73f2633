"""bench/play.py: what is timed, what is kept in flight, and what ends it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from bench.play import AGAIN_AFTER_S, Player
from bench.workload import Load, Workload
from loopforge.drivers.errors import RateLimited
from loopforge.drivers.turn import Turn
from loopforge.runtime.errors import ConnectionLost

WORKLOAD = Workload(
    seed=1,
    loads={
        "timed": Load(kind="planning", per_second=10),
        "held": Load(kind="coding", count=5, within_s=1.0),
        "kept": Load(kind="coding", count=3, again=True),
        "whole": Load(kind="coding", count=2, stream=False),
    },
)


@dataclass
class FakeWay:
    """Takes `takes_s` for each turn, with a text each second; ends it with `error` when there is one."""

    takes_s: float = 1.0
    error: Exception | None = None
    open: int = 0
    most: int = 0
    posts: list[float] = field(default_factory=list)
    asked: int = 0

    async def ask(self, turn: Turn) -> None:
        self.asked += 1
        await self.follow(turn, lambda: None)

    async def follow(self, _: Turn, on_text: Callable[[], None]) -> None:
        self.posts.append(trio.current_time())
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            left_s = self.takes_s
            while left_s > 0:
                await trio.sleep(min(left_s, 1.0))
                left_s -= 1.0
                on_text()
        finally:
            self.open -= 1
        if self.error is not None:
            raise self.error


async def test_a_slow_turn_does_not_delay_the_post_of_the_next_one(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    way = FakeWay(takes_s=3.0)
    player = Player(workload=WORKLOAD, way=way, nursery=nursery)
    began = trio.current_time()
    times = await player.measure("timed", 1.0, seed=0)
    assert len(times) == 10
    assert not any(math.isnan(time) for time in times)
    arrivals = WORKLOAD.arrivals(["timed"], 1.0)
    assert [at - began for at in way.posts] == pytest.approx([arrival.at_s for arrival in arrivals])
    assert way.most == 10


async def test_a_timed_turn_that_fails_ends_the_measurement(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    player = Player(workload=WORKLOAD, way=FakeWay(error=RateLimited("p", retry_after_s=None)), nursery=nursery)
    with pytest.RaisesGroup(RateLimited, flatten_subgroups=True, allow_unwrapped=True):
        await player.measure("timed", 0.1, seed=0)


async def test_posted_turns_are_in_flight_until_stop(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    way = FakeWay(takes_s=math.inf)
    player = Player(workload=WORKLOAD, way=way, nursery=nursery)
    player.post(["held", "kept"], 3600, seed=0)
    await trio.sleep(10)
    assert way.open == 8
    assert player.texts > 8 * 8
    await player.stop()
    assert way.open == 0
    assert not player.ends


async def test_a_load_that_is_kept_posts_a_turn_anew_however_it_ended(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    way = FakeWay(error=RateLimited("p", retry_after_s=None))
    player = Player(workload=WORKLOAD, way=way, nursery=nursery)
    player.post(["kept"], 3600, seed=0)
    await trio.sleep(2 * (1.0 + AGAIN_AFTER_S) + 0.5)
    assert player.ends == {"RateLimited": 6}
    assert (way.open, way.most) == (3, 3)
    await player.stop()


async def test_whole_answers_are_asked_for_and_not_followed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    way = FakeWay()
    player = Player(workload=WORKLOAD, way=way, nursery=nursery)
    player.post(["whole", "held"], 3600, seed=0)
    await trio.sleep(5)
    assert (way.asked, player.texts) == (2, 5)
    assert player.ends == {"done": 7}
    await player.stop()


async def test_a_client_that_lost_its_connection_is_no_measurement(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(ConnectionLost, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            player = Player(workload=WORKLOAD, way=FakeWay(error=ConnectionLost()), nursery=nursery)
            player.post(["whole"], 3600, seed=0)

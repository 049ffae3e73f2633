"""The player against the whole runtime over fake workers, in virtual time."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import TurnError, TurnRefused, WorkerLost
from loopforge.drivers.turn import (
    Accepted,
    Cancelled,
    Event,
    Failed,
    Notice,
    Restarted,
    Started,
    TextDelta,
    Usage,
    UsageDelta,
)
from loopforge.runtime.rehearsal.figures import Ledger, figures
from loopforge.runtime.rehearsal.play import READY_S, Player, incidents_between, note
from loopforge.runtime.rehearsal.workload import Arrival, KindLoad, schedule
from tests.fakes.worker import Break, FakeWorkers, Finish, Say, Script, Wait
from tests.runtime.core import Core, config, disconnect, open_core, provider


def turns(count: int, kind: str = "planning", at_s: float = 0.0) -> list[Arrival]:
    return [
        Arrival(at_s=at_s, kind=kind, number=number, session=kind, prompt_chars=9, answer_tokens=9, calls_tool=False)
        for number in range(count)
    ]


@asynccontextmanager
async def open_player(workers: FakeWorkers) -> AsyncIterator[tuple[Player, Core]]:
    async with open_core(config(provider("local"), provider("cloud")), workers) as core:

        def send_signal(pid: int, number: int) -> None:
            (worker,) = (worker for worker in workers.alive.values() if worker.pid == pid)
            assert number == signal.SIGKILL
            worker.kill()

        targets = {"planning": "local", "coding": "cloud", "summary": "local"}
        yield Player(runtime=core.runtime, targets=targets, send_signal=send_signal), core


async def play(player: Player, arrivals: list[Arrival], grace_s: float = 60.0) -> None:
    async with trio.open_nursery() as nursery:
        await player.post_all(arrivals, nursery)
        await player.settle(grace_s)
        nursery.cancel_scope.cancel()


async def test_turns_are_posted_at_their_times_and_each_gets_its_outcome(autojump_clock: MockClock) -> None:
    load = KindLoad(kind="planning", per_second=2, prompt_chars=(5, 9), answer_tokens=(1, 2))
    arrivals = schedule([load], seconds=10, seed=1)
    async with open_player(FakeWorkers(default=(Wait(0.5), Say("x"), Wait(0.25), Finish()))) as (player, _):
        start = trio.current_time()
        await play(player, arrivals)
    assert [entry.posted_at - start for entry in player.ledger.entries] == pytest.approx(
        [arrival.at_s for arrival in arrivals]
    )
    summary = figures(player.ledger.entries)
    assert (summary.posted, summary.done, summary.lost) == (20, 20, 0)
    assert summary.first_token is not None
    assert summary.first_token.max_s == pytest.approx(0.5)
    assert summary.latency is not None
    assert summary.latency.max_s == pytest.approx(0.75)


async def test_a_turn_that_waited_for_a_slot_shows_its_queue_time(autojump_clock: MockClock) -> None:
    async with open_player(FakeWorkers(default=(Wait(2), Finish()))) as (player, _):
        await play(player, turns(5, "coding"))  # four slots, one of them kept for the interactive lane
    summary = figures(player.ledger.entries)
    assert summary.queued is not None
    assert summary.queued.p50_s == pytest.approx(0)
    assert summary.queued.max_s == pytest.approx(2)


async def test_a_failed_turn_is_entered_with_the_class_of_its_error(autojump_clock: MockClock) -> None:
    async with open_player(FakeWorkers(default=(Break(TurnRefused("cloud")),))) as (player, _):
        await play(player, turns(3, "coding"))
    assert figures(player.ledger.entries).failed == {"TurnRefused": 3}


async def test_turns_of_a_killed_worker_are_sent_again_and_none_is_lost(autojump_clock: MockClock) -> None:
    scripts: dict[str, list[Script]] = {
        "rehearsal-0-coding": [(Wait(5), Finish()), (Say("again"), Finish())],
        "rehearsal-1-coding": [(Say("half"), Wait(5), Finish())],
    }
    async with open_player(FakeWorkers(scripts=scripts)) as (player, _), trio.open_nursery() as nursery:
        await player.post_all(turns(2, "coding"), nursery)
        await trio.sleep(1)
        await player.hurt("cloud", "kill-worker")
        await player.settle(60)
    silent, streamed = player.ledger.entries
    assert (silent.outcome, silent.attempts, silent.restarts) == ("done", 2, 1)
    assert (streamed.outcome, streamed.attempts, streamed.restarts) == ("done", 2, 1)
    assert figures(player.ledger.entries).lost == 0


async def test_what_happens_to_a_worker_is_noted_as_it_is_seen(autojump_clock: MockClock) -> None:
    async with open_player(FakeWorkers(default=(Wait(5), Finish()))) as (player, _), trio.open_nursery() as nursery:
        assert await player.wait_ready(["local", "cloud"]) == ()
        pid = player.provider("cloud")["pid"]
        player.post(turns(1, "coding")[0], nursery)
        nursery.start_soon(player.watch)
        await trio.sleep(1)
        player.incidents.clear()
        await player.hurt("cloud", "kill-worker")
        await player.settle(60)
        nursery.cancel_scope.cancel()
    assert [(incident.provider, incident.what) for incident in player.incidents] == [
        ("cloud", f"SIGKILL to worker {pid}, 1 turn in flight"),
        ("cloud", "the worker died: killed by SIGKILL"),
        ("cloud", "worker 3 is ready"),
    ]


async def test_open_turns_are_cancelled_when_the_grace_is_over(autojump_clock: MockClock) -> None:
    async with open_player(FakeWorkers(default=(Wait(1000), Finish()))) as (player, _):
        start = trio.current_time()
        await play(player, turns(3), grace_s=7)
        assert trio.current_time() - start == pytest.approx(7, abs=0.1)
    assert figures(player.ledger.entries).cancelled == 3


async def test_a_turn_whose_connection_breaks_has_no_outcome_and_is_lost(autojump_clock: MockClock) -> None:
    async with open_player(FakeWorkers(default=(Say("half"), Wait(1000), Finish()))) as (player, _):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            await player.post_all(turns(2), nursery)
            await trio.sleep(1)
            await disconnect(player.runtime)
            await player.settle(60)
        assert trio.current_time() - start < 2
    summary = figures(player.ledger.entries)
    assert (summary.posted, summary.lost) == (2, 2)


async def test_waiting_for_workers_that_never_come_ends_and_names_them(autojump_clock: MockClock) -> None:
    async with open_player(FakeWorkers(refuse_boot=1000)) as (player, _):
        start = trio.current_time()
        assert await player.wait_ready(["cloud"]) == ("cloud",)
        assert trio.current_time() - start == pytest.approx(READY_S, abs=0.2)


async def test_a_signal_for_a_worker_that_is_not_there_is_noted_and_harms_nobody(autojump_clock: MockClock) -> None:
    def nobody_there(_pid: int, _number: int) -> None:
        raise ProcessLookupError

    async with open_player(FakeWorkers()) as (player, _):
        await player.wait_ready(["cloud"])
        player.send_signal = nobody_there
        await player.hurt("cloud", "kill-worker")
        await player.hurt("nobody", "stop-worker")
    assert [incident.what for incident in player.incidents[-2:]] == [
        f"worker {player.provider('cloud')['pid']} was gone before SIGKILL",
        "no worker to send SIGSTOP to",
    ]


def test_only_content_counts_as_the_first_token() -> None:
    entry = Ledger().post("coding", "cloud", 0.0)
    events: list[Event] = [Accepted("t"), Started("other", "m", 2), Notice("x"), UsageDelta(Usage()), TextDelta("a")]
    for now, event in enumerate(events):
        note(entry, event, float(now))
    note(entry, TextDelta("b"), 9.0)
    assert (entry.provider, entry.attempts, entry.first_token_at) == ("other", 2, 4.0)


@pytest.mark.parametrize(
    ("event", "outcome", "error"),
    [(Failed(WorkerLost("cloud")), "failed", "WorkerLost"), (Failed(TurnError()), "failed", "TurnError"),
     (Cancelled("over"), "cancelled", "")],
)  # fmt: skip
def test_an_outcome_ends_the_entry(event: Failed | Cancelled, outcome: str, error: str) -> None:
    entry = Ledger().post("coding", "cloud", 0.0)
    note(entry, Restarted("why", "cloud"), 1.0)
    note(entry, event, 2.0)
    assert (entry.outcome, entry.error, entry.ended_at, entry.restarts) == (outcome, error, 2.0, 1)


def test_a_provider_that_goes_down_says_why() -> None:
    before: dict[str, Any] = {
        "name": "c",
        "deaths": 5,
        "state": "starting",
        "pid": 7,
        "last_death": "",
        "down_reason": "",
    }
    after = before | {"deaths": 6, "state": "down", "pid": None, "last_death": "exit 1", "down_reason": "6 deaths"}
    assert [incident.what for incident in incidents_between(before, after, 3.0)] == [
        "the worker died: exit 1",
        "down: 6 deaths",
    ]
    assert incidents_between(after, after, 4.0) == []

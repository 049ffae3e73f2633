"""One worker, one turn, one bug: each ends where it is, and what it held comes back."""

from __future__ import annotations

import errno
import math
import re
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import TurnError, WorkerLost
from loopforge.runtime import client as client_module
from loopforge.runtime.errors import DeadlineExceeded, Draining, ProviderDown, TurnCancelled
from loopforge.runtime.listener import serve_client
from loopforge.runtime.taskqueue import Item
from loopforge.workers.messages import FrameType, pack
from tests.fakes.worker import Cling, Die, FakeWorkers, Finish, Say, Send, Wait
from tests.runtime.core import Core, config, open_core, provider, turn

ONE_SLOT = provider("local", max_concurrency=1)


def status_of(core: Core, name: str = "local") -> dict[str, Any]:
    return next(desk for desk in core.supervisor.dispatcher.status()["providers"] if desk["name"] == name)


# -- workers that make no sense --------------------------------------------------------------------------------------

NONSENSE = {
    "infinite memory": Send(FrameType.PONG, pack({"rss_bytes": math.inf}), turn=0),
    "memory of no number": Send(FrameType.PONG, pack({"rss_bytes": []}), turn=0),
    "a header that is none": Send(FrameType.DONE, b"\xc1"),
    "timings that are no map": Send(FrameType.DONE, pack({"timings": [1]})),
    "an error without fields": Send(FrameType.ERROR, pack({})),
    "an error with other fields": Send(FrameType.ERROR, pack({"fields": {"class": [], "what": 7, "status": []}})),
    "an outcome that fills its header": Send(FrameType.DONE, pack({"finish": "x" * 65_500})),
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_worker_that_sends_nonsense_costs_its_own_turns_alone(
    autojump_clock: MockClock, nonsense: Send
) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("x"), nonsense, Wait(1), Finish())]})
    async with open_core(config(ONE_SLOT, provider("cloud")), workers) as core:
        with trio.fail_after(60):
            await core.runtime.post(turn("other", kind="coding"))
            with pytest.raises(TurnError):
                await core.runtime.ask(turn("t1"))
            assert (await core.runtime.wait("other")).text == "hello"
            assert (await core.runtime.ask(turn("t2"))).text == "hello"


@pytest.mark.parametrize("signal", [1, 34, 37, 63, 64])
async def test_a_worker_may_die_of_any_signal(autojump_clock: MockClock, signal: int) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("x"), Wait(1), Die())]}, exit_code=-signal)
    async with open_core(workers=workers) as core:
        with pytest.raises(WorkerLost, match="killed by"):
            await core.runtime.ask(turn("t1"))
        assert (await core.runtime.ask(turn("t2"))).text == "hello"


@pytest.mark.parametrize("problem", [OSError(errno.EMFILE, "too many open files"), ValueError("a bug")])
async def test_a_worker_that_cannot_be_started_takes_its_provider_down_and_nobody_else(
    autojump_clock: MockClock, problem: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_core() as core:
        await core.runtime.ask(turn())
        core.workers.refuse_start = problem
        core.workers.alive["cloud"].kill()
        with pytest.raises(ProviderDown, match=re.escape(str(problem))):
            await core.runtime.ask(turn(kind="coding"))
        assert (await core.runtime.ask(turn())).text == "hello"
        core.workers.refuse_start = None
        await trio.sleep(61)
        assert (await core.runtime.ask(turn(kind="coding"))).text == "hello"


async def test_an_exit_code_that_comes_late_still_counts(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(refuse_boot=100, exit_code=78, exit_s=0.2)
    async with open_core(config(provider("local")), workers):
        await trio.sleep(3600)
    assert len(workers.boots) == 1


async def test_a_bug_while_time_is_kept_does_not_stop_the_clock(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    workers = FakeWorkers(default=(Wait(100), Finish()))
    async with open_core(config(ONE_SLOT), workers) as core:
        queue = core.supervisor.dispatcher.desks["local"].queue
        await core.runtime.post(turn("running"))
        queue.offer(_a_stranger_in_the_queue(), trio.current_time())
        with pytest.raises(DeadlineExceeded):
            await core.runtime.ask(turn("waiting", deadline_s=5))
    assert "bug" in caplog.text


def _a_stranger_in_the_queue() -> Item:
    return Item(id="77", lane="interactive", deadline=trio.current_time() + 1)


# -- half open, idle stop, boot --------------------------------------------------------------------------------------


async def test_the_wake_up_of_a_turn_that_came_as_the_pause_ended_is_not_lost(autojump_clock: MockClock) -> None:
    """The clock has passed `down_until`, the keeper has not run yet: what the router lets in must start a worker."""
    workers = FakeWorkers(refuse_boot=6)
    async with open_core(config(provider("local")), workers) as core:
        with pytest.raises(ProviderDown):
            await core.runtime.ask(turn("t1"))
        dispatcher = core.supervisor.dispatcher
        desk = dispatcher.desks["local"]
        with trio.CancelScope(deadline=desk.down_until - 0.001):
            await trio.sleep_forever()
        dispatcher.floor.clock = lambda: trio.current_time() + 0.002  # the loop is late by that much
        assert (await core.runtime.ask(turn("t2", deadline_s=30))).text == "hello"


@pytest.mark.parametrize("late_s", [-0.001, 0, 0.0005, 0.001])
async def test_a_turn_that_meets_the_idle_stop_is_served_by_the_next_worker(
    autojump_clock: MockClock, late_s: float
) -> None:
    setup = config(provider("local"), provider("cloud"), provider("spare"), idle_worker_s=30)
    async with open_core(setup) as core:
        await core.runtime.ask(turn(provider="spare"))
        stops_at = core.supervisor.dispatcher.desks["spare"].idle_since + 30
        await trio.sleep_until(stops_at + late_s)
        with trio.fail_after(10):
            assert (await core.runtime.ask(turn(provider="spare"))).text == "hello"


@pytest.mark.parametrize("after_s", [0.0, 0.5, 2.0])
async def test_a_worker_killed_while_it_starts_is_started_again_for_what_waits(
    autojump_clock: MockClock, after_s: float
) -> None:
    workers = FakeWorkers(boot_s=1.0)
    async with open_core(config(provider("local")), workers) as core:
        await core.runtime.post(turn("t1"))
        await trio.sleep(after_s)
        workers.alive["local"].kill()
        assert (await core.runtime.wait("t1")).text == "hello"


# -- turns that do not let go ----------------------------------------------------------------------------------------


async def test_a_cancelled_turn_ends_soon_also_when_its_worker_does_not_let_go(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Cling(8), Finish())]})
    async with open_core(config(ONE_SLOT), workers) as core:
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        assert await core.runtime.cancel("t1")
        with pytest.raises(TurnCancelled), trio.fail_after(5):
            await core.runtime.wait("t1")
        assert status_of(core)["running"] == 1  # the worker still has it: nobody else gets its slot
        assert (await core.runtime.ask(turn("t2"))).text == "hello"
        assert trio.current_time() >= 8
        assert status_of(core)["deaths"] == 0


async def test_status_tells_when_a_worker_starts_again_that_waits_out_its_back_off(autojump_clock: MockClock) -> None:
    async with open_core(config(ONE_SLOT), FakeWorkers(refuse_boot=3)) as core:
        await trio.sleep(0.1)  # the first start again is at once, the second and the third after 0.5 s and 1 s
        assert status_of(core)["state"] == "stopped"
        assert status_of(core)["back_in_s"] == pytest.approx(0.4)
        await trio.sleep(0.5)
        assert status_of(core)["back_in_s"] == pytest.approx(0.9)
        await trio.sleep(1)
        assert (status_of(core)["state"], status_of(core)["back_in_s"], status_of(core)["deaths"]) == ("ready", None, 3)


async def test_a_worker_that_nobody_needs_starts_again_at_no_time(autojump_clock: MockClock) -> None:
    async with open_core(config(provider("local"), provider("cloud"), provider("spare"))) as core:
        for _ in range(2):  # the second one has a back-off
            await core.runtime.ask(turn(provider="spare"))
            core.workers.alive["spare"].kill()
            await trio.sleep(0.1)
        row = status_of(core, "spare")
        assert (row["state"], row["deaths"], row["back_in_s"]) == ("stopped", 2, None)
        await core.runtime.post(turn("waits", provider="spare"))
        assert status_of(core, "spare")["back_in_s"] == pytest.approx(0.4)


async def test_a_worker_all_of_whose_turns_are_stuck_is_replaced(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Cling(math.inf),)]})
    async with open_core(config(ONE_SLOT), workers) as core:
        with pytest.raises(DeadlineExceeded):
            await core.runtime.ask(turn("t1", deadline_s=5))
        with trio.fail_after(60):
            assert (await core.runtime.ask(turn("t2"))).text == "hello"
        assert "did not let go" in status_of(core)["last_death"]


async def test_a_stuck_turn_does_not_end_those_that_run_beside_it(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"stuck": [(Cling(math.inf),)], "long": [(Say("a"), Wait(300), Say("b"), Finish())]})
    async with open_core(config(provider("local", max_concurrency=2, reserve=0)), workers) as core:
        await core.runtime.post(turn("long"))
        with pytest.raises(DeadlineExceeded):
            await core.runtime.ask(turn("stuck", deadline_s=5))
        assert (await core.runtime.wait("long")).text == "ab"
        await core.runtime.ask(turn("t2"))


async def test_a_worker_that_reads_nothing_leaves_its_turns_in_the_queue(autojump_clock: MockClock) -> None:
    """More than its channel holds: what does not fit waits, and nothing is taken for sent."""
    large = "x" * (12 * 2**20)
    workers = FakeWorkers(boot_s=3)
    setup = config(provider("local", max_concurrency=64, max_queued_bytes=2**30), max_queued_bytes=2**30)
    async with open_core(setup, workers) as core:
        for i in range(10):
            await core.runtime.post(turn(f"t{i}", deadline_s=100, provider_options={"x": {"large": large}}))
        for i in range(10):
            assert (await core.runtime.wait(f"t{i}")).text == "hello"
        assert status_of(core)["running"] == 0


async def test_the_service_stops_and_each_turn_of_a_client_is_told(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(default=(Wait(100), Finish()))
    async with open_core(config(provider("local", max_concurrency=20)), workers) as core:
        ours, theirs = socket.socketpair()
        service = trio.CancelScope()

        async def serve() -> None:
            with service:
                await serve_client(theirs, core.supervisor.dispatcher)

        core.nursery.start_soon(serve)
        async with client_module._over(ours) as runtime:
            ids = [await runtime.post(turn(f"t{i}", kind="coding")) for i in range(40)]
            await runtime.cancel("t0")
            assert core.supervisor.dispatcher.abandon("the service stops") == (40, 0)
            service.cancel()
            for turn_id in ids:
                with pytest.raises(TurnCancelled if turn_id == "t0" else Draining):
                    await runtime.wait(turn_id)


async def test_a_bug_over_one_orphan_leaves_no_other_turn_behind(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept of a turn cannot be read: that turn ends at its deadline, the other goes on at once."""
    workers = FakeWorkers(scripts={name: [(Say("x"), Wait(50), Finish())] for name in ("bad", "good")})
    async with open_core(workers=workers) as core:
        for name in ("bad", "good"):
            await core.runtime.post(turn(name, deadline_s=100))
        await trio.sleep(1)
        record = core.supervisor.dispatcher.ledger.get("bad")
        assert record is not None
        record.tries = None  # type: ignore[assignment] # the bug
        core.workers.alive["local"].kill()
        assert (await core.runtime.wait("good")).attempts == 2
        with pytest.raises(DeadlineExceeded):
            await core.runtime.wait("bad")
    assert "bug of ours" in caplog.text

"""Turns through the whole runtime in virtual time: outcomes, isolation, loss of workers, cancel, deadlines, drain."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import RateLimited, TurnError, TurnRefused, WorkerLost
from loopforge.drivers.turn import Accepted, Done, Event, Failed, Finished, Restarted, Started, TextDelta
from loopforge.runtime.errors import (
    BadTurn,
    DeadlineExceeded,
    Draining,
    IdConflict,
    NoRoute,
    ProviderDown,
    QueueFull,
    TurnCancelled,
    UnknownTurn,
)
from tests.fakes.worker import Break, Die, FakeWorkers, Finish, Garble, Hang, Say, Script, Wait
from tests.runtime.core import config, open_core, provider, turn, with_fallback


async def events_of(runtime_stream: object) -> list[Event]:
    return [event async for event in runtime_stream]  # type: ignore[attr-defined] # an EventStream


async def test_a_turn_is_accepted_started_streamed_and_done(autojump_clock: MockClock) -> None:
    async with open_core() as core, core.runtime.stream(turn("t1")) as stream:
        events = await events_of(stream)
    assert events[:4] == [Accepted("t1"), Started("local", "local-model", 1), TextDelta("hello"), Finished("stop")]
    (done,) = events[4:]
    assert isinstance(done, Done)
    assert (done.reply.text, done.reply.provider, done.reply.attempts) == ("hello", "local", 1)


async def test_each_kind_goes_to_its_own_provider(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        assert (await core.runtime.ask(turn("p"))).provider == "local"
        assert (await core.runtime.ask(turn("c", kind="coding"))).provider == "cloud"


async def test_a_stuck_provider_delays_nobody_else(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={f"c{i}": [(Wait(1000), Finish())] for i in range(20)})
    async with open_core(workers=workers) as core:
        for i in range(20):
            await core.runtime.post(turn(f"c{i}", kind="coding"))
        before = trio.current_time()
        await core.runtime.ask(turn("p"))
        assert trio.current_time() == before


async def test_no_more_turns_run_than_there_are_slots(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(default=(Wait(1), Say("x"), Finish()))
    async with open_core(config(provider("local", max_concurrency=3, reserve=0)), workers) as core:
        for i in range(10):
            await core.runtime.post(turn(f"t{i}", kind="coding"))
        for i in range(10):
            await core.runtime.wait(f"t{i}")
    assert workers.most_running["local"] == 3


async def test_a_silent_turn_of_a_killed_worker_is_resent_once(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Die(),), (Say("again"), Finish())]})
    async with open_core(workers=workers) as core, core.runtime.stream(turn("t1")) as stream:
        events = await events_of(stream)
    kinds = [type(event) for event in events]
    assert kinds == [Accepted, Started, Restarted, Started, TextDelta, Finished, Done]
    assert isinstance(events[-1], Done)
    assert (events[-1].reply.text, events[-1].reply.attempts) == ("again", 2)


async def test_a_turn_that_had_streamed_fails_with_what_had_come(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("half an "), Say("answer"), Wait(0.1), Die())]})
    async with open_core(workers=workers) as core, core.runtime.stream(turn("t1")) as stream:
        last = (await events_of(stream))[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, WorkerLost)
    assert last.error.partial is not None
    assert last.error.partial.text == "half an answer"


async def test_also_a_client_without_deltas_gets_the_partial_answer(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("half"), Wait(0.1), Die())]})
    async with open_core(workers=workers) as core:
        with pytest.raises(WorkerLost) as caught:
            await core.runtime.ask(turn("t1"))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "half"


async def test_a_poisonous_turn_costs_two_workers_and_one_that_it_has_alone(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Die(),)]})
    async with open_core(workers=workers) as core:
        with pytest.raises(WorkerLost):
            await core.runtime.ask(turn("t1"))
    assert len(workers.attempts["t1"]) == 3


async def test_restarts_come_at_once_then_with_growing_back_off_then_the_provider_is_down(
    autojump_clock: MockClock,
) -> None:
    workers = FakeWorkers(refuse_boot=100)
    async with open_core(config(provider("local")), workers) as core:
        await trio.sleep(1)
        with pytest.raises(ProviderDown) as waiting:
            await core.runtime.ask(turn("t1"))
        with pytest.raises(ProviderDown) as refused:
            await core.runtime.ask(turn("t2"))
        first = workers.boots[0]
        assert [boot - first for boot in workers.boots] == pytest.approx([0, 0, 0.5, 1.5, 3.5, 7.5])
        assert waiting.value.retry_after_s == pytest.approx(60)
        assert refused.value.retry_after_s == pytest.approx(60)
        workers.refuse_boot = 0
        await trio.sleep(61)
        assert len(workers.boots) == 6  # nobody asked: nothing was started
        assert (await core.runtime.ask(turn("t3"))).text == "hello"  # the turn is the probe


async def test_a_worker_that_cannot_use_its_configuration_is_not_restarted(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(refuse_boot=100, exit_code=78)
    async with open_core(config(provider("local")), workers) as core:
        await trio.sleep(3600)
        with pytest.raises(ProviderDown) as caught:
            await core.runtime.ask(turn("t1"))
    assert len(workers.boots) == 1
    assert caught.value.retry_after_s is None


async def test_a_hung_worker_is_killed_and_its_turn_goes_on_elsewhere_in_time(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Hang(),), (Say("alive"), Finish())]})
    async with open_core(workers=workers) as core:
        before = trio.current_time()
        assert (await core.runtime.ask(turn("t1"))).text == "alive"
        assert 5 <= trio.current_time() - before <= 8
        status = await core.runtime.status()
    assert next(desk for desk in status["providers"] if desk["name"] == "local")["deaths"] == 1


async def test_a_worker_that_sends_garbage_is_replaced(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Garble(),), (Say("sane"), Finish())]})
    async with open_core(workers=workers) as core:
        assert (await core.runtime.ask(turn("t1"))).text == "sane"


async def test_others_do_not_notice_a_crash_loop(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={f"c{i}": [(Die(),)] for i in range(50)})
    async with open_core(workers=workers) as core:
        for i in range(50):
            await core.runtime.post(turn(f"c{i}", kind="coding"))
        for _ in range(20):
            before = trio.current_time()
            await core.runtime.ask(turn())
            assert trio.current_time() == before
            await trio.sleep(0.3)
        for i in range(50):
            with pytest.raises(TurnError):
                await core.runtime.wait(f"c{i}")


async def test_an_error_of_the_provider_reaches_the_client_with_its_fields(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Break(RateLimited("local", retry_after_s=7.5)),)]})
    async with open_core(workers=workers) as core:
        with pytest.raises(RateLimited) as caught:
            await core.runtime.ask(turn("t1"))
    assert (caught.value.retry_after_s, caught.value.provider) == (7.5, "local")


async def test_leaving_the_stream_cancels_the_turn_and_frees_its_slot(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("x"), Wait(1000), Finish())]})
    async with open_core(config(provider("local", max_concurrency=1)), workers) as core:
        async with core.runtime.stream(turn("t1")) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        before = trio.current_time()
        await core.runtime.ask(turn("t2"))
        assert trio.current_time() - before < 1


async def test_a_waiting_turn_can_be_cancelled_by_id(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Wait(100), Finish())]})
    async with open_core(config(provider("local", max_concurrency=1)), workers) as core:
        await core.runtime.post(turn("t1"))
        await core.runtime.post(turn("t2"))
        assert await core.runtime.cancel("t2")
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("t2")
        assert workers.attempts["t2"] == []
        assert await core.runtime.cancel("t1")
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("t1")
        assert not await core.runtime.cancel("t1")
        with pytest.raises(UnknownTurn):
            await core.runtime.cancel("nobody")


async def test_a_client_that_leaves_cancels_its_turns_but_not_detached_ones(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(default=(Wait(10), Say("late"), Finish()))
    async with open_core(workers=workers) as core:
        async with core.another_client() as leaving:
            await leaving.post(turn("attached"))
            await leaving.post(turn("detached", detached=True))
        reply = await core.runtime.wait("detached")
        assert reply.text == "late"
        with pytest.raises(TurnCancelled):
            await core.runtime.wait("attached")


async def test_the_deadline_ends_a_waiting_turn_and_one_whose_worker_ignores_it(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Wait(100), Finish())]})
    async with open_core(config(provider("local", max_concurrency=1)), workers) as core:
        await core.runtime.post(turn("t1", deadline_s=5))
        with pytest.raises(DeadlineExceeded):
            await core.runtime.ask(turn("t2", deadline_s=0.25))
        assert trio.current_time() < 1
        with pytest.raises(DeadlineExceeded):
            await core.runtime.wait("t1")
        assert 7 <= trio.current_time() <= 9


async def test_the_same_id_and_body_give_the_same_turn_and_another_body_a_conflict(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        first = await core.runtime.ask(turn("t1"))
        assert await core.runtime.ask(turn("t1")) == first
        assert len(core.workers.attempts["t1"]) == 1
        with pytest.raises(IdConflict):
            await core.runtime.ask(turn("t1", temperature=1.0))


async def test_the_advice_after_a_deadline_names_the_id_because_a_deadline_is_part_of_the_turn(
    autojump_clock: MockClock,
) -> None:
    async with open_core(workers=FakeWorkers(default=(Wait(5), Say("hello"), Finish()))) as core:
        with pytest.raises(DeadlineExceeded) as passed:
            await core.runtime.ask(turn("t1", deadline_s=1))
        assert passed.value.action == "post it again under another id with a larger deadline_s"
        with pytest.raises(IdConflict) as conflict:
            await core.runtime.ask(turn("t1", deadline_s=30))
        assert "the same deadline_s" in conflict.value.action
        assert (await core.runtime.ask(turn("t2", deadline_s=30))).text == "hello"


async def test_retry_runs_what_failed_again_and_buys_nothing_twice(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"bad": [(Break(TurnRefused("local")),)]})
    async with open_core(workers=workers) as core:
        await core.runtime.ask(turn("good"))
        with pytest.raises(TurnRefused):
            await core.runtime.ask(turn("bad"))
        workers.scripts.clear()
        for name in ("good", "bad", "bad"):
            assert (await core.runtime.ask(turn(name), retry=True)).text == "hello"
        assert {name: len(attempts) for name, attempts in workers.attempts.items()} == {"good": 1, "bad": 2}


async def test_a_second_client_attaches_to_a_running_turn_and_sees_all_of_it(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("a"), Wait(5), Say("b"), Finish())]})
    async with open_core(workers=workers) as core, core.another_client() as other:
        await core.runtime.post(turn("t1"))
        await trio.sleep(1)
        async with other.attach("t1") as stream:
            events = await events_of(stream)
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", "b"]
        async with other.attach("t1", after=(1, 2)) as stream:
            assert [type(event) for event in await events_of(stream)][-1] is Done


async def test_a_full_queue_refuses_at_once_with_a_time(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(default=(Wait(100), Finish()))
    async with open_core(config(provider("local", max_concurrency=1, max_queued=2)), workers) as core:
        await core.runtime.post(turn("running", kind="coding"))
        await trio.sleep(1)
        for i in range(2):
            await core.runtime.post(turn(f"t{i}", kind="coding"))
        with pytest.raises(QueueFull) as caught:
            await core.runtime.post(turn("t3", kind="coding"))
        assert "max_queued" in caught.value.action
        assert caught.value.retry_after_s is not None


@pytest.mark.parametrize("spill", [True, False])
async def test_a_full_local_queue_sends_turns_to_the_paid_cloud_only_when_the_route_says_so(
    autojump_clock: MockClock, spill: bool
) -> None:
    local, cloud = provider("local", max_concurrency=1, max_queued=1), provider("cloud")
    workers = FakeWorkers(default=(Wait(100), Say("x"), Finish()))
    async with open_core(with_fallback(config(local, cloud), "summary", cloud, spill=spill), workers) as core:
        await core.runtime.post(turn("running", kind="summary"))
        await trio.sleep(1)
        await core.runtime.post(turn("waiting", kind="summary"))
        if spill:
            reply = await core.runtime.ask(turn("third", kind="summary"))
            assert reply.provider == "cloud"
            assert any("its queue is full" in warning for warning in reply.warnings)
        else:
            with pytest.raises(QueueFull):
                await core.runtime.ask(turn("third", kind="summary"))


async def test_bad_turns_are_refused_by_name(autojump_clock: MockClock) -> None:
    async with open_core() as core:
        with pytest.raises(NoRoute, match="did you mean 'planning'"):
            await core.runtime.ask(turn(kind="planing"))
        with pytest.raises(BadTurn, match="128"):
            await core.runtime.ask(turn("x" * 129))
        with pytest.raises(NoRoute):
            await core.runtime.ask(turn(provider="nowhere"))
        assert (await core.runtime.ask(turn(provider="cloud", model="other"))).model == "other"


async def test_drain_refuses_new_turns_finishes_running_ones_and_abandons_the_rest(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"quick": [(Wait(3), Say("ok"), Finish())], "slow": [(Wait(300), Finish())]})
    async with open_core(config(provider("local"), drain_s=10), workers) as core:
        await core.runtime.post(turn("quick"))
        await core.runtime.post(turn("slow"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(core.supervisor.drain)
            await trio.sleep(1)
            with pytest.raises(Draining):
                await core.runtime.ask(turn("new"))
            assert (await core.runtime.wait("quick")).text == "ok"
            with pytest.raises(Draining):
                await core.runtime.wait("slow")


async def test_a_worker_that_no_route_needs_starts_on_demand_and_stops_when_idle(autojump_clock: MockClock) -> None:
    setup = config(provider("local"), provider("cloud"), provider("spare"), idle_worker_s=30)
    async with open_core(setup) as core:
        await trio.sleep(1)
        assert "spare" not in core.workers.alive
        assert (await core.runtime.ask(turn(provider="spare"))).provider == "spare"
        await trio.sleep(40)
        states = {desk["name"]: desk["state"] for desk in (await core.runtime.status())["providers"]}
        assert states == {"local": "ready", "cloud": "ready", "spare": "stopped"}
        assert (await core.runtime.ask(turn(provider="spare"))).provider == "spare"


async def test_the_last_death_is_told_also_when_the_next_worker_was_stopped_because_it_was_idle(
    autojump_clock: MockClock,
) -> None:
    setup = config(provider("local"), provider("cloud"), provider("spare"), idle_worker_s=30)
    async with open_core(setup) as core:
        for _ in range(2):
            await core.runtime.ask(turn(provider="spare"))
            if not core.supervisor.dispatcher.desks["spare"].deaths:
                core.workers.alive["spare"].kill()
                await trio.sleep(1)
        await trio.sleep(40)
        spare = next(desk for desk in (await core.runtime.status())["providers"] if desk["name"] == "spare")
        assert (spare["state"], spare["pid"], spare["deaths"]) == ("stopped", None, 1)
        assert spare["last_death"] == "killed by SIGKILL"


async def test_nothing_is_left_when_all_turns_have_ended(autojump_clock: MockClock) -> None:
    scripts: dict[str, list[Script]] = {
        f"t{i}": [(Say("x"), Die()) if i % 7 == 0 else (Wait(i % 3), Say("x"), Finish())] for i in range(60)
    }
    async with open_core(workers=FakeWorkers(scripts=scripts)) as core:
        async with trio.open_nursery() as nursery:
            for i in range(60):
                nursery.start_soon(_ask_anyway, core.runtime, i)
        dispatcher = core.supervisor.dispatcher
        assert dispatcher.ledger.live == {}
        assert dispatcher.ledger._by_id == {}
        assert dispatcher.ledger.budget.held_bytes == 0
        for desk in dispatcher.desks.values():
            assert (desk.running, len(desk.queue)) == ({}, 0)
            assert desk.queue.free_slots == 4


async def _ask_anyway(runtime: object, i: int) -> None:
    try:
        await runtime.ask(turn(f"t{i}", kind=("planning", "coding", "summary")[i % 3]))  # type: ignore[attr-defined]
    except (WorkerLost, ProviderDown):
        return

"""The client library: cancelled anywhere it leaves nothing behind, and what a body raises leaves as itself."""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import TurnError
from loopforge.runtime import client as client_module
from loopforge.runtime.client import WELCOME_S, Runtime, connect
from loopforge.runtime.errors import BadTurn, ConnectionLost, QueueFull, TurnCancelled
from loopforge.runtime.listener import serve_client
from loopforge.runtime.stream import MAX_UNREAD_BYTES
from loopforge.workers.framing import encode
from loopforge.workers.messages import FrameType, pack
from tests.fakes.worker import FakeWorkers, Finish, Say, Wait
from tests.runtime.core import Core, open_core, turn


async def follow(runtime: Runtime) -> None:
    async with runtime.stream(turn("t1")) as events:
        async for _ in events:
            pass


async def attach(runtime: Runtime) -> None:
    async with runtime.attach("background") as events:
        async for _ in events:
            pass


CALLS: dict[str, Callable[[Runtime], Awaitable[object]]] = {
    "ask": lambda runtime: runtime.ask(turn("t1")),
    "post": lambda runtime: runtime.post(turn("t1")),
    "stream": follow,
    "attach": attach,
    "wait": lambda runtime: runtime.wait("background"),
    "cancel": lambda runtime: runtime.cancel("background"),
    "status": lambda runtime: runtime.status(),
    "ping": lambda runtime: runtime.ping(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_call_cancelled_after_any_tick_leaves_no_inbox_and_no_turn(
    autojump_clock: MockClock, call: Callable[[Runtime], Awaitable[object]]
) -> None:
    for ticks in range(20):
        workers = FakeWorkers(scripts={"t1": [(Say("a"), Say("b"), Wait(50), Finish())]}, default=(Wait(99), Finish()))
        async with open_core(workers=workers) as core, core.another_client() as other:
            await other.post(turn("background"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, core.runtime)
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            posted = {number for number, _ in core.runtime._posted.values()}
            await core.runtime.ping()
            assert core.runtime._open.keys() == posted, ticks
            if not posted:
                await _wait_ended(core, "t1")
            assert (await core.runtime.ask(turn(provider="cloud", deadline_s=200))).text == "", ticks


async def _wait_ended(core: Core, turn_id: str) -> None:
    before = trio.current_time()
    while turn_id in core.supervisor.dispatcher.ledger._by_id:
        await core.runtime.ping()
    assert trio.current_time() == before  # nobody waited for its script


async def test_a_posted_turn_may_have_a_reply_larger_than_the_unread_bound(autojump_clock: MockClock) -> None:
    large = "x" * (MAX_UNREAD_BYTES + 1)
    async with open_core(workers=FakeWorkers(scripts={"t1": [(Say(large), Finish())]})) as core:
        await core.runtime.post(turn("t1"))
        assert (await core.runtime.wait("t1")).text == large


@pytest.mark.parametrize("deadline_s", [math.inf, math.nan, 1e300])
async def test_a_deadline_that_no_frame_can_hold_is_a_bad_turn(deadline_s: float) -> None:
    async with open_core() as core:
        with pytest.raises(BadTurn, match="deadline_s"):
            await core.runtime.ask(turn(deadline_s=deadline_s))
        assert core.runtime._open == {}


async def test_a_service_that_reads_nothing_refuses_further_turns_by_name() -> None:
    ours, theirs = socket.socketpair()
    large = turn(provider_options={"x": {"large": "x" * 2**24}})
    with theirs:
        theirs.sendall(encode(FrameType.WELCOME, header=pack({"protocol": 1, "version": "0", "pid": 1})))
        async with client_module._over(ours) as runtime, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(runtime.ask, large)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(QueueFull, match="does not read"):
                await runtime.ask(large)
            assert len(runtime._open) == 5
            nursery.cancel_scope.cancel()


async def test_a_service_whose_backlog_is_full_is_given_up_and_the_loop_goes_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with pytest.raises(ConnectionLost, match="no connection"):
            async with connect(path):
                pass
    assert WELCOME_S <= trio.current_time() < 2 * WELCOME_S


async def test_leaving_a_stream_that_somebody_else_follows_does_not_cancel_the_turn(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("begun"), Wait(10), Finish())]})
    async with open_core(workers=workers) as core, core.another_client() as other:
        async with core.runtime.stream(turn("t1")) as events:
            await anext(events)
            follower = await core.nursery.start(_follow, other)
        await follower.wait()
        assert (await core.runtime.wait("t1")).text == "begun"


async def _follow(runtime: Runtime, *, task_status: trio.TaskStatus[trio.Event]) -> None:
    """Attach, and tell when the outcome has come."""
    ended = trio.Event()
    async with runtime.attach("t1") as events:
        await anext(events)
        task_status.started(ended)
        await events.reply()
    ended.set()


async def test_leaving_an_attached_stream_ends_its_frames_and_not_the_turn(autojump_clock: MockClock) -> None:
    workers = FakeWorkers(scripts={"t1": [(Say("begun"), Wait(10), Finish())]})
    async with open_core(workers=workers) as core, core.another_client() as other:
        await other.post(turn("t1"))
        async with core.runtime.attach("t1") as events:
            await anext(events)
        await core.runtime.ping()
        (record,) = core.supervisor.dispatcher.ledger.live.values()
        assert len(record.watchers) == 1
        assert (await other.wait("t1")).text == "begun"


# -- what leaves the block -------------------------------------------------------------------------------------------


async def test_an_exception_of_the_body_leaves_as_itself_with_its_cause() -> None:
    cause = KeyError("why")
    async with open_core() as core:
        with pytest.raises(ZeroDivisionError) as caught:
            async with core.another_client():
                raise ZeroDivisionError from cause
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ExceptionGroup("mine", [ValueError()]), TurnCancelled()])
async def test_whatever_the_body_raises_leaves_as_itself(error: BaseException) -> None:
    ours, theirs = socket.socketpair()
    async with open_core() as core:
        core.nursery.start_soon(serve_client, theirs, core.supervisor.dispatcher)
        with pytest.raises(type(error)) as caught:
            async with client_module._over(ours):
                raise error
        assert caught.value is error


async def _two_welcomes(*, in_cleanup: BaseException | None) -> None:
    """A connection whose reader fails through a bug, while the body has tasks of its own."""
    ours, theirs = socket.socketpair()
    welcome = encode(FrameType.WELCOME, header=pack({}))
    error = encode(FrameType.ERROR, header=pack({"fields": 7}))  # no service says this: the reader trips over it
    with theirs:
        theirs.sendall(welcome)
        async with client_module._over(ours), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            theirs.sendall(error)
            try:
                await trio.sleep_forever()
            finally:
                if in_cleanup is not None:
                    raise in_cleanup


@pytest.mark.parametrize("in_cleanup", [None, ConnectionLost()])
async def test_a_crash_inside_is_not_hidden_by_what_the_body_makes_of_it(in_cleanup: BaseException | None) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one is what is looked at
        await _two_welcomes(in_cleanup=in_cleanup)
    assert isinstance(caught.value, BaseExceptionGroup)
    assert caught.value.subgroup(trio.Cancelled) is None
    assert caught.value.subgroup((TypeError, ValueError, AttributeError)) is not None


async def test_each_call_on_a_lost_connection_gets_an_error_of_its_own() -> None:
    async with open_core() as core:
        ours, theirs = socket.socketpair()
        core.nursery.start_soon(serve_client, theirs, core.supervisor.dispatcher)
        async with client_module._over(ours) as runtime:
            await runtime.ping()
            theirs.shutdown(socket.SHUT_RDWR)
            errors: list[TurnError] = []
            for _ in range(2):
                with pytest.raises(ConnectionLost) as caught:
                    await runtime.ask(turn())
                errors.append(caught.value)
            assert errors[0] is not errors[1]
            assert runtime._open == {}

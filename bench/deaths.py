"""What happens when somebody dies or hangs up, in milliseconds, at a running service. For startup.py."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from bench.stack import Provider, Stack, open_stack
from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import Failed, Restarted, TextDelta, Turn, user
from loopforge.runtime.client import Runtime

IN_FLIGHT = 100
"""Half of them stream, half wait for a first token: those are sent again, these cannot be."""
UNDECIDED_S = 5.0
Figures = dict[str, float]

GO = (user("go"),)
STREAMING = Provider(
    profile={"first_token_s": 0, "tokens_per_s": 20, "answer_tokens": 100_000}, settings={"max_concurrency": 128}
)
LOUD = Provider(profile={"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 10_000_000})


def _ms(since: float) -> float:
    return (time.perf_counter() - since) * 1e3


# -- a worker, with turns in flight ----------------------------------------------------------------------------------


async def worker_killed(stack: Stack, provider: str, kind: str) -> Figures:
    """kill -9: when the last of its turns had failed or was to be sent again, and when a new one was answered."""
    decided: list[float] = []
    waiting = [trio.Event() for _ in range(IN_FLIGHT)]
    all_decided = trio.Event()
    killed_at = 0.0

    async def follow(number: int) -> None:
        silent = number % 2 == 0
        turn = Turn(kind=kind, messages=GO, model="fault-silence" if silent else "")
        async with stack.runtime.stream(turn) as events:
            async for event in events:
                if silent or isinstance(event, TextDelta):
                    waiting[number].set()
                if isinstance(event, Failed | Restarted):
                    decided.append(_ms(killed_at))
                    if len(decided) == IN_FLIGHT:
                        all_decided.set()
                    return

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for number in range(IN_FLIGHT):
                nursery.start_soon(follow, number)
            for event in waiting:
                await event.wait()
            await stack.played.wait_active(provider, IN_FLIGHT)
            pid = (await stack.worker_pids())[provider]
            killed_at = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            await stack.runtime.ask(Turn(kind=kind, messages=GO, max_output_tokens=1))
            served_ms = _ms(killed_at)
            with trio.move_on_after(UNDECIDED_S):
                await all_decided.wait()
            scope.cancel()
    return {
        "kill -9 of a worker: decided, turns": len(decided),
        "kill -9 of a worker: last one decided, ms": max(decided, default=float("nan")),
        "kill -9 of a worker: next turn served, ms": served_ms,
    }


# -- the supervisor --------------------------------------------------------------------------------------------------


async def supervisor_killed(*, stopped: bool = False, busy: bool = False) -> float:
    """kill -9: milliseconds until none of its three workers is alive. One of them may be stopped, or have no time."""
    providers = {"one": STREAMING, "two": STREAMING, "loud": LOUD}
    async with open_stack(providers, {name: name for name in providers}) as stack, trio.open_nursery() as nursery:
        workers = await stack.worker_pids()
        if stopped:
            os.kill(workers["one"], signal.SIGSTOP)
        if busy:
            nursery.start_soon(_ask_in_vain, stack.runtime)
            await stack.played.wait_active("loud", 1)
            await trio.sleep(0.2)
        with contextlib.ExitStack() as opened:
            pidfds = [os.pidfd_open(pid) for pid in workers.values()]
            for pidfd in pidfds:
                opened.callback(os.close, pidfd)
            killed_at = time.perf_counter()
            os.kill(stack.service_pid, signal.SIGKILL)
            _wait_gone(pidfds)
            gone_ms = _ms(killed_at)
        nursery.cancel_scope.cancel()
    return gone_ms


async def _ask_in_vain(runtime: Runtime) -> None:
    """A flood that nobody reads: its worker is at 100 % CPU, this process is not."""
    with contextlib.suppress(TurnError):
        await runtime.ask(Turn(kind="loud", messages=GO))


def _wait_gone(pidfds: Sequence[int]) -> None:
    """Blocking, so that nothing here is in between. A pidfd is readable once its process is dead."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left = set(pidfds)
    while left and (ready := poll.poll(10_000)):
        for pidfd, _ in ready:
            poll.unregister(pidfd)
            left.discard(pidfd)
    if left:
        raise AssertionError(f"{len(left)} workers outlived their supervisor by 10 s")


# -- the client ------------------------------------------------------------------------------------------------------


class HangUps:
    """A provider that answers with nothing, or with a stream that never ends, and tells when its client hung up."""

    def __init__(self) -> None:
        self.url = ""
        self.streams = False
        self.asked = trio.Event()
        self.hung_up_at: float | None = None
        self.gone = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        await stream.receive_some()
        with contextlib.suppress(trio.BrokenResourceError):
            if self.streams:
                head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                event = b'data: {"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":"word"}}]}\n\n'
                await stream.send_all(head + b"%x\r\n%b\r\n" % (len(event), event))
            self.asked.set()
            while await stream.receive_some():
                continue
        self.hung_up_at = time.perf_counter()
        self.gone.set()


@asynccontextmanager
async def open_hang_ups() -> AsyncIterator[HangUps]:
    provider = HangUps()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        provider.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
        nursery.start_soon(trio.serve_listeners, provider.serve, listeners)
        yield provider
        nursery.cancel_scope.cancel()


async def cancelled(
    runtime: Runtime, provider: HangUps, kind: str, *, streams: bool, by_id: bool, times: int
) -> list[float]:
    """Milliseconds from the client's cancel until the provider sees its connection closed."""
    provider.streams = streams
    took = []
    for number in range(times):
        provider.asked, provider.gone = trio.Event(), trio.Event()
        turn = Turn(id=f"{kind}-{streams}-{by_id}-{number}", kind=kind, messages=GO)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_follow_in_vain, runtime, turn)
                await provider.asked.wait()
                await trio.sleep(0.01)
                cancelled_at = time.perf_counter()
                if by_id:
                    await runtime.cancel(turn.id)
                else:
                    scope.cancel()
        with trio.fail_after(10):
            await provider.gone.wait()
        assert provider.hung_up_at is not None
        took.append((provider.hung_up_at - cancelled_at) * 1e3)
    return took


async def _follow_in_vain(runtime: Runtime, turn: Turn) -> None:
    async with runtime.stream(turn) as events:
        async for _ in events:
            continue

"""pacing.py: one task for all streams, on sockets of this process. Nobody waits for a socket, so time can jump."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.simulator.pacing import MAX_SEND_BYTES, TICK_S, Clocked, Gone, Pacer


@asynccontextmanager
async def open_pacer() -> AsyncIterator[Pacer]:
    pacer = Pacer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pacer.run)
        yield pacer
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def pair() -> Iterator[tuple[trio.SocketStream, socket.socket]]:
    """A stream to play on, and its other end, which never blocks."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    with theirs, stream.socket:
        yield stream, theirs


def ignore(count: int) -> None:
    pass


def steps(*times: float) -> Clocked:
    return iter([(at, b"%g;" % at) for at in times])


class CountingStream(trio.abc.Stream):
    """Takes all, and keeps how much each send had."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sizes.append(len(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - trio.abc.Stream's
        raise AssertionError("nobody reads from it")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_steps_are_written_when_they_are_due_and_counted(autojump_clock: MockClock) -> None:
    counts: list[int] = []
    async with open_pacer() as pacer:
        with pair() as (stream, theirs):
            await pacer.play(stream, steps(1, 2, 2.5), counts.append)
            assert trio.current_time() == pytest.approx(2.5, abs=TICK_S)
            assert theirs.recv(100) == b"1;2;2.5;"
            assert counts == [1, 1, 1]


async def test_streams_do_not_wait_for_one_another(autojump_clock: MockClock) -> None:
    ends: dict[float, float] = {}

    async def one(pacer: Pacer, at: float) -> None:
        with pair() as (stream, theirs):
            await pacer.play(stream, steps(at / 2, at), ignore)
            ends[at] = trio.current_time()
            assert theirs.recv(100) == b"%g;%g;" % (at / 2, at)

    async with open_pacer() as pacer, trio.open_nursery() as nursery:
        for at in (7, 1, 5, 3):
            nursery.start_soon(one, pacer, at)
    assert ends == pytest.approx({at: at for at in (1, 3, 5, 7)}, abs=TICK_S)
    assert list(ends) == [1, 3, 5, 7]


async def test_a_stream_that_comes_later_with_less_to_wait_is_not_overslept(autojump_clock: MockClock) -> None:
    async with open_pacer() as pacer, trio.open_nursery() as nursery:
        with pair() as (far, _), pair() as (near, theirs):
            nursery.start_soon(pacer.play, far, steps(1000), ignore)
            await trio.sleep(1)
            await pacer.play(near, steps(2), ignore)
            assert trio.current_time() == pytest.approx(2, abs=TICK_S)
            assert theirs.recv(100) == b"2;"
            nursery.cancel_scope.cancel()


async def test_a_stream_whose_socket_is_full_goes_on_when_it_is_read() -> None:
    block = bytes(10_000)
    came = 0
    async with open_pacer() as pacer, trio.open_nursery() as nursery:
        with pair() as (stream, theirs):
            nursery.start_soon(pacer.play, stream, iter([(0.0, block)] * 200), ignore)
            while came < 2_000_000:
                with contextlib.suppress(BlockingIOError):
                    came += len(theirs.recv(100_000))
                await trio.lowlevel.checkpoint()
    assert came == 2_000_000


async def test_a_full_socket_does_not_hold_up_the_others(autojump_clock: MockClock) -> None:
    async with open_pacer() as pacer, trio.open_nursery() as nursery:
        with pair() as (full, _), pair() as (stream, theirs):
            nursery.start_soon(pacer.play, full, iter([(0.0, bytes(100_000))] * 200), ignore)
            await pacer.play(stream, steps(1, 2), ignore)
            assert trio.current_time() == pytest.approx(2, abs=TICK_S)
            assert theirs.recv(100) == b"1;2;"
            nursery.cancel_scope.cancel()


async def test_a_stream_that_was_left_is_never_written_to_again(autojump_clock: MockClock) -> None:
    async with open_pacer() as pacer:
        with pair() as (stream, _):
            descriptor = stream.socket.fileno()
            with trio.move_on_after(1):
                await pacer.play(stream, steps(0, 5), ignore)
        with pair() as (other, theirs):
            assert descriptor in (other.socket.fileno(), theirs.fileno())  # the number has a new owner
            await trio.sleep(10)
            for end in (other.socket, theirs):
                copy = socket.socket(fileno=os.dup(end.fileno()))
                with copy, pytest.raises(BlockingIOError):
                    copy.recv(100)


async def test_a_client_that_hung_up_is_told_to_the_streams_own_task(autojump_clock: MockClock) -> None:
    async with open_pacer() as pacer:
        with pair() as (stream, theirs):
            theirs.close()
            with pytest.raises(Gone):
                await pacer.play(stream, steps(1, 2), ignore)
        with pair() as (stream, theirs):  # and the pacer lives on
            await pacer.play(stream, steps(1), ignore)
            assert theirs.recv(100) == b"1;"


async def test_what_is_late_is_sent_together_but_not_without_bound(autojump_clock: MockClock) -> None:
    await trio.sleep(100)
    stream = CountingStream()
    async with open_pacer() as pacer:
        await pacer.play(stream, iter([(at / 10, bytes(1000)) for at in range(500)]), ignore)
    assert sum(stream.sizes) == 500_000
    assert max(stream.sizes) <= MAX_SEND_BYTES
    assert len(stream.sizes) == 8


async def test_a_step_larger_than_the_bound_is_sent_whole(autojump_clock: MockClock) -> None:
    stream = CountingStream()
    async with open_pacer() as pacer:
        await pacer.play(stream, iter([(0.0, bytes(MAX_SEND_BYTES * 3))] * 2), ignore)
    assert stream.sizes == [MAX_SEND_BYTES * 3] * 2

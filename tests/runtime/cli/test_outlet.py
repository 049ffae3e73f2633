"""Writing from a thread: in order, bounded, and ended by a reader that leaves, whether or not anything is written."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from loopforge.runtime.cli.outlet import ERR, MAX_WAITING_BYTES, OUT, Outlet, Piece


@dataclass
class Opened:
    """`reader`: what standard output is read from."""

    outlet: Outlet
    reader: int
    writer: int


@asynccontextmanager
async def open_outlet() -> AsyncIterator[Opened]:
    """An outlet onto a pipe; standard error goes to the same one."""
    reader, writer = os.pipe()
    outlet = Outlet({OUT: (writer, "utf-8"), ERR: (writer, "utf-8")})
    opened = Opened(outlet, reader, writer)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outlet.run)
            nursery.start_soon(outlet.watch_reader)
            yield opened
            nursery.cancel_scope.cancel()
    finally:
        if opened.reader >= 0:
            hang_up(opened)
        with trio.CancelScope(shield=True):  # short: a thread that still writes has just lost its reader
            while trio.to_thread.current_default_thread_limiter().borrowed_tokens:  # noqa: ASYNC110 - it sets no event
                await trio.sleep(0.001)
        os.close(writer)


def hang_up(opened: Opened) -> None:
    os.close(opened.reader)
    opened.reader = -1


async def test_pieces_come_in_order() -> None:
    async with open_outlet() as opened:
        for number in range(100):
            await opened.outlet.write([Piece(OUT, f"{number} "), Piece(ERR, "! ")])
        await opened.outlet.wait_drained()
        assert os.read(opened.reader, 4096).decode() == "".join(f"{number} ! " for number in range(100))


async def test_a_reader_that_stands_still_stops_only_the_writing() -> None:
    async with open_outlet() as opened:
        with trio.move_on_after(0.2) as stuck:
            while True:
                await opened.outlet.write([Piece(OUT, "x" * 10_000)])  # nobody reads
        assert stuck.cancelled_caught
        waiting = 0
        while waiting < MAX_WAITING_BYTES:
            waiting += len(await trio.to_thread.run_sync(os.read, opened.reader, 65536))
        await opened.outlet.write([Piece(OUT, "goes on")])


async def test_leaving_while_a_write_is_stuck_does_not_hang() -> None:
    with trio.fail_after(5):
        async with open_outlet() as opened:
            await opened.outlet.write([Piece(OUT, "x" * 200_000)])
            await trio.testing.wait_all_tasks_blocked(0.05)


async def test_a_reader_that_leaves_is_noticed_though_nothing_is_written() -> None:
    async with open_outlet() as opened:
        hang_up(opened)
        with trio.fail_after(5):
            await opened.outlet.ended.wait()
        assert isinstance(opened.outlet.error, BrokenPipeError)
        await opened.outlet.write([Piece(OUT, "x" * MAX_WAITING_BYTES * 2)])  # goes nowhere
        await opened.outlet.wait_drained()


async def test_a_reader_that_leaves_frees_whoever_waits_to_write() -> None:
    async with open_outlet() as opened, trio.open_nursery() as nursery:
        nursery.start_soon(opened.outlet.write, [Piece(OUT, "x" * MAX_WAITING_BYTES * 2)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        hang_up(opened)
        with trio.fail_after(5):
            await opened.outlet.ended.wait()


async def test_a_reader_that_leaves_after_the_last_word_is_no_failure() -> None:
    async with open_outlet() as opened:
        await opened.outlet.write([Piece(OUT, "all")])
        opened.outlet.finish()
        await opened.outlet.wait_drained()
        hang_up(opened)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert opened.outlet.error is None


async def test_a_full_disk_is_an_error_and_not_a_closed_pipe() -> None:
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: ASYNC230, PTH123 - opening a device blocks nobody
        outlet = Outlet({OUT: (full.fileno(), "utf-8")})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outlet.run)
            await outlet.write([Piece(OUT, "x")])
            await outlet.ended.wait()
            nursery.cancel_scope.cancel()
    assert outlet.error is not None
    assert (outlet.error.errno, outlet.error.filename) == (errno.ENOSPC, "standard output")


async def test_a_closed_descriptor_gets_nothing_that_was_meant_for_it() -> None:
    outlet = Outlet({})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.run)
        nursery.start_soon(outlet.watch_reader)
        await outlet.write([Piece(OUT, "x"), Piece(ERR, "y")])
        await outlet.wait_drained()
        nursery.cancel_scope.cancel()


async def test_a_pipe_that_somebody_made_non_blocking_is_written_all_the_same() -> None:
    async with open_outlet() as opened:
        os.set_blocking(opened.writer, False)
        await opened.outlet.write([Piece(OUT, "x" * 200_000)])
        got = 0
        with trio.fail_after(5):
            while got < 200_000:
                got += len(await trio.to_thread.run_sync(os.read, opened.reader, 65536))
        await opened.outlet.wait_drained()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
async def test_characters_that_the_terminal_lacks_are_spelled_out(encoding: str) -> None:
    reader, writer = os.pipe()
    outlet = Outlet({OUT: (writer, encoding)})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.run)
        await outlet.write([Piece(OUT, "→")])
        await outlet.wait_drained()
        nursery.cancel_scope.cancel()
    assert os.read(reader, 100) == b"\\u2192"
    os.close(reader)
    os.close(writer)

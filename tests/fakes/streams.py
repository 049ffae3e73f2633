"""Streams with behaviour, for channels under test."""

from __future__ import annotations

import trio
from trio.testing import memory_stream_pair

from loopforge.workers.channel import Channel


class WatchedStream(trio.abc.HalfCloseableStream):
    """A memory stream that records when and how much each send sent, and blocks sends while `open` is not set."""

    def __init__(self, inner: trio.abc.HalfCloseableStream) -> None:
        self._inner = inner
        self.sends: list[tuple[float, int]] = []
        self.open = trio.Event()
        self.open.set()

    def block(self) -> None:
        """The peer's buffer is full from now on: a send passes one byte and waits for `open`."""
        self.open = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends.append((trio.current_time(), len(data)))
        if not self.open.is_set():
            await self._inner.send_all(data[:1])
            await self.open.wait()
            data = data[1:]
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.open.wait()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


def watched_stream_pair() -> tuple[WatchedStream, trio.abc.HalfCloseableStream]:
    ours, theirs = memory_stream_pair()
    return WatchedStream(ours), theirs


def memory_channels(*, max_buffered_bytes: int = 1_000_000) -> tuple[Channel, Channel]:
    """The two ends of one channel inside one process. Somebody must `run` each."""
    ours, theirs = memory_stream_pair()
    return Channel(ours, max_buffered_bytes=max_buffered_bytes), Channel(theirs, max_buffered_bytes=max_buffered_bytes)

"""What a channel promises, whatever carries its bytes. Subclass and give `open_ends`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from loopforge.workers.channel import SEND_BYTES, BufferFull, Channel, ChannelClosed
from loopforge.workers.framing import Frame, FrameError, encode
from loopforge.workers.messages import FrameType


def delta(number: int, size: int = 100) -> bytes:
    return encode(FrameType.DELTA, 1, attempt=1, seq=number, body=bytes(size))


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.seq for frame in frames]


async def read_to_the_end(channel: Channel) -> list[Frame]:
    read: list[Frame] = []
    while frames := await channel.receive():
        read += frames
    return read


async def read(channel: Channel, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        batch = await channel.receive()
        assert batch, "the channel ended early"
        frames += batch
    return frames


def post_until_full(channel: Channel) -> list[int]:
    """Post numbered frames of 1000 bytes until one is refused; those taken."""
    for number in range(10_000):
        try:
            channel.post(delta(number, 1000))
        except BufferFull:
            return list(range(number))
    raise AssertionError("the channel took 10 MB without a reader")


class ChannelSuite(ABC):
    @abstractmethod
    def open_ends(
        self, *, max_buffered_bytes: int = 64_000_000, max_frame_bytes: int = 8_000_000
    ) -> tuple[Channel, trio.abc.HalfCloseableStream]:
        """A channel not yet running, and the raw bytes of its peer."""

    @asynccontextmanager
    async def open_channel(
        self, *, max_buffered_bytes: int = 64_000_000, max_frame_bytes: int = 8_000_000
    ) -> AsyncIterator[tuple[Channel, trio.abc.HalfCloseableStream]]:
        """A running channel, and the raw bytes of its peer."""
        channel, peer = self.open_ends(max_buffered_bytes=max_buffered_bytes, max_frame_bytes=max_frame_bytes)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(channel.run)
                yield channel, peer
                nursery.cancel_scope.cancel()
        await channel.aclose()
        await trio.aclose_forcefully(peer)

    @asynccontextmanager
    async def open_pair(self, *, max_buffered_bytes: int = 64_000_000) -> AsyncIterator[tuple[Channel, Channel]]:
        """Two running channels, one at each end."""
        async with (
            self.open_channel(max_buffered_bytes=max_buffered_bytes) as (channel, stream),
            trio.open_nursery() as nursery,
        ):
            peer = Channel(stream)
            await nursery.start(peer.run)
            yield channel, peer
            nursery.cancel_scope.cancel()

    async def test_frames_arrive_once_and_in_order(self) -> None:
        sizes = [0, 1, 100, 70_000, SEND_BYTES, 3_000_000] * 20
        async with self.open_pair() as (channel, peer):
            for number, size in enumerate(sizes):
                channel.post(delta(number, size))
            frames = await read(peer, len(sizes))
            assert [(frame.seq, len(frame.body)) for frame in frames] == list(enumerate(sizes))
            assert channel.buffered_bytes == 0

    async def test_inline_queued_and_delayed_frames_keep_their_order(self) -> None:
        async with self.open_pair() as (channel, peer):
            for number in range(300):
                post = channel.post_soon if number % 7 else channel.post
                post(delta(number))
                if number % 10 == 0:
                    await trio.lowlevel.checkpoint()
                if number % 50 == 0:
                    await wait_all_tasks_blocked()
            channel.flush()
            assert numbers(await read(peer, 300)) == list(range(300))

    async def test_both_ends_may_post_more_than_the_sockets_hold_before_either_reads(self) -> None:
        async with self.open_pair() as (channel, peer), trio.open_nursery() as nursery:
            for number in range(40):
                channel.post(delta(number, 100_000))
                peer.post(delta(number, 100_000))
            await trio.lowlevel.checkpoint()
            nursery.start_soon(read, channel, 40)
            assert numbers(await read(peer, 40)) == list(range(40))

    async def test_a_delayed_frame_leaves_without_a_push(self) -> None:
        async with self.open_pair() as (channel, peer):
            channel.post_soon(delta(1))
            assert numbers(await peer.receive()) == [1]

    async def test_everything_sent_before_the_end_is_read_before_the_end(self) -> None:
        async with self.open_pair() as (channel, peer):
            for number in range(500):
                peer.post(delta(number))
            await peer.wait_drained()
            await peer.aclose()
            assert numbers(await read_to_the_end(channel)) == list(range(500))
            assert await channel.receive() == []
            assert channel.why_closed == "the peer hung up"

    async def test_posting_after_the_end_was_read_is_refused(self) -> None:
        async with self.open_pair() as (channel, peer):
            await peer.aclose()
            assert await channel.receive() == []
            assert channel.closed
            for post in (channel.post, channel.post_soon):
                with pytest.raises(ChannelClosed, match="the peer hung up"):
                    post(delta(1))

    async def test_a_failed_send_decides_nothing_while_the_last_frames_wait_to_be_read(self) -> None:
        async with self.open_pair() as (channel, peer):
            channel.post(delta(0))
            for number in range(5):
                peer.post(delta(number))
            await peer.wait_drained()
            await peer.aclose()  # with our frame unread: a socket makes ECONNRESET of it
            for _ in range(5):
                channel.post(delta(9))
                channel.post_soon(delta(9))
                await wait_all_tasks_blocked()
            assert not channel.closed
            assert numbers(await read_to_the_end(channel)) == list(range(5))
            with pytest.raises(ChannelClosed):
                channel.post(delta(9))

    async def test_a_peer_that_does_not_read_fills_the_buffer_to_its_bound(self) -> None:
        channel, peer = self.open_ends(max_buffered_bytes=50_000)
        taken = post_until_full(channel)
        assert len(taken) >= 49
        assert 50_000 < channel.buffered_bytes <= 50_000 + 1022
        for post in (channel.post, channel.post_soon):
            with pytest.raises(BufferFull, match="wait for a peer"):
                post(delta(0))
        await channel.aclose()
        await peer.aclose()

    async def test_a_frame_that_was_refused_is_never_sent_and_later_ones_are(self) -> None:
        async with self.open_pair(max_buffered_bytes=10_000) as (channel, peer):
            taken = post_until_full(channel)
            frames = await read(peer, len(taken))
            channel.post(delta(5000))
            assert numbers(frames + await peer.receive()) == [*taken, 5000]

    async def test_one_frame_larger_than_the_bound_passes_when_nothing_waits(self) -> None:
        async with self.open_pair(max_buffered_bytes=1000) as (channel, peer):
            channel.post(delta(1, 2_000_000))
            assert numbers(await peer.receive()) == [1]

    async def test_waiting_for_room_ends_when_the_peer_has_read(self) -> None:
        async with self.open_pair() as (channel, peer):
            channel.post(delta(1, 4_000_000))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, peer, 1)
                await channel.wait_drained(1_000_000)
                assert channel.buffered_bytes <= 1_000_000
                await channel.wait_drained()
                assert channel.buffered_bytes == 0

    async def test_waiting_for_room_ends_when_the_channel_does(self) -> None:
        async with self.open_pair() as (channel, _), trio.open_nursery() as nursery:
            channel.post(delta(1, 4_000_000))
            nursery.start_soon(channel.wait_drained)
            await wait_all_tasks_blocked()
            await channel.aclose()

    async def test_waiting_for_room_is_a_checkpoint_even_when_there_is_some(self) -> None:
        async with self.open_pair() as (channel, _):
            with assert_checkpoints():
                await channel.wait_drained()

    async def test_a_cancelled_send_breaks_the_channel_for_good(self) -> None:
        channel, stream = self.open_ends()
        peer = Channel(stream)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(channel.run)
                channel.post(delta(1))
                channel.post(delta(2, 5_000_000))
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            for post in (channel.post, channel.post_soon):
                with pytest.raises(ChannelClosed, match="its writer was cancelled"):
                    post(delta(3))
            assert channel.buffered_bytes == 0
            assert 3 not in numbers(await read_to_the_end(peer))
        await peer.aclose()
        await channel.aclose()

    async def test_after_a_cancelled_send_what_the_peer_says_is_still_read(self) -> None:
        channel, peer = self.open_ends()
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            nursery.cancel_scope.cancel()
        assert channel.closed
        await peer.send_all(delta(1))
        assert numbers(await channel.receive()) == [1]
        assert await peer.receive_some() == b""  # the peer was told at once
        await peer.aclose()
        assert await channel.receive() == []
        await channel.aclose()

    @pytest.mark.parametrize("kept", [1, 21, 22, 60])
    async def test_a_frame_torn_by_the_peers_death_is_a_form_of_the_end(self, kept: int) -> None:
        async with self.open_channel() as (channel, peer):
            await peer.send_all(delta(1) + delta(2)[:kept])
            await peer.aclose()
            assert numbers(await channel.receive()) == [1]
            assert await channel.receive() == []
            assert f"inside a frame: {kept} bytes" in channel.why_closed

    async def test_what_is_no_frame_is_an_error_after_the_frames_before_it_and_then_the_end(self) -> None:
        async with self.open_channel() as (channel, peer):
            await peer.send_all(delta(1) + b"GET / HTTP/1.1\r\n\r\n")
            assert numbers(await channel.receive()) == [1]
            with pytest.raises(FrameError, match="this is HTTP"):
                await channel.receive()
            assert await channel.receive() == []
            with pytest.raises(ChannelClosed, match="this is HTTP"):
                channel.post(delta(1))

    async def test_a_frame_over_the_bound_is_refused_from_its_head(self) -> None:
        async with self.open_channel(max_frame_bytes=1000) as (channel, peer):
            await peer.send_all(delta(1, 1001)[:4])
            with pytest.raises(FrameError, match="at most 1000"):
                await channel.receive()

    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        async with self.open_channel() as (channel, peer):
            raw = delta(1) + delta(2, 100_000)
            for at in range(0, len(raw), 30_000):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await channel.receive()
                assert scope.cancelled_caught
                await peer.send_all(raw[at : at + 30_000])
            assert numbers(await read(channel, 2)) == [1, 2]

    async def test_reading_a_flood_lets_other_tasks_run_after_each_batch(self) -> None:
        async with self.open_pair() as (channel, peer):
            turns_of_others = batches = 0

            async def other() -> None:
                nonlocal turns_of_others
                while True:
                    await trio.lowlevel.checkpoint()
                    turns_of_others += 1

            for number in range(3000):
                peer.post(delta(number, 1000))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                count = 0
                while count < 3000:
                    with assert_checkpoints():
                        count += len(await channel.receive())
                    batches += 1
                nursery.cancel_scope.cancel()
            assert turns_of_others >= batches - 1

    async def test_closing_wakes_whoever_reads_and_whoever_writes(self) -> None:
        channel, peer = self.open_ends()
        ended = []

        async def note(name: str, end: object) -> None:
            ended.append((name, end))

        async def reader() -> None:
            await note("reader", await channel.receive())

        async def writer() -> None:
            await note("writer", await channel.run())  # type: ignore[func-returns-value]  # that it returns is the point

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader)
                nursery.start_soon(writer)
                await wait_all_tasks_blocked()
                await channel.aclose()
        assert sorted(ended, key=str) == [("reader", []), ("writer", None)]
        with pytest.raises(ChannelClosed, match="it was closed here"):
            channel.post(delta(1))
        await channel.aclose()
        await peer.aclose()

    async def test_closing_works_inside_a_cancelled_scope(self) -> None:
        channel, peer = self.open_ends()
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.aclose()
        assert await peer.receive_some() == b""
        await peer.aclose()

    async def test_the_writer_task_exists_once(self) -> None:
        async with self.open_channel() as (channel, _):
            with pytest.raises(RuntimeError, match="one writer"):
                await channel.run()

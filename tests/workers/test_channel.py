"""workers/channel.py over sockets and over memory streams: one suite for both, then what only one of them shows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from loopforge.workers.channel import FLUSH_AFTER_S, SEND_BYTES, SOON_BYTES, BufferFull, Channel, ChannelClosed
from loopforge.workers.framing import Framer
from tests.fakes.streams import WatchedStream, watched_stream_pair
from tests.suites.channel import ChannelSuite, delta, numbers, read, read_to_the_end

Ends = tuple[Channel, trio.abc.HalfCloseableStream]


def open_socket_ends(*, max_buffered_bytes: int = 64_000_000, max_frame_bytes: int = 8_000_000) -> Ends:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = Channel(ours, max_buffered_bytes=max_buffered_bytes, max_frame_bytes=max_frame_bytes)
    return channel, trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


def open_memory_ends(*, max_buffered_bytes: int = 64_000_000, max_frame_bytes: int = 8_000_000) -> Ends:
    ours, theirs = memory_stream_pair()
    return Channel(ours, max_buffered_bytes=max_buffered_bytes, max_frame_bytes=max_frame_bytes), theirs


class TestOverSockets(ChannelSuite):
    def open_ends(self, *, max_buffered_bytes: int = 64_000_000, max_frame_bytes: int = 8_000_000) -> Ends:
        return open_socket_ends(max_buffered_bytes=max_buffered_bytes, max_frame_bytes=max_frame_bytes)


class TestOverMemoryStreams(ChannelSuite):
    def open_ends(self, *, max_buffered_bytes: int = 64_000_000, max_frame_bytes: int = 8_000_000) -> Ends:
        return open_memory_ends(max_buffered_bytes=max_buffered_bytes, max_frame_bytes=max_frame_bytes)


# -- any sequence of posts -------------------------------------------------------------------------------------------

sizes = st.sampled_from([0, 10, 100, 5_000, 70_000, 300_000])
steps = st.lists(
    st.tuples(st.sampled_from(["post", "post_soon"]), sizes)
    | st.tuples(st.sampled_from(["flush", "checkpoint", "settle", "read"]), st.just(0)),
    max_size=40,
)


@pytest.mark.parametrize("open_ends", [open_socket_ends, open_memory_ends])
@given(program=steps)
@settings(deadline=None, max_examples=60)
def test_whatever_was_taken_arrives_once_in_order_and_no_more_than_the_bound_waits(
    open_ends: Callable[..., Ends], program: list[tuple[str, int]]
) -> None:
    async def main() -> None:
        channel, stream = open_ends(max_buffered_bytes=400_000)
        peer = Channel(stream)
        taken: list[tuple[int, int]] = []
        arrived: list[tuple[int, int]] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            for number, (step, size) in enumerate(program):
                match step:
                    case "post" | "post_soon":
                        full = channel.buffered_bytes > 400_000
                        try:
                            getattr(channel, step)(delta(number, size))
                            taken.append((number, size))
                        except BufferFull:
                            assert full
                    case "flush":
                        channel.flush()
                    case "checkpoint":
                        await trio.lowlevel.checkpoint()
                    case "settle":
                        await wait_all_tasks_blocked()
                    case _:
                        with trio.move_on_after(0):
                            arrived += [(frame.seq, len(frame.body)) for frame in await peer.receive()]
                assert channel.buffered_bytes <= 400_000 + 300_022
            channel.flush()
            while len(arrived) < len(taken):
                arrived += [(frame.seq, len(frame.body)) for frame in await peer.receive()]
            assert arrived == taken
            assert channel.buffered_bytes == 0
            nursery.cancel_scope.cancel()
        await channel.aclose()
        await peer.aclose()

    trio.run(main)


# -- coalescing, in virtual time -------------------------------------------------------------------------------------


@pytest.fixture
async def watched(nursery: trio.Nursery) -> tuple[Channel, WatchedStream, Channel]:
    """A running channel, the stream it sends to, and its peer."""
    stream, theirs = watched_stream_pair()
    channel = Channel(stream)
    await nursery.start(channel.run)
    return channel, stream, Channel(theirs)


Watched = tuple[Channel, WatchedStream, Channel]


async def test_everything_posted_within_one_tick_leaves_in_one_send(watched: Watched) -> None:
    channel, stream, peer = watched
    for number in range(100):
        channel.post(delta(number))
    assert stream.sends == []  # posting neither blocks nor yields
    await wait_all_tasks_blocked()
    assert len(stream.sends) == 1
    assert numbers(await peer.receive()) == list(range(100))


async def test_frames_posted_while_a_send_is_stuck_leave_together_behind_it(watched: Watched) -> None:
    channel, stream, peer = watched
    stream.block()
    channel.post(delta(0))
    await wait_all_tasks_blocked()
    for number in range(1, 50):
        channel.post(delta(number))
        await trio.lowlevel.checkpoint()
    assert channel.buffered_bytes == 50 * len(delta(0))
    stream.open.set()
    await wait_all_tasks_blocked()
    assert [size for _, size in stream.sends] == [len(delta(0)), 49 * len(delta(0))]
    assert numbers(await read(peer, 50)) == list(range(50))


async def test_no_send_joins_more_than_its_bound(watched: Watched) -> None:
    channel, stream, peer = watched
    for number in range(1000):
        channel.post(delta(number, 1000))
    channel.post(delta(1000, 3 * SEND_BYTES))
    await wait_all_tasks_blocked()
    assert numbers(await read(peer, 1001)) == list(range(1001))
    assert max(size for _, size in stream.sends) <= SEND_BYTES
    frames_a_send = SEND_BYTES // len(delta(0, 1000))
    assert len(stream.sends) == -(-1000 // frames_a_send) + 4  # the small ones, then the big one, alone, in pieces


async def test_delayed_frames_wait_for_company_until_the_window_ends(
    watched: Watched, autojump_clock: MockClock
) -> None:
    channel, stream, peer = watched
    start = trio.current_time()
    for number in range(3):
        channel.post_soon(delta(number))
        await trio.sleep(FLUSH_AFTER_S / 4)
    assert stream.sends == []
    frames = await peer.receive()
    assert numbers(frames) == [0, 1, 2]
    ((at, size),) = stream.sends
    assert at == pytest.approx(start + FLUSH_AFTER_S)
    assert size == 3 * len(delta(0))


async def test_each_window_starts_with_its_own_first_frame(watched: Watched, autojump_clock: MockClock) -> None:
    channel, stream, _ = watched
    for _window in range(3):
        await trio.sleep(1)
        channel.post_soon(delta(0))
    await trio.sleep(1)
    assert [at for at, _ in stream.sends] == pytest.approx([second + FLUSH_AFTER_S for second in (1, 2, 3)])


@pytest.mark.parametrize("push", ["post", "flush"])
async def test_a_push_sends_the_delayed_frames_at_once_with_its_own(
    watched: Watched, autojump_clock: MockClock, push: str
) -> None:
    channel, stream, peer = watched
    channel.post_soon(delta(0))
    channel.post_soon(delta(1))
    await trio.sleep(FLUSH_AFTER_S / 2)
    if push == "post":
        channel.post(delta(2))
    else:
        channel.flush()
    at = trio.current_time()
    await wait_all_tasks_blocked()
    assert [when for when, _ in stream.sends] == [at]
    assert numbers(await peer.receive()) == ([0, 1, 2] if push == "post" else [0, 1])


async def test_delayed_frames_do_not_wait_once_they_make_a_send_of_their_own(
    watched: Watched, autojump_clock: MockClock
) -> None:
    channel, stream, _ = watched
    channel.post_soon(delta(0, SOON_BYTES // 2))
    channel.post_soon(delta(1, SOON_BYTES // 2))
    await wait_all_tasks_blocked()
    assert [at for at, _ in stream.sends] == [trio.current_time()]


async def test_a_frame_delayed_while_a_send_is_stuck_keeps_its_window(
    watched: Watched, autojump_clock: MockClock
) -> None:
    channel, stream, peer = watched
    stream.block()
    channel.post(delta(0))
    await trio.sleep(1)
    channel.post_soon(delta(1))
    stream.open.set()
    await trio.sleep(1)
    assert [at for at, _ in stream.sends] == pytest.approx([0, 1 + FLUSH_AFTER_S])
    assert numbers(await read(peer, 2)) == [0, 1]


async def test_flushing_nothing_sends_nothing(watched: Watched) -> None:
    channel, stream, _ = watched
    channel.flush()
    await wait_all_tasks_blocked()
    assert stream.sends == []


async def test_a_send_cancelled_half_way_leaves_the_peer_a_torn_frame_and_the_end() -> None:
    stream, theirs = watched_stream_pair()
    channel, peer = Channel(stream), Channel(theirs)
    stream.block()
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        channel.post(delta(1))
        channel.post(delta(2))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(ChannelClosed, match="its writer was cancelled"):
        channel.post(delta(3))
    stream.open.set()
    assert await read_to_the_end(peer) == []
    assert "inside a frame: 1 bytes" in peer.why_closed


async def test_nothing_is_buffered_any_more_once_the_peer_is_gone_even_behind_a_stuck_send(
    nursery: trio.Nursery,
) -> None:
    stream, peer = watched_stream_pair()
    channel = Channel(stream)
    await nursery.start(channel.run)
    stream.block()
    channel.post(delta(1, 2 * SEND_BYTES))
    await wait_all_tasks_blocked()
    channel.post(delta(2))
    await peer.send_eof()
    assert await channel.receive() == []
    assert channel.buffered_bytes == 0
    stream.open.set()
    stream.block()  # the first piece goes, the second is stuck
    await wait_all_tasks_blocked()
    assert len(stream.sends) == 2
    assert channel.buffered_bytes == 0


async def test_of_many_that_wait_for_room_each_finds_it_when_it_goes_on(watched: Watched) -> None:
    channel, stream, peer = watched
    found: list[int] = []

    async def post_when_empty(number: int) -> None:
        await channel.wait_drained()
        found.append(channel.buffered_bytes)
        channel.post(delta(number))

    stream.block()
    channel.post(delta(0))
    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            nursery.start_soon(post_when_empty, number)
        await wait_all_tasks_blocked()
        stream.open.set()
    assert found == [0] * 5
    assert sorted(numbers(await read(peer, 6))) == list(range(6))


async def test_a_cancelled_poster_takes_nothing_back_and_tears_nothing(watched: Watched) -> None:
    channel, stream, peer = watched
    stream.block()
    with trio.CancelScope() as turn:
        channel.post(delta(1))
        await wait_all_tasks_blocked()
        channel.post(delta(2))
        turn.cancel()
        await channel.wait_drained()
    assert turn.cancelled_caught
    stream.open.set()
    assert numbers(await read(peer, 2)) == [1, 2]


async def test_many_that_wait_for_room_each_wake_at_their_own_mark(watched: Watched) -> None:
    channel, stream, _ = watched
    woken: list[int] = []

    async def wait(below_bytes: int) -> None:
        await channel.wait_drained(below_bytes)
        woken.append(below_bytes)

    stream.block()
    channel.post(delta(0, 1000))
    await wait_all_tasks_blocked()
    channel.post(delta(1, 2 * SEND_BYTES))
    async with trio.open_nursery() as nursery:
        for below_bytes in (0, 2 * SEND_BYTES, SEND_BYTES):
            nursery.start_soon(wait, below_bytes)
        await wait_all_tasks_blocked()
        assert woken == []
        stream.open.set()
    assert woken == [2 * SEND_BYTES, SEND_BYTES, 0]


# -- sockets: inline sends, and the kernel's own forms of the end ----------------------------------------------------


@pytest.fixture
def packets() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel whose tick never ends by the clock, and a peer that sees the bounds of each send."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    yield Channel(ours, inline_gap_s=1e9), theirs
    ours.close()
    theirs.close()


Packets = tuple[Channel, socket.socket]


def count_frames(packet: bytes) -> int:
    return len(Framer().feed(packet))


async def test_a_lone_frame_leaves_before_post_returns(packets: Packets) -> None:
    channel, peer = packets
    channel.post(delta(1))
    assert peer.recv(65536) == delta(1)
    assert channel.buffered_bytes == 0


async def test_what_follows_a_lone_frame_in_its_tick_leaves_in_one_send(
    packets: Packets, nursery: trio.Nursery
) -> None:
    channel, peer = packets
    await nursery.start(channel.run)
    for number in range(100):
        channel.post(delta(number))
    await wait_all_tasks_blocked()
    assert [count_frames(peer.recv(65536)) for _ in range(2)] == [1, 99]


async def test_the_answer_to_a_lone_frame_leaves_at_once_and_the_answers_to_many_together(
    packets: Packets, nursery: trio.Nursery
) -> None:
    channel, peer = packets
    await nursery.start(channel.run)
    for _ in range(50):
        peer.send(delta(1))
        (frame,) = await channel.receive()
        channel.post(frame.raw)
        assert peer.recv(65536) == delta(1)
    peer.send(delta(1) + delta(2))
    for frame in await channel.receive():
        channel.post(frame.raw)
    await wait_all_tasks_blocked()
    assert count_frames(peer.recv(65536)) == 2


async def test_an_inline_send_that_the_kernel_took_half_is_finished_by_the_writer(nursery: trio.Nursery) -> None:
    ours, theirs = socket.socketpair()
    channel, peer = Channel(ours), Channel(theirs)
    channel.post(delta(1, 2_000_000))
    assert 0 < channel.buffered_bytes < 2_000_000
    channel.post(delta(2))
    await nursery.start(channel.run)
    assert numbers(await read(peer, 2)) == [1, 2]
    await channel.aclose()
    await peer.aclose()


async def test_an_inline_send_to_a_dead_peer_decides_nothing_either() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, inline_gap_s=0)
    theirs.sendall(delta(1))
    theirs.close()
    channel.post(delta(2))
    channel.post_soon(delta(3))
    assert (channel.closed, channel.buffered_bytes) == (False, 0)
    assert numbers(await channel.receive()) == [1]
    assert await channel.receive() == []
    await channel.aclose()


DYING_PEER = """
import os, signal, socket, sys
from loopforge.workers.framing import encode
sock = socket.socket(fileno=int(sys.argv[1]))
for number in range(200):
    sock.sendall(encode(7, 1, seq=number, body=bytes(100)))
if sys.argv[2] == "torn":
    sock.sendall(encode(7, 1, seq=200)[:-3])
os.kill(os.getpid(), signal.SIGKILL)
"""


def run_dying_peer(sock: socket.socket, torn: str) -> int:
    """Its exit code; the caller's copy of its end is closed."""
    with sock:
        fd = sock.fileno()
        return subprocess.run([sys.executable, "-c", DYING_PEER, str(fd), torn], pass_fds=[fd], timeout=30).returncode


@pytest.mark.parametrize("unread", [False, True], ids=["EOF", "ECONNRESET"])
@pytest.mark.parametrize("torn", ["whole", "torn"])
async def test_all_that_a_killed_process_had_sent_is_read_before_its_end(unread: bool, torn: str) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    if unread:
        channel.post(delta(1))
    assert run_dying_peer(theirs, torn) == -signal.SIGKILL
    channel.post(delta(2))  # EPIPE: decides nothing
    assert numbers(await read_to_the_end(channel)) == list(range(200))
    with pytest.raises(ChannelClosed):
        channel.post(delta(3))
    await channel.aclose()


async def test_closing_a_socket_twice_never_touches_the_descriptor_that_took_its_number() -> None:
    ours, theirs = socket.socketpair()
    other, its_peer = socket.socketpair()
    number = ours.fileno()
    channel = Channel(ours)
    await channel.aclose()
    with theirs, other, its_peer, socket.socket(fileno=os.dup2(other.fileno(), number)) as taken:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, taken)
            await wait_all_tasks_blocked()
            await channel.aclose()
            assert await channel.receive() == []
            its_peer.send(b"for somebody else")
        assert taken.recv(100) == b"for somebody else"

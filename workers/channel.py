"""Frames over one connected stream: one reader, one writer task, everything waiting in one send.

Both ends of both kinds of channel are this class: client <-> supervisor on a Unix socket, supervisor <-> worker on a
socketpair, memory streams in tests. It owns order, coalescing, bounds and the end of a connection. What a frame means
is messages.py's; what a lost connection or a full buffer means is its user's.

What coalescing is worth: bench/channel.py. Three rules hold everywhere:

- Only the writer task sends (or `post` itself, while nothing waits), and no turn's cancel scope encloses it. A
  cancelled send may have written half a frame, and the peer would take the next one for the rest of it.
- The end of reading decides what became of the peer, nothing else. A peer that dies with unread input turns our end
  of file into ECONNRESET and our next send into EPIPE while its last frames still wait to be read here.
- `post` neither blocks nor yields, so relaying to a slow client never holds up the worker that is being read.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from time import perf_counter
from typing import Protocol

import trio

from loopforge.workers.framing import MAX_FRAME_BYTES, Frame, FrameError, Framer

RECEIVE_BYTES = 64 * 1024
"""A batch. Twice as much halves the throughput of 64 KiB frames: every read then allocates afresh from the kernel."""
SEND_BYTES = 120 * 1024
"""Frames are joined up to this. Above 128 KiB malloc maps and unmaps each joined piece anew: with 256 KiB a flood of
4 KiB frames cost half as much CPU again, and 64 KiB frames 20 page faults and three times the CPU each."""
SOON_BYTES = 64 * 1024
"""This much waiting is worth a send of its own before the flush window ends."""
FLUSH_AFTER_S = 0.002
"""Window of `post_soon`: at 5,000 deltas/s it halves the receivers' CPU for 1.3 ms; 5 ms save little beyond that."""
INLINE_GAP_S = 0.0002
"""`post` sends by itself only this long after the last send: a lone frame saves a task switch, a flood coalesces."""
MAX_BUFFERED_BYTES = 2 * MAX_FRAME_BYTES
"""Room for one of the largest frames behind another; who has many peers sets less."""
HANG_UP_S = 1.0
"""For streams whose farewell may block; a socket's does not."""


class ChannelClosed(Exception):
    """Nothing can be posted any more: the peer is gone, or this end was closed or its writer cancelled."""


class BufferFull(Exception):
    """The peer reads too slowly: `max_buffered_bytes` are waiting. The frame was not taken."""


class _Pipe(Protocol):
    """What a channel needs of a byte stream."""

    def send_now(self, data: bytes | memoryview) -> int:
        """Bytes the kernel took at once. Raises OSError when the peer takes no more."""

    async def send_some(self, data: bytes | memoryview) -> int:
        """Wait until some of it is taken. Raises OSError or trio.BrokenResourceError, ClosedResourceError."""

    async def receive_some(self) -> bytes:
        """The next bytes, b"" at the end, whatever its form. Always a checkpoint; a cancelled call took nothing."""

    async def hang_up(self) -> None:
        """Tell the peer that nothing more comes."""

    async def aclose(self) -> None: ...


class Channel:
    """One connection. Start `run` in a nursery that outlives every turn; post and receive from that nursery's thread.

    `stream`: a connected socket, which becomes non-blocking and the channel's own, or any trio stream.
    `max_buffered_bytes`: posting fails above it, so at most this and one frame wait. `flush_after_s`: see `post_soon`.
    `inline_gap_s`: a frame posted this long after the last send leaves before `post` returns.
    """

    def __init__(
        self,
        stream: socket.socket | trio.abc.Stream,
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
        flush_after_s: float = FLUSH_AFTER_S,
        inline_gap_s: float = INLINE_GAP_S,
    ) -> None:
        self._pipe: _Pipe = _SocketPipe(stream) if isinstance(stream, socket.socket) else _StreamPipe(stream)
        self._framer = Framer(max_frame_bytes)
        self._max_buffered_bytes = max_buffered_bytes
        self._flush_after_s = flush_after_s
        self._inline_gap_s = inline_gap_s
        self._queue: deque[bytes | memoryview] = deque()  # in order; what the writer holds is no longer in it
        self._buffered = 0  # bytes the kernel has not taken yet: the queue's and the writer's
        self._urgent = False  # the queue is to be sent now, not at _flush_at
        self._flush_at = math.inf
        self._sent_at = -math.inf  # on perf_counter: trio's clock may be virtual
        self._answering = False  # a lone frame has just been read: so the scheduler's tick is young
        self._parked: trio.lowlevel.Task | None = None
        self._drain_waiters: list[tuple[int, trio.Event]] = []
        self._running = False
        self._sending = False  # the writer has taken frames out of the queue that are not all sent
        self._deaf = False  # the peer takes no more; the end of reading is still to come
        self._read_to_the_end = False
        self.why_closed = ""
        """Why nothing can be posted any more, a clause; "" while it can."""

    @property
    def closed(self) -> bool:
        """Whether `post` raises ChannelClosed."""
        return bool(self.why_closed)

    @property
    def buffered_bytes(self) -> int:
        """Posted, and not yet taken by the kernel."""
        return self._buffered

    # -- sending -----------------------------------------------------------------------------------------------------

    def post(self, frame: bytes) -> None:
        """Send `frame` soon, after everything posted before it. Never blocks.

        A frame that comes alone leaves at once; those posted within one scheduler tick leave together in one send.
        Raises ChannelClosed, BufferFull. To a peer that takes no more it does nothing: `receive` finds the end.
        """
        if self._buffered or self.why_closed or self._deaf or not self._may_send_inline():
            self._append(frame)
            self._wake()
            return
        try:
            sent = self._pipe.send_now(frame)
        except OSError:
            self._give_up_sending()
            return
        if sent < len(frame):
            rest = memoryview(frame)[sent:] if sent else frame
            self._queue.append(rest)
            self._buffered = len(rest)
            self._wake()

    def post_soon(self, frame: bytes) -> None:
        """Like `post`, but wait up to `flush_after_s` for company. A later `post` or `flush` sends it with its own."""
        if not self._queue:
            self._flush_at = trio.current_time() + self._flush_after_s
            self._append(frame)
            self._reschedule_writer()  # it parks again, with the window's end as deadline
        else:
            self._append(frame)
        if self._buffered >= SOON_BYTES:
            self._wake()

    def hold(self, frame: bytes) -> None:
        """Like `post`, but the frame leaves with the next `flush` or `post`: whoever holds must flush.

        For a batch: what one read made is answered in one send, without waking the writer task for it.
        """
        self._append(frame)

    def flush(self) -> None:
        """Send what waits, now and from here if the peer takes it, else from the writer task."""
        if not self._queue:
            return
        if self._sending or self._deaf:
            self._wake()
            return
        data = self._take()
        try:
            sent = self._pipe.send_now(data)
        except OSError:
            self._give_up_sending()
            return
        self._sent_at = perf_counter()
        self._took(sent)
        if sent < len(data):
            self._queue.appendleft(memoryview(data)[sent:] if sent else data)
        if self._queue:
            self._wake()

    async def wait_drained(self, below_bytes: int = 0) -> None:
        """Until no more than `below_bytes` are buffered, or nothing can be sent any more.

        That holds when the caller goes on: of many that wait the first may post, and the others then wait again.
        """
        await trio.lowlevel.checkpoint()
        while self._buffered > below_bytes:
            drained = trio.Event()
            self._drain_waiters.append((below_bytes, drained))
            try:
                await drained.wait()
            finally:
                self._drain_waiters = [waiter for waiter in self._drain_waiters if waiter[1] is not drained]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The writer task. Returns when nothing can be sent any more; cancelling it breaks the channel for good."""
        if self._running:
            raise RuntimeError("a channel has one writer: run() was called twice")
        self._running = True
        task_status.started()
        try:
            while not (self.why_closed or self._deaf):
                await self._wait_for_work()
                if self._queue:
                    await self._send(self._take())
        except (OSError, trio.BrokenResourceError):
            self._give_up_sending()
        except trio.ClosedResourceError:  # aclose() by another task
            self._end("it was closed here")
        finally:
            if not self._deaf:  # cancelled, then half a frame may be out and nobody sends the rest; or ended already
                self._end("its writer was cancelled")
            with trio.move_on_after(HANG_UP_S, shield=True):
                await self._pipe.hang_up()

    def _may_send_inline(self) -> bool:
        """Whether this is the first frame in a while, or the answer to a lone one."""
        now = perf_counter()
        if self._answering or now - self._sent_at > self._inline_gap_s:
            self._answering = False
            self._sent_at = now
            return True
        return False

    def _append(self, frame: bytes) -> None:
        if self.why_closed:
            raise ChannelClosed(self.why_closed)
        if self._deaf:
            return
        if self._buffered > self._max_buffered_bytes:
            raise BufferFull(f"{self._buffered} bytes wait for a peer that does not read them")
        self._queue.append(frame)
        self._buffered += len(frame)

    def _wake(self) -> None:
        self._urgent = True
        self._reschedule_writer()

    def _reschedule_writer(self) -> None:
        if self._parked is not None:
            trio.lowlevel.reschedule(self._parked)
            self._parked = None

    async def _wait_for_work(self) -> None:
        """Park until a send is due. Always a checkpoint, so that a full queue does not keep the loop to itself."""
        if self._urgent:
            await trio.lowlevel.checkpoint()
        while not (self._urgent or self.why_closed or self._deaf):
            if not self._queue:
                await self._park()
                continue
            with trio.move_on_at(self._flush_at) as window:
                await self._park()
            if window.cancelled_caught:
                return

    async def _park(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _take(self) -> bytes | memoryview:
        """What leaves in the next send: everything, or as many frames as fit, but at least one."""
        queue = self._queue
        if len(queue) == 1:
            data = queue.popleft()
        elif self._buffered <= SEND_BYTES:
            data = b"".join(queue)
            queue.clear()
        else:
            taken = [queue.popleft()]
            room = SEND_BYTES - len(taken[0])
            while queue and (room := room - len(queue[0])) >= 0:
                taken.append(queue.popleft())
            data = b"".join(taken)
        self._urgent = bool(queue)
        return data

    async def _send(self, data: bytes | memoryview) -> None:
        self._sent_at = perf_counter()
        self._sending = True  # for good if this is cancelled: half a frame may be out
        sent = await self._pipe.send_some(data)
        self._took(sent)
        if sent < len(data):
            view = memoryview(data)
            while sent < len(data):
                more = await self._pipe.send_some(view[sent:])
                self._took(more)
                sent += more
        self._sending = False

    def _took(self, sent: int) -> None:
        if not self.why_closed:
            self._buffered -= sent
        if self._drain_waiters:
            for below_bytes, drained in self._drain_waiters:
                if self._buffered <= below_bytes:
                    drained.set()

    def _give_up_sending(self) -> None:
        """The peer takes no more (EPIPE). That decides nothing yet: its last frames may still wait to be read."""
        self._deaf = True
        self._drop_queue()

    def _end(self, why: str) -> None:
        self.why_closed = self.why_closed or why
        self._drop_queue()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._buffered = 0
        self._took(0)
        self._reschedule_writer()

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def receive(self) -> list[Frame]:
        """The next frames, at least one; [] at the end, once everything the peer had sent was returned.

        End of file, ECONNRESET, a peer that died inside a frame and `aclose` here all are the end. Raises FrameError,
        once, when the peer speaks something else. A cancelled call has lost nothing.
        """
        while not self._read_to_the_end:
            data = b""
            if not self._framer.broken:
                data = await self._pipe.receive_some()
                if not data:
                    self._finish_reading(self._last_words())
                    return []
            try:
                frames = self._framer.feed(data)
            except FrameError as exc:
                self._finish_reading(str(exc))
                raise
            if frames:
                self._answering = len(frames) == 1
                return frames
        await trio.lowlevel.checkpoint()
        return []

    def _last_words(self) -> str:
        try:
            self._framer.close()
        except FrameError as exc:  # it died while it sent: no more than another form of the end
            return f"the peer hung up: {exc}"
        return "the peer hung up"

    def _finish_reading(self, why: str) -> None:
        self._read_to_the_end = True
        self._end(why)

    # -- closing -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close at once, also when cancelled. What still waits is dropped: `wait_drained` first if it must arrive."""
        self._finish_reading("it was closed here")
        await self._pipe.aclose()


class _SocketPipe:
    """A non-blocking socket. Talks to the kernel directly: trio's own wrappers cost as much again as the calls."""

    __slots__ = ("_fd", "_more", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._fd = sock.fileno()
        self._more = False  # the last read was full, so the next will probably find something

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def send_some(self, data: bytes | memoryview) -> int:
        while True:
            try:
                return self._socket.send(data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._fd)

    async def receive_some(self) -> bytes:
        try:
            if self._more:
                await trio.lowlevel.checkpoint()  # the others' turn, before anything is taken that a cancel would lose
            else:
                await trio.lowlevel.wait_readable(self._fd)
            while True:
                try:
                    data = self._socket.recv(RECEIVE_BYTES)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._fd)
                else:
                    self._more = len(data) == RECEIVE_BYTES
                    return data
        except (OSError, trio.ClosedResourceError):  # ECONNRESET comes after the last byte, where b"" would have been
            return b""

    async def hang_up(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the peer was faster

    async def aclose(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._fd)
            self._socket.close()
        await trio.lowlevel.checkpoint()


class _StreamPipe:
    """Any trio stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    def send_now(self, data: bytes | memoryview) -> int:  # noqa: ARG002 - a trio stream sends only from a task
        return 0

    async def send_some(self, data: bytes | memoryview) -> int:
        piece = data[:SEND_BYTES]
        await self._stream.send_all(piece)
        return len(piece)

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def hang_up(self) -> None:
        try:
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            else:
                await self._stream.aclose()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the peer was faster

    async def aclose(self) -> None:
        await self._stream.aclose()

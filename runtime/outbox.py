"""What one read makes leaves in one send: frames posted while a batch of frames is handled wait for its end.

    with outbox:
        for frame in frames: ...   # whatever these post to one channel goes out together when the block is left

Outside the block a frame is posted at once, so nothing can be left lying.
"""

from __future__ import annotations

from types import TracebackType

from loopforge.workers.channel import Channel


class Outbox:
    """Shared by all channels of one supervisor. Enter it around code that does not await."""

    __slots__ = ("_held", "_open")

    def __init__(self) -> None:
        self._open = False
        self._held: dict[Channel, None] = {}

    def post(self, channel: Channel, frame: bytes) -> None:
        """Raises ChannelClosed, BufferFull, as Channel.post does."""
        if self._open:
            channel.hold(frame)
            self._held[channel] = None
        else:
            channel.post(frame)

    def __enter__(self) -> None:
        self._open = True

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._open = False
        for channel in self._held:
            channel.flush()
        self._held.clear()

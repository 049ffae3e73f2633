"""Frames kept for clients that come back: a ring for each running turn, and the outcomes of finished ones.

Frames are raw and never read here; a frame's place is its (attempt, seq), as the worker numbered it. Who relays and
renumbers frames, and what a gap looks like on the wire, is dispatch.py's. Everything is bounded in bytes, counted with
what Python adds to a frame, because most deltas are smaller than the object that holds them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

MIB = 1 << 20
FRAME_OVERHEAD_BYTES = 48  # a bytes object's header (33), the allocator's rounding, the ring's slot; CPython, 64 bit
OUTCOME_OVERHEAD_BYTES = 512  # the same for an Outcome with its id, its hash and its place in the table

Place = tuple[int, int]  # (attempt, seq)


class Kept(NamedTuple):
    """Frames behind a place, in order. `gap`: some that belong between that place and the first of them are gone."""

    gap: bool
    frames: list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a turn ended: the frame that says so, its place, and the hash of the turn's body, to know it again by.

    `ended_at`: unix seconds, as the journal has it.
    """

    attempt: int
    seq: int
    frame: bytes
    body_hash: bytes = b""
    ended_at: float = 0.0


class KeptFrames:
    """The last frames of one running turn. Made by KeptFramesPool.open; the pool's bound may empty it at any append.

    Places are not stored with the frames: a run of consecutive seq of one attempt needs only its first place.
    """

    __slots__ = ("_attempt", "_dropped", "_frames", "_next_seq", "_pool", "_runs", "held_bytes")

    def __init__(self, pool: KeptFramesPool) -> None:
        self.held_bytes = 0
        self._pool = pool
        self._frames: deque[bytes] = deque()
        self._runs: list[_Run] = []  # the first one holds the last frame dropped, or the first one kept
        self._dropped = 0
        self._attempt = _NEVER
        self._next_seq = _NEVER

    def append(self, attempt: int, seq: int, frame: bytes) -> None:
        """Keep a frame; when the turn's or the pool's bound is passed, older ones go. Constant time, amortised.

        Takes any place, because a worker chose it: numbers out of order only spoil what `after` can tell of them.
        Raises ValueError once the turn has ended.
        """
        if seq != self._next_seq or attempt != self._attempt:
            self._begin_run(attempt, seq)
        self._next_seq = seq + 1
        pool = self._pool
        if not self._frames:
            pool.by_age[self] = None
        self._frames.append(frame)
        size = len(frame) + FRAME_OVERHEAD_BYTES
        self.held_bytes += size
        pool.held_bytes += size
        if self.held_bytes > pool.max_turn_bytes:
            self._drop(self.held_bytes - pool.max_turn_bytes)
        if pool.held_bytes > pool.max_bytes:
            pool.make_room()

    def after(self, attempt: int, seq: int) -> Kept:
        """What a client that has all up to (attempt, seq) is sent first; (0, 0) asks for everything. O(frames)."""
        seen = self._count_up_to((attempt, seq))
        frames = list(islice(self._frames, max(0, seen - self._dropped), None))
        return Kept((attempt, seq) < self._last_dropped(), frames)

    @property
    def last(self) -> Place:
        """The place of the last frame appended; before every place when there was none."""
        return (self._attempt, self._next_seq - 1) if self._runs else _BEFORE_ALL

    def empty(self) -> None:
        """Drop every frame; the turn goes on, and `after` tells of the gap."""
        self._drop(self.held_bytes)

    def end(self) -> None:
        """Drop every frame for good: the turn has ended."""
        self.empty()
        self._next_seq = _ENDED

    def _begin_run(self, attempt: int, seq: int) -> None:
        if self._next_seq == _ENDED:
            raise ValueError("the turn has ended; no frame comes after its outcome")
        self._runs.append(_Run((attempt, seq), self._dropped + len(self._frames)))
        self._attempt = attempt

    def _drop(self, excess_bytes: int) -> None:
        """Drop the oldest frames until at least that many bytes are gone."""
        freed = 0
        while freed < excess_bytes:
            freed += len(self._frames.popleft()) + FRAME_OVERHEAD_BYTES
            self._dropped += 1
        self.held_bytes -= freed
        self._pool.held_bytes -= freed
        if not self._frames:
            self._pool.by_age.pop(self, None)
        while len(self._runs) > 1 and self._runs[1].before < self._dropped:
            del self._runs[0]

    def _last_dropped(self) -> Place:
        """The place of the last frame that was dropped; before every place when none was."""
        if not self._dropped:
            return _BEFORE_ALL
        (attempt, first_seq), before = self._runs[0]
        return (attempt, first_seq + self._dropped - 1 - before)

    def _count_up_to(self, place: Place) -> int:
        """How many of the frames ever appended stand at or before `place`, as far as the runs tell."""
        end = self._dropped + len(self._frames)
        for first, before in reversed(self._runs):
            if first <= place:
                same_attempt = first[0] == place[0]
                return min(before + place[1] - first[1] + 1, end) if same_attempt else end
            end = before
        return 0


class _Run(NamedTuple):
    """Frames of consecutive seq. `first`: the place of its first one; `before`: frames appended before that one."""

    first: Place
    before: int


_NEVER = -1  # no frame has this attempt or seq
_ENDED = -2
_BEFORE_ALL = (_NEVER, _NEVER)


class KeptFramesPool:
    """All kept frames within one bound: rings of running turns by id, and the outcomes of finished turns.

    `max_bytes` bounds both together. Outcomes are at most `max_finished` in number and `max_finished_bytes` (half of
    the whole unless given) in size; the least recently used go first. They do not make room for rings: a ring lost
    costs its client a gap event, an outcome lost is a reply that nobody else has. When the whole is passed, the ring
    that has held frames for longest is emptied.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 64 * MIB,
        max_turn_bytes: int = MIB,
        max_finished: int = 10_000,
        max_finished_bytes: int | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_turn_bytes = max_turn_bytes
        self.max_finished = max_finished
        self.max_finished_bytes = max_bytes // 2 if max_finished_bytes is None else max_finished_bytes
        self.held_bytes = 0
        self.by_age: OrderedDict[KeptFrames, None] = OrderedDict()  # rings that hold frames, oldest first
        self._running: dict[str, KeptFrames] = {}
        self._finished: OrderedDict[str, _Finished] = OrderedDict()  # least recently used first
        self._finished_bytes = 0

    def open(self, turn_id: str) -> KeptFrames:
        """The ring of a turn that begins. The outcome of an earlier turn of this id is dropped.

        Raises ValueError while a turn of this id is open: `finish` or `forget` closes it.
        """
        if turn_id in self._running:
            raise ValueError(f"turn {turn_id!r} is open already")
        self._drop_outcome(turn_id)
        ring = self._running[turn_id] = KeptFrames(self)
        return ring

    def finish(self, turn_id: str, outcome: Outcome) -> None:
        """The open turn has ended: its ring is dropped, its outcome kept unless that alone is larger than the bound.

        The outcome's frame is not to be appended to the ring before.
        """
        ring = self._running.pop(turn_id)
        finished = _Finished(outcome, ring.last)
        ring.end()
        if finished.size_bytes > self.max_finished_bytes:
            return
        self._finished[turn_id] = finished
        self._finished_bytes += finished.size_bytes
        self.held_bytes += finished.size_bytes
        while len(self._finished) > self.max_finished or self._finished_bytes > self.max_finished_bytes:
            self._drop_outcome(next(iter(self._finished)))
        self.make_room()

    def forget(self, turn_id: str) -> None:
        """Keep nothing of this turn, neither ring nor outcome. Does nothing when there is none."""
        if (ring := self._running.pop(turn_id, None)) is not None:
            ring.end()
        self._drop_outcome(turn_id)

    def forget_outcomes(self, turn_ids: Iterable[str] = (), *, ended_before: float | None = None) -> None:
        """Drop the outcomes of these turns and of those that ended before a time; math.inf: of all that have ended.

        Turns that run are left alone. O(outcomes) with a time.
        """
        gone = set(turn_ids)
        if ended_before is not None:
            gone |= {turn_id for turn_id, kept in self._finished.items() if kept.outcome.ended_at < ended_before}
        for turn_id in gone:
            self._drop_outcome(turn_id)

    def running(self, turn_id: str) -> KeptFrames | None:
        """The ring of a turn that has not ended."""
        return self._running.get(turn_id)

    def outcome(self, turn_id: str) -> Outcome | None:
        """How a finished turn ended, if that is still kept. Counts as a use."""
        if (finished := self._finished.get(turn_id)) is None:
            return None
        self._finished.move_to_end(turn_id)
        return finished.outcome

    def after(self, turn_id: str, attempt: int, seq: int) -> Kept | None:
        """What a client that attaches after (attempt, seq) is sent first; None when nothing is known of the turn.

        Of a finished turn this is its outcome, whatever the place: else the client would wait for it for ever.
        """
        if (ring := self._running.get(turn_id)) is not None:
            return ring.after(attempt, seq)
        if (outcome := self.outcome(turn_id)) is None:
            return None
        return Kept((attempt, seq) < self._finished[turn_id].last, [outcome.frame])

    def make_room(self) -> None:
        """Empty the oldest rings until the whole is within its bound."""
        while self.held_bytes > self.max_bytes and self.by_age:
            next(iter(self.by_age)).empty()

    def _drop_outcome(self, turn_id: str) -> None:
        if (finished := self._finished.pop(turn_id, None)) is not None:
            self._finished_bytes -= finished.size_bytes
            self.held_bytes -= finished.size_bytes


class _Finished(NamedTuple):
    """`last`: the place of the turn's last frame before its outcome."""

    outcome: Outcome
    last: Place

    @property
    def size_bytes(self) -> int:
        return len(self.outcome.frame) + OUTCOME_OVERHEAD_BYTES

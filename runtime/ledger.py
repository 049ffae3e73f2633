"""Every live turn and its one outcome: who watches it, what is kept of it, what the journal holds of it.

Nothing here awaits: what must be on disk first goes on in a call-back of the journal. A turn is opened once, its frames
are relayed to whoever watches it, and `settle` ends it, exactly once; the outcome is stored before it is told. Where
and when a turn runs is attempts.py's, which turns there are to be is dispatch.py's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import trio

from loopforge.drivers.errors import TurnError, WireMismatch
from loopforge.runtime.errors import JournalFailed
from loopforge.runtime.journal.operations import (
    Accept,
    Accepted,
    Attempt,
    AttemptEnded,
    Ending,
    EndState,
    Finish,
    Found,
    Journal,
    Known,
    Lookup,
    Operation,
    Park,
    Parked,
    Running,
    Spent,
    StoredTurn,
    Written,
)
from loopforge.runtime.kept import Kept, KeptFramesPool, Outcome
from loopforge.runtime.records import Phase, TurnRecord, Watcher
from loopforge.runtime.refusals import MAX_TEXT, error_frame, error_header
from loopforge.runtime.taskqueue import ByteBudget
from loopforge.workers.framing import encode, renumber
from loopforge.workers.messages import FrameType, pack

log = logging.getLogger("loopforge")
R = TypeVar("R")

TYPE_AT = 4  # of a frame's bytes, behind the length
MAX_SEQ = 2**32 - 1

_FRAMES: dict[EndState, FrameType] = {
    "done": FrameType.DONE,
    "failed": FrameType.ERROR,
    "cancelled": FrameType.CANCELLED,
}


class Ledger:
    """The turns that have no outcome yet, by number and by id, and what is kept of them and of ended ones."""

    def __init__(self, max_queued_bytes: int, journal: Journal, *, wall: Callable[[], float] = time.time) -> None:
        self.live: dict[int, TurnRecord] = {}
        self.budget = ByteBudget(max_queued_bytes)
        self.kept = KeptFramesPool()
        self.empty = trio.Event()
        """Set at the last outcome after `expect_end`."""
        self.journal = journal
        self.wall = wall
        self.abandon: Callable[[TurnRecord, TurnError], None] = self._fail
        """Ends a turn here and now wherever it waits or runs: attempts.py, which knows where, puts its own way here."""
        self._by_id: dict[str, TurnRecord] = {}
        self._next_number = 1
        self._ending = False

    # -- finding -----------------------------------------------------------------------------------------------------

    def next_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number

    def get(self, turn_id: str) -> TurnRecord | None:
        """The turn of this id that has no outcome yet."""
        return self._by_id.get(turn_id)

    def known_hash(self, turn_id: str) -> bytes | None:
        """Of the body of a turn that is remembered here, live or ended; the journal may know more."""
        if (record := self._by_id.get(turn_id)) is not None:
            return record.hash
        outcome = self.kept.outcome(turn_id)
        return None if outcome is None else outcome.body_hash

    def is_done(self, turn_id: str) -> bool:
        """Whether the outcome kept of an ended turn is its reply: then it is not bought again, whoever asks."""
        outcome = self.kept.outcome(turn_id)
        return outcome is not None and outcome.frame[TYPE_AT] == FrameType.DONE

    def expect_end(self) -> None:
        """No turn comes any more: `empty` is set when the last one has its outcome."""
        self._ending = True
        if not self.live:
            self.empty.set()

    # -- a turn's life -----------------------------------------------------------------------------------------------

    def open(self, record: TurnRecord, stored: Callable[[Accepted | Known | JournalFailed], None]) -> None:
        """The turn exists from now on, and is accepted when `stored` hears so; it may hear before this returns."""
        self.take_up(record)
        wall = self.wall() - record.accepted_at  # what wall clocks show where the loop's shows 0
        accept = Accept(
            id=record.id,
            body_hash=record.hash,
            kind=record.kind,
            session=record.session,
            lane=record.lane,
            provider=record.asked.provider,
            model=record.asked.model,
            features=record.asked.features,
            size=record.asked.prompt_tokens,
            detached=record.detached,
            resend_safe=record.resend_safe,
            accepted_at=wall + record.accepted_at,
            deadline=wall + record.deadline,
            body=record.body,
            retry=record.asked.retry,
        )
        self._post(record, accept, stored)

    def take_up(self, record: TurnRecord) -> None:
        """The turn exists from now on; the journal knows it already."""
        record.kept = self.kept.open(record.id)
        self.live[record.number] = self._by_id[record.id] = record

    def withdraw(self, record: TurnRecord) -> None:
        """The turn was not accepted: nothing of it is kept here."""
        record.phase = Phase.ENDED
        self.kept.forget(record.id)
        self._close(record)

    def store_running(self, record: TurnRecord, then: Callable[[Written | JournalFailed], None]) -> None:
        """Note that this attempt is about to be sent; `then` may send it."""
        record.noted = Attempt(
            number=record.attempt, provider=record.target.provider, model=record.target.model, since=self.wall()
        )
        self._post(record, Running(id=record.id, attempt=record.noted), then)

    def store_failure(
        self, record: TurnRecord, error: TurnError, usage: dict[str, Any], *, ambiguous: bool, seen: bool = True
    ) -> None:
        """Note that this attempt gave no outcome and that the turn goes on. `seen`: it ended now, before our eyes."""
        assert record.noted is not None
        ended = AttemptEnded(
            id=record.id,
            attempt=record.noted,
            error=type(error).__name__,
            ended_at=self.wall() if seen else None,
            ambiguous=ambiguous,
            spent=_spent(record, usage),
        )
        self._post(record, ended, _ignore)

    def store_park(self, record: TurnRecord, wait_s: float, why: str) -> None:
        """Note that the turn waits that long for its provider's quota."""
        park = Park(provider=record.target.provider, until=self.wall() + wait_s, why=why[:MAX_TEXT])
        self._post(record, Parked(id=record.id, park=park), _ignore)

    def follow(self, record: TurnRecord, watcher: Watcher, *, after: tuple[int, int]) -> None:
        """Send what is kept of a live turn behind that place; what comes from now on follows it."""
        _replay(record.kept.after(*after), watcher)
        record.watchers.append(watcher)
        watcher.client.turns[watcher.number] = record

    def replay_outcome(self, turn_id: str, watcher: Watcher, *, after: tuple[int, int]) -> bool:
        """Send the outcome of an ended turn. False when none is kept here."""
        kept = self.kept.after(turn_id, *after)
        if kept is None:
            return False
        _replay(kept, watcher)
        return True

    def look_up(self, turn_id: str, then: Callable[[StoredTurn | None], None]) -> None:
        """What the journal knows of a turn that is not known here. A journal that cannot tell knows none."""

        def found(result: Found | JournalFailed) -> None:
            then(result.turn if isinstance(result, Found) else None)

        self.journal.post(Lookup(id=turn_id), found)

    def relay(self, record: TurnRecord, seq: int, raw: bytes) -> None:
        """A frame that is not the outcome: kept, and sent on to all who watch."""
        record.seq = seq
        record.kept.append(record.attempt, seq, raw)
        for client, number, *_ in record.watchers:
            client.send(renumber(raw, number))

    def restarted(self, record: TurnRecord, why: str, provider: str) -> None:
        """Tell that what came since `started` is void."""
        header = pack({"why": why[:MAX_TEXT], "provider": provider})
        seq = min(record.seq + 1, MAX_SEQ)
        raw = encode(FrameType.RESTARTED, record.number, attempt=record.attempt, seq=seq, header=header)
        self.relay(record, seq, raw)

    def settle(
        self,
        record: TurnRecord,
        state: EndState,
        header: bytes,
        body: bytes = b"",
        *,
        seq: int | None = None,
        usage: dict[str, Any] | None = None,
    ) -> None:
        """The one outcome of a turn: stored, then told, and forgotten but for what `kept` and the journal hold.

        `seq`: the worker's own number of it; without one it comes behind the last frame of the attempt. `usage`: what
        the last attempt cost. Raises ValueError, and nothing has changed, for what makes no frame.
        """
        if record.phase is Phase.ENDED:
            raise AssertionError(f"turn {record.id!r} ended twice")
        place = min(record.seq + 1, MAX_SEQ) if seq is None else seq
        finish = Finish(
            id=record.id,
            state=state,
            attempt=record.attempt,
            seq=place,
            header=header,
            body=body,
            ended_at=self.wall(),
            spent=_spent(record, usage or {}),
        )

        raw = outcome_frame(finish, record.number)
        record.phase = Phase.ENDED
        record.body = b""
        self.budget.give_back(record.place)
        outcome = Outcome(attempt=record.attempt, seq=place, frame=raw, body_hash=record.hash, ended_at=finish.ended_at)

        def tell(result: object) -> None:
            if isinstance(result, JournalFailed):  # it is told all the same: whoever waits would lose it, too
                log.error("the outcome of turn %s could not be written down: %s", record.id, result)
            self._tell(record, outcome)

        self._post(record, finish, tell)

    def settle_stored(self, turn: StoredTurn, error: TurnError) -> None:
        """End a turn that the journal has and that cannot be taken up."""
        spent = Spent(provider=turn.provider, model=turn.model, kind=turn.kind, session=turn.session, attempts=0)
        if turn.state == "running" and turn.attempt is not None:
            spent = replace(spent, provider=turn.attempt.provider, model=turn.attempt.model, attempts=1)
        finish = Finish(
            id=turn.id,
            state="failed",
            attempt=turn.attempts,
            seq=MAX_SEQ,
            header=error_header(error, attempts=turn.attempts),
            body=b"",
            ended_at=self.wall(),
            spent=spent,
        )
        self.journal.post(finish, _ignore)

    def leave_to_journal(self) -> int:
        """Forget every live turn without an outcome: the next service takes them up. How many there were."""
        left = [record for record in self.live.values() if record.phase is not Phase.ENDED]
        for record in left:
            record.phase = Phase.ENDED
            self.kept.forget(record.id)
            for client, number, *_ in (*record.watchers, *record.unanswered):
                client.turns.pop(number, None)
            record.watchers, record.unanswered = [], []
            self._close(record)
        return len(left)

    def _post(self, record: TurnRecord, operation: Operation[R], then: Callable[[R | JournalFailed], None]) -> None:
        """What somebody waits for at a screen is not to wait for the commits of a burst of other turns.

        A bug that raises within `then` ends the turn: nobody else would come to look at it again.
        """

        def answered(result: R | JournalFailed) -> None:
            try:
                then(result)
            except Exception as exc:
                log.exception("turn %s cannot go on from the journal's answer through a bug of ours", record.id)
                self._end_after_bug(record, exc)

        self.journal.post(operation, answered, urgent=record.lane == "interactive")

    def _end_after_bug(self, record: TurnRecord, exc: Exception) -> None:
        """A failure for a turn that has no outcome, and an answer for each who was promised one."""
        error = WireMismatch(
            what=f"the service failed with {type(exc).__name__}",
            action="report this as a bug of LoopForge; its log has the traceback",
            scope="turn",
        )
        waiting, record.unanswered = record.unanswered, []
        if record.phase is Phase.ENDED:  # it was withdrawn, or its outcome is on the way to those who watch
            _tell_last(waiting, partial(error_frame, error=error))
            return
        record.watchers += waiting
        try:
            self.abandon(record, error)
        except Exception:
            log.exception("turn %s cannot be taken from where it is, either", record.id)
            self._fail(record, error)

    def _fail(self, record: TurnRecord, error: TurnError) -> None:
        if record.phase is not Phase.ENDED:
            self.settle(record, "failed", error_header(error, attempts=record.attempt))

    def _tell(self, record: TurnRecord, outcome: Outcome) -> None:
        _tell_last(record.watchers, partial(renumber, outcome.frame))
        record.watchers = []
        self._close(record)
        self.kept.finish(record.id, outcome)

    def _close(self, record: TurnRecord) -> None:
        del self.live[record.number], self._by_id[record.id]
        self.budget.give_back(record.place)
        if self._ending and not self.live:
            self.empty.set()


def outcome_frame(ending: Finish | Ending, number: int) -> bytes:
    """The frame that tells a client of this outcome."""
    return encode(
        _FRAMES[ending.state],
        number,
        attempt=ending.attempt,
        seq=ending.seq,
        header=ending.header,
        body=ending.body,
    )


def _tell_last(watchers: Iterable[Watcher], frame_of: Callable[[int], bytes]) -> None:
    """Each under its own number the last frame it gets; one that cannot be told keeps it from no other."""
    for client, number, *_ in watchers:
        try:
            client.turns.pop(number, None)
            client.send(frame_of(number))
        except Exception:
            log.exception("a client could not be told how its turn ended through a bug of ours")


def _replay(kept: Kept, watcher: Watcher) -> None:
    if kept.gap:
        watcher.client.send(encode(FrameType.GAP, watcher.number))
    for raw in kept.frames:
        if not (watcher.quiet and raw[TYPE_AT] == FrameType.DELTA):
            watcher.client.send(renumber(raw, watcher.number))


def _spent(record: TurnRecord, usage: dict[str, Any]) -> Spent:
    """Of the last attempt. What a worker did not say, or said as something else than a number, counts nothing."""
    at = record.noted if record.sent and record.noted is not None else record.target
    return Spent(
        provider=at.provider,
        model=at.model,
        kind=record.kind,
        session=record.session,
        attempts=int(record.sent),
        **{name: tokens for name in _TOKENS if isinstance(tokens := usage.get(name), int) and tokens > 0},
    )


_TOKENS = ("input", "output", "cache_read", "cache_write", "reasoning")


def _ignore(_: object) -> None:
    """Nothing waits for it: a note that could not be written costs a line of the books, the log tells of it."""

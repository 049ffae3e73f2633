"""Where and when turns run: desks, assignments out, what workers say, and what becomes of a failed attempt.

Every method is synchronous and whole. Decisions are router.py's, taskqueue.py's and retry.py's; this acts on them. A
slot belongs to (worker generation, turn): it is free when the worker says that the attempt is over, or is dead.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from loopforge.drivers.errors import TurnError, WorkerLost
from loopforge.drivers.turn import Limits
from loopforge.runtime.breakers import Breakers
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import DeadlineExceeded, ProviderDown, QueueFull
from loopforge.runtime.ledger import TYPE_AT, Ledger
from loopforge.runtime.outbox import Outbox
from loopforge.runtime.records import Desk, DeskState, Phase, TurnRecord
from loopforge.runtime.refusals import error_header
from loopforge.runtime.retry import (
    Decision,
    Failure,
    GiveUp,
    ParkUntil,
    ResendSame,
    SendTo,
    Try,
    decide,
    leave_closed,
    rule_for,
)
from loopforge.runtime.router import Candidate, Look, ProviderState, options
from loopforge.runtime.taskqueue import Item, TaskQueue
from loopforge.workers.channel import BufferFull, ChannelClosed
from loopforge.workers.framing import Frame, encode, renumber
from loopforge.workers.messages import FrameType, pack, pack_message, unpack_header
from loopforge.workers.packing import Malformed, from_plain

OVERDUE_S = 2.0
"""The worker ends a turn at its deadline; this much later the supervisor does, whatever the worker says."""
LET_GO_S = 10.0
"""A worker whose every turn ended that long ago, and which holds on to all of them, is beyond help."""
ROOM_BYTES = 32 * 2**20
"""While more than this waits for a worker to read it, turns wait in the queue, where they are bounded and told so."""
HELD_FOR_CLIENT = "its client"
HELD_FOR_QUOTA = "a quota's reset"
HELD_FOR_BACKOFF = "a back-off"
_OVER = (FrameType.DONE, FrameType.ERROR, FrameType.CANCELLED)


class Attempts:
    """All desks of one running configuration, and the turns at them."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        outbox: Outbox,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.look_soon = trio.Event()
        self.clock = clock
        self.breakers = Breakers()
        self._jitter = jitter
        self._ledger = ledger
        self._outbox = outbox
        self._look_at: float | None = None  # when tick comes next; None: not before somebody asks
        routed = {target.provider for route in config.routes.values() for target in route.targets}
        self.desks = {
            name: Desk(settings=settings, queue=TaskQueue(settings), routed=name in routed)
            for name, settings in config.providers.items()
        }
        self.states = {name: ProviderState() for name in self.desks}
        self._held: list[tuple[float, int]] = []  # due and turn number; those that were let go earlier are still here

    # -- into a queue ------------------------------------------------------------------------------------------------

    def enqueue(self, record: TurnRecord, now: float) -> None:
        """Into the first candidate's queue; when that is full and the route says `spill`, into the next one's.

        Raises QueueFull of the first candidate, TooLarge.
        """
        full: QueueFull | None = None
        for target in record.plan.candidates:
            desk = self.desks[target.provider]
            try:
                desk.queue.offer(_queue_item(record), now)
            except QueueFull as exc:
                full = full or exc
                if not record.plan.spill:
                    break
            else:
                record.target, record.desk = target, desk
                if full is not None:
                    passed = f"{full.provider} was passed over: its queue is full"
                    record.plan = replace(record.plan, warnings=(*record.plan.warnings, passed))
                return
        assert full is not None
        raise full

    def want(self, record: TurnRecord) -> None:
        """The turn's desk has work: a running worker gets it, a stopped one is called."""
        record.desk.wanted.set()
        self.pump(record.desk)
        if self._look_at is None or record.deadline < self._look_at:
            self.look_soon.set()

    def requeue(self, record: TurnRecord) -> None:
        """Into its desk's queue, before the others: it was accepted before."""
        record.phase, record.held_for = Phase.WAITING, ""
        record.desk.queue.put_back(_queue_item(record), self.clock())
        self.want(record)

    def hold(self, record: TurnRecord, until: float, what_for: str) -> None:
        """In no queue until then; after that it is queued, or cancelled if it was its client that did not come."""
        record.phase, record.held_for, record.due = Phase.HELD, what_for, until
        heapq.heappush(self._held, (until, record.number))
        if self._look_at is None or until < self._look_at:
            self.look_soon.set()

    def client_came(self, record: TurnRecord) -> None:
        if record.phase is Phase.HELD and record.held_for == HELD_FOR_CLIENT:
            self.requeue(record)

    def take_out(self, record: TurnRecord) -> None:
        """The turn waits no longer and holds no slot: nothing of it has reached a worker."""
        record.desk.queue.cancel(record.place)
        self.breakers.gone(record.place)
        self._free(record)

    def cancel(self, record: TurnRecord, why: str) -> None:
        """End the turn as cancelled: at once, or when its worker has let go of it."""
        if record.phase is Phase.ENDED or record.cancel_why is not None:
            return
        record.cancel_why = why
        record.deadline = min(record.deadline, self.clock())  # so `tick` ends it when the worker does not let go
        if record.at_worker:
            self._to_worker(record.desk, encode(FrameType.CANCEL, record.number, header=pack({"why": why})))
        else:
            self.take_out(record)
            self._end_cancelled(record)
            self.pump(record.desk)

    def abandon(self, record: TurnRecord, error: TurnError) -> None:
        """End a turn here and now, whatever its worker still does."""
        if record.phase is Phase.ENDED:
            return
        if record.at_worker:
            self._note_unfinished(record, error)
            self._to_worker(record.desk, encode(FrameType.CANCEL, record.number, header=pack({"why": error.what})))
        else:
            self.take_out(record)
        if record.cancel_why is not None:
            self._end_cancelled(record)
        else:
            self.fail(record, error)

    # -- what workers do ---------------------------------------------------------------------------------------------

    def worker_ready(self, desk: Desk) -> None:
        desk.state = DeskState.READY
        desk.idle_since = self.clock()
        self.pump(desk)

    def worker_frame(self, desk: Desk, frame: Frame) -> None:
        """One frame of the desk's present worker. Raises Malformed for one that makes no sense: it is then killed."""
        record = desk.running.get(frame.turn)
        if frame.type == FrameType.DELTA:
            if record is not None and record.phase is Phase.RUNNING:  # the hot path: number, keep, pass on, unread
                record.relayed = True
                record.seq = frame.seq
                raw = frame.raw
                record.kept.append(frame.attempt, frame.seq, raw)
                for client, number, quiet in record.watchers:
                    if not quiet:
                        client.send(renumber(raw, number))
            return
        if frame.type == FrameType.PONG:
            header = unpack_header(frame.header)
            desk.rss_bytes, desk.cpu_s = int(header.get("rss_bytes", 0)), float(header.get("cpu_s", 0.0))
            return
        if record is None or not record.at_worker:
            return
        if record.phase is Phase.ENDED:  # it ended here before the worker let go of it: only the slot was still its
            if frame.type in _OVER:
                self._free(record)
                self.pump(desk)
            return
        match frame.type:
            case FrameType.STARTED:
                record.started, record.started_at = True, self.clock()
                self._ledger.relay(record, frame.seq, frame.raw)
            case FrameType.DONE:
                self._worker_done(record, frame)
            case FrameType.ERROR:
                header = unpack_header(frame.header)
                fields = header.get("fields")
                if not isinstance(fields, dict):
                    raise Malformed("ERROR.fields", "missing")
                self._attempt_failed(record, TurnError.from_fields(fields), frame.body, header)
            case FrameType.CANCELLED:
                self._note_unfinished(record)
                self._free(record)
                self._end_cancelled(record)
                self.pump(desk)

    def worker_gone(self, desk: Desk, why: str) -> None:
        """The worker is dead and all it had sent has been read: decide each turn it had, now."""
        desk.state = DeskState.STOPPED
        desk.last_death = why
        desk.rss_bytes = 0
        desk.worker = None
        alone = sum(record.at_worker for record in desk.running.values()) == 1
        for record in list(desk.running.values()):
            if record.phase is Phase.ENDED:
                self._free(record)
            elif not record.at_worker:  # it had not been sent yet
                self._put_back(record)
            else:
                lost = WorkerLost(desk.name, f"the provider's worker process died ({why}) during the turn")
                lost.model, lost.started = record.target.model, record.relayed
                self._attempt_failed(record, lost, b"", {}, alone=alone)
        desk.queue.release_generation(desk.generation)

    def provider_down(self, desk: Desk, until: float, error: ProviderDown) -> None:
        """No worker until then: what waits fails at once, with the time to try again."""
        desk.state, desk.down_until, desk.down_reason = DeskState.DOWN, until, error.what
        forever = until == math.inf
        error.retry_after_s = None if forever else until - self.clock()
        self.states[desk.name] = ProviderState(down_until=until, down_error=error if forever else None)
        now = self.clock()
        for item in desk.queue.drain():
            record = self._ledger.live[int(item.id)]
            self._act(
                record, leave_closed(self._failure(record, error, now), now) or GiveUp(error=error), error, b"", {}
            )

    def provider_up(self, desk: Desk) -> None:
        """Half open: the next turn starts a worker, and so probes the provider."""
        desk.state, desk.down_reason = DeskState.STOPPED, ""
        self.states[desk.name] = ProviderState()

    def is_stuck(self, desk: Desk) -> bool:
        """Whether all that its worker holds are turns that ended here long ago: nobody loses anything with it."""
        latest = self.clock() - LET_GO_S
        held = desk.running.values()
        return bool(held) and all(record.phase is Phase.ENDED and record.deadline < latest for record in held)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """Expire, assign, and end what is overdue. Seconds until the next look, None when nothing is live."""
        now = self.clock()
        next_look: float | None = now + 1.0 if self._ledger.live else None
        while self._held and self._held[0][0] <= now:
            self._let_go(*heapq.heappop(self._held))
        if self._held and next_look is not None:
            next_look = min(next_look, self._held[0][0])
        for desk in self.desks.values():
            for item in desk.queue.expire(now):
                record = self._ledger.live[int(item.id)]
                waited = f"the deadline passed after {now - record.accepted_at:.1f} s in the queue of {desk.name!r}"
                self.fail(record, DeadlineExceeded(desk.name, waited))
            for record in list(desk.running.values()):
                if record.phase is Phase.RUNNING and now > record.deadline + OVERDUE_S:
                    overdue = DeadlineExceeded(desk.name, "the deadline passed and the worker did not end the turn")
                    self.abandon(record, overdue)
            self.pump(desk)
            if next_look is not None:
                next_look = min(next_look, desk.queue.next_look(now))
        self._look_at = next_look
        return None if next_look is None else max(next_look - now, 0.001)

    def _let_go(self, due: float, number: int) -> None:
        record = self._ledger.live.get(number)
        if record is None or record.phase is not Phase.HELD or record.due != due:
            return
        if record.held_for == HELD_FOR_CLIENT:
            self.cancel(record, "its client did not come back")
        else:
            self.requeue(record)

    # -- to a worker -------------------------------------------------------------------------------------------------

    def pump(self, desk: Desk) -> None:
        """Give the desk's worker what its queue lets start now."""
        if desk.state is DeskState.READY and len(desk.queue) and not _is_stuffed(desk):
            now = self.clock()
            gates = self.breakers.gates(desk.name, now)
            for assignment in desk.queue.assign(now, generation=desk.generation, gates=gates):
                self._assign(self._ledger.live[int(assignment.item.id)], now)

    def _assign(self, record: TurnRecord, now: float) -> None:
        """The turn has a slot: it goes to the worker once the journal knows."""
        record.phase, record.attempt, record.seq, record.sent = Phase.RUNNING, record.attempt + 1, 0, False
        record.desk.running[record.number] = record
        record.generation, record.sent_at = record.desk.generation, now
        target = record.target
        self.breakers.sent(
            record.place, target.provider, target.model, record.generation, now, pinned=record.plan.pinned
        )
        attempt = record.attempt

        def send(_: object) -> None:
            if record.phase is Phase.RUNNING and record.attempt == attempt and not record.sent:
                self._send(record)

        self._ledger.store_running(record, send)

    def _send(self, record: TurnRecord) -> None:
        """Post it to its worker; back into the queue with it, before the others, when that one's channel is full."""
        now = self.clock()
        header = {
            "id": record.id,
            "model": record.target.model,
            "remaining_ms": max(int((record.deadline - now) * 1000), 1),
            "thinking": record.plan.thinking,
            "first_event_timeout_s": record.target.first_event_timeout_s,
            "event_gap_timeout_s": record.target.event_gap_timeout_s,
        }
        frame = encode(FrameType.SUBMIT, record.number, attempt=record.attempt, header=pack(header), body=record.body)
        if not self._to_worker(record.desk, frame):
            self._put_back(record)
            return
        record.sent = record.at_worker = True
        if record.first_sent_at is None:
            record.first_sent_at = now
        self._ledger.budget.give_back(record.place)

    def _to_worker(self, desk: Desk, frame: bytes) -> bool:
        """False when its channel is full. A closed one decides nothing: the reader's end, or the heartbeats, do."""
        if desk.worker is not None:
            try:
                self._outbox.post(desk.worker.channel, frame)
            except ChannelClosed:
                return True
            except BufferFull:
                return False
        return True

    def _put_back(self, record: TurnRecord) -> None:
        """It has not reached the worker: it waits again, and the attempt was none."""
        self._free(record)
        self.breakers.gone(record.place)
        record.desk.queue.refund(record.place, request=True)
        record.phase, record.attempt = Phase.WAITING, record.attempt - 1
        record.desk.queue.put_back(_queue_item(record), self.clock())

    def _note_unfinished(self, record: TurnRecord, error: TurnError | None = None) -> None:
        """The attempt ends without a verdict on its provider: somebody cancelled it, or its time was up (`error`)."""
        now, traffic = self.clock(), record.desk.traffic
        self.breakers.gone(record.place)
        if error is None or record.cancel_why is not None:
            traffic.record("cancelled", now, total_s=now - record.sent_at)
        else:
            name = type(error).__name__
            traffic.record("failed", now, total_s=now - record.sent_at, error=name, next_step=error.action)

    def _free(self, record: TurnRecord) -> None:
        """The attempt is over: its slot goes to whoever is next."""
        desk = record.desk
        if desk.running.pop(record.number, None) is not None:
            desk.queue.release(record.generation, record.place)
            desk.idle_since = self.clock()
        record.at_worker = False

    # -- the end of an attempt ---------------------------------------------------------------------------------------

    def _worker_done(self, record: TurnRecord, frame: Frame) -> None:
        now, desk = self.clock(), record.desk
        header = unpack_header(frame.header)
        header["attempts"] = record.attempt
        header["provider"], header["model"] = record.target.provider, record.target.model
        header["warnings"] = list(record.plan.warnings)
        timings = dict(header.get("timings") or {})
        timings["queued_s"] = (record.first_sent_at or record.accepted_at) - record.accepted_at
        timings["total_s"] = now - record.accepted_at
        header["timings"] = timings
        usage = _usage(header)
        self._ledger.settle(record, "done", pack(header), frame.body, seq=frame.seq, usage=usage)
        self._free(record)  # not before: what a worker sends may make no frame
        self._learn(record, header, usage, now)
        self.breakers.done(record.place, now)
        desk.outcomes["done"] += 1
        desk.traffic.record("done", now, total_s=now - record.sent_at, first_token_s=timings.get("first_token_s"))
        self.pump(desk)

    def _learn(self, record: TurnRecord, header: dict[str, Any], usage: dict[str, Any], now: float) -> None:
        """What the attempt cost of the limits a minute, and what the provider says is left of them."""
        queue = record.desk.queue
        queue.correct(record.place, usage.get("input"), usage.get("output"))
        if limits := header.get("limits"):
            with contextlib.suppress(Malformed):
                queue.learn(from_plain(Limits, limits), record.started_at or now, now)

    def _attempt_failed(
        self, record: TurnRecord, error: TurnError, partial: bytes, header: dict[str, Any], *, alone: bool = False
    ) -> None:
        """One attempt ended without an answer: retry.py decides what becomes of the turn. `alone`: see retry.Try."""
        now, desk = self.clock(), record.desk
        usage = _usage(header)
        self._free(record)
        if record.cancel_why is not None:
            self._note_unfinished(record)
            self._end_cancelled(record, usage)
            self.pump(desk)
            return
        if usage:
            self._learn(record, header, usage, now)
        elif not record.relayed:
            desk.queue.refund(record.place)
        desk.traffic.record(
            "failed", now, total_s=now - record.sent_at, error=type(error).__name__, next_step=error.action
        )
        opened = self.breakers.failed(record.place, error, now, wall_offset=self._ledger.wall() - now)
        at = record.target
        record.tries = (*record.tries, Try(provider=at.provider, model=at.model, error=error, at=now, alone=alone))
        self._act(record, decide(self._failure(record, error, now), now, jitter=self._jitter()), error, partial, usage)
        if opened:
            self._leave_closed(desk, at.model if error.scope == "model" else None, error, now)
        self.pump(desk)

    def _failure(self, record: TurnRecord, error: TurnError, now: float) -> Failure:
        def idle(candidate: Candidate) -> bool:
            desk = self.desks[candidate.provider]
            return desk.back_at <= now and desk.queue.idle_for(record.lane, record.asked.prompt_tokens, now)

        return Failure(
            error=error,
            attempt=record.attempt,
            max_attempts=self.config.runtime.max_attempts,
            relayed=record.relayed,
            resend_safe=record.resend_safe,
            deadline=record.deadline,
            options=options(record.plan, self.states, self.look(now), idle, now),
            current=record.plan.everyone.index(record.target),
            tries=record.tries,
            size=record.asked.prompt_tokens,
            wall_offset=self._ledger.wall() - now,
            park_max_s=record.plan.park_max_s,
            parked_s=record.parked_s,
        )

    def look(self, now: float) -> Look:
        """Which breakers keep turns away at this moment, as router.py asks for it."""
        return lambda provider, model: self.breakers.look(provider, model, now)

    def _act(
        self, record: TurnRecord, decision: Decision, error: TurnError, partial: bytes, usage: dict[str, Any]
    ) -> None:
        """Do what was decided on a turn that has no slot and is in no queue."""
        if isinstance(decision, GiveUp):
            self.fail(record, decision.error, partial, usage)
            return
        now = self.clock()
        if record.sent:
            self._ledger.store_failure(record, error, usage, ambiguous=isinstance(error, WorkerLost))
            self._ledger.budget.put_back(record.place, record.size)
        if isinstance(decision, ResendSame):
            target, alone = record.target, decision.alone
        else:
            target, alone = record.plan.everyone[decision.candidate], False
        if record.started:
            self._ledger.restarted(record, error.what, target.provider)
        record.started = record.relayed = record.sent = False
        if isinstance(decision, SendTo) and decision.warning:
            record.plan = replace(record.plan, warnings=(*record.plan.warnings, decision.warning))
        record.target, record.desk, record.alone = target, self.desks[target.provider], alone
        if isinstance(decision, ParkUntil):
            record.parked_s += decision.at - now
            self._ledger.store_park(record, decision.at - now, error.what)
            self.hold(record, decision.at, HELD_FOR_QUOTA)
            return
        record.phase = Phase.WAITING
        record.desk.queue.put_back(_queue_item(record), now, not_before=decision.at)
        self.want(record)
        if decision.at > now:
            self.look_soon.set()

    def _leave_closed(self, desk: Desk, model: str | None, error: TurnError, now: float) -> None:
        """A breaker opened: who waits behind it goes where there is room, or learns at once that it is no use."""
        for item in desk.queue.drain(model):
            record = self._ledger.live[int(item.id)]
            failure = self._failure(record, error, now)
            if record.plan.pinned:
                desk.queue.put_back(item, now)
            elif rule_for(error).breaker == "opens":
                self._act(record, decide(failure, now, jitter=self._jitter()), error, b"", {})
            elif (way := leave_closed(failure, now)) is not None:
                self._act(record, way, error, b"", {})
            else:
                desk.queue.put_back(item, now)

    def fail(
        self, record: TurnRecord, error: TurnError, partial: bytes = b"", usage: dict[str, Any] | None = None
    ) -> None:
        """The turn has failed. `partial`: the packed message of what had come."""
        record.desk.outcomes["failed"] += 1
        if not partial and record.relayed:
            self._replay_for_quiet(record)
        header = error_header(error, attempts=record.attempt)
        self._ledger.settle(record, "failed", header, partial or pack_message(error.partial), usage=usage)

    def _replay_for_quiet(self, record: TurnRecord) -> None:
        """Clients that took no deltas get those that were kept: they make the partial answer of a lost attempt."""
        for client, number, quiet in record.watchers:
            if quiet:
                for raw in record.kept.after(record.attempt, 0).frames:
                    if raw[TYPE_AT] == FrameType.DELTA:
                        client.send(renumber(raw, number))

    def _end_cancelled(self, record: TurnRecord, usage: dict[str, Any] | None = None) -> None:
        record.desk.outcomes["cancelled"] += 1
        why = pack({"why": record.cancel_why or "cancelled"})
        self._ledger.settle(record, "cancelled", why, usage=usage)


def _is_stuffed(desk: Desk) -> bool:
    return desk.worker is not None and desk.worker.channel.buffered_bytes > ROOM_BYTES


def _queue_item(record: TurnRecord) -> Item:
    return Item(
        id=record.place,
        session=record.session,
        lane=record.lane,
        size_bytes=record.size,
        deadline=record.deadline,
        model=record.target.model,
        pinned=record.plan.pinned,
        tokens=record.asked.prompt_tokens,
        alone=record.alone,
    )


def _usage(header: dict[str, Any]) -> dict[str, Any]:
    """The tokens an attempt took, as its worker told; what is no map tells nothing."""
    usage = header.get("usage")
    return usage if isinstance(usage, dict) else {}

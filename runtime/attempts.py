"""What workers say of turns, and what becomes of them then: outcomes, resends, fallbacks, parking, the end of time.

Every method is synchronous and whole. Decisions are router.py's and retry.py's; this acts on them, through floor.py.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from loopforge.drivers.errors import Overloaded, RateLimited, TurnError, WorkerLost
from loopforge.drivers.turn import Limits
from loopforge.runtime.adaptive import AdaptivePolicy, after_refusal, after_turn
from loopforge.runtime.config.values import Target
from loopforge.runtime.errors import DeadlineExceeded, NoRoute, ProviderDown
from loopforge.runtime.floor import HELD_FOR_CLIENT, HELD_FOR_QUOTA, Floor, queue_item
from loopforge.runtime.ledger import TYPE_AT
from loopforge.runtime.records import Desk, DeskState, Phase, TurnRecord
from loopforge.runtime.refusals import error_header
from loopforge.runtime.retry import (
    Decision,
    Failure,
    GiveUp,
    Option,
    ParkUntil,
    ResendSame,
    SendTo,
    Try,
    decide,
    leave_closed,
    rule_for,
)
from loopforge.runtime.router import Candidate, ProviderState, options, passed_over_late
from loopforge.workers.framing import Frame, encode, renumber
from loopforge.workers.messages import FrameType, pack, pack_message, unpack_header
from loopforge.workers.packing import Malformed, from_plain

OVERDUE_S = 2.0
"""The worker ends a turn at its deadline; this much later the supervisor does, whatever the worker says."""
LET_GO_S = 10.0
"""A worker whose every turn ended that long ago, and which holds on to all of them, is beyond help."""
ADAPTIVE = AdaptivePolicy()
log = logging.getLogger("loopforge")
_OVER = (FrameType.DONE, FrameType.ERROR, FrameType.CANCELLED)


class Attempts:
    """What becomes of the turns at the desks of one running configuration."""

    def __init__(self, floor: Floor, max_attempts: int, *, jitter: Callable[[], float] = random.random) -> None:
        self.floor = floor
        self.ledger = floor.ledger
        self.ledger.abandon = self.abandon
        self.max_attempts = max_attempts
        self._jitter = jitter

    def cancel(self, record: TurnRecord, why: str) -> None:
        """End the turn as cancelled: at once, or when its worker has let go of it."""
        if record.phase is Phase.ENDED or record.cancel_why is not None:
            return
        record.cancel_why = why
        record.deadline = min(record.deadline, self.floor.clock())  # so `tick` ends it when the worker does not let go
        if record.at_worker:
            self.floor.to_worker(record.desk, encode(FrameType.CANCEL, record.number, header=pack({"why": why})))
        else:
            self.floor.take_out(record)
            self._end_cancelled(record)
            self.floor.pump(record.desk)

    def abandon(self, record: TurnRecord, error: TurnError) -> None:
        """End a turn here and now, whatever its worker still does."""
        if record.phase is Phase.ENDED:
            return
        if record.at_worker:
            self._note_unfinished(record, error)
            self.floor.to_worker(record.desk, encode(FrameType.CANCEL, record.number, header=pack({"why": error.what})))
        else:
            self.floor.take_out(record)
        if record.cancel_why is not None:
            self._end_cancelled(record)
        else:
            self.fail(record, error)

    # -- what workers do ---------------------------------------------------------------------------------------------

    def worker_ready(self, desk: Desk) -> None:
        desk.state = DeskState.READY
        desk.idle_since = self.floor.clock()
        self.floor.pump(desk)

    def worker_frame(self, desk: Desk, frame: Frame) -> None:
        """One frame of the desk's present worker. Raises Malformed for one that makes no sense: it is then killed."""
        record = desk.running.get(frame.turn)
        if frame.type == FrameType.DELTA:
            if record is not None and record.phase is Phase.RUNNING:  # the hot path: number, keep, pass on, unread
                record.relayed = True
                record.seq = frame.seq
                raw = frame.raw
                record.kept.append(frame.attempt, frame.seq, raw)
                for client, number, quiet, _, _ in record.watchers:
                    if not quiet:
                        client.send(renumber(raw, number))
            return
        if frame.type == FrameType.PONG:
            header = unpack_header(frame.header)
            desk.rss_bytes, desk.cpu_s = int(header.get("rss_bytes", 0)), float(header.get("cpu_s", 0.0))
            self.floor.learn_slots(desk, header.get("slots"))
            return
        if record is None or not record.at_worker:
            return
        if record.phase is Phase.ENDED:  # it ended here before the worker let go of it: only the slot was still its
            if frame.type in _OVER:
                self.floor.free(record)
                self.floor.pump(desk)
            return
        match frame.type:
            case FrameType.STARTED:
                record.started, record.started_at = True, self.floor.clock()
                self.ledger.relay(record, frame.seq, frame.raw)
            case FrameType.DONE:
                self._worker_done(record, frame)
            case FrameType.ERROR:
                header = unpack_header(frame.header)
                fields = header.get("fields")
                if not isinstance(fields, dict):
                    raise Malformed("ERROR.fields", "missing")
                error = TurnError.from_fields(fields)
                if isinstance(error, WorkerLost) and desk.successor is not None and not record.started:
                    self._refused(desk, record)
                else:
                    self._attempt_failed(record, error, frame.body, header)
            case FrameType.CANCELLED:
                header = unpack_header(frame.header) if frame.header else {}
                self._note_unfinished(record)
                self.floor.free(record)
                self._end_cancelled(record, _usage(header))
                self.floor.pump(desk)

    def worker_gone(self, desk: Desk, why: str) -> None:
        """The worker is dead and all it had sent has been read: decide each turn it had, now."""
        desk.state = DeskState.STOPPED
        desk.rss_bytes = 0
        desk.worker = None
        alone = sum(record.at_worker for record in desk.running.values()) == 1
        for record in list(desk.running.values()):
            try:
                self._orphaned(desk, record, why, alone=alone)
            except Exception:  # the others are decided all the same; `tick` ends this one at its deadline
                log.exception("what becomes of turn %s could not be decided through a bug of ours", record.id)
                desk.running.pop(record.number, None)
        desk.queue.release_generation(desk.generation)
        self.floor.pump(desk)

    def _orphaned(self, desk: Desk, record: TurnRecord, why: str, *, alone: bool) -> None:
        if record.phase is Phase.ENDED:
            self.floor.free(record)
        elif not record.at_worker:  # it had not been sent yet
            self._not_begun(desk, record)
        else:
            lost = WorkerLost(desk.name, f"the provider's worker process died ({why}) during the turn")
            lost.model, lost.started = record.target.model, record.relayed
            self._attempt_failed(record, lost, b"", {}, alone=alone)

    def _refused(self, desk: Desk, record: TurnRecord) -> None:
        """It crossed with its worker's word that somebody ends it, and is left to the one that has taken its place."""
        if record.cancel_why is not None:
            self.floor.free(record)
            self._note_unfinished(record)
            self._end_cancelled(record)
        else:
            record.sent = False
            self.ledger.budget.put_back(record.place, record.size)
            self._not_begun(desk, record)
            record.desk.wanted.set()
        self.floor.pump(desk)

    def _not_begun(self, desk: Desk, record: TurnRecord) -> None:
        """Nothing of the attempt has reached the provider: it was none, and the turn waits again."""
        self.floor.put_back(record)
        if record.desk is desk and desk.retired.is_set():
            self.floor.take_out(record)
            self.fail(record, NoRoute(desk.name, "the provider left the configuration"))

    def provider_down(self, desk: Desk, until: float, error: ProviderDown) -> None:
        """No worker until then: what waits goes elsewhere, or fails at once with the time to try again."""
        desk.state, desk.down_until, desk.down_reason = DeskState.DOWN, until, error.what
        forever = until == math.inf
        error.retry_after_s = None if forever else until - self.floor.clock()
        self.floor.states[desk.name] = ProviderState(down_until=until, down_error=error if forever else None)
        now = self.floor.clock()
        for item in desk.queue.drain():
            record = self.ledger.live[int(item.id)]
            self._act(
                record, leave_closed(self._failure(record, error, now), now) or GiveUp(error=error), error, b"", {}
            )

    def provider_up(self, desk: Desk) -> None:
        """Half open: the next turn starts a worker, and so probes the provider."""
        desk.state, desk.down_reason = DeskState.STOPPED, ""
        self.floor.states[desk.name] = ProviderState()

    def is_stuck(self, desk: Desk) -> bool:
        """Whether all that its worker holds are turns that ended here long ago: nobody loses anything with it."""
        latest = self.floor.clock() - LET_GO_S
        held = desk.running.values()
        return bool(held) and all(record.phase is Phase.ENDED and record.deadline < latest for record in held)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """Expire, assign, and end what is overdue. Seconds until the next look, None when nothing is live."""
        now = self.floor.clock()
        next_look: float | None = now + 1.0 if self.ledger.live else None
        while self.floor.held and self.floor.held[0][0] <= now:
            self._let_go(*heapq.heappop(self.floor.held))
        if self.floor.held and next_look is not None:
            next_look = min(next_look, self.floor.held[0][0])
        for desk in self.floor.all_desks:
            for item in desk.queue.expire(now):
                record = self.ledger.live[int(item.id)]
                waited = f"the deadline passed after {now - record.accepted_at:.1f} s in the queue of {desk.name!r}"
                self.fail(record, DeadlineExceeded(desk.name, waited))
            self.floor.pump(desk)
            for item, at in desk.queue.too_late(now):
                self._leave_too_late(self.ledger.live[int(item.id)], at, now)
            if next_look is not None:
                next_look = min(next_look, desk.queue.next_look(now))
        for record in list(self.ledger.live.values()):
            if record.phase is Phase.RUNNING and now > record.deadline + OVERDUE_S:
                what = "the deadline passed and the worker did not end the turn"
                self.abandon(record, DeadlineExceeded(record.desk.name, what))
        self.floor.look_at = next_look
        return None if next_look is None else max(next_look - now, 0.001)

    def _let_go(self, due: float, number: int) -> None:
        record = self.ledger.live.get(number)
        if record is None or record.phase is not Phase.HELD or record.due != due:
            return
        if record.held_for == HELD_FOR_CLIENT or not record.wanted:
            self.cancel(record, "its client did not come back")
        else:
            self.floor.requeue(record)

    def _note_unfinished(self, record: TurnRecord, error: TurnError | None = None) -> None:
        """The attempt ends without a verdict on its provider: somebody cancelled it, or its time was up (`error`)."""
        now, traffic = self.floor.clock(), record.desk.traffic
        self.floor.breakers.gone(record.place)
        if error is None or record.cancel_why is not None:
            traffic.record("cancelled", now, total_s=now - record.sent_at)
        else:
            name = type(error).__name__
            traffic.record("failed", now, total_s=now - record.sent_at, error=name, next_step=error.action)

    # -- the end of an attempt ---------------------------------------------------------------------------------------

    def _worker_done(self, record: TurnRecord, frame: Frame) -> None:
        now, desk = self.floor.clock(), record.desk
        header = unpack_header(frame.header)
        header["attempts"] = record.attempt
        header["provider"], header["model"] = record.target.provider, record.target.model
        header["warnings"] = list(record.plan.warnings)
        timings = dict(header.get("timings") or {})
        timings["queued_s"] = (record.first_sent_at or record.accepted_at) - record.accepted_at
        timings["total_s"] = now - record.accepted_at
        header["timings"] = timings
        usage = _usage(header)
        self.ledger.settle(record, "done", pack(header), frame.body, seq=frame.seq, usage=usage)
        self.floor.free(record)  # not before: what a worker sends may make no frame
        self._learn(record, header, usage, now)
        self.floor.breakers.done(record.place, now)
        served = Target(provider=record.target.provider, model=record.target.model)
        if not record.plan.pinned:
            self.floor.stickiness.served(record.session, record.kind, served, record.plan.home, now)
        desk.outcomes["done"] += 1
        first_token_s = timings.get("first_token_s")
        desk.traffic.record("done", now, total_s=now - record.sent_at, first_token_s=first_token_s)
        if desk.adaptive is not None and isinstance(first_token_s, float):
            prompt = usage.get("input") or record.asked.prompt_tokens
            state = after_turn(
                desk.adaptive,
                first_token_s=first_token_s,
                prompt_tokens=prompt,
                running=record.beside,
                now=now,
                policy=ADAPTIVE,
            )
            self.floor.adapt(desk, state)
        self.floor.pump(desk)

    def _learn(
        self, record: TurnRecord, header: dict[str, Any], usage: dict[str, Any], now: float, *, whole: bool = True
    ) -> None:
        """What the attempt cost of the limits a minute, and what the provider says is left of them.

        `whole`: False when its answer was cut: nobody knows what the rest of it cost, and its length tells nothing.
        """
        queue = record.desk.queue
        queue.correct(record.place, usage.get("input"), usage.get("output") if whole else None)
        if limits := header.get("limits"):
            with contextlib.suppress(Malformed):
                queue.learn(from_plain(Limits, limits), record.started_at or now, now)

    def _attempt_failed(
        self, record: TurnRecord, error: TurnError, partial: bytes, header: dict[str, Any], *, alone: bool = False
    ) -> None:
        """One attempt ended without an answer: retry.py decides what becomes of the turn. `alone`: see retry.Try."""
        now, desk = self.floor.clock(), record.desk
        usage = _usage(header)
        self.floor.free(record)
        if record.cancel_why is not None:
            self._note_unfinished(record)
            self._end_cancelled(record, usage)
            self.floor.pump(desk)
            return
        self._learn(record, header, usage, now, whole=False)
        if not usage and not record.relayed:
            desk.queue.refund(record.place)
        desk.traffic.record(
            "failed", now, total_s=now - record.sent_at, error=type(error).__name__, next_step=error.action
        )
        if desk.adaptive is not None and isinstance(error, (RateLimited, Overloaded)):
            self.floor.adapt(desk, after_refusal(desk.adaptive, now, ADAPTIVE))
        opened = self.floor.breakers.failed(record.place, error, now, wall_offset=self.ledger.wall() - now)
        at = record.target
        record.tries = (*record.tries, Try(provider=at.provider, model=at.model, error=error, at=now, alone=alone))
        self._act(record, decide(self._failure(record, error, now), now, jitter=self._jitter()), error, partial, usage)
        if opened:
            self._leave_closed(desk, at.model if error.scope == "model" else None, error, now)
        self.floor.pump(desk)

    def _failure(self, record: TurnRecord, error: TurnError, now: float) -> Failure:
        def idle(candidate: Candidate) -> bool:
            desk = self.floor.desks.get(candidate.provider)
            return (
                desk is not None
                and desk.back_at <= now
                and desk.queue.idle_for(record.lane, record.asked.prompt_tokens, now)
            )

        return Failure(
            error=error,
            attempt=record.attempt,
            max_attempts=self.max_attempts,
            relayed=record.relayed,
            resend_safe=record.resend_safe,
            deadline=record.deadline,
            options=options(record.plan, self.floor.states, self.floor.look(now), idle, now),
            current=record.plan.everyone.index(record.target),
            tries=record.tries,
            size=record.asked.prompt_tokens,
            wall_offset=self.ledger.wall() - now,
            park_max_s=record.plan.park_max_s,
            parked_s=record.parked_s,
        )

    def _act(
        self, record: TurnRecord, decision: Decision, error: TurnError, partial: bytes, usage: dict[str, Any]
    ) -> None:
        """Do what was decided on a turn that has no slot and is in no queue."""
        if isinstance(decision, GiveUp):
            self.fail(record, decision.error, partial, usage)
            return
        now = self.floor.clock()
        if record.sent:
            self.ledger.store_failure(record, error, usage, ambiguous=isinstance(error, WorkerLost))
            self.ledger.budget.put_back(record.place, record.size)
        if isinstance(decision, ResendSame):
            target, alone = record.target, decision.alone
        else:
            target, alone = record.plan.everyone[decision.candidate], False
        if record.started:
            self.ledger.restarted(record, error.what, target.provider)
        record.started = record.relayed = record.sent = False
        if isinstance(decision, SendTo) and decision.warning:
            record.plan = replace(record.plan, warnings=(*record.plan.warnings, decision.warning))
        record.target, record.desk, record.alone = target, self.floor.desks[target.provider], alone
        if isinstance(decision, ParkUntil):
            self.park(record, decision.at, error.what)
            return
        record.phase = Phase.WAITING
        record.desk.queue.put_back(queue_item(record), now, not_before=decision.at)
        self.floor.want(record)
        if decision.at > now:
            self.floor.look_soon.set()

    def park(self, record: TurnRecord, until: float, why: str) -> None:
        """The turn waits outside the queue for a quota's reset; a crash does not end that."""
        wait_s = until - self.floor.clock()
        record.parked_s += wait_s
        self.ledger.store_park(record, wait_s, why)
        self.floor.hold(record, until, HELD_FOR_QUOTA)

    def _leave_closed(self, desk: Desk, model: str | None, error: TurnError, now: float) -> None:
        """A breaker opened: who waits behind it goes where there is room, or learns at once that it is no use."""
        for item in desk.queue.waiting(model):
            record = self.ledger.live[int(item.id)]
            if record.plan.pinned:
                continue
            failure = self._failure(record, error, now)
            reopens_at = failure.options[failure.current].closed_until
            lasting = rule_for(error).breaker == "opens" or reopens_at >= record.deadline
            way = decide(failure, now, jitter=self._jitter()) if lasting else leave_closed(failure, now)
            if way is not None:
                desk.queue.cancel(item.id)
                self._act(record, way, error, b"", {})

    def _leave_too_late(self, record: TurnRecord, starts_at: float, now: float) -> None:
        """The limits a minute let a waiting turn not start before its deadline: it goes where it can, or learns so."""
        at, left_s, wait_s = record.target, record.deadline - now, starts_at - now
        late = f"the limits a minute let the turn start in {wait_s:.0f} s, and its deadline comes in {left_s:.0f} s"
        action = f"post it again in {wait_s:.0f} s, or under another id with a larger deadline_s"
        error = RateLimited(at.provider, late, action=action, model=at.model, retry_after_s=wait_s)
        failure = self._failure(record, error, now)
        ways = (self._unless_late(record, option, now) for option in failure.options)
        way = leave_closed(replace(failure, options=tuple(ways)), now)
        record.desk.queue.cancel(record.place)
        if way is not None:
            passed = passed_over_late(at.provider, wait_s)
            record.plan = replace(record.plan, warnings=(*record.plan.warnings, passed))
        self._act(record, way or GiveUp(error=error), error, b"", {})

    def _unless_late(self, record: TurnRecord, option: Option, now: float) -> Option:
        """Closed, where the turn could not start before its deadline, either."""
        starts_at = self.floor.earliest(option.provider, record.lane, record.asked.prompt_tokens, now)
        return option if starts_at < record.deadline else replace(option, closed_until=starts_at)

    def fail(
        self, record: TurnRecord, error: TurnError, partial: bytes = b"", usage: dict[str, Any] | None = None
    ) -> None:
        """The turn has failed. `partial`: the packed message of what had come."""
        record.desk.outcomes["failed"] += 1
        if not partial and record.relayed:
            self._replay_for_quiet(record)
        header = error_header(error, attempts=record.attempt)
        self.ledger.settle(record, "failed", header, partial or pack_message(error.partial), usage=usage)

    def _replay_for_quiet(self, record: TurnRecord) -> None:
        """Clients that took no deltas get those that were kept: they make the partial answer of a lost attempt."""
        for client, number, quiet, _, _ in record.watchers:
            if quiet:
                for raw in record.kept.after(record.attempt, 0).frames:
                    if raw[TYPE_AT] == FrameType.DELTA:
                        client.send(renumber(raw, number))

    def _end_cancelled(self, record: TurnRecord, usage: dict[str, Any] | None = None) -> None:
        record.desk.outcomes["cancelled"] += 1
        why = pack({"why": record.cancel_why or "cancelled"})
        self.ledger.settle(record, "cancelled", why, usage=usage)


def _usage(header: dict[str, Any]) -> dict[str, Any]:
    """The tokens an attempt took, as its worker told; what is no map tells nothing."""
    usage = header.get("usage")
    return usage if isinstance(usage, dict) else {}

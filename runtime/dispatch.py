"""Acts on the decisions: turns in, assignments out, events back. Every method is synchronous and whole.

Nothing here awaits, so no turn is ever seen half-changed: listener.py and supervisor.py call in from their tasks, and
what must leave is posted to channels that never block. Decisions are router.py, taskqueue.py and retry.py; a frame's
body is relayed unread. Each accepted turn ends in `_settle`, exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from loopforge.drivers.errors import TurnError, WorkerLost
from loopforge.drivers.turn import MAX_ID_BYTES
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import (
    BadTurn,
    DeadlineExceeded,
    Draining,
    IdConflict,
    ProviderDown,
    QueueFull,
    TooLarge,
)
from loopforge.runtime.kept import KeptFramesPool, Outcome
from loopforge.runtime.outbox import Outbox
from loopforge.runtime.records import ClientLink, Desk, DeskState, Phase, TurnRecord, Watcher
from loopforge.runtime.refusals import MAX_TEXT, check_number, error_frame, error_header, read_lane, unknown_turn
from loopforge.runtime.retry import Failure, GiveUp, decide
from loopforge.runtime.router import ProviderState, route
from loopforge.runtime.status import describe
from loopforge.runtime.taskqueue import ByteBudget, Item, TaskQueue
from loopforge.workers.channel import BufferFull, ChannelClosed
from loopforge.workers.framing import Frame, encode, renumber
from loopforge.workers.messages import (
    FrameType,
    SubmitHeader,
    pack,
    pack_message,
    read_submit,
    unpack_header,
)
from loopforge.workers.packing import Malformed

QUIET = 1
"""Flag of SUBMIT and ATTACH: send this client no deltas, only what frames the turn and its outcome."""

TYPE_AT = 4  # of a frame's bytes, behind the length

OVERDUE_S = 2.0
"""The worker ends a turn at its deadline; this much later the supervisor does, whatever the worker says."""

LET_GO_S = 10.0
"""A worker whose every turn ended that long ago, and which holds on to all of them, is beyond help."""
ROOM_BYTES = 32 * 2**20
"""While more than this waits for a worker to read it, turns wait in the queue, where they are bounded and told so."""

MAX_SEQ = 2**32 - 1
MAX_NAME_BYTES = 1024
"""Of what a client calls things: they come back in headers of ours, which have 64 KiB."""
MAX_REMAINING_MS = 10 * 365 * 86_400_000
"""Ten years are no deadline; in milliseconds a larger number may not fit a frame."""


class Dispatcher:
    """All turns and desks of one running configuration."""

    def __init__(self, config: Config, *, clock: Callable[[], float] = trio.current_time) -> None:
        self.config = config
        self.draining = False
        self.idle = trio.Event()  # set once draining and the last turn has ended
        self.look_soon = trio.Event()
        self.clients = 0
        self.outbox = Outbox()
        self._clock = clock
        self._started_at = clock()
        self._next_number = 1
        self._turns: dict[int, TurnRecord] = {}
        self._by_id: dict[str, TurnRecord] = {}
        self._budget = ByteBudget(config.runtime.max_queued_bytes)
        self._kept = KeptFramesPool()
        self._look_at: float | None = None  # when tick comes next; None: not before somebody asks
        routed = {target.provider for route_ in config.routes.values() for target in route_.targets}
        self.desks = {
            name: Desk(settings=settings, queue=TaskQueue(settings), routed=name in routed)
            for name, settings in config.providers.items()
        }
        self._states = {name: ProviderState() for name in self.desks}

    # -- what clients do ---------------------------------------------------------------------------------------------

    def submit(self, client: ClientLink, frame: Frame) -> None:
        """A client posts a turn under its own number: ACCEPTED or ERROR goes back before this returns."""
        try:
            header = read_submit(frame.header)
            known = self._is_known(client, frame, header)
            record = None if known else self._admit(header, frame.body)
        except Malformed as exc:
            client.send(error_frame(frame.turn, BadTurn(what=f"the turn is malformed: {exc}")))
            return
        except TurnError as exc:
            client.send(error_frame(frame.turn, exc))
            return
        client.send(encode(FrameType.ACCEPTED, frame.turn, header=pack({"id": header["id"]})))
        watcher = Watcher(client, frame.turn, bool(frame.flags & QUIET))
        if record is None:
            self._follow(header["id"], watcher, after=(0, 0))
        else:
            record.watchers.append(watcher)
            client.turns[frame.turn] = record
            self._want(self.desks[record.target.provider], record)

    def attach(self, client: ClientLink, frame: Frame) -> None:
        """A client goes on with a turn by its id: kept frames after (attempt, seq), then live ones."""
        try:
            header = unpack_header(frame.header)
            check_number(client, frame)
            attempt, seq = (int(number) for number in header.get("after", (0, 0)))
            self._follow(header.get("id"), Watcher(client, frame.turn, bool(frame.flags & QUIET)), after=(attempt, seq))
        except (Malformed, ValueError, TypeError, OverflowError) as exc:
            client.send(error_frame(frame.turn, BadTurn(what=f"malformed attach: {exc}")))
        except TurnError as exc:
            client.send(error_frame(frame.turn, exc))

    def cancel(self, client: ClientLink, frame: Frame) -> None:
        """CANCEL under the client's own turn number, or by id with number 0: then ACCEPTED or ERROR answers."""
        try:
            header = unpack_header(frame.header) if frame.header else {}
            by_id = frame.turn not in client.turns
            record = self._find(header.get("id")) if by_id else client.turns[frame.turn]
        except Malformed as exc:
            client.send(error_frame(frame.turn, BadTurn(what=f"malformed cancel: {exc}")))
            return
        except TurnError as exc:
            client.send(error_frame(frame.turn, exc))
            return
        if record is not None:
            self._cancel(record, str(header.get("why") or "cancelled by a client")[:MAX_TEXT])
        if by_id:
            answer = pack({"id": header.get("id"), "live": record is not None})
            client.send(encode(FrameType.ACCEPTED, frame.turn, header=answer))

    def client_gone(self, client: ClientLink) -> None:
        """Its attached turns are cancelled, unless somebody else watches them too; detached ones go on."""
        for record in list(client.turns.values()):
            record.watchers = [watcher for watcher in record.watchers if watcher.client is not client]
            if not record.watchers and not record.detached:
                self._cancel(record, "its client left")
        client.turns.clear()

    def _is_known(self, client: ClientLink, frame: Frame, header: SubmitHeader) -> bool:
        """Whether the id names this very turn already. Raises BadTurn, IdConflict."""
        turn_id = header["id"]
        check_number(client, frame)
        if not 0 < len(turn_id.encode()) <= MAX_ID_BYTES:
            raise BadTurn(what=f"a turn's id is 1 to {MAX_ID_BYTES} bytes of text")
        for name in ("kind", "session", "provider", "model"):
            if len(header[name].encode()) > MAX_NAME_BYTES:
                raise BadTurn(what=f"a turn's {name} has at most {MAX_NAME_BYTES} bytes")
        if (record := self._by_id.get(turn_id)) is not None:
            known = record.hash
        elif (outcome := self._kept.outcome(turn_id)) is not None:
            known = outcome.body_hash
        else:
            return False
        if known != header["hash"]:
            raise IdConflict(what=f"the id {turn_id!r} belongs to another turn")
        return True

    def _admit(self, header: SubmitHeader, body: bytes) -> TurnRecord:
        """A new turn in its provider's queue. Raises Draining, TooLarge, NoRoute, ProviderDown, QueueFull, BadTurn."""
        now = self._clock()
        if self.draining:
            raise Draining
        if len(body) > self.config.runtime.max_request_mb * 2**20:
            raise TooLarge(what=f"the turn has {len(body) / 2**20:.1f} MiB")
        plan = route(
            header["kind"],
            header["provider"],
            header["model"],
            header["features"],
            self.config.routes,
            self.config.providers,
            self._states,
            now,
        )
        remaining_ms = header["remaining_ms"]
        deadline = now + (plan.deadline_s if remaining_ms is None else min(remaining_ms, MAX_REMAINING_MS) / 1000)
        target = plan.candidates[0]
        record = TurnRecord(
            number=self._next_number,
            id=header["id"],
            hash=header["hash"],
            kind=header["kind"],
            session=header["session"],
            lane=read_lane(header["lane"]) or plan.lane,
            plan=plan,
            target=target,
            body=body,
            size=len(body),
            detached=header["detached"],
            resend_safe=header["resend_safe"] and plan.resend,
            accepted_at=now,
            deadline=deadline,
        )
        self._budget.take(record.place, record.size)
        try:
            self._enqueue(record, now)
        except TurnError:
            self._budget.give_back(record.place)
            raise
        self._next_number += 1
        record.kept = self._kept.open(record.id)
        self._turns[record.number] = self._by_id[record.id] = record
        return record

    def _enqueue(self, record: TurnRecord, now: float) -> None:
        """Into the first candidate's queue; when that is full and the route says `spill`, into the next one's.

        Raises QueueFull of the first candidate, TooLarge.
        """
        full: QueueFull | None = None
        for target in record.plan.candidates:
            record.target = target
            try:
                self.desks[target.provider].queue.offer(_queue_item(record), now)
            except QueueFull as exc:
                full = full or exc
                if not record.plan.spill:
                    break
            else:
                if full is not None:
                    passed = f"{full.provider} was passed over: its queue is full"
                    record.plan = replace(record.plan, warnings=(*record.plan.warnings, passed))
                return
        assert full is not None
        raise full

    def _find(self, turn_id: object) -> TurnRecord | None:
        """The live turn of this id, None for one that has ended. Raises UnknownTurn."""
        if isinstance(turn_id, str):
            if (record := self._by_id.get(turn_id)) is not None:
                return record
            if self._kept.outcome(turn_id) is not None:
                return None
        raise unknown_turn(turn_id)

    def _follow(self, turn_id: object, watcher: Watcher, *, after: tuple[int, int]) -> None:
        """Send what is kept of the turn after that place, then whatever comes. Raises UnknownTurn."""
        record = self._find(turn_id)
        kept = self._kept.after(str(turn_id), *after)
        if kept is None:
            raise unknown_turn(turn_id)
        if kept.gap:
            watcher.client.send(encode(FrameType.GAP, watcher.number))
        for raw in kept.frames:
            if not (watcher.quiet and raw[TYPE_AT] == FrameType.DELTA):
                watcher.client.send(renumber(raw, watcher.number))
        if record is not None:
            record.watchers.append(watcher)
            watcher.client.turns[watcher.number] = record

    # -- what workers do ---------------------------------------------------------------------------------------------

    def worker_ready(self, desk: Desk) -> None:
        desk.state = DeskState.READY
        desk.idle_since = self._clock()
        self._pump(desk)

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
            self._pong(desk, unpack_header(frame.header))
            return
        if record is None:
            return
        if record.phase is Phase.ENDED:  # it ended here before the worker let go of it: only the slot was still its
            if frame.type in (FrameType.DONE, FrameType.ERROR, FrameType.CANCELLED):
                self._free(desk, record)
                self._pump(desk)
            return
        match frame.type:
            case FrameType.STARTED:
                record.started = True
                self._relay(record, frame.seq, frame.raw)
            case FrameType.DONE:
                self._worker_done(desk, record, frame)
            case FrameType.ERROR:
                fields = unpack_header(frame.header).get("fields")
                if not isinstance(fields, dict):
                    raise Malformed("ERROR.fields", "missing")
                self._attempt_failed(desk, record, TurnError.from_fields(fields), frame.body)
            case FrameType.CANCELLED:
                self._free(desk, record)
                self._end_cancelled(record)

    def worker_gone(self, desk: Desk, why: str) -> None:
        """The worker is dead and all it had sent has been read: decide each turn it had, now."""
        desk.state = DeskState.STOPPED
        desk.last_death = why
        desk.rss_bytes = 0
        orphans = list(desk.running.values())
        for record in orphans:
            if record.phase is Phase.ENDED:
                self._free(desk, record)
                continue
            lost = WorkerLost(desk.name, f"the provider's worker process died ({why}) during the turn")
            lost.model, lost.started = record.target.model, record.relayed
            self._attempt_failed(desk, record, lost, b"")
        desk.worker = None
        desk.queue.release_generation(desk.generation)

    def provider_down(self, desk: Desk, until: float, error: ProviderDown) -> None:
        """No worker until then: what waits fails at once, with the time to try again."""
        desk.state, desk.down_until, desk.down_reason = DeskState.DOWN, until, error.what
        forever = until == math.inf
        error.retry_after_s = None if forever else until - self._clock()
        self._states[desk.name] = ProviderState(down_until=until, down_error=error if forever else None)
        for item in desk.queue.drain():
            self._fail(self._turns[int(item.id)], error)

    def provider_up(self, desk: Desk) -> None:
        """Half open: the next turn starts a worker, and so probes the provider."""
        desk.state, desk.down_reason = DeskState.STOPPED, ""
        self._states[desk.name] = ProviderState()

    def _pong(self, desk: Desk, header: dict[str, Any]) -> None:
        desk.rss_bytes, desk.cpu_s = int(header.get("rss_bytes", 0)), float(header.get("cpu_s", 0.0))

    def _worker_done(self, desk: Desk, record: TurnRecord, frame: Frame) -> None:
        header = unpack_header(frame.header)
        header["attempts"] = record.attempt
        header["provider"], header["model"] = record.target.provider, record.target.model
        header["warnings"] = list(record.plan.warnings)
        timings = dict(header.get("timings") or {})
        timings["queued_s"] = (record.first_sent_at or record.accepted_at) - record.accepted_at
        timings["total_s"] = self._clock() - record.accepted_at
        header["timings"] = timings
        raw = encode(
            FrameType.DONE, record.number, attempt=record.attempt, seq=frame.seq, header=pack(header), body=frame.body
        )
        self._free(desk, record)  # not before the frame is made: what a worker sends may make none
        desk.outcomes["done"] += 1
        self._settle(record, frame.seq, raw)

    def _attempt_failed(self, desk: Desk, record: TurnRecord, error: TurnError, partial: bytes) -> None:
        """One attempt ended without an answer: retry.py decides what becomes of the turn."""
        self._free(desk, record)
        if record.cancel_why is not None:
            self._end_cancelled(record)
            return
        failure = Failure(
            error=error,
            attempt=record.attempt,
            max_attempts=self.config.runtime.max_attempts,
            relayed=record.relayed,
            resend_safe=record.resend_safe,
            deadline=record.deadline,
        )
        decision = decide(failure, self._clock())
        if isinstance(decision, GiveUp):
            self._fail(record, decision.error, partial)
            return
        if record.started:
            why = pack({"why": error.what[:MAX_TEXT], "provider": record.target.provider})
            seq = min(record.seq + 1, MAX_SEQ)
            raw = encode(FrameType.RESTARTED, record.number, attempt=record.attempt, seq=seq, header=why)
            self._relay(record, seq, raw)
        record.phase, record.started, record.relayed = Phase.WAITING, False, False
        self._budget.put_back(record.place, record.size)
        desk.queue.put_back(_queue_item(record), self._clock())
        self._want(desk, record)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """Expire, assign, and end what is overdue. Seconds until the next look, None when nothing is live."""
        now = self._clock()
        next_look: float | None = now + 1.0 if self._turns else None
        for desk in self.desks.values():
            for item in desk.queue.expire(now):
                record = self._turns[int(item.id)]
                waited = f"the deadline passed after {now - record.accepted_at:.1f} s in the queue of {desk.name!r}"
                self._fail(record, DeadlineExceeded(desk.name, waited))
            for record in list(desk.running.values()):
                if record.phase is Phase.RUNNING and now > record.deadline + OVERDUE_S:
                    self._overdue(desk, record)
            self._pump(desk)
            if next_look is not None:
                next_look = min(next_look, desk.queue.next_look(now))
        self._look_at = next_look
        return None if next_look is None else max(next_look - now, 0.001)

    def _overdue(self, desk: Desk, record: TurnRecord) -> None:
        """The worker let the deadline pass: tell it once more, and end the turn here. The slot stays the worker's."""
        self._to_worker(desk, encode(FrameType.CANCEL, record.number, header=pack({"why": "overdue"})))
        if record.cancel_why is not None:
            self._end_cancelled(record)
        else:
            self._fail(record, DeadlineExceeded(desk.name, "the deadline passed and the worker did not end the turn"))

    def is_stuck(self, desk: Desk) -> bool:
        """Whether all that its worker holds are turns that ended here long ago: nobody loses anything with it."""
        latest = self._clock() - LET_GO_S
        held = desk.running.values()
        return bool(held) and all(record.phase is Phase.ENDED and record.deadline < latest for record in held)

    # -- drain, cancel, assign ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new turns; `idle` is set when the last one has ended."""
        self.draining = True
        if not self._turns:
            self.idle.set()

    def abandon(self, why: str) -> int:
        """End every turn that is left, as the service stops. How many there were."""
        self.draining = True
        left = list(self._turns.values())
        for record in left:
            desk = self.desks[record.target.provider]
            if record.phase is Phase.RUNNING:
                self._to_worker(desk, encode(FrameType.CANCEL, record.number, header=pack({"why": why})))
            else:
                desk.queue.cancel(record.place)
            if record.cancel_why is not None:
                self._end_cancelled(record)
            else:
                self._fail(record, Draining(what=why))
        return len(left)

    def _cancel(self, record: TurnRecord, why: str) -> None:
        if record.phase is Phase.ENDED or record.cancel_why is not None:
            return
        record.cancel_why = why
        record.deadline = min(record.deadline, self._clock())  # so `tick` ends it when the worker does not let go
        desk = self.desks[record.target.provider]
        if record.phase is Phase.WAITING:
            desk.queue.cancel(record.place)
            self._end_cancelled(record)
        else:
            self._to_worker(desk, encode(FrameType.CANCEL, record.number, header=pack({"why": why})))

    def _want(self, desk: Desk, record: TurnRecord) -> None:
        """The desk has work: a running worker gets it, a stopped one is called."""
        desk.wanted.set()
        self._pump(desk)
        if self._look_at is None or record.deadline < self._look_at:
            self.look_soon.set()

    def _pump(self, desk: Desk) -> None:
        if desk.state is DeskState.READY and len(desk.queue) and not _is_stuffed(desk):
            for assignment in desk.queue.assign(self._clock(), generation=desk.generation):
                self._assign(desk, self._turns[int(assignment.item.id)])

    def _assign(self, desk: Desk, record: TurnRecord) -> None:
        """Send it; back into the queue with it, before the others, when its worker's channel is full."""
        now = self._clock()
        header = {
            "id": record.id,
            "model": record.target.model,
            "remaining_ms": max(int((record.deadline - now) * 1000), 1),
            "thinking": record.plan.thinking,
            "first_event_timeout_s": record.target.first_event_timeout_s,
            "event_gap_timeout_s": record.target.event_gap_timeout_s,
        }
        attempt = record.attempt + 1
        frame = encode(FrameType.SUBMIT, record.number, attempt=attempt, header=pack(header), body=record.body)
        if not self._to_worker(desk, frame):
            desk.queue.release(desk.generation, record.place)
            desk.queue.put_back(_queue_item(record), now)
            return
        record.phase, record.sent_at, record.attempt, record.seq = Phase.RUNNING, now, attempt, 0
        if record.first_sent_at is None:
            record.first_sent_at = now
        self._budget.give_back(record.place)
        desk.running[record.number] = record

    def _to_worker(self, desk: Desk, frame: bytes) -> bool:
        """False when its channel is full. A closed one decides nothing: the reader's end, or the heartbeats, do."""
        if desk.worker is not None:
            try:
                self.outbox.post(desk.worker.channel, frame)
            except ChannelClosed:
                return True
            except BufferFull:
                return False
        return True

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def _free(self, desk: Desk, record: TurnRecord) -> None:
        """The attempt is over: its slot goes to whoever is next."""
        if desk.running.pop(record.number, None) is not None:
            desk.queue.release(desk.generation, record.place)
            desk.idle_since = self._clock()

    def _fail(self, record: TurnRecord, error: TurnError, partial: bytes = b"") -> None:
        self.desks[record.target.provider].outcomes["failed"] += 1
        header = error_header(error, attempts=record.attempt)
        if not partial and record.relayed:
            self._replay_for_quiet(record)
        self._end(record, FrameType.ERROR, header, partial or pack_message(error.partial))

    def _replay_for_quiet(self, record: TurnRecord) -> None:
        """Clients that took no deltas get those that were kept: they make the partial answer of a lost attempt."""
        for client, number, quiet in record.watchers:
            if quiet:
                for raw in record.kept.after(record.attempt, 0).frames:
                    if raw[TYPE_AT] == FrameType.DELTA:
                        client.send(renumber(raw, number))

    def _end_cancelled(self, record: TurnRecord) -> None:
        self.desks[record.target.provider].outcomes["cancelled"] += 1
        self._end(record, FrameType.CANCELLED, pack({"why": record.cancel_why or "cancelled"}))

    def _end(self, record: TurnRecord, kind: FrameType, header: bytes, body: bytes = b"") -> None:
        """An outcome of the supervisor's own making, behind the last frame of the attempt."""
        seq = min(record.seq + 1, MAX_SEQ)
        raw = encode(kind, record.number, attempt=record.attempt, seq=seq, header=header, body=body)
        self._settle(record, seq, raw)

    def _settle(self, record: TurnRecord, seq: int, raw: bytes) -> None:
        """The one outcome of a turn: kept, told, and forgotten but for what `kept` holds."""
        if record.phase is Phase.ENDED:
            raise AssertionError(f"turn {record.id!r} ended twice")
        record.phase = Phase.ENDED
        outcome = Outcome(attempt=record.attempt, seq=seq, frame=raw, body_hash=record.hash)
        self._kept.finish(record.id, outcome)
        for client, number, _ in record.watchers:
            client.turns.pop(number, None)
            client.send(renumber(raw, number))
        record.watchers = []
        record.body = b""
        self._budget.give_back(record.place)
        del self._turns[record.number], self._by_id[record.id]
        desk = self.desks[record.target.provider]
        self._pump(desk)
        if self.draining and not self._turns:
            self.idle.set()

    def _relay(self, record: TurnRecord, seq: int, raw: bytes) -> None:
        record.seq = seq
        record.kept.append(record.attempt, seq, raw)
        for client, number, _ in record.watchers:
            client.send(renumber(raw, number))

    # -- status ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `loopforge status` shows, as plain values: see status.py."""
        now = self._clock()
        service = {
            "uptime_s": now - self._started_at,
            "draining": self.draining,
            "clients": self.clients,
            "queued_bytes": self._budget.held_bytes,
            "kept_bytes": self._kept.held_bytes,
        }
        return service | describe(self.config, self.desks, list(self._turns.values()), now)


def _is_stuffed(desk: Desk) -> bool:
    return desk.worker is not None and desk.worker.channel.buffered_bytes > ROOM_BYTES


def _queue_item(record: TurnRecord) -> Item:
    return Item(
        id=record.place, session=record.session, lane=record.lane, size_bytes=record.size, deadline=record.deadline
    )

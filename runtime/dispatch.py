"""What clients ask for, acted on at once: turns in, attach, cancel, status, drain. Every method is whole.

Nothing here awaits, so no turn is ever seen half-changed: listener.py and supervisor.py call in from their tasks, and
what must leave is posted to channels that never block. The turns themselves are ledger.py's, where they run
attempts.py's; decisions are router.py's, taskqueue.py's and retry.py's.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import trio

from loopforge.drivers.errors import TurnError, WorkerLost
from loopforge.drivers.turn import MAX_ID_BYTES
from loopforge.runtime.attempts import Attempts
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import BadTurn, DeadlineExceeded, Draining, IdConflict, JournalFailed, QueueFull, TooLarge
from loopforge.runtime.floor import HELD_FOR_CLIENT, HELD_FOR_QUOTA, Floor
from loopforge.runtime.journal.memory import MemoryJournal
from loopforge.runtime.journal.operations import (
    Accepted,
    Found,
    Journal,
    Known,
    Purge,
    StoredTurn,
)
from loopforge.runtime.ledger import MAX_SEQ, Ledger, outcome_frame
from loopforge.runtime.outbox import Outbox
from loopforge.runtime.queries import RETRY, answer_of, operation_of
from loopforge.runtime.records import Asked, ClientLink, Desk, Phase, TurnRecord, Watcher
from loopforge.runtime.refusals import MAX_TEXT, check_number, error_frame, read_lane, unknown_turn
from loopforge.runtime.reload import Changes, compare, is_same_account
from loopforge.runtime.router import Plan, in_time, route
from loopforge.runtime.status import breaker_status, describe
from loopforge.workers.framing import Frame, encode
from loopforge.workers.messages import FrameType, SubmitHeader, pack, read_submit, unpack_header
from loopforge.workers.packing import Malformed

QUIET = 1
"""Flag of SUBMIT and ATTACH: send this client no deltas, only what frames the turn and its outcome."""

MAX_BACKLOG = 20_000
"""Operations that wait for the journal; a disk that works takes as many in a second."""
MAX_NAME_BYTES = 1024
"""Of what a client calls things: they come back in headers of ours, which have 64 KiB."""
MAX_REMAINING_MS = 10 * 365 * 86_400_000
"""Ten years are no deadline; in milliseconds a larger number may not fit a frame."""


Reload: TypeAlias = Callable[[Callable[[dict[str, Any]], None]], None]
"""Begins to read the configuration anew; calls back with what came of it, as plain values (serve.py)."""


class Dispatcher:
    """What one configuration's service does for its clients. `journal`: None keeps turns in memory only."""

    def __init__(
        self,
        config: Config,
        *,
        journal: Journal | None = None,
        clock: Callable[[], float] = trio.current_time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.draining = False
        self.clients = 0
        self.reload: Reload | None = None
        """Set by whoever can read the configuration anew."""
        self.outbox = Outbox()
        self.ledger = Ledger(config.runtime.max_queued_bytes, journal or MemoryJournal())
        self.floor = Floor(config, self.ledger, self.outbox, clock=clock)
        self.attempts = Attempts(self.floor, config.runtime.max_attempts, jitter=jitter)
        self._started_at = clock()

    @property
    def desks(self) -> dict[str, Desk]:
        return self.floor.desks

    # -- turns in ----------------------------------------------------------------------------------------------------

    def submit(self, client: ClientLink, frame: Frame) -> None:
        """A client posts a turn under its own number: ACCEPTED or ERROR answers, once it is known on disk."""
        watcher = Watcher(client, frame.turn, bool(frame.flags & QUIET))
        try:
            header = read_submit(frame.header)
            check_number(client, frame)
            _check_names(header)
            if not self._is_known(header, watcher):
                self._admit(header, frame.body, watcher)
        except Malformed as exc:
            client.send(error_frame(frame.turn, BadTurn(what=f"the turn is malformed: {exc}")))
        except TurnError as exc:
            client.send(error_frame(frame.turn, exc))

    def _is_known(self, header: SubmitHeader, watcher: Watcher) -> bool:
        """Whether the id names this very turn already: then it is followed. Raises IdConflict."""
        turn_id = header["id"]
        known = self.ledger.known_hash(turn_id)
        if known is None:
            return False
        if known != header["hash"]:
            raise _conflict(turn_id)
        record = self.ledger.get(turn_id)
        if record is not None and not record.accepted:
            record.unanswered.append(watcher)
            watcher.client.turns[watcher.number] = record
            return True
        if record is None and header.get("retry") and not self.ledger.is_done(turn_id):
            return False
        _accept(watcher, turn_id)
        if record is None:
            self.ledger.replay_outcome(turn_id, watcher, after=(0, 0))
        else:
            self.ledger.follow(record, watcher, after=(0, 0))
            self.floor.client_came(record)
        return True

    def _admit(self, header: SubmitHeader, body: bytes, watcher: Watcher) -> None:
        """A new turn in its provider's queue. Raises Draining, TooLarge, NoRoute, ProviderDown, QueueFull, BadTurn."""
        if self.draining:
            raise Draining
        if len(body) > self.config.runtime.max_request_mb * 2**20:
            raise TooLarge(what=f"the turn has {len(body) / 2**20:.1f} MiB")
        if self.ledger.journal.backlog.operations > MAX_BACKLOG:
            raise QueueFull(what="the journal's disk does not keep up", action="post the turn again in a few seconds")
        now = self.floor.clock()
        record = self._new_record(header, body, now)
        lane, tokens = record.lane, record.asked.prompt_tokens
        record.plan = in_time(
            record.plan, lambda at: self.floor.earliest(at.provider, lane, tokens, now), record.deadline, now
        )
        self.ledger.budget.take(record.place, record.size)
        try:
            self.floor.enqueue(record, record.accepted_at)
        except TurnError:
            self.ledger.budget.give_back(record.place)
            raise
        record.unanswered.append(watcher)
        watcher.client.turns[watcher.number] = record
        self.ledger.open(record, lambda result: self._stored(record, result))
        if record.phase is Phase.ENDED:  # the journal answered at once, and there is no such turn any more
            return
        if record.plan.parks:
            self.floor.take_out(record)
            self.attempts.park(record, record.plan.waits_until, "the quota of every candidate is used up")
        else:
            self.floor.want(record)

    def _plan(self, kind: str, session: str, asked: Asked, now: float) -> Plan:
        """Raises NoRoute, ProviderDown, or the error that keeps everybody closed."""
        return route(
            kind,
            asked.provider,
            asked.model,
            asked.features,
            self.config.routes,
            self.config.providers,
            self.floor.states,
            now,
            look=self.floor.look(now),
            stick=self.floor.stickiness.target(session, kind, now),
            size=asked.prompt_tokens,
        )

    def _new_record(self, header: SubmitHeader, body: bytes, now: float) -> TurnRecord:
        """Raises NoRoute, ProviderDown, BadTurn."""
        asked = Asked(
            provider=header["provider"],
            model=header["model"],
            features=tuple(header["features"]),
            prompt_tokens=header["size"],
            retry=bool(header.get("retry")),
        )
        plan = self._plan(header["kind"], header["session"], asked, now)
        remaining_ms = header["remaining_ms"]
        target = plan.candidates[0]
        return TurnRecord(
            number=self.ledger.next_number(),
            id=header["id"],
            hash=header["hash"],
            kind=header["kind"],
            session=header["session"],
            lane=read_lane(header["lane"]) or plan.lane,
            asked=asked,
            plan=plan,
            target=target,
            desk=self.desks[target.provider],
            body=body,
            size=len(body),
            detached=header["detached"],
            resend_safe=header["resend_safe"] and plan.resend,
            accepted_at=now,
            deadline=now + (plan.deadline_s if remaining_ms is None else min(remaining_ms, MAX_REMAINING_MS) / 1000),
        )

    def _stored(self, record: TurnRecord, result: Accepted | Known | JournalFailed) -> None:
        """What the journal made of a new turn: it is accepted, was known before, or cannot be written down."""
        waiting = record.unanswered
        if isinstance(result, Accepted):
            record.accepted, record.unanswered = True, []
            record.watchers += waiting
            for watcher in waiting:
                _accept(watcher, record.id)
            return
        if record.phase is not Phase.ENDED:  # else it was cancelled meanwhile, and nobody watches its end
            self.floor.take_out(record)
            self.ledger.withdraw(record)
        while waiting:  # each leaves the list once it knows: a bug over one tells the others that there was one
            watcher = waiting[0]
            watcher.client.turns.pop(watcher.number, None)
            if isinstance(result, JournalFailed):
                watcher.client.send(error_frame(watcher.number, result))
            elif result.turn.body_hash != record.hash:
                watcher.client.send(error_frame(watcher.number, _conflict(record.id)))
            else:
                _accept(watcher, record.id)
                self._tell_stored(watcher, result.turn)
            del waiting[0]
        self.floor.pump(record.desk)

    def recover(self, turns: Iterable[StoredTurn]) -> None:
        """Take up what the last service left behind: detached turns go on, others wait for their clients."""
        for turn in turns:
            try:
                self._take_up(turn)
            except TurnError as exc:  # no route leads there any more
                self.ledger.settle_stored(turn, exc)

    def _take_up(self, turn: StoredTurn) -> None:
        """Raises NoRoute, ProviderDown."""
        now, wall = self.floor.clock(), self.ledger.wall()
        record = self._new_record(_header_of(turn), turn.body, now)
        record.accepted, record.attempt, record.noted = True, turn.attempts, turn.attempt
        record.accepted_at = min(now + turn.accepted_at - wall, now)
        record.deadline = now + turn.deadline - wall
        self.ledger.budget.put_back(record.place, record.size)
        self.ledger.take_up(record)
        lost = None
        if turn.state == "running" and turn.attempt is not None:
            lost = WorkerLost(turn.attempt.provider, "the service died during the turn", model=turn.attempt.model)
            record.seq = MAX_SEQ - 2  # behind whatever a client has seen of that attempt
            record.sent = True
        if record.deadline <= now:
            self.attempts.fail(record, DeadlineExceeded(what="the deadline passed while there was no service"))
        elif lost is not None and (not record.resend_safe or record.attempt >= self.config.runtime.max_attempts):
            self.attempts.fail(record, lost)
        else:
            if lost is not None:
                self.ledger.store_failure(record, lost, {}, ambiguous=True, seen=False)
                record.sent = False
                self.ledger.restarted(record, lost.what, record.target.provider)
            self._go_on(record, turn, now + (turn.park.until - wall if turn.park else 0.0))

    def _go_on(self, record: TurnRecord, turn: StoredTurn, due: float) -> None:
        client_due = self.floor.clock() + self.config.runtime.reattach_grace_s
        if turn.state == "parked":
            until = due if record.detached else max(due, client_due)
            self.floor.hold(record, until, HELD_FOR_QUOTA, reset_at=due)
        elif record.detached:
            self.floor.requeue(record)
        else:
            self.floor.hold(record, client_due, HELD_FOR_CLIENT)

    # -- the other requests ------------------------------------------------------------------------------------------

    def attach(self, client: ClientLink, frame: Frame) -> None:
        """A client goes on with a turn by its id: kept frames after (attempt, seq), then live ones."""
        try:
            header = unpack_header(frame.header)
            check_number(client, frame)
            observer, wanted = bool(header.get("observer")), bool(header.get("wanted", True))
            watcher = Watcher(client, frame.turn, bool(frame.flags & QUIET), observer, wanted)
            attempt, seq = (int(number) for number in header.get("after", (0, 0)))
            self._follow(header.get("id"), watcher, after=(attempt, seq))
        except (Malformed, ValueError, TypeError, OverflowError) as exc:
            client.send(error_frame(frame.turn, BadTurn(what=f"malformed attach: {exc}")))
        except TurnError as exc:
            client.send(error_frame(frame.turn, exc))

    def _follow(self, turn_id: object, watcher: Watcher, *, after: tuple[int, int]) -> None:
        """Raises UnknownTurn, now or, when the journal has to be asked, as a frame later."""
        if not isinstance(turn_id, str):
            raise unknown_turn(turn_id)
        if (record := self.ledger.get(turn_id)) is not None:
            self.ledger.follow(record, watcher, after=after)
            if watcher.wanted:
                self.floor.client_came(record)
        elif not self.ledger.replay_outcome(turn_id, watcher, after=after):
            self.ledger.look_up(turn_id, lambda turn: self._tell_stored(watcher, turn, turn_id))

    def _tell_stored(self, watcher: Watcher, turn: StoredTurn | None, turn_id: str = "") -> None:
        """The outcome that the journal has of a turn, as its watcher's next and last frame."""
        if turn is None:
            watcher.client.send(error_frame(watcher.number, unknown_turn(turn_id)))
        elif turn.ending is None:  # live for the journal and not for us: it was cut out of this service's hands
            watcher.client.send(error_frame(watcher.number, unknown_turn(turn.id)))
        else:
            watcher.client.send(outcome_frame(turn.ending, watcher.number))

    def cancel(self, client: ClientLink, frame: Frame) -> None:
        """CANCEL under the client's own turn number, or by id with number 0: then ACCEPTED or ERROR answers."""
        try:
            header = unpack_header(frame.header) if frame.header else {}
        except Malformed as exc:
            client.send(error_frame(frame.turn, BadTurn(what=f"malformed cancel: {exc}")))
            return
        why = str(header.get("why") or "cancelled by a client")[:MAX_TEXT]
        if (record := client.turns.get(frame.turn)) is not None:
            self.attempts.cancel(record, why)
            return
        turn_id = header.get("id")
        if not isinstance(turn_id, str):
            client.send(error_frame(frame.turn, unknown_turn(turn_id)))
        elif (record := self.ledger.get(turn_id)) is not None:
            self.attempts.cancel(record, why)
            client.send(_cancelled(frame.turn, turn_id, live=True))
        elif self.ledger.known_hash(turn_id) is not None:
            client.send(_cancelled(frame.turn, turn_id, live=False))
        else:

            def found(turn: StoredTurn | None) -> None:
                answer = error_frame(frame.turn, unknown_turn(turn_id))
                client.send(answer if turn is None else _cancelled(frame.turn, turn_id, live=False))

            self.ledger.look_up(turn_id, found)

    def leave(self, client: ClientLink, frame: Frame) -> None:
        """LEAVE: the client follows its turn of this number no longer. Not answered, like the end of a connection."""
        if (record := client.turns.pop(frame.turn, None)) is not None:
            with contextlib.suppress(Malformed):
                cancel = bool(unpack_header(frame.header).get("cancel"))
                self._unwatch(record, lambda watcher: watcher[:2] == (client, frame.turn), cancel=cancel)

    def client_gone(self, client: ClientLink) -> None:
        """Its attached turns are cancelled, unless somebody else watches them too; detached ones go on."""
        for record in list(client.turns.values()):
            self._unwatch(record, lambda watcher: watcher.client is client, cancel=True)
        client.turns.clear()

    def _unwatch(self, record: TurnRecord, left: Callable[[Watcher], bool], *, cancel: bool) -> None:
        gone = [watcher for watcher in (*record.watchers, *record.unanswered) if left(watcher)]
        record.watchers = [watcher for watcher in record.watchers if not left(watcher)]
        record.unanswered = [watcher for watcher in record.unanswered if not left(watcher)]
        record.left = record.left or (cancel and not all(watcher.observer for watcher in gone))
        if record.left and not record.watchers and not record.unanswered and not record.detached:
            self.attempts.cancel(record, "its client left")

    # -- another configuration ---------------------------------------------------------------------------------------

    def adopt(self, config: Config) -> tuple[Changes, list[Desk]]:
        """Go on with another configuration: what changed, and the desks that are new and want a keeper.

        Turns that run finish where they are; those that wait are routed again, and fail where no route leads any more.
        """
        changes = compare(self.config, config)
        self.config = config
        self.attempts.max_attempts = config.runtime.max_attempts
        self.ledger.budget.max_bytes = config.runtime.max_queued_bytes
        self.floor.stickiness.reload()
        self.floor.breakers.reload((*changes.changed, *changes.removed))
        stranded: dict[int, float] = {}  # and before which time they were not to start there
        closed = {name: self.desks[name] for name in (*changes.changed, *changes.removed)}
        for desk in closed.values():
            stranded |= {int(item.id): desk.queue.not_before(item.id) for item in desk.queue.waiting()}
            desk.queue.drain()
            self.floor.close_desk(desk)
        opened = [
            self.floor.open_desk(config.providers[name], before=closed.get(name))
            for name in (*changes.changed, *changes.added)
        ]
        self.floor.set_routed(config)
        for record in list(self.ledger.live.values()):
            if record.phase in (Phase.WAITING, Phase.HELD):
                self._route_again(record, stranded.get(record.number))
        return changes, opened

    def _route_again(self, record: TurnRecord, stranded: float | None) -> None:
        """`stranded`: its desk is gone, and this the time it waited for there; it counts at the same account alone."""
        now = self.floor.clock()
        try:
            plan = self._plan(record.kind, record.session, record.asked, now)
        except TurnError as exc:
            self.floor.take_out(record)
            self.attempts.fail(record, exc)
            return
        if stranded is None and record.target in plan.everyone:
            record.plan = plan
            return
        self.floor.take_out(record)
        before, after = record.desk, self.desks[plan.candidates[0].provider]
        record.plan, record.target, record.desk = plan, plan.candidates[0], after
        if record.phase is Phase.WAITING:
            stays = is_same_account(before.settings, after.settings)
            self.floor.requeue(record, not_before=stranded if stays and stranded is not None else -math.inf)

    # -- drain, status -----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> trio.Event:
        """Set once draining and the last turn has its outcome."""
        return self.ledger.empty

    def drain(self) -> None:
        """Take no new turns; `idle` is set when the last one has ended."""
        self.draining = True
        self.ledger.expect_end()

    def abandon(self, why: str) -> tuple[int, int]:
        """Let go of every turn, as the service stops: how many failed, how many the journal keeps for the next start.

        Their clients are not told that anything ended: they ask the next service for them.
        """
        self.drain()
        if self.ledger.journal.durability == "disk":
            return 0, self.ledger.leave_to_journal()
        left = list(self.ledger.live.values())
        for record in left:
            self.attempts.abandon(record, Draining(what=why))
        return len(left), 0

    def ask_reload(self, client: ClientLink, frame: Frame) -> None:
        """RELOAD of a client: RELOAD with the outcome answers once it is known."""
        if self.reload is None:
            client.send(error_frame(frame.turn, BadTurn(what="this runtime has no configuration file to read again")))
            return
        self.reload(lambda outcome: client.send(encode(FrameType.RELOAD, frame.turn, body=pack(outcome))))

    def query(self, client: ClientLink, frame: Frame) -> None:
        """QUERY of a client: what the journal knows, as plain values, or ACCEPTED for another try (queries.py)."""

        def answer(result: object) -> None:
            if isinstance(result, JournalFailed):
                client.send(error_frame(frame.turn, result))
            else:
                client.send(encode(FrameType.QUERY, frame.turn, body=pack(answer_of(result))))

        then: Callable[[Any], None] = answer
        try:
            header = unpack_header(frame.header)
            operation = operation_of(header)
            if header["what"] == RETRY:
                check_number(client, frame)
                then = partial(self._retry, header["id"], Watcher(client, frame.turn, quiet=True))
        except (Malformed, TypeError, ValueError) as exc:
            client.send(error_frame(frame.turn, BadTurn(what=f"malformed query: {exc}")))
            return
        except TurnError as exc:
            client.send(error_frame(frame.turn, exc))
            return
        if self.ledger.journal.durability != "disk":
            off = "turns are kept in memory only: the journal is off"
            client.send(error_frame(frame.turn, JournalFailed(what=off, action="set journal = true in [runtime]")))
            return
        if isinstance(operation, Purge):
            before = math.inf if operation.all_ended else operation.ended_before
            self.ledger.kept.forget_outcomes(operation.ids, ended_before=before)
        self.ledger.journal.post(operation, then)

    def _retry(self, turn_id: str, watcher: Watcher, result: Found | JournalFailed) -> None:
        """Post a turn that failed or was cancelled once more, as it was: detached, for its client has left it."""
        try:
            if isinstance(result, JournalFailed):
                raise result
            if result.turn is None:
                raise unknown_turn(turn_id)
            if self.ledger.get(turn_id) is not None:  # a client posted it while the journal was asked
                raise _not_again("it is under way", "follow it with 'loopforge turns tail'")
            self._admit(_header_of_retry(result.turn), result.turn.body, watcher)
        except TurnError as exc:
            watcher.client.send(error_frame(watcher.number, exc))

    def status(self) -> dict[str, Any]:
        """What `loopforge status` shows, as plain values: see status.py."""
        now = self.floor.clock()
        service = {
            "uptime_s": now - self._started_at,
            "draining": self.draining,
            "clients": self.clients,
            "queued_bytes": self.ledger.budget.held_bytes,
            "kept_bytes": self.ledger.kept.held_bytes,
            "durability": self.ledger.journal.durability,
            "journal": self.ledger.journal.status(),
            "breakers": [breaker_status(row, now) for row in self.floor.breakers.snapshot(now)],
        }
        floor, live = self.floor, list(self.ledger.live.values())
        return service | describe(self.config, floor.all_desks, floor.outcomes.values(), live, now)


def _header_of(turn: StoredTurn) -> SubmitHeader:
    """What its client had said of it."""
    return {
        "id": turn.id,
        "hash": turn.body_hash,
        "kind": turn.kind,
        "session": turn.session,
        "lane": turn.lane,
        "remaining_ms": None,
        "features": list(turn.features),
        "size": turn.size,
        "provider": turn.provider,
        "model": turn.model,
        "detached": turn.detached,
        "resend_safe": turn.resend_safe,
    }


def _header_of_retry(turn: StoredTurn) -> SubmitHeader:
    """With as much time as it had the first time. Raises BadTurn for a turn that cannot be tried again."""
    if turn.ending is None:
        raise _not_again("it is under way", "follow it with 'loopforge turns tail'")
    if turn.state == "done":
        raise _not_again("it is done", "read its reply with 'loopforge turns show --text'")
    if not turn.body:
        raise _not_again("its request is not kept any more", "post it anew")
    remaining_ms = int((turn.deadline - turn.accepted_at) * 1000)
    return {**_header_of(turn), "remaining_ms": remaining_ms, "detached": True, "retry": True}


def _not_again(why: str, action: str) -> BadTurn:
    return BadTurn(what=f"this turn cannot be tried again: {why}", action=action)


def _check_names(header: SubmitHeader) -> None:
    """Raises BadTurn."""
    if not 0 < len(header["id"].encode()) <= MAX_ID_BYTES:
        raise BadTurn(what=f"a turn's id is 1 to {MAX_ID_BYTES} bytes of text")
    for name in ("kind", "session", "provider", "model"):
        if len(header[name].encode()) > MAX_NAME_BYTES:
            raise BadTurn(what=f"a turn's {name} has at most {MAX_NAME_BYTES} bytes")


def _conflict(turn_id: str) -> IdConflict:
    return IdConflict(what=f"the id {turn_id!r} belongs to another turn")


def _accept(watcher: Watcher, turn_id: str) -> None:
    watcher.client.send(encode(FrameType.ACCEPTED, watcher.number, header=pack({"id": turn_id})))


def _cancelled(number: int, turn_id: str, *, live: bool) -> bytes:
    return encode(FrameType.ACCEPTED, number, header=pack({"id": turn_id, "live": live}))

"""Where turns wait and run: one desk a provider with its queue and worker, and turns that are held back from any.

Moves turns: into a queue, to a slot, to the worker once the journal knows, back, out. What a failed attempt becomes is
attempts.py's. A slot belongs to (worker generation, turn): it is free when the worker says that the attempt is over, or
is dead.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import trio

from loopforge.drivers.registry import MOST_ADAPTIVE, ProviderSettings
from loopforge.drivers.turn import Lane
from loopforge.runtime.adaptive import Adaptive, after_told, begin
from loopforge.runtime.breakers import Breakers
from loopforge.runtime.config.values import Config
from loopforge.runtime.errors import NoRoute, QueueFull
from loopforge.runtime.ledger import Ledger
from loopforge.runtime.outbox import Outbox
from loopforge.runtime.records import Desk, DeskState, Phase, TurnRecord
from loopforge.runtime.reload import is_same_account
from loopforge.runtime.router import Look, ProviderState
from loopforge.runtime.stickiness import Stickiness
from loopforge.runtime.taskqueue import Item, TaskQueue
from loopforge.runtime.traffic import Traffic
from loopforge.workers.channel import BufferFull, ChannelClosed
from loopforge.workers.framing import encode
from loopforge.workers.messages import FrameType, pack

ROOM_BYTES = 32 * 2**20
"""While more than this waits for a worker to read it, turns wait in the queue, where they are bounded and told so."""
HELD_FOR_CLIENT = "its client"
HELD_FOR_QUOTA = "a quota's reset"


class Floor:
    """All desks of one running configuration. `held`: (due, turn number); also of turns that were let go earlier."""

    def __init__(self, config: Config, ledger: Ledger, outbox: Outbox, *, clock: Callable[[], float]) -> None:
        self.look_soon = trio.Event()
        self.clock = clock
        self.breakers = Breakers()
        self.stickiness = Stickiness()
        self.ledger = ledger
        self._outbox = outbox
        self.look_at: float | None = None  # when tick comes next; None: not before somebody asks
        self.desks: dict[str, Desk] = {}
        self.outcomes: dict[str, Counter[str]] = {}
        """By provider, since the service began; of those that have left the configuration, too."""
        self.retired: list[Desk] = []
        """Desks of another configuration, or of a worker that grew too large: until their last turn has ended."""
        self.states: dict[str, ProviderState] = {}
        for settings in config.providers.values():
            self.open_desk(settings)
        self.set_routed(config)
        self.held: list[tuple[float, int]] = []  # due and turn number; those that were let go earlier are still here

    # -- desks -------------------------------------------------------------------------------------------------------

    @property
    def all_desks(self) -> list[Desk]:
        return [*self.desks.values(), *self.retired]

    def open_desk(self, settings: ProviderSettings, *, before: Desk | None = None) -> Desk:
        """`before`: the one whose place it takes. Its outcomes and deaths are the provider's and go on here.

        What was seen of the server, its minute among that, goes on while the same account is behind it.
        """
        known = before if before is not None and is_same_account(before.settings, settings) else None
        desk = self.desks[settings.name] = Desk(
            settings=settings,
            queue=TaskQueue(settings, minute=None if known is None else known.queue.minute),
            outcomes=self.outcomes.setdefault(settings.name, Counter()),
            traffic=Traffic() if known is None else known.traffic,
        )
        if before is not None:
            desk.deaths, desk.last_death = before.deaths, before.last_death
        if settings.adaptive:
            adaptive = None if known is None else known.adaptive
            desk.adaptive = adaptive or begin(None, settings.max_concurrency, MOST_ADAPTIVE)
            desk.queue.set_concurrency(desk.adaptive.limit)
        self.states[settings.name] = ProviderState()
        return desk

    def close_desk(self, desk: Desk) -> None:
        """Its worker finishes what it has; nothing new goes there. Turns that wait there are the caller's to move."""
        desk.retired.set()
        desk.wanted.set()
        self.retired.append(desk)
        del self.desks[desk.name]
        gone = NoRoute(desk.name, "the provider is no longer in the configuration")
        self.states[desk.name] = ProviderState(down_until=math.inf, down_error=gone)

    def succeed(self, desk: Desk) -> Desk:
        """A desk for the same provider, whose worker is another one: with the queue and the books of the old one.

        It is the very queue: who waits there keeps its place and its time, the minute goes on, and the slots of the old
        worker's turns are taken until that has let go of them. Generations go on counting, for a slot belongs to one.
        """
        state = self.states[desk.name]
        self.close_desk(desk)
        successor = self.desks[desk.name] = replace(
            desk,
            retired=trio.Event(),
            wanted=trio.Event(),
            state=DeskState.STOPPED,
            worker=None,
            running={},
            rss_bytes=0,
            cpu_s=0.0,
        )
        self.states[desk.name] = state
        desk.successor = successor
        for item in desk.queue.waiting():
            self.ledger.live[int(item.id)].desk = successor
        return successor

    def forget_desk(self, desk: Desk) -> None:
        """Its worker is gone, and with it the desk."""
        self.retired.remove(desk)

    def set_routed(self, config: Config) -> None:
        """Note which providers a route needs: their workers run from the start on."""
        routed = {target.provider for route in config.routes.values() for target in route.targets}
        for desk in self.desks.values():
            desk.routed = desk.name in routed

    def adapt(self, desk: Desk, adaptive: Adaptive) -> None:
        """Another number of turns at once, as the server says or as its answers suggest."""
        if desk.adaptive is not None and desk.successor is None and adaptive.limit != desk.adaptive.limit:
            desk.queue.set_concurrency(adaptive.limit)
        desk.adaptive = adaptive

    def learn_slots(self, desk: Desk, slots: object) -> None:
        """What the desk's worker heard from its server about slots; None, or nonsense, is nothing."""
        if desk.adaptive is None or desk.successor is not None or type(slots) is not int or slots < 1:
            return
        adaptive = after_told(desk.adaptive, slots)
        if adaptive is not desk.adaptive:
            self.adapt(desk, adaptive)
            self.pump(desk)

    # -- into a queue ------------------------------------------------------------------------------------------------

    def enqueue(self, record: TurnRecord, now: float) -> None:
        """Into the first candidate's queue; when that is full and the route says `spill`, into the next one's.

        Raises QueueFull of the first candidate, TooLarge.
        """
        full: QueueFull | None = None
        for target in record.plan.candidates:
            desk = self.desks[target.provider]
            try:
                desk.queue.offer(queue_item(record), now)
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
        if self.look_at is None or record.deadline < self.look_at:
            self.look_soon.set()

    def requeue(self, record: TurnRecord, *, not_before: float = -math.inf) -> None:
        """Into its desk's queue, before the others: it was accepted before."""
        record.phase, record.held_for = Phase.WAITING, ""
        record.desk = self.desks.get(record.target.provider, record.desk)
        record.desk.queue.put_back(queue_item(record), self.clock(), not_before=not_before)
        self.want(record)

    def hold(self, record: TurnRecord, until: float, what_for: str, *, reset_at: float | None = None) -> None:
        """In no queue until then; after that it is queued, or cancelled if it was its client that did not come.

        `reset_at`: once its client is there, it waits until then and no longer.
        """
        record.phase, record.held_for, record.due = Phase.HELD, what_for, until
        record.reset_at = until if reset_at is None else reset_at
        heapq.heappush(self.held, (until, record.number))
        if self.look_at is None or until < self.look_at:
            self.look_soon.set()

    def client_came(self, record: TurnRecord) -> None:
        if record.phase is not Phase.HELD:
            return
        if record.held_for == HELD_FOR_CLIENT:
            self.requeue(record)
        elif record.reset_at < record.due:
            self.hold(record, record.reset_at, record.held_for)

    def take_out(self, record: TurnRecord) -> None:
        """The turn waits no longer and holds no slot: nothing of it has reached a worker."""
        record.desk.queue.cancel(record.place)
        self.breakers.gone(record.place)
        self.free(record)

    def look(self, now: float) -> Look:
        """Which breakers keep turns away at this moment, as router.py asks for it."""
        return lambda provider, model: self.breakers.look(provider, model, now)

    def earliest(self, provider: str, lane: Lane, tokens: int, now: float) -> float:
        """Before that moment the limits a minute let no such turn start there."""
        desk = self.desks.get(provider)  # one that left the configuration has none: its state says so
        return now if desk is None else desk.queue.earliest(lane, tokens, now)

    # -- to a worker -------------------------------------------------------------------------------------------------

    def pump(self, desk: Desk) -> None:
        """Give the desk's worker, or the one that has taken its place, what its queue lets start now."""
        desk = _last(desk)
        if desk.state is DeskState.READY and len(desk.queue) and not _is_stuffed(desk):
            now = self.clock()
            gates = self.breakers.gates(desk.name, now)
            for assignment in desk.queue.assign(now, generation=desk.generation, gates=gates):
                self._assign(self.ledger.live[int(assignment.item.id)], now)

    def _assign(self, record: TurnRecord, now: float) -> None:
        """The turn has a slot: it goes to the worker once the journal knows."""
        record.phase, record.attempt, record.seq, record.sent = Phase.RUNNING, record.attempt + 1, 0, False
        record.desk.running[record.number] = record
        record.generation, record.sent_at = record.desk.generation, now
        record.beside = len(record.desk.running)
        target = record.target
        self.breakers.sent(
            record.place, target.provider, target.model, record.generation, now, pinned=record.plan.pinned
        )
        attempt = record.attempt

        def send(_: object) -> None:
            if record.phase is not Phase.RUNNING or record.attempt != attempt or record.sent:
                return
            if record.desk.successor is not None and record.target.provider in self.desks:
                self.put_back(record)  # meanwhile another worker has taken that one's place
                self.want(record)
            else:
                self._send(record)

        self.ledger.store_running(record, send)

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
        if not self.to_worker(record.desk, frame):
            self.put_back(record)
            return
        record.sent = record.at_worker = True
        if record.first_sent_at is None:
            record.first_sent_at = now
        self.ledger.budget.give_back(record.place)

    def to_worker(self, desk: Desk, frame: bytes) -> bool:
        """False when its channel is full. A closed one decides nothing: the reader's end, or the heartbeats, do."""
        if desk.worker is not None:
            try:
                self._outbox.post(desk.worker.channel, frame)
            except ChannelClosed:
                return True
            except BufferFull:
                return False
        return True

    def put_back(self, record: TurnRecord) -> None:
        """It has not reached the worker: it waits again, and the attempt was none."""
        self.free(record)
        self.breakers.gone(record.place)
        record.desk.queue.refund(record.place, request=True)
        record.phase, record.attempt = Phase.WAITING, record.attempt - 1
        record.desk = self.desks.get(record.target.provider, record.desk)
        record.desk.queue.put_back(queue_item(record), self.clock())

    def free(self, record: TurnRecord) -> None:
        """The attempt is over: its slot goes to whoever is next."""
        desk = record.desk
        if desk.running.pop(record.number, None) is not None:
            desk.queue.release(record.generation, record.place)
            desk.idle_since = self.clock()
        record.at_worker = False


def _last(desk: Desk) -> Desk:
    """The one that has the provider's queue by now: itself, or the last of its successors."""
    while desk.successor is not None:
        desk = desk.successor
    return desk


def _is_stuffed(desk: Desk) -> bool:
    return desk.worker is not None and desk.worker.channel.buffered_bytes > ROOM_BYTES


def queue_item(record: TurnRecord) -> Item:
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

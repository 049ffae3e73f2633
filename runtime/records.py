"""What the supervisor remembers: one record a turn, one desk a provider. Changed by dispatch.py alone."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Lane
from loopforge.runtime.adaptive import Adaptive
from loopforge.runtime.journal.operations import Attempt
from loopforge.runtime.kept import KeptFrames
from loopforge.runtime.process import WorkerHandle
from loopforge.runtime.retry import Try
from loopforge.runtime.router import Candidate, Plan
from loopforge.runtime.taskqueue import TaskQueue
from loopforge.runtime.traffic import Traffic


class Phase(enum.Enum):
    """WAITING: in a queue. HELD: in none, until its `due`. RUNNING: it has a slot. ENDED: its outcome is decided."""

    WAITING = "waiting"
    HELD = "held"
    RUNNING = "running"
    ENDED = "ended"


class ClientLink(Protocol):
    """A connected client, as far as dispatch needs it."""

    turns: dict[int, TurnRecord]
    """The client's own turn number -> the turn it watches under it."""

    def send(self, frame: bytes) -> None:
        """Queue one frame. Never raises and never blocks: a client that is gone or too slow misses it."""


class Watcher(NamedTuple):
    """A client that wants a turn's frames under its own number; a `quiet` one wants no deltas.

    `observer`: the turn is not cancelled because it leaves. `wanted`: it wants the outcome; one that only looks on is
    not the client that a held turn waits for.
    """

    client: ClientLink
    number: int
    quiet: bool
    observer: bool = False
    wanted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client's SUBMIT said of the turn's route, to ask the router again with. `provider`, `model`: or ""."""

    provider: str = ""
    model: str = ""
    features: tuple[str, ...] = ()
    prompt_tokens: int = 0
    retry: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class TurnRecord:
    """One turn without an outcome. Times are seconds on the trio clock.

    `number`: the supervisor's own, also the turn number on the worker's channel. `body`: the client's packed Turn,
    never decoded here, dropped at the outcome. `kept`: its ring of frames, from the beginning on.
    `accepted`: the journal has it; until then `unanswered` wait for that and nobody is told anything else.
    `desk`: where it waits or runs; `generation`: of the desk's worker that gave it a slot.
    `sent`: this attempt has reached a worker; `at_worker`: which has not let go of it yet.
    `tries`: its failed attempts; `alone`: the next one runs while no other is in flight there (a suspect).
    `beside`: how many turns ran there when it was sent, itself among them.
    `relayed`: an event after `started` has gone out for this attempt.
    `held_for`: what it waits for while HELD ("its client", "a back-off", "a quota's reset"), until `due`; once
    its client is back until `reset_at`, which is earlier where its time to come back is longer than the quota's.
    `left`: whoever posted it is gone, and others still look on.
    `cancel_why`: somebody cancelled; whatever the worker says next, the outcome is cancelled or what came before it.
    """

    number: int
    id: str
    hash: bytes
    kind: str
    session: str
    lane: Lane
    asked: Asked
    plan: Plan
    target: Candidate
    desk: Desk
    body: bytes
    size: int
    detached: bool
    resend_safe: bool
    accepted_at: float
    deadline: float
    kept: KeptFrames = field(init=False)
    phase: Phase = Phase.WAITING
    accepted: bool = False
    unanswered: list[Watcher] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    generation: int = 0
    attempt: int = 0
    seq: int = 0
    noted: Attempt | None = None
    sent: bool = False
    at_worker: bool = False
    first_sent_at: float | None = None
    sent_at: float = 0.0
    beside: int = 0
    started_at: float | None = None
    started: bool = False
    relayed: bool = False
    tries: tuple[Try, ...] = ()
    alone: bool = False
    parked_s: float = 0.0
    held_for: str = ""
    due: float = 0.0
    reset_at: float = 0.0
    cancel_why: str | None = None
    left: bool = False

    @property
    def place(self) -> str:
        """The turn's name in its queue: the client's id may come again while the old slot is still held."""
        return str(self.number)

    @property
    def wanted(self) -> bool:
        """Whether it goes on without its client, or its client, or somebody else who wants the outcome, is there."""
        return self.detached or any(watcher.wanted for watcher in (*self.watchers, *self.unanswered))


class DeskState(enum.Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(slots=True, kw_only=True, eq=False)
class Desk:
    """One provider: its queue, its worker if one runs, and what it has seen.

    `generation` counts started workers; a slot belongs to (generation, turn). `wanted` is set while a worker should
    run. `back_at`: a worker that died is started again then. `down_until` is infinite for a worker that cannot start
    until the configuration changes. `retired`: set when another desk, or none, has taken its place; its worker ends
    with its last turn. `successor`: the one that has its queue by now, slots and all. `adaptive`: what is known of how
    many turns a local server takes at once, None when somebody wrote it down. `outcomes`: one and the same at all desks
    that the provider ever had; `traffic`: at those with the same account behind them.
    """

    settings: ProviderSettings
    queue: TaskQueue
    routed: bool = False
    retired: trio.Event = field(default_factory=trio.Event)
    successor: Desk | None = None
    state: DeskState = DeskState.STOPPED
    worker: WorkerHandle | None = None
    generation: int = 0
    running: dict[int, TurnRecord] = field(default_factory=dict)
    wanted: trio.Event = field(default_factory=trio.Event)
    idle_since: float = 0.0
    down_until: float = 0.0
    down_reason: str = ""
    back_at: float = 0.0
    deaths: int = 0
    last_death: str = ""
    rss_bytes: int = 0
    cpu_s: float = 0.0
    adaptive: Adaptive | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def idle(self) -> bool:
        return not self.running and not len(self.queue)

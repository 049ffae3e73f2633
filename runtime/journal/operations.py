"""The interface of a journal: what may be asked of it and what it answers, as frozen values. No SQL, no thread.

All are executed one after the other, in the order they were posted. Times are wall time in unix seconds, because they
outlive a process and its monotonic clock. Headers and bodies are opaque bytes, as they came on a channel; nothing here
reads them. Who posts what, and when, is dispatch.py's.

A turn's life: `Accept` -> accepted; `Running` -> running; `AttemptEnded` -> accepted again, or `Parked` -> parked, and
`Running` once more; `Finish` -> done, failed or cancelled. Only the first Finish of a turn counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import trio

from loopforge.runtime.errors import JournalFailed

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

LiveState = Literal["accepted", "running", "parked"]
EndState = Literal["done", "failed", "cancelled"]
State = LiveState | EndState
UsageKey = Literal["provider", "model", "kind", "session", "day"]

LIVE_STATES: tuple[LiveState, ...] = ("accepted", "running", "parked")
END_STATES: tuple[EndState, ...] = ("done", "failed", "cancelled")
OVERHEAD_BYTES = 1024
"""What an operation that waits counts for beside its body."""

LIST_TURNS = 50_000

USAGE_KEYS: tuple[UsageKey, ...] = ("provider", "model", "kind", "session", "day")


class Operation(Generic[R_co]):
    """Something to be done by a journal; `R_co` is what it answers with."""

    __slots__ = ()


class Backlog(NamedTuple):
    """Operations posted and not yet answered, and the bytes they hold. Bound it where turns are admitted."""

    operations: int
    bytes: int


class Journal(Protocol):
    """Keeps turns. All methods are called on the loop's thread and none of them blocks.

    `around`: entered around the call-backs of one group: what they send to one channel can leave in one send.
    """

    around: AbstractContextManager[Any]

    @property
    def durability(self) -> str:
        """What an acknowledgement survives: "memory", nothing; "disk", kill -9 and the loss of power."""

    @property
    def backlog(self) -> Backlog:
        """What waits. A disk that hangs shows here first."""

    def post(self, operation: Operation[R], done: Callable[[R | JournalFailed], None], *, urgent: bool = False) -> None:
        """Have it done. `done` is called once on the loop's thread, after the commit, in the order of posting.

        `urgent`: before others that wait, but behind earlier ones of its own kind; of one turn all are, or none.

        It may be called before this returns. An error is an answer, never raised: JournalFailed says what and what
        next, and then nothing of the operation was written. An exception of `done` itself is logged, no more.
        """

    def status(self) -> dict[str, Any]:
        """For `loopforge status`: plain values; `durability` and `problem` ("" when there is none) are always there."""

    async def aclose(self) -> None:
        """Wait until all that was posted is answered; what is posted later is answered with JournalFailed."""


# -- values in operations --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One sending of a turn to a provider. Numbers begin at 1."""

    number: int
    provider: str
    model: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one attempt cost, and whose books it goes into. 0 stands for what the provider did not say.

    `input` includes cached tokens, `output` includes reasoning, as in drivers.turn.Usage. `attempts`: how many sent
    attempts this stands for: 0 for a turn that ended without being sent again.
    """

    provider: str
    model: str
    kind: str
    session: str
    attempts: int = 1
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


# -- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a turn ended. `header`, `body`: of the frame that says so, as DONE, ERROR or CANCELLED carry them."""

    state: EndState
    attempt: int
    seq: int
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LostAttempt:
    """An attempt that gave no outcome. `ambiguous`: it may have been billed, nobody knows.

    `ended_at`: None when the service died during it. Older services wrote the time of their restart then.
    """

    attempt: Attempt
    error: str
    ambiguous: bool
    ended_at: float | None
    input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Waiting for `provider` until a wall time, and why."""

    provider: str
    until: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTurn:
    """A turn as the journal knows it. Members up to `deadline` are those of its Accept.

    `attempt`: the last one that was sent, None when none ever was; `attempts`: how many were. `body`: the request,
    only in Recovered and when Show asks for it, b"" elsewhere. `ending`: with its bytes in Known and Found, without
    them (b"") in Listing.
    `lost`: the attempts before the last, only in an answer to Show.
    """

    id: str
    body_hash: bytes
    kind: str
    session: str
    lane: str
    provider: str
    model: str
    features: tuple[str, ...]
    size: int
    detached: bool
    resend_safe: bool
    accepted_at: float
    deadline: float
    state: State
    attempt: Attempt | None = None
    park: Park | None = None
    ending: Ending | None = None
    body: bytes = field(default=b"", repr=False)
    lost: tuple[LostAttempt, ...] = ()

    @property
    def attempts(self) -> int:
        return 0 if self.attempt is None else self.attempt.number


@dataclass(frozen=True, slots=True)
class Accepted:
    """The turn is in the journal."""


@dataclass(frozen=True, slots=True)
class Known:
    """A turn of this id is there already; nothing was written. Compare `turn.body_hash`: it may be another one."""

    turn: StoredTurn


@dataclass(frozen=True, slots=True)
class Written:
    """`changed` is False when there is no live turn of this id: it ended before, or was never accepted."""

    changed: bool = True


@dataclass(frozen=True, slots=True)
class Deferred:
    """The disk takes nothing now: the outcome is kept in memory, is found by its id, and is written when there is room.

    Deliver it: the journal does all it can, and a second answer will not come.
    """


@dataclass(frozen=True, slots=True)
class Found:
    """The turn of that id, or None."""

    turn: StoredTurn | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Newest first. `more`: there may be others, which the limit or LIST_TURNS cut off."""

    turns: tuple[StoredTurn, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """Every turn that was accepted and has not ended, with its body, oldest first."""

    turns: tuple[StoredTurn, ...]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums of one group. `key`: its values, in the order asked for; a day is YYYY-MM-DD, in UTC."""

    key: tuple[str, ...]
    turns: int
    failed: int
    cancelled: int
    attempts: int
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class UsageTable:
    """`rows`: group after group, the largest ones first. `more`: the limit left groups off.

    `totals`: of all groups together, one row a (provider, model). Where there are more than 200 of these, the smallest
    are one of ("", ""), here and in rows whose groups do not name them.
    """

    rows: tuple[UsageRow, ...]
    totals: tuple[UsageRow, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Purged:
    """How many turns were deleted."""

    turns: int


# -- operations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept(Operation[Accepted | Known]):
    """Take a turn in. Members as in SubmitHeader; `provider`, `model`: the override, or "".

    `features`: what it asks of a route. `running`: it has a slot and will be sent as soon as this is on disk.
    `retry`: when a turn of this id and this hash has failed or was cancelled, it is forgotten and this one accepted.
    """

    id: str
    body_hash: bytes
    kind: str
    session: str
    lane: str
    provider: str
    model: str
    features: tuple[str, ...]
    size: int
    detached: bool
    resend_safe: bool
    accepted_at: float
    deadline: float
    body: bytes = field(repr=False)
    retry: bool = False
    running: Attempt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running(Operation[Written]):
    """An attempt is about to be sent. SUBMIT may reach the worker once this is answered."""

    id: str
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded(Operation[Written]):
    """An attempt gave no outcome and the turn goes on. `error`: the class's name. `spent`: None counts nothing.

    `ambiguous`: it may have been billed: the worker or the service died during it. `ended_at`: None when nobody knows,
    for it was the service; it is in the usage of the day when it was sent then.
    """

    id: str
    attempt: Attempt
    error: str
    ended_at: float | None
    ambiguous: bool = False
    spent: Spent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked(Operation[Written]):
    """The turn waits for a provider's quota until a wall time."""

    id: str
    park: Park


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Operation[Written | Deferred]):
    """The one outcome of a turn. Members as in Ending. A turn that is done loses its request now, another with it all.

    `spent`: what the last attempt cost, and whose turn it was: it counts the turn even when it counts no attempt.
    """

    id: str
    state: EndState
    attempt: int
    seq: int
    header: bytes = field(repr=False)
    body: bytes = field(repr=False)
    ended_at: float
    spent: Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup(Operation[Found]):
    """The turn of this id with its outcome."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Show(Operation[Found]):
    """As Lookup, and the attempts that were lost. `with_body`: and the request, b"" of a turn that is done."""

    id: str
    with_body: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class List(Operation[Listing]):
    """Turns, newest first. Empty members do not filter. `provider`: that of the last attempt.

    `since`, `before`: of the time of acceptance. Of turns that may have ended the newest LIST_TURNS are looked at, so
    that nobody waits behind a question; `more` tells when there are others.
    """

    states: tuple[State, ...] = ()
    kind: str = ""
    session: str = ""
    provider: str = ""
    since: float | None = None
    before: float | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Operation[UsageTable]):
    """Sums by these keys. `since`: days that ended before it are left out. Sums by provider and model can be priced.

    The first `groups` keys make a group (0: all do), of which the `limit` largest are told: those with the most tokens,
    or, with a day among their keys, those of the latest days. After them only provider and model may come.
    """

    by: tuple[UsageKey, ...]
    since: float | None = None
    groups: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge(Operation[Purged]):
    """Delete ended turns: those of `ids`, those that ended before `ended_before`, or `all_ended`. Usage stays.

    Done in small steps between other operations, so its answer may come after those of operations posted later.
    """

    ids: tuple[str, ...] = ()
    ended_before: float | None = None
    all_ended: bool = False


@dataclass(frozen=True, slots=True)
class Recover(Operation[Recovered]):
    """What a service that starts has to take up again."""


async def ask_journal(journal: Journal, operation: Operation[R]) -> R:
    """Post it and wait for the answer. Raises JournalFailed."""
    answered = trio.Event()
    answers: list[R | JournalFailed] = []

    def done(answer: R | JournalFailed) -> None:
        answers.append(answer)
        answered.set()

    journal.post(operation, done)
    await answered.wait()
    if isinstance(answers[0], JournalFailed):
        raise answers[0]
    return answers[0]


def weight_bytes(operation: Operation[object]) -> int:
    """What an operation holds while it waits, in bytes; a fixed sum stands for all that is no body."""
    if isinstance(operation, Accept):
        return OVERHEAD_BYTES + len(operation.body)
    if isinstance(operation, Finish):
        return OVERHEAD_BYTES + len(operation.header) + len(operation.body)
    return OVERHEAD_BYTES

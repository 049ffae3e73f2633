"""One turn, from a driver and a transport: sends it, hands on its deltas in order, and returns the reply.

Owns the order of things, the watchdogs, and what every DriverError carries when it leaves. Leaves the deadline and
cancelling to the caller's scope, sending again to the runtime: but for a signature that its own auth can better.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import ParamSpec, TypeVar

import trio

from loopforge.drivers.errors import (
    CredentialsRejected,
    DriverError,
    ProviderUnavailable,
    Stalled,
    StreamBroken,
    WireMismatch,
)
from loopforge.drivers.fold import Fold
from loopforge.drivers.turn import Delta, Notice, Reply, Timings, Turn, Usage
from loopforge.drivers.wire import Auth, Driver, HttpRequest, Reader, RenewableAuth, Response, Transport

# After the answer's own end its body should end, too; usage may come in between. A body read to its end leaves a
# connection that can be used again; one that stays open is given up, for the answer is whole.
TAIL_S = 1.0
TAIL_EVENTS = 64

Emit = Callable[[Delta], Awaitable[None]]
Book = Callable[[Usage], None]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Watchdogs:
    """How long a provider may say nothing, in seconds: before the first event, and between two.

    What counts is events, not bytes: keep-alive comments and blank lines are silence. Time that `emit` takes is the
    caller's and does not count. A turn with `stream=False` has a single event, its whole answer.
    """

    first_event_s: float
    event_gap_s: float


async def run_turn(  # noqa: PLR0917 - each is a different thing, and all are always given
    driver: Driver,
    auth: Auth,
    turn: Turn,
    transport: Transport,
    emit: Emit,
    watchdogs: Watchdogs,
    *,
    book: Book | None = None,
) -> Reply:
    """Send `turn` once; await emit(delta) for each delta in order; return the reply.

    `turn.provider` and `turn.model` are the ones to ask. The driver's notices come before the first delta of the
    answer, so that a turn that never got an answer has emitted nothing. The caller sets the deadline by a cancel
    scope; cancelled, the provider's connection is closed. What `emit` raises passes through.

    `book`: called at most once, when no reply comes, whatever the reason (an error, a cancel, the deadline): with the
    tokens that the provider had told it had counted by then. As a UsageDelta, it replaces what deltas had said.

    Raises DriverError, with provider, model, `started` (a delta had been emitted) and `partial` (what had come):
    of the auth, transport and driver as wire.py says; ProviderUnavailable when no event came in time, Stalled when
    one was the last; WireMismatch for a bug in the driver. Timings: `first_token_s` to the first content, `total_s`
    to the end, both from the call.
    """
    attempt = _Attempt(driver=driver, turn=turn, emit=emit, watchdogs=watchdogs)
    try:
        await attempt.run(auth, transport)
        return attempt.reply()
    except DriverError as exc:
        attempt.complete(exc)
        raise
    finally:
        if book is not None and not attempt.answered and (usage := attempt.untold_usage()) is not None:
            book(usage)


@dataclass(slots=True, kw_only=True)
class _Attempt:
    driver: Driver
    turn: Turn
    emit: Emit
    watchdogs: Watchdogs
    fold: Fold = field(default_factory=Fold)
    reader: Reader | None = None  # of an answer that began
    answered: bool = False
    notices: tuple[str, ...] = ()  # still to be emitted
    started: bool = False
    events: int = 0
    began: float = field(default_factory=trio.current_time)
    first_token_s: float | None = None

    async def run(self, auth: Auth, transport: Transport) -> None:
        self.notices = self._ask_driver(self.driver.notices, self.turn)
        request = self._ask_driver(self.driver.build_request, self.turn)
        with trio.CancelScope(deadline=self.began + self.watchdogs.first_event_s) as watchdog:
            for is_last in (False, True):
                async with transport.open(await self._sign(auth, request)) as response:
                    if response.status == 200:
                        self.reader = self._ask_driver(self.driver.new_reader, self.turn, response.headers)
                        await self._read(self.reader, response, watchdog)
                        break
                    error = await self._explain(response)
                    if not self._signs_anew(auth, error, response) or is_last:
                        raise error
        overdue = watchdog.cancelled_caught and self.fold.finish is None
        if self.reader is None or (overdue and not self.events):
            raise self._overdue()
        try:
            rest = self._ask_driver(self.reader.close)
        except StreamBroken:
            if overdue:  # of course it is: that the provider stopped is the news
                raise self._overdue() from None
            raise
        # Also when overdue: a provider that says all but its end sign, and keeps the body open, has answered.
        await self._emit_all(rest)
        await self._emit_notices()

    async def _sign(self, auth: Auth, request: HttpRequest) -> HttpRequest:
        try:
            return await auth.sign(request)
        except DriverError:
            raise
        except Exception as exc:  # noqa: BLE001 - raised again below, without its text: the key may be in it
            raise self._bug("signing the request", exc) from None

    def _signs_anew(self, auth: Auth, error: DriverError, response: Response) -> bool:
        if not isinstance(error, CredentialsRejected) or not isinstance(auth, RenewableAuth):
            return False
        try:
            return auth.rejected(error, response.headers)
        except Exception as exc:  # noqa: BLE001 - raised again below, without its text: the key may be in it
            raise self._bug("judging a rejected key", exc) from None

    async def _explain(self, response: Response) -> DriverError:
        body = await response.read_all()
        return self._ask_driver(self.driver.explain, self.turn, response.status, response.headers, body)

    async def _read(self, reader: Reader, response: Response, watchdog: trio.CancelScope) -> None:
        """Hand on the body until it ends, or a little beyond the answer's own end."""
        body = aiter(response)
        tail = TAIL_EVENTS
        while (data := await self._next(body)) is not None:
            deltas = self._ask_driver(reader.feed, data)
            if reader.events == self.events and not deltas:
                continue  # part of an event, or a keep-alive: the watchdog's time runs on
            watchdog.deadline = math.inf
            await self._emit_all(deltas)
            if self.fold.finish is not None:
                tail -= reader.events - self.events
                if tail <= 0:
                    return
                watchdog.deadline = trio.current_time() + TAIL_S
            else:
                watchdog.deadline = trio.current_time() + self.watchdogs.event_gap_s
            self.events = reader.events

    async def _next(self, body: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await anext(body)
        except StopAsyncIteration:
            return None
        except StreamBroken:
            if self.fold.finish is None:
                raise
            return None  # hung up after the answer's own end: nothing is missing

    async def _emit_all(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if self.notices:
                await self._emit_notices()
            await self._emit(delta)

    async def _emit_notices(self) -> None:
        notices, self.notices = self.notices, ()
        for text in notices:
            await self._emit(Notice(text))

    async def _emit(self, delta: Delta) -> None:
        self._ask_driver(self.fold.add, delta)
        if self.first_token_s is None and self.fold.content_seen:
            self.first_token_s = trio.current_time() - self.began
        self.started = True
        await self.emit(delta)

    def _ask_driver(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the driver. A DriverError is its answer; anything else that it raises is a bug, and named as one."""
        try:
            return step(*args, **kwargs)
        except DriverError:
            raise
        except Exception as exc:
            raise self._bug(f"in {getattr(step, '__name__', 'a step')}", exc) from exc

    def _bug(self, where: str, exc: Exception) -> WireMismatch:
        return WireMismatch(
            self.turn.provider,
            f"the driver failed with {type(exc).__name__} {where}",
            action="report this as a bug of LoopForge; route this kind elsewhere meanwhile",
        )

    def _overdue(self) -> DriverError:
        if self.events:
            return Stalled(self.turn.provider, f"no event for {self.watchdogs.event_gap_s:g} s")
        return ProviderUnavailable(
            self.turn.provider,
            f"no event within {self.watchdogs.first_event_s:g} s",
            action="resend this turn or route it elsewhere; raise first_event_timeout_s if the model is merely slow",
        )

    def complete(self, error: DriverError) -> None:
        """Fill in what only this attempt knows."""
        error.provider = error.provider or self.turn.provider
        error.model = error.model or self.turn.model
        error.started = self.started
        error.partial = self.fold.partial() or error.partial
        error.args = (error.describe(),)

    def untold_usage(self) -> Usage | None:
        """What the provider had counted and no delta has said. Raises nothing: what ended the attempt is the news."""
        try:
            usage = None if self.reader is None else self.reader.known_usage()
        except Exception:  # noqa: BLE001 - a bug here must not take the place of an error, nor of a cancel
            return None
        if usage is None or not (usage.input or usage.output):
            return None  # nothing, or zeros that stand in for the count until it is made
        return None if usage == self.fold.usage else usage

    def reply(self) -> Reply:
        self.answered = True
        timings = Timings(first_token_s=self.first_token_s, total_s=trio.current_time() - self.began)
        return replace(self.fold.reply(self.turn), timings=timings)

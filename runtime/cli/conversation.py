"""One turn of `loopforge ask` while it runs: the service or a runtime of its own, events to the printer, how it ends.

Ctrl-C or SIGTERM, or a reader of our output that goes away, cancels the turn first, up to the provider, and waits a
short while for the word that it is; a second Ctrl-C waits for nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import Accepted, Cancelled, Done, Event, Failed, Outcome, Turn
from loopforge.runtime.cli.answer import Printer
from loopforge.runtime.cli.outlet import Outlet, standard_streams
from loopforge.runtime.client import Runtime, connect, open_runtime
from loopforge.runtime.config import paths
from loopforge.runtime.errors import ConnectionLost
from loopforge.runtime.stream import EventStream

CONNECT_S = 5.0
"""A healthy service answers within a millisecond."""
CANCEL_S = 2.0
"""After Ctrl-C: how long the word that the turn is cancelled, up to the provider, may take."""
LAST_WORDS_S = 1.0
"""After Ctrl-C: how long a terminal or pipe that reads slowly is waited for."""


@dataclass(frozen=True, slots=True)
class Ending:
    """`outcome`: None for a detached turn that was left running. `signal`: what stopped us, 0 for nothing.

    `output_error`: why the answer could not be written.
    """

    outcome: Outcome | None
    signal: int = 0
    output_error: OSError | None = None


@dataclass(kw_only=True, eq=False)
class Conversation:
    """`socket`: where a service may be. `config_named`: the person named `config`, so no service of another will do."""

    turn: Turn
    printer: Printer
    socket: Path
    config: Path
    config_named: bool
    retry: bool = False
    reconnect_s: float = 30.0
    outlet: Outlet = field(init=False)
    _signal: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    _accepted: bool = field(default=False, init=False)
    _in_service: bool = field(default=False, init=False)
    _outcome: Outcome | None = field(default=None, init=False)
    _everything: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)
    _following: trio.CancelScope | None = field(default=None, init=False)

    async def run(self) -> Ending:
        """Run the turn to its ending; whatever there is to print has been written then, except the error."""
        self.outlet = Outlet(standard_streams())
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.outlet.run)
                nursery.start_soon(self.outlet.watch_reader)
                nursery.start_soon(self._stop_on_signal, signals)
                nursery.start_soon(self._stop_on_closed_output)
                with self._everything:
                    await self._converse()
                    if not self._stopped:
                        await self.outlet.wait_drained()
                if self._stopped:
                    with trio.move_on_after(LAST_WORDS_S):
                        if self._everything.cancelled_caught:
                            await self._end(Cancelled(self._why_stopped()))
                        await self.outlet.wait_drained()
                nursery.cancel_scope.cancel()
        return Ending(self._outcome, self._signal, self.outlet.error)

    # -- the turn ----------------------------------------------------------------------------------------------------

    async def _converse(self) -> None:
        try:
            async with self._open() as runtime, runtime.stream(self.turn, retry=self.retry) as events:
                await self._follow(events)
                if self._outcome is None:
                    await self._leave(runtime, events)
        except TurnError as exc:
            await self._end(Failed(exc))

    async def _follow(self, events: EventStream) -> None:
        """Print events up to the outcome, or until somebody stops us."""
        with trio.CancelScope() as self._following:
            async for event in events:
                match event:
                    case Done() | Failed() | Cancelled():
                        self._tell_of_retry(event)
                        await self._end(event)
                    case _:
                        self._accepted = self._accepted or isinstance(event, Accepted)
                        await self._show(event)

    def _tell_of_retry(self, outcome: Outcome) -> None:
        """Whoever asks again under an id gets this very outcome again, perhaps of yesterday: said, for it looks new."""
        kept = self.turn.id and self._accepted and self._in_service
        if kept and not isinstance(outcome, Done):
            again = "the same command with --retry tries it again"
            self._note(f"what follows is kept under the id {self.turn.id}; {again}")

    async def _leave(self, runtime: Runtime, events: EventStream) -> None:
        """We were stopped: cancel the turn and wait a little for the word that it is."""
        if self.turn.detached:
            self._note(f"the turn goes on; 'loopforge cancel {events.id}' ends it")
            return
        with trio.move_on_after(CANCEL_S):
            with contextlib.suppress(TurnError):  # its outcome is on the way already
                await runtime.cancel(events.id, self._why_stopped())
            async for event in events:
                if isinstance(event, Done | Failed | Cancelled):
                    await self._end(event)
        if self._outcome is None:
            await self._end(Cancelled(f"{self._why_stopped()}; nobody has confirmed it so far"))

    async def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            await self._show(outcome)
        self.outlet.finish()

    async def _show(self, event: Event) -> None:
        await self.outlet.write(self.printer.show(event))

    # -- being stopped -----------------------------------------------------------------------------------------------

    async def _stop_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self._signal = self._signal or number
            self._stop()

    async def _stop_on_closed_output(self) -> None:
        await self.outlet.ended.wait()
        self._stop()

    def _why_stopped(self) -> str:
        """For the turn's own record, where somebody else may read it."""
        return "interrupted" if self._signal else "whoever read the answer went away"

    def _stop(self) -> None:
        """The first time leave the turn in good order; the second time, or when there is none, leave at once."""
        self._stopped = True
        if self._following is None or self._following.cancel_called or self._outcome is not None:
            self._everything.cancel()
        else:
            self._following.cancel()

    # -- who runs it -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Runtime]:
        """The service if one listens and serves this configuration, else a runtime in this process."""
        chosen = False
        with trio.CancelScope(deadline=trio.current_time() + CONNECT_S) as connecting:
            try:
                async with connect(self.socket, reconnect_s=self.reconnect_s, on_lost=self._lost) as runtime:
                    chosen = await self._serves_this(runtime)
                    if chosen:
                        self._in_service = True
                        connecting.deadline = math.inf
                        yield runtime
            except ConnectionLost as exc:
                if chosen or not _nobody_listens(exc):
                    raise
                if isinstance(exc.__cause__, ConnectionRefusedError):
                    self._note(f"nobody listens on {self.socket}, which a service has left; doing without one")
        if connecting.cancelled_caught:
            what = f"the service at {self.socket} does not answer within {CONNECT_S:g} s"
            raise ConnectionLost(what=what, action="see its log; if it hangs, restart it")
        if not chosen:
            logging.getLogger("loopforge").addHandler(_Notes(self._note))
            if self.turn.detached:
                self._note("without a service nothing goes on when this command ends: detached has no effect")
            async with open_runtime(await self._configuration()) as runtime:
                yield runtime

    async def _serves_this(self, runtime: Runtime) -> bool:
        if not self.config_named:
            return True
        served = str((await runtime.status()).get("config", ""))
        if _same_file(served, self.config):
            return True
        self._note(f"the service at {self.socket} runs with {served}; doing without it because of --config")
        return False

    async def _configuration(self) -> Path:
        """The person's file; the presets when there is none yet: no set-up is required."""
        if self.config_named or await trio.Path(self.config).exists():
            return self.config
        self._note(f"there is no {self.config} yet, so the presets count; 'loopforge init' writes one to edit")
        return paths.PRESETS

    def _lost(self, error: TurnError) -> None:
        self._note(f"the service went away ({error.what}); looking for it for {self.reconnect_s:g} s")

    def _note(self, text: str) -> None:
        self.outlet.post(self.printer.note(text))


def _nobody_listens(exc: ConnectionLost) -> bool:
    return isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError | ConnectionRefusedError)


def _same_file(one: str, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


class _Notes(logging.Handler):
    """What a runtime in this process has to say (a worker died) becomes notes between the answer's lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())

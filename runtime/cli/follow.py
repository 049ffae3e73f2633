"""One turn of the service, followed by its id: its events to the printer, to the outcome or until somebody stops us.

Stopping leaves the turn alone. The turn of `loopforge ask` is conversation.py's.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from loopforge.drivers.errors import TurnError
from loopforge.drivers.turn import Cancelled, Done, Failed, Outcome
from loopforge.runtime.cli.answer import Printer
from loopforge.runtime.cli.conversation import LAST_WORDS_S, Ending
from loopforge.runtime.cli.outlet import Outlet, standard_streams
from loopforge.runtime.client import connect


@dataclass(kw_only=True, eq=False)
class Following:
    """`socket`: where the service is; `reconnect_s`: how long it is looked for when it goes away."""

    turn_id: str
    printer: Printer
    socket: Path
    reconnect_s: float
    outlet: Outlet = field(init=False)
    _signal: int = field(default=0, init=False)
    _outcome: Outcome | None = field(default=None, init=False)
    _everything: trio.CancelScope = field(default_factory=trio.CancelScope, init=False)

    async def run(self) -> Ending:
        """Print to the end; whatever there is to print has been written then, except the error."""
        self.outlet = Outlet(standard_streams())
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.outlet.run)
                nursery.start_soon(self.outlet.watch_reader)
                nursery.start_soon(self._stop_on_signal, signals)
                nursery.start_soon(self._stop_on_closed_output)
                with self._everything:
                    await self._follow()
                    await self.outlet.wait_drained()
                if self._everything.cancelled_caught:
                    if self._outcome is None and self._signal:
                        self._note(f"the turn goes on; 'loopforge cancel {self.turn_id}' ends it")
                    with trio.move_on_after(LAST_WORDS_S):
                        await self.outlet.wait_drained()
                nursery.cancel_scope.cancel()
        return Ending(self._outcome, self._signal, self.outlet.error)

    async def _follow(self) -> None:
        try:
            async with (
                connect(self.socket, reconnect_s=self.reconnect_s, on_lost=self._lost) as runtime,
                runtime.attach(self.turn_id, wanted=False) as events,
            ):
                async for event in events:
                    if isinstance(event, Done | Failed | Cancelled):
                        self._outcome = event
                    await self.outlet.write(self.printer.show(event))
        except TurnError as exc:
            self._outcome = Failed(exc)
            await self.outlet.write(self.printer.show(self._outcome))
        self.outlet.finish()

    async def _stop_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self._signal = self._signal or number
            self._everything.cancel()

    async def _stop_on_closed_output(self) -> None:
        await self.outlet.ended.wait()
        self._everything.cancel()

    def _lost(self, error: TurnError) -> None:
        self._note(f"the service went away ({error.what}); looking for it for {self.reconnect_s:g} s")

    def _note(self, text: str) -> None:
        self.outlet.post(self.printer.note(text))

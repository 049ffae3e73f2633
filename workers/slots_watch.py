"""When a local server is asked for its slots, and what it said last.

Asked once when the worker is ready, beside the first turns. Then only where the answer may be another one: after the
first turn that is done when nothing was told before (until then the server may have been loading its model), and after
the first one that is done at a server that had been out of reach (it was started again, maybe with other slots).
The question itself is drivers/slots.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from loopforge.drivers.errors import ProviderUnavailable, TurnError


class SlotsWatch:
    """`ask`: one question, bounded in time, that never raises. `tell`: called when `slots` is another number."""

    def __init__(self, ask: Callable[[], Awaitable[int | None]], tell: Callable[[], None]) -> None:
        self.slots: int | None = None
        """What the server said last; None: nothing so far."""
        self._ask = ask
        self._tell = tell
        self._stale = False
        self._due = trio.Event()

    async def run(self) -> None:
        """Ask now and whenever it is due, until cancelled."""
        if not await self._asked():
            self._stale = True
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await self._asked()

    def turn_failed(self, error: TurnError) -> None:
        if isinstance(error, ProviderUnavailable):
            self._stale = True

    def turn_done(self) -> None:
        if self._stale:
            self._stale = False
            self._due.set()

    async def _asked(self) -> bool:
        """Whether it told."""
        slots = await self._ask()
        if slots is not None and slots != self.slots:
            self.slots = slots
            self._tell()
        return slots is not None

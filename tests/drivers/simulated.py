"""One provider that the simulator plays: its driver, auth and transport on loopback, ready to be asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from loopforge.drivers.auth import open_auth
from loopforge.drivers.errors import DriverError
from loopforge.drivers.registry import Kind, ProviderSettings, open_driver
from loopforge.drivers.run import Book, Watchdogs, run_turn
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import Delta, Reply, Tool, Turn, Usage, UsageDelta, user
from loopforge.drivers.wire import Auth, Driver, Transport

NAME = "acme"
CALM = Watchdogs(first_event_s=60, event_gap_s=60)
LOOK = Tool(
    name="look", parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
)


@dataclass
class Line:
    """One provider, ready to be asked."""

    simulator: Simulator
    driver: Driver
    auth: Auth
    transport: Transport
    turn: Turn

    async def run(
        self,
        turn: Turn | None = None,
        *,
        watchdogs: Watchdogs = CALM,
        deltas: list[Delta] | None = None,
        book: Book | None = None,
    ) -> Reply:
        async def emit(delta: Delta) -> None:
            if deltas is not None:
                deltas.append(delta)

        with trio.fail_after(60):
            return await run_turn(self.driver, self.auth, turn or self.turn, self.transport, emit, watchdogs, book=book)

    async def fails(
        self, turn: Turn | None = None, *, watchdogs: Watchdogs = CALM, told: list[Usage] | None = None
    ) -> DriverError:
        """`told`: takes each count of tokens that the attempt gives, in a delta or for the books."""
        deltas: list[Delta] = []
        booked: list[Usage] = []
        with pytest.raises(DriverError) as caught:
            await self.run(turn, watchdogs=watchdogs, deltas=deltas, book=booked.append)
        if told is not None:
            told += (*(delta.usage for delta in deltas if isinstance(delta, UsageDelta)), *booked)
        return caught.value

    @property
    def requests(self) -> int:
        return self.simulator.stats.of(NAME).requests


@dataclass(frozen=True, kw_only=True)
class SimulatedProvider:
    """How a kind is asked when nothing more is said.

    `base_path`: of the kind's base_url. `needs_key`: no turn leaves without one. `tokens_per_s`: 0 sends an answer all
    at once.
    """

    kind: Kind
    key: str
    model: str = "m"
    base_path: str = "/v1"
    needs_key: bool = False
    tokens_per_s: float = 0

    @property
    def profile(self) -> Profile:
        return Profile(kind=self.kind, first_token_s=0, tokens_per_s=self.tokens_per_s, answer_tokens=12, slow_s=0.05)

    @property
    def turn(self) -> Turn:
        return Turn(kind="planning", messages=(user("hello"),), id="turn-1", provider=NAME, model=self.model)

    @asynccontextmanager
    async def open_line(
        self,
        profile: Profile | None = None,
        *,
        key: str | None = None,
        path: str = "",
        auth: Auth | None = None,
        **members: Any,
    ) -> AsyncIterator[Line]:
        """`path`: behind that of the base_url. `auth`: in place of the one that fits `key`. `members`: settings."""
        if key is None:
            key = self.key if self.needs_key else ""
        async with open_simulator({NAME: profile or self.profile}) as simulator:
            settings = ProviderSettings(
                name=NAME,
                kind=self.kind,
                base_url=f"{simulator.url}/{NAME}{self.base_path}{path}",
                api_key_env="ACME_KEY" if key else "",
                **members,
            )
            async with open_transport(settings) as transport:
                signer = auth or open_auth(settings, key)
                yield Line(simulator, open_driver(settings), signer, transport, self.turn)

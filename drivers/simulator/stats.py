"""What the simulator has been asked, what it answered, and who hung up. Counts only; changes can be waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio


@dataclass(slots=True)
class ProviderStats:
    """One simulated provider.

    `requests` came; of them `active` are being answered, `whole` were answered to the end, `cancelled` were left by
    the client before that, `broken` ended in a fault. `steps`: tokens sent. `models`, `statuses`, `faults`: how often.
    """

    requests: int = 0
    active: int = 0
    peak: int = 0
    whole: int = 0
    cancelled: int = 0
    broken: int = 0
    steps: int = 0
    models: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def count_steps(self, count: int) -> None:
        self.steps += count


class Stats:
    """All of one simulator."""

    def __init__(self) -> None:
        self.connections = 0
        self.open_connections = 0
        self.providers: dict[str, ProviderStats] = {}
        self._changed = trio.Event()

    def of(self, provider: str) -> ProviderStats:
        return self.providers.setdefault(provider, ProviderStats())

    @property
    def requests(self) -> int:
        return sum(provider.requests for provider in self.providers.values())

    @property
    def active(self) -> int:
        return sum(provider.active for provider in self.providers.values())

    @property
    def cancelled(self) -> int:
        return sum(provider.cancelled for provider in self.providers.values())

    def note(self) -> None:
        """Something changed that somebody may wait for. Tokens are too many to be told one by one."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self, condition: Callable[[Stats], bool]) -> None:
        """Block until the condition holds. Seen when a connection or an answer begins or ends."""
        while not condition(self):
            await self._changed.wait()

    def to_plain(self) -> dict[str, Any]:
        """What GET /_simulator/stats answers."""
        providers = {
            name: {member: getattr(provider, member) for member in ProviderStats.__slots__}
            for name, provider in self.providers.items()
        }
        return {
            "connections": self.connections,
            "open_connections": self.open_connections,
            "requests": self.requests,
            "active": self.active,
            "cancelled": self.cancelled,
            "providers": providers,
        }

"""The shared Draft with what its model takes, and this wire's opaque data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loopforge.drivers import draft
from loopforge.drivers.minimax_native.profiles import Profile
from loopforge.drivers.turn import CacheMark, JsonObject, Opaque

WIRE: Final = "minimax_native"


def made_here(provider: str, model: str, **data: object) -> Opaque:
    """Opaque data of an answer on this wire.

    On thinking: `form`, how it came: "tags" with the line feeds behind them in `gap`, "details" with its `items`, or
    "text". In a part of its own: `search`, what the vendor's own search called and found, and `annotations`, which
    only clients read.
    """
    return Opaque(provider=provider, model=model, data={"wire": WIRE, **data})


@dataclass(slots=True, kw_only=True)
class Draft(draft.Draft):
    """`profile`: of the model that is asked."""

    profile: Profile

    def data_of(self, opaque: Opaque | None) -> JsonObject | None:
        """The opaque data that this provider and model made on this wire; None for anybody else's."""
        if opaque is None or not self.owns(opaque) or opaque.data.get("wire") != WIRE:
            return None
        return opaque.data

    def note_cache(self, cache: CacheMark) -> None:
        if cache:
            self.note("cache marks were not sent: this wire decides itself what it caches")

"""The shared Draft with what its model takes, and this wire's opaque data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loopforge.drivers import draft
from loopforge.drivers.turn import JsonObject, Opaque
from loopforge.drivers.zhipu_native.profiles import Profile

WIRE: Final = "zhipu_native"


def made_here(provider: str, model: str, **data: object) -> Opaque:
    """Opaque data of an answer on this wire.

    Its members: `field` that a thinking part came in, `web_search` with what a search of the provider's found.
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

"""The shared Draft with what its model takes, and this wire's opaque data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loopforge.drivers import draft
from loopforge.drivers.gemini.profiles import Profile
from loopforge.drivers.turn import CacheMark, JsonObject, Opaque

WIRE: Final = "gemini"


def made_here(provider: str, model: str, **data: object) -> Opaque:
    """Opaque data of an answer on this wire.

    Its members: `signature` of the part it is on, `id` True when a call's id came from the wire, `part` a part to be
    sent back as it is, `on_previous` a signature of the part before, `metadata` that only clients read.
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

    def signature_of(self, opaque: Opaque | None) -> JsonObject:
        """The member that signs a part, {} when it has none of this origin."""
        data = self.data_of(opaque)
        if data is None:
            if opaque is not None:
                self.note("signatures of another provider or model were not sent")
            return {}
        signature = data.get("signature")
        return {"thoughtSignature": signature} if isinstance(signature, str) and signature else {}

    def note_cache(self, cache: CacheMark) -> None:
        if cache:
            self.note("cache marks were not sent: this wire decides itself what it caches")

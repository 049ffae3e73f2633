"""The shared Draft with the vendor that it is written for."""

from __future__ import annotations

from dataclasses import dataclass

from loopforge.drivers import draft
from loopforge.drivers.turn import JsonObject, Opaque
from loopforge.drivers.vendors import Profile


@dataclass(slots=True, kw_only=True)
class Draft(draft.Draft):
    """`profile`: of the model that is asked."""

    profile: Profile

    @property
    def vendor(self) -> str:
        return self.profile.name

    def data_of(self, opaque: Opaque | None) -> JsonObject | None:
        """The opaque data of this provider, model and vendor; None for anybody else's."""
        if opaque is None or not self.owns(opaque) or opaque.data.get("vendor") != self.vendor:
            return None
        return opaque.data

"""The shared Draft with what its gateway and model take, the marks asked for, and this wire's opaque data."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopforge.drivers import draft
from loopforge.drivers.anthropic.cache import Mark, Place
from loopforge.drivers.anthropic.profiles import Profile
from loopforge.drivers.turn import CacheMark, JsonObject, Opaque


@dataclass(slots=True, kw_only=True)
class Draft(draft.Draft):
    """`profile`: of the model that is asked. `marks`: prompt-cache marks asked for."""

    profile: Profile
    marks: list[Mark] = field(default_factory=list)

    @property
    def vendor(self) -> str:
        return self.profile.name

    def mark(self, block: JsonObject, cache: CacheMark, place: Place) -> JsonObject:
        """The block, noted down for a cache mark when one is asked for and this vendor heeds it."""
        if cache and self.profile.cache_marks:
            self.marks.append(Mark(block, cache, place))
        elif cache:
            self.note(f"cache marks were not sent: {self.vendor} is not known to heed them")
        return block

    def block_of(self, opaque: Opaque | None) -> JsonObject | None:
        """The wire members that came with a part, when this provider, model and vendor made it; else None."""
        data = self.data_of(opaque)
        block = data.get("block")
        return block if isinstance(block, dict) else None

    def data_of(self, opaque: Opaque | None) -> JsonObject:
        """The opaque data of this provider, model and vendor; {} for anybody else's."""
        if opaque is None or not self.owns(opaque) or opaque.data.get("vendor") != self.vendor:
            return {}
        return opaque.data

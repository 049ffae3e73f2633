"""The shared Draft with what the model's family takes, and the cache points asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopforge.drivers import draft
from loopforge.drivers.bedrock.families import Family, Place
from loopforge.drivers.turn import CacheMark, JsonObject, Opaque


@dataclass(slots=True, kw_only=True)
class Draft(draft.Draft):
    """`family`: of the model that is asked. `points`: cache points in the body, with their places."""

    family: Family
    points: list[tuple[Place, JsonObject]] = field(default_factory=list)

    @property
    def who(self) -> str:
        """The family, for notices; the model where its family is not known."""
        return self.family.name if self.family.name != "unknown" else self.model

    def point(self, cache: CacheMark, place: Place) -> list[JsonObject]:
        """A cache point to stand behind the block that asks for one; none where the family takes none."""
        if not cache:
            return []
        if place not in self.family.marks:
            self.note(f"a cache mark was not sent: {self.who} takes none in {place}")
            return []
        block: JsonObject = {"cachePoint": {"type": "default", "ttl": cache}}
        self.points.append((place, block))
        return [block]

    def data_of(self, opaque: Opaque | None) -> JsonObject:
        """The opaque data of this provider and model; {} for anybody else's."""
        return opaque.data if opaque is not None and self.owns(opaque) else {}

"""The shared Draft with what its model takes, the path it is asked on, and this wire's opaque data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loopforge.drivers import draft
from loopforge.drivers.dashscope_native.profiles import Profile
from loopforge.drivers.turn import CacheMark, JsonObject, Opaque

WIRE: Final = "dashscope_native"
MAX_MARKS: Final = 4


def made_here(provider: str, model: str, **data: object) -> Opaque:
    """Opaque data of an answer on this wire: what only clients read (`search_info`, `tool_info`), or just its mark."""
    return Opaque(provider=provider, model=model, data={"wire": WIRE, **data})


@dataclass(slots=True, kw_only=True)
class Draft(draft.Draft):
    """`profile`: of the model that is asked. `multimodal`: on the path where content is a list of parts.

    `echo`: earlier reasoning of this origin goes back.
    """

    profile: Profile
    multimodal: bool
    echo: bool = False
    _marks: int = 0

    @property
    def takes_images(self) -> bool:
        return self.multimodal and (self.profile.images or not self.profile.known)

    @property
    def takes_sound(self) -> bool:
        return self.multimodal and (self.profile.audio or not self.profile.known)

    def made_here(self, opaque: Opaque | None) -> bool:
        """Whether this provider and model made it on this wire."""
        return opaque is not None and self.owns(opaque) and opaque.data.get("wire") == WIRE

    def cache_member(self, cache: CacheMark) -> JsonObject:
        """The member that marks a part for the cache, {} for none or where none is taken."""
        if not cache:
            return {}
        if not (self.multimodal and self.profile.cache):
            self.note_cache(cache)
            return {}
        if self._marks == MAX_MARKS:
            self.note(f"this wire takes {MAX_MARKS} cache marks: the rest was not sent")
            return {}
        self._marks += 1
        if cache != "5m":
            self.note("cache marks last 5 minutes on this wire")
        return {"cache_control": {"type": "ephemeral"}}

    def note_cache(self, cache: CacheMark) -> None:
        """Of a place that no mark can be put on."""
        if cache:
            self.note(f"cache marks were not sent where {self.model} takes none on this wire")

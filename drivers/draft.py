"""A request while it is being written: for whom it is, and what had to be said about it. Shared by all drivers."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from loopforge.drivers.errors import TurnRefused
from loopforge.drivers.json_values import to_json
from loopforge.drivers.turn import JsonObject, Opaque


@dataclass(slots=True, kw_only=True)
class Draft:
    """`provider`, `model`: who is asked. `notices`: what the turn asks for and will not get, or not in that form.

    `with_media`: False writes empty data, for a pass that is only about the notices.
    """

    provider: str
    model: str
    with_media: bool = True
    notices: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    def refuse(self, what: str, action: str) -> TurnRefused:
        return TurnRefused(self.provider, what, action=action, model=self.model)

    def to_bytes(self, body: JsonObject) -> bytes:
        """The request's body. Raises TurnRefused for what is no JSON: schemas and options are the caller's own."""
        try:
            return to_json(body).encode("utf-8", "replace")
        except (ValueError, TypeError, RecursionError) as exc:
            raise self.refuse(f"the turn cannot be written as JSON: {exc}", "look at its schemas and options") from exc

    def owns(self, opaque: Opaque | None) -> bool:
        """Whether this provider and model made the data."""
        return opaque is not None and (opaque.provider, opaque.model) == (self.provider, self.model)

    def encode(self, data: bytes) -> str:
        return base64.b64encode(data).decode("ascii") if self.with_media else ""

    def data_url(self, data: bytes, media_type: str) -> str:
        return f"data:{media_type};base64,{self.encode(data)}"

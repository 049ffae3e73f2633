"""The driver: one provider's settings, and the three things that are done with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from loopforge.drivers.errors import DriverError, TurnRefused
from loopforge.drivers.gemini.draft import Draft
from loopforge.drivers.gemini.failures import explain
from loopforge.drivers.gemini.profiles import find_profile
from loopforge.drivers.gemini.reader import GeminiReader
from loopforge.drivers.gemini.request import answer_tool, build_body
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import JsonObject, Turn
from loopforge.drivers.wire import HttpRequest

_VERSION = re.compile(r"/v\d+(alpha|beta)?\d*$")
_VERTEX_PLACE = re.compile(r"/locations/[^/]+$")
_VERTEX_HOST: Final = "aiplatform.googleapis.com"
_COLLECTIONS: Final = ("models/", "tunedModels/", "publishers/", "projects/", "endpoints/")
VENDORS: Final = ("", "google", "vertex")


def open_driver(settings: ProviderSettings) -> Gemini:
    """The driver of one [providers.NAME] table. Vertex is told by `vendor` or by its host."""
    return Gemini(
        provider=settings.name,
        base_url=settings.base_url,
        vertex=settings.vendor == "vertex" or _VERTEX_HOST in settings.base_url,
        unknown_vendor=settings.vendor if settings.vendor not in VENDORS else "",
        headers={name.lower(): value for name, value in settings.headers.items()},
        extra_body=settings.extra_body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemini:
    """One provider on this wire. `headers`, `extra_body`: the person's own, put over what the driver writes."""

    provider: str
    base_url: str
    vertex: bool = False
    unknown_vendor: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: JsonObject = field(default_factory=dict)

    def build_request(self, turn: Turn) -> HttpRequest:
        """POST .../models/MODEL:generateContent or its stream. Raises TurnRefused for what cannot be asked at all."""
        draft = self._draft(turn)
        body = self._body(turn, draft)
        accept = "text/event-stream" if turn.stream else "application/json"
        headers = {"content-type": "application/json", "accept": accept, **self.headers}
        return HttpRequest(url=self._url(turn.model, stream=turn.stream), headers=headers, body=draft.to_bytes(body))

    def notices(self, turn: Turn) -> tuple[str, ...]:
        """What of the turn will not be sent, or not as asked for. Empty for a turn that build_request refuses."""
        draft = self._draft(turn, with_media=False)
        if self.unknown_vendor:
            draft.note(f"vendor {self.unknown_vendor!r} is not known: it is treated as Google's own API")
        try:
            self._body(turn, draft)
        except TurnRefused:
            return ()
        return tuple(draft.notices)

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> GeminiReader:
        """A reader for the response with status 200."""
        return GeminiReader(turn, headers, self._asked(turn), answer_tool(turn, find_profile(turn.model)))

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        """The error that a response with another status is."""
        return explain(self._asked(turn), status, headers, body)

    def _draft(self, turn: Turn, *, with_media: bool = True) -> Draft:
        profile = find_profile(turn.model)
        return Draft(provider=self.provider, model=turn.model, profile=profile, with_media=with_media)

    def _body(self, turn: Turn, draft: Draft) -> JsonObject:
        try:
            return build_body(turn, draft, self.extra_body, vertex=self.vertex)
        except (ValueError, TypeError, RecursionError) as exc:
            raise draft.refuse(f"a schema of the turn is malformed: {exc}", "correct the schema") from exc

    def _asked(self, turn: Turn) -> Asked:
        return Asked(provider=self.provider, model=turn.model)

    def _url(self, model: str, *, stream: bool) -> str:
        """base_url with the model and the method. Its query stays; a stream asks for server-sent events."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix("/models")
        if _VERTEX_PLACE.search(path):
            path += "/publishers/google"
        elif not (_VERSION.search(path) or "/publishers/" in path):
            path += "/v1/publishers/google" if self.vertex else "/v1beta"
        if model.startswith("publishers/") and "/publishers/" in path:
            path = path[: path.index("/publishers/")]
        name = model if model.startswith(_COLLECTIONS) else f"models/{model}"
        method = "streamGenerateContent" if stream else "generateContent"
        query = "&".join(piece for piece in (parts.query, "alt=sse" if stream else "") if piece)
        path = f"{path}/{quote(name, safe='/@')}:{method}"
        return urlunsplit(parts._replace(path=path, query=query))

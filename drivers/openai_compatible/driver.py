"""The driver: one provider's settings, and the three things that are done with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

from loopforge.drivers.errors import DriverError, TurnRefused
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.openai_compatible.draft import Draft
from loopforge.drivers.openai_compatible.failures import explain
from loopforge.drivers.openai_compatible.reader import ChatReader
from loopforge.drivers.openai_compatible.request import build_body
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import JsonObject, Turn
from loopforge.drivers.vendors import PROFILES, Profile, find_profile
from loopforge.drivers.wire import HttpRequest

_PATH = "/chat/completions"


def open_driver(settings: ProviderSettings) -> OpenAICompatible:
    """The driver of one [providers.NAME] table. An unknown vendor is treated as a generic one, with a notice."""
    return OpenAICompatible(
        provider=settings.name,
        base_url=settings.base_url,
        profile=find_profile(settings.vendor, settings.base_url),
        unknown_vendor=settings.vendor if settings.vendor and settings.vendor not in PROFILES else "",
        headers={name.lower(): value for name, value in settings.headers.items()},
        extra_body=settings.extra_body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAICompatible:
    """One provider on this wire. `headers`, `extra_body`: the person's own, put over what the driver writes."""

    provider: str
    base_url: str
    profile: Profile
    unknown_vendor: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: JsonObject = field(default_factory=dict)

    def build_request(self, turn: Turn) -> HttpRequest:
        """POST .../chat/completions. Raises TurnRefused for what this vendor cannot be asked at all."""
        draft = self._draft(turn)
        body = self._body(turn, draft)
        accept = "text/event-stream" if body.get("stream") else "application/json"
        headers = {"content-type": "application/json", "accept": accept, **self.headers}
        return HttpRequest(url=self._url(turn.model), headers=headers, body=draft.to_bytes(body))

    def notices(self, turn: Turn) -> tuple[str, ...]:
        """What of the turn will not be sent, or not as asked for. Empty for a turn that build_request refuses."""
        draft = self._draft(turn, with_media=False)
        if self.unknown_vendor:
            draft.note(f"vendor {self.unknown_vendor!r} is not known: it is treated as a generic one")
        try:
            self._body(turn, draft)
        except TurnRefused:
            return ()
        return tuple(draft.notices)

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> ChatReader:
        """A reader for the response with status 200."""
        return ChatReader(turn, headers, self._asked(turn), self.profile.for_model(turn.model))

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        """The error that a response with another status is."""
        return explain(self._asked(turn), status, headers, body)

    def _draft(self, turn: Turn, *, with_media: bool = True) -> Draft:
        profile = self.profile.for_model(turn.model)
        return Draft(provider=self.provider, model=turn.model, profile=profile, with_media=with_media)

    def _body(self, turn: Turn, draft: Draft) -> JsonObject:
        try:
            return build_body(turn, draft, self.extra_body)
        except (ValueError, TypeError, RecursionError) as exc:
            raise draft.refuse(f"a schema of the turn is malformed: {exc}", "correct the schema") from exc

    def _asked(self, turn: Turn) -> Asked:
        return Asked(provider=self.provider, model=turn.model, vendor=self.profile.name)

    def _url(self, model: str) -> str:
        """base_url with the path of this wire. A query stays; Azure's older form takes the model as its deployment."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/")
        if path.endswith(_PATH):
            return urlunsplit(parts._replace(path=path))
        if self.profile.name == "azure" and path.endswith("/openai"):
            path += f"/deployments/{quote(model, safe='')}"
        return urlunsplit(parts._replace(path=path + _PATH))

"""The driver: one provider's settings, and the three things that are done with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from loopforge.drivers.anthropic.draft import Draft
from loopforge.drivers.anthropic.failures import explain
from loopforge.drivers.anthropic.profiles import PROFILES, VERSION, Profile, find_profile
from loopforge.drivers.anthropic.reader import MessagesReader
from loopforge.drivers.anthropic.request import SCHEMA_BETA, answer_tool, build_body
from loopforge.drivers.errors import DriverError, TurnRefused
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import JsonObject, Turn
from loopforge.drivers.wire import HttpRequest

BASE_URL: Final = "https://api.anthropic.com"
_PATH = "/v1/messages"
_BETA = "anthropic-beta"
_VERSION = "anthropic-version"


def open_driver(settings: ProviderSettings) -> Anthropic:
    """The driver of one [providers.NAME] table. An unknown vendor is treated as a generic gateway, with a notice.

    The header `anthropic-version` of the settings is the version that requests are written for.
    """
    return Anthropic(
        provider=settings.name,
        base_url=settings.base_url or BASE_URL,
        profile=find_profile(settings.vendor, settings.base_url),
        unknown_vendor=settings.vendor if settings.vendor and settings.vendor not in PROFILES else "",
        headers={name.lower(): value for name, value in settings.headers.items()},
        extra_body=settings.extra_body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Anthropic:
    """One provider on this wire. `headers`, `extra_body`: the person's own, put over what the driver writes."""

    provider: str
    base_url: str
    profile: Profile
    unknown_vendor: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: JsonObject = field(default_factory=dict)

    def build_request(self, turn: Turn) -> HttpRequest:
        """POST .../v1/messages. Raises TurnRefused for what this model cannot be asked at all."""
        draft = self._draft(turn)
        body = self._body(turn, draft)
        return HttpRequest(url=self._url(), headers=self._headers(body), body=draft.to_bytes(body))

    def notices(self, turn: Turn) -> tuple[str, ...]:
        """What of the turn will not be sent, or not as asked for. Empty for a turn that build_request refuses."""
        draft = self._draft(turn, with_media=False)
        if self.unknown_vendor:
            draft.note(f"vendor {self.unknown_vendor!r} is not known: it is treated as a generic gateway")
        try:
            self._body(turn, draft)
        except TurnRefused:
            return ()
        return tuple(draft.notices)

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> MessagesReader:
        """A reader for the response with status 200."""
        profile = self.profile.for_model(turn.model)
        return MessagesReader(self._asked(turn), turn, headers, answer_tool=answer_tool(turn, profile))

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        """The error that a response with another status is."""
        return explain(self._asked(turn), status, headers, body)

    def _draft(self, turn: Turn, *, with_media: bool = True) -> Draft:
        profile = self.profile.for_model(turn.model)
        return Draft(provider=self.provider, model=turn.model, profile=profile, with_media=with_media)

    def _body(self, turn: Turn, draft: Draft) -> JsonObject:
        try:
            return build_body(turn, draft, self.extra_body, self.headers.get(_VERSION, VERSION))
        except (ValueError, TypeError, RecursionError) as exc:
            raise draft.refuse(f"a schema of the turn is malformed: {exc}", "correct the schema") from exc

    def _headers(self, body: JsonObject) -> dict[str, str]:
        accept = "text/event-stream" if body.get("stream") else "application/json"
        headers = {"content-type": "application/json", "accept": accept, _VERSION: VERSION, **self.headers}
        if "output_format" in body and SCHEMA_BETA not in headers.get(_BETA, ""):
            headers[_BETA] = ",".join(name for name in (headers.get(_BETA), SCHEMA_BETA) if name)
        return headers

    def _asked(self, turn: Turn) -> Asked:
        return Asked(provider=self.provider, model=turn.model, vendor=self.profile.name)

    def _url(self) -> str:
        """base_url with the path of this wire; one that names the path, or its version, already is taken as it is."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/")
        if path.endswith("/messages"):
            return urlunsplit(parts._replace(path=path))
        return urlunsplit(parts._replace(path=path.removesuffix("/v1") + _PATH))

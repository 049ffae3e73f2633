"""The driver: one provider's settings, and the three things that are done with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from loopforge.drivers.errors import DriverError, TurnRefused
from loopforge.drivers.http_failures import Asked
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import JsonObject, Turn
from loopforge.drivers.wire import HttpRequest
from loopforge.drivers.zhipu_native.draft import Draft
from loopforge.drivers.zhipu_native.failures import explain
from loopforge.drivers.zhipu_native.profiles import find_profile
from loopforge.drivers.zhipu_native.reader import ZhipuReader
from loopforge.drivers.zhipu_native.request import build_body

_PATH: Final = "/chat/completions"
VENDORS: Final = ("", "glm", "zhipu", "zai")


def open_driver(settings: ProviderSettings) -> ZhipuNative:
    """The driver of one [providers.NAME] table. This wire has one vendor, with two platforms that answer alike."""
    return ZhipuNative(
        provider=settings.name,
        base_url=settings.base_url,
        unknown_vendor=settings.vendor if settings.vendor not in VENDORS else "",
        headers={name.lower(): value for name, value in settings.headers.items()},
        extra_body=settings.extra_body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ZhipuNative:
    """One provider on this wire. `headers`, `extra_body`: the person's own, put over what the driver writes."""

    provider: str
    base_url: str
    unknown_vendor: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: JsonObject = field(default_factory=dict)

    def build_request(self, turn: Turn) -> HttpRequest:
        """POST .../chat/completions. Raises TurnRefused for what this model cannot be asked at all."""
        draft = self._draft(turn)
        body = self._body(turn, draft)
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream" if body.get("stream") else "application/json",
            "accept-language": "en-US,en",  # of error texts, which are Chinese otherwise
            **self.headers,
        }
        return HttpRequest(url=self._url(), headers=headers, body=draft.to_bytes(body))

    def notices(self, turn: Turn) -> tuple[str, ...]:
        """What of the turn will not be sent, or not as asked for. Empty for a turn that build_request refuses."""
        draft = self._draft(turn, with_media=False)
        if self.unknown_vendor:
            draft.note(f"vendor {self.unknown_vendor!r} is not known on this wire: it is treated as Zhipu")
        try:
            self._body(turn, draft)
        except TurnRefused:
            return ()
        return tuple(draft.notices)

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> ZhipuReader:
        """A reader for the response with status 200."""
        return ZhipuReader(turn, headers, self._asked(turn))

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        """The error that a response with another status is."""
        return explain(self._asked(turn), status, headers, body)

    def _draft(self, turn: Turn, *, with_media: bool = True) -> Draft:
        profile = find_profile(turn.model)
        return Draft(provider=self.provider, model=turn.model, profile=profile, with_media=with_media)

    def _body(self, turn: Turn, draft: Draft) -> JsonObject:
        try:
            return build_body(turn, draft, self.extra_body)
        except (ValueError, TypeError, RecursionError) as exc:
            raise draft.refuse(f"a schema of the turn is malformed: {exc}", "correct the schema") from exc

    def _asked(self, turn: Turn) -> Asked:
        return Asked(provider=self.provider, model=turn.model)

    def _url(self) -> str:
        """base_url with the path of this wire; a query stays."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix(_PATH)
        return urlunsplit(parts._replace(path=path + _PATH))

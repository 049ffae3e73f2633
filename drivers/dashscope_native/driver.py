"""The driver: one provider's settings, and the three things that are done with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from loopforge.drivers.dashscope_native.draft import Draft
from loopforge.drivers.dashscope_native.failures import Asked, explain
from loopforge.drivers.dashscope_native.profiles import PATHS, Path, Profile, find_profile, path_named
from loopforge.drivers.dashscope_native.reader import DashScopeReader
from loopforge.drivers.dashscope_native.request import asks_for_stream, build_body, repeats, wants_echo
from loopforge.drivers.errors import DriverError, TurnRefused
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Audio, Image, JsonObject, Message, ToolResult, Turn
from loopforge.drivers.wire import HttpRequest

VENDORS: Final = ("", "qwen", "generic")  # of this wire, or of a host that says nothing
_ROOT: Final = "/api/v1"
_OTHER_WIRES: Final[Mapping[str, str]] = {"/compatible-mode": "openai_compatible", "/apps/anthropic": "anthropic"}


def open_driver(settings: ProviderSettings) -> DashScopeNative:
    """The driver of one [providers.NAME] table. A base_url that names one of the two paths decides for all models."""
    return DashScopeNative(
        provider=settings.name,
        base_url=settings.base_url,
        unknown_vendor=settings.vendor if settings.vendor not in VENDORS else "",
        headers={name.lower(): value for name, value in settings.headers.items()},
        extra_body=settings.extra_body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DashScopeNative:
    """One provider on this wire. `headers`, `extra_body`: the person's own, put over what the driver writes."""

    provider: str
    base_url: str
    unknown_vendor: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: JsonObject = field(default_factory=dict)

    def build_request(self, turn: Turn) -> HttpRequest:
        """POST .../generation on the model's path. Raises TurnRefused for what cannot be asked at all."""
        draft = self._draft(turn)
        url = self._url(self._path(turn), draft)
        data = draft.to_bytes(self._body(turn, draft))
        headers = {"content-type": "application/json", "accept": "application/json"}
        if asks_for_stream(turn, draft.profile):
            headers |= {"accept": "text/event-stream", "x-dashscope-sse": "enable"}
        if b'"oss://' in data:  # an uploaded file: the service looks it up only when told to
            headers["x-dashscope-ossresourceresolve"] = "enable"
        return HttpRequest(url=url, headers={**headers, **self.headers}, body=data)

    def notices(self, turn: Turn) -> tuple[str, ...]:
        """What of the turn will not be sent, or not as asked for. Empty for a turn that build_request refuses."""
        draft = self._draft(turn, with_media=False)
        if self.unknown_vendor:
            draft.note(f"vendor {self.unknown_vendor!r} is not one of this wire: it is treated as DashScope")
        try:
            self._url(self._path(turn), draft)
            self._body(turn, draft)
        except TurnRefused:
            return ()
        return tuple(draft.notices)

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> DashScopeReader:
        """A reader for the response with status 200."""
        return DashScopeReader(turn, headers, self._asked(turn), repeats=repeats(turn, self.extra_body))

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        """The error that a response with another status is."""
        return explain(self._asked(turn), status, headers, body)

    def _draft(self, turn: Turn, *, with_media: bool = True) -> Draft:
        profile = find_profile(turn.model)
        return Draft(
            provider=self.provider,
            model=turn.model,
            profile=profile,
            multimodal=self._path(turn) == "multimodal",
            echo=wants_echo(turn, self.extra_body, profile),
            with_media=with_media,
        )

    def _body(self, turn: Turn, draft: Draft) -> JsonObject:
        try:
            return build_body(turn, draft, self.extra_body)
        except (ValueError, TypeError, RecursionError) as exc:
            raise draft.refuse(f"a schema of the turn is malformed: {exc}", "correct the schema") from exc

    def _asked(self, turn: Turn) -> Asked:
        other: Path = "text" if self._path(turn) == "multimodal" else "multimodal"
        return Asked(provider=self.provider, model=turn.model, other_path=PATHS[other])

    def _path(self, turn: Turn) -> Path:
        return path_named(self.base_url) or _path_of(find_profile(turn.model), turn)

    def _url(self, path: Path, draft: Draft) -> str:
        """base_url with the path of this wire. A query stays."""
        parts = urlsplit(self.base_url)
        root = parts.path.rstrip("/")
        if kind := next((kind for place, kind in _OTHER_WIRES.items() if place in root), ""):
            raise draft.refuse(
                f"base_url {root!r} is that of another wire", f"end base_url in {_ROOT}, or set kind = {kind!r}"
            )
        if not root.endswith(PATHS[path]):
            root = (root or _ROOT) + PATHS[path]
        return urlunsplit(parts._replace(path=root))


def _path_of(profile: Profile, turn: Turn) -> Path:
    """A model that is not known takes media on one path only, and text more likely on the other."""
    if profile.known:
        return profile.path
    return "multimodal" if any(map(_holds_media, turn.messages)) else "text"


def _holds_media(message: Message) -> bool:
    for part in message.content:
        inner = part.content if isinstance(part, ToolResult) else (part,)
        if message.role != "assistant" and any(isinstance(item, Image | Audio) for item in inner):
            return True
    return False

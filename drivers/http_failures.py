"""What errors have alike on every wire: a body that may be anything, read; the error for it, written.

Which class an error is, is each wire's own: its codes, its statuses, its phrases. What headers say is of limits.py,
what may be shown of error_text.py. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.error_text import moment_in, page_title, redact
from loopforge.drivers.errors import (
    DriverError,
    Overloaded,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Scope,
    TurnRefused,
    WireMismatch,
    quote,
)
from loopforge.drivers.json_values import parse_json

MAX_BODY: Final = 256 * 1024  # of an error's body is read; the rest says nothing new
MAX_RAW: Final = 200  # letters of a code, or of an id
WRONG_ADDRESS: Final = "correct the model, or the provider's base_url, in config.toml"
"""What a 404 asks for: it does not say which of the two is wrong."""

_WAITED_FOR = (RateLimited, Overloaded, ProviderUnavailable, QuotaExhausted)
_LARGEST_CODE = 10**18  # a longer number is no code, and slow to write


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom a turn was sent to, for the error's fields and for the tables of one vendor."""

    provider: str
    model: str
    vendor: str = ""


# -- reading -------------------------------------------------------------------------------------------------------


def read_body(body: bytes) -> object:
    """An error's body as JSON; where it is none, its text, or the title of the page that it is."""
    text = body[:MAX_BODY].decode("utf-8", "replace")
    try:
        return parse_json(text.strip())
    except ValueError:
        return page_title(text)


def as_text(value: object) -> str:
    """A member of an error's body as text, "" for what says nothing."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value) if isinstance(value, float) or abs(value) < _LARGEST_CODE else ""
    return json.dumps(value, default=str) if isinstance(value, dict | list) and value else ""


def status_in(places: Iterable[Mapping[str, object]], names: Iterable[str]) -> int | None:
    """An HTTP status that the body itself names; a vendor's own number outside 400..599 is none."""
    names = tuple(names)
    for place in places:
        for name in names:
            value = as_text(place.get(name))
            if value.isdecimal() and value.isascii() and len(value) == 3 and 400 <= int(value) <= 599:
                return int(value)
    return None


def after_should_retry(cls: type[DriverError] | None, headers: Mapping[str, str]) -> type[DriverError] | None:
    """The class, with `x-should-retry` heard: the servers of several vendors know better than their own status."""
    match headers.get("x-should-retry", "").lower():
        case "false" if cls is RateLimited:
            return QuotaExhausted
        case "false" if cls in (Overloaded, ProviderUnavailable):
            return TurnRefused
        case "true" if cls is TurnRefused:
            return ProviderUnavailable
    return cls


# -- writing -------------------------------------------------------------------------------------------------------


def not_an_answer(provider: str, model: str, status: int, headers: Mapping[str, str], text: str) -> WireMismatch:
    """The error that a status below 400 is, and not 200."""
    where = f", a redirect to {quote(headers.get('location', 'nowhere'), 200)}" if 300 <= status < 400 else ""
    what = f"the server answered {status}{where}: {quote(text)}"
    return WireMismatch(provider, redact(what), model=model, status=status)


def what_happened(cls: type[DriverError], status: int | None, text: str) -> str:
    """A clause from the class, the status and the provider's own words."""
    what = "the provider failed" if cls is ProviderUnavailable else cls.default_what
    if status is not None:
        what = f"HTTP {status}" if cls is TurnRefused else f"{what} (HTTP {status})"
    return f"{what}: {quote(text).rstrip('.')}" if text else what


def quota_reset_at(text: str, headers: Mapping[str, str], wait_s: float | None, *, zone: tzinfo) -> float | None:
    """Unix seconds at which a quota is whole again: as the text says, else so long after the answer. None: unknown."""
    moment, now = moment_in(text, zone=zone), limits.answered_at(headers)
    return now + wait_s if moment is None and now is not None and wait_s is not None else moment


def build_error(
    cls: type[DriverError],
    *,
    provider: str,
    model: str,
    what: str,
    status: int | None,
    raw: str,
    headers: Mapping[str, str],
    action: str = "",
    wait_s: float | None = None,
    reset_at: float | None = None,
    scope: Scope | None = None,
    request_id: str = "",
) -> DriverError:
    """The error, with nothing in it that looks like a key.

    `wait_s`: how long to stay away, kept where waiting helps. `raw`: the provider's own code or word. `request_id`: by
    the body, for headers that name none.
    """
    return cls(
        provider,
        redact(what),
        action=action,
        model=model,
        retry_after_s=wait_s if cls in _WAITED_FOR else None,
        reset_at=reset_at if cls is QuotaExhausted else None,
        scope=scope,
        status=status,
        raw=redact(raw)[:MAX_RAW],
        request_id=limits.request_id(headers) or request_id,
    )

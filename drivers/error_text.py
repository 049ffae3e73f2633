"""What an error body's text says, and what of it may be shown: some providers quote the key they refuse. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final

_SECRETS = re.compile(
    r"\b(?:sk|rk|xai|gsk|nvapi|pplx|hf|tgp|csk)[-_][A-Za-z0-9*_-]*|\bAIza[A-Za-z0-9_-]{20,}|"
    r"\b[Bb]earer\s+[A-Za-z0-9._~+/=*-]{6,}|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){0,2}|"
    r"\b[0-9a-f]{32}\.[A-Za-z0-9]{16}\b|(?<=[Kk]ey provided: )\S+"
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ]| at )(\d\d):(\d\d)(?::(\d\d))?(?:\.\d+)?\s*(Z|UTC|[+-]\d\d:?\d\d)?")
CHINA: Final = timezone(timedelta(hours=8))


def redact(text: str) -> str:
    """The text without what looks like a key."""
    return _SECRETS.sub("[key removed]", text)


def page_title(text: str) -> str:
    """The title of a web page, which is what a proxy answers with; else the text itself."""
    title = _TITLE.search(text)
    return (title[1] if title else text).strip()


def moment_in(text: str, *, zone: tzinfo = UTC) -> float | None:
    """Unix seconds of the first date with a time in the text; `zone` counts where it names none. None: there is none.

    Forms seen: "2026-05-15T15:00:00Z", "2026-04-01 at 00:00 UTC", "2026-05-15 23:59:59".
    """
    found = _MOMENT.search(text)
    if found is None:
        return None
    year, month, day, hour, minute = (int(found[group]) for group in range(1, 6))
    try:
        named = _zone(found[7], zone)
        return datetime(year, month, day, hour, minute, int(found[6] or 0), tzinfo=named).timestamp()
    except (ValueError, OverflowError):
        return None


def _zone(name: str | None, default: tzinfo) -> tzinfo:
    if not name:
        return default
    if name in ("Z", "UTC"):
        return UTC
    sign = -1 if name[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(name[1:3]), minutes=int(name[-2:])))

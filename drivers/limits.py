"""What response headers say about when to come back, how much is left, and how the provider names the request.

Pure and without a clock: where a header gives a moment, the response's own `date` header is "now"; without one the
moment is not known. Header names are lower-case. Sources: RFC 9110 (Retry-After), the vendors' rate-limit pages;
forms seen: seconds, fractions, HTTP dates, Go durations (`17m16.8s`), epoch seconds and milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

from loopforge.drivers.turn import Limits

REQUEST_ID_HEADERS = (
    "x-request-id",
    "request-id",
    "x-generation-id",  # OpenRouter
    "apim-request-id",  # Azure
    "mistral-correlation-id",
    "x-amzn-requestid",
    "x-log-id",  # GLM
    "trace-id",  # MiniMax
)
# what comes before and after the window's name in `x-ratelimit-remaining-requests`, most specific window last
_REQUEST_WINDOWS = ("requests", "req-minute", "requests-minute", "requests-day", "")
_TOKEN_WINDOWS = ("tokens", "tokens-minute", "tokens-day")
_EPOCH_SECONDS_FROM = 1e9  # a reset further away than thirty years is a moment, not a wait
_EPOCH_MILLISECONDS_FROM = 1e11
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def parse_number(text: str) -> float | None:
    """A plain decimal number, or None. Rejects what float() also takes: nan, inf, underscores."""
    text = text.strip()
    if len(text) > 64 or not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if isfinite(value) else None


def parse_duration(text: str) -> float | None:
    """Seconds of a number ("2.5") or a Go duration ("6m0s", "120ms"); None when it is neither, or negative."""
    text = text.strip()
    number = parse_number(text)
    if number is None and 0 < len(text) <= 64 and _PIECE.sub("", text) == "":
        number = sum(float(amount) * _UNITS[unit] for amount, unit in _PIECE.findall(text))
    return number if number is not None and number >= 0 else None


def parse_moment(text: str) -> float | None:
    """Unix seconds of an HTTP date, or None."""
    try:
        moment = parsedate_to_datetime(text.strip())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    except OverflowError:
        return None


def answered_at(headers: Mapping[str, str]) -> float | None:
    """Unix seconds of the answer by the provider's own clock."""
    return parse_moment(headers["date"]) if "date" in headers else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms`, else by `retry-after`; 0 stays 0. None: not said."""
    if (milliseconds := parse_number(headers.get("retry-after-ms", ""))) is not None and milliseconds >= 0:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    if (wait := parse_duration(text)) is not None:
        return wait
    moment, now = parse_moment(text), answered_at(headers)
    return None if moment is None or now is None else max(0.0, moment - now)


def reset_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds until the limit that is used up resets, by the rate-limit headers; when none says 0 left, the longest."""
    limits = read_limits(headers)
    if limits is None:
        return None
    resets = (
        (limits.requests_remaining, limits.requests_reset_s),
        (limits.tokens_remaining, limits.tokens_reset_s),
    )
    used_up = [reset for remaining, reset in resets if remaining == 0 and reset is not None]
    known = [reset for _, reset in resets if reset is not None]
    return max(used_up or known, default=None)


def read_limits(headers: Mapping[str, str]) -> Limits | None:
    """The rate limits that the headers name, or None when they name none."""
    if not any(name.startswith("x-ratelimit-") for name in headers):
        return None
    now = answered_at(headers)
    limits = Limits(
        requests_limit=_count(headers, "limit", _REQUEST_WINDOWS),
        requests_remaining=_count(headers, "remaining", _REQUEST_WINDOWS),
        requests_reset_s=_reset(headers, _REQUEST_WINDOWS, now),
        tokens_limit=_count(headers, "limit", _TOKEN_WINDOWS),
        tokens_remaining=_count(headers, "remaining", _TOKEN_WINDOWS),
        tokens_reset_s=_reset(headers, _TOKEN_WINDOWS, now),
    )
    return None if limits == Limits() else limits


def request_id(headers: Mapping[str, str]) -> str:
    """The provider's name for the request, "" when the headers have none."""
    return next((headers[name] for name in REQUEST_ID_HEADERS if headers.get(name)), "")


def _header(headers: Mapping[str, str], what: str, windows: tuple[str, ...]) -> str:
    names = (f"x-ratelimit-{what}-{window}" if window else f"x-ratelimit-{what}" for window in windows)
    return next((headers[name] for name in names if name in headers), "")


def _count(headers: Mapping[str, str], what: str, windows: tuple[str, ...]) -> int | None:
    value = parse_number(_header(headers, what, windows))
    return int(value) if value is not None and 0 <= value < 2**53 else None


def _reset(headers: Mapping[str, str], windows: tuple[str, ...], now: float | None) -> float | None:
    """Seconds from the answer; a moment (epoch seconds, milliseconds, HTTP date) needs the answer's own time."""
    text = _header(headers, "reset", windows)
    wait = parse_duration(text)
    if wait is None:
        moment = parse_moment(text)
    elif wait < _EPOCH_SECONDS_FROM:
        return wait
    else:
        moment = wait / 1000 if wait >= _EPOCH_MILLISECONDS_FROM else wait
    return None if moment is None or now is None else max(0.0, moment - now)

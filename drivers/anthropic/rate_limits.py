"""The rate-limit headers of this wire, and those of gateways that send the usual ones. Pure and without a clock.

`anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`; a reset is RFC 3339, and the
answer's own `date` is "now". Source: https://platform.claude.com/docs/en/api/rate-limits
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers import limits
from loopforge.drivers.error_text import moment_in
from loopforge.drivers.turn import Limits

_PREFIX = "anthropic-ratelimit-"
_TOKEN_WINDOWS = ("tokens", "input-tokens", "output-tokens")


def read_limits(headers: Mapping[str, str]) -> Limits | None:
    """The limits that the headers name, or None when they name none. Of the token limits the tightest."""
    if not any(name.startswith(_PREFIX) for name in headers):
        return limits.read_limits(headers)
    now = limits.answered_at(headers)
    tokens = _tightest(headers)
    found = Limits(
        requests_limit=_count(headers, "requests", "limit"),
        requests_remaining=_count(headers, "requests", "remaining"),
        requests_reset_s=_reset(headers, "requests", now),
        tokens_limit=_count(headers, tokens, "limit"),
        tokens_remaining=_count(headers, tokens, "remaining"),
        tokens_reset_s=_reset(headers, tokens, now),
    )
    return None if found == Limits() else found


def reset_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds until the limit that is used up resets; when none says 0 left, the longest. None: not said."""
    found = read_limits(headers)
    if found is None:
        return None
    resets = (
        (found.requests_remaining, found.requests_reset_s),
        (found.tokens_remaining, found.tokens_reset_s),
    )
    used_up = [reset for remaining, reset in resets if remaining == 0 and reset is not None]
    known = [reset for _, reset in resets if reset is not None]
    return max(used_up or known, default=None)


def _tightest(headers: Mapping[str, str]) -> str:
    """The token window with the smallest share left; the first one where nothing tells them apart."""

    def share_left(window: str) -> float:
        limit, remaining = _count(headers, window, "limit"), _count(headers, window, "remaining")
        if remaining is None:
            return 2.0  # not said: behind all others
        return remaining / limit if limit else 0.0

    return min(_TOKEN_WINDOWS, key=share_left)


def _count(headers: Mapping[str, str], window: str, what: str) -> int | None:
    value = limits.parse_number(headers.get(f"{_PREFIX}{window}-{what}", ""))
    return int(value) if value is not None and 0 <= value < 2**53 else None


def _reset(headers: Mapping[str, str], window: str, now: float | None) -> float | None:
    moment = moment_in(headers.get(f"{_PREFIX}{window}-reset", ""))
    return None if moment is None or now is None else max(0.0, moment - now)

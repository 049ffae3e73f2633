"""What an error of this wire means: its status, reasons and text become one of the classes of drivers/errors.py.

Source: https://ai.google.dev/gemini-api/docs/troubleshooting, google.rpc's error details, and recorded bodies. What
the details say comes first, then the text, then the status: a wrong key is a 400 here, and one 429 passes in a
minute while another lasts the day. Bodies come as an object or as an array of one, also inside a 200.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from loopforge.drivers import limits
from loopforge.drivers.error_text import redact
from loopforge.drivers.errors import (
    ContentFiltered,
    ContextTooLong,
    CredentialsRejected,
    DriverError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    StreamBroken,
    TurnRefused,
    WireMismatch,
    quote,
)
from loopforge.drivers.http_failures import WRONG_ADDRESS, Asked, build_error, read_body, what_happened

_STATUSES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "INTERNAL": 500, "UNKNOWN": 500, "DATA_LOSS": 500, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
"""The HTTP status of each google.rpc.Code, for errors that come without one."""
_BY_REASON: Final[Mapping[str, type[DriverError]]] = {
    **dict.fromkeys(
        ("API_KEY_INVALID", "API_KEY_EXPIRED", "ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_TYPE_UNSUPPORTED",
         "CREDENTIALS_MISSING", "ACCOUNT_STATE_INVALID"),
        CredentialsRejected,
    ),
    **dict.fromkeys(
        ("API_KEY_SERVICE_BLOCKED", "API_KEY_HTTP_REFERRER_BLOCKED", "API_KEY_IP_ADDRESS_BLOCKED", "SERVICE_DISABLED",
         "CONSUMER_SUSPENDED", "CONSUMER_INVALID", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
        PermissionDenied,
    ),
    "BILLING_DISABLED": QuotaExhausted,
}  # fmt: skip
"""google.api.ErrorReason, as far as it says more than the status."""

_CONTEXT = re.compile(
    r"input token count.{0,40}exceeds|exceeds the maximum number of tokens|context (length|window)|"
    r"(prompt|input|request) is too (long|large)|too many tokens",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(
    r"api[ _-]?key (not valid|expired|not found|is invalid|was reported)|pass a valid api[ _-]?key|reported as leaked|"
    r"unregistered callers|invalid authentication credentials",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"prepa(y|id)|credits? (are|is|has|have)? ?(depleted|exhausted|used up)|spend(ing)? (cap|limit)|enable billing|"
    r"billing (account|is|has|to be)",
    re.IGNORECASE,
)
_DAILY = re.compile(r"per ?day", re.IGNORECASE)
_REGION = re.compile(
    r"\b(country|region|territory|location)\b.{0,40}\bnot supported|not available in your", re.IGNORECASE
)
_NO_MODEL = re.compile(
    r"\bmodels?/\S+ (is|was) not (found|supported)|\bmodel\b.{0,120}?\b(does not exist|not found|no longer available)|"
    r"unexpected model name|access to (it|this model|the model)",
    re.IGNORECASE,
)
_OTHER_RESOURCE = re.compile(r"\bcached ?content|\bfiles?/|\bfileSearchStore", re.IGNORECASE)
_MODERATION = re.compile(
    r"(usage|content|safety) (guidelines|polic)|prohibited (content|use)|blocked (by|for|due to)|responsible ai",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(r"thought[ _]?signature", re.IGNORECASE)
_RETRY_IN = re.compile(r"retry in (\d+(?:\.\d+)?)\s*(ms|s)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error body, read. `raw`: the most telling of its codes. `daily`: a quota of the day, or one of 0, is meant."""

    text: str
    status: int = 0
    reason: str = ""
    raw: str = ""
    wait_s: float | None = None
    daily: bool = False


def explain(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
    """The error that a response with a status other than 200 is."""
    said = read(read_body(body))
    if status < 400:
        found = f"a redirect to {headers.get('location', 'nowhere')}" if status >= 300 else said.text
        what = f"the server answered {status} in place of 200: {quote(found, 200)}"
        return WireMismatch(asked.provider, redact(what), model=asked.model, status=status)
    return _build(asked, _classify(status, said), status, said, headers)


def explain_inside(asked: Asked, body: object, headers: Mapping[str, str], *, started: bool) -> DriverError:
    """The error that JSON inside a 200 is. `started`: content of the answer had come before it."""
    said = read(body)
    if said.status or said.reason:
        return _build(asked, _classify(said.status, said), said.status or None, said, headers)
    return _build(asked, StreamBroken if started else ProviderUnavailable, None, said, headers)


def _classify(status: int, said: Said) -> type[DriverError]:
    if found := _BY_REASON.get(said.reason):
        return found
    text = said.text
    if status == 429:
        return QuotaExhausted if said.daily or _NO_MONEY.search(text) else RateLimited
    if _CONTEXT.search(text):
        return ContextTooLong
    if status in (400, 401, 403) and _BAD_KEY.search(text):
        return CredentialsRejected
    if status in (498, 503, 529):
        return Overloaded
    if status == 408 or status >= 500:
        return ProviderUnavailable
    if status == 401:
        return CredentialsRejected
    if status == 402:
        return QuotaExhausted
    if status in (400, 403):
        return _class_of_refusal(status, text)
    if status == 404:
        return TurnRefused if _OTHER_RESOURCE.search(text) else ModelNotFound
    return TurnRefused


def _class_of_refusal(status: int, text: str) -> type[DriverError]:
    if _REGION.search(text):
        return TurnRefused
    if _NO_MONEY.search(text):
        return QuotaExhausted
    if _NO_MODEL.search(text):
        return ModelNotFound
    if _MODERATION.search(text):
        return ContentFiltered
    return PermissionDenied if status == 403 else TurnRefused


def _build(
    asked: Asked, cls: type[DriverError], status: int | None, said: Said, headers: Mapping[str, str]
) -> DriverError:
    wait = None
    if cls in (RateLimited, Overloaded, ProviderUnavailable):
        wait = limits.retry_after(headers)
        wait = said.wait_s if wait is None else wait
    account = cls is PermissionDenied and said.reason in _BY_REASON
    return build_error(
        cls,
        provider=asked.provider,
        model=asked.model,
        what=what_happened(cls, status, said.text),
        action=_action(cls, status, said),
        wait_s=wait,
        scope="provider" if account else None,
        status=status,
        raw=said.raw,
        headers=headers,
    )


def _action(cls: type[DriverError], status: int | None, said: Said) -> str:
    if cls is ModelNotFound and status == 404:
        return WRONG_ADDRESS
    if cls is TurnRefused and _SIGNATURE.search(said.text):
        return "resend the conversation without the opaque data of its earlier assistant messages"
    return ""


# -- reading the body ----------------------------------------------------------------------------------------------


def read(body: object) -> Said:
    """The parts of an error body that say something, whatever its form."""
    if isinstance(body, list) and body:
        body = body[0]
    inner = body.get("error") if isinstance(body, Mapping) else None
    error: object = inner if isinstance(inner, Mapping) else body
    if not isinstance(error, Mapping):
        return Said(text=_text(error))
    message = next((text for name in ("message", "error", "detail") if (text := _text(error.get(name)))), "")
    name = _text(error.get("status"))
    code = error.get("code")
    details = [item for item in _list(error.get("details")) if isinstance(item, Mapping)]
    reason = next((found for item in details if (found := _text(item.get("reason")))), "")
    violations = [item for detail in details for item in _list(detail.get("violations")) if isinstance(item, Mapping)]
    quotas = [_text(item.get("quotaId")) for item in violations]
    none_left = any(item.get("quotaValue") in ("0", 0) for item in violations)
    fields = [
        f"{_text(item.get('field'))}: {_text(item.get('description'))}"
        for detail in details
        for item in _list(detail.get("fieldViolations"))
        if isinstance(item, Mapping) and _text(item.get("description")) not in message
    ]
    text = "; ".join(piece for piece in (message, ", ".join(filter(None, quotas)), *fields) if piece)
    known = code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else 0
    return Said(
        text=text or quote(json.dumps(body, default=str)),
        status=known or _STATUSES.get(name, 0),
        reason=reason,
        raw=reason or name or (str(known) if known else ""),
        wait_s=_wait(details, message),
        daily=none_left or any(_DAILY.search(quota) for quota in quotas),
    )


def _wait(details: list[Mapping[str, Any]], message: str) -> float | None:
    for detail in details:
        if (wait := limits.parse_duration(_text(detail.get("retryDelay")))) is not None:
            return wait
    found = _RETRY_IN.search(message)
    return None if found is None else limits.parse_duration(f"{found[1]}{found[2]}")


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

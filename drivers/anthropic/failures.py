"""What a provider's error means: its codes, status and text become one of the classes of drivers/errors.py.

Codes come first, then the status, then the text: the same status carries what a retry cures and what it does not (429
for a spend limit, 400 for an empty account). The text decides only where nothing else tells: context length, money,
moderation, and which of its parts a 403 or 404 is about. Gateways answer in the forms of other wires, also inside a
200; any of them is read, none is trusted to be what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC

from loopforge.drivers import limits
from loopforge.drivers.anthropic.failure_codes import ACCOUNT_CODES, CODES, PASSING, TYPES
from loopforge.drivers.anthropic.rate_limits import reset_wait
from loopforge.drivers.error_text import CHINA
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
    quote,
)
from loopforge.drivers.http_failures import (
    MAX_RAW,
    WRONG_ADDRESS,
    Asked,
    after_should_retry,
    as_text,
    build_error,
    not_an_answer,
    quota_reset_at,
    read_body,
    status_in,
    what_happened,
)
from loopforge.drivers.vendor_codes import GLM_ACCOUNT_CODES, class_of_vendor_code, minimax_code, minimax_message

_OUTPUT_DOES_NOT_FIT = re.compile(r"input length and .?max_tokens.? exceed", re.IGNORECASE)
_CONTEXT = re.compile(
    r"prompt is too long|input length and .?max_tokens.? exceed|maximum context length|maximum prompt length|"
    r"context[ _](window|length|limit|size)|input is too long|too many (input|prompt) tokens",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"credit balance|specified api usage limits|insufficient (balance|credits?|funds)|out of credits|"
    r"(extra usage|usage credits) (is|are) required|account.{0,40}arrears|check your plan and billing",
    re.IGNORECASE,
)
_MODERATION = re.compile(
    r"content[ _-]?filter|usage polic|content polic|moderation|inappropriate content|new_sensitive", re.IGNORECASE
)
_NO_MODEL = re.compile(
    r"unknown model|invalid model\b|model not (exist|found)|no such model|not a valid model|"
    r"\b(model|deployment)\b.{0,120}?\b(does not exist|not found|no longer available)",
    re.IGNORECASE,
)
_CANNOT_DO = re.compile(r"does not support|not supported", re.IGNORECASE)
_NO_ACCESS = re.compile(r"access to (this|the) model|model.{0,80}access|not available for your", re.IGNORECASE)
_REGION = re.compile(r"\b(country|region|territory|location)\b", re.IGNORECASE)
_BAD_KEY = re.compile(r"(incorrect|invalid|wrong|missing) (x-)?api[ _-]?key|unauthori[sz]ed", re.IGNORECASE)
_THINKING = re.compile(r"\bthinking\b|\bsignature\b", re.IGNORECASE)
_STATUS_NAMES = ("status_code", "http_code", "status", "code")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error body, read. `codes`: lower-case, most telling first. `status`: what the body calls its HTTP status."""

    text: str
    codes: tuple[str, ...] = ()
    raw: str = ""
    status: int | None = None
    minimax: str = ""
    request_id: str = ""


def explain(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
    """The error that a response with a status other than 200 is."""
    said = read(read_body(body))
    if status < 400:
        return not_an_answer(asked.provider, asked.model, status, headers, said.text)
    return _build(asked, classify(asked, status, said, headers) or TurnRefused, status, said, headers)


def explain_inside(asked: Asked, body: object, headers: Mapping[str, str], *, started: bool) -> DriverError:
    """The error that JSON inside a 200 is. `started`: content of the answer had come before it."""
    said = read(body)
    cls = classify(asked, said.status or 0, said, headers)
    if cls is None:
        cls = StreamBroken if started else ProviderUnavailable
    return _build(asked, cls, said.status, said, headers)


def classify(asked: Asked, status: int, said: Said, headers: Mapping[str, str]) -> type[DriverError] | None:
    """The class of an error; None when nothing tells. `status`: 0 where there is none."""
    cls = class_of_vendor_code(
        asked.vendor, said.text, base_resp=said.minimax, codes=said.codes, too_long=_CONTEXT, no_model=_NO_MODEL
    )
    cls = cls or _class_of_codes(status, said)
    if cls is None and status:
        cls = _class_of_status(status, said.text)
    if cls is None:
        # A type without its status: the text decides as it would with the usual one.
        usual = next((TYPES[code] for code in said.codes if code in TYPES), 0)
        cls = _class_of_status(usual, said.text) if usual else None
    if cls is None and _CONTEXT.search(said.text):
        return ContextTooLong
    return after_should_retry(cls, headers)


def _class_of_codes(status: int, said: Said) -> type[DriverError] | None:
    for code in said.codes:
        if code in CODES:
            return CODES[code]
        if code in PASSING and (not 400 <= status < 500 or status in (408, 429)):
            cls = PASSING[code]
            return QuotaExhausted if cls is RateLimited and _NO_MONEY.search(said.text) else cls
    return None


def _class_of_status(status: int, text: str) -> type[DriverError]:
    match status:
        case 401:
            return CredentialsRejected
        case 402:
            return QuotaExhausted
        case 403:
            return _class_of_403(text)
        case 404:
            return TurnRefused if _CANNOT_DO.search(text) else ModelNotFound
        case 408:
            return ProviderUnavailable
        case 429:
            return QuotaExhausted if _NO_MONEY.search(text) else RateLimited
        case 498 | 503 | 529:
            return Overloaded
    if _CONTEXT.search(text):
        return ContextTooLong
    if status >= 500:
        return ProviderUnavailable
    if _NO_MONEY.search(text):
        return QuotaExhausted
    if status in (400, 422):
        if _MODERATION.search(text):
            return ContentFiltered
        if _NO_MODEL.search(text) and not _CANNOT_DO.search(text):
            return ModelNotFound
    return TurnRefused


def _class_of_403(text: str) -> type[DriverError]:
    if _MODERATION.search(text):
        return ContentFiltered
    if _NO_ACCESS.search(text) or _NO_MODEL.search(text):
        return ModelNotFound
    if _NO_MONEY.search(text):
        return QuotaExhausted
    if _BAD_KEY.search(text):
        return CredentialsRejected
    return TurnRefused if _REGION.search(text) else PermissionDenied


def _build(
    asked: Asked, cls: type[DriverError], status: int | None, said: Said, headers: Mapping[str, str]
) -> DriverError:
    wait = limits.retry_after(headers)
    if wait is None and cls is RateLimited:
        wait = reset_wait(headers)
    zone = CHINA if asked.vendor in ("glm", "minimax") else UTC
    account = cls is PermissionDenied and any(code in ACCOUNT_CODES or code in GLM_ACCOUNT_CODES for code in said.codes)
    return build_error(
        cls,
        provider=asked.provider,
        model=asked.model,
        what=what_happened(cls, status, said.text),
        action=_action(cls, status, said),
        wait_s=wait,
        reset_at=quota_reset_at(said.text, headers, wait, zone=zone),
        scope="provider" if account else None,
        status=status,
        raw=said.raw,
        headers=headers,
        request_id=said.request_id,
    )


def _action(cls: type[DriverError], status: int | None, said: Said) -> str:
    """What to do, where this wire knows it better than the class; "" for the class's own words."""
    if cls is ModelNotFound and status == 404:
        return WRONG_ADDRESS
    if cls is ContextTooLong and _OUTPUT_DOES_NOT_FIT.search(said.text):
        return "lower max_output_tokens, shorten the messages or route to a model with a larger window"
    if cls is TurnRefused and status == 400 and _THINKING.search(said.text):
        return "leave the thinking parts of earlier messages out, or switch thinking off, and send the turn again once"
    return ""


# -- reading the body ----------------------------------------------------------------------------------------------


def is_error(body: Mapping[str, object]) -> bool:
    """Whether JSON inside a 200 is an error: it says so, or it is none of an answer and carries an error's members."""
    if body.get("type") == "error" or body.get("error") or minimax_code(body):
        return True
    if "content" in body or body.get("type") == "message":
        return False
    return bool(body.get("detail")) or body.get("success") is False or ("message" in body and "code" in body)


def read(body: object) -> Said:
    """The parts of an error body that say something, whatever its form."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return Said(text=as_text(body))
    if code := minimax_code(body):
        return Said(text=minimax_message(body) or f"base_resp {code}", raw=code, minimax=code)
    inner = body.get("error")
    error: Mapping[str, object] = inner if isinstance(inner, Mapping) else body
    names = ("message", "msg", "error", "detail", "error_msg")
    text = next((text for name in names if (text := as_text(error.get(name)))), "")
    details = error.get("details")
    detail = as_text(details.get("error_code")) if isinstance(details, Mapping) else ""
    found = (detail, as_text(error.get("code")), _type_of(error), as_text(body.get("code")))
    codes = tuple(dict.fromkeys(code.lower() for code in found if code and len(code) <= MAX_RAW))
    return Said(
        text=text or quote(json.dumps(body, default=str)),
        codes=codes,
        raw=next((code for code in (detail, _type_of(error), as_text(error.get("code"))) if code), ""),
        status=status_in((error, body), _STATUS_NAMES),
        request_id=as_text(body.get("request_id"))[:MAX_RAW],
    )


def _type_of(error: Mapping[str, object]) -> str:
    kind = as_text(error.get("type"))
    return "" if kind == "error" else kind

"""What an error of the service means: its code, status and text become one of the classes of drivers/errors.py.

Codes come first, then the status, then the text: one code stands for a parameter out of range, a prompt that is too
long, a model that is not there and a model on the other path. The same body comes with an HTTP status, also as an event
stream, and inside a 200. Gateways answer in forms of their own; any of them is read, none is trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from loopforge.drivers import limits
from loopforge.drivers.dashscope_native.failure_codes import ACCOUNT_CODES, MODEL_CODES, class_of_code
from loopforge.drivers.error_text import CHINA, page_title
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
    Scope,
    StreamBroken,
    TurnRefused,
    quote,
)
from loopforge.drivers.http_failures import (
    MAX_BODY,
    MAX_RAW,
    after_should_retry,
    as_text,
    build_error,
    not_an_answer,
    quota_reset_at,
    status_in,
    what_happened,
)
from loopforge.drivers.json_values import parse_json

_CONTEXT = re.compile(
    r"range of input length should be|input (token )?length (should|is too long|exceeds)|maximum context length|"
    r"context (window|length)|prompt (is )?too long|input is too long|exceeds? the (maximum|max)( \w+)? length|"
    r"too many (input|prompt) tokens|total message (token )?length",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model (does )?not exist|model can ?not be found|unknown model|no such model|model not found|"
    r"\bmodel\b.{0,120}?\b(does not exist|not found|no longer available|is not available)",
    re.IGNORECASE,
)
_CANNOT_DO = re.compile(r"does not support|not supported|only supports?\b", re.IGNORECASE)
_WRONG_PATH = re.compile(r"url error", re.IGNORECASE)
_STREAM_ONLY = re.compile(r"only supports? (the )?stream|non-streaming|incremental_output", re.IGNORECASE)
_MODERATION = re.compile(r"inappropriate content|data inspection|content (polic|filter)|moderation", re.IGNORECASE)
_NO_MONEY = re.compile(
    r"overdue|arrear|insufficient (balance|funds)|good standing|free (tier|quota).{0,40}exhausted", re.IGNORECASE
)
_NO_ACCESS = re.compile(r"access to (this|the) model|model access", re.IGNORECASE)
_BAD_KEY = re.compile(
    r"(incorrect|invalid|wrong|missing|no) api[ _-]?key|access token is invalid|token.{0,20}expired", re.IGNORECASE
)
_REGION = re.compile(r"\b(country|region|territory)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom a turn was sent to, for the error's fields. `other_path`: the one of the two that was not asked."""

    provider: str
    model: str
    other_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error body, read. `status`: the HTTP status that the body, or its frame, names."""

    text: str
    code: str = ""
    status: int | None = None
    request_id: str = ""


def explain(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
    """The error that a response with a status other than 200 is."""
    text = body[:MAX_BODY].decode("utf-8", "replace")
    said = _read_text(text)
    if status < 400:
        return not_an_answer(asked.provider, asked.model, status, headers, said.text)
    return _build(asked, classify(status, said, headers) or TurnRefused, status, said, headers)


def explain_inside(
    asked: Asked, body: object, headers: Mapping[str, str], *, status: int = 0, started: bool
) -> DriverError:
    """The error that JSON inside a 200 is. `status`: as its frame notes it. `started`: content had come before it."""
    said = read(body)
    status = status if status >= 400 else said.status or 0
    cls = classify(status, said, headers)
    if cls is None:
        cls = StreamBroken if started else ProviderUnavailable
    return _build(asked, cls, status or None, said, headers)


def classify(status: int, said: Said, headers: Mapping[str, str]) -> type[DriverError] | None:
    """The class of an error; None when nothing tells. `status`: 0 where there is none."""
    cls = class_of_code(said.code.lower())
    if cls is TurnRefused or (cls is ProviderUnavailable and _CONTEXT.search(said.text)):
        cls = _class_of_request(said.text)
    elif cls is PermissionDenied:
        cls = _class_of_403(said.text) if status in (0, 403) and not _is_of_account(said) else cls
    elif cls is None and status:
        cls = _class_of_status(status, said.text)
    elif cls is None and _CONTEXT.search(said.text):
        return ContextTooLong
    return after_should_retry(cls, headers)


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
        case 503 | 529:
            return Overloaded
    if status >= 500:
        return ContextTooLong if _CONTEXT.search(text) else ProviderUnavailable
    return _class_of_request(text)


def _class_of_request(text: str) -> type[DriverError]:
    """Of a code or status that blames the request."""
    if _WRONG_PATH.search(text):
        return TurnRefused
    if _CONTEXT.search(text):
        return ContextTooLong
    if _MODERATION.search(text):
        return ContentFiltered
    if _BAD_KEY.search(text):
        return CredentialsRejected
    if _NO_MONEY.search(text):
        return QuotaExhausted
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


def _is_of_account(said: Said) -> bool:
    return said.code.lower() in ACCOUNT_CODES


def _build(
    asked: Asked, cls: type[DriverError], status: int | None, said: Said, headers: Mapping[str, str]
) -> DriverError:
    wait = limits.retry_after(headers)
    if wait is None and cls in (RateLimited, Overloaded):
        wait = limits.reset_wait(headers)
    return build_error(
        cls,
        provider=asked.provider,
        model=asked.model,
        what=what_happened(cls, status, said.text),
        action=_action(asked, cls, status, said),
        wait_s=wait,
        reset_at=quota_reset_at(said.text, headers, wait, zone=CHINA),
        scope=_scope(cls, said),
        status=status,
        raw=said.code,
        headers=headers,
        request_id=said.request_id,
    )


def _scope(cls: type[DriverError], said: Said) -> Scope | None:
    if cls is PermissionDenied and _is_of_account(said):
        return "provider"
    return "model" if cls is QuotaExhausted and said.code.lower() in MODEL_CODES else None


def _action(asked: Asked, cls: type[DriverError], status: int | None, said: Said) -> str:
    """More than the class itself advises, where the text or the wire's own ways tell more."""
    if cls is TurnRefused and _WRONG_PATH.search(said.text):
        return f"{asked.model} answers on the other path: end base_url in {asked.other_path} for it"
    if cls is TurnRefused and _STREAM_ONLY.search(said.text):
        return "ask for a stream"
    if cls is CredentialsRejected:
        return "set the key variable named by api_key_env to a key of base_url's own region, and restart the service"
    if cls is ModelNotFound and status == 404:
        return "correct the model, or the provider's base_url, in config.toml; models differ by region"
    return ""


# -- reading the body -------------------------------------------------------------------------------------------------


def is_error(frame: Mapping[str, object]) -> bool:
    """Whether JSON inside a 200 is an error: a code in place of an output, or a gateway's error object."""
    if frame.get("output"):
        return False
    return bool(frame.get("code") or frame.get("error"))


def _read_text(text: str) -> Said:
    """A body that is JSON, an event stream with JSON in it, or a page."""
    lines = (line[len("data:") :] for line in text.splitlines() if line.startswith("data:"))
    for candidate in (text, *lines):
        try:
            return read(parse_json(candidate.strip()))
        except ValueError:
            continue
    return Said(text=page_title(text))


def read(body: object) -> Said:
    """The parts of an error body that say something."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return Said(text=as_text(body))
    inner = body.get("error")
    error: Mapping[str, object] = inner if isinstance(inner, Mapping) else body
    text = next((text for name in ("message", "msg", "error", "detail") if (text := as_text(error.get(name)))), "")
    codes = (as_text(place.get(name)) for place in (error, body) for name in ("code", "type"))
    return Said(
        text=text or quote(json.dumps(body, default=str)),
        code=next((code for code in codes if code and len(code) <= MAX_RAW), ""),
        status=status_in((error, body), ("status_code", "http_code", "status", "code")),
        request_id=as_text(body.get("request_id"))[:MAX_RAW],
    )

"""What a provider's error means: its code, type, status and text become one of the classes of drivers/errors.py.

The code decides, wherever it stands: in base_resp, mostly with status 200, or in brackets at the end of a message. The
status it comes with says little (an empty account has been seen with 429 and with 500), and a code is never a status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from loopforge.drivers import limits
from loopforge.drivers.error_text import CHINA, redact
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
    as_text,
    build_error,
    not_an_answer,
    quota_reset_at,
    read_body,
    what_happened,
)
from loopforge.drivers.vendor_codes import MINIMAX_CODES, minimax_code, minimax_message

_TYPES: Final[Mapping[str, type[DriverError]]] = {
    "rate_limit_error": RateLimited,
    "insufficient_balance_error": QuotaExhausted,
    "insufficient_quota": QuotaExhausted,
    "authorized_error": CredentialsRejected,
    "authentication_error": CredentialsRejected,
    "invalid_api_key": CredentialsRejected,
    "permission_error": PermissionDenied,
    "overloaded_error": Overloaded,
    "model_not_found": ModelNotFound,
    "api_error": ProviderUnavailable,
    "server_error": ProviderUnavailable,
    "internal_error": ProviderUnavailable,
    "timeout_error": ProviderUnavailable,
}
_WEAK_TYPES: Final[Mapping[str, type[DriverError]]] = {
    "bad_request_error": TurnRefused,
    "invalid_request_error": TurnRefused,
    "not_found_error": ModelNotFound,
}
"""Say nothing about the request that its status does not say better; count only where there is no status."""
SENSITIVE: Final[Mapping[int, str]] = {
    1: "severe",
    2: "sexual",
    3: "advertising",
    4: "banned",
    5: "abuse",
    6: "violence",
    7: "other",
}
"""What input_sensitive_type and output_sensitive_type mean."""

_PASSING = (RateLimited, Overloaded)
_LIMIT_OF_TOKENS: Final = "1039"  # of a minute's tokens, or of one prompt's: the text tells
_CODE = re.compile(r"\d{4,5}")
_BRACKETED = re.compile(r"\((\d{4,5})\)[\s.]*$")
_CONTEXT = re.compile(
    r"context[ _](window|length|limit|size)|maximum context|(prompt|input) (is )?too long|"
    r"too many (input|prompt) tokens",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"unknown model|invalid model\b|no such model|model not (exist|found)|"
    r"\bmodel\b.{0,120}?\b(does not exist|not exist|not found|no longer available)",
    re.IGNORECASE,
)
_CANNOT_DO = re.compile(r"does not support|not supported", re.IGNORECASE)
_MODERATION = re.compile(r"new_sensitive|content (filter|polic)|moderation", re.IGNORECASE)
_NO_MONEY = re.compile(r"insufficient (balance|credits?|funds|quota)", re.IGNORECASE)

_KEYS_OF_PLATFORMS: Final = (
    "set the key variable named by api_key_env to a key of the platform that base_url names (those of China and the "
    "international one differ; old ones need ?GroupId= in base_url) and restart the service"
)
_ACTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("1004", "2049"), _KEYS_OF_PLATFORMS),
    "1042": "take the invisible characters out of the messages",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error body, read. `code`: the vendor's number, "" when there is none. `type`: lower-case."""

    text: str
    code: str = ""
    type: str = ""
    request_id: str = ""


def explain(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
    """The error that a response with a status other than 200 is."""
    said = read(read_body(body))
    if status < 400:
        return not_an_answer(asked.provider, asked.model, status, headers, said.text)
    return _build(asked, classify(status, said) or TurnRefused, status, said, headers)


def explain_inside(asked: Asked, body: object, headers: Mapping[str, str], *, started: bool) -> DriverError:
    """The error that JSON inside a 200 is. `started`: content of the answer had come before it."""
    said = read(body)
    cls = classify(0, said) or (StreamBroken if started else ProviderUnavailable)
    return _build(asked, cls, None, said, headers)


def classify(status: int, said: Said) -> type[DriverError] | None:
    """The class of an error; None when nothing tells. `status`: 0 where there is none."""
    cls = MINIMAX_CODES.get(said.code) or _class_of_type(status, said.type)
    if (cls in (None, TurnRefused) or said.code == _LIMIT_OF_TOKENS) and _CONTEXT.search(said.text):
        return ContextTooLong
    if cls in (None, TurnRefused) and _NO_MODEL.search(said.text) and not _CANNOT_DO.search(said.text):
        return ModelNotFound
    return cls or (_class_of_status(status, said.text) if status else None)


def _class_of_type(status: int, kind: str) -> type[DriverError] | None:
    if not status:
        return _TYPES.get(kind) or _WEAK_TYPES.get(kind)
    cls = _TYPES.get(kind)
    if cls is ProviderUnavailable or (cls in _PASSING and 400 <= status < 500 and status not in (408, 429, 498)):
        return None  # the status tells more, and one that blames the request is believed more
    return cls


def _class_of_status(status: int, text: str) -> type[DriverError]:
    if status == 401:
        return CredentialsRejected
    if status == 402 or _NO_MONEY.search(text):
        return QuotaExhausted
    if status == 429:
        return RateLimited
    if status in (498, 503, 529):
        return Overloaded
    if status >= 500 or status == 408:
        return ProviderUnavailable
    if _MODERATION.search(text):
        return ContentFiltered
    if status == 403:
        return PermissionDenied
    if status == 404 and not _CANNOT_DO.search(text):
        return ModelNotFound
    return TurnRefused


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
        action=_action(cls, status, said),
        wait_s=wait,
        reset_at=quota_reset_at(said.text, headers, wait, zone=CHINA),
        status=status,
        raw=said.code or said.type,
        headers=headers,
        request_id=redact(said.request_id),
    )


def _action(cls: type[DriverError], status: int | None, said: Said) -> str:
    """What to do, where this wire knows it better than the class; "" for the class's own words."""
    if cls is ModelNotFound and status == 404 and not said.code:
        return WRONG_ADDRESS
    return _ACTIONS.get(said.code, "")


# -- reading the body -------------------------------------------------------------------------------------------------


def is_error(body: Mapping[str, object]) -> bool:
    """Whether JSON inside a 200 is an error: it says so, or it is none of an answer and carries an error's members."""
    if body.get("error") or body.get("type") == "error" or code_of(body):
        return True
    if body.get("choices") or body.get("usage"):
        return False
    return bool(body.get("detail")) or body.get("success") is False or ("message" in body and "code" in body)


def code_of(body: Mapping[str, object]) -> str:
    """The code of its base_resp, "" for none and for 0, whatever the text beside it warns of."""
    return minimax_code(body)[:MAX_RAW]


def read(body: object) -> Said:
    """The parts of an error body that say something, whatever its form."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return Said(text=as_text(body))
    own_id = as_text(body.get("request_id")) or as_text(body.get("id"))
    if code := code_of(body):
        text = f"{minimax_message(body) or 'base_resp'} ({code}){_flags(body)}"
        return Said(text=text, code=code, request_id=own_id[:MAX_RAW])
    inner = body.get("error")
    error: Mapping[str, object] = inner if isinstance(inner, Mapping) else body
    text = next((text for name in ("message", "msg", "error", "detail") if (text := as_text(error.get(name)))), "")
    code = as_text(error.get("code"))
    if not _CODE.fullmatch(code):
        bracketed = _BRACKETED.search(text)
        code = bracketed[1] if bracketed else ""
    kind = next((name for name in (as_text(error.get("type")), as_text(error.get("code"))) if name != "error"), "")
    return Said(
        text=text or quote(json.dumps(body, default=str)),
        code=code,
        type=kind.lower()[:MAX_RAW],
        request_id=own_id[:MAX_RAW],
    )


def flagged(body: Mapping[str, object], what: str) -> str:
    """The kind of content that "input" or "output" was flagged for, "" when it was not."""
    if body.get(f"{what}_sensitive") is not True:
        return ""
    kind = body.get(f"{what}_sensitive_type")
    return SENSITIVE.get(kind, "not named") if isinstance(kind, int) else "not named"


def _flags(body: Mapping[str, object]) -> str:
    return "".join(f", {what} flagged: {kind}" for what in ("input", "output") if (kind := flagged(body, what)))

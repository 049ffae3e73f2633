"""What an error of this wire means: its code, else its status, becomes one of the classes of drivers/errors.py.

The code comes first: 429 also says that an account is empty or a plan is over, which no retry cures. Two forms are
seen, {"error": {"code", "message"}} and {"code", "msg", "success": false}, also inside a 200 and inside a stream; a
gateway's own are read as far as they go. Source: docs.z.ai/api-reference/api-code.
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
from loopforge.drivers.http_failures import WRONG_ADDRESS, Asked, build_error, quota_reset_at, read_body, what_happened
from loopforge.drivers.vendor_codes import GLM_ACCOUNT_CODES, GLM_CODES

_FAILED_CALL = "1200"  # of the provider with a 5xx, of the request with a 4xx
_REUSED_ID = "1231"
_BY_STATUS: Final[Mapping[int, type[DriverError]]] = {
    401: CredentialsRejected,
    402: QuotaExhausted,
    403: PermissionDenied,
    404: ModelNotFound,
    408: ProviderUnavailable,
    429: RateLimited,
    434: PermissionDenied,  # an interface under test; 435: a file that is too large
    498: Overloaded,
    503: Overloaded,
    529: Overloaded,
}
_CONTEXT = re.compile(
    r"exceeds? max(imum)? (length|context)|context (length|window)|prompt (is )?too long", re.IGNORECASE
)
_NO_MODEL = re.compile(r"unknown model|model (does )?not (exist|found)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error body, read. `status`: an HTTP status that it names where a code should be, 0 for none."""

    text: str
    code: str = ""
    status: int = 0


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
    if said.code in GLM_CODES or said.status:
        return _build(asked, _classify(said.status, said), said.status or None, said, headers)
    cls = ContextTooLong if _CONTEXT.search(said.text) else StreamBroken if started else ProviderUnavailable
    return _build(asked, cls, None, said, headers)


def is_error(body: Mapping[str, object]) -> bool:
    """Whether JSON inside a 200 is an error: it says so, or it is no answer and carries an error's members."""
    if body.get("error") or body.get("success") is False:
        return True
    return not body.get("choices") and not body.get("usage") and "code" in body and ("msg" in body or "message" in body)


def _classify(status: int, said: Said) -> type[DriverError]:
    found = GLM_CODES.get(said.code)
    if found is not None and not (said.code == _FAILED_CALL and 400 <= status < 500):
        return found
    if found is not None:
        return TurnRefused
    if status in (400, 413, 422) or status >= 500:
        if _CONTEXT.search(said.text):
            return ContextTooLong
        if status < 500 and _NO_MODEL.search(said.text):
            return ModelNotFound
    known = _BY_STATUS.get(status)
    return known or (ProviderUnavailable if status >= 500 else TurnRefused)


def _build(
    asked: Asked, cls: type[DriverError], status: int | None, said: Said, headers: Mapping[str, str]
) -> DriverError:
    wait = limits.retry_after(headers)
    account = cls is PermissionDenied and said.code in GLM_ACCOUNT_CODES
    return build_error(
        cls,
        provider=asked.provider,
        model=asked.model,
        what=what_happened(cls, status, said.text),
        action=_action(cls, status, said),
        wait_s=wait,
        reset_at=quota_reset_at(said.text, headers, wait, zone=CHINA),
        scope="provider" if account else None,
        status=status,
        raw=said.code,
        headers=headers,
    )


def _action(cls: type[DriverError], status: int | None, said: Said) -> str:
    if said.code == _REUSED_ID:
        return "send the turn with another request_id, or without one"
    if cls is ModelNotFound and status == 404:
        return WRONG_ADDRESS
    return ""


# -- reading the body ----------------------------------------------------------------------------------------------


def read(body: object) -> Said:
    """The parts of an error body that say something, whatever its form."""
    inner = body.get("error") if isinstance(body, Mapping) else None
    error: object = inner if isinstance(inner, Mapping) else body
    if not isinstance(error, Mapping):
        return Said(text=_text(error))
    text = next((text for name in ("message", "msg", "error", "detail") if (text := _text(error.get(name)))), "")
    code = _text(error.get("code")) or (_text(body.get("code")) if isinstance(body, Mapping) else "")
    status = int(code) if code.isdecimal() and len(code) == 3 and 400 <= int(code) <= 599 else 0
    return Said(text=text or quote(json.dumps(body, default=str)), code=code, status=status)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18 else ""

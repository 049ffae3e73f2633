"""What a provider's error means: its status, codes and text become one of the classes of drivers/errors.py.

Codes come first, then the status, then the text: the same status carries what a retry cures and what it does not
(429 for an empty account), and one vendor's code is another one's port number. Bodies come in a dozen forms, also
inside a 200 and inside a stream; any of them is read, none is trusted to be what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC

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
    WireMismatch,
    quote,
)
from loopforge.drivers.http_failures import (
    MAX_BODY,
    MAX_RAW,
    WRONG_ADDRESS,
    Asked,
    after_should_retry,
    as_text,
    build_error,
    quota_reset_at,
    read_body,
    status_in,
    what_happened,
)
from loopforge.drivers.json_values import parse_json
from loopforge.drivers.openai_compatible.failure_codes import (
    BY_CODE,
    PASSING,
    WEAK_CODES,
)
from loopforge.drivers.vendor_codes import GLM_ACCOUNT_CODES, class_of_vendor_code, minimax_code, minimax_message

_IN_CHINA = frozenset({"glm", "kimi", "minimax", "qwen", "deepseek"})  # times without a zone are theirs

_CONTEXT = re.compile(
    r"maximum context length|context[ _]window|context[ _]length|prompt (is )?too long|exceeded max context|"
    r"exceeded model token limit|input token length too long|reduce the length of the (messages|input|prompt)|"
    r"total length of all messages is too long|exceeds the available context size|range of input length should be|"
    r"too[ _]many[ _](input|prompt)[ _]tokens|maximum prompt length|input is too long",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"is not a valid model|invalid model\b|unknown model|model not (exist|found)|no such model|"
    r"\b(model|deployment)\b.{0,120}?\b(does not exist|do(es)? not have access|not found|decommissioned|"
    r"no longer available)",
    re.IGNORECASE,
)
_NO_ACCESS = re.compile(
    r"not allowed to sample from this model|access to (this|the) model|model.{0,80}access", re.IGNORECASE
)
_CANNOT_DO = re.compile(
    r"endpoints? found that support|not a chat model|does not support|not supported in the v1/chat", re.IGNORECASE
)
_MODERATION = re.compile(
    r"usage (guidelines|polic)|content (management )?polic|content[ _-]?filter|moderation|flagged|"
    r"inappropriate content|data_?inspection",
    re.IGNORECASE,
)
_REGION = re.compile(r"\b(country|region|territory|location)\b", re.IGNORECASE)
_BAD_KEY = re.compile(
    r"(incorrect|invalid|wrong|missing) (api[ _-]?key|authentication)|unauthori[sz]ed|"
    r"api[ _-]?key (is )?(not valid|invalid|expired|missing)",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"insufficient (balance|credits?|funds)|credit balance|out of credits|requires more credits|account.{0,40}arrears|"
    r"check your plan and billing",
    re.IGNORECASE,
)
_BLAMES_REQUEST = re.compile(r"not supported|\brequires\b", re.IGNORECASE)
_QUOTA_CODE = re.compile(r"_(spend|usage)_limit_exceeded$")
_STATUS_NAMES = ("status_code", "raw_status_code", "http_code", "status", "code")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error body, read. `codes`: lower-case, most telling first. `status`: what the body calls its HTTP status."""

    text: str
    codes: tuple[str, ...] = ()
    raw: str = ""
    status: int | None = None
    headers: Mapping[str, str] | None = None
    minimax: str = ""
    moderated: bool = False


def explain(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
    """The error that a response with a status other than 200 is."""
    said = read(read_body(body))
    if 300 <= status < 400 or status < 200:
        what = f"the server answered {status}, a redirect to {quote(headers.get('location', 'nowhere'), 200)}"
        return WireMismatch(asked.provider, redact(what), model=asked.model, status=status)
    if status < 300:
        what = f"the server answered {status} in place of 200: {quote(said.text)}"
        return WireMismatch(asked.provider, redact(what), model=asked.model, status=status)
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
    if cls is None:
        if status:
            cls = _class_of_status(status, said)
        elif weak := next((WEAK_CODES[code] for code in said.codes if code in WEAK_CODES), None):
            cls = _class_of_status(400, said) if weak is TurnRefused else weak
        elif _CONTEXT.search(said.text):
            return ContextTooLong
        else:
            return None
    return after_should_retry(cls, headers)


def _class_of_codes(status: int, said: Said) -> type[DriverError] | None:
    if said.moderated:
        return ContentFiltered
    for code in said.codes:
        cls = QuotaExhausted if _QUOTA_CODE.search(code) else BY_CODE.get(code)
        if cls is None or (cls in PASSING and 400 <= status < 500 and status not in (408, 429, 498)):
            continue  # a status that blames the request is believed more
        if cls is not ProviderUnavailable or status < 500:  # a 5xx may still blame the request in its text
            return cls
    return None


def _class_of_status(status: int, said: Said) -> type[DriverError]:
    text = said.text
    if status == 401:
        return CredentialsRejected
    if status == 402:
        return QuotaExhausted
    if status == 429:
        return QuotaExhausted if _NO_MONEY.search(text) else RateLimited
    if status in (498, 503, 529):
        return Overloaded
    if status == 408:
        return ProviderUnavailable
    if status >= 500:
        if _CONTEXT.search(text):
            return ContextTooLong
        return TurnRefused if status == 500 and _BLAMES_REQUEST.search(text) else ProviderUnavailable
    if _CONTEXT.search(text):
        return ContextTooLong
    if status == 403:
        return _class_of_403(text)
    if status == 404:
        return TurnRefused if _CANNOT_DO.search(text) else ModelNotFound
    if _BAD_KEY.search(text):
        return CredentialsRejected
    if _NO_MONEY.search(text):
        return QuotaExhausted
    if status in (400, 422) and _NO_MODEL.search(text) and not _CANNOT_DO.search(text):
        return ModelNotFound
    if status == 400 and _MODERATION.search(text):
        return ContentFiltered
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
    if wait is None and cls in (RateLimited, Overloaded):
        wait = limits.reset_wait(headers)
        if wait is None and said.headers is not None:
            inner = {**headers, **said.headers}
            wait = limits.retry_after(inner)
            wait = limits.reset_wait(inner) if wait is None else wait
    zone = CHINA if asked.vendor in _IN_CHINA else UTC
    return build_error(
        cls,
        provider=asked.provider,
        model=asked.model,
        what=what_happened(cls, status, said.text),
        action=_action(cls, status),
        wait_s=wait,
        reset_at=quota_reset_at(said.text, headers, wait, zone=zone),
        scope="provider" if cls is PermissionDenied and said.raw in GLM_ACCOUNT_CODES else None,
        status=status,
        raw=said.raw,
        headers=headers,
    )


def _action(cls: type[DriverError], status: int | None) -> str:
    if cls is ModelNotFound and status == 404:
        return WRONG_ADDRESS
    return ""


# -- reading the body ----------------------------------------------------------------------------------------------


def is_error(body: Mapping[str, object]) -> bool:
    """Whether JSON inside a 200 is an error: it says so, or it is none of an answer and carries an error's members."""
    if body.get("error") or body.get("object") == "error" or minimax_code(body):
        return True
    if body.get("choices") or body.get("usage"):
        return False
    return bool(body.get("detail")) or body.get("success") is False or ("message" in body and "code" in body)


def read(body: object) -> Said:
    """The parts of an error body that say something, whatever its form."""
    if isinstance(body, list) and body:  # Google's endpoint: an array with one object
        body = body[0]
    if not isinstance(body, Mapping):
        return Said(text=as_text(body))
    if code := minimax_code(body):
        return Said(text=minimax_message(body) or f"base_resp {code}", raw=code, minimax=code)
    inner = body.get("error")
    if isinstance(inner, list) and inner:
        inner = inner[0]
    error: Mapping[str, object] = inner if isinstance(inner, Mapping) else body
    text = next(
        (text for name in ("message", "msg", "error", "detail", "error_msg") if (text := as_text(error.get(name)))), ""
    )
    metadata = error.get("metadata")
    upstream = _upstream(metadata)
    if upstream is not None and upstream.text:
        text = f"{text} ({upstream.text})" if text else upstream.text
    codes = _codes(error, body) + (upstream.codes if upstream else ())
    innermost = error.get("innererror")
    if isinstance(innermost, Mapping):
        codes += _codes(innermost, {})
    parameter = error.get("param")
    if isinstance(parameter, str) and parameter and parameter not in text:
        text = f"{text} (param {parameter})"
    if isinstance(details := error.get("details"), list) and details:
        text = f"{text}; {quote(as_text(details), 200)}"
    failed = error.get("failed_generation")
    if isinstance(failed, str) and failed:
        text = f"{text}; the model wrote {quote(failed, 200)}"
    return Said(
        text=text or quote(json.dumps(body, default=str)),
        codes=codes,
        raw=next((code for code in (as_text(error.get("code")), as_text(error.get("type"))) if code), ""),
        status=status_in((error, body), _STATUS_NAMES),
        headers=_lower_headers(metadata),
        moderated=isinstance(metadata, Mapping) and bool(metadata.get("reasons")),
    )


def _codes(error: Mapping[str, object], body: Mapping[str, object]) -> tuple[str, ...]:
    found = (
        as_text(error.get("code")),
        as_text(error.get("type")),
        as_text(error.get("status")),
        as_text(body.get("code")),
    )
    return tuple(dict.fromkeys(code.lower() for code in found if code and len(code) <= MAX_RAW))


def _upstream(metadata: object) -> Said | None:
    """What the provider behind OpenRouter said: JSON as text in `metadata.raw`."""
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if isinstance(raw, Mapping):
        return read({name: value for name, value in raw.items() if name != "metadata"})
    if not isinstance(raw, str) or not raw.strip():
        return None
    try:
        parsed = parse_json(raw[:MAX_BODY].strip())
    except ValueError:
        return Said(text=quote(raw))
    if isinstance(parsed, Mapping) and isinstance(parsed.get("error"), Mapping):
        parsed = {"error": {name: value for name, value in parsed["error"].items() if name != "metadata"}}
    return read(parsed)


def _lower_headers(metadata: object) -> Mapping[str, str] | None:
    headers = metadata.get("headers") if isinstance(metadata, Mapping) else None
    if not isinstance(headers, Mapping):
        return None
    return {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}

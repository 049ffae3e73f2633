"""What an error of the service means: its exception, status and text become one of the classes of drivers/errors.py.

The exception's name comes first, then the status, then the text. The text decides where one name stands for several
things: ValidationException is for whatever the service or the model refuses, AccessDeniedException for keys, rights and
models alike. A gateway in front of the service may answer in JSON of its own: it is read, and its status counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from loopforge.drivers import limits
from loopforge.drivers.bedrock.failure_codes import CODES, STATUSES, plain_code
from loopforge.drivers.error_text import redact
from loopforge.drivers.errors import (
    ContentFiltered,
    ContextTooLong,
    CredentialsRejected,
    DriverError,
    GenerationFailed,
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
from loopforge.drivers.http_failures import as_text, build_error, read_body
from loopforge.drivers.json_values import parse_json

_CONTEXT = re.compile(
    r"input is too long|prompt is too long|too many (input|prompt|total) ?(text )?tokens|context (window|length|limit)|"
    r"exceeds? the (maximum|model'?s?) (number of )?(input |total )?(tokens|context)|"
    r"input length and .?max_tokens.? exceed|maximum (context|input|prompt|sequence) (length|size)|"
    r"input tokens? exceeds?|expected maxLength",
    re.IGNORECASE,
)
_MODERATION = re.compile(
    r"content[ _-]?filter|blocked by .{0,40}polic|content polic|usage polic|moderation|responsible ai|guardrail policy",
    re.IGNORECASE,
)
_BAD_MODEL = re.compile(
    r"model identifier is invalid|model (id )?.{0,120}(not found|does not exist|end of (its )?life|is not available)|"
    r"on-demand throughput isn.t supported|invalid model|use case details have not been submitted|"
    r"could not resolve the foundation model",
    re.IGNORECASE,
)
_NO_MODEL_ACCESS = re.compile(r"access to (the|this) model|model access|access is denied for this model", re.IGNORECASE)
_NEEDS_PROFILE = re.compile(r"on-demand throughput isn.t supported|inference profile that contains", re.IGNORECASE)
_REGION = re.compile(
    r"unsupported (countries|country|region)|not (supported|available|allowed) (in|from) (this|your|the) .{0,20}"
    r"(region|country|location)",
    re.IGNORECASE,
)
_EXPIRED = re.compile(r"\bexpired\b|security token", re.IGNORECASE)
_CLOCK = re.compile(r"signature (expired|not yet current)", re.IGNORECASE)
_BAD_KEY = re.compile(r"api key is (in)?valid|authentication failed|missing authentication|bearer token", re.IGNORECASE)
_NOT_ALLOWED = re.compile(r"operation not allowed|not authorized to perform", re.IGNORECASE)
_DAILY = re.compile(r"\bper day\b|\bdaily\b", re.IGNORECASE)
_BAD_SEQUENCE = re.compile(r"invalid sequence as part of ToolUse", re.IGNORECASE)
_CANNOT_DO = re.compile(r"doesn.t support|does not support|not supported", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom a turn was sent to, for the error's fields. `prefixed`: the id got its region from the settings."""

    provider: str
    model: str
    prefixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An error, read. `code`: as plain_code gives it. `original`: the status that the model itself answered with."""

    text: str
    code: str = ""
    raw: str = ""
    original: int | None = None


def explain(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
    """The error that a response with a status other than 200 is."""
    said = read(read_body(body), headers.get("x-amzn-errortype", ""))
    if status < 400:
        what = redact(f"the server answered {status}: {quote(said.text)}")
        return WireMismatch(asked.provider, what, model=asked.model, status=status)
    return _build(asked, classify(status, said), status, said, headers)


def explain_frame(
    asked: Asked, name: str, payload: bytes, message: str, headers: Mapping[str, str], *, started: bool
) -> DriverError:
    """The error that an exception or error frame of a stream is. `started`: content of the answer had come before."""
    try:
        said = read(parse_json(payload.decode("utf-8", "replace").strip()), name)
    except ValueError:
        said = Said(text=message or payload.decode("utf-8", "replace"), code=plain_code(name), raw=name)
    return _build(asked, _class_inside(said, started=started), None, said, headers)


def explain_inside(asked: Asked, body: Mapping[str, object], headers: Mapping[str, str]) -> DriverError:
    """The error that a whole answer with status 200 is."""
    said = read(body, headers.get("x-amzn-errortype", ""))
    return _build(asked, _class_inside(said, started=False), None, said, headers)


def is_error(body: Mapping[str, object]) -> bool:
    """Whether JSON inside a 200 is an error: it has an error's members and none of an answer."""
    return "output" not in body and any(name in body for name in ("__type", "message", "Message", "error", "errors"))


def _class_inside(said: Said, *, started: bool) -> type[DriverError]:
    if said.code in CODES or said.code in STATUSES or _CONTEXT.search(said.text):
        return classify(STATUSES.get(said.code, 0), said)
    return StreamBroken if started else ProviderUnavailable


def classify(status: int, said: Said) -> type[DriverError]:
    """The class of an error. `status`: 0 where there is none."""
    text = said.text
    cls = CODES.get(said.code)
    if cls is ProviderUnavailable and _BAD_SEQUENCE.search(text):
        return GenerationFailed  # what the model wrote is no call: asking once more may help, waiting does not
    if cls is RateLimited and _DAILY.search(text):
        return QuotaExhausted
    if cls is not None:
        return TurnRefused if cls is ModelNotFound and _CANNOT_DO.search(text) else cls
    if said.code == "accessdenied" or status in (401, 403):
        return _class_of_denial(status, text)
    match status:
        case 402:
            return QuotaExhausted
        case 404:
            return TurnRefused if _CANNOT_DO.search(text) else ModelNotFound
        case 408 | 424:
            return ProviderUnavailable
        case 429:
            return QuotaExhausted if _DAILY.search(text) else RateLimited
        case 503 | 529:
            return Overloaded
    if _CONTEXT.search(text):
        return ContextTooLong
    if status >= 500:
        return ProviderUnavailable
    return _class_of_refusal(text)


def _class_of_denial(status: int, text: str) -> type[DriverError]:
    if _BAD_KEY.search(text) or _EXPIRED.search(text) or _CLOCK.search(text):
        return CredentialsRejected
    if _MODERATION.search(text):
        return ContentFiltered
    if _REGION.search(text):
        return TurnRefused
    if _NO_MODEL_ACCESS.search(text) or _BAD_MODEL.search(text):
        return ModelNotFound
    return CredentialsRejected if status == 401 else PermissionDenied


def _class_of_refusal(text: str) -> type[DriverError]:
    if _BAD_MODEL.search(text):
        return ModelNotFound
    if _MODERATION.search(text):
        return ContentFiltered
    if _NOT_ALLOWED.search(text):
        return PermissionDenied
    return TurnRefused


def _build(
    asked: Asked, cls: type[DriverError], status: int | None, said: Said, headers: Mapping[str, str]
) -> DriverError:
    wait = limits.retry_after(headers)
    now = limits.answered_at(headers)
    what = "the provider failed" if cls is ProviderUnavailable else cls.default_what
    if cls is CredentialsRejected:
        what = "AWS rejected the credentials"
    if status is not None:
        what = f"HTTP {status}" if cls is TurnRefused else f"{what} (HTTP {status})"
    if said.raw and cls is not TurnRefused:
        what = f"{what}: {quote(said.raw, 100)}"
    if said.text:
        what = f"{what}: {quote(said.text).rstrip('.')}"
    return build_error(
        cls,
        provider=asked.provider,
        model=asked.model,
        what=what,
        action=_action(asked, cls, said),
        wait_s=wait,
        reset_at=now + wait if wait is not None and now is not None else None,
        status=status,
        raw=said.raw,
        headers=headers,
    )


def _action(asked: Asked, cls: type[DriverError], said: Said) -> str:
    """What to do, where this wire knows it better than the class; "" for the class's own words."""
    if cls is CredentialsRejected:
        if _CLOCK.search(said.text):
            return "set this machine's clock: a signature is good for five minutes"
        if said.code.startswith("expiredtoken") or _EXPIRED.search(said.text):
            return "renew the AWS session (aws sso login, or new keys); those of files are read again by themselves"
        return "correct the AWS credentials, or the Bedrock key: AWS_BEARER_TOKEN_BEDROCK wins over all others"
    if cls is PermissionDenied:
        return "allow bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream for this model to the IAM identity"
    if cls is ModelNotFound:
        table = f"[providers.{asked.provider}.aws_bedrock]"
        if _NEEDS_PROFILE.search(said.text):
            return f"set cross_region in {table}, or write the model with its prefix, such as us.{asked.model}"
        if asked.prefixed:
            return f"correct the model in config.toml, or name it in without_prefix of {table} if it has no profile"
        return "correct the model or the region in config.toml, and ask for access to it in the Bedrock console"
    return ""


# -- reading the body -------------------------------------------------------------------------------------------------


def read(body: object, kind: str) -> Said:
    """The parts of an error body that say something. `kind`: the exception's name, from a header or a frame."""
    if not isinstance(body, Mapping):
        return Said(text=as_text(body), code=plain_code(kind), raw=kind.partition(":")[0])
    inner = body.get("error")
    error: Mapping[str, object] = inner if isinstance(inner, Mapping) else body
    text = next((text for name in ("message", "Message", "detail", "error") if (text := as_text(error.get(name)))), "")
    named = kind or as_text(body.get("__type")) or as_text(error.get("code")) or as_text(error.get("type"))
    original = body.get("originalStatusCode")
    return Said(
        text=text or quote(json.dumps(body, default=str)),
        code=plain_code(named),
        raw=named.partition(":")[0].rpartition("#")[2],
        original=original if isinstance(original, int) else None,
    )

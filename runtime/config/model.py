"""What a person may write in config.toml: every table, key, type and bound. Pydantic lives here and nowhere else.

`read_table` checks one table and turns pydantic's errors into findings: line, value, what to write instead. How tables
refer to one another, and what a key that was left out means, is resolve.py's business.
"""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from loopforge.drivers.registry import KINDS, Kind
from loopforge.drivers.turn import LANES, Effort, Lane
from loopforge.runtime.config.base_url import OTHER_VENDORS, VENDORS
from loopforge.runtime.config.findings import Findings, Path, describe, did_you_mean, looks_like_key, shorten
from loopforge.runtime.config.paths import MAX_SOCKET_PATH_BYTES
from loopforge.runtime.config.positions import PathPart

MAX_JSON_DEPTH = 32  # of extra_body; deeper is no request any provider takes

MAX_REQUEST_MB = 32  # more does not fit a frame of the channel (MAX_FRAME_BYTES of workers/framing.py)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_LISTEN = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Headers that carry a key, and those that the driver and the HTTP client write themselves.
_KEY_HEADERS = {"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}
_OWN_HEADERS = {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding", "te"}


def _refuse(problem: str, suggestion: str) -> PydanticCustomError:
    # The texts travel as values, because a template would read braces in them.
    return PydanticCustomError("refused", "{problem}", {"problem": problem, "suggestion": suggestion})


def _variable_name(value: str) -> str:
    if value and (looks_like_key(value) or not _VARIABLE.fullmatch(value)):
        shown = describe(value) if _VARIABLE.fullmatch(value) else "this"
        raise _refuse(
            f"{shown} is not the name of an environment variable",
            'put the key into a variable and write its name, such as "DEEPSEEK_API_KEY"; "" is for no key',
        )
    return value


def _plain_text(value: str) -> str:
    if _CONTROL.search(value) or value != value.strip():
        raise _refuse(
            f"{describe(value)} has white space around it or control characters in it",
            f"write {describe(value.strip())}",
        )
    return value


def _vendor(value: str) -> str:
    if value and value not in VENDORS + OTHER_VENDORS:
        hint = did_you_mean(value, VENDORS + OTHER_VENDORS, '"{}"')
        raise _refuse(f"there is no vendor profile {describe(value)}", f'"" guesses it from base_url; {hint}')
    return value


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise _refuse(f"{describe(value)} is not a header's name", "write letters, digits and dashes")
    if value.lower() in _KEY_HEADERS:
        raise _refuse("this header carries a key", "name the key's variable in api_key_env; keys do not belong here")
    if value.lower() in _OWN_HEADERS:
        raise _refuse("the runtime writes this header itself", "remove it")
    return value


def _header_value(value: str) -> str:
    if not _HEADER_VALUE.fullmatch(value):
        raise _refuse("the value has characters that no header can carry", "write plain ASCII")
    return value


def _thinking(value: object) -> object:
    if value in ("off", "low", "medium", "high") or (type(value) is int and 1 <= value <= 10_000_000):
        return value
    raise _refuse(
        f"{describe(value)} is no amount of thinking", 'write "off", "low", "medium", "high" or a budget in tokens'
    )


def _socket(value: str) -> str:
    if value and not value.startswith(("/", "~/")):
        raise _refuse(f"{describe(value)} is not an absolute path", 'write it from "/" or "~/" on')
    if len(value.encode()) > MAX_SOCKET_PATH_BYTES:
        raise _refuse(
            f"the path has {len(value.encode())} bytes; a socket's may have {MAX_SOCKET_PATH_BYTES}",
            'write a shorter one, such as "/run/loopforge/loopforge.sock"',
        )
    return _plain_text(value)


def _listen(value: str) -> str:
    match = _LISTEN.fullmatch(value)
    if value and not (match and 0 < int(match.group(1)) < 65_536):
        raise _refuse(f"{describe(value)} is no address", 'write HOST:PORT, such as "127.0.0.1:8080"; "" is off')
    return value


def _account(value: str) -> str:
    if not value or re.search(r"[\s:,/]", value):
        raise _refuse(f"{describe(value)} is not the name of a user or group", "write one name an element")
    return value


VariableName = Annotated[str, AfterValidator(_variable_name)]
PlainText = Annotated[str, AfterValidator(_plain_text)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Field(ge=1, le=1 << 40)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]
SecondsOrNone = Annotated[float, Field(ge=0, le=30 * 86_400)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000)]
Accounts = Annotated[list[Annotated[str, AfterValidator(_account)]], Field(max_length=1000)]


class Table(BaseModel):
    """A TOML table: unknown keys are errors, and "8" is not 8."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class PriceTable(Table):
    """One entry of [providers.NAME.prices], in USD per million tokens."""

    input: Dollars = 0.0
    output: Dollars = 0.0
    cache_read: Dollars = 0.0
    cache_write: Dollars = 0.0


class AwsTable(Table):
    """[providers.NAME.aws_bedrock]"""

    region: PlainText = "us-east-1"
    cross_region: PlainText = ""
    profile: PlainText = ""
    without_prefix: list[PlainText] = []
    base_models: dict[str, PlainText] = {}


class ProviderTable(Table):
    """[providers.NAME]. The first four keys mean what the original LoopForge means by them. None: see resolve.py."""

    kind: Kind = "openai_compatible"
    base_url: str = ""
    api_key_env: VariableName = ""
    default_model: PlainText = ""
    aws_bedrock: AwsTable | None = None
    vendor: Annotated[str, AfterValidator(_vendor)] = ""
    headers: dict[HeaderName, HeaderValue] = {}
    extra_body: dict[str, Any] = {}
    context_window: Count = 0
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = None
    reserve: Annotated[int, Field(ge=0, le=9_999)] | None = None
    max_queued: Positive = 1000
    max_queued_bytes: Bytes = 67_108_864
    requests_per_minute: Count = 0
    tokens_per_minute: Count = 0
    connect_timeout_s: Seconds = 10.0
    first_event_timeout_s: Seconds | None = None
    event_gap_timeout_s: Seconds | None = None
    memory_limit_mb: Annotated[int, Field(ge=64, le=1_048_576)] = 512
    prices: dict[str, PriceTable] = {}


class RouteTable(Table):
    """[router.KIND]. A lane of None is the kind's own; timeouts of None are the provider's."""

    provider: str = "ollama"
    model: PlainText = "default"
    fallbacks: Annotated[list[str], Field(max_length=32)] = []
    lane: Lane | None = None
    deadline_s: Seconds = 1800.0
    thinking: Annotated[Effort | int | None, BeforeValidator(_thinking)] = None
    resend: bool = True
    spill: bool = False
    park_max_s: SecondsOrNone = 0.0
    first_event_timeout_s: Seconds | None = None
    event_gap_timeout_s: Seconds | None = None


class RuntimeTable(Table):
    """[runtime]"""

    socket: Annotated[str, AfterValidator(_socket)] = ""
    allow_users: Accounts = []
    allow_groups: Accounts = []
    drain_s: SecondsOrNone = 20.0
    reattach_grace_s: SecondsOrNone = 30.0
    idle_worker_s: SecondsOrNone = 300.0
    max_queued_bytes: Bytes = 268_435_456
    journal: bool = True
    retain_days: Annotated[int, Field(ge=0, le=36_500)] = 7
    retain_mb: Count = 512
    max_request_mb: Annotated[int, Field(ge=1, le=MAX_REQUEST_MB)] = 32
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4


class HttpTable(Table):
    """[http]"""

    listen: Annotated[str, AfterValidator(_listen)] = ""
    api_key_env: VariableName = ""


TABLES = ("providers", "router", "runtime", "http")
# The original LoopForge's own tables: it may be using the same file, so they stay and are not read.
ORIGINAL_TABLES = ("llm", "security", "skills")

T = TypeVar("T", bound=Table)


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """A table as far as it is right. `bad`: the keys that are not, which hold their default in `table` instead."""

    table: T
    bad: frozenset[str] = frozenset()

    @classmethod
    def nothing(cls, of: type[T]) -> Read[T]:
        """What could be read where no table stands."""
        return Read(of(), frozenset(of.model_fields))


def read_table(cls: type[T], raw: object, path: Path, findings: Findings) -> Read[T]:
    """Check one table, reporting every problem in it, so that what is right in it can be checked further.

    `path`: where the table stands.
    """
    try:
        return Read(cls.model_validate(raw))
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
    for error in errors:
        if findings.full:
            break
        place = tuple(part for part in error["loc"] if part != "[key]")  # pydantic's sign for: the key, not its value
        findings.error((*path, *place), *_explain(error, _owner(cls, place)))
    if not isinstance(raw, dict):
        return Read.nothing(cls)
    bad = frozenset(str(error["loc"][0]) for error in errors)
    return Read(cls.model_validate({key: value for key, value in raw.items() if key not in bad}), bad)


def check_json(value: dict[str, Any], path: Path, findings: Findings) -> None:
    """Report what JSON and msgpack cannot carry: dates, infinities, integers beyond 64 bits, bottomless nesting."""
    waiting: deque[tuple[object, Path]] = deque([(value, path)])
    while waiting and not findings.full:
        item, place = waiting.popleft()
        match item:
            case dict() | list() if len(place) - len(path) > MAX_JSON_DEPTH:
                findings.error(place, f"tables and lists are nested more than {MAX_JSON_DEPTH} deep", "flatten them")
            case dict():
                waiting.extend((below, (*place, name)) for name, below in item.items())
            case list():
                waiting.extend((below, (*place, index)) for index, below in enumerate(item))
            case int() if item.bit_length() > 63:
                findings.error(place, "the number is beyond 64 bits", "write it as text, in quotes")
            case float() if not math.isfinite(item):
                findings.error(place, "JSON has neither nan nor inf", "write a number")
            case str() | int() | float():
                pass
            case _:
                findings.error(place, "JSON has no dates and times", "write it as text, in quotes")


def _owner(cls: type[Table], loc: tuple[PathPart, ...]) -> type[Table]:
    """The table class in which the last part of `loc` is a key."""
    if loc[:1] == ("aws_bedrock",) and len(loc) > 1:
        return AwsTable
    if loc[:1] == ("prices",) and len(loc) > 2:
        return PriceTable
    return cls


def _explain(error: ErrorDetails, owner: type[Table]) -> tuple[str, str]:
    """(what is wrong, what to write instead)"""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    key = str(error["loc"][-1]) if error["loc"] else ""
    if kind == "refused":
        return context["problem"], context["suggestion"]
    if kind == "extra_forbidden":
        return _explain_unknown(key, value, owner)
    if kind == "literal_error":
        allowed: tuple[str, ...] = KINDS if key == "kind" else LANES
        return f"{describe(value)} is not a {key}", did_you_mean(str(value), allowed, '"{}"')
    if kind == "too_long":
        return f"the list has {context['actual_length']} elements", f"write at most {context['max_length']}"
    if bound := _BOUNDS.get(kind):
        return f"{describe(value)} is out of range", f"write {bound[0]} {_plain_number(context[bound[1]])}"
    wanted = _WANTED.get(kind)
    if wanted is None:  # pydantic has kinds of errors that these tables cannot cause
        return error["msg"], ""
    also_text = " is text," if isinstance(value, str) else " is"
    return f"{describe(value)}{also_text} not {wanted}", _instead(key, value, kind, owner)


_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
}


def _plain_number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _instead(key: str, value: object, kind: str, owner: type[Table]) -> str:
    """What to write for a value of the wrong type: the same without quotes, or the default as an example."""
    if isinstance(value, str) and _is_unquoted_right(value, kind):
        return f"write {key} = {value.strip()}, without quotes"
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return f'write it in quotes: {key} = "{describe(value)}"'
    if kind == "list_type" and isinstance(value, str) and not looks_like_key(value):
        return f"write {key} = [{describe(value)}]"
    field = owner.model_fields.get(key)
    default = None if field is None else field.default
    if isinstance(default, str | int | float) and default != "":
        return f"write, for example, {key} = {describe(default)}"
    return f"write {_WANTED[kind]}"


def _is_unquoted_right(value: str, kind: str) -> bool:
    if kind == "bool_type":
        return value.strip() in ("true", "false")
    number = r"[0-9]{1,18}" if kind == "int_type" else r"[0-9]{1,18}(?:\.[0-9]+)?"
    return kind in {"int_type", "float_type"} and re.fullmatch(number, value.strip()) is not None


def _explain_unknown(key: str, value: object, owner: type[Table]) -> tuple[str, str]:
    """Never quotes the value: an unknown key may well be an `api_key`."""
    known = list(owner.model_fields)
    if owner is ProviderTable and key.lower().replace("-", "_") in _KEY_NAMES:
        return "a key does not belong in this file", 'put it into an environment variable, name that: api_key_env = "…"'
    if not isinstance(value, dict):
        return f"there is no key {shorten(key)!r} here", did_you_mean(key, known)
    dotted = "put the whole name in quotes" if owner is PriceTable else "write _ or - instead"
    hint = did_you_mean(key, known, only_near=True)
    return f"there is no table {shorten(key)!r} here", hint or f"if this is part of a name with a dot, {dotted}"


_KEY_NAMES = ("api_key", "apikey", "key", "token", "secret", "password", "api_token", "auth_token", "access_token")

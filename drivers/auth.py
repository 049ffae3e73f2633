"""Puts the key on what leaves. One provider, one key, one scheme.

Which header which wire wants: the providers' own API references (Bearer is RFC 6750). A scheme that awaits (a token
to refresh) or that must see the whole request (a signature over the body) is one more class with `sign`, chosen in
`open_auth`. No key here ends in a repr, an error or a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from loopforge.drivers.errors import CredentialsRejected, DriverMissing
from loopforge.drivers.registry import Kind, ProviderSettings
from loopforge.drivers.wire import Auth, HttpRequest


@dataclass(frozen=True, slots=True)
class Scheme:
    """The header that carries the key, and what stands before the key in it."""

    header: str
    prefix: str = ""


BEARER = Scheme("authorization", "Bearer ")
API_KEY = Scheme("api-key")
X_API_KEY = Scheme("x-api-key")
X_GOOG_API_KEY = Scheme("x-goog-api-key")  # the other form, ?key=…, ends up in logs

_BY_KIND: Mapping[Kind, Scheme] = {
    "openai_compatible": BEARER,
    "dashscope_native": BEARER,
    "minimax_native": BEARER,
    "zhipu_native": BEARER,  # but keys of the form id.secret are signed: zhipu_jwt.py
    "anthropic": X_API_KEY,
    "gemini": X_GOOG_API_KEY,
}
_BY_VENDOR: Mapping[tuple[Kind, str], Scheme] = {
    ("openai_compatible", "azure"): API_KEY,
    ("gemini", "vertex"): BEARER,  # an OAuth token; Vertex's API keys go as Google's own
    # Servers of the Messages wire that answer 401 to x-api-key:
    ("anthropic", "ollama"): BEARER,  # https://github.com/ollama/ollama/issues/16922
    ("anthropic", "vllm"): BEARER,  # https://github.com/vllm-project/vllm/issues/51572
}
_AZURE_HOSTS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")
_OLLAMA_HOST = "ollama.com"


def open_auth(settings: ProviderSettings, key: str) -> Auth:
    """The auth of one provider. `key`: the value of the variable that `settings.api_key_env` names, "" when unset.

    A key that is missing or that no header can carry shows when a turn is signed, as CredentialsRejected: the provider
    is down, the worker is not. Raises DriverMissing for a kind whose scheme this version does not have.
    """
    if settings.kind == "bedrock":
        from loopforge.drivers.aws import open_aws_auth  # loads trio, and botocore when it is used

        return open_aws_auth(settings, key)
    if not settings.api_key_env:
        return NoKey()
    scheme = _BY_VENDOR.get((settings.kind, _vendor(settings)), _BY_KIND.get(settings.kind))
    if scheme is None:
        raise DriverMissing(
            settings.name, f"there is no way to sign requests of kind {settings.kind!r} in this version"
        )
    if wrong := what_is_wrong(key):
        return BadKey(provider=settings.name, variable=settings.api_key_env, wrong=wrong)
    if settings.kind == "zhipu_native":
        from loopforge.drivers.zhipu_jwt import ZhipuJwt, split_key  # no other kind needs it

        if (parts := split_key(key)) is not None:
            return ZhipuJwt(*parts)
    return HeaderKey(scheme=scheme, key=key)


@runtime_checkable
class Prepared(Protocol):
    """An auth with something to find before the first turn, so that no turn waits for it."""

    async def prepare(self) -> None:
        """Returns in bounded time; what it does not find is told when a request is signed."""


@dataclass(frozen=True, slots=True)
class NoKey:
    """The provider wants none: no header at all, as local servers differ in what they make of an empty one."""

    async def sign(self, request: HttpRequest) -> HttpRequest:
        return request


@dataclass(frozen=True, slots=True, kw_only=True)
class BadKey:
    """There ought to be a key, and there is none that could be sent."""

    provider: str
    variable: str
    wrong: str

    async def sign(self, request: HttpRequest) -> HttpRequest:  # noqa: ARG002 - the shape of wire.Auth
        raise CredentialsRejected(
            self.provider,
            f"the key variable {self.variable} {self.wrong}",
            action=f"set {self.variable} in the service's environment or credentials folder and restart the service",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderKey:
    """The key as it is, in one header."""

    scheme: Scheme
    key: str = field(repr=False)

    async def sign(self, request: HttpRequest) -> HttpRequest:
        value = f"{self.scheme.prefix}{self.key}"
        return replace(request, headers=SecretHeaders({**request.headers, self.scheme.header: value}))


class SecretHeaders(dict[str, str]):
    """Headers with a key among them: a repr shows names only."""

    def __repr__(self) -> str:
        return f"<headers {', '.join(self)}>"

    __str__ = __repr__


def _vendor(settings: ProviderSettings) -> str:
    if settings.vendor:
        return settings.vendor
    try:
        host = urlsplit(settings.base_url).hostname or ""
    except ValueError:  # the transport says what is wrong with it
        return ""
    if host == _OLLAMA_HOST or host.endswith(f".{_OLLAMA_HOST}"):
        return "ollama"
    return "azure" if host.endswith(_AZURE_HOSTS) else ""


def what_is_wrong(key: str) -> str:
    """A clause without the key in it, "" for a key that can be sent. Real keys are printable ASCII without blanks."""
    if not key:
        return "is not set"
    if any(char.isspace() for char in key):
        return "holds a key with a blank or line feed in it"
    if not (key.isascii() and key.isprintable()):
        return "holds a key with a character that no API key has"
    return ""

"""What a base_url says: whether it can be used, whose API it is, and whether it leaves this machine. Pure.

Hosts: the vendors' API references; the names are those of the profiles in drivers/vendors.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from loopforge.runtime.config.findings import looks_like_key

OLLAMA_PORT = 11434  # wherever it is; the other ports are too common to mean anything far away
_VENDOR_OF_NEAR_PORT = {1234: "lmstudio", 8000: "vllm", 8080: "llamacpp"}

# The host itself or a domain above it.
_VENDOR_OF_DOMAIN = {
    "api.openai.com": "openai",
    "api.deepseek.com": "deepseek",
    "api.moonshot.ai": "kimi",
    "api.moonshot.cn": "kimi",
    "api.kimi.com": "kimi",
    "aliyuncs.com": "qwen",
    "open.bigmodel.cn": "glm",
    "api.z.ai": "glm",
    "api.minimax.chat": "minimax",
    "api.minimaxi.com": "minimax",
    "api.minimax.io": "minimax",
    "api.nvidia.com": "nvidia",
    "ollama.com": "ollama",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.x.ai": "xai",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
}
GENERIC = "generic"
VENDORS: tuple[str, ...] = (
    *dict.fromkeys([*_VENDOR_OF_DOMAIN.values(), *_VENDOR_OF_NEAR_PORT.values()]),
    GENERIC,
)

OTHER_VENDORS = ("anthropic", "google", "vertex")
"""Of kinds that have profiles of their own, or one vendor alone."""
_MESSAGES_VENDORS = frozenset({
    "azure", "openrouter", "minimax", "deepseek", "glm", "kimi", "qwen", "ollama", "vllm", "llamacpp", "lmstudio",
})  # fmt: skip
VENDORS_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "openai_compatible": VENDORS,
    "anthropic": ("anthropic", *sorted(_MESSAGES_VENDORS), GENERIC),
    "gemini": ("google", "vertex"),
    "bedrock": (),
    "dashscope_native": ("qwen", GENERIC),
    "zhipu_native": ("glm",),
    "minimax_native": ("minimax", GENERIC),
}
"""What may be written in `vendor`, by kind: what that kind's driver tells apart."""
_VENDOR_OF_KIND = {"gemini": "google", "dashscope_native": "qwen", "zhipu_native": "glm", "minimax_native": "minimax"}

_QUERY_OF_VENDOR = {
    "azure": re.compile("api-version="),
    "minimax": re.compile(r"GroupId=\d+$"),  # which keys of old accounts want beside them
}

_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f]")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


def guess_vendor(base_url: str) -> str:
    """The profile that fits a usable base_url; "generic" when none is known to."""
    host, port = _host(base_url), urlsplit(base_url).port
    if port == OLLAMA_PORT:
        return "ollama"
    if _is_near(host):
        return _VENDOR_OF_NEAR_PORT.get(port or 0, GENERIC)
    labels = host.split(".")
    for start in range(len(labels)):
        if vendor := _VENDOR_OF_DOMAIN.get(".".join(labels[start:])):
            return vendor
    return GENERIC


def vendor_of(kind: str, base_url: str) -> str:
    """The vendor in the words of that kind's driver, by a usable base_url; "" where there is nothing to choose."""
    if kind == "openai_compatible":
        return guess_vendor(base_url)
    if kind == "anthropic":
        if _is_at(base_url, "api.anthropic.com"):
            return "anthropic"
        gateway = guess_vendor(base_url)
        return gateway if gateway in _MESSAGES_VENDORS else GENERIC
    if kind == "gemini" and _is_at(base_url, "aiplatform.googleapis.com"):
        return "vertex"
    return _VENDOR_OF_KIND.get(kind, "")


def _is_at(base_url: str, domain: str) -> bool:
    host = _host(base_url)
    return host == domain or host.endswith((f".{domain}", f"-{domain}"))  # us-central1-aiplatform…


def is_loopback(base_url: str) -> bool:
    """Whether a usable base_url stays on this machine. 0.0.0.0 connects to it, too."""
    host = _host(base_url)
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def is_exposed(base_url: str) -> bool:
    """Whether a key sent to it crosses networks unencrypted: http, and not plainly somewhere near."""
    host = _host(base_url)
    has_domain = "." in host or ":" in host
    return base_url.lower().startswith("http://") and has_domain and not _is_near(host)


def trouble_with(base_url: str) -> tuple[str, str] | None:
    """(what is wrong, what to write instead), or None for a usable URL. Never repeats credentials."""
    if _UNPRINTABLE.search(base_url):
        return "a URL has no spaces or control characters", "remove them"
    try:
        url = urlsplit(base_url)
        _ = url.port
    except ValueError:  # a port that is none, an unclosed bracket; its text may quote a password
        return "the host or port is not well formed", 'write it like "https://api.example.com:443/v1"'
    if "@" in base_url.partition("://")[2].partition("/")[0] or "@" in base_url.partition("/")[0]:
        return "a URL here carries no user name or password", "name the key's variable in api_key_env instead"
    if url.scheme not in ("http", "https"):
        return _trouble_with_scheme(base_url, url)
    if not url.hostname:
        return "the URL names no host", f'write it like "{url.scheme}://api.example.com/v1"'
    if _address(url.hostname) is None and not _HOST.fullmatch(url.hostname):
        return "that is not a host name", "write letters, digits, dots and dashes; other scripts as xn--…"
    if url.fragment or base_url.endswith("#"):
        return "a base URL has no part behind #", "remove it"
    return _trouble_with_query(base_url, url)


def _trouble_with_scheme(base_url: str, url: SplitResult) -> tuple[str, str]:
    if "://" not in base_url:
        if looks_like_key(base_url):
            return "that is no URL", "name the key's variable in api_key_env instead"
        near = "http" if base_url.startswith(("localhost", "127.", "[")) else "https"
        return "the URL has no http:// or https:// in front", f'write "{near}://{base_url}"'
    return f"{url.scheme or 'a URL that begins with '}:// cannot be used", "write an http:// or https:// URL"


def _trouble_with_query(base_url: str, url: SplitResult) -> tuple[str, str] | None:
    """Paths are appended to a base URL, so nothing may follow its path; and keys hide in queries."""
    taken = _QUERY_OF_VENDOR.get(guess_vendor(base_url))
    if "?" not in base_url or (taken and taken.match(url.query)):
        return None
    return "a base URL has no part behind ?", "remove it; a key goes into the variable that api_key_env names"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(base_url: str) -> str:
    return (urlsplit(base_url).hostname or "").rstrip(".")


def _is_near(host: str) -> bool:
    """On this machine or in a private network."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith((".localhost", ".local", ".lan", ".internal"))
    return address.is_loopback or address.is_private or address.is_unspecified

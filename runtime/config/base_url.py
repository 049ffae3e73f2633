"""What a base_url says: whether it can be used, whose API it is, and whether it leaves this machine. Pure.

Hosts: the vendors' API references; the names are those of the profiles in drivers/vendors.py.
"""

from __future__ import annotations

import difflib
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
_FRONT = re.compile(r"([A-Za-z]{2,8})(?:[:;.,]*[/\\]+|[:;](?!\d))")
"""What may be meant as a scheme: http//x, https:/x, htp://x, https:x, http:\\x. A number behind a colon is a port."""
_AGAIN = re.compile(r"(?:(https?)(?:[:;]?[/\\]{2,}|:(?!\d)))+", re.IGNORECASE)
_LIKE_HTTP = 0.75  # of difflib: a letter that is missing, doubled or twisted; "ftp" and "tcp" are far from it
_REQUEST_PATH = re.compile(r"/(?:chat/completions|completions|messages|responses|embeddings|(?<=/v1/)models)/*$")
_OLLAMA_PATH = re.compile(r"/api(?:/(?:chat|generate|tags|embed|embeddings|version))?/*$")
"""Of Ollama's own API, which is another wire than the ones that it shares with others."""
_MODEL_METHOD = re.compile(r"/models/[^/]+:(?:streamG|g)enerateContent/*$")
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
    if (mended := _with_scheme(base_url)) is not None:
        return _trouble_with_scheme(base_url, mended)
    try:
        url = urlsplit(base_url)
        _ = url.port
    except ValueError:  # a port that is none, an unclosed bracket; its text may quote a password
        return "the host or port is not well formed", 'write it like "https://api.example.com:443/v1"'
    if "@" in base_url.partition("://")[2].partition("/")[0] or "@" in base_url.partition("/")[0]:
        return "a URL here carries no user name or password", "name the key's variable in api_key_env instead"
    if url.scheme not in ("http", "https"):
        return f"{url.scheme or 'a URL that begins with '}:// cannot be used", "write an http:// or https:// URL"
    if not url.hostname:
        return "the URL names no host", f'write it like "{url.scheme}://api.example.com/v1"'
    if _address(url.hostname) is None and not _HOST.fullmatch(url.hostname):
        return "that is not a host name", "write letters, digits, dots and dashes; other scripts as xn--…"
    if url.fragment or base_url.endswith("#"):
        return "a base URL has no part behind #", "remove it"
    return _trouble_with_query(base_url, url)


def without_request_path(base_url: str) -> str | None:
    """A usable base_url that ends in the path of a request, without it; None for one that does not."""
    url = urlsplit(base_url)
    path = _MODEL_METHOD.sub("", _REQUEST_PATH.sub("", url.path))
    if url.port == OLLAMA_PORT:
        path = _OLLAMA_PATH.sub("/v1", path)
    return None if path == url.path else url._replace(path=path).geturl()


def _with_scheme(base_url: str) -> str | None:
    """The URL as it was meant, when its scheme is misspelt, left out or there twice; else None."""
    scheme, mark, rest = base_url.partition("://")
    again = _AGAIN.match(rest)
    if mark and scheme.lower() in ("http", "https"):
        if again is None:
            return None
    elif (front := _FRONT.match(base_url)) and difflib.get_close_matches(
        front[1].lower(), ("http", "https"), n=1, cutoff=_LIKE_HTTP
    ):
        scheme, rest = front[1], base_url[front.end() :].replace("\\", "/")
        again = _AGAIN.match(rest)
    elif mark and scheme:
        return None
    else:
        rest = base_url.lstrip(":/")
        scheme, again = "http" if _is_without_tls(rest) else "https", None
    if again is not None:
        scheme, rest = again[1], rest[again.end() :]
    return f"{'https' if scheme.lower().endswith('s') else 'http'}://{rest}"


def _trouble_with_scheme(base_url: str, mended: str) -> tuple[str, str]:
    if looks_like_key(base_url) or looks_like_key(mended.partition("://")[2]):
        return "that is no URL", "name the key's variable in api_key_env instead"
    twice = "://" in base_url and base_url.partition("://")[0].lower() in ("http", "https")
    what = "the URL has a scheme twice" if twice else "the URL has no http:// or https:// in front"
    return trouble_with(mended) or (what, f'write "{mended}"')


def _is_without_tls(place: str) -> bool:
    """Whether the server at "host:port/path" is most likely one that runs at home."""
    try:
        url = urlsplit(f"//{place}")
        host, port = url.hostname or "", url.port
    except ValueError:
        return False
    return port == OLLAMA_PORT or _is_near(host) or (port is not None and "." not in host)


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

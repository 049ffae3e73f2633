"""auth.py: which header carries the key, and that the key shows nowhere else."""

from __future__ import annotations

import pytest

from loopforge.drivers.auth import open_auth
from loopforge.drivers.errors import CredentialsRejected, DriverMissing
from loopforge.drivers.registry import Kind, ProviderSettings
from loopforge.drivers.wire import Auth, HttpRequest

KEY = "sk-4f9a-secret"
REQUEST = HttpRequest(url="https://api.acme.test/v1", headers={"content-type": "application/json"}, body=b"{}")


def settings(**members: object) -> ProviderSettings:
    return ProviderSettings(**{"name": "acme", "kind": "openai_compatible", "api_key_env": "ACME_KEY", **members})  # type: ignore[arg-type] # members of the class


async def headers_of(auth: Auth) -> dict[str, str]:
    signed = await auth.sign(REQUEST)
    assert (signed.url, signed.method, signed.body) == (REQUEST.url, REQUEST.method, REQUEST.body)
    return {name: value for name, value in signed.headers.items() if name != "content-type"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("openai_compatible", {"authorization": f"Bearer {KEY}"}),
        ("dashscope_native", {"authorization": f"Bearer {KEY}"}),
        ("minimax_native", {"authorization": f"Bearer {KEY}"}),
        ("anthropic", {"x-api-key": KEY}),
        ("gemini", {"x-goog-api-key": KEY}),
    ],
)
async def test_each_kind_has_its_header(kind: Kind, expected: dict[str, str]) -> None:
    assert await headers_of(open_auth(settings(kind=kind), KEY)) == expected


@pytest.mark.parametrize(
    "members", [{"vendor": "azure"}, {"base_url": "https://acme.openai.azure.com/openai/deployments/x"}]
)
async def test_azure_has_a_header_of_its_own(members: dict[str, str]) -> None:
    assert await headers_of(open_auth(settings(**members), KEY)) == {"api-key": KEY}


@pytest.mark.parametrize("members", [{"vendor": "ollama"}, {"base_url": "https://ollama.com"}, {"vendor": "vllm"}])
async def test_some_servers_take_a_bearer_key_on_anthropics_wire_too(members: dict[str, str]) -> None:
    assert await headers_of(open_auth(settings(kind="anthropic", **members), KEY)) == {"authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize("host", ["api.anthropic.com", "openrouter.ai", "ollama.com.example", "notollama.com"])
async def test_other_gateways_of_anthropics_wire_take_its_header(host: str) -> None:
    auth = open_auth(settings(kind="anthropic", base_url=f"https://{host}"), KEY)
    assert await headers_of(auth) == {"x-api-key": KEY}


async def test_a_vendor_that_is_named_outranks_the_address() -> None:
    auth = open_auth(settings(vendor="openai", base_url="https://gateway.openai.azure.com/v1"), KEY)
    assert await headers_of(auth) == {"authorization": f"Bearer {KEY}"}


async def test_a_provider_without_a_key_gets_no_header_at_all() -> None:
    assert await open_auth(settings(api_key_env=""), "").sign(REQUEST) is REQUEST


async def test_a_key_that_nobody_asked_for_is_not_sent() -> None:
    assert await open_auth(settings(api_key_env=""), KEY).sign(REQUEST) is REQUEST


async def test_a_missing_key_names_the_variable_and_what_to_do() -> None:
    with pytest.raises(CredentialsRejected) as caught:
        await open_auth(settings(), "").sign(REQUEST)
    assert caught.value.provider == "acme"
    assert str(caught.value).startswith("acme: the key variable ACME_KEY is not set; set ACME_KEY")


@pytest.mark.parametrize(
    "key",
    [f"{KEY}\n", f" {KEY}", "sk-4f9a secret", "sk-4f9a\tsecret", "sk-4f9a\x00secret", "sk-4f9a-se“cret", "sk-é", "\n"],
)
async def test_a_key_that_no_header_can_carry_is_refused_without_being_quoted(key: str) -> None:
    auth = open_auth(settings(), key)
    with pytest.raises(CredentialsRejected) as caught:
        await auth.sign(REQUEST)
    told = f"{caught.value!r} {caught.value} {caught.value.to_fields()} {auth!r} {caught.value.__context__!r}"
    assert "ACME_KEY" in told
    for part in ("sk-", "4f9a", "secret"):
        assert part not in told


async def test_the_key_shows_in_no_repr() -> None:
    auth = open_auth(settings(), KEY)
    signed = await auth.sign(REQUEST)
    for shown in (repr(auth), str(auth), repr(signed), str(signed), f"{signed.headers}", repr(signed.headers)):
        assert KEY not in shown
    assert "authorization" in repr(signed)
    assert signed.headers["authorization"] == f"Bearer {KEY}"


async def test_an_address_that_cannot_be_read_is_left_to_the_transport() -> None:
    assert "authorization" in await headers_of(open_auth(settings(base_url="http://[::1"), KEY))


def test_a_kind_without_a_scheme_is_a_missing_driver() -> None:
    with pytest.raises(DriverMissing, match="telepathy"):
        open_auth(settings(kind="telepathy"), KEY)

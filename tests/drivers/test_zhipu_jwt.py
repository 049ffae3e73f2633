"""zhipu_jwt.py: which keys are signed, what the token says, how long it is kept, and that it shows nowhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from loopforge.drivers.auth import HeaderKey, open_auth
from loopforge.drivers.errors import CredentialsRejected
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.wire import Auth, HttpRequest, RenewableAuth
from loopforge.drivers.zhipu_jwt import LIFETIME_S, RENEW_BEFORE_S, ZhipuJwt, split_key

KEY_ID, SECRET = "0123456789abcdef0123456789abcdef", "s3cr3tS3cr3tS3cr"  # made up, in the form of real ones
KEY = f"{KEY_ID}.{SECRET}"
REQUEST = HttpRequest(url="https://open.bigmodel.test/api", headers={"content-type": "application/json"}, body=b"{}")
SETTINGS = ProviderSettings(name="acme", kind="zhipu_native", api_key_env="ACME_KEY")
NOON = 1_795_000_000.25
DATE = "Wed, 18 Nov 2026 11:06:40 GMT"  # NOON, in whole seconds


@dataclass
class Clocks:
    """Wall and monotonic, moved by hand."""

    wall_s: float = NOON
    monotonic_s: float = 50.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


def jwt_of(clocks: Clocks, key_id: str = KEY_ID, secret: str = SECRET) -> ZhipuJwt:
    return ZhipuJwt(key_id, secret, wall=clocks.wall, monotonic=clocks.monotonic)


async def token_of(auth: Auth) -> str:
    signed = await auth.sign(REQUEST)
    assert (signed.url, signed.method, signed.body) == (REQUEST.url, REQUEST.method, REQUEST.body)
    assert signed.headers["content-type"] == "application/json"
    scheme, _, token = signed.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    return token


def opened(token: str, secret: str = SECRET) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token whose signature is right, by RFC 7515 and nobody's library."""
    said, _, signature = token.rpartition(".")
    expected = base64.urlsafe_b64encode(hmac.digest(secret.encode(), said.encode(), hashlib.sha256)).rstrip(b"=")
    assert signature == expected.decode()
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in said.split("."))
    return header, claims


# -- which keys are signed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("id.secret", ("id", "secret")),
        ("a.b.c", None),
        ("plain", None),
        (".secret", None),
        ("id.", None),
        (".", None),
        ("", None),
        ("a..b", None),
    ],
)
def test_a_key_of_two_parts_is_to_be_signed(key: str, parts: tuple[str, str] | None) -> None:
    assert split_key(key) == parts


async def test_a_key_of_two_parts_becomes_a_token() -> None:
    auth = open_auth(SETTINGS, KEY)
    assert isinstance(auth, ZhipuJwt)
    assert isinstance(auth, RenewableAuth)
    assert opened(await token_of(auth))[1]["api_key"] == KEY_ID


@pytest.mark.parametrize("key", ["plain-key", "aaa.bbb.ccc"])
async def test_any_other_key_goes_as_it_is(key: str) -> None:
    auth = open_auth(SETTINGS, key)
    assert isinstance(auth, HeaderKey)
    assert await token_of(auth) == key


async def test_a_missing_key_is_told_when_a_turn_is_signed() -> None:
    with pytest.raises(CredentialsRejected, match="ACME_KEY is not set"):
        await open_auth(SETTINGS, "").sign(REQUEST)


@pytest.mark.parametrize(("key", "loaded"), [(KEY, True), ("plain-key", False)])
def test_the_signing_library_is_loaded_for_such_a_key_alone(key: str, loaded: bool) -> None:
    code = (
        "import sys\nfrom loopforge.drivers.auth import open_auth\nfrom loopforge.drivers.registry import "
        "ProviderSettings\nfrom loopforge.drivers import zhipu_native\n"
        f"open_auth(ProviderSettings(name='a', kind='zhipu_native', api_key_env='A'), {key!r})\n"
        "print('jwt' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (said.stdout.strip(), said.stderr) == (str(loaded), "")


# -- what the token says --------------------------------------------------------------------------------------------


async def test_the_token_is_the_one_that_the_platforms_own_clients_send() -> None:
    header, claims = opened(await token_of(jwt_of(Clocks())))
    assert header == {"alg": "HS256", "sign_type": "SIGN", "typ": "JWT"}
    assert claims == {"api_key": KEY_ID, "timestamp": 1_795_000_000_250, "exp": 1_795_000_210_250}


@pytest.mark.parametrize("secret", ["x", "s" * 16, "long" * 50, "12345", '{"kty":"oct"'])
async def test_a_secret_of_any_length_signs_without_a_warning(secret: str) -> None:
    assert opened(await token_of(jwt_of(Clocks(), secret=secret)), secret)


# -- how long it is kept ---------------------------------------------------------------------------------------------


async def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    clocks = Clocks()
    auth = jwt_of(clocks)
    first = await token_of(auth)
    clocks.pass_s(LIFETIME_S - RENEW_BEFORE_S - 1)
    assert await token_of(auth) == first
    clocks.pass_s(1)
    second = await token_of(auth)
    assert second != first
    assert opened(second)[1]["timestamp"] == round(clocks.wall_s * 1000)
    assert await token_of(auth) == second


@pytest.mark.parametrize(("wall_s", "monotonic_s"), [(3600.0, 0.5), (-3600.0, 0.5), (0.5, 3600.0)])
async def test_a_clock_that_was_set_and_a_machine_that_slept_make_a_new_one(wall_s: float, monotonic_s: float) -> None:
    clocks = Clocks()
    auth = jwt_of(clocks)
    first = await token_of(auth)
    clocks.wall_s += wall_s
    clocks.monotonic_s += monotonic_s
    assert await token_of(auth) != first


# -- rejected ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "again"), [("1002", True), ("1003", True), ("1000", False), ("1004", False)])
async def test_a_rejected_token_is_forgotten_and_a_new_one_worth_a_try_when_time_is_the_matter(
    code: str, again: bool
) -> None:
    clocks = Clocks()
    auth = jwt_of(clocks)
    first = await token_of(auth)
    clocks.pass_s(1)
    assert auth.rejected(CredentialsRejected("acme", "no", raw=code), {}) == again
    assert await token_of(auth) != first


@pytest.mark.parametrize(("ahead_s", "told"), [(400.0, "400 s ahead of theirs"), (-90.0, "90 s behind theirs")])
async def test_a_clock_that_differs_from_the_providers_is_named(ahead_s: float, told: str) -> None:
    error = CredentialsRejected("acme", "the token expired", raw="1003")
    jwt_of(Clocks(wall_s=NOON + ahead_s)).rejected(error, {"date": DATE})
    assert told in error.describe()
    assert "set this machine's clock" in error.action


@pytest.mark.parametrize("headers", [{}, {"date": DATE}, {"date": "nonsense"}])
async def test_a_clock_that_is_right_or_cannot_be_judged_is_not_blamed(headers: dict[str, str]) -> None:
    error = CredentialsRejected("acme", "the token expired", raw="1003")
    jwt_of(Clocks()).rejected(error, headers)
    assert "clock" not in error.describe()


async def test_neither_key_nor_token_shows() -> None:
    auth = open_auth(SETTINGS, KEY)
    token = await token_of(auth)
    signed = await auth.sign(REQUEST)
    for shown in (repr(auth), str(auth), repr(signed), str(signed), f"{signed.headers}"):
        assert not any(part in shown for part in (KEY_ID, SECRET, token, token.rpartition(".")[2]))

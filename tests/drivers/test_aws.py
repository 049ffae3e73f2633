"""aws.py: a key or a signature on what goes to AWS, its endpoint, and that nothing secret shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.auth import Prepared, open_auth
from loopforge.drivers.aws import RENEW_EVERY_S, AwsAuth
from loopforge.drivers.errors import CredentialsRejected, DriverError, TurnRefused
from loopforge.drivers.registry import AWS_DECIDES, AwsSettings, ProviderSettings, open_driver
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.transport import open_transport
from loopforge.drivers.turn import Delta, Reply, Turn, user
from loopforge.drivers.wire import Auth, HttpRequest
from tests.fakes.aws import FakeAws, open_aws

SECRET = "wJalr-very-secret"
BEARER = "ABSK-bearer-secret"
REQUEST = HttpRequest(
    url=f"{AWS_DECIDES}/model/m%3A0/converse", headers={"content-type": "application/json"}, body=b"{}"
)
MODEL = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a b~c"


def settings(aws: AwsSettings | None = None, **members: Any) -> ProviderSettings:
    return ProviderSettings(name="acme", kind="bedrock", aws_bedrock=aws, **members)


def auth_for(aws: AwsSettings | None = None, *, key: str = "", **members: Any) -> AwsAuth:
    auth = open_auth(settings(aws, **members), key)
    assert isinstance(auth, AwsAuth)
    return auth


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def ask(auth: Auth, provider: ProviderSettings, *, stream: bool = False) -> Reply:
    turn = Turn(kind="coding", messages=(user("hello"),), provider="acme", model=MODEL, stream=stream)

    async def emit(delta: Delta) -> None:
        pass

    async with open_transport(provider) as transport:
        with trio.fail_after(30):
            return await run_turn(open_driver(provider), auth, turn, transport, emit, Watchdogs(30, 30))


async def failure(auth: Auth) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await auth.sign(REQUEST)
    assert caught.value.provider == "acme"
    return caught.value


@asynccontextmanager
async def bedrock_with(key: str, secret: str) -> AsyncIterator[FakeAws]:
    async with open_aws() as aws:
        aws.secrets[key] = secret
        yield aws


@pytest.mark.usefixtures("keys")
async def test_a_signature_is_what_awss_description_of_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("", "session-token"):
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        async with bedrock_with("AKIDEXAMPLE", SECRET) as aws:
            provider = settings(base_url=aws.url, headers={"X-Trace": "a  b"})
            assert (await ask(open_auth(provider, ""), provider)).text == "signed"
            assert aws.signed_by == ["AKIDEXAMPLE"]


@pytest.mark.usefixtures("keys")
async def test_a_signature_with_another_secret_is_refused() -> None:
    async with bedrock_with("AKIDEXAMPLE", "another") as aws:
        provider = settings(base_url=aws.url)
        with pytest.raises(CredentialsRejected, match="signature does not match"):
            await ask(open_auth(provider, ""), provider)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("variables", "region", "endpoint"),
    [
        ({}, "us-east-1", "https://bedrock-runtime.us-east-1.amazonaws.com"),
        ({}, "cn-north-1", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "us-east-1", "https://bedrock-runtime-fips.us-east-1.amazonaws.com"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "eu-west-1", "https://bedrock-runtime.eu-west-1.api.aws"),
        ({"AWS_REGION": "eu-west-3"}, "", "https://bedrock-runtime.eu-west-3.amazonaws.com"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "", "https://bedrock-runtime.eu-west-2.amazonaws.com"),
        ({"AWS_REGION": "eu-west-3"}, "eu-west-1", "https://bedrock-runtime.eu-west-1.amazonaws.com"),
        ({"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "https://vpce.example/"}, "eu-west-1", "https://vpce.example"),
        ({"AWS_ENDPOINT_URL": "https://all.example"}, "eu-west-1", "https://all.example"),
        (
            {"AWS_ENDPOINT_URL": "https://all.example", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "eu-west-1",
            "https://bedrock-runtime.eu-west-1.amazonaws.com",
        ),
    ],
)
async def test_aws_decides_on_the_endpoint(
    variables: dict[str, str], region: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    signed = await auth_for(AwsSettings(region=region)).sign(REQUEST)
    assert signed.url == f"{endpoint}/model/m%3A0/converse"
    if region:
        assert f"/{region}/bedrock/aws4_request" in signed.headers["authorization"]


@pytest.mark.usefixtures("keys")
async def test_the_profile_tells_region_and_endpoint(home: Path) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(
        "[profile work]\nregion = ap-south-1\naws_access_key_id = AKIDWORK\naws_secret_access_key = s\n"
        "services = mine\n"
        "[services mine]\nbedrock_runtime =\n  endpoint_url = https://mine.example\n"
    )
    auth = auth_for(AwsSettings(region="", profile="work"))
    signed = await auth.sign(REQUEST)
    assert signed.url.startswith("https://mine.example/model/")
    assert "Credential=AKIDWORK/" in signed.headers["authorization"]  # an explicit profile outranks the environment
    assert "/ap-south-1/" in signed.headers["authorization"]
    assert auth.source == "config-file"


@pytest.mark.usefixtures("keys")
async def test_a_base_url_is_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "https://vpce.example")
    provider = settings(base_url="https://gateway.example/aws/")
    request = open_driver(provider).build_request(Turn(kind="coding", messages=(user("a"),), model="m:0"))
    signed = await open_auth(provider, "").sign(request)
    assert signed.url == "https://gateway.example/aws/model/m%3A0/converse-stream"


@pytest.mark.usefixtures("keys")
async def test_without_a_region_or_with_an_impossible_one_the_turn_says_where_to_set_it() -> None:
    for region, what in (("", "no AWS region is set"), ("not a region!", "no such AWS endpoint")):
        error = await failure(auth_for(AwsSettings(region=region)))
        assert type(error) is TurnRefused
        assert what in str(error)
        assert "[providers.acme.aws_bedrock]" in error.action
        assert error.scope == "provider"


@pytest.mark.usefixtures("keys")
async def test_a_bedrock_key_wins_over_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", BEARER)
    auth = auth_for()
    signed = await auth.sign(REQUEST)
    assert signed.headers["authorization"] == f"Bearer {BEARER}"
    assert "x-amz-date" not in signed.headers
    assert signed.url.startswith("https://bedrock-runtime.us-east-1.amazonaws.com/")
    assert auth.source == "bearer"
    assert BEARER not in f"{auth!r} {signed!r}"


async def test_the_key_of_the_settings_is_a_bedrock_key_and_needs_nothing_of_aws() -> None:
    auth = auth_for(key=BEARER, api_key_env="MY_KEY", base_url="https://gateway.example")
    request = HttpRequest(url="https://gateway.example/model/m/converse", body=b"{}")
    await auth.prepare()
    signed = await auth.sign(request)
    assert (signed.url, signed.headers["authorization"]) == (request.url, f"Bearer {BEARER}")


@pytest.mark.parametrize("key", ["", "two words"])
async def test_a_named_key_that_is_missing_or_no_key_is_told_without_looking_further(key: str) -> None:
    error = await failure(open_auth(settings(api_key_env="MY_KEY"), key))
    assert type(error) is CredentialsRejected
    assert "MY_KEY" in str(error)
    assert "words" not in str(error)


async def test_a_bedrock_key_of_the_environment_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "two words")
    error = await failure(open_auth(settings(), ""))
    assert "AWS_BEARER_TOKEN_BEDROCK" in str(error)


@pytest.mark.usefixtures("keys")
async def test_the_secret_shows_nowhere() -> None:
    auth = auth_for()
    signed = await auth.sign(REQUEST)
    for shown in (repr(auth), str(auth), repr(signed), str(signed), repr(signed.headers), str(dict(signed.headers))):
        assert SECRET not in shown
    assert "authorization" in repr(signed)
    assert "AKIDEXAMPLE" not in repr(signed)


async def test_preparing_finds_the_credentials_and_tells_failures_to_the_turns(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    auth = auth_for()
    assert isinstance(auth, Prepared)
    await auth.prepare()
    assert auth.source == ""
    assert type(await failure(auth)) is CredentialsRejected
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    await auth.prepare()
    assert auth.source == "env"


async def test_credentials_that_have_expired_before_their_time_are_looked_for_anew_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with open_aws() as aws:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/container")
        provider = settings(base_url=aws.url)
        auth = open_auth(provider, "")
        assert (await ask(auth, provider)).text == "signed"
        aws.expired.add("AKID1")
        with pytest.raises(CredentialsRejected):
            await ask(auth, provider)  # what was found is seconds old: it is not looked for anew
        mock_clock.jump(RENEW_EVERY_S)
        assert (await ask(auth, provider)).text == "signed"
        assert aws.signed_by == ["AKID1", "AKID2"]


@pytest.mark.usefixtures("keys")
async def test_expired_keys_of_the_environment_are_not_sent_twice() -> None:
    async with bedrock_with("AKIDEXAMPLE", SECRET) as aws:
        aws.expired.add("AKIDEXAMPLE")
        provider = settings(base_url=aws.url)
        with pytest.raises(CredentialsRejected, match="renew the AWS session"):
            await ask(open_auth(provider, ""), provider)
        assert len(aws.asked) == 1


async def test_credentials_in_a_file_are_read_again_when_it_has_changed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    auth = auth_for()
    assert type(await failure(auth)) is CredentialsRejected
    file = home / ".aws" / "credentials"
    file.parent.mkdir()
    for key in ("AKIDFIRST", "AKIDSECOND-AND-LONGER"):
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")
        for _ in range(2):
            assert f"Credential={key}/" in (await auth.sign(REQUEST)).headers["authorization"]
    assert auth.source == "shared-credentials-file"

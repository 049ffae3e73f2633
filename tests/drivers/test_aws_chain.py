"""aws_chain.py: each place that AWS's chain looks at works on trio, against fakes on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from loopforge.drivers.aws_chain import AwsChain, open_chain
from loopforge.drivers.errors import CredentialsRejected, DriverError
from loopforge.drivers.registry import AwsSettings
from tests.fakes.aws import FakeAws, open_aws
from tests.fakes.tcp import closed_port

ROLE_ARN = "arn:aws:iam::123456789012:role/agents"
START_URL = "https://acme.awsapps.example/start"


@pytest.fixture(autouse=True)
def no_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def write(home: Path, name: str, text: str) -> None:
    (home / ".aws").mkdir(exist_ok=True)
    (home / ".aws" / name).write_text(text)


def use(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)


async def found(profile: str = "") -> tuple[str, str, str | None, str]:
    """Key, secret, token, and who gave them."""
    chain = open_chain("acme", AwsSettings(profile=profile))
    with trio.fail_after(30):
        got = await chain.wait_credentials()
    return got.access_key, got.secret_key, got.token, chain.source


async def failure(profile: str = "") -> DriverError:
    with pytest.raises(DriverError) as caught, trio.fail_after(30):
        await open_chain("acme", AwsSettings(profile=profile)).wait_credentials()
    assert caught.value.provider == "acme"
    assert caught.value.action
    return caught.value


async def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    assert await found() == ("AKID", "s", "t", "env")


async def test_the_shared_credentials_file_by_profile(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[default]\naws_access_key_id = AKID1\naws_secret_access_key = s1\n"
    write(home, "credentials", f"{text}[work]\naws_access_key_id = AKID2\naws_secret_access_key = s2\n")
    assert await found() == ("AKID1", "s1", None, "shared-credentials-file")
    assert await found("work") == ("AKID2", "s2", None, "shared-credentials-file")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert (await found())[0] == "AKID2"


async def test_an_explicit_profile_takes_the_environment_out_of_the_chain(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    write(home, "config", "[profile work]\naws_access_key_id = AKIDWORK\naws_secret_access_key = s\n")
    assert (await found())[0] == "AKIDENV"
    assert (await found("work"))[0] == "AKIDWORK"


async def test_a_credential_process(home: Path) -> None:
    script = home / "give.py"
    script.write_text(
        "import json\nprint(json.dumps({'Version': 1, 'AccessKeyId': 'AKIDP', 'SecretAccessKey': 's', "
        "'SessionToken': 't', 'Expiration': '2099-01-01T00:00:00Z'}))"
    )
    write(home, "config", f"[default]\ncredential_process = {shlex.join([sys.executable, str(script)])}\n")
    assert await found() == ("AKIDP", "s", "t", "custom-process")


async def test_a_credential_process_that_fails_is_not_quoted(home: Path) -> None:
    script = home / "fail.py"
    script.write_text("import sys\nsys.exit('the vault says hunter2')")
    write(home, "config", f"[default]\ncredential_process = {shlex.join([sys.executable, str(script)])}\n")
    error = await failure()
    assert type(error) is CredentialsRejected
    assert "credential_process" in str(error)
    assert "hunter2" not in f"{error} {error!r} {error.__context__!r}"


async def test_the_metadata_service_by_its_second_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    async with open_aws() as aws:
        use(aws, monkeypatch)
        assert await found() == ("AKID1", "secret-1", "token-1", "iam-role")
        assert aws.asked[0] == "/imds/latest/api/token"


async def test_credentials_that_are_about_to_expire_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_aws(lives=timedelta(minutes=5)) as aws:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/container")
        chain = open_chain("acme", AwsSettings())
        first = await chain.wait_credentials()
        aws.lives = timedelta(hours=6)
        later = [(await chain.wait_credentials()).access_key for _ in range(3)]
        assert first.access_key < later[0]
        assert len(set(later)) == 1
        assert later[0] == f"AKID{aws.given}"


async def test_turns_that_sign_at_the_same_moment_renew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_aws(lives=timedelta(minutes=5)) as aws:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/container")
        chain = open_chain("acme", AwsSettings())
        await chain.wait_credentials()
        aws.lives, before = timedelta(hours=6), aws.given
        got: list[str] = []

        async def sign() -> None:
            got.append((await chain.wait_credentials()).access_key)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(sign)
        assert got == [f"AKID{before + 1}"] * 20
        assert aws.given == before + 1


async def test_a_metadata_service_that_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    async with open_aws(refuses={"imds"}) as aws:
        use(aws, monkeypatch)
        assert "no AWS credentials were found" in str(await failure())


async def test_a_web_identity(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = home / "token"
    token.write_text("web-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE_ARN)
    async with open_aws() as aws:
        use(aws, monkeypatch)
        assert await found() == ("AKID1", "secret-1", "token-1", "assume-role-with-web-identity")
        token.write_text("another")
        error = await failure()
    assert type(error) is CredentialsRejected
    assert "AssumeRoleWithWebIdentity failed with AccessDenied" in str(error)
    assert "hidden-detail" not in str(error)


async def test_a_role_that_a_profile_assumes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "credentials", "[base]\naws_access_key_id = AKIDB\naws_secret_access_key = s\n")
    write(home, "config", f"[profile work]\nrole_arn = {ROLE_ARN}\nsource_profile = base\nregion = us-east-1\n")
    async with open_aws() as aws:
        use(aws, monkeypatch)
        assert await found("work") == ("AKID1", "secret-1", "token-1", "assume-role")


async def test_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_aws() as aws:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/container")
        assert await found() == ("AKID1", "secret-1", "token-1", "container-role")


# -- logins: botocore decides when it is loaded where their tokens lie, so each of these is a process of its own -------

SSO_ROLE = "sso_account_id = 123456789012\nsso_role_name = agents\n"
SSO_PLACE = f"sso_start_url = {START_URL}\nsso_region = us-east-1\n"
LEGACY = f"[profile work]\n{SSO_PLACE}{SSO_ROLE}"
SESSION = f"[profile work]\nsso_session = mine\n{SSO_ROLE}[sso-session mine]\n{SSO_PLACE}"
LATER, EARLIER = datetime.now(UTC) + timedelta(hours=3), datetime.now(UTC) - timedelta(hours=1)
LOOK = """
import json, trio
from loopforge.drivers.aws_chain import open_chain
from loopforge.drivers.errors import DriverError
from loopforge.drivers.registry import AwsSettings

chain = open_chain("acme", AwsSettings(profile="work"))
try:
    got = trio.run(chain.wait_credentials)
    told = [got.access_key, got.secret_key, got.token, chain.source]
except DriverError as error:
    told = error.to_fields()
print(json.dumps(told))
"""
FOUND = ["AKID1", "secret-1", "token-1", "sso"]


async def found_by_a_process(**variables: str) -> Any:
    """What the chain of a new process finds for the profile work: as `found`, or an error's fields."""
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-c", LOOK], capture_stdout=True, env={**os.environ, **variables}
        )
    return json.loads(done.stdout)


def sso_token(home: Path, name: str, *, expires: datetime, **members: str) -> None:
    """What `aws sso login` leaves behind."""
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    stamp = expires.strftime("%Y-%m-%dT%H:%M:%SZ")
    token = {"startUrl": START_URL, "region": "us-east-1", "accessToken": "sso-token", "expiresAt": stamp, **members}
    (cache / f"{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()}.json").write_text(json.dumps(token))


@pytest.mark.parametrize(("config", "name"), [(LEGACY, START_URL), (SESSION, "mine")])
async def test_a_login_of_either_form(config: str, name: str, home: Path) -> None:
    write(home, "config", config)
    sso_token(home, name, expires=LATER)
    async with open_aws() as aws:
        assert await found_by_a_process(**aws.environment()) == FOUND
        assert "/token" not in aws.asked


async def test_a_login_session_whose_token_is_refreshed(home: Path) -> None:
    write(home, "config", SESSION)
    registration = LATER.strftime("%Y-%m-%dT%H:%M:%SZ")
    sso_token(
        home, "mine", expires=EARLIER, refreshToken="r", clientId="c", clientSecret="cs",
        registrationExpiresAt=registration,
    )  # fmt: skip
    async with open_aws(sso_token="sso-token-2") as aws:
        assert await found_by_a_process(**aws.environment()) == FOUND
        assert aws.asked[0] == "/token"


@pytest.mark.parametrize("config", [LEGACY, SESSION])
async def test_a_login_that_has_expired_says_to_log_in_again(config: str, home: Path) -> None:
    write(home, "config", config)
    sso_token(home, "mine", expires=EARLIER)
    sso_token(home, START_URL, expires=EARLIER)
    async with open_aws() as aws:
        error = await found_by_a_process(**aws.environment())
    assert error["class"] == "CredentialsRejected"
    assert "aws sso login --profile work" in error["action"]


async def test_whoever_gives_credentials_and_cannot_be_reached_is_unavailable(home: Path) -> None:
    write(home, "config", SESSION)
    sso_token(home, "mine", expires=LATER)
    error = await found_by_a_process(AWS_ENDPOINT_URL_SSO=f"http://127.0.0.1:{closed_port()}")
    assert error["class"] == "ProviderUnavailable"


# -- what is told when there are none ---------------------------------------------------------------------------------


async def test_nobody_who_gives_any_is_told_with_the_places_looked_at(home: Path) -> None:
    error = await failure()
    assert type(error) is CredentialsRejected
    assert str(error).startswith("acme: no AWS credentials were found for profile 'default'; looked at: env, ")
    for place in ("shared-credentials-file", "sso", "custom-process", "container-role", "iam-role"):
        assert place in str(error)
    assert "env, " not in str(await failure_of_profile(home))


async def failure_of_profile(home: Path) -> DriverError:
    write(home, "config", "[profile empty]\nregion = us-east-1\n")
    return await failure("empty")


def test_a_profile_that_is_not_there_is_named() -> None:
    with pytest.raises(CredentialsRejected, match=r"profile \(nobody\) could not be found"):
        open_chain("acme", AwsSettings(profile="nobody"))


async def test_keys_of_which_one_is_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    assert "PartialCredentialsError" in str(await failure())


async def test_a_look_up_that_is_cancelled_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    async with open_aws() as aws:
        use(aws, monkeypatch)
        chain: AwsChain = open_chain("acme", AwsSettings())
        with trio.CancelScope() as scope:
            scope.cancel()
            await chain.wait_credentials()
        assert scope.cancelled_caught
        assert (await chain.wait_credentials()).access_key

"""Where AWS keeps region, endpoint and credentials, looked up by its own libraries, and SigV4 by botocore.

aiobotocore runs on trio when its HTTP session is HttpxSession, said on the session: the clients that fetch credentials
ask there. The rest of it is not used: no client is made for the call itself, whose body and answer are the driver's.
Loads some 350 modules and 20 MB: only the worker of a provider at AWS imports this.

Chain: https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html; what of it works on trio was tried
with aiobotocore 3.10 and botocore 1.43 (tests/drivers/test_aws_chain.py).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final, Protocol

from aiobotocore.config import AioConfig
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointProviderError,
    HTTPClientError,
    InvalidRegionError,
    LoginError,
    MetadataRetrievalError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as AwsConnectionError
from botocore.utils import validate_region_name

from loopforge.drivers.errors import CredentialsRejected, DriverError, ProviderUnavailable, TurnRefused, quote
from loopforge.drivers.registry import AwsSettings
from loopforge.drivers.wire import HttpRequest

SIGNING_NAME: Final = "bedrock"
SERVICE: Final = "bedrock-runtime"
CONNECT_S: Final = 5.0
READ_S: Final = 10.0
"""Of the services that give credentials (STS, SSO); the metadata service has shorter ones of its own."""

_REGION_VARIABLE = "AWS_REGION"  # of the other SDKs; botocore itself reads AWS_DEFAULT_REGION alone
_FILES = ("credentials_file", "config_file")  # their names among botocore's variables


_FAILURES = (BotoCoreError, ClientError, OSError, ValueError, KeyError)

# What they would log is told as an error; and their traces quote what a credential process has printed.
for _name in ("botocore", "aiobotocore"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Credentials(Protocol):
    """What a request is signed with, as it is at one moment."""

    access_key: str
    secret_key: str
    token: str | None


def open_chain(provider: str, aws: AwsSettings) -> AwsChain:
    """Region and endpoint, found; credentials are looked for on the first wait_credentials().

    About 0.1 s of reading JSON. Raises CredentialsRejected (no such profile, unreadable file), TurnRefused (no region,
    or one that cannot be).
    """
    try:
        return AwsChain(provider, aws)
    except _FAILURES as exc:
        failure = _explained(provider, aws, exc)
    raise failure  # outside: what it comes from may quote a secret, and would hang on it


class AwsChain:
    """One look at AWS's configuration. `region`, `endpoint`: in force. `source`: who gave the credentials, or ""."""

    def __init__(self, provider: str, aws: AwsSettings) -> None:
        self._provider = provider
        self._aws = aws
        session = AioSession(profile=aws.profile or None)
        once = {"max_attempts": 1}
        session.set_default_client_config(
            AioConfig(http_session_cls=HttpxSession, connect_timeout=CONNECT_S, read_timeout=READ_S, retries=once)
        )
        self._session = session
        self._files = [Path(str(session.get_config_variable(name))).expanduser() for name in _FILES]
        self._state = self._state_of_files()
        self._found: Any = None
        self.region = self._region()
        self.endpoint = self._endpoint()

    @property
    def source(self) -> str:
        return str(self._found.method) if self._found else ""

    @property
    def outdated(self) -> bool:
        """What was found may be different by now: a person, or a tool of theirs, has written the files since."""
        return self._state != self._state_of_files()

    async def wait_credentials(self) -> Credentials:
        """The credentials in force, renewed when they are about to expire. Raises DriverError."""
        try:
            if self._found is None:
                self._found = await self._session.get_credentials()
            if self._found is not None:
                frozen: Credentials = await self._found.get_frozen_credentials()
                return frozen
            failure: DriverError = self._none_found()
        except _FAILURES as exc:
            failure = _explained(self._provider, self._aws, exc)
        raise failure

    def signed_headers(self, request: HttpRequest, credentials: Credentials) -> dict[str, str]:
        """The request's headers and those of its signature, which is good for some minutes."""
        outgoing = AWSRequest(request.method, request.url, headers=dict(request.headers), data=request.body)
        SigV4Auth(credentials, SIGNING_NAME, self.region).add_auth(outgoing)
        return {name.lower(): value for name, value in outgoing.headers.items()}

    def _region(self) -> str:
        region = self._aws.region or os.environ.get(_REGION_VARIABLE) or self._session.get_config_variable("region")
        if not region:
            raise TurnRefused(
                self._provider,
                "no AWS region is set",
                action=f"set region in [providers.{self._provider}.aws_bedrock] or {_REGION_VARIABLE}",
                scope="provider",
            )
        validate_region_name(str(region))
        return str(region)

    def _endpoint(self) -> str:
        """AWS_ENDPOINT_URL_BEDROCK_RUNTIME and its likes in the config file, else AWS's own rules for the region."""
        session = self._session
        if not session.get_config_variable("ignore_configured_endpoint_urls"):
            configured = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), SERVICE).provide()
            if configured:
                return str(configured).rstrip("/")
        loader = session.get_component("data_loader")
        rules = loader.load_service_model(SERVICE, "endpoint-rule-set-1")
        found = EndpointProvider(rules, loader.load_data("partitions")).resolve_endpoint(
            Region=self.region,
            UseFIPS=bool(session.get_config_variable("use_fips_endpoint")),
            UseDualStack=bool(session.get_config_variable("use_dualstack_endpoint")),
        )
        return str(found.url).rstrip("/")

    def _state_of_files(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_state_of(path) for path in self._files)

    def _none_found(self) -> CredentialsRejected:
        places = self._session.get_component("credential_provider").providers
        looked = ", ".join(dict.fromkeys(str(place.METHOD) for place in places))
        profile = self._session.get_config_variable("profile") or "default"
        return CredentialsRejected(
            self._provider,
            f"no AWS credentials were found for profile {profile!r}; looked at: {looked}",
            action=f"run aws configure or aws sso login, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
            f"service's environment and restart it, or name a profile in [providers.{self._provider}.aws_bedrock]",
        )


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _explained(provider: str, aws: AwsSettings, exc: Exception) -> DriverError:
    """What a failure of the look-up means. Of texts that others wrote only those are shown that hold no secret."""
    profile = f" --profile {aws.profile}" if aws.profile else ""
    what = f"the AWS credentials could not be had ({type(exc).__name__})"
    action = "correct ~/.aws/config or the AWS_ variables of the service's environment"
    match exc:
        case HTTPClientError() | AwsConnectionError() | MetadataRetrievalError():
            return ProviderUnavailable(
                provider,
                f"whoever gives the AWS credentials cannot be reached ({type(exc).__name__})",
                action="check the network, or resend after a back-off",
            )
        case ProfileNotFound():
            what, action = str(exc), "correct profile in config.toml, or add it to ~/.aws/config"
        case ClientError():
            code = quote(str(exc.response.get("Error", {}).get("Code", "")), 100)
            what = f"AWS refused to give credentials: {exc.operation_name} failed with {code}"
            action = "check the role, its trust policy and the credentials that it is assumed with"
        case CredentialRetrievalError(kwargs={"provider": "custom-process"}):
            what, action = "the credential_process of the AWS profile failed", "run its command by hand"
        case SSOError() | TokenRetrievalError() | LoginError():
            what = f"the AWS login has expired, or there is none: {quote(str(exc), 200)}"
            action = f"log in again: aws sso login{profile}"
        case EndpointProviderError() | InvalidRegionError():
            return TurnRefused(
                provider,
                f"there is no such AWS endpoint: {quote(str(exc), 200)}",
                action=f"correct region in [providers.{provider}.aws_bedrock]",
                scope="provider",
            )
    return CredentialsRejected(provider, what.rstrip("."), action=action)

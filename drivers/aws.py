"""Signs what goes to AWS: with the credentials that AWS's own chain finds (SigV4), or with a Bedrock key as it is.

Owns which of the two it is, when credentials are looked for again, and that nothing of them shows. Where AWS keeps
them, and the signature itself: aws_chain.py, which loads botocore and aiobotocore, and is loaded when it is needed.

A Bedrock key (the variable that api_key_env names, else AWS_BEARER_TOKEN_BEDROCK) wins over all credentials, as in
AWS's own SDKs: https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from loopforge.drivers.auth import BEARER, BadKey, HeaderKey, SecretHeaders, what_is_wrong
from loopforge.drivers.errors import CredentialsRejected, DriverError
from loopforge.drivers.registry import AWS_DECIDES, AwsSettings, ProviderSettings
from loopforge.drivers.wire import Auth, HttpRequest

if TYPE_CHECKING:
    from loopforge.drivers.aws_chain import AwsChain, Credentials

BEARER_VARIABLE: Final = "AWS_BEARER_TOKEN_BEDROCK"
PREPARE_S: Final = 5.0
"""How long a worker looks for credentials before it is ready; a role or a login service may be slow, or away."""
RENEW_EVERY_S: Final = 30.0

_OUTDATED = ("expiredtoken", "unrecognizedclient", "invalidclienttokenid")  # what AWS calls them, in lower case


def open_aws_auth(settings: ProviderSettings, key: str) -> Auth:
    """The auth of a provider at AWS. `key`: of the variable that `settings.api_key_env` names, "" without one."""
    variable = settings.api_key_env or BEARER_VARIABLE
    bearer = key if settings.api_key_env else os.environ.get(BEARER_VARIABLE, "")
    if (settings.api_key_env or bearer) and (wrong := what_is_wrong(bearer)):
        return BadKey(provider=settings.name, variable=variable, wrong=wrong)
    return AwsAuth(settings, bearer=bearer)


class AwsAuth:
    """Puts the endpoint, where AWS decides on it, and a key or a signature on each request.

    Credentials are kept fresh by aiobotocore where they can be renewed. Those from a file are read again when the file
    has changed, and others are looked for once when the provider takes these for outdated.
    """

    def __init__(self, settings: ProviderSettings, *, bearer: str = "") -> None:
        self._provider = settings.name
        self._aws = settings.aws_bedrock or AwsSettings()
        self._has_endpoint = bool(settings.base_url)
        self._bearer = bearer
        self._chain: AwsChain | None = None
        self._opened_at = -RENEW_EVERY_S
        self._opening = trio.Lock()

    def __repr__(self) -> str:
        return f"AwsAuth({self._provider!r})"

    @property
    def source(self) -> str:
        """Where the credentials come from, in AWS's own words ("env", "sso", "iam-role"); "" before they were found."""
        if self._bearer:
            return "bearer"
        return self._chain.source if self._chain else ""

    async def prepare(self) -> None:
        """Find endpoint and credentials ahead of the first turn, at most for PREPARE_S.

        What is wrong with them is told to each turn that is signed: the provider is down, the worker is not.
        """
        with trio.move_on_after(PREPARE_S), suppress(DriverError):
            if not self._bearer:
                await self._credentials()
            elif not self._has_endpoint:
                await self._wait_chain()

    async def sign(self, request: HttpRequest) -> HttpRequest:
        """Raises CredentialsRejected, ProviderUnavailable (whoever gives the credentials cannot be reached), and
        TurnRefused (there is no such region).
        """
        if request.url.startswith(AWS_DECIDES):
            chain = await self._wait_chain()
            request = replace(request, url=chain.endpoint + request.url.removeprefix(AWS_DECIDES))
        if self._bearer:
            return await HeaderKey(scheme=BEARER, key=self._bearer).sign(request)
        credentials = await self._credentials()
        chain = await self._wait_chain()
        return replace(request, headers=SecretHeaders(chain.signed_headers(request, credentials)))

    def rejected(self, error: CredentialsRejected, headers: Mapping[str, str]) -> bool:  # noqa: ARG002 - see wire.py
        """Whether to sign anew: when others than these credentials may be found by now, which are then looked for.

        Not more often than every RENEW_EVERY_S: of many turns in flight, each is refused. What came from the
        environment stays as it is for as long as the process lives.
        """
        outdated = error.raw.lower().startswith(_OUTDATED) and self.source not in ("bearer", "env")
        if outdated and trio.current_time() >= self._opened_at + RENEW_EVERY_S:
            self._chain = None
        return outdated

    async def _credentials(self) -> Credentials:
        return await (await self._wait_chain()).wait_credentials()

    async def _wait_chain(self) -> AwsChain:
        if self._chain is None or self._chain.outdated:
            async with self._opening:
                if self._chain is None or self._chain.outdated:
                    from loopforge.drivers.aws_chain import open_chain

                    self._chain = open_chain(self._provider, self._aws)
                    self._opened_at = trio.current_time()
        return self._chain

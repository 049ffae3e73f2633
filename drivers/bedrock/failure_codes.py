"""Which exception of the service means which class, and the status it usually comes with.

Sources: the service model of bedrock-runtime, the common errors of AWS's APIs
(https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html), and error texts that others quote.
Names in lower case and without "exception": they come as ThrottlingException, and in streams as throttlingException.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.errors import (
    CredentialsRejected,
    DriverError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)


def plain_code(name: str) -> str:
    """`ThrottlingException:http://…`, `com.amazon.coral#ThrottlingException`, `throttlingException` as one name."""
    return name.partition(":")[0].rpartition("#")[2].strip().lower().removesuffix("exception")


CODES: Mapping[str, type[DriverError]] = {
    "throttling": RateLimited,
    "throttled": RateLimited,
    "requestlimitexceeded": RateLimited,
    "toomanyrequests": RateLimited,
    "modelnotready": Overloaded,
    "serviceunavailable": Overloaded,
    "internalserver": ProviderUnavailable,
    "internalservererror": ProviderUnavailable,
    "internalfailure": ProviderUnavailable,
    "modeltimeout": ProviderUnavailable,
    "modelerror": ProviderUnavailable,
    "modelstreamerror": ProviderUnavailable,
    "servicequotaexceeded": QuotaExhausted,
    "resourcenotfound": ModelNotFound,
    "expiredtoken": CredentialsRejected,
    "expiredtokenexception": CredentialsRejected,
    "requestexpired": CredentialsRejected,
    "unrecognizedclient": CredentialsRejected,
    "invalidclienttokenid": CredentialsRejected,
    "invalidsignature": CredentialsRejected,
    "signaturedoesnotmatch": CredentialsRejected,
    "incompletesignature": CredentialsRejected,
    "missingauthenticationtoken": CredentialsRejected,
    "missingauthenticationtokenexception": CredentialsRejected,
    "notauthorized": PermissionDenied,
    "optinrequired": PermissionDenied,
    "subscriptionrequired": PermissionDenied,
}

STATUSES: Mapping[str, int] = {"validation": 400, "accessdenied": 403}
"""Codes whose text decides, with the status for where there is none: in a stream."""

"""Which error code means what on this wire: the table of failures.py.

Sources: the vendor's page of error codes, and recorded bodies. Codes are in parts, the first the most general; what is
not here by its whole name is looked up by fewer of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.errors import (
    ContentFiltered,
    CredentialsRejected,
    DriverError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    TurnRefused,
)

_CODES: Mapping[type[DriverError], str] = {
    TurnRefused: """
        InvalidParameter BadRequest InvalidURL InternalError.Algo.InvalidParameter UnsupportedOperation
        InvalidRequest InvalidFile InvalidImage InvalidSchema JsonModeNotSupported NotSupportEnableThinking
    """,
    ContentFiltered: "DataInspectionFailed IPInfringementSuspect",
    QuotaExhausted: """
        Arrearage AllocationQuota.FreeTierOnly CommodityNotPurchased PrepaidBillOverdue PostpaidBillOverdue
        insufficient_quota
    """,
    CredentialsRejected: "InvalidApiKey invalid_api_key InvalidAccessToken",
    PermissionDenied: "AccessDenied Workspace.AccessDenied WorkSpaceNotFound WorkspaceNotFound",
    ModelNotFound: "ModelNotFound Model.AccessDenied model_not_found",
    RateLimited: "Throttling LimitRequests LimitBurstRate limit_requests limit_burst_rate",
    Overloaded: "ModelServingError ModelUnavailable ServiceUnavailable",
    ProviderUnavailable: """
        RequestTimeOut InternalError SystemError ModelServiceFailed InvokePluginFailed InternalServerError
    """,
}
BY_CODE: Mapping[str, type[DriverError]] = {
    code.lower(): cls for cls, codes in _CODES.items() for code in codes.split()
}
MODERATION = (".datainspection", ".datainspectionfailed")
"""Endings of codes that are moderation, whatever they begin with."""
ACCOUNT_CODES = ("workspace.accessdenied", "workspacenotfound")
"""What they say is true of every model."""
MODEL_CODES = ("allocationquota.freetieronly",)
"""What they say is true of one model, though others of their class are not."""


def class_of_code(code: str) -> type[DriverError] | None:
    """The class of an error code in small letters, by as many of its parts as are known; None when none is."""
    if code.endswith(MODERATION):
        return ContentFiltered
    while code:
        if code in BY_CODE:
            return BY_CODE[code]
        code = code.rpartition(".")[0]
    return None

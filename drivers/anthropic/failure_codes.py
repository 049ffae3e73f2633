"""Which word of an error body means what: `error.type`, `error.details.error_code`, and the codes of gateways.

Sources: https://platform.claude.com/docs/en/api/errors, the error types of Anthropic's own SDK (anthropic 2.12.0,
types/shared/*_error_details.py), and recorded bodies. The numbers of GLM and MiniMax: drivers/vendor_codes.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.errors import (
    ContentFiltered,
    ContextTooLong,
    CredentialsRejected,
    DriverError,
    GenerationFailed,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)


def _by_code(table: Mapping[type[DriverError], tuple[str, ...]]) -> Mapping[str, type[DriverError]]:
    return {code: cls for cls, codes in table.items() for code in codes}


# Believed whatever the status.
CODES: Mapping[str, type[DriverError]] = _by_code({
    QuotaExhausted: (
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "user_profile_not_billable",
        "user_profile_billing_not_authorized",
        "billing_error",
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_balance_error",
        "exceeded_current_quota_error",
        "credit_balance_exhausted",
        "arrearage",
        "payment_required",
    ),
    RateLimited: ("ramp_limit_exceeded",),
    ProviderUnavailable: (
        "cmek_context_unavailable",
        "cmek_key_unreachable",
        "cmek_key_network_blocked",
        "compaction_unavailable",
        "request_body_timeout",
    ),
    PermissionDenied: ("organization_on_hold", "cmek_key_disabled", "organization_not_enrolled_in_beta"),
    CredentialsRejected: (
        "authentication_error",
        "authorized_error",
        "invalid_api_key",
        "invalid_authentication_error",
    ),
    ContextTooLong: ("context_length_exceeded", "exceed_context_size_error"),
    ContentFiltered: ("content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed"),
    ModelNotFound: ("model_not_found", "deploymentnotfound", "unknown_model"),
    GenerationFailed: ("tool_use_failed",),
})  # fmt: skip

# Names of what passes by itself: believed unless the status blames the request.
PASSING: Mapping[str, type[DriverError]] = _by_code({
    Overloaded: (
        "overloaded_error",
        "engine_overloaded_error",
        "server_is_overloaded",
        "service_unavailable",
        "unavailable_error",
    ),
    RateLimited: ("rate_limit_error", "rate_limit_exceeded", "rate_limit_reached_error", "too_many_requests"),
})  # fmt: skip

# The status that a type usually comes with, for where there is none: inside a 200, and in a stream.
TYPES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "bad_request_error": 400,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "api_error": 500,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "upstream_error": 502,
    "bad_gateway": 502,
    "timeout_error": 504,
    "gateway_timeout": 504,
}

ACCOUNT_CODES = frozenset({"organization_on_hold", "cmek_key_disabled"})
"""What they say is true of every model."""

"""Which error code means what, for codes that mean one thing: the tables of failures.py.

Sources: the vendors' error pages and recorded bodies. A code that only repeats the status is not here.
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
    TurnRefused,
)

_CODES: Mapping[type[DriverError], tuple[str, ...]] = {
    QuotaExhausted: (
        "insufficient_quota",
        "credit_balance_exhausted",
        "exceeded_current_quota_error",
        "insufficient_balance",
        "billing_hard_limit_reached",
        "billing_not_active",
        "arrearage",
        "payment_required",
    ),
    CredentialsRejected: (
        "invalid_api_key",
        "authentication_error",
        "invalid_authentication_error",
        "incorrect_api_key_error",
        "unauthenticated",
    ),
    ContextTooLong: (
        "context_length_exceeded",
        "exceed_context_size_error",
        "too_many_prompt_tokens",
    ),
    ContentFiltered: (
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "data_inspection_failed",
        "datainspectionfailed",
        "sensitive",
    ),
    ModelNotFound: (
        "model_not_found",
        "invalid_model",
        "deploymentnotfound",
        "model_decommissioned",
        "unknown_model",
    ),
    Overloaded: (
        "engine_overloaded_error",
        "overloaded_error",
        "server_is_overloaded",
        "capacity_exceeded",
        "service_unavailable",
        "unavailable",
    ),
    RateLimited: (
        "rate_limit_exceeded",
        "rate_limit_error",
        "rate_limit_reached_error",
        "ratelimitreached",
        "slow_down",
        "too_many_requests",
        "resource_exhausted",
    ),
    GenerationFailed: ("tool_use_failed", "malformed_function_call", "output_parse_failed"),
    TurnRefused: ("unsupported_country_region_territory",),
    PermissionDenied: ("permission_error",),
    ProviderUnavailable: (
        "server_error",
        "internal_error",
        "internal_server_error",
        "api_error",
        "upstream_error",
        "bad_gateway",
        "gateway_timeout",
        "timeout",
        "timeout_error",
    ),
}

# Says nothing about the request that its status does not say better; counts only where there is no status.
WEAK_CODES: Mapping[str, type[DriverError]] = {
    "invalid_request_error": TurnRefused,
    "bad_request": TurnRefused,
    "not_found_error": ModelNotFound,
    "permission_denied": PermissionDenied,
}

BY_CODE: Mapping[str, type[DriverError]] = {code: cls for cls, codes in _CODES.items() for code in codes}
PASSING = (RateLimited, Overloaded, ProviderUnavailable)
"""Classes of what passes by itself. A status that blames the request is believed more than such a code."""

"""Error numbers of vendors that answer on several wires, and what they mean on each of them.

Sources: the vendors' error pages (docs.z.ai/api-reference/api-code, platform.minimax.io/docs/api-reference/errorcode)
and recorded bodies. A number says more than the HTTP status it comes with.
"""

from __future__ import annotations

from collections.abc import Mapping

from loopforge.drivers.errors import (
    ContentFiltered,
    ContextTooLong,
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

GLM_CODES: Mapping[str, type[DriverError]] = {
    **dict.fromkeys(("1200", "1230", "1234"), ProviderUnavailable),
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), CredentialsRejected),
    **dict.fromkeys(("1100", "1110", "1111", "1112", "1121", "1220"), PermissionDenied),
    **dict.fromkeys(("1113", "1304", "1308", "1309", "1310"), QuotaExhausted),
    **dict.fromkeys(("1120", "1312"), Overloaded),
    **dict.fromkeys(("1210", "1212", "1213", "1214", "1215", "1222", "1231"), TurnRefused),
    **dict.fromkeys(("1211", "1221", "1311"), ModelNotFound),
    "1261": ContextTooLong,
    **dict.fromkeys(("1300", "1301"), ContentFiltered),
    **dict.fromkeys(("1302", "1303", "1305", "1313"), RateLimited),
}
GLM_ACCOUNT_CODES = ("1100", "1110", "1111", "1112", "1121")
"""What they say is true of every model."""

MINIMAX_CODES: Mapping[str, type[DriverError]] = {
    **dict.fromkeys(("1000", "1001", "1013", "1024", "1033"), ProviderUnavailable),
    **dict.fromkeys(("1002", "1039", "1041", "2045"), RateLimited),
    **dict.fromkeys(("1004", "2049"), CredentialsRejected),
    **dict.fromkeys(("1008", "2056"), QuotaExhausted),
    **dict.fromkeys(("1026", "1027"), ContentFiltered),
    **dict.fromkeys(("1042", "2013", "20132", "2037", "2039", "2042", "2048"), TurnRefused),
    "2044": PermissionDenied,
}

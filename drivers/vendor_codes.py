"""Error numbers of vendors that answer on several wires, and what they mean on each of them.

Sources: the vendors' error pages (docs.z.ai/api-reference/api-code, platform.minimax.io/docs/api-reference/errorcode)
and recorded bodies. A number says more than the HTTP status it comes with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

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
from loopforge.drivers.http_failures import as_text

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
_BRACKETED: Final = re.compile(r"\((\d{4,5})\)\s*$")  # at the end of MiniMax's messages


def minimax_code(body: Mapping[str, object]) -> str:
    """The code of base_resp, which MiniMax puts into answers and errors alike; "" for none and for 0."""
    base = body.get("base_resp")
    code = as_text(base.get("status_code")) if isinstance(base, Mapping) else ""
    return "" if code == "0" else code


def minimax_message(body: Mapping[str, object]) -> str:
    """The text of base_resp."""
    base = body.get("base_resp")
    return as_text(base.get("status_msg")) if isinstance(base, Mapping) else ""


def class_of_vendor_code(
    vendor: str,
    text: str,
    *,
    base_resp: str,
    codes: Sequence[str],
    too_long: re.Pattern[str],
    no_model: re.Pattern[str],
) -> type[DriverError] | None:
    """By the tables of GLM and MiniMax, on a wire that others speak, too. None: the error names no code of theirs.

    `base_resp`: MiniMax's own code, "" for none. `codes`: the others that the error names. `too_long`, `no_model`: what
    the wire's texts say of a prompt or a model that a refused turn was about.
    """
    if not base_resp and vendor == "minimax" and (bracketed := _BRACKETED.search(text)):
        base_resp = bracketed[1]
    if base_resp:
        cls = MINIMAX_CODES.get(base_resp)
        if cls is TurnRefused and too_long.search(text):
            return ContextTooLong
        return ModelNotFound if cls is TurnRefused and no_model.search(text) else cls
    if vendor in ("glm", "generic"):
        return next((GLM_CODES[code] for code in codes if code in GLM_CODES), None)
    return None

"""Times as a person writes them on a command line: 90s, 30m, 12h, 3d, 2w, or a date with or without a time."""

from __future__ import annotations

import re
import time
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d|w)")
_SPANS = "90s, 30m, 12h, 3d or 2w"


class Span(click.ParamType[float]):
    """Seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if (seconds := _seconds(str(value))) is None:
            raise click.BadParameter(f"{value!r} is no length of time; write {_SPANS}.", ctx, param)
        return seconds


class Moment(click.ParamType[float]):
    """Unix seconds: so long ago, or a local date."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if (seconds := _seconds(str(value))) is not None:
            return time.time() - seconds
        from datetime import datetime

        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except (ValueError, OverflowError, OSError):
            message = f"{value!r} is no time; write how long ago ({_SPANS}), or a date such as 2026-11-22T18:00."
            raise click.BadParameter(message, ctx, param) from None


def _seconds(text: str) -> float | None:
    match = _SPAN.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _UNITS[match[2]]

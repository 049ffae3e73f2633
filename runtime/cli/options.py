"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from loopforge.runtime.config import paths

MAX_NAME_BYTES = 1024
"""As what a client calls things may have."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def config_option() -> Decorator:
    """--config FILE; the command's argument `config` is an absolute Path, which need not exist."""
    return click.option(
        "--config",
        metavar="FILE",
        default=None,
        help="Use this file instead of $LOOPFORGE_HOME/config.toml.",
        callback=lambda _context, _parameter, value: _config_path(value),
    )


def json_option(what: str) -> Decorator:
    """--json; the command's argument is `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON, for programs.")


def short_text(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Callback of options and arguments that name something, alone or several: what fits into a question."""
    for text in (value,) if isinstance(value, str) else value:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise click.BadParameter("it is not UTF-8 text.") from None
        if size > MAX_NAME_BYTES:
            raise click.BadParameter(f"it has {size} bytes; nothing has a name of more than {MAX_NAME_BYTES}.")
    return value


def _config_path(value: str | None) -> Path:
    return paths.config_path(value, os.environ)

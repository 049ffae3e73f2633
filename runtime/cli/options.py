"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from loopforge.runtime.config import paths

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


def _config_path(value: str | None) -> Path:
    return paths.config_path(value, os.environ)

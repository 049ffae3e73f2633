"""loopforge config: validate, show, path. Offline; no key is ever printed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loopforge.runtime.cli.exits import BAD_CONFIG, BadConfig, format_problem
from loopforge.runtime.cli.options import config_option, json_option
from loopforge.runtime.config import paths

if TYPE_CHECKING:  # `config path` needs none of the 50 ms that checking takes to import
    from loopforge.runtime.config.values import Checked, Config

HIDDEN = "(not shown)"
_SECRET_NAME = re.compile(r"key|token|secret|password|auth|cookie|credential", re.IGNORECASE)


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@config_option()
@json_option("the findings")
@click.pass_context
def validate(context: click.Context, config: Path, as_json: bool) -> None:
    """Tell every mistake in the configuration: file, line, value, what to write instead.

    Needs no network, no key and no running service. Exit code 78 when there is an error; warnings alone are fine.
    """
    checked = _check(config)
    findings = checked.config.warnings if checked.config else checked.problems
    if as_json:
        report = {"path": str(config), "valid": checked.config is not None, "problems": _plain(findings)}
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        for problem in findings:
            click.echo(format_problem(problem))
        click.echo(_verdict(checked, config))
    if checked.config is None:
        context.exit(BAD_CONFIG)


@config.command()
@click.argument("place", required=False)
@config_option()
@json_option("everything")
def show(place: str | None, config: Path, as_json: bool) -> None:
    """Show what the configuration means, with every default filled in.

    PLACE shows one table whole, such as providers.ollama, router.coding or runtime.
    """
    checked = _check(config)
    if checked.config is None:
        raise BadConfig(checked.problems)
    tables = _tables(checked.config)
    if as_json:
        keys = {name: _key(provider) for name, provider in tables["providers"].items()}
        shown = {"path": checked.config.path, **tables, "keys": keys, "warnings": _plain(checked.config.warnings)}
        if place is not None:
            shown = _table_at(tables, place)
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
    elif place is not None:
        for key, value in _table_at(tables, place).items():
            click.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    else:
        click.echo(_overview(checked.config))


@config.command()
@config_option()
def path(config: Path) -> None:
    """Print the path of the configuration file."""
    click.echo(str(config))


def _check(config: Path) -> Checked:
    from loopforge.runtime.config.load import check

    return check(config, os.environ)


def _verdict(checked: Checked, config: Path) -> str:
    if checked.config is None:
        return f"{config}: {_count(len(checked.problems), 'error')}"
    providers, routes = len(checked.config.providers), len(checked.config.routes)
    warnings = len(checked.config.warnings)
    also = f", {_count(warnings, 'warning')}" if warnings else ""
    return f"{config}: valid, {_count(providers, 'provider')}, {_count(routes, 'kind')} of task{also}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _plain(value: object) -> Any:
    from loopforge.workers.packing import to_plain

    return to_plain(value, defaults=True, text_bytes=True)


def _tables(config: Config) -> dict[str, Any]:
    """The resolved configuration in the shape of the file, secrets hidden."""
    routes = {kind: _plain(route) for kind, route in config.routes.items()}
    providers = {name: _plain(provider) for name, provider in config.providers.items()}
    for provider in providers.values():
        provider["headers"] = dict.fromkeys(provider["headers"], HIDDEN)
        provider["extra_body"] = _without_secrets(provider["extra_body"])
    return {
        "router": routes,
        "providers": providers,
        "runtime": {**_plain(config.runtime), "socket": str(_socket(config))},
        "http": _plain(config.http),
    }


def _without_secrets(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(below, key) for key, below in value.items()}
    if isinstance(value, list):
        return [_without_secrets(below, name) for below in value]
    return HIDDEN if isinstance(value, str) and _SECRET_NAME.search(name) else value


def _socket(config: Config) -> Path:
    return paths.server_socket(config.runtime.socket, os.environ)


def _key(provider: Mapping[str, Any]) -> dict[str, str]:
    name = provider["api_key_env"]
    return {"variable": name, "state": paths.key_state(name, os.environ)}


def _table_at(tables: Mapping[str, Any], place: str) -> dict[str, Any]:
    from loopforge.runtime.config.findings import did_you_mean

    section, _, name = place.partition(".")
    table = tables.get(section)
    if isinstance(table, dict) and section in ("router", "providers"):
        if name in table:
            return dict(table[name])
        known = [f"{section}.{each}" for each in table]
        raise click.UsageError(f"There is no table {place!r}; {did_you_mean(place, known)}")
    if isinstance(table, dict) and not name:
        return table
    raise click.UsageError(f"There is no table {place!r}; write providers.NAME, router.KIND, runtime or http.")


def _overview(config: Config) -> str:
    from loopforge.drivers.registry import has_driver

    routed = {target.provider for route in config.routes.values() for target in route.targets}
    routes = [
        (kind, route.lane, f"{route.deadline_s:g} s", " then ".join(f"{t.provider}/{t.model}" for t in route.targets))
        for kind, route in config.routes.items()
    ]
    providers = [
        (
            f"{'*' if name in routed else ' '} {name}",
            provider.kind if has_driver(provider.kind) else f"{provider.kind} (missing)",
            str(provider.max_concurrency),
            _key_column(provider.api_key_env),
            provider.base_url or (f"region {provider.aws_bedrock.region}" if provider.aws_bedrock else ""),
            provider.default_model or "-",
        )
        for name, provider in config.providers.items()
    ]
    lines = [
        f"file    {config.path}",
        f"socket  {_socket(config)}",
        "",
        *_columns(("KIND OF TASK", "LANE", "DEADLINE", "GOES TO"), routes),
        "",
        *_columns(("  PROVIDER", "DRIVER", "SLOTS", "KEY", "ADDRESS", "DEFAULT MODEL"), providers),
        "",
        "* serves a kind of task. All keys of one table: loopforge config show providers.NAME",
    ]
    if config.warnings:
        lines.append(f"{_count(len(config.warnings), 'warning')}: loopforge config validate")
    return "\n".join(lines)


def _key_column(name: str) -> str:
    state = paths.key_state(name, os.environ)
    return "-" if not name else f"{name} ({state})"


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]

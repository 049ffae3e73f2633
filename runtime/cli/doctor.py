"""loopforge doctor: looks at everything a turn needs, and says what to do. What is looked at: runtime/doctor/."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from loopforge.runtime.cli.exits import BAD_CONFIG, FAILED
from loopforge.runtime.cli.options import json_option
from loopforge.runtime.cli.printable import one_line

if TYPE_CHECKING:
    from loopforge.runtime.doctor.finding import Finding, Status
    from loopforge.runtime.doctor.report import Report

DEFAULT_TIMEOUT_MS = 5000
MAX_TIMEOUT_MS = 600_000
_COLOURS = {"ok": "green", "warn": "yellow", "error": "red"}


@click.command()
@click.option("--config", metavar="FILE", help="Use this file instead of $LOOPFORGE_HOME/config.toml.")
@json_option("the findings")
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@click.option(
    "--timeout-ms",
    metavar="N",
    type=click.IntRange(1, MAX_TIMEOUT_MS),
    default=DEFAULT_TIMEOUT_MS,
    show_default=True,
    help="How long each check may take; they run at the same time.",
)
@click.pass_context
def doctor(context: click.Context, *, config: str | None, as_json: bool, strict: bool, timeout_ms: int) -> None:
    """Check everything a turn needs, and say what to do next.

    Looks at the configuration, routes, key variables, the providers that routes name, Ollama's models, AWS credentials,
    the clock, permissions, disk, service and systemd unit. Providers are asked without a key and without a turn: it
    costs nothing.

    Exit code 0 when turns can be served, 1 when there is an error (with --strict: or a warning), 78 when the
    configuration has errors.
    """
    report = _examine(config, timeout_ms / 1000)
    if as_json:
        import json

        from loopforge.runtime.doctor.report import to_plain

        click.echo(json.dumps(to_plain(report), ensure_ascii=False, indent=2))
    else:
        from loopforge.runtime.doctor.report import to_lines

        shown = replace(report, findings=shown_findings(report.findings))
        click.echo("\n".join(to_lines(shown, columns(), paint)))
    context.exit(exit_code(report, strict=strict))


def exit_code(report: Report, *, strict: bool) -> int:
    if not report.valid:
        return BAD_CONFIG
    return FAILED if report.status == "error" or (strict and report.status == "warn") else 0


def shown_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """As a terminal may show them: servers and services wrote some of it."""
    return tuple(
        replace(found, what=one_line(found.what), next_step=one_line(found.next_step), action=one_line(found.action))
        for found in findings
    )


def columns() -> int:
    """Of the terminal; 0 where there is none, and no line is to be broken."""
    import shutil

    return min(shutil.get_terminal_size().columns, 120) if sys.stdout.isatty() else 0


def paint(text: str, status: Status | None) -> str:
    """For click.echo, which takes colour out again where there is no terminal."""
    if os.environ.get("NO_COLOR"):
        return text
    return click.style(text, dim=True) if status is None else click.style(text, fg=_COLOURS[status], bold=True)


def _examine(config: str | None, timeout_s: float) -> Report:
    import trio

    from loopforge.runtime.doctor.run import examine, real_tools

    async def main() -> Report:
        return await examine(config, real_tools(os.environ), timeout_s)

    return trio.run(main)

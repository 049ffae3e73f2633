"""Exit codes, and the exceptions with which a command ends early. frame.py prints them; commands only raise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # --help has no use for the configuration's classes
    from loopforge.runtime.config.values import Problem

OK = 0
FAILED = 1
USAGE = 2
TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h: the same command may work in a while
BAD_CONFIG = 78  # EX_CONFIG of sysexits.h; the systemd unit does not restart on it
INTERRUPTED = 130  # 128 + SIGINT, as shells count


class CommandFailed(click.ClickException):
    """Ends the command. The message is a sentence with the next step; wrong usage is click.UsageError."""

    exit_code = FAILED


class TryLater(CommandFailed):
    """It failed now and may work in a while."""

    exit_code = TRY_LATER


class BadConfig(CommandFailed):
    """The configuration has errors: each is printed as `config validate` prints it."""

    exit_code = BAD_CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("the configuration has errors")
        self.problems = tuple(problems)

    def show(self, file: IO[Any] | None = None) -> None:
        for problem in self.problems:
            click.echo(format_problem(problem), file=file, err=file is None)


def format_problem(problem: Problem) -> str:
    """FILE:LINE: error: PLACE: what is wrong; what to write instead. Editors know this form."""
    where = f"{problem.file}:{problem.line}" if problem.line else problem.file
    label = _style(problem.severity, fg="red" if problem.severity == "error" else "yellow", bold=True)
    place = f"{problem.place}: " if problem.place else ""
    hint = f"; {problem.suggestion}" if problem.suggestion else ""
    return f"{_style(where, bold=True)}: {label}: {place}{problem.problem}{hint}"


def _style(text: str, **style: Any) -> str:
    """For click.echo, which takes colour out again where there is no terminal; https://no-color.org is left to us."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)

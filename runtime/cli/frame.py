"""The `loopforge` command: its table of subcommands, and what a person sees when something goes wrong.

A subcommand's module is imported when that subcommand runs; `--help` prints the table below and imports none of them.
No traceback ever reaches a person: every exception ends here as one message and one exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

import loopforge
from loopforge.runtime.cli import exits

# name -> (module, attribute, help). A module that this build lacks takes its command out of --help, nothing else.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "init": ("loopforge.runtime.cli.init", "init", "Write config.toml with presets of 19 providers."),
    "config": ("loopforge.runtime.cli.config", "config", "Check and show the configuration."),
    "doctor": ("loopforge.runtime.cli.doctor", "doctor", "Check everything a turn needs, and say what to do next."),
    "route": ("loopforge.runtime.cli.route", "route", "Show and change where each kind of task goes."),
    "serve": ("loopforge.runtime.cli.serve", "serve", "Run the service in the foreground."),
    "ask": ("loopforge.runtime.cli.ask", "ask", "Send one turn and print the answer as it comes."),
    "status": ("loopforge.runtime.cli.status", "status", "Show workers, queues and turns of the running service."),
    "turns": ("loopforge.runtime.cli.turns", "turns", "List, show, follow, try again and delete turns."),
    "cancel": ("loopforge.runtime.cli.status", "cancel", "Cancel a turn of the running service."),
    "usage": ("loopforge.runtime.cli.usage", "usage", "Show tokens, tries and costs so far."),
    "reload": ("loopforge.runtime.cli.reload", "reload", "Have the running service read its configuration again."),
    "providers": ("loopforge.runtime.cli.providers", "providers", "Show the providers, ask one, report on traffic."),
    "rehearse": ("loopforge.runtime.cli.rehearse", "rehearse", "Try the routes against simulated providers: no key."),
}

# Errors of turns after which the same command may work in a while, by name so that no error module need be loaded.
_PASSING = {
    "ConnectionLost", "Draining", "Overloaded", "ProviderDown", "ProviderUnavailable", "QueueFull", "QuotaExhausted",
    "RateLimited",
}  # fmt: skip


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and help, and imports one when it is called."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str, str]] = COMMANDS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        return [name for name, (module, _, _) in self._table.items() if find_spec(module) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        if find_spec(module) is None:
            raise click.UsageError(f"This version has no command {cmd_name!r} yet.", ctx)
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._table and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][2]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed, 2 wrong usage, 75 try later, 78 bad configuration. "
    "A first turn: `loopforge init`, then `loopforge ask hello`.",
)
@click.version_option(loopforge.__version__, "-V", "--version", prog_name="loopforge", message="%(prog)s %(version)s")
def cli() -> None:
    """Keeps agents running: routes each kind of task to a provider, one worker process per provider."""


def run(arguments: Sequence[str], command: click.Command = cli) -> int:
    """Run one command line, without the program's name; the exit code. Prints whatever there is to say."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a locale without our characters shall not break a message
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command.main(args=list(arguments), prog_name="loopforge", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # so that a closed pipe shows here and not when the interpreter ends
    except SystemExit as exc:  # click's own end when the reader of its output is gone
        return exc.code if isinstance(exc.code, int) else exits.FAILED
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as exc:  # noqa: BLE001 - the end of the line
        return _end_with(_innermost(exc))
    return code if isinstance(code, int) else exits.OK


def _end_with(exc: BaseException) -> int:
    """Say what has to be said about the exception that ended a command; the exit code."""
    match exc:
        case click.exceptions.NoArgsIsHelpError():
            click.echo(exc.format_message(), err=True)
            return exits.USAGE
        case click.ClickException():
            exc.show()
            return exc.exit_code
        case click.Abort() | KeyboardInterrupt():
            return exits.INTERRUPTED
        case BrokenPipeError():
            _discard_output()
            return exits.FAILED
        case OSError() if exc.filename is not None and not _debugging():
            click.echo(f"Error: {exc.filename}: {exc.strerror}", err=True)
            return exits.FAILED
    if (code := _code_of_known(exc)) is not None:
        click.echo(f"Error: {exc}", err=True)
        return code
    return _report_unexpected(exc)


def _code_of_known(exc: BaseException) -> int | None:
    """The exit code of an error whose text is written for people: a turn's, a path's, a configuration's."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(exc).__mro__}
    if "loopforge.runtime.errors.BadConfig" in names:
        return exits.BAD_CONFIG
    if "loopforge.drivers.errors.TurnError" in names:
        return exits.TRY_LATER if _may_pass(exc) else exits.FAILED
    if "loopforge.runtime.config.paths.UnusablePath" in names:
        return exits.BAD_CONFIG
    return None


def _may_pass(exc: BaseException) -> bool:
    """A journal that cannot write names a time to try again when its disk, and no bug of ours, is why."""
    name = type(exc).__name__
    return name in _PASSING or (name == "JournalFailed" and getattr(exc, "retry_after_s", None) is not None)


def _report_unexpected(exc: BaseException) -> int:
    if _debugging():
        import traceback

        traceback.print_exception(exc)
        return exits.FAILED
    what = " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
    click.echo(
        f"Error: {what}\nThis is a bug of LoopForge runtime. Please report it with the output of the same command "
        f"under LOOPFORGE_DEBUG=1.",
        err=True,
    )
    return exits.FAILED


def _innermost(exc: BaseException) -> BaseException:
    """What a nursery wrapped, when it is one exception; an interrupt in any case."""
    while isinstance(exc, BaseExceptionGroup):
        if exc.subgroup(KeyboardInterrupt) is not None:
            return KeyboardInterrupt()
        if len(exc.exceptions) > 1:
            break
        exc = exc.exceptions[0]
    return exc


def _discard_output() -> None:
    """Whoever read our output is gone: let what is still buffered go nowhere instead of failing again at exit."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - os.devnull is no Path
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                os.dup2(nowhere.fileno(), stream.fileno())


def _debugging() -> bool:
    return os.environ.get("LOOPFORGE_DEBUG", "") not in ("", "0")

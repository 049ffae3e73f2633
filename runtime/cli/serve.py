"""loopforge serve: the service in the foreground. What it does is runtime/serve.py's; here options become values."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from loopforge.runtime.cli.exits import BadConfig, CommandFailed
from loopforge.runtime.cli.options import config_option
from loopforge.runtime.config import paths

LEVELS = ("debug", "info", "warning", "error")


@click.command()
@config_option()
@click.option("--socket", metavar="PATH", help="Listen here instead of where [runtime] socket says.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What to log on stderr."
)
@click.pass_context
def serve(context: click.Context, /, config: Path, socket: str | None, log_level: str) -> None:
    """Run the service in the foreground.

    SIGTERM finishes the running turns, for at most drain_s of [runtime], and takes no new ones; a second SIGTERM, or
    Ctrl-C, stops now. What is not finished then waits in the journal for the next start; without a journal it fails and
    the exit code is 1. It is 78 when the configuration has errors.
    """
    from loopforge.runtime.config.child import check_in_child_blocking

    checked = check_in_child_blocking(config, os.environ)
    if checked.config is None:
        raise BadConfig(checked.problems)
    path = _socket_path(socket, checked.config.runtime.socket)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the service reads its file again at one: it would end us

    import logging

    import trio

    from loopforge.runtime.cli.log_thread import logging_to_stderr
    from loopforge.runtime.journal.files import UnusableJournal
    from loopforge.runtime.listener import SocketBusy, UnusableSocket
    from loopforge.runtime.serve import serve as run_service

    with logging_to_stderr(log_level):
        for problem in checked.config.warnings:
            logging.getLogger("loopforge").warning("%s", problem)
        try:
            code = trio.run(run_service, checked.config, path)
        except* (SocketBusy, UnusableSocket, UnusableJournal) as group:
            raise CommandFailed(str(group.exceptions[0])) from None
    context.exit(code)


def _socket_path(option: str | None, configured: str) -> Path:
    """Raises UnusablePath."""
    if option is None:
        return paths.server_socket(configured, os.environ)
    return paths.server_socket(
        option, {name: value for name, value in os.environ.items() if name != "LOOPFORGE_SOCKET"}
    )

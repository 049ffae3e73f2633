"""loopforge turns: what the service's journal knows of turns, live and ended. tail is tail.py's.

Each asks the running service, which alone opens the journal. No trio, HTTP or pydantic: they start fast.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from loopforge.runtime.blocking import ask_retry
from loopforge.runtime.cli.asking import ask_journal, needing_service, show_turn
from loopforge.runtime.cli.columns import terminal_width
from loopforge.runtime.cli.exits import FAILED, CommandFailed
from loopforge.runtime.cli.options import config_option, json_option, short_text
from loopforge.runtime.cli.printable import one_line, printable
from loopforge.runtime.cli.tail import tail
from loopforge.runtime.cli.turns_text import LIVE, describe, list_lines, outcome_of, turn_json
from loopforge.runtime.cli.when import Moment, Span
from loopforge.runtime.config import paths

MAX_LISTED = 1000
"""As the service answers at most."""
PURGE_S = 600.0
"""Turns are deleted in small steps between the journal's other work."""
_IDS_AT_ONCE = 100
_STATES = (*LIVE, "done", "failed", "cancelled")


@click.group()
def turns() -> None:
    """List, show, follow, try again and delete turns of the running service."""


turns.add_command(tail)


@turns.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice((*_STATES, "live", "ended")),
    help="Only those in this state; may be given several times.",
)
@click.option("--kind", metavar="K", default="", callback=short_text, help="Only those of this kind of task.")
@click.option("--session", metavar="S", default="", callback=short_text, help="Only those of this session.")
@click.option("--provider", metavar="P", default="", callback=short_text, help="Only those last sent to this provider.")
@click.option("--since", type=Moment(), help="Accepted since then: 30m, 12h, 3d ago, or a date.")
@click.option("--before", type=Moment(), help="Accepted before that.")
@click.option("--limit", type=click.IntRange(1, MAX_LISTED), default=20, show_default=True, help="At most so many.")
@json_option("the turns, with times in unix seconds,")
@config_option()
def list_turns(states: tuple[str, ...], as_json: bool, config: Path, **query: Any) -> None:
    """List turns, newest first.

    TOOK is the time from acceptance to the outcome, so far for one that lives; SENT TO is where its last try went.
    """
    wanted = [state for name in states for state in _states_of(name)]
    told = ask_journal(config, "turns", states=wanted, **query)
    if as_json:
        listed = [turn_json(turn) for turn in told["turns"]]
        click.echo(json.dumps({"turns": listed, "more": told["more"]}, indent=2))
        return
    if not told["turns"]:
        click.echo("There are no such turns." if wanted or any(_filters(query)) else "There are no turns so far.")
        return
    click.echo("\n".join(list_lines(told["turns"], time.time(), terminal_width())))
    if told["more"]:
        click.echo("There are more: raise --limit, or narrow the list with --before, --state, --kind.", err=True)


def _states_of(name: str) -> tuple[str, ...]:
    return {"live": LIVE, "ended": _STATES[len(LIVE) :]}.get(name, (name,))


def _filters(query: dict[str, Any]) -> list[Any]:
    return [value for name, value in query.items() if name != "limit"]


@turns.command()
@click.argument("turn_id", metavar="ID", callback=short_text)
@click.option("--text", "text_only", is_flag=True, help="Print the text of its reply and nothing else.")
@json_option("everything, the reply whole,")
@config_option()
def show(turn_id: str, text_only: bool, as_json: bool, config: Path) -> None:
    """Show all that is known of a turn: its times, every try, how it ended."""
    turn = show_turn(config, turn_id)
    if as_json:
        click.echo(json.dumps(turn_json(turn, whole=True), indent=2))
    elif text_only:
        _print_text(turn)
    else:
        click.echo("\n".join(describe(turn, time.time(), terminal_width())))


def _print_text(turn: dict[str, Any]) -> None:
    text = outcome_of(turn).get("text", "")
    if text:
        shown = printable(text) if sys.stdout.isatty() else text
        click.echo(shown, nl=not shown.endswith("\n"))
    if turn["state"] in LIVE:
        raise CommandFailed("It has not ended yet; 'loopforge turns tail' follows it.")
    if turn["state"] != "done":
        rest = "that is as far as its reply had come" if text else "there is no reply"
        raise CommandFailed(f"The turn is {turn['state']}: {rest}.")


@turns.command()
@click.argument("turn_ids", metavar="ID...", nargs=-1, required=True, callback=short_text)
@config_option()
@click.pass_context
def retry(context: click.Context, turn_ids: tuple[str, ...], config: Path) -> None:
    """Try turns that failed or were cancelled again, as they were.

    Each goes on in the service, under its old id and with as much time as it had; 'loopforge turns tail ID' follows it.
    The request of such a turn is kept as long as its outcome: retain_days and retain_mb in [runtime].
    """
    from loopforge.drivers.errors import TurnError

    socket, failed = paths.client_socket(config, os.environ), False
    for turn_id in turn_ids:
        try:
            with needing_service():
                ask_retry(socket, turn_id)
        except TurnError as exc:
            if len(turn_ids) == 1:
                raise
            failed = True
            click.echo(f"Error: {one_line(turn_id)}: {exc}", err=True)
        else:
            click.echo(f"{one_line(turn_id)} is accepted again")
    if failed:
        context.exit(FAILED)


@turns.command()
@click.argument("turn_ids", metavar="[ID]...", nargs=-1, callback=short_text)
@click.option("--older-than", type=Span(), help="Those that ended so long ago: 12h, 3d.")
@click.option("--all-ended", is_flag=True, help="All that have ended.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option()
@click.pass_context
def purge(  # noqa: PLR0917 - click passes them by name
    context: click.Context,
    turn_ids: tuple[str, ...],
    older_than: float | None,
    all_ended: bool,
    yes: bool,
    config: Path,
) -> None:
    """Delete turns that have ended, with their replies, from the journal.

    One that runs or waits is left alone. What they cost stays in 'loopforge usage'. On a full disk this makes room.
    """
    if bool(turn_ids) + (older_than is not None) + all_ended != 1:
        raise click.UsageError("Name turns by their ids, or write --older-than or --all-ended: one of the three.")
    if not yes:
        _confirm(turn_ids, all_ended=all_ended)
    if turn_ids:
        packs = [turn_ids[at : at + _IDS_AT_ONCE] for at in range(0, len(turn_ids), _IDS_AT_ONCE)]
        deleted = sum(_purge(config, ids=list(ids)) for ids in packs)
    elif older_than is not None:
        deleted = _purge(config, ended_before=time.time() - older_than)
    else:
        deleted = _purge(config, all_ended=True)
    click.echo(f"deleted {_count(deleted)}")
    if deleted < len(set(turn_ids)):
        click.echo("The others are not known, or have not ended.", err=True)
        context.exit(FAILED)


def _confirm(turn_ids: tuple[str, ...], *, all_ended: bool) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on; write --yes.")
    which = _count(len(turn_ids)) if turn_ids else "every turn that has ended" if all_ended else "those turns"
    click.confirm(f"Delete {which} with their replies?", abort=True, err=True)


def _purge(config: Path, **which: Any) -> int:
    return int(ask_journal(config, "purge", answer_s=PURGE_S, **which)["turns"])


def _count(number: int) -> str:
    return "1 turn" if number == 1 else f"{number} turns"

"""loopforge status, cancel: one question to the running service. No trio, HTTP, pydantic or rich: they start fast."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from loopforge.runtime.blocking import NoAnswer, ask_cancel, ask_status
from loopforge.runtime.cli.exits import CommandFailed
from loopforge.runtime.cli.options import config_option, json_option
from loopforge.runtime.cli.printable import one_line
from loopforge.runtime.config import paths

MAX_LISTED = 20
"""Live turns in the table; --json lists all that the service tells."""
_REASON_CHARACTERS = 300


@click.command()
@config_option()
@json_option("everything the service tells")
def status(config: Path, as_json: bool) -> None:
    """Show workers, queues and turns of the running service.

    The configuration is read for the service's socket only. Exit code 1 when no service answers.
    """
    socket = paths.client_socket(config, os.environ)
    try:
        told = ask_status(socket)
    except NoAnswer as exc:
        raise CommandFailed(_sentence(exc)) from exc
    if as_json:
        import json

        click.echo(json.dumps({"socket": str(socket), **told}, indent=2))
    else:
        click.echo("\n".join(describe(told, str(socket))))


@click.command()
@click.argument("turn_id", metavar="ID")
@config_option()
def cancel(turn_id: str, config: Path) -> None:
    """Cancel a turn of the running service, whoever posted it.

    'loopforge status' lists the ids. A turn that has ended already stays as it is: that is no failure.
    """
    try:
        turn_id.encode()
    except UnicodeEncodeError:
        raise click.UsageError("ID is not UTF-8 text.") from None
    try:
        was_live = ask_cancel(paths.client_socket(config, os.environ), turn_id, why="cancelled with 'loopforge cancel'")
    except NoAnswer as exc:
        raise CommandFailed(_sentence(exc)) from exc
    click.echo(f"{one_line(turn_id)} {'is cancelled' if was_live else 'had ended already'}")


def describe(told: Mapping[str, Any], socket: str) -> list[str]:
    """What the service told, as lines for a person. A member that another version does not tell is left out."""
    lines = [*_service(told, socket), "", *_providers(told)]
    if told.get("live"):
        lines += ["", *_live(told)]
    return lines


# -- the service -----------------------------------------------------------------------------------------------------


def _service(told: Mapping[str, Any], socket: str) -> Iterable[str]:
    facts = [f"LoopForge {told.get('version', '?')}", f"pid {told.get('pid', '?')}"]
    if "uptime_s" in told:
        facts.append(f"up {duration(told['uptime_s'])}")
    if told.get("rss_bytes"):
        facts.append(size(told["rss_bytes"]))
    yield ", ".join(facts) + (", draining: it takes no new turns" if told.get("draining") else "")
    yield f"config  {one_line(str(told.get('config', '?')))}"
    yield f"socket  {one_line(socket)}"
    turns = told.get("turns", {})
    counts = [
        f"{turns[name]} {name}" for name in ("running", "waiting", "done", "failed", "cancelled") if name in turns
    ]
    yield f"turns   {', '.join(counts) or '?'}"
    match told.get("durability"):
        case "memory":
            yield "kept    in memory: a restart of the service loses turns and replies"
        case str(durability):
            yield f"kept    {one_line(durability)}"


# -- providers -------------------------------------------------------------------------------------------------------


def _providers(told: Mapping[str, Any]) -> Iterable[str]:
    """The table of providers that are routed to or have done something; the others by name."""
    routed = {str(target).partition("/")[0] for targets in told.get("routes", {}).values() for target in targets}
    shown: list[Mapping[str, Any]] = []
    idle: list[Mapping[str, Any]] = []
    for provider in told.get("providers", []):
        (shown if provider["name"] in routed or _has_lived(provider) else idle).append(provider)
    yield from table(
        ("PROVIDER", "STATE", "PID", "MEMORY", "SLOTS", "QUEUED", "DONE", "FAILED", "DEATHS"),
        [_provider_row(provider) for provider in shown],
        right={2, 3, 4, 6, 7, 8},
    )
    for provider in shown:
        name = one_line(provider["name"])
        if provider.get("down_reason"):
            reason = one_line(provider["down_reason"], _REASON_CHARACTERS)
            yield f"{name} is down {_for_how_long(provider)}: {reason}"
        elif provider.get("last_death"):
            yield f"{name}: its last worker died: {one_line(provider['last_death'], _REASON_CHARACTERS)}"
    if idle:
        yield f"not used so far: {', '.join(one_line(provider['name']) for provider in idle)}"


def _has_lived(provider: Mapping[str, Any]) -> bool:
    return bool(provider.get("generation") or provider.get("deaths") or sum(provider.get("queued", {}).values()))


def _provider_row(provider: Mapping[str, Any]) -> Sequence[str]:
    outcomes = provider.get("outcomes", {})
    return (
        one_line(provider["name"]),
        one_line(str(provider.get("state", "?"))),
        str(provider.get("pid") or "-"),
        size(provider["rss_bytes"]) if provider.get("rss_bytes") else "-",
        f"{provider.get('running', '?')}/{provider.get('slots', '?')}",
        ", ".join(f"{count} {lane}" for lane, count in provider.get("queued", {}).items() if count) or "-",
        str(outcomes.get("done", "?")),
        str(outcomes.get("failed", "?")),
        str(provider.get("deaths", "?")),
    )


def _for_how_long(provider: Mapping[str, Any]) -> str:
    down_for_s = provider.get("down_for_s")
    return "until the configuration changes" if down_for_s is None else f"for {duration(down_for_s)} more"


# -- live turns ------------------------------------------------------------------------------------------------------


def _live(told: Mapping[str, Any]) -> Iterable[str]:
    live = told["live"]
    yield from table(
        ("TURN", "KIND", "PHASE", "GOES TO", "LANE", "SESSION", "TRY", "AGE", "TIME LEFT"),
        [_live_row(turn) for turn in live[:MAX_LISTED]],
        right={6, 7, 8},
    )
    turns = told.get("turns", {})
    more = turns.get("running", 0) + turns.get("waiting", 0) - min(len(live), MAX_LISTED)
    if more > 0:
        yield f"and {more} more"
    yield "Cancel one with 'loopforge cancel ID'."


def _live_row(turn: Mapping[str, Any]) -> Sequence[str]:
    return (
        one_line(turn["id"]),
        one_line(turn.get("kind", "?")),
        one_line(turn.get("phase", "?")),
        one_line(f"{turn.get('provider', '?')}/{turn.get('model', '?')}", 60),
        one_line(turn.get("lane", "?")),
        one_line(turn.get("session", ""), 30) or "-",
        str(turn.get("attempt", "?")),
        duration(turn.get("age_s", 0.0)),
        duration(max(turn.get("deadline_in_s", 0.0), 0.0)),
    )


# -- plain text ------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Aligned columns, two spaces apart; those in `right` end in line."""
    whole = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in whole) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in whole
    ]


def duration(seconds: float) -> str:
    """Two units at most: 0.4 s, 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit_s, unit, below_s, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // below_s} {below}"
    return f"{whole} s"


def size(count: float) -> str:
    """Bytes in the unit that fits: 512 B, 3.4 KB, 25.0 MB, 1.2 GB; 1 KB = 1024 B."""
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"


def _sentence(exc: NoAnswer) -> str:
    text = str(exc)
    return f"{text[:1].upper()}{text[1:]}." if not text.startswith("/") else f"{text}."

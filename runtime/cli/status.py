"""loopforge status, cancel: one question to the running service. No trio, HTTP, pydantic or rich: they start fast."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from loopforge.runtime.blocking import ask_cancel, ask_status
from loopforge.runtime.cli.asking import needing_service
from loopforge.runtime.cli.columns import duration, size, table, terminal_width, wrap
from loopforge.runtime.cli.options import config_option, json_option, short_text
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
    with needing_service():
        told = ask_status(socket)
    if as_json:
        import json

        click.echo(json.dumps({"socket": str(socket), **told}, indent=2))
    else:
        click.echo("\n".join(describe(told, str(socket), terminal_width())))


@click.command()
@click.argument("turn_id", metavar="ID", callback=short_text)
@config_option()
def cancel(turn_id: str, config: Path) -> None:
    """Cancel a turn of the running service, whoever posted it.

    'loopforge status' lists the ids. A turn that has ended already stays as it is: that is no failure.
    """
    with needing_service():
        was_live = ask_cancel(paths.client_socket(config, os.environ), turn_id, why="cancelled with 'loopforge cancel'")
    click.echo(f"{one_line(turn_id)} {'is cancelled' if was_live else 'had ended already'}")


def describe(told: Mapping[str, Any], socket: str, width: int = 0) -> list[str]:
    """What the service told, as lines for a person. A member that another version does not tell is left out.

    `width`: characters a line may have, 0 for any number.
    """
    lines = [*_service(told, socket, width), "", *_providers(told, width)]
    if told.get("live"):
        lines += ["", *_live(told, width)]
    return lines


# -- the service -----------------------------------------------------------------------------------------------------


def _service(told: Mapping[str, Any], socket: str, width: int) -> Iterable[str]:
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
    journal = told.get("journal", {})
    match told.get("durability"):
        case "memory":
            yield "kept    in memory: a restart of the service loses turns and replies"
        case str(durability):
            used = f", {size(journal['used_bytes'])}" if journal.get("used_bytes") else ""
            yield f"kept    on {one_line(durability)}{used}"
    if journal.get("problem"):
        owed = f"; outcomes that wait for room: {journal['owed']}" if journal.get("owed") else ""
        text = f"cannot write, so new turns are refused: {one_line(journal['problem'])}{owed}"
        yield from wrap(f"journal {text}", width, " " * 8)
    if journal.get("note"):
        yield from wrap(f"journal {one_line(journal['note'], _REASON_CHARACTERS)}", width, " " * 8)


# -- providers -------------------------------------------------------------------------------------------------------


def _providers(told: Mapping[str, Any], width: int) -> Iterable[str]:
    """The table of providers that are routed to or have done something, and what keeps turns from them."""
    routed = {str(target).partition("/")[0] for targets in told.get("routes", {}).values() for target in targets}
    shown: list[Mapping[str, Any]] = []
    idle: list[Mapping[str, Any]] = []
    for provider in told.get("providers", []):
        (shown if provider["name"] in routed or _has_lived(provider) else idle).append(provider)
    yield from table(
        ("PROVIDER", "STATE", "PID", "MEMORY", "SLOTS", "QUEUED", "DONE", "FAILED", "DEATHS"),
        [_provider_row(provider) for provider in shown],
        right={2, 3, 4, 6, 7, 8},
        shrink=(5,),
        drop=(2, 3),
        width=width,
    )
    notes = [note for provider in shown for note in _notes(provider)]
    notes += [_breaker(breaker) for breaker in told.get("breakers", []) if _holds_back(breaker)]
    if idle:
        notes.append(f"not used so far: {', '.join(one_line(provider['name']) for provider in idle)}")
    for note in notes:
        yield from wrap(note, width)


def _notes(provider: Mapping[str, Any]) -> Iterable[str]:
    """What is to be said of one beside its row."""
    name = one_line(provider["name"])
    if provider.get("down_reason"):
        yield f"{name} is down {_for_how_long(provider)}: {one_line(provider['down_reason'], _REASON_CHARACTERS)}"
    elif provider.get("last_death") and provider.get("deaths"):  # one that was idle was stopped, and is none
        begun = f"{name}:"
        if (back_in_s := provider.get("back_in_s")) is not None:
            begun = f"{name} starts again in {duration(back_in_s)}:"
        yield f"{begun} its last worker died: {one_line(provider['last_death'], _REASON_CHARACTERS)}"
    if provider.get("state") == "retiring":
        yield f"{name}: the retiring worker ends with the last turn it has; new ones go to another"
    yield from _slots_note(provider)
    limits = provider.get("limits") or {}
    if limits.get("next_in_s") is not None:
        counts = [
            f"{limits[what]:,} of {limits[limit]:,} {what}"
            for what, limit in (("requests", "requests_limit"), ("tokens", "tokens_limit"))
            if limits.get(limit)
        ]
        spent = f": {' and '.join(counts)} in the last minute" if counts else ", as the provider's headers say"
        yield f"{name}: its limits let the next turn start in {duration(limits['next_in_s'])}{spent}"


def _slots_note(provider: Mapping[str, Any]) -> Iterable[str]:
    """Where the number of slots comes from, when nobody wrote it down. A retiring worker leaves its to another one."""
    why = {
        "guess": "a guess until its answers show more",
        "server": "as its server says",
        "measured": "as its first tokens and refusals show",
    }.get(provider.get("slots_from", ""))
    limit, told = provider.get("slots_now"), provider.get("slots_told")
    if why is None or limit is None or provider.get("state") == "retiring":
        return
    if told is not None and told > limit and provider.get("slots_from") == "server":
        why = "the most without max_concurrency"
    said = f"; its server says {told}" if told is not None and told != limit else ""
    yield f"{one_line(provider['name'])}: {limit} at once, {why}{said}"


def _holds_back(breaker: Mapping[str, Any]) -> bool:
    """A closed one does, too, while its provider has named a time to come back (Retry-After)."""
    return breaker.get("state") != "closed" or breaker.get("for_s") is not None


def _breaker(breaker: Mapping[str, Any]) -> str:
    """Whom no turn goes to at present, for how long, and why."""
    place = one_line("/".join(filter(None, (breaker.get("provider", "?"), breaker.get("model", "")))))
    why = one_line(str(breaker.get("why", "")).removeprefix(f"{breaker.get('provider')}: "), _REASON_CHARACTERS)
    if breaker.get("state") == "half open":
        return f"{place} is tried with one turn after it failed: {why}"
    if breaker.get("for_s") is None:
        return f"{place} gets no turns for the time being: {why}"
    return f"{place} gets no turns for {duration(breaker['for_s'])} more: {why}"


def _has_lived(provider: Mapping[str, Any]) -> bool:
    return bool(provider.get("generation") or provider.get("deaths") or sum(provider.get("queued", {}).values()))


def _provider_row(provider: Mapping[str, Any]) -> Sequence[str]:
    outcomes = provider.get("outcomes", {})
    return (
        one_line(provider["name"]),
        one_line(str(provider.get("state", "?"))),
        str(provider.get("pid") or "-"),
        size(provider["rss_bytes"]) if provider.get("rss_bytes") else "-",
        f"{provider.get('running', '?')}/{provider.get('slots_now', provider.get('slots', '?'))}",
        ", ".join(f"{count} {lane}" for lane, count in provider.get("queued", {}).items() if count) or "-",
        str(outcomes.get("done", "?")),
        str(outcomes.get("failed", "?")),
        str(provider.get("deaths", "?")),
    )


def _for_how_long(provider: Mapping[str, Any]) -> str:
    down_for_s = provider.get("down_for_s")
    return "until the configuration changes" if down_for_s is None else f"for {duration(down_for_s)} more"


# -- live turns ------------------------------------------------------------------------------------------------------


def _live(told: Mapping[str, Any], width: int) -> Iterable[str]:
    live = told["live"]
    yield from table(
        ("TURN", "KIND", "PHASE", "GOES TO", "LANE", "SESSION", "TRY", "AGE", "TIME LEFT"),
        [_live_row(turn) for turn in live[:MAX_LISTED]],
        right={6, 7, 8},
        shrink=(5, 3),
        drop=(4, 5, 6, 1),
        width=width,
    )
    held: dict[str, list[str]] = {}
    for turn in live[:MAX_LISTED]:
        if turn.get("held_for"):
            wait = f"{one_line(turn['id'])} ({duration(turn.get('held_s') or 0.0)} more)"
            held.setdefault(turn["held_for"], []).append(wait)
    for what, waits in held.items():
        yield from wrap(f"held for {one_line(what)}: {', '.join(waits)}", width)
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

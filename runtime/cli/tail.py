"""loopforge turns tail: one turn's events as they come, or every turn as it is accepted and ends.

The first is follow.py's; the second asks the journal again and again what is new.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click

from loopforge.runtime.blocking import NoAnswer, ask_query
from loopforge.runtime.cli.asking import needing_service
from loopforge.runtime.cli.columns import clock_time, cut, duration, terminal_width
from loopforge.runtime.cli.exits import FAILED
from loopforge.runtime.cli.options import config_option, short_text
from loopforge.runtime.cli.printable import one_line
from loopforge.runtime.cli.turns_text import LIVE, error_text, outcome_of, sent_to, took_s, tries, turn_json
from loopforge.runtime.config import paths

LOOK_EVERY_S = 1.0
SLACK_S = 5.0
"""A turn may come into the journal so long after the moment it was accepted at: the disk was slow."""
LIMIT = 1000
"""Turns asked for in one look."""

Turn = Mapping[str, Any]
Ask = Callable[[dict[str, Any]], dict[str, Any]]


@click.command()
@click.argument("turn_id", metavar="[ID]", required=False, callback=lambda c, p, v: v and short_text(c, p, v))
@click.option("--kind", metavar="K", default="", callback=short_text, help="Without ID: only this kind of task.")
@click.option("--session", metavar="S", default="", callback=short_text, help="Without ID: only this session.")
@click.option("--show-thinking", is_flag=True, help="With ID: show the model's reasoning.")
@click.option("--json", "as_json", is_flag=True, help="Print one event a line as JSON, for programs.")
@click.option(
    "--reconnect-s",
    type=click.FloatRange(min=0, max=86_400),
    default=30.0,
    show_default=True,
    help="How long to look for a service that went away.",
)
@config_option()
@click.pass_context
def tail(  # noqa: PLR0917 - click passes them by name
    context: click.Context,
    turn_id: str | None,
    kind: str,
    session: str,
    show_thinking: bool,
    as_json: bool,
    reconnect_s: float,
    config: Path,
) -> None:
    """Follow one turn, or all.

    With ID its events are printed as 'loopforge ask' prints them, from the beginning on as far as they are kept; Ctrl-C
    leaves the turn running. Without ID every turn is named as it is accepted and as it ends.
    """
    socket = paths.client_socket(config, os.environ)
    if turn_id is None:
        _watch_all(socket, {"kind": kind, "session": session}, as_json=as_json, reconnect_s=reconnect_s)
    else:
        _follow_one(context, turn_id, socket, show_thinking=show_thinking, as_json=as_json, reconnect_s=reconnect_s)


def _follow_one(
    context: click.Context, turn_id: str, socket: Path, *, show_thinking: bool, as_json: bool, reconnect_s: float
) -> None:
    import trio

    from loopforge.drivers.turn import Cancelled, Failed
    from loopforge.runtime.cli.ask import printer
    from loopforge.runtime.cli.follow import Following

    following = Following(
        turn_id=turn_id,
        printer=printer(live=False, show_thinking=show_thinking, as_json=as_json),
        socket=socket,
        reconnect_s=reconnect_s,
    )
    ending = trio.run(following.run)
    if ending.output_error is not None:
        raise ending.output_error
    match ending.outcome:
        case Failed(error):
            raise error
        case Cancelled():
            context.exit(FAILED)
    if ending.signal:
        context.exit(128 + ending.signal)


# -- all turns -------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """`event`: accepted, or the state it ended in; at first also running and parked."""

    event: str
    at: float
    turn: Turn


@dataclass
class Watch:
    """Tells what is new by asking a journal. `begun_at`: turns that ended before are of no interest; unix seconds."""

    ask: Ask
    query: dict[str, Any]
    begun_at: float
    _live: dict[tuple[str, float], Turn] = field(default_factory=dict)
    _ended: dict[tuple[str, float], float] = field(default_factory=dict)  # to their time of acceptance; the recent ones
    _newest: float = 0.0
    _looked: bool = False

    def look(self) -> list[Seen]:
        """What happened since the last look, in order of time; the first tells of all that live."""
        if not self._looked:
            self._looked, self._newest = True, self.begun_at
            return [self._begin(turn, turn["state"]) for turn in reversed(self._list(states=list(LIVE)))]
        since = self._newest - SLACK_S
        listed = self._list(since=since)
        seen = [event for turn in reversed(listed) for event in self._compare(turn)]
        older = {key: turn for key, turn in self._live.items() if turn["accepted_at"] < since}
        if older:
            live = {_key(turn) for turn in self._list(states=list(LIVE))}
            for key in older.keys() - live:
                seen += self._see_end(key)
        for key, accepted_at in list(self._ended.items()):
            if accepted_at < self._newest - SLACK_S:
                del self._ended[key]
        return sorted(seen, key=lambda event: event.at)

    def _compare(self, turn: Turn) -> Iterable[Seen]:
        key = _key(turn)
        ending = turn.get("ending")
        if key in self._ended or (ending is not None and ending["ended_at"] < self.begun_at):
            return
        if key not in self._live:
            yield self._begin(turn, "accepted")
        if ending is not None:
            yield self._end(turn)

    def _begin(self, turn: Turn, event: str) -> Seen:
        self._live[_key(turn)] = turn
        self._newest = max(self._newest, turn["accepted_at"])
        return Seen(event, turn["accepted_at"], turn)

    def _end(self, turn: Turn) -> Seen:
        self._live.pop(_key(turn), None)
        self._ended[_key(turn)] = turn["accepted_at"]
        if turn["state"] == "failed":  # a list does not tell why
            turn = self.ask({"what": "turn", "id": turn["id"]})["turn"] or turn
        return Seen(turn["state"], turn["ending"]["ended_at"], turn)

    def _see_end(self, key: tuple[str, float]) -> Iterable[Seen]:
        """Of a turn that lived and does no more; nothing when it was deleted, or is being tried again, meanwhile."""
        turn = self.ask({"what": "turn", "id": key[0]})["turn"]
        if turn is None or _key(turn) != key:
            del self._live[key]
        elif turn.get("ending") is not None:
            yield self._end(turn)

    def _list(self, **query: Any) -> list[Turn]:
        turns: list[Turn] = self.ask({"what": "turns", "limit": LIMIT, **self.query, **query})["turns"]
        return turns


def _key(turn: Turn) -> tuple[str, float]:
    """A turn that is tried again keeps its id."""
    return turn["id"], turn["accepted_at"]


def _watch_all(socket: Path, query: dict[str, Any], *, as_json: bool, reconnect_s: float) -> None:
    """Until Ctrl-C, or until there is no service for that long."""
    watch = Watch(lambda header: ask_query(socket, header), query, begun_at=time.time())
    give_up_at: float | None = 0.0  # at first there has to be a service
    while True:
        try:
            seen = watch.look()
            give_up_at = None
        except NoAnswer as exc:
            now = time.monotonic()
            if give_up_at is None:
                give_up_at = now + reconnect_s
                click.echo(f"Note: the service went away; looking for it for {reconnect_s:g} s", err=True)
            if now >= give_up_at:
                with needing_service():
                    raise NoAnswer(str(exc)) from exc
            seen = []
        for event in seen:
            click.echo(event_json(event) if as_json else event_line(event, time.time(), terminal_width()))
        sys.stdout.flush()
        time.sleep(LOOK_EVERY_S)


def event_json(seen: Seen) -> str:
    return json.dumps({"event": seen.event, "at": seen.at, "turn": turn_json(seen.turn)}, separators=(",", ":"))


def event_line(seen: Seen, now: float, width: int) -> str:
    """18:04:05  done       t17c0  coding  ollama/llama3.2, after 3.2 s"""
    turn = seen.turn
    facts = []
    if seen.event != "accepted" and sent_to(turn) != "-":
        facts.append(sent_to(turn))
    if seen.event not in LIVE:
        facts.append(f"after {duration(took_s(turn, now))}")
        if tries(turn) > 1:
            facts.append(f"{tries(turn)} tries")
    if seen.event == "failed" and (error := outcome_of(turn).get("error")) is not None:
        facts.append(f"{one_line(str(error.get('class', '')))}: {error_text(error)}")
    if turn["session"]:
        facts.append(f"session {one_line(turn['session'])}")
    place = f"{one_line(turn['id'])}  {one_line(turn['kind'])}"
    line = f"{clock_time(seen.at, now)}  {seen.event:<9}  {place}  {', '.join(facts)}".rstrip()
    return cut(line, width) if width else line

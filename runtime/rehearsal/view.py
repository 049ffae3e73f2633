"""A moment of a running rehearsal as values: one row a task kind, and what has happened. Pure; screen.py draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loopforge.runtime.rehearsal.figures import Entry, Spread, figures
from loopforge.runtime.rehearsal.play import Incident


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task kind. `behaviour`: what its provider is made to do. `worker`: state of the provider's worker process.

    `deaths`: of that worker so far. `latency`: of the turns that are done.
    """

    kind: str
    provider: str
    behaviour: str
    worker: str
    pid: int | None
    deaths: int
    open: int
    done: int
    failed: int
    latency: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`clock`: where in the run this is. `intro`: what to look at, "" for nothing. `lines`: figures below the table.

    `notes`: incidents, oldest first.
    """

    title: str
    clock: str
    rows: tuple[Row, ...]
    intro: str = ""
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def rows(
    targets: Mapping[str, str], behaviour: Mapping[str, str], entries: Sequence[Entry], status: Mapping[str, Any]
) -> tuple[Row, ...]:
    """One row for each of `targets`, in its order.

    `targets`: kind -> provider. `behaviour`: provider -> a few words. `status`: what the runtime says of itself.
    """
    providers = {provider["name"]: provider for provider in status.get("providers", [])}
    made = []
    for kind, name in targets.items():
        provider = providers.get(name, {})
        so_far = figures(entry for entry in entries if entry.kind == kind)
        made.append(
            Row(
                kind=kind,
                provider=name,
                behaviour=behaviour.get(name, ""),
                worker=provider.get("state", "stopped"),
                pid=provider.get("pid"),
                deaths=provider.get("deaths", 0),
                open=so_far.lost,
                done=so_far.done,
                failed=so_far.failures,
                latency=so_far.latency,
            )
        )
    return tuple(made)


def say(incident: Incident, began_at: float) -> str:
    """An incident as one line, with its time in the run."""
    return f"{incident.at - began_at:5.1f} s  {incident.provider}: {incident.what}"


def notes(incidents: Sequence[Incident], began_at: float) -> tuple[str, ...]:
    """Those of the run itself: that workers became ready before it is no news."""
    return tuple(say(incident, began_at) for incident in incidents if incident.at >= began_at)

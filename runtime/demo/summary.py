"""What came of the demo: on the screen while it runs, as text for people, as one document for programs. Pure.

The document is stable: members may be added, none is renamed or removed. Durations are seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import loopforge
from loopforge.runtime.demo.cast import BEHAVIOUR, TARGETS
from loopforge.runtime.demo.play import Scene
from loopforge.runtime.rehearsal.figures import Figures, Spread, durations, figures, spread
from loopforge.runtime.rehearsal.layout import columns, count, duration, fill
from loopforge.runtime.rehearsal.report import first_messages
from loopforge.runtime.rehearsal.view import View, notes, rows

TITLE = "LoopForge runtime demo"
HEAD = ("TASK KIND", "PROVIDER", "BEHAVIOUR", "POSTED", "DONE", "FAILED", "P50", "P99")
INTRO = "Three clouds misbehave. Planning has a worker of its own: watch its P99."
STEADY = 1.5
"""Planning p99 under load against idle: up to here it counts as unmoved. Two cores and 300 turns say no more."""


def planning(scene: Scene) -> tuple[Spread | None, Spread | None]:
    """Latency of the planning turns posted in the idle phase and in the load phase, of those that are done so far."""
    clock = scene.clock
    idle, load = clock.idle or math.inf, clock.load or math.inf
    ending = clock.ending or math.inf
    return _planning_between(scene, idle, load), _planning_between(scene, load, ending)


def _planning_between(scene: Scene, start: float, end: float) -> Spread | None:
    turns = (entry for entry in scene.entries if entry.kind == "planning" and start <= entry.posted_at < end)
    return spread(durations(turns, "done"))


def ratio(scene: Scene) -> float | None:
    """Planning p99 under load divided by idle; None while one of them is unknown."""
    idle, load = planning(scene)
    return None if idle is None or load is None else load.p99_s / idle.p99_s


def ok(scene: Scene) -> bool:
    """Every turn got an outcome, and there were some."""
    return bool(scene.entries) and figures(scene.entries).lost == 0


# -- while it runs ---------------------------------------------------------------------------------------------------


def view(scene: Scene) -> View:
    """The moment as the screen shows it."""
    began_at = _began_at(scene)
    idle, load = planning(scene)
    compared = f"planning p99   alone {_p99(idle)}   with the clouds {_p99(load)}"
    return View(
        title=TITLE,
        clock=f"{scene.now - began_at:5.1f} s  {phase(scene)}",
        rows=rows(TARGETS, BEHAVIOUR, scene.entries, scene.status),
        intro=INTRO,
        lines=(compared,) if idle else (),
        notes=notes(scene.incidents, began_at),
    )


def opening() -> View:
    """What is shown until the workers are there."""
    return View(title=TITLE, clock="  0.0 s  starting", rows=rows(TARGETS, BEHAVIOUR, [], {}), intro=INTRO)


def phase(scene: Scene) -> str:
    """What is going on, in a few words."""
    clock = scene.clock
    if clock.ending is not None:
        return "last turns"
    if clock.load is not None:
        return "all kinds"
    if clock.idle is not None:
        return "planning alone"
    return "warming up"


def _began_at(scene: Scene) -> float:
    return scene.now if scene.clock.warm_up is None else scene.clock.warm_up


# -- when it is over -------------------------------------------------------------------------------------------------


def to_plain(scene: Scene) -> dict[str, Any]:
    """What `--json FILE` writes."""
    began_at = _began_at(scene)
    idle, load = planning(scene)
    kinds = {
        kind: {"provider": provider, "behaviour": BEHAVIOUR[provider], **_of_kind(scene, kind).to_plain()}
        for kind, provider in TARGETS.items()
    }
    return {
        "version": loopforge.__version__,
        "ok": ok(scene),
        "interrupted": scene.interrupted,
        "seconds": scene.now - began_at,
        "turns": figures(scene.entries).to_plain(),
        "lost": figures(scene.entries).lost,
        "kinds": kinds,
        "planning": {
            "idle": idle.to_plain() if idle else None,
            "load": load.to_plain() if load else None,
            "p99_ratio": ratio(scene),
        },
        "errors": first_messages(scene.entries),
        "workers": [_worker(provider) for provider in scene.status.get("providers", [])],
        "incidents": [
            {"at_s": incident.at - began_at, "provider": incident.provider, "what": incident.what}
            for incident in scene.incidents
            if incident.at >= began_at
        ],
        "ollama": scene.has_ollama,
    }


def _worker(status: dict[str, Any]) -> dict[str, Any]:
    return {name: status[name] for name in ("name", "state", "pid", "deaths", "last_death", "rss_bytes", "cpu_s")}


def _of_kind(scene: Scene, kind: str) -> Figures:
    return figures(entry for entry in scene.entries if entry.kind == kind)


def to_lines(scene: Scene, command: str, width: int) -> list[str]:
    """What a person reads. `command`: how `loopforge` is called here. `width`: of a line, where that can be helped."""
    total = figures(scene.entries)
    began_at = _began_at(scene)
    incidents = notes(scene.incidents, began_at)
    cancelled = f"{total.cancelled} cancelled, " if total.cancelled else ""
    outcomes = f"{total.done} done, {total.failures} failed, {cancelled}{total.lost} lost"
    return [
        *fill([f"{TITLE}, {scene.now - began_at:.0f} s.", f"{count(total.posted, 'turn')} posted: {outcomes}."], width),
        "",
        *columns(HEAD, _rows(scene), right=range(3, len(HEAD))),
        "",
        *_failures(scene),
        *([*incidents, ""] if incidents else []),
        *_planning_lines(scene),
        "",
        *fill(_conclusion(scene), width),
        *_next_steps(scene, command),
    ]


def _rows(scene: Scene) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for kind, provider in TARGETS.items():
        summary = _of_kind(scene, kind)
        latency = summary.latency
        made.append(
            (
                kind,
                provider,
                BEHAVIOUR[provider],
                str(summary.posted),
                str(summary.done),
                str(summary.failures),
                duration(latency.p50_s if latency else None),
                _p99(latency),
            )
        )
    return made


def _p99(seen: Spread | None) -> str:
    return duration(seen.p99_s if seen else None)


def _failures(scene: Scene) -> list[str]:
    """What went otherwise than planned: one line for each kind and class of error, fallback, or new worker."""
    lines = []
    for kind, provider in TARGETS.items():
        summary = _of_kind(scene, kind)
        for name, number in summary.failed.items():
            waited = f", told after {duration(summary.failed_after.p50_s)}" if summary.failed_after else ""
            lines.append(f"{count(number, f'{kind} turn')} failed with {name}{waited}")
        entries = [entry for entry in scene.entries if entry.kind == kind]
        moved = Counter(entry.provider for entry in entries if entry.outcome == "done" and entry.provider != provider)
        for other, number in moved.items():
            lines.append(f"{count(number, f'{kind} turn')} answered by {other} instead of {provider}")
        if again := sum(entry.attempts > 1 and entry.provider in ("", provider) for entry in entries):
            lines.append(f"{count(again, f'{kind} turn')} sent again to the new worker")
    return [*lines, ""] if lines else []


def _planning_lines(scene: Scene) -> list[str]:
    idle, load = planning(scene)
    lines = []
    for name, seen in (("planning alone", idle), ("with the clouds", load)):
        if seen is not None:
            lines.append(
                f"{name:<16} p50 {duration(seen.p50_s):>8}   p99 {duration(seen.p99_s):>8}   ({seen.count} turns)"
            )
    return lines


def _conclusion(scene: Scene) -> list[str]:
    """What was seen, in a sentence or two; claims nothing that the figures do not show."""
    if scene.late:
        return [f"The worker of {', '.join(scene.late)} was not ready in time: this machine is very busy."]
    if scene.interrupted:
        return ["Interrupted: these are the figures so far."]
    if lost := figures(scene.entries).lost:
        return [f"{count(lost, 'turn')} never got an outcome: that is a bug. Please report it with this output."]
    seen = ratio(scene)
    if seen is None:
        return ["Too short to compare planning alone with planning under load."]
    met = "one cloud hung and another one's worker was killed"
    if seen <= STEADY:
        lines = [f"Planning kept its speed (p99 x {seen:.2f}) while {met}."]
    else:
        lines = [
            f"Planning's p99 grew to {seen:.1f} times while {met}.",
            "Was this machine busy with other work? Then run it again when it is not.",
        ]
    return [*lines, "Every turn got exactly one outcome: done, or an error that says what to do next."]


def _next_steps(scene: Scene, command: str) -> list[str]:
    if scene.interrupted:
        return []
    rehearse = (f"{command} rehearse", "the same with your own routes, without a key")
    init = (f"{command} init", "writes a config.toml with 19 providers")
    ask = (f"{command} ask hello", "a first real turn: an Ollama answers on this machine")
    steps = [rehearse, ask if scene.has_ollama else init]
    longest = max(len(call) for call, _ in steps)
    return ["", "Next:", *(f"  {call:<{longest}}   {what}" for call, what in steps)]

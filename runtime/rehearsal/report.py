"""A rehearsal's result: as text for people, as one document for programs, and in a sentence or two. Pure.

The document is stable: members may be added, none is renamed or removed. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import loopforge
from loopforge.runtime.config.paths import PRESETS
from loopforge.runtime.rehearsal.figures import Entry, Figures, by_route, figures
from loopforge.runtime.rehearsal.layout import NARROW, columns, count, duration, fill
from loopforge.runtime.rehearsal.run import Result
from loopforge.runtime.rehearsal.stage import FIRST_TOKEN_S, TOKENS_PER_S
from loopforge.runtime.rehearsal.view import say

HEAD = ("TASK KIND", "PROVIDER", "POSTED", "DONE", "FAILED", "P50", "P99", "MAX", "QUEUED", "1ST TOKEN")
NARROW_HEAD = HEAD[:-1]  # what 80 columns hold
WORTH_TRYING = ("kill-worker", "stall", "429", "silence")


def ok(result: Result) -> bool:
    """Every turn that was posted got an outcome, and there was at least one."""
    return bool(result.entries) and figures(result.entries).lost == 0


def to_plain(result: Result) -> dict[str, Any]:
    """What `loopforge rehearse --json` prints."""
    routes = [
        {"kind": kind, "provider": provider, **summary.to_plain()}
        for (kind, provider), summary in by_route(result.entries).items()
    ]
    incidents = [
        {"at_s": incident.at - result.began_at, "provider": incident.provider, "what": incident.what}
        for incident in result.incidents
    ]
    return {
        "version": loopforge.__version__,
        "config": result.stage.config.path,
        "seconds": result.script.seconds,
        "seed": result.script.seed,
        "rates": {load.kind: load.per_second for load in result.script.loads},
        "faults": result.script.faults.to_plain(),
        "timeouts_cut_to_s": result.stage.patience_s,
        "interrupted": result.interrupted,
        "ok": ok(result),
        "turns": figures(result.entries).to_plain(),
        "routes": routes,
        "errors": first_messages(result.entries),
        "not_rehearsed": result.stage.unplayable(),
        "providers": [_provider(provider, result) for provider in result.providers],
        "incidents": incidents,
        "conclusion": conclusion(result),
    }


def _provider(status: Mapping[str, Any], result: Result) -> dict[str, Any]:
    members = ("name", "kind", "state", "pid", "generation", "deaths", "last_death", "slots", "rss_bytes", "cpu_s")
    return {member: status[member] for member in members} | {
        "faults": list(result.script.faults.named(status["name"])),
        "cannot": result.stage.absent.get(status["name"], ""),
    }


def first_messages(entries: Iterable[Entry]) -> dict[str, str]:
    """Class of an error -> the text of the first one."""
    messages: dict[str, str] = {}
    for entry in entries:
        if entry.error:
            messages.setdefault(entry.error, entry.message)
    return messages


def to_lines(result: Result, width: int) -> list[str]:
    """What a person reads. `width`: of a line, where that can be helped."""
    total = figures(result.entries)
    outcome = f"{total.done} done, {total.failures} failed"
    outcome += f", {total.cancelled} cancelled at the end" if total.cancelled else ""
    head = HEAD if width > NARROW else NARROW_HEAD
    rows = [row if len(row) < len(HEAD) else row[: len(head)] for row in _turn_rows(result)]
    path = result.stage.config.path
    file = "the presets (there is no config.toml yet)" if path == str(PRESETS) else path
    what = f"Rehearsed {file} for {result.script.seconds:g} s:"
    posted = f"{count(total.posted, 'turn')} posted, {outcome}, {total.lost} lost."
    lines = [
        *fill([what, posted], width),
        "",
        *columns(head, rows, right=range(2, len(head))),
        "",
        *_failures(result.entries, width),
        *columns(("PROVIDER", "FAULT", "WORKER", "PID", "DIED"), _provider_rows(result), right=(3, 4)),
        "",
    ]
    if result.incidents:
        lines += [*(say(incident, result.began_at) for incident in result.incidents), ""]
    return [*lines, *fill(_explanation(result, head), width), "", *fill([conclusion(result)], width)]


def _explanation(result: Result, head: Sequence[str]) -> list[str]:
    first_token = "; 1ST TOKEN: p50" if HEAD[-1] in head else ""
    return [
        f"P50, P99 and MAX: of done turns, from posting to the answer's end; QUEUED: p99{first_token}.",
        f"Simulated: first token after {duration(FIRST_TOKEN_S)}, {TOKENS_PER_S:g} tokens/s;",
        f"timeouts cut to {duration(result.stage.patience_s)}; no key was used, no provider called.",
    ]


def _turn_rows(result: Result) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            kind,
            provider,
            str(summary.posted),
            str(summary.done),
            str(summary.failures),
            *_latency(summary),
            duration(summary.queued.p99_s if summary.queued else None),
            duration(summary.first_token.p50_s if summary.first_token else None),
        )
        for (kind, provider), summary in by_route(result.entries).items()
    ]
    order = {kind: number for number, kind in enumerate(result.stage.config.routes)}
    rows += [(kind, why) for kind, why in result.stage.unplayable().items()]
    return sorted(rows, key=lambda row: order[row[0]])


def _latency(summary: Figures) -> tuple[str, str, str]:
    latency = summary.latency
    if latency is None:
        return duration(None), duration(None), duration(None)
    return duration(latency.p50_s), duration(latency.p99_s), duration(latency.max_s)


def _failures(entries: Sequence[Entry], width: int) -> list[str]:
    """For each kind and class of error how many, and what the error says."""
    messages = first_messages(entries)
    lines = []
    for (kind, _), summary in by_route(entries).items():
        waited = f" after {duration(summary.failed_after.p50_s)}" if summary.failed_after else ""
        for name, number in summary.failed.items():
            failed = f"{number} of {count(summary.posted, f'{kind} turn')} failed with {name}{waited}:"
            lines += fill([failed, messages[name]], width, indent="  ")
        if summary.resent:
            lines.append(f"{count(summary.resent, f'{kind} turn')} sent again after an attempt that failed")
    return [*lines, ""] if lines else []


def _provider_rows(result: Result) -> list[tuple[str, ...]]:
    """The providers that a route names or a fault was meant for."""
    rows: list[tuple[str, ...]] = []
    used = {target.provider for route in result.stage.config.routes.values() for target in route.targets}
    for provider in result.providers:
        name = provider["name"]
        faults = result.script.faults.named(name)
        if name not in used and not faults:
            continue
        if why := result.stage.absent.get(name):
            rows.append((name, why))
        else:
            pid = str(provider["pid"] or "-")
            rows.append((name, ", ".join(faults) or "-", provider["state"], pid, str(provider["deaths"])))
    return rows


def conclusion(result: Result) -> str:
    """What was learned, and the next step."""
    total = figures(result.entries)
    if result.late:
        return (
            f"The worker of {', '.join(result.late)} was not ready in time; "
            "LOOPFORGE_DEBUG=1 before the command shows what it says."
        )
    if not total.posted:
        return "No turn was posted, so nothing was learned: route a kind to a provider that can be rehearsed."
    if total.lost:
        return (
            f"{count(total.lost, 'turn')} never got an outcome: that is a bug of LoopForge runtime. Please report it "
            f"with this output and --seed {result.script.seed}."
        )
    if not result.script.faults.to_plain():
        next_step = f"Next, see what a fault does to them: loopforge rehearse --fault {_try(result)}"
        return " ".join([_all_decided(total), *_left_out(result), next_step])
    next_step = f"Next: --fault {_try(result)}, or 'loopforge serve' for the real thing."
    return " ".join([_all_decided(total), *_left_out(result), _who_was_hit(result), next_step])


def _all_decided(total: Figures) -> str:
    if total.done == total.posted:
        return "Every turn was answered."
    return "Every turn got exactly one outcome, none was lost or stuck."


def _left_out(result: Result) -> list[str]:
    """One sentence when kinds were not rehearsed, else none."""
    kinds = list(result.stage.unplayable())
    return [f"Not rehearsed: {', '.join(kinds)} (the table says why)."] if kinds else []


def _who_was_hit(result: Result) -> str:
    """Which kinds felt the faults, and which did not."""
    faults = result.script.faults.to_plain()
    routes = by_route(result.entries)
    hit = {kind for (kind, provider), summary in routes.items() if provider in faults and summary.failures}
    clean = [kind for (kind, provider), summary in routes.items() if provider not in faults and not summary.failures]
    what = ", ".join(f"{name}={fault}" for name, names in faults.items() for fault in names)
    felt = f"some {' and '.join(sorted(hit))} turns failed" if hit else "no turn failed"
    spared = f"; {' and '.join(clean)} did not notice" if clean else ""
    return f"With {what} {felt}{spared}."


def _try(result: Result) -> str:
    """A fault that this run did not have, at the provider that most depends on."""
    provider = next(iter(by_route(result.entries)))[1]
    used = result.script.faults.named(provider)
    return f"{provider}={next((name for name in WORTH_TRYING if name not in used), 'cut')}"

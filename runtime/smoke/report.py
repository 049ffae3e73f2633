"""The provider health report: a plan or a run of all smoke cases as JSON, as Markdown and as an exit code.

The two files are written whole or not at all, so a reader of last night's sees all of it while tonight's is made.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import loopforge
from loopforge.drivers.registry import has_simulator
from loopforge.runtime.config.paths import Environment, key_state
from loopforge.runtime.markdown import table
from loopforge.runtime.rehearsal.document import to_json, write_text
from loopforge.runtime.smoke.cases import CASES, CaseName
from loopforge.runtime.smoke.results import STATUSES, CaseResult, blank, totals
from loopforge.runtime.smoke.targets import Target

JSON_NAME = "provider-health.json"
MARKDOWN_NAME = "provider-health.md"

OK, FAILED = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`results`: every case of every target, in their order. `ran`: it was a run, not a plan.

    `started_at`: with its time zone. `keys`: provider -> state of its key, never the key. `duration_s`: of the run.
    """

    config: str
    ran: bool
    started_at: datetime
    duration_s: float
    targets: Sequence[Target]
    results: Sequence[CaseResult]
    keys: Mapping[str, str]
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        return FAILED if any(result.status == "failed" for result in self.results) else OK


def plan(targets: Iterable[Target], cases: Sequence[CaseName] = CASES) -> tuple[CaseResult, ...]:
    """What a run would do: each case planned, or skipped with its reason."""
    return tuple(
        blank(target, case, "skipped", reason=target.skip, next_step=target.next_step)
        if target.skip
        else blank(target, case, "planned")
        for target in targets
        for case in cases
    )


def key_states(targets: Iterable[Target], env: Environment) -> dict[str, str]:
    """Provider -> "set", "not set", "in a credentials file" or "not needed"."""
    return {target.name: key_state(target.settings.api_key_env, env) for target in targets}


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Both files, in a folder that is made where there is none. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / JSON_NAME, folder / MARKDOWN_NAME
    write_text(files[0], to_json(to_plain(report)))
    write_text(files[1], to_markdown(report))
    return files


# -- JSON ------------------------------------------------------------------------------------------------------------


def to_plain(report: Report) -> dict[str, Any]:
    return {
        "version": loopforge.__version__,
        "mode": "run" if report.ran else "plan",
        "started_at": report.started_at.isoformat(timespec="seconds"),
        "duration_s": round(report.duration_s, 3),
        "interrupted": report.interrupted,
        "host": host(),
        "config": report.config,
        "totals": totals(report.results),
        "providers": [
            provider_to_plain(target, report.results, report.keys.get(target.name, "")) for target in report.targets
        ],
    }


def provider_to_plain(target: Target, results: Iterable[CaseResult], key: str) -> dict[str, Any]:
    """One provider with its own of the results. `key`: the state of its key."""
    settings = target.settings
    cases = [result.to_plain() for result in results if result.provider == target.name]
    return {
        "name": target.name,
        "kind": settings.kind,
        "vendor": settings.vendor,
        "base_url": settings.base_url,
        "model": target.model,
        "model_variables": list(target.model_variables),
        "key": {"variable": settings.api_key_env, "state": key},
        "can_be_rehearsed": has_simulator(settings.kind),
        "status": overall(case["status"] for case in cases),
        "cases": cases,
    }


def overall(statuses: Iterable[str]) -> str:
    """Of a provider: failed when one case is, ok when all are that were tried."""
    seen = set(statuses)
    return next((status for status in ("failed", "planned", "ok", "skipped") if status in seen), "skipped")


def host() -> dict[str, Any]:
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }


# -- plain text ------------------------------------------------------------------------------------------------------


def to_line(result: CaseResult, place: str) -> str:
    """The case on one line, for whoever watches; `place` names it."""
    words = [f"{result.status:<7}", f"{place:<24}"]
    if result.total_s is not None:
        first = f", first token {seconds(result.first_token_s)}" if result.first_token_s is not None else ""
        words.append(f"{seconds(result.total_s)}{first}{';' if result.reason else ''}")
    if result.reason:
        what = f"{result.error}: {result.reason}" if result.error else result.reason
        words.append(f"{what}; {result.next_step}" if result.next_step else what)
    return " ".join(words).rstrip()


# -- Markdown --------------------------------------------------------------------------------------------------------


def to_markdown(report: Report) -> str:
    counted = totals(report.results)
    machine = host()
    said = ", ".join(f"{counted[status]} {status}" for status in STATUSES if counted[status])
    tokens = counted["tokens"]
    lines = [
        f"# Provider health, {report.started_at:%Y-%m-%d %H:%M %Z}".rstrip(),
        "",
        f"{counted['cases']} cases: {said or 'none'}. {_kind_of_run(report)}",
        "",
        *table(
            ("", ""),
            [
                ("Version", f"LoopForge runtime {loopforge.__version__}, Python {machine['python']}"),
                ("Host", f"{machine['name']}, {machine['system']}, {machine['cpus']} CPUs"),
                ("Configuration", report.config),
                ("Tokens", f"{tokens['input']} in, {tokens['output']} out"),
            ],
        ),
        "",
        *table(
            ("Provider", "Kind", "Model", "Case", "Status", "First token", "Total", "Tokens", "Error", "Next step"),
            [_row(result) for result in report.results if result.status != "skipped"],
        ),
        "",
        *_skipped(report),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _kind_of_run(report: Report) -> str:
    if not report.ran:
        return "This is a plan: nothing was asked and nothing spent. Run it with `--run`."
    return f"It took {report.duration_s:.1f} s{' and was interrupted' if report.interrupted else ''}."


def _row(result: CaseResult) -> tuple[str, ...]:
    usage = result.usage
    tokens = "" if usage.input is None and usage.output is None else f"{_count(usage.input)} / {_count(usage.output)}"
    return (
        result.provider,
        result.kind,
        result.model,
        result.case,
        result.status,
        seconds(result.first_token_s),
        seconds(result.total_s),
        tokens,
        f"{result.error}: {result.reason}" if result.error else "",
        result.next_step,
    )


def _skipped(report: Report) -> list[str]:
    """One line a provider: all its cases are skipped for one reason."""
    first = {result.provider: result for result in reversed(report.results) if result.status == "skipped"}
    if not first:
        return []
    rows = [(name, result.reason, result.next_step) for name, result in reversed(first.items())]
    return ["## Skipped", "", *table(("Provider", "Why", "Next step"), rows)]


def seconds(value: float | None) -> str:
    """For people: 0.42 s, 12.3 s; "" when it was not measured."""
    if value is None:
        return ""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)

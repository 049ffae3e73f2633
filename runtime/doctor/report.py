"""What a run found, as lines for a person and as one document for programs. Pure.

The document: {"summary": {"status", "ok", "warn", "error", "config", "version", "took_s"}, "checks": [{"check",
"subject", "status", "message", "next_step"}], "next_actions": [text]}. Members may be added, none is renamed.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import loopforge
from loopforge.runtime.doctor.finding import STATUSES, Finding, Status, in_order, next_actions

LEAST_WIDTH = 40
_INDENT = " " * 9
_TURNS_FAIL: frozenset[str] = frozenset(("routes", "keys", "ollama", "aws", "reachable"))
Paint = Callable[[str, Status | None], str]
"""Text and what it stands for (None: of lesser weight) -> the text, coloured or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`config`: path of the file. `valid`: it, or the presets, could be used. `spare`: unused providers with a key."""

    config: str
    valid: bool
    findings: tuple[Finding, ...]
    spare: tuple[str, ...] = ()
    took_s: float = 0.0

    @property
    def status(self) -> Status:
        """The worst there is."""
        return worst(self.findings)

    @property
    def next_actions(self) -> list[str]:
        """What to do, in order; never empty: a machine that is well is there to be used."""
        steps = next_actions(self.findings)
        failing = {found.subject for found in self.findings if found.status == "error" and found.check in _TURNS_FAIL}
        without = {found.subject for found in self.findings if found.status == "error" and found.check == "ollama"}
        if failing and self.spare:
            name = self.spare[0]
            steps.append(f"or use {name}, whose key is set: loopforge route set planning {name} --check")
        elif failing and failing == without:  # nothing but an Ollama: mostly somebody's first day
            steps.append(
                "or use a cloud provider: set its key variable, then loopforge route set planning NAME --check"
            )
        again = "then look again: loopforge doctor"
        return [*steps, again if self.status == "error" else "send a turn: loopforge ask hello"]


def worst(findings: Iterable[Finding]) -> Status:
    return max((found.status for found in findings), key=STATUSES.index, default="ok")


def to_plain(report: Report) -> dict[str, Any]:
    """The document."""
    counted = Counter(found.status for found in report.findings)
    return {
        "summary": {
            "status": report.status,
            **{status: counted[status] for status in STATUSES},
            "config": report.config,
            "version": loopforge.__version__,
            "took_s": round(report.took_s, 3),
        },
        "checks": [found.to_plain() for found in in_order(report.findings)],
        "next_actions": report.next_actions,
    }


def to_lines(report: Report, width: int, paint: Paint) -> list[str]:
    """For a person. `width`: in columns; 0 breaks no line."""
    lines = findings_lines(report.findings, width, paint)
    lines += ["", f"{_counts(report.findings)} in {report.took_s:.1f} s. Next:"]
    steps = report.next_actions
    for number, step in enumerate(steps, 1):
        lead = f"{number:>3}. "
        lines += _wrapped(step, lead, " " * len(lead), width)
    return lines


def findings_lines(findings: Sequence[Finding], width: int, paint: Paint) -> list[str]:
    """The findings by family, each with its next step below it."""
    lines: list[str] = []
    for check, found in groupby(in_order(findings), key=lambda finding: finding.check):
        lines.append(paint(check, None))
        for finding in found:
            lines += _finding(finding, width, paint)
    return lines


def _finding(finding: Finding, width: int, paint: Paint) -> Iterator[str]:
    who = f"{finding.subject}: " if finding.subject else ""
    lead = f"  {finding.status:<7}"
    first, *more = _wrapped(f"{who}{finding.what}", lead, _INDENT, width)
    yield paint(first[: len(lead)], finding.status) + first[len(lead) :]
    yield from more
    if finding.next_step:
        for line in _wrapped(finding.next_step, f"{_INDENT}-> ", f"{_INDENT}   ", width):
            yield paint(line, None) if finding.status == "ok" else line


def _wrapped(text: str, lead: str, indent: str, width: int) -> list[str]:
    if not width:
        return [lead + text]
    return textwrap.wrap(
        text,
        max(width, LEAST_WIDTH),
        initial_indent=lead,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _counts(findings: Sequence[Finding]) -> str:
    counted = Counter(found.status for found in findings)
    named = [(counted["error"], "error"), (counted["warn"], "warning"), (counted["ok"], "ok")]
    return ", ".join(f"{count} {noun}{'s' if noun != 'ok' and count != 1 else ''}" for count, noun in named if count)

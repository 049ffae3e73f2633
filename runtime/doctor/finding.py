"""What a check found: ok, warn or error, in a sentence, with the next step. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "error"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "error")

# Families of checks in the order in which a person mends things: what stands further down needs what stands above.
Check = Literal[
    "config", "routes", "keys", "ollama", "aws", "reachable", "clock", "permissions", "disk", "service", "systemd"
]
CHECKS: tuple[Check, ...] = (
    "config",
    "routes",
    "keys",
    "ollama",
    "aws",
    "reachable",
    "clock",
    "permissions",
    "disk",
    "service",
    "systemd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`what`: a clause that needs no reading of others. `next_step`: what to do; of an ok finding a hint, mostly "".

    `subject`: the provider it is about, "" for the machine. `action`: the step as it stands in the list at the end,
    where nothing is around it; "" for the next step itself. No key and no password is in any of it.
    """

    check: Check
    status: Status
    what: str
    next_step: str = ""
    subject: str = ""
    action: str = ""

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "check": self.check,
            "subject": self.subject,
            "status": self.status,
            "message": self.what,
            "next_step": self.next_step,
        }


def ok(check: Check, what: str, hint: str = "", *, subject: str = "") -> Finding:
    return Finding(check=check, status="ok", what=what, next_step=hint, subject=subject)


def warn(check: Check, what: str, next_step: str, *, subject: str = "") -> Finding:
    return Finding(check=check, status="warn", what=what, next_step=next_step, subject=subject)


def error(check: Check, what: str, next_step: str, *, subject: str = "") -> Finding:
    return Finding(check=check, status="error", what=what, next_step=next_step, subject=subject)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By family, in the order of CHECKS; inside one as they came."""
    return sorted(findings, key=lambda finding: CHECKS.index(finding.check))


def next_actions(findings: Iterable[Finding]) -> list[str]:
    """The next steps of all that is not well, each once, in the order in which to take them.

    A step that does not name the provider it is for is told with it.
    """
    steps: dict[str, list[str]] = {}
    for found in in_order(findings):
        step = found.action or found.next_step
        if found.status != "ok" and step:
            steps.setdefault(step, []).append(found.subject)
    return [_addressed(step, subjects) for step, subjects in steps.items()]


def _addressed(step: str, subjects: Iterable[str]) -> str:
    unnamed = [name for name in dict.fromkeys(subjects) if name and name.casefold() not in step.casefold()]
    return f"{', '.join(unnamed)}: {step}" if unnamed else step

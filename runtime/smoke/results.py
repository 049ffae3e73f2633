"""What came of one case, as a value: ok, failed, skipped with the reason, or (in a plan) to be run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from loopforge.drivers.turn import Usage
from loopforge.runtime.smoke.cases import CaseName
from loopforge.runtime.smoke.targets import Target

Status = Literal["ok", "failed", "skipped", "planned"]
STATUSES: tuple[Status, ...] = ("ok", "failed", "skipped", "planned")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case of one provider. Times in seconds from posting the turn to a worker that was ready; None: not measured.

    `reason`: what went wrong, or why it was skipped. `error`: class name of the failure, of errors.TurnError or
    UnexpectedAnswer, NoOutcome, or a Python exception's for a bug of ours. `next_step`: what the person does about it.
    """

    provider: str
    kind: str
    model: str
    case: CaseName
    status: Status
    reason: str = ""
    error: str = ""
    next_step: str = ""
    first_token_s: float | None = None
    total_s: float | None = None
    usage: Usage = field(default_factory=Usage)
    finish: str = ""
    model_reported: str = ""
    request_id: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.provider}/{self.case}"

    def to_plain(self) -> dict[str, Any]:
        """The case as JSON has it; the provider stands above it."""
        return {
            "case": self.case,
            "status": self.status,
            "model": self.model,
            "reason": self.reason,
            "error": self.error,
            "next_step": self.next_step,
            "first_token_s": _rounded(self.first_token_s),
            "total_s": _rounded(self.total_s),
            "tokens": {"input": self.usage.input, "output": self.usage.output},
            "finish": self.finish,
            "model_reported": self.model_reported,
            "request_id": self.request_id,
            "warnings": list(self.warnings),
        }


def blank(target: Target, case: CaseName, status: Status, **members: Any) -> CaseResult:
    """A result that no answer belongs to."""
    settings = target.settings
    return CaseResult(
        provider=settings.name, kind=settings.kind, model=target.model, case=case, status=status, **members
    )


def totals(results: Iterable[CaseResult]) -> dict[str, Any]:
    """How many cases ended how, and the tokens that providers said they counted."""
    listed = list(results)
    statuses = Counter(result.status for result in listed)
    return {
        "cases": len(listed),
        **{status: statuses[status] for status in STATUSES},
        "tokens": {
            "input": sum(result.usage.input or 0 for result in listed),
            "output": sum(result.usage.output or 0 for result in listed),
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)

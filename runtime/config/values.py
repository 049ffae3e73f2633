"""The checked configuration as frozen values: what the rest of the runtime reads. No pydantic here.

Made by the checking child (config/__main__.py) from what a person wrote (config/model.py); every default is filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort, Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A (provider, model) pair; the model is resolved, never "default".

    `lacks`: features (SubmitHeader.features) that it refuses, as far as is known; it does not make it another target.
    """

    provider: str
    model: str
    lacks: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One [router.KIND]. `targets`: the provider first, then its fallbacks. Timeouts of 0 mean the provider's own."""

    kind: str
    targets: tuple[Target, ...]
    lane: Lane = "normal"
    deadline_s: float = 1800.0
    thinking: Effort | int | None = None
    resend: bool = True
    spill: bool = False
    park_max_s: float = 0.0
    first_event_timeout_s: float = 0.0
    event_gap_timeout_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """[runtime]"""

    socket: str = ""
    allow_users: tuple[str, ...] = ()
    allow_groups: tuple[str, ...] = ()
    drain_s: float = 20.0
    reattach_grace_s: float = 30.0
    idle_worker_s: float = 300.0
    max_queued_bytes: int = 268_435_456
    journal: bool = True
    retain_days: int = 7
    retain_mb: int = 512
    max_request_mb: int = 32
    max_attempts: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """[http]"""

    listen: str = ""
    api_key_env: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with, or worth saying about, a configuration. `line` is 0 when no line can be named."""

    file: str
    line: int
    place: str
    problem: str
    suggestion: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        place = f" {self.place}:" if self.place else ""
        hint = f"; {self.suggestion}" if self.suggestion else ""
        return f"{where}:{place} {self.problem}{hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that passed every check. `path`: the file it came from."""

    path: str
    providers: dict[str, ProviderSettings]
    routes: dict[str, Route]
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Outcome of a check: a config, or the problems that forbid one. Warnings stand in the config."""

    config: Config | None
    problems: tuple[Problem, ...] = ()

"""The running service as it tells of itself, or why it does not. Pure; the asking is runtime/blocking.py's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loopforge
from loopforge.runtime.doctor.finding import Finding, error, ok, warn

_RESTART = "restart the service"
_SLACK_S = 1.0  # uptime and the file's time come from two clocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """`told`: runtime/status.py, empty without an answer; then `trouble` says why. `absent`: nobody is there at all."""

    socket: Path | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    absent: bool = False

    def serves(self, config: Path) -> bool:
        """Whether it answers, and runs with this file."""
        return bool(self.told) and os.path.realpath(str(self.told.get("config", ""))) == os.path.realpath(config)


def judge_service(service: Service, config: Path, now: float, changed_at: float | None) -> Iterator[Finding]:
    """`now`, `changed_at` (of the config file): wall clock, seconds; None when there is no file."""
    if service.told:
        yield from _running(service, config, now, changed_at)
    elif service.absent and service.socket is not None and os.path.lexists(service.socket):
        what = f"a service has left its socket behind: nobody listens on {service.socket}"
        yield warn("service", what, "start the service again: loopforge serve")
    elif service.absent:
        hint = "one that outlives its clients: loopforge serve"
        yield ok("service", "none is running, and none is needed: ask starts its own", hint)
    elif service.socket is not None:  # else its path is what is wrong: the check of permissions says so
        what, _, step = service.trouble.partition("; ")
        yield error("service", what or service.trouble, step or _RESTART)


def _running(service: Service, config: Path, now: float, changed_at: float | None) -> Iterator[Finding]:
    told = service.told
    version, pid, uptime_s = told.get("version"), told.get("pid"), told.get("uptime_s")
    yield ok("service", f"LoopForge {version} runs as process {pid} on {service.socket}")
    if version != loopforge.__version__:
        what = f"the service is version {version}, this command {loopforge.__version__}"
        yield warn("service", what, _RESTART)
    if not service.serves(config):
        what = f"the service runs with {told.get('config')}, not with {config}"
        yield warn("service", what, "name that file with --config, or restart the service with this one")
    elif changed_at is not None and isinstance(uptime_s, int | float) and changed_at > now - uptime_s + _SLACK_S:
        yield warn("service", f"{config} was changed after the service had read it", _RESTART)
    if told.get("draining"):
        yield warn("service", "the service is draining: it takes no new turns", "wait for its end, then start it again")
    for provider in told.get("providers", []):
        if provider.get("state") == "down":
            name, reason = str(provider.get("name")), str(provider.get("down_reason", ""))
            what, _, step = reason.rpartition("; ")
            yield warn("service", f"{name} is down: {what or reason}", step or _RESTART, subject=name)

"""The running service as it tells of itself, or why it does not. Pure; the asking is runtime/blocking.py's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loopforge
from loopforge.runtime.config.values import Config
from loopforge.runtime.doctor.finding import Finding, error, ok, warn

_RESTART = "restart the service"


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


def judge_service(service: Service, path: Path, config: Config | None) -> Iterator[Finding]:
    """`path`: of the configuration; `config`: what it says, None when it has errors or cannot be read."""
    if service.told:
        yield from _running(service, path, config)
    elif service.absent and service.socket is not None and os.path.lexists(service.socket):
        what = f"a service has left its socket behind: nobody listens on {service.socket}"
        yield warn("service", what, "start the service again: loopforge serve")
    elif service.absent:
        hint = "one that outlives its clients: loopforge serve"
        yield ok("service", "none is running, and none is needed: ask starts its own", hint)
    elif service.socket is not None:  # else its path is what is wrong: the check of permissions says so
        what, _, step = service.trouble.partition("; ")
        yield error("service", what or service.trouble, step or _RESTART)


def _running(service: Service, path: Path, config: Config | None) -> Iterator[Finding]:
    told = service.told
    version, pid = told.get("version"), told.get("pid")
    yield ok("service", f"LoopForge {version} runs as process {pid} on {service.socket}")
    if version != loopforge.__version__:
        what = f"the service is version {version}, this command {loopforge.__version__}"
        yield warn("service", what, _RESTART)
    if not service.serves(path):
        what = f"the service runs with {told.get('config')}, not with {path}"
        yield warn("service", what, "name that file with --config, or restart the service with this one")
    elif config is not None and (places := differences(told, config)):
        what = f"the service has not read {path} since it was changed: {', '.join(places)}"
        yield warn("service", what, "let it read the file again: loopforge reload")
    if told.get("draining"):
        yield warn("service", "the service is draining: it takes no new turns", "wait for its end, then start it again")
    journal = told.get("journal", {})
    if problem := journal.get("problem"):
        folder = Path(str(journal.get("path", "journal"))).parent
        what = f"the service refuses new turns: its journal cannot write ({problem})"
        yield error("service", what, f"free space on the disk of {folder}; {_RESTART} if turns stay refused then")
    for provider in told.get("providers", []):
        if provider.get("state") == "down":
            name, reason = str(provider.get("name")), str(provider.get("down_reason", ""))
            what, _, step = reason.rpartition("; ")
            yield warn("service", f"{name} is down: {what or reason}", step or _RESTART, subject=name)


def differences(told: Mapping[str, Any], config: Config) -> list[str]:
    """Places in which what a service goes by is not what the file says, as far as it tells."""
    routes = told.get("routes", {})
    found = [
        f"router.{kind}"
        for kind in sorted({*routes, *config.routes})
        if list(routes.get(kind, ())) != _targets(config, kind)
    ]
    served = {
        provider.get("name"): (provider.get("kind"), provider.get("base_url"), provider.get("slots"))
        for provider in told.get("providers", [])
        if provider.get("state") != "retiring"  # it ends its last turns by what was said before
    }
    written = {
        name: (settings.kind, settings.base_url, settings.max_concurrency)
        for name, settings in config.providers.items()
    }
    return found + [
        f"providers.{name}" for name in sorted({*served, *written}) if served.get(name) != written.get(name)
    ]


def _targets(config: Config, kind: str) -> list[str]:
    route = config.routes.get(kind)
    return [f"{target.provider}/{target.model}" for target in route.targets] if route else []

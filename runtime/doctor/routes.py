"""What the configuration says: its own problems, where each kind of task goes, and who is asked therefore. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from loopforge.drivers.registry import ProviderSettings, has_driver
from loopforge.runtime.config.values import Checked, Config, Problem
from loopforge.runtime.doctor.finding import Finding, error, ok, warn

MAX_PROBLEMS = 10
"""The rest is `loopforge config validate`'s to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A provider that turns go to. `kinds`: those of its turns; `first`: it is some kind's first choice."""

    settings: ProviderSettings
    models: tuple[str, ...]
    kinds: tuple[str, ...]
    first: bool


def routed(config: Config, only: Collection[str] = ()) -> tuple[Routed, ...]:
    """The providers that routes name, fallbacks among them, first choices first.

    `only`: providers to keep; one among them that no route names is added with its default model.
    """
    models: dict[str, list[str]] = {}
    kinds: dict[str, list[str]] = {}
    first: set[str] = set()
    for kind, route in config.routes.items():
        for place, target in enumerate(route.targets):
            models.setdefault(target.provider, []).append(target.model)
            kinds.setdefault(target.provider, []).append(kind)
            if place == 0:
                first.add(target.provider)
    names = [name for name in models if not only or name in only]
    names += [name for name in only if name not in models]
    return tuple(
        Routed(
            settings=config.providers[name],
            models=tuple(dict.fromkeys(models.get(name) or filter(None, [config.providers[name].default_model]))),
            kinds=tuple(dict.fromkeys(kinds.get(name, ()))),
            first=name in first or name not in models,
        )
        for name in sorted(names, key=lambda name: name in models and name not in first)
    )


def judge_config(checked: Checked, path: Path, *, there: bool, presets: bool) -> Iterator[Finding]:
    """The file itself. `there`: it exists; `presets`: it does not, and nobody named one, so that the presets count."""
    if checked.config is None:
        act = f"correct {path} as said above; see it again with: loopforge config validate"
        if not there:
            act = "write a configuration: loopforge init; or name yours with --config"
        for problem in checked.problems[:MAX_PROBLEMS]:
            yield replace(error("config", _sentence(problem), problem.suggestion or _look(problem)), action=act)
        if (more := len(checked.problems) - MAX_PROBLEMS) > 0:
            yield error("config", f"and {more} more in {path}", "loopforge config validate")
        return
    if presets:
        yield warn(
            "config", f"there is no {path} yet, so the presets count", "write a configuration to edit: loopforge init"
        )
    for problem in checked.config.warnings:
        if not is_doctors(problem):
            found = warn("config", _sentence(problem), problem.suggestion or _look(problem))
            yield replace(found, action=f"read the warnings about {path} above")
    if not presets:
        count = len(checked.config.providers)
        yield ok("config", f"{path} is valid: {count} {'provider' if count == 1 else 'providers'}")


def judge_routes(config: Config) -> Iterator[Finding]:
    """One finding a kind of task."""
    for kind, route in config.routes.items():
        targets = [f"{target.provider}/{target.model}" for target in route.targets]
        told = f"{kind} goes to {targets[0]}"
        if targets[1:]:
            told += f", else to {', '.join(targets[1:])}"
        for place, target in enumerate(route.targets):
            settings = config.providers[target.provider]
            if not has_driver(settings.kind):
                what = f"{kind} goes to {target.provider}, and this version has no driver for {settings.kind}"
                step = f"route it elsewhere: loopforge route set {kind} PROVIDER"
                judge = error if place == 0 else warn
                yield judge("routes", what, step, subject=target.provider)
        yield ok("routes", told)


def is_doctors(problem: Problem) -> bool:
    """Whether a warning of the configuration's check is judged anew here: missing keys and missing drivers."""
    section, _, rest = problem.place.partition(".")
    key = rest.rpartition(".")[2]
    if section != "providers":
        return False
    return (key == "api_key_env" and "not set" in problem.problem) or (key == "kind" and "driver" in problem.problem)


def _sentence(problem: Problem) -> str:
    where = f"{problem.file}:{problem.line}" if problem.line else problem.file
    return f"{where}: {problem.place}: {problem.problem}" if problem.place else f"{where}: {problem.problem}"


def _look(problem: Problem) -> str:
    return f"correct line {problem.line} of {problem.file}" if problem.line else f"correct {problem.file}"

"""Changes one route of a config.toml safely: everything is checked on a draft, and only then put in place.

The draft stands beside the file, so that what is checked is what is placed, byte for byte. Until the very end the file
stays as it was; then a backup is kept.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import click

from loopforge.runtime.cli.exits import BadConfig, CommandFailed, TryLater
from loopforge.runtime.config import on_disk
from loopforge.runtime.config.child import check_in_child_blocking
from loopforge.runtime.config.edit import CannotEdit, set_route
from loopforge.runtime.config.paths import Environment
from loopforge.runtime.config.values import Checked, Config, Problem, Target

CheckConfig = Callable[[Path, Environment], Checked]

_KIND = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A route as it is and as it is to be. `path`: the file itself, behind any link. `before`: None for a new kind.

    `old`, `new`: the file's bytes; equal when there is nothing to change. `draft`: where `new` stands already.
    `warnings`: what the new configuration warns of and the old one did not.
    """

    kind: str
    path: Path
    draft: Path
    old: bytes
    new: bytes
    before: Target | None
    after: Target
    config: Config
    warnings: tuple[Problem, ...]

    @property
    def changes(self) -> bool:
        return self.old != self.new

    def place(self) -> Path:
        """Put the draft in place; the backup's path. Raises TryLater when somebody has changed the file meanwhile."""
        if self.path.read_bytes() != self.old:
            raise TryLater(f"{self.path} was changed by somebody else meanwhile and stays as it is; run this again")
        try:
            backup = on_disk.keep_backup(self.path)
            on_disk.replace(self.draft, self.path)
        except on_disk.CannotWrite as exc:
            raise CommandFailed(str(exc)) from None
        return backup

    def undo_command(self, backup: Path) -> str:
        """What a person types to have the old file back; its mode and owner stay."""
        return shlex.join(["cp", str(backup), str(self.path)])


class RefusedDraft(BadConfig):
    """The configuration would have errors after the change."""

    def show(self, file: IO[Any] | None = None) -> None:
        super().show(file)
        click.echo(
            "Error: with that change the configuration would have errors; it stays as it was", file, err=not file
        )


@contextmanager
def prepared(
    path: Path, kind: str, provider: str, model: str, *, new_kind: bool, check: CheckConfig = check_in_child_blocking
) -> Iterator[Switch]:
    """The change, valid and on disk as a draft, which is gone when the block is left unless it was placed.

    Raises BadConfig when the file is wrong before or would be after, UsageError for names that are not there,
    CommandFailed for what cannot be done.
    """
    checked = check(path, os.environ)
    if checked.config is None:
        raise BadConfig(checked.problems)
    _check_names(checked.config, kind, provider, new_kind=new_kind)
    target = Path(os.path.realpath(path))
    old = target.read_bytes()
    try:
        new = set_route(old.decode(), kind, provider, model or "default").encode()
    except CannotEdit as exc:
        raise CommandFailed(f"{path}: {exc}") from None
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(on_disk.draft_beside(target, new))
            on_disk.take_over_mode(draft, target)
        except on_disk.CannotWrite as exc:
            raise CommandFailed(str(exc)) from None
        after = _named(check(draft, os.environ), path)
        if after.config is None:
            raise RefusedDraft(after.problems)
        route = checked.config.routes.get(kind)
        known = {(problem.place, problem.problem) for problem in checked.config.warnings}
        yield Switch(
            kind=kind,
            path=target,
            draft=draft,
            old=old,
            new=new,
            before=route.targets[0] if route else None,
            after=after.config.routes[kind].targets[0],
            config=after.config,
            warnings=tuple(
                problem for problem in after.config.warnings if (problem.place, problem.problem) not in known
            ),
        )


def _check_names(config: Config, kind: str, provider: str, *, new_kind: bool) -> None:
    """Whether both are there: a typing mistake shall not become a route that nobody uses."""
    from loopforge.runtime.config.findings import did_you_mean

    if kind not in config.routes:
        if not _KIND.fullmatch(kind):
            raise click.UsageError(f"{kind!r} is no name for a kind of task; write it with a-z, 0-9, _ and -.")
        if not new_kind:
            hint = did_you_mean(kind, list(config.routes))
            raise click.UsageError(f"There is no kind of task {kind!r} ({hint}); --new makes it one.")
    if provider not in config.providers:
        hint = did_you_mean(provider, list(config.providers))
        raise click.UsageError(f"There is no provider {provider!r} in {config.path}; {hint}")


def _named(checked: Checked, path: Path) -> Checked:
    """What was found about the draft, told of the file that it is to become."""
    problems = tuple(replace(problem, file=str(path)) for problem in checked.problems)
    if checked.config is None:
        return Checked(config=None, problems=problems)
    warnings = tuple(replace(problem, file=str(path)) for problem in checked.config.warnings)
    return Checked(config=replace(checked.config, path=str(path), warnings=warnings), problems=problems)

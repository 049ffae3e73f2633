"""Which of the caller's variables a test sees, and that it leaves them and the working folder as they were.

A list of what stays, not of what goes: a provider's key, a proxy, a certificate bundle or a systemd variable that
nobody thought of must not decide how a test ends, and a test must not be able to spend anyone's key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEPT = re.compile(
    r"""PATH | LANG | LC_.* | TZ | TERM | TMPDIR | USER | LOGNAME | SHELL | LINES | COLUMNS | LD_LIBRARY_PATH
    | CI | NO_COLOR | FORCE_COLOR | PY_COLORS | PYTEST_.* | COVERAGE_.* | HYPOTHESIS_.*
    | PYTHON(?!PATH|HOME|STARTUP).*
    | LOOPFORGE_RECORDINGS | LOOPFORGE_TEST_.*""",
    re.VERBOSE,
)


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that tests may see."""
    return {name: value for name, value in environment.items() if KEPT.fullmatch(name)}


def replace(environment: Mapping[str, str]) -> None:
    """Make `environment` this process's own, and so its children's."""
    os.environ.clear()
    os.environ.update(environment)


@dataclass(frozen=True)
class Surroundings:
    """The environment and the working folder at one moment."""

    variables: Mapping[str, str]
    folder: str

    def restore(self) -> list[str]:
        """Put back what differs now; returns what that was, by name alone (a value may be a key)."""
        problems = []
        now = _variables()
        if changed := sorted(
            name for name in now.keys() | self.variables.keys() if now.get(name) != self.variables.get(name)
        ):
            problems.append(f"environment: {', '.join(changed)} changed for the tests that follow")
            replace(self.variables)
        if (folder := _folder()) != self.folder:
            problems.append(f"working folder: {folder} instead of {self.folder}")
            os.chdir(self.folder)
        return problems


def surroundings() -> Surroundings:
    return Surroundings(_variables(), _folder())


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def _folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "a folder that is gone"

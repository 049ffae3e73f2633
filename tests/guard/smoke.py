"""The one exception: smoke tests ask real providers, and only a run of them alone may leave the machine.

`pytest -m smoke`, in these words, is such a run: nothing else is executed in it, so nothing else gets at the network or
at a key. In every other run smoke tests are deselected, whatever its -m says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

MARK = "smoke"
HINT = "smoke tests ask real providers; they run with -m smoke alone: pytest -m smoke tests/smoke"

# Beside the presets' own variables: what Amazon's credential chain reads, and how to get out of this network.
_KEPT = re.compile(
    r"AWS_.* | (HTTP|HTTPS|ALL|NO)_PROXY | SSL_CERT_(FILE|DIR) | REQUESTS_CA_BUNDLE | CREDENTIALS_DIRECTORY",
    re.VERBOSE | re.IGNORECASE,
)
_AWS_FILES = {"AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "credentials"}


def is_alone(mark_expression: str) -> bool:
    """Whether -m selects smoke tests and nothing else."""
    return mark_expression.strip() == MARK


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the caller's variables that such a run sees on top of what all tests do."""
    # Loaded in such a run alone: every other one shall be bound before it imports anything of the project.
    from loopforge.runtime.smoke.targets import variables_of
    from tests.runtime.smoke.playing import presets

    wanted = variables_of(presets())
    found = {name: value for name, value in environment.items() if name in wanted or _KEPT.fullmatch(name)}
    for variable, name in _AWS_FILES.items():  # tests have a home of their own
        if (home := environment.get("HOME")) and (file := Path(home, ".aws", name)).is_file():
            found.setdefault(variable, str(file))
    return found

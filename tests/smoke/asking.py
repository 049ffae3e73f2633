"""Asks the presets' real endpoints, each case at most once a run, however many tests look at it."""

from __future__ import annotations

import os
from functools import cache

from loopforge.runtime.smoke.cases import CaseName
from loopforge.runtime.smoke.results import CaseResult
from loopforge.runtime.smoke.run import smoke_now
from loopforge.runtime.smoke.targets import Target, targets_of
from tests.runtime.smoke.playing import presets


def target_of(name: str) -> Target:
    return next(target for target in targets_of(presets(), os.environ) if target.name == name)


def why_not(target: Target) -> str:
    """Why the preset is not asked, and what to export; "" when it is.

    What needs no key is asked only for a model that somebody has named: nothing else says that it is wanted.
    """
    if target.skip:
        return f"{target.skip}; {target.next_step}"
    if not target.settings.api_key_env and not target.model_from:
        return f"it needs no key, so name a model: export {target.model_variables[0]}=MODEL"
    return ""


@cache
def result_of(name: str, case: CaseName) -> CaseResult:
    (result,) = smoke_now(target_of(name), (case,))
    return result

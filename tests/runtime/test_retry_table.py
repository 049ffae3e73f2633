"""The retry brain, row by row of the table in its docstring."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from loopforge.runtime import retry
from loopforge.runtime.retry import (
    RULES,
    GiveUp,
    Option,
    ParkUntil,
    ResendSame,
    SendTo,
    Try,
    decide,
)
from tests.runtime.retrying import CLASSES, CLOUD, HOME, NOW, THIRD, failed, gave_up, tried

# -- the table -------------------------------------------------------------------------------------------------------

HEAD = ["error", "same provider again", "next candidate", "breaker"]
OTHERS = "all others"


def read_table() -> dict[str, dict[str, str]]:
    """The cells by error and column, as they stand in the module's docstring."""
    lines = (inspect.getdoc(retry) or "").splitlines()
    first = next(number for number, line in enumerate(lines) if line.split()[:1] == ["error"])
    rows: dict[str, dict[str, str]] = {}
    for line in lines[first + 2 :]:
        if not line.strip():
            break
        names, *cells = re.split(r"\s{2,}", line.strip())
        for name in names.split(", ") if names != OTHERS else [OTHERS]:
            rows[name] = dict(zip(HEAD[1:], cells, strict=True))
    return rows


TABLE = read_table()
ROWS = [name for name in TABLE if name != OTHERS]
SAME = {
    "waits": "waits",
    "twice, after back-off": "backs off",
    "once": "at once",
    "parks": "parks",
    "as a suspect": "suspect",
    "no": "no",
}
NEXT = {
    "yes": ("anybody", False),
    "yes, with a warning": ("anybody", True),
    "to a larger window": ("larger window", False),
    "to one that did not refuse it": ("others", False),
    "no": ("nobody", False),
}


def test_the_table_has_a_row_for_every_rule_and_no_other() -> None:
    assert {CLASSES[name] for name in ROWS} == set(RULES)
    assert TABLE[OTHERS] == dict.fromkeys(HEAD[1:], "no")


@pytest.mark.parametrize("name", ROWS)
def test_each_row_says_what_its_rule_does(name: str) -> None:
    rule, row = RULES[CLASSES[name]], TABLE[name]
    assert rule.same == SAME[row["same provider again"]]
    assert (rule.to, rule.warn) == NEXT[row["next candidate"]]
    assert rule.breaker == row["breaker"]


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(ROWS)))
def test_an_error_without_a_row_ends_the_turn_with_that_error(name: str) -> None:
    error = CLASSES[name]()
    assert decide(failed(tried(HOME, error), options=(HOME,)), NOW) == GiveUp(error=error)
    assert isinstance(gave_up(decide(failed(tried(HOME, error)), NOW)), CLASSES[name])


@pytest.mark.parametrize("name", ROWS)
def test_the_same_provider_gets_the_turn_again_as_the_row_says(name: str) -> None:
    """Nobody else is there; each attempt fails in the same way, and time passes to where the decision says."""
    now, tries, waits = NOW, list[Try](), list[float]()
    while len(tries) < 10:
        tries.append(tried(HOME, CLASSES[name](), at=now))
        decision = decide(failed(*tries, options=(HOME,), deadline=math.inf), now)
        if not isinstance(decision, ResendSame):
            break
        waits.append(decision.at - now)
        now = decision.at
    match TABLE[name]["same provider again"]:
        case "waits":
            assert len(waits) == 10
            assert all(later >= earlier > 0 for earlier, later in pairwise(waits))
        case "twice, after back-off":
            assert waits == [0.5, 1.0]
        case "once":
            assert waits == [0.0]
        case "as a suspect":
            assert waits == [0.0] * 10
        case "parks":
            assert waits == []
            parked = decide(failed(tried(HOME, CLASSES[name](reset_at=NOW + 60)), options=(HOME,), park_max_s=100), NOW)
            assert isinstance(parked, ParkUntil)
        case "no":
            assert waits == []
        case other:
            pytest.fail(f"nothing tests {other!r}")


@pytest.mark.parametrize("name", ROWS)
def test_another_candidate_gets_the_turn_as_the_row_says(name: str) -> None:
    """The first candidate failed for good, and three idle ones are left: unlike, alike and of unknown window."""
    first = replace(HOME, window=100)
    options = (first, Option(provider="home", model="n"), replace(CLOUD, window=100), replace(THIRD, window=101))
    error = CLASSES[name](action="mend it")
    tries = [tried(first, error)]
    if name in {"StreamBroken", "Stalled", "GenerationFailed"}:
        tries = [tried(first, CLASSES[name]()), *tries]
    elif name == "WorkerLost":
        options = (replace(first, closed_until=NOW + 60), *options[1:])
    decision = decide(failed(*tries, options=options), NOW)
    match TABLE[name]["next candidate"]:
        case "yes":
            other_model = 1 if error.scope == "model" else 2
            assert decision == SendTo(other_model, NOW)
        case "yes, with a warning":
            assert isinstance(decision, SendTo)
            assert decision.candidate == (1 if error.scope == "model" else 2)
            assert "home was left for another provider" in decision.warning
            assert decision.warning.endswith("mend it")
        case "to a larger window":
            assert decision == SendTo(3, NOW)
        case "to one that did not refuse it":
            assert decision == SendTo(2, NOW)
        case other:
            pytest.fail(f"nothing tests {other!r}")

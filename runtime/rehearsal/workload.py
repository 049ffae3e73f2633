"""Which turns are posted when: a function of the loads, the length of the run and a seed.

Arrivals of a kind are stratified: one at a random place in each interval of 1/rate. So a run of any length gets the
turns that its rate promises, two runs of one seed are equal, and one kind's rate does not move another's arrivals.
What the turns ask for is made up; nothing here knows a provider.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from loopforge.drivers.turn import Lane, Tool, Turn, system, user
from loopforge.runtime.rehearsal.faults import instead

MAX_TURNS = 100_000
"""A typing mistake in a rate must not fill the memory; ten minutes at 100 turns/s stay below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindLoad:
    """How one task kind is used. Ranges are (least, most).

    `per_second`: turns posted a second, on average. `prompt_chars`: length of the user's message. `answer_tokens`:
    limit of the answer; the simulator writes up to it. `tool_every`: each n-th turn must call a tool, 0 = none.
    `sessions`: how many agents share the load.
    """

    kind: str
    per_second: float
    prompt_chars: tuple[int, int]
    answer_tokens: tuple[int, int]
    tool_every: int = 0
    sessions: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One turn of the workload: post it `at_s` seconds into the run."""

    at_s: float
    kind: str
    number: int
    session: str
    prompt_chars: int
    answer_tokens: int
    calls_tool: bool


TYPICAL: Mapping[str, KindLoad] = {
    "planning": KindLoad(kind="planning", per_second=3.0, prompt_chars=(200, 800), answer_tokens=(8, 24), sessions=4),
    "coding": KindLoad(
        kind="coding",
        per_second=0.5,
        prompt_chars=(2_000, 20_000),
        answer_tokens=(60, 180),
        tool_every=3,
        sessions=3,
    ),
    "summary": KindLoad(kind="summary", per_second=0.25, prompt_chars=(8_000, 40_000), answer_tokens=(30, 80)),
}
"""The three kinds every configuration has: small and frequent, long with tool calls, large in the background."""

_LIKE: Mapping[Lane, str] = {"interactive": "planning", "normal": "coding", "background": "summary"}


def typical_load(kind: str, lane: Lane) -> KindLoad:
    """The load of a kind when nobody says otherwise; a further kind is used like the one that shares its lane."""
    return replace(TYPICAL[kind if kind in TYPICAL else _LIKE[lane]], kind=kind)


def read_rates(words: Iterable[str], loads: Iterable[KindLoad]) -> tuple[KindLoad, ...]:
    """The loads, at the rates that "KIND=N" words ask for. Raises ValueError with what to write instead."""
    asked = {load.kind: load for load in loads}
    for word in words:
        kind, sign, number = word.partition("=")
        if kind not in asked:
            raise ValueError(f"there is no kind {kind!r}{instead(kind, asked, 'configured')}")
        try:
            rate = float(number) if sign else math.nan
        except ValueError:
            rate = math.nan
        if not 0 <= rate < math.inf:
            raise ValueError(f"{word!r} is not KIND=N with N turns a second, such as {kind}=2.5")
        asked[kind] = replace(asked[kind], per_second=rate)
    return tuple(asked.values())


def schedule(loads: Iterable[KindLoad], seconds: float, seed: int) -> list[Arrival]:
    """Every turn of the run, in the order of arrival. Raises ValueError for more than MAX_TURNS."""
    loads = list(loads)
    expected = sum(load.per_second for load in loads) * seconds
    if not expected <= MAX_TURNS:  # nan, too
        raise ValueError(f"that makes {expected:,.0f} turns; at most {MAX_TURNS:,} fit into one run")
    return sorted(
        (arrival for load in loads for arrival in _of_kind(load, seconds, seed)),
        key=lambda arrival: (arrival.at_s, arrival.kind),
    )


def _of_kind(load: KindLoad, seconds: float, seed: int) -> Iterable[Arrival]:
    chance = random.Random(f"{seed}/{load.kind}")  # of its own: no other kind's rate moves it
    number = 0
    while load.per_second > 0:
        at_s = (number + chance.random()) / load.per_second
        if at_s >= seconds:
            return
        yield Arrival(
            at_s=at_s,
            kind=load.kind,
            number=number,
            session=f"{load.kind}-{number % load.sessions + 1}",
            prompt_chars=chance.randint(*load.prompt_chars),
            answer_tokens=chance.randint(*load.answer_tokens),
            calls_tool=load.tool_every > 0 and number % load.tool_every == load.tool_every - 1,
        )
        number += 1


_WORDS = (
    "read the log and say which step failed then write the change with its test and keep the interface as it is "
    "before the next run compare both results name the file and line and end with one sentence on what is left "
)

TOOL = Tool(
    name="run_tests",
    description="Runs the test suite of the project and returns its output.",
    parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)


def build_turn(arrival: Arrival) -> Turn:
    """The turn that an arrival stands for: its prompt has exactly `prompt_chars` characters."""
    prompt = (_WORDS * (arrival.prompt_chars // len(_WORDS) + 1))[: arrival.prompt_chars]
    return Turn(
        kind=arrival.kind,
        session=arrival.session,
        messages=(system(f"You are the {arrival.kind} step of a rehearsal."), user(prompt)),
        tools=(TOOL,) if arrival.calls_tool else (),
        tool_choice="required" if arrival.calls_tool else "auto",
        max_output_tokens=arrival.answer_tokens,
    )

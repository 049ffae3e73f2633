"""A workload is a file: providers, routes, and loads, which say who posts how many turns of what size, and when.

    [loads.planning]          # read_workload("isolation").arrivals(["planning"], seconds=5) makes 100 arrivals of it
    kind = "planning"
    per_second = 20

The same file and seed give the same arrivals, and no load moves another's. Who posts them is play.py's business; what a
turn says is made up. Workloads are TOML files in bench/workloads/; a misspelled member is an error.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bench.stack import Provider
from loopforge.drivers.turn import JsonObject, Turn, system, user

FOLDER = Path(__file__).parent / "workloads"

Range = tuple[float, float]
"""Least and most; each turn's own lies evenly between."""

_STRICT = {"extra": "forbid"}  # for pydantic: a person wrote the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One stream of turns.

    When: either `per_second`, one turn at a random place in each interval of 1/per_second (as many as the rate
    promises, but never in step with anything), or `count` turns, spread evenly over `within_s` with a random share of
    an interval each (0: all at one moment). `start_s`: seconds into the run. `again`: a turn that ends is posted anew.

    What: `prompt_chars` and `answer_tokens` are (least, most); 0 tokens leave the length to the provider's profile.
    `provider` and `model` choose as a client may, past the route; a model named fault-NAME meets that fault.
    `sessions`: how many agents share the load. `stream` False asks for one whole answer.
    `takes_s`: how long a turn holds its slot, where time is virtual and no provider answers.
    """

    __pydantic_config__: ClassVar = _STRICT

    kind: str
    per_second: float = 0.0
    count: int = 0
    within_s: float = 0.0
    start_s: float = 0.0
    again: bool = False
    prompt_chars: Range = (500, 500)
    answer_tokens: Range = (0, 0)
    provider: str = ""
    model: str = ""
    stream: bool = True
    sessions: int = 1
    takes_s: Range = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One turn of a workload: it comes `at_s` seconds into the run."""

    at_s: float
    name: str
    number: int
    session: str
    prompt_chars: int
    answer_tokens: int
    takes_s: float
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a file says. `profiles`: further ways in which a provider may behave, by name."""

    __pydantic_config__: ClassVar = _STRICT

    seed: int
    loads: dict[str, Load]
    providers: dict[str, Provider] = field(default_factory=dict)
    profiles: dict[str, JsonObject] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)

    def arrivals(self, names: Iterable[str], seconds: float, *, seed: int = 0) -> list[Arrival]:
        """Every turn of these loads within the run, in order. `seed`: another one, another run of the same kind."""
        found = [arrival for name in names for arrival in self._of(name, seconds, seed)]
        return sorted(found, key=lambda arrival: (arrival.at_s, arrival.name, arrival.number))

    def _of(self, name: str, seconds: float, seed: int) -> Iterator[Arrival]:
        load = self.loads[name]
        chance = random.Random(f"{self.seed}/{seed}/{name}")
        for number, at_s in enumerate(_times(load, seconds, chance)):
            yield Arrival(
                at_s=at_s,
                name=name,
                number=number,
                session=f"{name}-{number % load.sessions}",
                prompt_chars=round(chance.uniform(*load.prompt_chars)),
                answer_tokens=round(chance.uniform(*load.answer_tokens)),
                takes_s=chance.uniform(*load.takes_s),
                load=load,
            )


def _times(load: Load, seconds: float, chance: random.Random) -> Iterator[float]:
    """Seconds into the run, in order."""
    if load.count:
        gap = load.within_s / load.count
        times = [load.start_s + (number + chance.random()) * gap for number in range(load.count)]
        yield from (at_s for at_s in times if at_s < seconds)
        return
    number = 0
    while load.per_second and (at_s := load.start_s + (number + chance.random()) / load.per_second) < seconds:
        yield at_s
        number += 1


def read_workload(name: str | Path) -> Workload:
    """A file, or the one of that name in bench/workloads. Raises OSError, and ValueError naming every wrong member."""
    from pydantic import TypeAdapter

    path = name if isinstance(name, Path) else FOLDER / f"{name}.toml"
    return _checked(TypeAdapter(Workload).validate_python(tomllib.loads(path.read_text())), path)


def _checked(workload: Workload, path: Path) -> Workload:
    """Raises ValueError."""
    for name, load in workload.loads.items():
        if bool(load.per_second) == bool(load.count):
            raise ValueError(f"{path}: [loads.{name}] needs either per_second or count")
        if load.provider and load.provider not in workload.providers:
            raise ValueError(f"{path}: [loads.{name}] names the provider {load.provider!r}, which has no table")
    for kind, provider in workload.routes.items():
        if provider not in workload.providers:
            raise ValueError(f"{path}: the route of {kind} names the provider {provider!r}, which has no table")
    return workload


_WORDS = "read the log and say which step failed then write the change with its test and name the file and the line "


def build_turn(arrival: Arrival) -> Turn:
    """The turn that an arrival stands for; its prompt has `prompt_chars` characters. It has no id: each post is new."""
    load = arrival.load
    prompt = f"{arrival.name} {arrival.number}: " + _WORDS * (arrival.prompt_chars // len(_WORDS) + 1)
    return Turn(
        kind=load.kind,
        session=arrival.session,
        messages=(system(f"You are the {load.kind} step."), user(prompt[: arrival.prompt_chars])),
        max_output_tokens=arrival.answer_tokens or None,
        provider=load.provider,
        model=load.model,
        stream=load.stream,
    )

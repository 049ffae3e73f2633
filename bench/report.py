"""What every benchmark shares: its options, interleaved rounds and their medians, the machine it ran on, its report.

A benchmark measures and fills a `Report`; it asserts nothing about time. Variants that are compared run in turn within
each round, because a shared machine's speed drifts by a factor of three within minutes: read ratios, not absolutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

LIBRARIES = ("trio", "httpx2", "httpcore2", "h11", "msgpack", "pyzmq")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


# -- options ---------------------------------------------------------------------------------------------------------


def options_parser(bench: str, description: str, *, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has; add your own. `rounds`: the default outside --quick, which means one."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{bench}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"medians over so many rounds (default {rounds})")
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs, not how fast")
    parser.set_defaults(bench=bench, default_rounds=rounds)
    return parser


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """With `rounds` filled in."""
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else options.default_rounds)
    return options


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least one")
    return number


# -- rounds ----------------------------------------------------------------------------------------------------------


def interleaved(variants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Each variant's result of each round. Within a round all run once, starting with another one each time."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(variants[name]())
    return results


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds; a figure that a round lacks is taken from the others."""
    names = {name: None for figures in rounds for name in figures}
    return {name: statistics.median([figures[name] for figures in rounds if name in figures]) for name in names}


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile. NaN of nothing."""
    if not values:
        return math.nan
    ranked = sorted(values)
    return ranked[max(math.ceil(len(ranked) * percent / 100), 1) - 1]


# -- processes -------------------------------------------------------------------------------------------------------


def cpu_s(pid: int | None = None) -> float:
    """CPU seconds a process used, system time included; this one's own to the nanosecond, others' to 10 ms."""
    if pid is None:
        return time.process_time()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def precise_cpu_s(pid: int) -> float:
    """CPU seconds of a process's threads to the nanosecond, from the scheduler's own account (schedstat)."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def pss_bytes(pid: int) -> int:
    """Resident memory with shared pages counted in proportion. Reading another's needs the right to trace it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup names no Pss")


# -- the machine -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Machine:
    cpu: str
    cores: int
    kernel: str
    python: str
    libraries: dict[str, str]
    load: tuple[float, float, float]

    def __str__(self) -> str:
        libraries = ", ".join(f"{name} {number}" for name, number in self.libraries.items())
        load = " ".join(f"{value:.2f}" for value in self.load)
        return f"{self.cpu}, {self.cores} cores · {self.kernel} · {self.python} · {libraries} · load {load}"


def this_machine() -> Machine:
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries=dict(_installed()),
        load=os.getloadavg(),
    )


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _installed() -> Iterator[tuple[str, str]]:
    for name in LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


# -- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure, and where it is to be."""

    name: str
    value: float
    relation: Literal["<=", ">="]
    target: float
    unit: str = ""

    @property
    def reached(self) -> bool:
        return self.value <= self.target if self.relation == "<=" else self.value >= self.target

    def __str__(self) -> str:
        relation = "≤" if self.relation == "<=" else "≥"
        verdict = "reached" if self.reached else "MISSED"
        return f"{verdict}: {self.name} {number(self.value)} {self.unit}".rstrip() + f" ({relation} {self.target:g})"


@dataclass
class Report:
    """Markdown on standard output as it goes along, JSON at the end. Use as `with Report(...) as report:`."""

    options: argparse.Namespace
    machine: Machine = field(default_factory=this_machine)
    figures: dict[str, Any] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        print(f"\n{title}\n\n{markdown_table(columns, rows)}", flush=True)

    def note(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def goal(self, name: str, value: float, relation: Literal["<=", ">="], target: float, unit: str = "") -> None:
        self.goals.append(Goal(name=name, value=value, relation=relation, target=target, unit=unit))

    def close(self) -> None:
        if self.goals:
            print()
        for goal in self.goals:
            print(f"- {goal}")
        if self.options.quick:
            print("\nquick run: it works; the figures say nothing")
        if self.options.json is not None:
            self.options.json.write_text(json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n")

    def as_json(self) -> dict[str, Any]:
        return {
            "bench": self.options.bench,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "rounds": self.options.rounds,
            "quick": self.options.quick,
            "machine": asdict(self.machine),
            "figures": _without_nan(self.figures),
            "goals": [
                {**asdict(goal), "value": _without_nan(goal.value), "reached": goal.reached} for goal in self.goals
            ],
        }


@contextmanager
def open_report(options: argparse.Namespace) -> Iterator[Report]:
    """A report of one run: the machine first, the goals last. An error inside leaves no JSON behind."""
    report = Report(options)
    rounds = "1 round" if options.rounds == 1 else f"medians of {options.rounds} interleaved rounds"
    print(f"bench.{options.bench}: {rounds}\n{report.machine}", flush=True)
    yield report
    report.close()


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The first column is text, the others are numbers, set to the right."""
    cells = [[number(cell) if isinstance(cell, int | float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(columns), *cells]) for at in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if at else text.ljust(width)
            for at, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"-{'-' * width}:" if at else f"-{'-' * width}-" for at, width in enumerate(widths))
    return "\n".join([line(columns), f"|{rule}|", *map(line, cells)])


def number(value: float) -> str:
    """Three significant digits, and whole ones from a hundred on."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

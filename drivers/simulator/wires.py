"""The shapes between the server and a wire, and how to open one. A wire is sans-IO: it sees no socket and no clock.

The wire of a kind is WIRE of the module here that is named after it, as drivers are modules of loopforge.drivers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast, runtime_checkable

from loopforge.drivers.registry import KINDS
from loopforge.drivers.simulator.faults import Damage, Problem
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.turn import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request. `path`: what stands behind the provider's segment, without query. Header names lower-case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call that the wire takes: a generation. `body` is its checked JSON."""

    model: str
    stream: bool
    body: JsonObject
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the provider answers, before time and faults.

    A stream has `steps`, one a token, its opening within the first and its end within the last; else `body` is all.
    `tokens`: how many the model generated for it; 0 for answers that take no time.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    steps: Iterator[bytes] | None = None
    tokens: int = 0


class Wire(Damage, Protocol):
    """The server half of one kind."""

    def read(self, call: Call, profile: Profile) -> Asked | Answer:
        """The generation asked for, or the answer at once: an error in the vendor's words, a list of models."""

    def answer(self, asked: Asked, profile: Profile, rng: random.Random) -> Answer:
        """What the simulated model says."""

    def problem(self, problem: Problem, profile: Profile, asked: Asked | None = None) -> Answer:
        """An error as this kind's vendors write it."""


@runtime_checkable
class TellsReset(Protocol):
    """A wire with vendors that say when a quota is whole again."""

    def used_up(self, resets_at: float, asked: Asked) -> Answer | None:
        """The quota problem with that moment, in unix seconds; None when the vendor of this model does not tell it."""


def has_wire(kind: str) -> bool:
    """Whether the simulator speaks this kind. Imports nothing."""
    return kind in KINDS and find_spec(f"{__package__}.{kind}") is not None


@cache
def open_wire(kind: str) -> Wire:
    """The wire of a kind. Raises ValueError when the simulator does not speak it."""
    if not has_wire(kind):
        raise ValueError(f"the simulator does not speak {kind!r} in this version")
    return cast("Wire", import_module(f"{__package__}.{kind}").WIRE)

"""What the server does with one request, as a value: when to send which bytes, and how it ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# whole: as HTTP wants it. cut: the connection is closed (FIN), reset: torn down (RST), hang: kept open in silence.
Ending = Literal["whole", "cut", "reset", "hang"]
Steps = Iterator[tuple[float, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """`steps`: (seconds after the request, bytes), in order of time. A stream's head goes at once, else with the first.

    `length` None: a stream, chunked; else the Content-Length, which the steps need not keep to when the ending is not
    "whole". `has_head` False: not even a status comes.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    steps: Steps
    length: int | None
    has_head: bool = True
    ending: Ending = "whole"
    tokens_per_send: int = 0  # 0: each step at its time; else as fast as the socket takes them, so many in one send


def paced(steps: Iterator[bytes], *, first_s: float, tokens_per_s: float, jitter: float, rng: random.Random) -> Steps:
    """Give each step its time: the first after `first_s`, one every 1/`tokens_per_s` from there (0: all at once).

    Times are counted from the request, so a late sender catches up. `jitter` (0 to 1) moves each by up to that share
    of half an interval either way; the order stays.
    """
    gap = 1 / tokens_per_s if tokens_per_s > 0 else 0.0
    first = first_s * (1 + jitter * (rng.random() - 0.5))
    if not jitter or not gap:
        for number, data in enumerate(steps):
            yield first + number * gap, data
        return
    for number, data in enumerate(steps):
        yield first + (number + (jitter * (rng.random() - 0.5) if number else 0.0)) * gap, data

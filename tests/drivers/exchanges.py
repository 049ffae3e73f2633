"""Recorded responses, and feeding one to a driver in every cut: what the conformance suites of all kinds share.

A kind's suite names its file of the recordings and a function that opens the driver for one of them; what an answer
should say is the business of its oracle.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from loopforge.drivers.errors import DriverError
from loopforge.drivers.fold import Fold
from loopforge.drivers.turn import Delta, Message, Reply, Turn, Usage, user
from loopforge.drivers.wire import Driver
from tests.recorded import recordings_folder

PROVIDER = "recorded"
CUTS = (1, 2, 3, 10, 100, 1000)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A response as it came. `request`: the JSON that was sent for it. `chunk_sizes`: of the true network pieces."""

    id: str
    vendor: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes
    stream: bool = True
    model: str = "recorded-model"
    request: Mapping[str, Any] | None = None
    request_headers: Mapping[str, str] = field(default_factory=dict)
    chunk_sizes: tuple[int, ...] = ()

    @property
    def turn(self) -> Turn:
        """A turn that the response could be an answer to."""
        return Turn(kind="coding", messages=(user("hello"),), provider=PROVIDER, model=self.model, id="turn-1")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What reading an exchange gave. `error`: class and fields."""

    deltas: tuple[Delta, ...]
    reply: Reply | None = None
    error: Mapping[str, Any] | None = None
    partial: Message | None = None
    known_usage: Usage | None = None
    events: int = 0

    @property
    def error_class(self) -> str:
        return str(self.error["class"]) if self.error else ""


@cache
def recordings(kind: str) -> tuple[Exchange, ...]:
    """Every line of the recorded traffic of a kind; none where there is no such folder."""
    return tuple(_exchange(line) for line in _lines(f"{kind}.jsonl"))


@cache
def sdk_replies(kind: str) -> tuple[Exchange, ...]:
    """The hand-written replies that were played to the SDKs of a kind; the id is the scenario's name."""
    return tuple(
        Exchange(
            id=line["scenario"],
            vendor=line.get("vendor", kind),
            status=line["status"],
            headers=_lower(line["headers"]),
            body=line["body"].encode(),
            stream=line["stream"],
        )
        for line in _lines(f"{kind}.sdk_replies.jsonl")
    )


@cache
def sdk_requests(kind: str) -> tuple[Mapping[str, Any], ...]:
    """What the SDKs of a kind send: `id`, `sdk`, `scenario`, the neutral `turn`, and the `request`."""
    return tuple(_lines(f"{kind}.sdk_requests.jsonl"))


def _lines(name: str) -> Iterator[Mapping[str, Any]]:
    """The objects of one file of the recordings; none where there is no such folder."""
    folder = recordings_folder()
    if folder is not None:
        with (folder / name).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _exchange(line: Mapping[str, Any]) -> Exchange:
    response, request = line["response"], line["request"] or {}
    asked = request.get("json")
    body = base64.b64decode(response["body_b64"]) if "body_b64" in response else response["body"].encode()
    return Exchange(
        id=line["id"],
        vendor=line["vendor"],
        status=response["status"],
        headers=_lower(response["headers"]),
        body=body,
        stream=line["stream"],
        model=(asked or {}).get("model") or "recorded-model",
        request=asked,
        request_headers=_lower(request.get("headers") or {}),
        chunk_sizes=tuple(response.get("chunk_bytes", ())),
    )


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def pieces(body: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The body cut into pieces of these sizes; what they leave over is the last one."""
    start = 0
    for size in sizes:
        if start >= len(body):
            return
        yield body[start : start + size]
        start += size
    yield body[start:]


def cuts(exchange: Exchange, *, seed: int = 0) -> dict[str, list[bytes]]:
    """The body whole and in pieces: 1 byte, 7 bytes, at random, and as the network had cut it."""
    body = exchange.body
    rng = random.Random(f"{exchange.id}/{seed}")
    forms = {
        "whole": [body],
        "one byte": [body[i : i + 1] for i in range(len(body))],
        "seven bytes": [body[i : i + 7] for i in range(0, len(body), 7)],
        "random": list(pieces(body, iter(lambda: rng.choice(CUTS), 0))),
    }
    if exchange.chunk_sizes:
        forms["as it came"] = list(pieces(body, exchange.chunk_sizes))
    return forms


def read(driver: Driver, exchange: Exchange, body: Iterable[bytes] | None = None, turn: Turn | None = None) -> Outcome:
    """Feed the body to a new reader, fold what comes, as run_turn does; a status other than 200 is explained."""
    turn = turn or exchange.turn
    if exchange.status != 200:
        error = driver.explain(turn, exchange.status, exchange.headers, exchange.body)
        return Outcome(deltas=(), error=error.to_fields())
    reader, fold, deltas = driver.new_reader(turn, exchange.headers), Fold(), list[Delta]()
    try:
        for data in [exchange.body] if body is None else body:
            for delta in reader.feed(data):
                deltas.append(delta)
                fold.add(delta)
        for delta in reader.close():
            deltas.append(delta)
            fold.add(delta)
    except DriverError as error:
        return Outcome(
            deltas=tuple(deltas),
            error=error.to_fields(),
            partial=fold.partial() or error.partial,
            known_usage=reader.known_usage(),
            events=reader.events,
        )
    return Outcome(deltas=tuple(deltas), reply=fold.reply(turn), known_usage=reader.known_usage(), events=reader.events)


def without_events(outcome: Outcome) -> Outcome:
    """For bodies that are one JSON value: each network piece of them counts as an event."""
    return replace(outcome, events=0)


def cut_differently(driver: Driver, exchange: Exchange) -> list[str]:
    """The cuts at which the exchange reads differently from when it is whole: none for a good reader."""
    forms = cuts(exchange)
    expected = read(driver, exchange, forms.pop("whole"))
    is_json = exchange.body.lstrip()[:1] in (b"{", b"[")
    wrong = []
    for name, body in forms.items():
        outcome = read(driver, exchange, body)
        if is_json or not expected.events:
            outcome, expected = without_events(outcome), without_events(expected)
        if outcome != expected:
            wrong.append(name)
    return wrong

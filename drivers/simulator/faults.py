"""What can go wrong at a provider, by name, and what each does to an answer.

A request meets a fault when its model is called "fault-NAME" or its provider's profile says so. Some faults are
answers of their own (an error status: the wire writes it in its vendor's words), the others spoil a good answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Literal, Protocol, cast, get_args

from loopforge.drivers.simulator.play import Play, Steps

FaultName = Literal[
    "slow", "silence", "comments", "cut", "malformed", "error-event", "stall", "endless", "reset", "reset-midway",
    "drip", "huge", "wrong-type", "401", "429", "quota", "quota-reset", "500", "503", "529", "context", "no-model",
]  # fmt: skip
Problem = Literal[
    "unauthorized", "rate_limited", "quota", "server_error", "unavailable", "overloaded", "context_too_long",
    "model_not_found", "not_found", "too_large",
]  # fmt: skip

FAULTS: dict[FaultName, str] = {
    "slow": "the first token takes slow_s longer",
    "silence": "the request is taken, nothing ever comes back",
    "comments": "keep-alive comments, for ever, and no event",
    "cut": "the connection is closed in the middle of the answer",
    "malformed": "one event in the middle is not what it should be",
    "error-event": "the answer turns into an error in the middle, with status 200",
    "stall": "the answer stops in the middle, the connection stays",
    "endless": "the answer is whole, its body never ends",
    "reset": "the connection is reset before the answer",
    "reset-midway": "the connection is reset in the middle of the answer",
    "drip": "the answer comes a few bytes at a time",
    "huge": "the body is larger than anybody wants",
    "wrong-type": "status 200 with a web page, as proxies do",
    "401": "the key is rejected",
    "429": "rate limit, with Retry-After",
    "quota": "429 for an account without credit",
    "quota-reset": "a plan's quota is used up, and whole again a while later; MiniMax, GLM and Claude say when",
    "500": "the server failed",
    "503": "the server is overloaded or down",
    "529": "the server is overloaded",
    "context": "the request is longer than the model's context",
    "no-model": "the model does not exist",
}
PROBLEMS: dict[FaultName, Problem] = {
    "401": "unauthorized",
    "429": "rate_limited",
    "quota": "quota",
    "quota-reset": "quota",
    "500": "server_error",
    "503": "unavailable",
    "529": "overloaded",
    "context": "context_too_long",
    "no-model": "model_not_found",
}

COMMENT_EVERY_S = 1.0
DRIP_BYTES = 4
DRIP_EVERY_S = 0.05
HUGE_BYTES = 96 * 2**20
_MODEL_PREFIX = "fault-"
_BLOCK = b"x" * 65536
_PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Sign in to use this network.</body></html>"


class Damage(Protocol):
    """What a wire's broken answers look like. `stream`: of a stream, else of a whole answer."""

    def keep_alive(self, *, stream: bool) -> bytes: ...
    def malformed(self) -> bytes: ...
    def error(self, *, stream: bool) -> bytes: ...
    def opening(self, *, stream: bool) -> bytes: ...


def fault_of_model(model: str) -> FaultName | None:
    """The fault that a model's name asks for. Raises ValueError for "fault-" with no such fault."""
    _, prefix, name = model.rpartition(_MODEL_PREFIX)
    if not prefix:
        return None
    if name not in get_args(FaultName):
        raise ValueError(f"there is no fault {name!r}: use one of {', '.join(FAULTS)}")
    return cast("FaultName", name)


def spoil(play: Play, fault: FaultName, damage: Damage, *, after: int, slow_s: float) -> Play:
    """A good answer with the fault in it. `after`: how many steps of a stream come first; of a whole body, half."""
    stream = play.length is None
    match fault:
        case "slow":
            return replace(play, steps=((at + slow_s, data) for at, data in play.steps), tokens_per_send=0)
        case "silence":
            return replace(play, steps=iter(()), has_head=False, ending="hang")
        case "reset":
            return replace(play, steps=iter(()), has_head=False, ending="reset")
        case "comments":
            comments = ((n * COMMENT_EVERY_S, damage.keep_alive(stream=stream)) for n in count())
            return replace(play, steps=comments, length=None, ending="hang", tokens_per_send=0)
        case "cut":
            return replace(play, steps=_first_part(play, after), ending="cut")
        case "reset-midway":
            return replace(play, steps=_first_part(play, after), ending="reset")
        case "stall":
            return replace(play, steps=_first_part(play, after), ending="hang")
        case "endless":
            # A body of known length ends with its last byte: as a chunked one it can be left open.
            return replace(play, length=None, ending="hang")
        case "drip":
            return replace(play, steps=_dripping(play.steps), tokens_per_send=0)
        case "malformed":
            if stream:
                return replace(play, steps=_with_event(play.steps, after, damage.malformed(), goes_on=True))
            at, body = next(play.steps)
            half = body[: len(body) // 2]
            return replace(play, steps=iter([(at, half)]), length=len(half))
        case "error-event":
            error = damage.error(stream=stream)
            if stream:
                return replace(play, steps=_with_event(play.steps, after, error, goes_on=False))
            return replace(play, steps=iter([(next(play.steps)[0], error)]), length=len(error))
        case "huge":
            blocks = (b"".join((damage.opening(stream=stream), _BLOCK)), *[_BLOCK] * (HUGE_BYTES // len(_BLOCK)))
            return replace(play, steps=((0.0, block) for block in blocks), length=None, tokens_per_send=1)
        case "wrong-type":
            headers = (("content-type", "text/html; charset=utf-8"),)
            return replace(play, headers=headers, steps=iter([(0.0, _PAGE)]), length=len(_PAGE))
        case "401" | "429" | "quota" | "quota-reset" | "500" | "503" | "529" | "context" | "no-model":
            raise ValueError(f"fault {fault} is an answer of its own, of the wire's")


def _first_part(play: Play, after: int) -> Steps:
    if play.length is None:
        return islice(play.steps, after)
    at, body = next(play.steps)
    return iter([(at, body[: len(body) // 2])])


def _with_event(steps: Steps, after: int, event: bytes, *, goes_on: bool) -> Steps:
    last = 0.0
    for last, data in islice(steps, after):
        yield last, data
    yield last, event
    if goes_on:
        yield from steps


def _dripping(steps: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    free_at = 0.0
    for at, data in steps:
        free_at = max(free_at, at)
        for start in range(0, len(data), DRIP_BYTES):
            yield free_at, data[start : start + DRIP_BYTES]
            free_at += DRIP_EVERY_S


def problem_of(fault: FaultName) -> Problem | None:
    """The wire's own answer that this fault is, if it is one."""
    return PROBLEMS.get(fault)

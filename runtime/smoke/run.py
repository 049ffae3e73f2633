"""Asks providers for real: each through a runtime of its own, so through a real worker process and its driver.

Nothing is retried, so that the first failure shows. Time is bounded three times: the worker's watchdogs name a provider
that says nothing, the turn's deadline ends one that never comes to an end, and a scope around both ends a case of which
nobody knows any more. Whatever happens to one provider is a result, and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from loopforge.drivers.errors import TurnError, quote
from loopforge.drivers.turn import (
    Cancelled,
    Done,
    Event,
    Failed,
    RefusalDelta,
    Reply,
    TextDelta,
    ThinkingDelta,
    ToolCallStart,
    WholePart,
)
from loopforge.runtime.client import Runtime, open_runtime
from loopforge.runtime.config.base_url import is_loopback
from loopforge.runtime.config.values import Config, Route, RuntimeSettings
from loopforge.runtime.config.values import Target as RouteTarget
from loopforge.runtime.smoke.cases import CASES, KIND, CaseName, build_turn, trouble_with
from loopforge.runtime.smoke.results import CaseResult, blank
from loopforge.runtime.smoke.targets import Target

CASE_S = 60.0
LOCAL_CASE_S = 180.0
"""A local server may have to load the model first."""
JOBS = 4
"""Providers asked at the same time. Several presets share an account, and with it a rate limit."""
READY_S = 15.0
"""A worker is ready within 0.3 s; one that cannot start makes its turns fail, with the reason."""
LAST_RESORT_S = 5.0
"""Behind a turn's deadline, the supervisor itself ends the turn after 2 s."""

_WATCHDOG_SHARE = 0.9  # of a case's time: silence is to be told as such, not as a deadline
_LOOK_EVERY_S = 0.02
_MAX_REASON = 500

Tell = Callable[[CaseResult], None]


def ignore(_result: CaseResult) -> None:
    """For those who only want what is returned."""


def smoke_now(
    target: Target, cases: Sequence[CaseName] = CASES, *, timeout_s: float | None = None, tell: Tell = ignore
) -> tuple[CaseResult, ...]:
    """Ask one provider, from a program without a loop of its own; results in the order of `cases`.

    `timeout_s`: for each case; None takes CASE_S, or LOCAL_CASE_S for a server on this machine. A target that is to be
    skipped is not asked: its results say why. Raises nothing that a provider, a key or the network can cause.
    """
    keep_quiet()
    return trio.run(lambda: smoke_all([target], cases, timeout_s=timeout_s, tell=tell))


async def smoke_all(
    targets: Sequence[Target],
    cases: Sequence[CaseName] = CASES,
    *,
    timeout_s: float | None = None,
    jobs: int = JOBS,
    tell: Tell = ignore,
    stop: trio.Event | None = None,
) -> tuple[CaseResult, ...]:
    """Ask all targets, `jobs` at a time; results in the order of `targets` and `cases`.

    `tell` sees each result as it comes. `stop`: when it is set, what has no result yet is skipped as interrupted.
    """
    found: dict[tuple[str, CaseName], CaseResult] = {}

    def note(result: CaseResult) -> None:
        found[result.provider, result.case] = result
        tell(result)

    limiter = trio.CapacityLimiter(jobs)
    async with trio.open_nursery() as nursery:

        async def ask(target: Target) -> None:
            async with limiter:
                await _smoke(target, cases, timeout_s or time_for(target), note)

        async def leave() -> None:
            assert stop is not None
            await stop.wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as asking:
            if stop is not None:
                nursery.start_soon(leave)
            for target in targets:
                asking.start_soon(ask, target)
        nursery.cancel_scope.cancel()
    for target in targets:
        for case in cases:
            if (target.name, case) not in found:
                note(blank(target, case, "skipped", reason="interrupted", next_step="run it again"))
    return tuple(found[target.name, case] for target in targets for case in cases)


def time_for(target: Target) -> float:
    """Seconds that each of its cases may take when nobody says otherwise."""
    url = target.settings.base_url
    return LOCAL_CASE_S if url and is_loopback(url) else CASE_S


def keep_quiet() -> None:
    """What happens to workers is in the results; without a handler, logging would print it."""
    logging.getLogger("loopforge").addHandler(logging.NullHandler())


# -- one provider ----------------------------------------------------------------------------------------------------


async def _smoke(target: Target, cases: Sequence[CaseName], case_s: float, tell: Tell) -> None:
    """One result for each case, through `tell`. Raises no Exception."""
    if target.skip:
        for case in cases:
            tell(blank(target, case, "skipped", reason=target.skip, next_step=target.next_step))
        return
    left = list(cases)
    try:
        async with open_runtime(configuration(target, case_s)) as runtime:
            while left:
                await _wait_started(runtime)
                result = await _run_case(runtime, target, left[0], case_s)
                del left[0]
                tell(result)
    except Exception as exc:  # noqa: BLE001 - of ours; the other providers are still to be asked
        for case in left:
            tell(blank(target, case, "failed", **_bug(exc)))


async def _wait_started(runtime: Runtime) -> None:
    """Until the worker can take a turn, or is on its way down; READY_S at most. A dead one's successor counts, too."""
    with trio.move_on_after(READY_S):
        while True:
            (provider,) = (await runtime.status())["providers"]
            if provider["state"] not in ("stopped", "starting"):
                return
            await trio.sleep(_LOOK_EVERY_S)


def configuration(target: Target, case_s: float) -> Config:
    """A configuration in which there is nothing but the target."""
    settings = target.settings
    patience_s = case_s * _WATCHDOG_SHARE
    provider = replace(
        settings,
        connect_timeout_s=min(settings.connect_timeout_s, patience_s),
        first_event_timeout_s=min(settings.first_event_timeout_s, patience_s),
        event_gap_timeout_s=min(settings.event_gap_timeout_s, patience_s),
    )
    route = Route(kind=KIND, targets=(RouteTarget(provider=target.name, model=target.model),), lane="interactive")
    return Config(
        path=f"smoke of {target.name}",
        providers={target.name: provider},
        routes={KIND: route},
        runtime=RuntimeSettings(drain_s=0.0, journal=False, max_attempts=1),
    )


# -- one case --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What has come of a turn, on the trio clock."""

    posted_at: float
    first_at: float | None = None
    text: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        match event:
            case TextDelta() | ThinkingDelta() | RefusalDelta() | ToolCallStart() | WholePart():
                if self.first_at is None:
                    self.first_at = trio.current_time()
        if isinstance(event, TextDelta):
            self.text.append(event.text)

    def timings(self) -> dict[str, Any]:
        first_token_s = None if self.first_at is None else self.first_at - self.posted_at
        return {"first_token_s": first_token_s, "total_s": trio.current_time() - self.posted_at}


async def _run_case(runtime: Runtime, target: Target, case: CaseName, case_s: float) -> CaseResult:
    turn = build_turn(case, provider=target.name, model=target.model, deadline_s=case_s)
    seen = _Seen(trio.current_time())
    with trio.move_on_after(case_s + LAST_RESORT_S):
        try:
            async with runtime.stream(turn) as events:
                async for event in events:
                    seen.take(event)
                    match event:
                        case Done(reply):
                            return _answered(target, case, reply, seen)
                        case Failed(error):
                            return blank(target, case, "failed", **_failure(error, case_s), **seen.timings())
                        case Cancelled(why):
                            return blank(target, case, "failed", **_lost(f"it was cancelled: {why}"), **seen.timings())
        except TurnError as exc:  # of the connection to our own runtime, or a turn that could not be posted
            return blank(target, case, "failed", **_failure(exc, case_s), **seen.timings())
    return blank(target, case, "failed", **_lost(f"no outcome came within {case_s:g} s"), **seen.timings())


def _answered(target: Target, case: CaseName, reply: Reply, seen: _Seen) -> CaseResult:
    answer = {
        "usage": reply.usage,
        "finish": reply.finish,
        "model_reported": reply.model_reported,
        "request_id": reply.request_id,
        "warnings": reply.warnings,
        **seen.timings(),
    }
    trouble = trouble_with(case, reply, "".join(seen.text))
    if not trouble:
        return blank(target, case, "ok", **answer)
    return blank(
        target,
        case,
        "failed",
        reason=quote(trouble, _MAX_REASON),
        error="UnexpectedAnswer",
        next_step=f"try another model: export {target.model_variables[0]}=MODEL",
        **answer,
    )


def _failure(error: Exception, case_s: float) -> dict[str, Any]:
    if not isinstance(error, TurnError):
        return _bug(error)
    next_step = error.action
    if type(error).__name__ == "DeadlineExceeded":
        next_step = f"it needs more than {case_s:g} s: give it a longer --timeout, or try a quicker model"
    return {"reason": quote(error.what, _MAX_REASON), "error": type(error).__name__, "next_step": next_step}


def _lost(reason: str) -> dict[str, Any]:
    return {"reason": reason, "error": "NoOutcome", "next_step": "report this as a bug of LoopForge"}


def _bug(exc: Exception) -> dict[str, Any]:
    """Of ours. A nursery's group says what is in it."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, TurnError):
        return {"reason": quote(exc.what, _MAX_REASON), "error": type(exc).__name__, "next_step": exc.action}
    reason = quote(f"{type(exc).__name__}: {exc}", _MAX_REASON)
    return {"reason": reason, "error": type(exc).__name__, "next_step": "report this as a bug of LoopForge"}

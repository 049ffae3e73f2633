"""Which providers may serve a turn, in which order: a function of the configuration and the providers' states.

Resolved when a turn is accepted, and again after a failure. It only orders: slots and waiting belong to taskqueue.py,
resending to retry.py, starting workers to the supervisor. The rules are those of [router.KIND] in config.toml.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from loopforge.drivers.errors import TurnError, quote
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort, Lane
from loopforge.runtime.config.values import Route, Target
from loopforge.runtime.errors import NoRoute, ProviderDown

DEFAULT_MODEL = "default"  # in a route or an override: the provider's default_model
MAX_NAME = 64  # characters of a client's word that are compared and quoted: it may have sent megabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderState:
    """What the router must know of a provider at this moment. A provider without a state is idle.

    `phase`: idle has no worker yet (the first turn starts it); idle and starting take turns into their queue like up.
    `down_until`: on the clock of `now`; while it lies ahead the provider is down, math.inf: until the config changes.
    `down_error`: why, when it is more than a crashed worker (no key, no driver); turns fail with a copy of it.
    `free_slots`, `queued`: of its task queue; they matter to routes with `spill`.
    `lacks`: features (SubmitHeader.features) that its driver refuses.
    State about single models (breakers) belongs here too, as a further member.
    """

    phase: Literal["idle", "starting", "up"] = "idle"
    down_until: float = -math.inf
    down_error: TurnError | None = None
    free_slots: int = 0
    queued: int = 0
    lacks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A provider and model that may serve the turn, with the watchdogs that hold there (seconds)."""

    provider: str
    model: str
    first_event_timeout_s: float
    event_gap_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a turn is served. `candidates` is never empty: the first is the one to use, the others in order after it.

    `lane`, `deadline_s`, `thinking`: the route's; what the turn itself asks for goes before them.
    `resend`: the route allows an attempt that was lost with its worker to be sent again.
    `spill`: when a candidate's queue refuses the turn (QueueFull), the next candidate may be asked.
    `pinned`: the client chose provider or model; there is one candidate, and its failures open no breaker.
    `warnings`: who was passed over and why, for the reply.
    """

    kind: str
    candidates: tuple[Candidate, ...]
    lane: Lane
    deadline_s: float
    thinking: Effort | int | None
    resend: bool
    spill: bool
    pinned: bool
    warnings: tuple[str, ...] = ()


def route(  # noqa: PLR0917 - eight words of one question, in the order it is asked
    kind: str,
    override_provider: str,
    override_model: str,
    features: Collection[str],
    routes: Mapping[str, Route],
    providers: Mapping[str, ProviderSettings],
    states: Mapping[str, ProviderState],
    now: float,
) -> Plan:
    """The plan for a turn of this kind.

    `override_provider`, `override_model`: as the client posted them, "" for none. A provider alone means its default
    model; a model alone means the first provider of the kind's route with that model.
    `features`: what the turn asks for, in the words of SubmitHeader. `now`: seconds, on the clock of `down_until`.

    A provider that is down or lacks a feature is passed over as long as another candidate is left. Raises NoRoute
    (unknown kind or provider, no model to use, nobody can carry the features); when all that could serve the turn are
    down, ProviderDown with the time until the first of them is tried again, or the `down_error` of the first when
    none comes back by itself.
    """
    if (chosen := routes.get(kind)) is None:
        raise _unknown_kind(kind, routes)
    pinned = bool(override_provider or override_model)
    place = f"[router.{kind}]"
    targets = chosen.targets
    if pinned:
        targets = (_override(override_provider or targets[0].provider, override_model, providers),)
        place = f"provider {targets[0].provider!r}, which the turn asks for,"
    capable = [target for target in targets if not _missing(target, features, states)]
    if not capable:
        raise _nobody_can(place, targets, features, states)
    usable = [target for target in capable if _state(target, states).down_until <= now]
    if not usable:
        raise _all_down(place, capable, states, now)
    if chosen.spill:  # sorted() is stable: among those with room the order of the route holds
        usable = sorted(usable, key=lambda target: _is_full(target, providers, states))
    return Plan(
        kind=kind,
        candidates=tuple(_candidate(target, chosen, providers[target.provider]) for target in usable),
        lane=chosen.lane,
        deadline_s=chosen.deadline_s,
        thinking=chosen.thinking,
        resend=chosen.resend,
        spill=chosen.spill and not pinned,
        pinned=pinned,
        warnings=tuple(_passed_over(targets, usable, features, states, now)),
    )


def _override(provider: str, model: str, providers: Mapping[str, ProviderSettings]) -> Target:
    """What the client asked for. Raises NoRoute."""
    if (settings := providers.get(provider)) is None:
        raise NoRoute(
            what=f"there is no provider {quote(provider, MAX_NAME)!r}{_did_you_mean(provider, providers)}",
            action=f"ask for one of {_listed(providers)}, or add the table to config.toml",
        )
    if model not in ("", DEFAULT_MODEL):
        return Target(provider=provider, model=model)
    if not settings.default_model:
        raise NoRoute(
            provider,
            "the turn names no model and the provider has no default_model",
            action=f'name a model in the turn, or write default_model = "MODEL" under [providers.{provider}]',
        )
    return Target(provider=provider, model=settings.default_model)


def _candidate(target: Target, chosen: Route, settings: ProviderSettings) -> Candidate:
    return Candidate(
        provider=target.provider,
        model=target.model,
        first_event_timeout_s=chosen.first_event_timeout_s or settings.first_event_timeout_s,
        event_gap_timeout_s=chosen.event_gap_timeout_s or settings.event_gap_timeout_s,
    )


_IDLE = ProviderState()


def _state(target: Target, states: Mapping[str, ProviderState]) -> ProviderState:
    return states.get(target.provider, _IDLE)


def _missing(target: Target, features: Collection[str], states: Mapping[str, ProviderState]) -> list[str]:
    """The turn's features that the target's provider cannot carry."""
    return sorted(feature for feature in _state(target, states).lacks if feature in features)


def _is_full(target: Target, providers: Mapping[str, ProviderSettings], states: Mapping[str, ProviderState]) -> bool:
    state = states.get(target.provider)
    return state is not None and not state.free_slots and state.queued >= providers[target.provider].max_queued


def _passed_over(
    targets: Iterable[Target],
    usable: list[Target],
    features: Collection[str],
    states: Mapping[str, ProviderState],
    now: float,
) -> Iterable[str]:
    """One sentence for each target of the route that stands before the one to use."""
    for target in targets:
        if target is usable[0]:
            return
        if lacks := _missing(target, features, states):
            yield f"{target.provider} was passed over: it cannot carry {', '.join(lacks)}"
        elif _state(target, states).down_until > now:
            yield f"{target.provider} was passed over: it is down {_for_how_long(target, states, now)}"
        else:
            yield f"{target.provider} was passed over: its queue is full"


# -- refusals --------------------------------------------------------------------------------------------------------


def _unknown_kind(kind: str, routes: Mapping[str, Route]) -> NoRoute:
    name = quote(kind, MAX_NAME)
    return NoRoute(
        what=f"there is no route for kind {name!r}{_did_you_mean(kind, routes)}",
        action=f"post the turn as one of {_listed(routes)}, or add a [router.KIND] table to config.toml",
    )


def _nobody_can(
    place: str, targets: Iterable[Target], features: Collection[str], states: Mapping[str, ProviderState]
) -> NoRoute:
    reasons = "; ".join(f"{target.provider}: {', '.join(_missing(target, features, states))}" for target in targets)
    return NoRoute(
        what=f"{place} cannot carry what the turn asks for ({reasons})",
        action="leave that out of the turn, or route it to a provider that can carry it",
    )


def _all_down(place: str, targets: list[Target], states: Mapping[str, ProviderState], now: float) -> TurnError:
    first = targets[0].provider
    until = min(_state(target, states).down_until for target in targets)
    error = _state(targets[0], states).down_error
    retry_after_s = None if until == math.inf else until - now
    if error is not None and (until == math.inf or len(targets) == 1):
        # a copy: raising the kept one again and again would grow its traceback
        return TurnError.from_fields({"retry_after_s": retry_after_s, **error.to_fields()})
    if len(targets) == 1:
        return ProviderDown(first, retry_after_s=retry_after_s)
    each = ", ".join(f"{target.provider} {_for_how_long(target, states, now)}" for target in targets)
    return ProviderDown(first, f"every provider of {place} is down ({each})", retry_after_s=retry_after_s)


def _for_how_long(target: Target, states: Mapping[str, ProviderState], now: float) -> str:
    state = _state(target, states)
    if state.down_until < math.inf:
        return f"for {state.down_until - now:.0f} s more"
    why = f": {state.down_error.what}" if state.down_error else ""
    return f"until the configuration changes{why}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:MAX_NAME], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

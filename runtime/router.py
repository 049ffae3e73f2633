"""Which providers may serve a turn, in which order: a function of the configuration and the providers' states.

Resolved when a turn is accepted; `options` shows its candidates to retry.py as they stand after a failure. It only
orders: slots and waiting belong to taskqueue.py, resending to retry.py, breakers to breakers.py, starting workers to
the supervisor. The rules are those of [router.KIND] in config.toml.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from loopforge.drivers.errors import RateLimited, TurnError, quote
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Effort, Lane
from loopforge.runtime.breakers import NOT_CLOSED, Closed
from loopforge.runtime.config.values import Route, Target
from loopforge.runtime.errors import NoRoute, ProviderDown
from loopforge.runtime.retry import Option, rule_for
from loopforge.runtime.windows import window_of

DEFAULT_MODEL = "default"  # in a route or an override: the provider's default_model
MAX_NAME = 64  # characters of a client's word that are compared and quoted: it may have sent megabytes
# A prompt's tokens are estimated by its bytes. Only one that passes a window by far is kept from it beforehand.
WINDOW_SLACK = 1.25
_NOT_TEXT = frozenset({"images", "documents", "audio"})  # their bytes say nothing of their tokens

Look: TypeAlias = Callable[[str, str], Closed]
"""(provider, model) -> whether a breaker keeps turns from it; Breakers.look at this moment."""


def nothing_closed(provider: str, model: str) -> Closed:  # noqa: ARG001 - a Look
    """For where there are no breakers."""
    return NOT_CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderState:
    """What the router must know of a provider at this moment. A provider without a state is idle.

    `phase`: idle has no worker yet (the first turn starts it); idle and starting take turns into their queue like up.
    `down_until`: on the clock of `now`; while it lies ahead the provider is down, math.inf: until the config changes.
    `down_error`: why, when it is more than a crashed worker (no key, no driver); turns fail with a copy of it.
    `free_slots`, `queued`: of its task queue; they matter to routes with `spill`.
    `lacks`: features (SubmitHeader.features) that its driver refuses for every model; a Target has its own. State about
    single models is a Look's.
    """

    phase: Literal["idle", "starting", "up"] = "idle"
    down_until: float = -math.inf
    down_error: TurnError | None = None
    free_slots: int = 0
    queued: int = 0
    lacks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A provider and model that may serve the turn, with the watchdogs that hold there (seconds).

    `window`: of its context, in tokens; 0 when unknown.
    """

    provider: str
    model: str
    first_event_timeout_s: float
    event_gap_timeout_s: float
    window: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a turn is served. `candidates` is never empty: the first is the one to use, the others in order after it.

    `later`: those that could serve it too, but take no turns at the moment. `home`: the route's own first target.
    `waits_until`: nobody takes turns now, and `candidates[0]` is the first that will, then; else -math.inf.
    `waits_for`: what keeps it until then; `parks`: it is a quota. `park_max_s`: the route's.
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
    later: tuple[Candidate, ...] = ()
    home: Target = field(default_factory=lambda: Target(provider="", model=""))
    waits_until: float = -math.inf
    waits_for: TurnError | None = None
    park_max_s: float = 0.0

    @property
    def parks(self) -> bool:
        return self.waits_for is not None and rule_for(self.waits_for).same == "parks"

    @property
    def everyone(self) -> tuple[Candidate, ...]:
        """All who can serve the turn: what the indices of retry.py's decisions count."""
        return self.candidates + self.later


def route(  # noqa: PLR0917 - eight words of one question, in the order it is asked
    kind: str,
    override_provider: str,
    override_model: str,
    features: Collection[str],
    routes: Mapping[str, Route],
    providers: Mapping[str, ProviderSettings],
    states: Mapping[str, ProviderState],
    now: float,
    *,
    look: Look = nothing_closed,
    stick: Target | None = None,
    size: int = 0,
) -> Plan:
    """The plan for a turn of this kind.

    `override_provider`, `override_model`: as the client posted them, "" for none. A provider alone means its default
    model; a model alone means the first provider of the kind's route with that model.
    `features`: what the turn asks for, in the words of SubmitHeader. `now`: seconds, on the clock of `down_until`.
    `stick`: who served the turn's session last (stickiness.py). `size`: estimate of the prompt in tokens.

    Passed over as long as another candidate is left: who is down, lacks a feature, has an open breaker, or a window
    that is far too small. When all have open breakers the turn waits for the first that a wait can open; for a quota's
    only if the route parks so long. Raises NoRoute (unknown kind or provider, no model to use, nobody can carry the
    features); when all that could serve the turn are down or have to be mended, the error of the first of them that
    comes back, with the time, or else of the first.
    """
    if (chosen := routes.get(kind)) is None:
        raise _unknown_kind(kind, routes)
    pinned = bool(override_provider or override_model)
    place = f"[router.{kind}]"
    targets = chosen.targets
    if pinned:
        targets = (_override(override_provider or targets[0].provider, override_model, providers),)
        place = f"provider {targets[0].provider!r}, which the turn asks for,"
        look = nothing_closed
    lacking = {target: _missing(target, features, states) for target in targets}
    views = [
        _View.of(target, providers[target.provider], states, look, now) for target in targets if not lacking[target]
    ]
    if not views:
        raise _nobody_can(place, lacking)
    text_size = 0 if any(feature in features for feature in _NOT_TEXT) else size
    usable = [view for view in views if view.until <= now]
    waited_for = None
    if not usable:
        waited_for = _first_to_wait_for(views, chosen.park_max_s, now)
        if waited_for is None:
            raise _all_down(place, views, now)
        usable = [waited_for]
    later = [view for view in views if view not in usable] if len(usable) < len(views) else []
    if len(usable) > 1:
        usable.sort(key=lambda view: view.rank(chosen, stick, text_size))  # stable: else the order of the route holds
    passed_over = () if usable[0].target is targets[0] else _passed_over(lacking, usable[0], views, text_size, now)
    return Plan(
        kind=kind,
        candidates=tuple(_candidate(view, chosen) for view in usable),
        lane=chosen.lane,
        deadline_s=chosen.deadline_s,
        thinking=chosen.thinking,
        resend=chosen.resend,
        spill=chosen.spill and not pinned,
        pinned=pinned,
        warnings=tuple(passed_over),
        later=tuple(_candidate(view, chosen) for view in later),
        home=targets[0],
        waits_until=-math.inf if waited_for is None else waited_for.until,
        waits_for=None if waited_for is None else waited_for.by,
        park_max_s=chosen.park_max_s,
    )


def options(
    plan: Plan,
    states: Mapping[str, ProviderState],
    look: Look,
    idle: Callable[[Candidate], bool],
    now: float,
) -> tuple[Option, ...]:
    """`plan.everyone` as it stands now, for retry.py. `idle`: whether the turn would start there at once.

    Of a pinned plan breakers do not matter, as they do not for the turn itself.
    """
    shown = []
    for candidate in plan.everyone:
        state = states.get(candidate.provider, _IDLE)
        closed = Closed() if plan.pinned else look(candidate.provider, candidate.model)
        until, by = closed.until, closed.by
        if state.down_until > max(now, until):
            until, by = state.down_until, state.down_error or ProviderDown(candidate.provider)
        shown.append(
            Option(
                provider=candidate.provider,
                model=candidate.model,
                idle=until <= now and not closed.probing and idle(candidate),
                closed_until=until,
                closed_by=by,
                window=candidate.window,
            )
        )
    return tuple(shown)


def in_time(plan: Plan, earliest: Callable[[Candidate], float], deadline: float, now: float) -> Plan:
    """The plan with those first who can start the turn before its deadline; one that nobody can start is refused.

    `earliest`: before that moment the limits a minute let the turn not start at the candidate. Raises RateLimited, or
    the error that keeps everybody closed, each with the time at which the turn could start: waiting would be in vain.
    """
    starts = {candidate: max(plan.waits_until, earliest(candidate)) for candidate in plan.candidates}
    if starts[plan.candidates[0]] < deadline:
        return plan
    first = min(starts, key=starts.__getitem__)
    if starts[first] < deadline:
        others = [candidate for candidate in plan.candidates if starts[candidate] >= deadline]
        ready = [candidate for candidate in plan.candidates if starts[candidate] < deadline]
        passed = (passed_over_late(candidate.provider, starts[candidate] - now) for candidate in others)
        return replace(plan, candidates=(*ready, *others), warnings=(*plan.warnings, *passed))
    wait_s = starts[first] - now
    late = f"{wait_s:.0f} s from now at the earliest, and the turn's deadline comes in {max(0.0, deadline - now):.0f} s"
    action = f"post it again in {wait_s:.0f} s, or with a larger deadline_s"
    if plan.waits_for is not None and plan.waits_until >= deadline:
        what = f"{plan.waits_for.what}; it is tried again {late}"
        fields = {**plan.waits_for.to_fields(), "what": what, "action": action, "retry_after_s": wait_s}
        raise TurnError.from_fields(fields)
    what = f"no candidate of [router.{plan.kind}] has a request or its tokens left before {late}"
    raise RateLimited(first.provider, what, action=action, model=first.model, retry_after_s=wait_s)


def passed_over_late(provider: str, wait_s: float) -> str:
    """For the reply: why a fallback has the turn."""
    return f"{provider} was passed over: its limits a minute let the turn start in {wait_s:.0f} s, behind its deadline"


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


_IDLE = ProviderState()


@dataclass(slots=True, eq=False)  # not frozen: one is made for each target of each turn, and that takes thrice as long
class _View:
    """A target as it stands. `until`: it takes no turns before, `by`: why; `probing`: its breaker is half open."""

    target: Target
    settings: ProviderSettings
    state: ProviderState
    until: float
    by: TurnError | None
    probing: bool
    down: bool
    window: int

    @classmethod
    def of(
        cls,
        target: Target,
        settings: ProviderSettings,
        states: Mapping[str, ProviderState],
        look: Look,
        now: float,
    ) -> _View:
        state = states.get(target.provider, _IDLE)
        closed = look(target.provider, target.model)
        until, by = closed.until, closed.by
        if is_down := state.down_until > now and state.down_until >= until:
            until, by = state.down_until, state.down_error
        return cls(target, settings, state, until, by, closed.probing, is_down, window_of(settings, target.model))

    @property
    def is_full(self) -> bool:
        # of a provider without a state nothing is known, also not that it has no free slot
        return self.state is not _IDLE and not self.state.free_slots and self.state.queued >= self.settings.max_queued

    @property
    def parks(self) -> bool:
        return self.by is not None and rule_for(self.by).same == "parks"

    def is_too_small(self, size: int) -> bool:
        return 0 < self.window * WINDOW_SLACK < size

    def rank(self, chosen: Route, stick: Target | None, size: int) -> tuple[bool, bool, bool, bool]:
        return (
            self.is_too_small(size),
            self.probing,
            chosen.spill and self.is_full,
            self.target != stick,
        )


def _first_to_wait_for(views: list[_View], park_max_s: float, now: float) -> _View | None:
    """Of those that waiting opens the first; None when it opens none, or not without parking."""
    waiting = [
        view
        for view in views
        if not view.down
        and view.until < math.inf
        and view.by is not None
        and rule_for(view.by).same != "no"
        and (not view.parks or view.until - now <= park_max_s)
    ]
    return min(waiting, key=lambda view: view.until, default=None)


def _candidate(view: _View, chosen: Route) -> Candidate:
    return Candidate(
        provider=view.target.provider,
        model=view.target.model,
        first_event_timeout_s=chosen.first_event_timeout_s or view.settings.first_event_timeout_s,
        event_gap_timeout_s=chosen.event_gap_timeout_s or view.settings.event_gap_timeout_s,
        window=view.window,
    )


def _state(target: Target, states: Mapping[str, ProviderState]) -> ProviderState:
    return states.get(target.provider, _IDLE)


def _missing(target: Target, features: Collection[str], states: Mapping[str, ProviderState]) -> list[str]:
    """The turn's features that the target, or its whole provider, cannot carry."""
    lacks = _state(target, states).lacks
    if not lacks and not target.lacks:
        return []
    return sorted(feature for feature in lacks.union(target.lacks) if feature in features)


def _passed_over(
    lacking: Mapping[Target, list[str]], used: _View, views: list[_View], size: int, now: float
) -> Iterable[str]:
    """One sentence for each target of the route that stands before the one to use, unless a session's habit is why."""
    by_target = {view.target: view for view in views}
    for target, lacks in lacking.items():
        if target == used.target:
            return
        view = by_target.get(target)
        why = ""
        if view is None:
            why = f"it cannot carry {', '.join(lacks)}"
        elif view.until > now:
            why = f"it is {'down' if view.down else 'closed'} {_for_how_long(view, now)}"
        elif view.is_too_small(size):
            why = f"the turn has about {size} tokens, its window {view.window}"
        elif view.probing:
            why = "it is being tried again by another turn"
        elif view.is_full:
            why = "its queue is full"
        if why:
            yield f"{target.provider} was passed over: {why}"


# -- refusals --------------------------------------------------------------------------------------------------------


def _unknown_kind(kind: str, routes: Mapping[str, Route]) -> NoRoute:
    name = quote(kind, MAX_NAME)
    return NoRoute(
        what=f"there is no route for kind {name!r}{_did_you_mean(kind, routes)}",
        action=f"post the turn as one of {_listed(routes)}, or add a [router.KIND] table to config.toml",
    )


def _nobody_can(place: str, lacking: Mapping[Target, list[str]]) -> NoRoute:
    reasons = "; ".join(f"{target.provider}: {', '.join(lacks)}" for target, lacks in lacking.items())
    return NoRoute(
        what=f"{place} cannot carry what the turn asks for ({reasons})",
        action="leave that out of the turn, or route it to a provider that can carry it",
    )


def _all_down(place: str, views: list[_View], now: float) -> TurnError:
    first = views[0]
    soonest = min(views, key=lambda view: view.until)
    retry_after_s = None if soonest.until == math.inf else soonest.until - now
    told = first if retry_after_s is None or len(views) == 1 else soonest
    if told.by is not None and (told.until == math.inf or not told.down or len(views) == 1):
        # a copy: raising the kept one again and again would grow its traceback
        fields = told.by.to_fields()
        if not told.down and retry_after_s is not None:
            fields |= {"retry_after_s": retry_after_s}
            fields["what"] = f"{told.by.what} (closed {_for_how_long(told, now)})"
        return TurnError.from_fields({"retry_after_s": retry_after_s, **fields})
    if len(views) == 1:
        return ProviderDown(first.target.provider, retry_after_s=retry_after_s)
    each = ", ".join(f"{view.target.provider} {_for_how_long(view, now)}" for view in views)
    what = f"every provider of {place} is down ({each})"
    return ProviderDown(first.target.provider, what, retry_after_s=retry_after_s)


def _for_how_long(view: _View, now: float) -> str:
    why = f": {view.by.what}" if view.by else ""
    if view.until < math.inf:
        return f"for {view.until - now:.0f} s more" + (why if not view.down else "")
    return f"until the configuration changes{why}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:MAX_NAME], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

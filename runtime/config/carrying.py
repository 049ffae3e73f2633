"""What a route asks for that its models cannot do: said with its line, and noted on targets that turns are kept from.

The facts are those of drivers/capabilities.py and runtime/windows.py. Of the drivers it loads the profiles alone, and
only those of kinds that a route uses: 1 to 8 ms, where the whole check takes 150.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from loopforge.drivers.capabilities import Capabilities, capabilities_of
from loopforge.drivers.registry import ProviderSettings, has_driver
from loopforge.drivers.turn import Effort
from loopforge.runtime.config.findings import Findings, Path, describe
from loopforge.runtime.config.values import Route, Target
from loopforge.runtime.windows import window_of

Places = Mapping[str, Mapping[Target, Path]]
"""Where the file names a target, by kind."""

MUCH_SMALLER: Final = 0.5
"""A window below this share of the first one's is said; those of today's large models differ by less."""
_MISSED: Final = {"tools": "tools", "new images": "images"}
"""What conversations hold as they go on. Documents and sound come in turns that are sent where they are taken."""


def with_lacks(route: Route, providers: Mapping[str, ProviderSettings]) -> Route:
    """The route with what each target refuses, whatever its form."""
    targets = []
    for target in route.targets:
        can = _capabilities(target, providers)
        targets.append(target if can is None else replace(target, lacks=tuple(sorted(can.refuses))))
    return replace(route, targets=tuple(targets))


def warn_of_routes(
    routes: Iterable[Route], providers: Mapping[str, ProviderSettings], places: Places, findings: Findings
) -> None:
    """Name thinking that a model does not do as asked, and fallbacks that carry less than the first target."""
    for route in routes:
        first, *fallbacks = route.targets
        _warn_of_thinking(route, first, ("router", route.kind, "thinking"), providers, findings)
        for fallback in fallbacks:
            place = places[route.kind][fallback]
            _warn_of_thinking(route, fallback, place, providers, findings)
            _warn_of_less(first, fallback, place, providers, findings)


def _capabilities(target: Target, providers: Mapping[str, ProviderSettings]) -> Capabilities | None:
    """None for a kind without a driver, which is said elsewhere."""
    settings = providers[target.provider]
    return capabilities_of(settings, target.model) if has_driver(settings.kind) else None


def _warn_of_thinking(
    route: Route, target: Target, place: Path, providers: Mapping[str, ProviderSettings], findings: Findings
) -> None:
    can = _capabilities(target, providers)
    if can is None or route.thinking is None or can.does(route.thinking):
        return
    problem = f"{_named(target)} {_why_not(can, route.thinking)}; turns go there without that, and each reply says so"
    findings.warn(place, problem, _what_instead(can))


def _why_not(can: Capabilities, wanted: Effort | int) -> str:
    if not can.thinks:
        return "is not known to think"
    if wanted in ("off", 0):
        return "cannot be told to stop thinking"
    if isinstance(wanted, int):
        return "takes no thinking budget in tokens"
    return f"has no thinking effort {describe(wanted)}"


def _what_instead(can: Capabilities) -> str:
    words = [describe(level) for level in can.levels] if can.thinks else []
    if can.budgets:
        words.append("a budget in tokens")
    return f"leave thinking out, or write {' or '.join(words)}" if words else "leave thinking out"


def _warn_of_less(
    first: Target, fallback: Target, place: Path, providers: Mapping[str, ProviderSettings], findings: Findings
) -> None:
    can, beside = _capabilities(first, providers), _capabilities(fallback, providers)
    if can is not None and beside is not None:
        missed = [word for feature, word in _MISSED.items() if feature in beside.refuses - can.refuses]
        if missed:
            findings.warn(
                place,
                f"{_named(fallback)} takes no {' and no '.join(missed)}, which {_named(first)} does",
                "turns with them do not fall back to it; name one more fallback for those",
            )
    window, its = (window_of(providers[target.provider], target.model) for target in (first, fallback))
    if 0 < its < window * MUCH_SMALLER:
        findings.warn(
            place,
            f"{_named(fallback)} has a context window of {its:,} tokens, {_named(first)} one of {window:,}",
            "longer turns fail there; name a fallback with a larger window, or correct context_window",
        )


def _named(target: Target) -> str:
    return describe(f"{target.provider}/{target.model}")

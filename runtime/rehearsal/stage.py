"""The configuration as it is rehearsed: every provider pointed at the simulator, no real key anywhere. Pure.

Routes, lanes, slots, queues, vendors and models stay the person's own. What changes is said in the result: base URLs,
keys, own headers, and timeouts longer than the run has patience for (or a silent provider would show nothing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loopforge.drivers.registry import ProviderSettings, has_driver, has_simulator
from loopforge.runtime.config.values import Config, Route
from loopforge.runtime.rehearsal.faults import Faults
from loopforge.runtime.rehearsal.workload import TOOL

KEY_VARIABLE = "LOOPFORGE_REHEARSAL_KEY"
KEY = "rehearsal"

FIRST_TOKEN_S = 0.1
TOKENS_PER_S = 150.0
ANSWER_TOKENS = 400
"""More than any turn asks for: the turn's own limit ends the answer."""
LEAST_PATIENCE_S = 2.0
PATIENT_TRIES = 3
"""A turn's deadline in a rehearsal leaves time for that many silences: then it fails with what kept it."""
"""On a busy machine even a healthy simulator may take most of a second for its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`absent`: provider -> why it cannot be rehearsed. `patience_s`: no watchdog of `config` waits longer."""

    config: Config
    absent: Mapping[str, str]
    patience_s: float

    def unplayable(self) -> dict[str, str]:
        """Kind -> why none of its turns is posted: its route begins at an absent provider."""
        firsts = {kind: route.targets[0].provider for kind, route in self.config.routes.items()}
        return {
            kind: f"{provider}: {self.absent[provider]}" for kind, provider in firsts.items() if provider in self.absent
        }


def absent_providers(config: Config) -> dict[str, str]:
    """Provider -> why it cannot be rehearsed, for those that cannot."""
    return {
        name: f"cannot be rehearsed, {what} for kind {settings.kind!r}"
        for name, settings in config.providers.items()
        if (what := _missing(settings.kind))
    }


def _missing(kind: str) -> str:
    if not has_driver(kind):
        return "there is no driver yet"
    return "" if has_simulator(kind) else "there is no simulator yet"


def patience(seconds: float) -> float:
    """How long a rehearsal of this length lets a silent provider keep a turn, in seconds."""
    return max(seconds / 5, LEAST_PATIENCE_S)


def profiles(config: Config, faults: Faults, seconds: float, seed: int) -> dict[str, dict[str, Any]]:
    """Provider -> how it is simulated, in the members of drivers/simulator/profile.py."""
    absent = absent_providers(config)
    return {
        name: {
            "kind": settings.kind,
            "first_token_s": FIRST_TOKEN_S,
            "tokens_per_s": TOKENS_PER_S,
            "jitter": 0.2,
            "answer_tokens": ANSWER_TOKENS,
            "reject_unknown_fields": False,  # extra_body and the fields of vendors are fine here
            "tool_calls": [{"name": TOOL.name, "arguments": {"path": "tests"}}],
            "fault": faults.of_provider.get(name),
            "fault_after_tokens": 3,  # a tool call is not much longer
            "slow_s": patience(seconds) / 2,
            "quota_reset_s": patience(seconds),
            "seed": seed,
        }
        for name, settings in config.providers.items()
        if name not in absent
    }


def stage(config: Config, base_urls: Mapping[str, str], seconds: float) -> Stage:
    """`base_urls`: where the simulator plays each provider that `profiles` named."""
    limit_s = patience(seconds)
    providers = {
        name: _provider(settings, base_urls.get(name, "http://127.0.0.1:9/v1"), limit_s)  # 9: nobody is there
        for name, settings in config.providers.items()
    }
    routes = {kind: _route(route, limit_s) for kind, route in config.routes.items()}
    runtime = replace(config.runtime, drain_s=0.0)
    staged = replace(config, providers=providers, routes=routes, runtime=runtime)
    return Stage(config=staged, absent=absent_providers(config), patience_s=limit_s)


def _provider(settings: ProviderSettings, base_url: str, limit_s: float) -> ProviderSettings:
    return replace(
        settings,
        base_url=base_url,
        # a provider at AWS would else look for the person's real credentials
        api_key_env=KEY_VARIABLE if settings.api_key_env or settings.kind == "bedrock" else "",
        headers={},
        connect_timeout_s=min(settings.connect_timeout_s, limit_s),
        first_event_timeout_s=min(settings.first_event_timeout_s, limit_s),
        event_gap_timeout_s=min(settings.event_gap_timeout_s, limit_s),
    )


def _route(route: Route, limit_s: float) -> Route:
    """A route's own timeout of 0 is its provider's, which is short already."""
    return replace(
        route,
        deadline_s=min(route.deadline_s, PATIENT_TRIES * limit_s),
        first_event_timeout_s=min(route.first_event_timeout_s, limit_s),
        event_gap_timeout_s=min(route.event_gap_timeout_s, limit_s),
    )

"""Watchdogs as processes see them: each provider and each task kind has its own patience, counted in events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from loopforge.drivers.errors import ProviderUnavailable, Stalled
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import open_simulator
from loopforge.drivers.turn import Turn, user
from loopforge.runtime.client import Runtime, open_runtime
from loopforge.runtime.config.values import Config, Route, Target
from tests.runtime.core import config, provider

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
QUICK = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=4)
THINKS_FIRST = replace(QUICK, first_token_s=2.0)
SPEAKS_SLOWLY = replace(QUICK, answer_tokens=6, tokens_per_s=2.0)
SHORT_S = 0.7
"""Well under what the slow models take, and well over what a loaded machine takes for an answer that is there."""


def way(kind: str, *names: str, **members: Any) -> Route:
    return Route(kind=kind, targets=tuple(Target(provider=name, model="m") for name in names), **members)


def on_routes(base: Config, *routes: Route) -> Config:
    return replace(base, routes=base.routes | {route.kind: route for route in routes})


async def all_ready(runtime: Runtime) -> None:
    while any(desk["state"] != "ready" for desk in (await runtime.status())["providers"]):  # noqa: ASYNC110 - polled
        await trio.sleep(0.02)


async def test_a_slow_local_model_is_waited_for_and_a_silent_cloud_is_not() -> None:
    profiles = {"local": THINKS_FIRST, "drawl": SPEAKS_SLOWLY, "mute": replace(QUICK, fault="silence"), "well": QUICK}
    profiles |= {
        "stuck": replace(QUICK, fault="stall", fault_after_tokens=2),
        "noisy": replace(QUICK, fault="comments"),
    }
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator:
            patient = [provider(name, base_url=simulator.base_url(name)) for name in ("local", "drawl", "well")]
            strict = [
                provider(
                    name,
                    base_url=simulator.base_url(name),
                    first_event_timeout_s=SHORT_S,
                    event_gap_timeout_s=SHORT_S,
                )
                for name in ("mute", "stuck", "noisy")
            ]
            base = config(*patient, *strict)
            routes = [way(name, name, "well") for name in profiles if name != "well"]
            expected = {"local": "local", "drawl": "drawl", "mute": "well", "stuck": "well", "noisy": "well"}
            replied: dict[str, str] = {}
            async with open_runtime(on_routes(base, *routes)) as runtime, trio.open_nursery() as nursery:
                await all_ready(runtime)

                async def ask(kind: str) -> None:
                    replied[kind] = (await runtime.ask(Turn(kind=kind, messages=(user("hi"),)))).provider

                for kind in expected:
                    nursery.start_soon(ask, kind)
    assert replied == expected
    assert simulator.stats.of("local").requests == simulator.stats.of("drawl").requests == 1


async def test_one_provider_is_given_up_for_one_kind_and_waited_for_by_another() -> None:
    """The route's own patience goes before the provider's, in both directions."""
    profiles = {"slow": THINKS_FIRST, "drawl": SPEAKS_SLOWLY}
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator:
            slow, drawl = (provider(name, base_url=simulator.base_url(name)) for name in profiles)
            hasty = replace(drawl, event_gap_timeout_s=SHORT_S / 3)
            routes = [
                way("summary", "slow", first_event_timeout_s=SHORT_S),
                way("planning", "slow", first_event_timeout_s=PATIENCE_S),
                way("coding", "drawl"),
                way("review", "drawl", event_gap_timeout_s=PATIENCE_S),
            ]
            async with open_runtime(on_routes(config(slow, hasty), *routes)) as runtime:
                await all_ready(runtime)
                failures: dict[str, BaseException] = {}

                async def fail(kind: str, error: type[Exception]) -> None:
                    with pytest.raises(error) as caught:
                        await runtime.ask(Turn(kind=kind, messages=(user("hi"),)))
                    failures[kind] = caught.value

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail, "summary", ProviderUnavailable)
                    nursery.start_soon(fail, "coding", Stalled)
                    for kind in ("planning", "review"):
                        nursery.start_soon(runtime.ask, Turn(kind=kind, messages=(user("hi"),)))
                waiting = (await runtime.status())["turns"]
    assert failures.keys() == {"summary", "coding"}
    assert waiting["running"] == waiting["waiting"] == 0

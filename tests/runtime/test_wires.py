"""Streams that break in the middle, and limits with a time, on each wire: through the runtime and real workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio

from loopforge.drivers.errors import RateLimited, Stalled, StreamBroken, TurnError
from loopforge.drivers.registry import KINDS, Kind, ProviderSettings, has_driver, has_simulator
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import open_simulator
from loopforge.drivers.turn import Done, Event, Failed, Restarted, Started, TextDelta, Turn, user
from loopforge.runtime.client import Runtime, open_runtime
from loopforge.runtime.config.values import Config, Route, RuntimeSettings, Target
from tests.runtime.smoke.playing import keys_in_environment

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
IMPATIENT_S = 1.5
NAMED_S = 7
BEFORE_THE_FAULT = 4
QUICK = Profile(
    first_token_s=0,
    tokens_per_s=0,
    answer_tokens=8,
    fault_after_tokens=BEFORE_THE_FAULT,
    retry_after_s=NAMED_S,
    reject_unknown_fields=False,
)
WIRES: list[Kind] = [kind for kind in KINDS if has_driver(kind) and has_simulator(kind)]
BREAKS: dict[str, type[TurnError]] = {"cut": StreamBroken, "reset-midway": StreamBroken, "stall": Stalled}


@pytest.fixture(autouse=True)
def _keys() -> Iterator[None]:
    with keys_in_environment():
        yield


def another(kind: str) -> Kind:
    """A wire that is not this one."""
    return "anthropic" if kind != "anthropic" else "openai_compatible"


def configuration(urls: dict[str, str]) -> Config:
    """A provider a wire, each with routes of its own to it; behind it one of another wire that is well."""
    providers = [
        ProviderSettings(
            name=kind,
            kind=kind,
            base_url=urls[kind],
            default_model="m",
            first_event_timeout_s=PATIENCE_S,
            event_gap_timeout_s=PATIENCE_S,
        )
        for kind in WIRES
    ]
    providers += [
        ProviderSettings(name=f"well-{kind}", kind=kind, base_url=urls[f"well-{kind}"], default_model="m")
        for kind in ("anthropic", "openai_compatible")
    ]
    routes = [
        Route(
            kind=f"{kind}-{fault}",
            targets=(
                Target(provider=kind, model=f"fault-{fault}"),
                Target(provider=f"well-{another(kind)}", model="m"),
            ),
            event_gap_timeout_s=IMPATIENT_S if fault == "stall" else 0.0,
        )
        for kind in WIRES
        for fault in (*BREAKS, "429")
    ]
    return Config(
        path="test",
        providers={item.name: item for item in providers},
        routes={route.kind: route for route in routes},
        runtime=RuntimeSettings(),
    )


def profiles() -> dict[str, Profile]:
    played: dict[str, Profile] = {kind: replace(QUICK, kind=kind) for kind in WIRES}
    return played | {f"well-{kind}": replace(QUICK, kind=kind) for kind in ("anthropic", "openai_compatible")}


async def follow_all(
    runtime: Runtime, turns: dict[tuple[str, str], dict[str, Any]]
) -> dict[tuple[str, str], list[Event]]:
    seen: dict[tuple[str, str], list[Event]] = {}

    async def follow(name: tuple[str, str], members: dict[str, Any]) -> None:
        async with runtime.stream(Turn(messages=(user("hello"),), **members)) as events:
            seen[name] = [event async for event in events]

    async with trio.open_nursery() as nursery:
        for name, members in turns.items():
            nursery.start_soon(follow, name, members)
    return seen


async def all_ready(runtime: Runtime) -> None:
    while any(desk["state"] != "ready" for desk in (await runtime.status())["providers"]):  # noqa: ASYNC110 - polled
        await trio.sleep(0.02)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_there_are_seven_wires() -> None:
    assert len(WIRES) == 7


async def test_on_each_wire_a_stream_that_breaks_is_withdrawn_and_begun_again_and_alone_it_keeps_what_had_come() -> (
    None
):
    with_fallback: dict[tuple[str, str], dict[str, Any]] = {
        (kind, fault): {"kind": f"{kind}-{fault}"} for kind in WIRES for fault in BREAKS
    }
    alone: dict[tuple[str, str], dict[str, Any]] = {
        (f"alone {kind}", fault): {"kind": f"{kind}-{fault}", "provider": kind, "model": f"fault-{fault}"}
        for kind, fault in with_fallback
    }
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles()) as simulator:
            urls = {name: simulator.base_url(name) for name in profiles()}
            async with open_runtime(configuration(urls)) as runtime:
                await all_ready(runtime)
                seen = await follow_all(runtime, {**with_fallback, **alone})
                status = await runtime.status()
    assert status["turns"]["running"] == status["turns"]["waiting"] == 0
    for (kind, fault), events in seen.items():
        if kind.startswith("alone "):
            failed = events[-1]
            assert isinstance(failed, Failed), (kind, fault)
            assert type(failed.error) is BREAKS[fault], (kind, fault)
            assert failed.error.partial is not None
            assert 0 < len(failed.error.partial.text.split()) <= BEFORE_THE_FAULT, (kind, fault)
            continue
        done = events[-1]
        assert isinstance(done, Done), (kind, fault, done)
        assert done.reply.provider == f"well-{another(kind)}", (kind, fault)
        places = [at for at, event in enumerate(events) if isinstance(event, Restarted)]
        assert places, (kind, fault)
        assert text_of(events[: places[0]]), "something had been shown before it was withdrawn"
        assert text_of(events[places[-1] :]) == done.reply.text
        assert len(done.reply.text.split()) == QUICK.answer_tokens
        assert sum(isinstance(event, Started) for event in events) == done.reply.attempts == len(places) + 1


async def test_on_each_wire_a_limit_keeps_its_time_and_the_turn_goes_elsewhere_at_once() -> None:
    turns: dict[tuple[str, str], dict[str, Any]] = {(kind, "429"): {"kind": f"{kind}-429"} for kind in WIRES}
    for wire in WIRES:  # nobody else, and no time to wait for what the provider names
        turns["alone", wire] = {
            "kind": f"{wire}-429",
            "provider": wire,
            "model": "fault-429",
            "deadline_s": NAMED_S - 2.0,
        }
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles()) as simulator:
            urls = {name: simulator.base_url(name) for name in profiles()}
            async with open_runtime(configuration(urls)) as runtime:
                await all_ready(runtime)
                seen = await follow_all(runtime, turns)
    named: dict[str, float | None] = {}
    for (kind, name), events in seen.items():
        last = events[-1]
        if kind == "alone":
            assert isinstance(last, Failed), name
            assert isinstance(last.error, RateLimited), (name, last.error)
            named[name] = last.error.retry_after_s
        else:
            assert isinstance(last, Done), (kind, last)
            assert (last.reply.provider, last.reply.attempts) == (f"well-{another(kind)}", 2)
    nameless = {"minimax_native": None}  # it says so with status 200 and a code, and names no time
    assert named == dict.fromkeys(WIRES, NAMED_S) | nameless

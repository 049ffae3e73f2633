"""Fallbacks through real worker processes, real sockets and the simulator: every fault, every row of the retry table,
and the faults that agents meet most on each wire. One runtime a test, its turns all at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast, get_args

import pytest
import trio

from loopforge.drivers.errors import (
    ProviderUnavailable,
    RateLimited,
    Stalled,
    StreamBroken,
    TurnError,
    WireMismatch,
)
from loopforge.drivers.registry import KINDS, Kind, ProviderSettings, has_driver, has_simulator
from loopforge.drivers.simulator.faults import FaultName
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.turn import Done as DoneEvent
from loopforge.drivers.turn import Event, Failed, Reply, Restarted, Started, TextDelta, Turn, user
from loopforge.runtime.client import Runtime, open_runtime
from loopforge.runtime.config.values import Config, Route, RuntimeSettings, Target
from tests.fakes.canned import WELL, Canned, open_vendor
from tests.runtime.smoke.playing import keys_in_environment
from tests.runtime.test_retry_table import ROWS

PATIENCE_S = 60.0
IMPATIENT_S = 1.5
"""The watchdogs that are to end an attempt."""
TOKENS = 6
QUICK = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=TOKENS, fault_after_tokens=3, slow_s=0.05)
SPEAKING = [kind for kind in KINDS if has_driver(kind) and has_simulator(kind)]


@pytest.fixture
def _keys() -> Iterator[None]:
    with keys_in_environment():
        yield


# -- a runtime with many providers -----------------------------------------------------------------------------------


def settings_of(name: str, base_url: str, kind: Kind = "openai_compatible", **members: Any) -> ProviderSettings:
    """Watchdogs are patient where none is to bark: a loaded machine must not make a fault of its own."""
    patient = {"first_event_timeout_s": PATIENCE_S, "event_gap_timeout_s": PATIENCE_S}
    return ProviderSettings(name=name, kind=kind, base_url=base_url, default_model="m", **(patient | members))


@dataclass(frozen=True, kw_only=True)
class Way:
    """A task kind of its own. `targets`: PROVIDER/MODEL. `by`: who is to answer, after so many `attempts` in all."""

    name: str
    targets: Sequence[str]
    by: str
    attempts: int
    warned: bool = False
    park_max_s: float = 0.0
    timeout_s: float = 0.0

    @property
    def route(self) -> Route:
        named = (target.partition("/") for target in self.targets)
        return Route(
            kind=self.name,
            targets=tuple(Target(provider=provider, model=model) for provider, _, model in named),
            park_max_s=self.park_max_s,
            first_event_timeout_s=self.timeout_s,
            event_gap_timeout_s=self.timeout_s,
        )


def configuration(providers: Sequence[ProviderSettings], ways: Sequence[Way], **runtime: Any) -> Config:
    return Config(
        path="test",
        providers={item.name: item for item in providers},
        routes={way.name: way.route for way in ways},
        runtime=RuntimeSettings(**runtime),
    )


@dataclass
class Seen:
    """What a client saw of one turn."""

    events: list[Event] = field(default_factory=list)

    @property
    def reply(self) -> Reply | None:
        last = self.events[-1]
        return last.reply if isinstance(last, DoneEvent) else None

    @property
    def error(self) -> TurnError | None:
        last = self.events[-1]
        return cast("TurnError", last.error) if isinstance(last, Failed) else None

    @property
    def standing_text(self) -> str:
        """What a client shows that withdraws an attempt's text when it is told to."""
        text = ""
        for event in self.events:
            match event:
                case TextDelta(more):
                    text += more
                case Restarted():
                    text = ""
        return text

    def says_when_it_begins_anew(self) -> bool:
        """Between two `started` there is a `restarted` that names the second one's provider."""
        waiting: str | None = None
        begun = False
        for event in self.events:
            match event:
                case Restarted(_, provider):
                    waiting, begun = provider, False
                case Started(provider, _, _):
                    if begun or waiting not in (None, provider):
                        return False
                    begun = True
        return True


async def follow(runtime: Runtime, kind: str, **members: Any) -> Seen:
    seen = Seen()
    async with runtime.stream(Turn(kind=kind, messages=(user("hello"),), **members)) as events:
        async for event in events:
            seen.events.append(event)
    return seen


async def follow_all(runtime: Runtime, turns: Mapping[str, Mapping[str, Any]]) -> dict[str, Seen]:
    """All at once; by the names given."""
    seen: dict[str, Seen] = {}

    async def one(name: str, members: Mapping[str, Any]) -> None:
        seen[name] = await follow(runtime, **members)

    async with trio.open_nursery() as nursery:
        for name, members in turns.items():
            nursery.start_soon(one, name, members)
    return seen


async def all_ready(runtime: Runtime) -> None:
    """The workers are there: else a fallback that still starts is no idle one, and the same provider is tried again."""
    while any(desk["state"] != "ready" for desk in (await runtime.status())["providers"]):  # noqa: ASYNC110 - polled
        await trio.sleep(0.02)


async def assert_all_is_idle(runtime: Runtime) -> None:
    status = await runtime.status()
    assert status["turns"]["running"] == status["turns"]["waiting"] == 0
    assert [desk["name"] for desk in status["providers"] if desk["running"] or desk["queued_bytes"]] == []


def assert_well(way: Way, seen: Seen) -> None:
    reply = seen.reply
    assert reply is not None, f"{way.name}: {seen.error!r}"
    found = (reply.provider, reply.attempts, any("was left" in warning for warning in reply.warnings))
    assert found == (way.by, way.attempts, way.warned), way.name
    if way.by in {"canned", "parking"}:
        assert reply.text == WELL, way.name
    else:
        assert len(reply.text.split()) == TOKENS, way.name
    assert seen.standing_text == reply.text, way.name
    assert seen.says_when_it_begins_anew(), way.name


# -- each fault of the simulator -------------------------------------------------------------------------------------

SCOPE_IS_PROVIDER: tuple[FaultName, ...] = ("silence", "comments", "reset", "drip", "500", "error-event")
HARMLESS: tuple[FaultName, ...] = ("slow", "endless")
AGAIN_ONCE: tuple[FaultName, ...] = ("cut", "malformed", "stall", "reset-midway")
CLOSES: dict[FaultName, str] = {"401": "rejected", "quota": "spent", "quota-reset": "resetting", "stall": "stalling"}
"""They have a provider of their own: a key and an account close it whole, a stall takes a watchdog that barks."""


def way_of(fault: FaultName) -> Way:
    """First a provider that shows the fault, then one of another wire that is well."""
    first = CLOSES.get(fault, "flaky" if fault in SCOPE_IS_PROVIDER else "faulty")
    return Way(
        name=f"fault-{fault}",
        targets=(f"{first}/fault-{fault}", "healthy/m"),
        by="faulty" if fault in HARMLESS else "healthy",
        attempts=1 if fault in HARMLESS else 3 if fault in AGAIN_ONCE else 2,
        warned=fault in {"401", "no-model"},
    )


@pytest.mark.slow
async def test_every_fault_of_a_provider_ends_in_a_whole_answer_by_another() -> None:
    ways = [way_of(fault) for fault in get_args(FaultName)]
    profiles = dict.fromkeys(("faulty", "flaky", *CLOSES.values()), QUICK)
    profiles["healthy"] = replace(QUICK, kind="anthropic")
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator:
            urls = {name: simulator.base_url(name) for name in profiles}
            providers = [
                settings_of("faulty", urls["faulty"], context_window=10_000),
                settings_of("flaky", urls["flaky"], first_event_timeout_s=IMPATIENT_S),
                settings_of("stalling", urls["stalling"], event_gap_timeout_s=IMPATIENT_S),
                settings_of("rejected", urls["rejected"]),
                settings_of("spent", urls["spent"]),
                settings_of("resetting", urls["resetting"]),
                settings_of("healthy", urls["healthy"], "anthropic", context_window=100_000),
            ]
            async with open_runtime(configuration(providers, ways)) as runtime:
                await all_ready(runtime)
                seen = await follow_all(runtime, {way.name: {"kind": way.name} for way in ways})
                await assert_all_is_idle(runtime)
                again = await follow_all(runtime, {name: {"kind": name} for name in ("fault-401", "fault-no-model")})
                breakers = {(row["provider"], row["model"]) for row in (await runtime.status())["breakers"]}
    for way in ways:
        assert_well(way, seen[way.name])
    assert {("flaky", ""), ("rejected", ""), ("spent", ""), ("faulty", "fault-no-model")} <= breakers
    for name, one in again.items():
        assert one.reply is not None
        assert (one.reply.provider, one.reply.attempts) == ("healthy", 1), f"{name}: its breaker is open"
    assert simulator.stats.of("rejected").requests == 1
    assert simulator.stats.of("faulty").models["fault-no-model"] == 1
    assert simulator.stats.of("faulty").models["fault-cut"] == 2
    assert simulator.stats.of("healthy").requests == len(ways) - len(HARMLESS) + len(again)


# -- each row of the table -------------------------------------------------------------------------------------------

CANNED: dict[str, Sequence[Canned]] = {
    "forbidden": [Canned(403, {"message": "not yours", "type": "permission_error", "code": "permission_error"})] * 9,
    "filtered": [Canned(400, {"message": "no", "type": "invalid_request_error", "code": "content_filter"})] * 9,
    "refused": [Canned(400, {"message": "no such field", "type": "invalid_request_error"})] * 9,
    "failing": [Canned(500, {"message": "bad call", "type": "x", "code": "tool_use_failed"})] * 9,
    "failing-once": [Canned(500, {"message": "bad call", "type": "x", "code": "tool_use_failed"})],
    "limited-once": [Canned(429, {"message": "slow down", "code": "rate_limit_exceeded"}, {"retry-after": "1"})],
    "overloaded-once": [Canned(503, {"message": "full", "code": "engine_overloaded_error"}, {"retry-after": "1"})],
    "down-twice": [Canned(500, {"message": "oops"})] * 2,
    "empty-once": [Canned(429, {"message": "plan is used up", "code": "insufficient_quota"}, {"retry-after": "1"})],
}

ROW_WAYS: dict[str, Sequence[Way]] = {
    "RateLimited": [Way(name="waits", targets=["canned/limited-once"], by="canned", attempts=2)],
    "Overloaded": [Way(name="waits-too", targets=["canned/overloaded-once"], by="canned", attempts=2)],
    "ProviderUnavailable": [Way(name="backs-off", targets=["canned/down-twice"], by="canned", attempts=3)],
    "StreamBroken": [Way(name="cut", targets=["faulty/fault-cut", "healthy/m"], by="healthy", attempts=3)],
    "Stalled": [Way(name="stall", targets=["stalling/fault-stall", "healthy/m"], by="healthy", attempts=3)],
    "QuotaExhausted": [
        Way(name="parks", targets=["parking/empty-once"], by="parking", attempts=2, park_max_s=60),
        Way(name="spent", targets=["spent/fault-quota", "healthy/m"], by="healthy", attempts=2),
    ],
    "CredentialsRejected": [
        Way(name="key", targets=["rejected/fault-401", "healthy/m"], by="healthy", attempts=2, warned=True)
    ],
    "PermissionDenied": [
        Way(name="forbidden", targets=["canned/forbidden", "healthy/m"], by="healthy", attempts=2, warned=True)
    ],
    "ModelNotFound": [
        Way(name="model", targets=["faulty/fault-no-model", "healthy/m"], by="healthy", attempts=2, warned=True)
    ],
    "DriverMissing": [],  # every kind that settings can name has its driver
    "ContextTooLong": [
        Way(name="long", targets=["faulty/fault-context", "narrow/m", "healthy/m"], by="healthy", attempts=2)
    ],
    "ContentFiltered": [Way(name="filter", targets=["canned/filtered", "healthy/m"], by="healthy", attempts=2)],
    "TurnRefused": [Way(name="refused", targets=["canned/refused", "healthy/m"], by="healthy", attempts=2)],
    "GenerationFailed": [
        Way(name="failing", targets=["canned/failing", "healthy/m"], by="healthy", attempts=3),
        Way(name="failing-once", targets=["canned/failing-once", "healthy/m"], by="canned", attempts=2),
    ],
    "WireMismatch": [Way(name="wire", targets=["faulty/fault-wrong-type", "healthy/m"], by="healthy", attempts=2)],
    "WorkerLost": [Way(name="lost", targets=["killed/m", "healthy/m"], by="killed", attempts=2)],
    "ProviderDown": [
        Way(name="down", targets=["doomed/m", "healthy/m"], by="healthy", attempts=1),
        Way(name="cannot-run", targets=["foreign/m", "healthy/m"], by="healthy", attempts=1),
    ],
}


async def test_every_row_of_the_table_through_real_processes() -> None:
    assert set(ROW_WAYS) == set(ROWS)
    ways = [way for row in ROW_WAYS.values() for way in row]
    plain = ("faulty", "spent", "rejected", "narrow", "doomed")
    profiles = dict.fromkeys((*plain, "stalling"), QUICK) | {"killed": replace(QUICK, fault="silence")}
    profiles["healthy"] = replace(QUICK, kind="anthropic")
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator, open_vendor(CANNED) as vendor:
            providers = [
                *(settings_of(name, simulator.base_url(name), context_window=10_000) for name in plain),
                settings_of("stalling", simulator.base_url("stalling"), event_gap_timeout_s=IMPATIENT_S),
                settings_of("foreign", simulator.base_url("healthy"), cast("Kind", "telepathic")),
                settings_of("killed", simulator.base_url("killed")),
                settings_of("canned", vendor.url),
                settings_of("parking", vendor.url),
                settings_of("healthy", simulator.base_url("healthy"), "anthropic", context_window=100_000),
            ]
            async with open_runtime(configuration(providers, ways)) as runtime, trio.open_nursery() as nursery:
                down = trio.Event()
                nursery.start_soon(kill_until_down, runtime, "doomed", down)
                nursery.start_soon(kill_once, runtime, simulator, "killed")
                seen = await follow_all(runtime, {way.name: {"kind": way.name} for way in ways})
                await down.wait()
                await assert_all_is_idle(runtime)
                status = await runtime.status()
    for way in ways:
        assert_well(way, seen[way.name])
    assert [desk["deaths"] for desk in status["providers"] if desk["name"] == "killed"] == [1]
    assert simulator.stats.of("narrow").requests == 0
    assert simulator.stats.of("doomed").requests == 0
    assert vendor.requests == {model: len(answers) + 1 for model, answers in CANNED.items() if len(answers) < 9} | {
        "forbidden": 1,
        "filtered": 1,
        "refused": 1,
        "failing": 2,
    }


async def kill_once(runtime: Runtime, simulator: Simulator, name: str) -> None:
    """With its turn in flight; the next attempt is answered."""
    await simulator.stats.wait(lambda stats: stats.of(name).active == 1)
    simulator.profiles[name] = QUICK
    os.kill((await desk_of(runtime, name))["pid"], signal.SIGKILL)


async def kill_until_down(runtime: Runtime, name: str, down: trio.Event) -> None:
    """Each of its workers, before it is ready: so its turn waits, and has been sent nowhere."""
    killed: set[int] = set()
    while (desk := await desk_of(runtime, name))["state"] != "down":
        if desk["state"] == "starting" and desk["pid"] is not None and desk["pid"] not in killed:
            killed.add(desk["pid"])
            os.kill(desk["pid"], signal.SIGKILL)
        await trio.sleep(0.005)
    down.set()


async def desk_of(runtime: Runtime, name: str) -> dict[str, Any]:
    return next(desk for desk in (await runtime.status())["providers"] if desk["name"] == name)


# -- the faults that agents meet most, on each wire ------------------------------------------------------------------

MET_MOST: dict[FaultName, tuple[type[TurnError], ...]] = {
    "cut": (StreamBroken,),
    "silence": (ProviderUnavailable,),
    "malformed": (StreamBroken, WireMismatch),
    "429": (RateLimited,),
    "drip": (ProviderUnavailable, Stalled),
}
"""What the turn fails with where nobody else can take it."""


@pytest.mark.usefixtures("_keys")
async def test_on_each_wire_the_common_faults_end_in_a_whole_answer_or_in_one_clear_error() -> None:
    assert "openai_compatible" in SPEAKING
    profiles: dict[str, Profile] = {kind: replace(QUICK, kind=kind, reject_unknown_fields=False) for kind in SPEAKING}
    profiles |= {"well": QUICK, "well-too": replace(QUICK, kind="anthropic")}
    ways = {
        (kind, fault): Way(
            name=f"{kind}-{fault}",
            targets=(f"{kind}/fault-{fault}", "well/m" if kind != "openai_compatible" else "well-too/m"),
            by="well" if kind != "openai_compatible" else "well-too",
            attempts=0,
            timeout_s=IMPATIENT_S if fault in {"silence", "drip"} else 0,
        )
        for kind in SPEAKING
        for fault in MET_MOST
    }
    turns: dict[str, dict[str, Any]] = {way.name: {"kind": way.name} for way in ways.values()}
    for (kind, fault), way in ways.items():  # who asks for one provider has no other
        turns[f"alone {kind} {fault}"] = {"kind": way.name, "provider": kind, "model": f"fault-{fault}"}
    with trio.fail_after(PATIENCE_S):
        async with open_simulator(profiles) as simulator:
            providers = [settings_of(kind, simulator.base_url(kind), kind) for kind in SPEAKING]
            providers += [
                settings_of("well", simulator.base_url("well")),
                settings_of("well-too", simulator.base_url("well-too"), "anthropic"),
            ]
            async with open_runtime(configuration(providers, list(ways.values()))) as runtime:
                seen = await follow_all(runtime, turns)
                await assert_all_is_idle(runtime)
    for (kind, fault), way in ways.items():
        answered = seen[way.name].reply
        assert answered is not None, f"{way.name}: {seen[way.name].error!r}"
        assert answered.provider in {way.by, kind}
        if fault in {"cut", "silence", "429"}:  # the others may be lived with: an event skipped, a drip waited for
            assert answered.provider == way.by, way.name
        assert len(answered.text.split()) == TOKENS, way.name
        assert seen[way.name].standing_text == answered.text, way.name
        assert seen[way.name].says_when_it_begins_anew(), way.name
        alone = seen[f"alone {kind} {fault}"]
        if alone.reply is not None:
            assert fault in {"malformed", "drip"}, way.name
            assert len(alone.reply.text.split()) == TOKENS, way.name
            continue
        assert alone.error is not None
        assert isinstance(alone.error, MET_MOST[fault]), f"{way.name}: {alone.error!r}"
        assert alone.error.provider == kind
        assert alone.error.what
        assert alone.error.action

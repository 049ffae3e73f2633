"""A plan that is used up and told when it is whole again: what each wire says, as its driver reads it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from loopforge.drivers.errors import QuotaExhausted
from loopforge.drivers.registry import KINDS, Kind, ProviderSettings, has_simulator, open_driver
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator
from loopforge.drivers.simulator.wires import Answer, Asked, TellsReset, open_wire
from loopforge.drivers.turn import Turn, user
from tests.fakes.h11_client import H11Client

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
TELLING: list[tuple[Kind, str, str]] = [
    ("zhipu_native", "glm", "glm-5.3"),
    ("minimax_native", "minimax", "MiniMax-M2.7"),
    ("openai_compatible", "glm", "glm-5.3"),
    ("openai_compatible", "minimax", "MiniMax-M2.7"),
    ("anthropic", "glm", "glm-5.3"),
    ("anthropic", "minimax", "MiniMax-M2.7"),
]


def asked(model: str) -> Asked:
    return Asked(model=model, stream=True, body={}, prompt_tokens=1)


def told(kind: Kind, model: str, resets_at: float) -> Answer:
    wire = open_wire(kind)
    assert isinstance(wire, TellsReset)
    answer = wire.used_up(resets_at, asked(model))
    assert answer is not None
    return answer


def reset_by_driver(kind: Kind, vendor: str, model: str, answer: Answer) -> float | None:
    driver = open_driver(ProviderSettings(name="p", kind=kind, base_url="http://127.0.0.1:9/v1", vendor=vendor))
    turn = Turn(kind="coding", model=model, messages=(user("hello"),))
    error = driver.explain(turn, answer.status, dict(answer.headers), answer.body)
    assert isinstance(error, QuotaExhausted), error
    return error.reset_at


@pytest.mark.parametrize(("kind", "vendor", "model"), TELLING)
@given(resets_at=st.floats(NOON, NOON + 10**7))
def test_the_driver_reads_the_moment_that_the_wire_names_and_it_is_never_too_early(
    kind: Kind, vendor: str, model: str, resets_at: float
) -> None:
    read = reset_by_driver(kind, vendor, model, told(kind, model, resets_at))
    assert read is not None
    assert 0 <= read - resets_at < 1


@given(resets_at=st.floats(NOON, NOON + 10**7))
def test_claude_names_the_minute_in_which_access_is_back(resets_at: float) -> None:
    answer = told("anthropic", "claude-opus-5", resets_at)
    assert answer.status == 400
    read = reset_by_driver("anthropic", "", "claude-opus-5", answer)
    assert read is not None
    assert 0 <= read - resets_at < 60


def test_the_words_are_the_vendors() -> None:
    claude = json.loads(told("anthropic", "claude-opus-5", NOON).body)["error"]
    assert claude["message"] == (
        "You have reached your specified API usage limits. You will regain access on 2026-11-22 at 12:00 UTC."
    )
    minimax = json.loads(told("minimax_native", "m", NOON + 0.5).body)["error"]
    assert minimax["message"].endswith("used), resets at 2026-11-22T20:00:01+08:00 (2056)")
    glm = json.loads(told("zhipu_native", "m", NOON + 0.5).body)["error"]
    expected = "Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 20:00:01"
    assert glm == {"code": "1308", "message": expected}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if has_simulator(kind)])
def test_a_model_whose_vendor_names_no_moment_meets_the_plain_quota_problem(kind: Kind) -> None:
    wire = open_wire(kind)
    if kind == "openai_compatible":
        assert isinstance(wire, TellsReset)
        assert wire.used_up(NOON, asked("gpt-5")) is None
    else:
        assert isinstance(wire, TellsReset) == (kind in {"anthropic", "zhipu_native", "minimax_native"})


# -- over time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["glm-fault-quota-reset", "gpt-fault-quota-reset"])
async def test_the_quota_is_whole_again_when_it_was_said_to_be(autojump_clock: MockClock, model: str) -> None:
    simulator = Simulator({"plan": Profile(quota_reset_s=5)}, wall=lambda: NOON + trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(simulator.pacer.run)

        async def ask(provider: str = "plan") -> tuple[int, bytes]:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(simulator.serve_connection, theirs)
            answer = await H11Client(ours).chat(provider, model=model, stream=True)
            return answer.status, answer.body

        first = await ask()
        assert first[0] == 429
        assert (b"2026-11-22 20:00:05" in first[1]) == model.startswith("glm")
        await trio.sleep(4.5)
        assert await ask() == first
        await trio.sleep(0.5)
        assert (await ask())[0] == (await ask())[0] == 200
        nursery.cancel_scope.cancel()
    assert simulator.stats.of("plan").faults == {"quota-reset": 2}


async def test_a_share_of_requests_that_meets_it_leaves_the_others_alone(autojump_clock: MockClock) -> None:
    profile = Profile(fault="quota-reset", fault_share=0.5, quota_reset_s=10**6)
    simulator = Simulator({"plan": profile}, wall=lambda: NOON + trio.current_time())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(simulator.pacer.run)
        found = []
        for number in range(20):
            ours, theirs = memory_stream_pair()
            nursery.start_soon(simulator.serve_connection, theirs)
            found.append((await H11Client(ours).chat("plan", model=f"m{number}")).status)
        nursery.cancel_scope.cancel()
    assert set(found) == {200, 429}


def test_a_reset_in_the_past_is_no_setting() -> None:
    with pytest.raises(ValueError, match="quota_reset_s"):
        Profile(quota_reset_s=-1)

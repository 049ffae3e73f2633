from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import (
    ContentFiltered,
    ContextTooLong,
    CredentialsRejected,
    GenerationFailed,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Scope,
    Stalled,
    StreamBroken,
    TurnError,
    TurnRefused,
    WireMismatch,
    WorkerLost,
)
from loopforge.drivers.turn import assistant
from loopforge.runtime.breakers import EVERY_MODEL, BreakerPolicy, Breakers, BreakerStatus, Closed, Gate
from loopforge.runtime.retry import RULES

POLICY = BreakerPolicy()
WALL = 1_700_000_000.0
OPEN_S = POLICY.open_s


class Provider:
    """One provider, `p`, its breakers, and turns that fail or succeed there."""

    def __init__(self) -> None:
        self.breakers = Breakers()
        self.turns = 0

    def send(self, now: float, model: str = "m", *, generation: int = 1, pinned: bool = False) -> str:
        self.turns += 1
        turn = f"t{self.turns}"
        self.breakers.sent(turn, "p", model, generation, now, pinned=pinned)
        return turn

    def fail(
        self, error: TurnError, now: float, model: str = "m", *, generation: int = 1, pinned: bool = False
    ) -> bool:
        turn = self.send(now, model, generation=generation, pinned=pinned)
        return self.breakers.failed(turn, error, now, wall_offset=WALL)

    def answer(self, now: float, model: str = "m", *, pinned: bool = False) -> bool:
        return self.breakers.done(self.send(now, model, pinned=pinned), now)

    def open(self, now: float = 0.0, error: type[TurnError] = Overloaded) -> None:
        opened = [self.fail(error(), now) for _ in range(POLICY.failures)]
        assert opened[-1]

    def gate(self, now: float, model: str = "m") -> Gate | None:
        return self.breakers.gates("p", now).get(model)

    def status(self, now: float) -> BreakerStatus:
        (row,) = self.breakers.snapshot(now)
        return row


CLOSED = Closed()
COUNTED = [cls for cls, rule in RULES.items() if rule.breaker == "counts"]
OPENING = [cls for cls, rule in RULES.items() if rule.breaker == "opens"]
HARMLESS = [cls for cls, rule in RULES.items() if rule.breaker == "no"]


def key(error: type[TurnError]) -> str:
    return EVERY_MODEL if error.default_scope == "provider" else "m"


# -- opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", COUNTED)
def test_five_counted_failures_within_thirty_seconds_open_it_for_a_minute(error: type[TurnError]) -> None:
    provider = Provider()
    opened = [provider.fail(error(), 7.0 * number, generation=number) for number in range(5)]
    assert opened == [False, False, False, False, True]
    assert provider.gate(28, key(error)) == Gate(allow=0, until=28 + OPEN_S)
    assert provider.gate(28 + OPEN_S - 0.001, key(error)) == Gate(allow=0, until=28 + OPEN_S)


@pytest.mark.parametrize("error", COUNTED)
def test_failures_that_are_further_apart_do_not(error: type[TurnError]) -> None:
    provider = Provider()
    assert not any(provider.fail(error(), 7.5 * number, generation=number) for number in range(50))
    assert provider.breakers.look("p", "m", 375.0) == CLOSED


@pytest.mark.parametrize("error", OPENING)
def test_what_a_person_has_to_mend_opens_it_at_once(error: type[TurnError]) -> None:
    provider = Provider()
    assert provider.fail(error(), 10.0)
    assert provider.gate(10.0, key(error)) == Gate(allow=0, until=10 + OPEN_S)


@pytest.mark.parametrize("error", HARMLESS)
def test_what_says_nothing_of_the_provider_never_does(error: type[TurnError]) -> None:
    provider = Provider()
    assert not any(provider.fail(error(), 0.0) for _ in range(50))
    assert provider.breakers.gates("p", 0.0) == {}


@pytest.mark.parametrize("error", [*COUNTED, *OPENING])
def test_a_turn_whose_client_chose_the_provider_never_opens_one(error: type[TurnError]) -> None:
    provider = Provider()
    assert not any(provider.fail(error(retry_after_s=9.0), 0.0, pinned=True) for _ in range(50))
    assert provider.breakers.snapshot(0.0) == []


@pytest.mark.parametrize("error", [*COUNTED, *OPENING])
@pytest.mark.parametrize("scope", ["provider", "model", "turn"])
def test_the_errors_scope_says_whose_breaker_it_is(error: type[TurnError], scope: Scope) -> None:
    provider = Provider()
    for number in range(5):
        provider.fail(error(scope=scope), 0.0, generation=number)
    closed = {model for model in ("m", "n") if provider.breakers.look("p", model, 1.0).until > 1.0}
    assert closed == {"provider": {"m", "n"}, "model": {"m"}, "turn": set()}[scope]
    assert provider.breakers.look("other", "m", 1.0) == CLOSED


def test_models_do_not_add_up() -> None:
    provider = Provider()
    assert not any(provider.fail(Overloaded(), 0.0, model) for model in "abcd" * 4)
    assert provider.fail(Overloaded(), 0.0, "a")


def test_a_worker_that_dies_with_many_turns_in_flight_counts_once() -> None:
    provider = Provider()
    for generation in range(1, 5):
        turns = [provider.send(0.0, generation=generation) for _ in range(100)]
        assert not any(provider.breakers.failed(turn, WorkerLost(), 0.0, wall_offset=WALL) for turn in turns)
    assert provider.fail(WorkerLost(), 0.0, generation=5)


def test_an_answer_in_between_does_not_undo_what_was_counted() -> None:
    provider = Provider()
    for _ in range(4):
        provider.fail(Overloaded(), 0.0)
        provider.answer(0.0)
    assert provider.fail(Overloaded(), 0.0)


def test_a_quota_opens_it_until_its_reset_and_a_later_one_for_longer() -> None:
    provider = Provider()
    first, second = provider.send(0.0), provider.send(0.0)
    assert provider.breakers.failed(first, QuotaExhausted(reset_at=WALL + 20), 0.0, wall_offset=WALL)
    assert provider.breakers.look("p", "m", 0.0).until == 20.0
    assert not provider.breakers.failed(second, QuotaExhausted(reset_at=WALL + 9000), 0.0, wall_offset=WALL)
    assert provider.breakers.look("p", "m", 0.0).until == 9000.0


@pytest.mark.parametrize(
    ("error", "until"),
    [
        (QuotaExhausted(), OPEN_S),
        (QuotaExhausted(retry_after_s=7200.0), 7200.0),
        (QuotaExhausted(reset_at=WALL - 5), OPEN_S),
        (QuotaExhausted(reset_at=WALL + 1e12), 31 * 86_400.0),
        (CredentialsRejected(retry_after_s=7200.0), OPEN_S),
    ],
    ids=["unknown", "seconds", "past", "absurd", "not a quota"],
)
def test_how_long_a_quota_keeps_it_open(error: TurnError, until: float) -> None:
    provider = Provider()
    provider.fail(error, 0.0)
    assert provider.breakers.look("p", "m", 0.0).until == until


def test_the_error_that_opened_it_is_told_without_the_answer_it_held() -> None:
    provider = Provider()
    provider.fail(CredentialsRejected("p", "no such key", partial=assistant("x" * 1000)), 0.0)
    by = provider.breakers.look("p", "m", 1.0).by
    assert isinstance(by, CredentialsRejected)
    assert (by.what, by.partial, by.__traceback__) == ("no such key", None, None)


# -- a named time to come back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RateLimited, Overloaded])
def test_a_provider_that_names_a_time_is_left_alone_until_then(error: type[TurnError]) -> None:
    provider = Provider()
    assert not provider.fail(error(retry_after_s=4.0), 10.0)
    assert provider.gate(13.9) == Gate(allow=0, until=14.0)
    look = provider.breakers.look("p", "m", 13.9)
    assert (look.until, type(look.by), look.probing) == (14.0, error, False)
    assert provider.gate(14.0) is None
    assert provider.gate(11.0, "n") is None


def test_a_named_time_far_away_holds_up_other_turns_for_five_minutes() -> None:
    provider = Provider()
    provider.fail(RateLimited(retry_after_s=8259.0), 0.0)
    assert provider.gate(0.0) == Gate(allow=0, until=300.0)


def test_a_shorter_time_named_later_does_not_shorten_the_wait() -> None:
    provider = Provider()
    provider.fail(RateLimited(retry_after_s=20.0), 0.0)
    provider.fail(RateLimited(retry_after_s=1.0), 0.0)
    provider.fail(RateLimited(retry_after_s=0.0), 0.0)
    assert provider.gate(0.0) == Gate(allow=0, until=20.0)


# -- half open -------------------------------------------------------------------------------------------------------


def test_then_exactly_one_turn_probes() -> None:
    provider = Provider()
    provider.open()
    assert provider.gate(OPEN_S) == Gate(allow=1, until=math.inf)
    assert provider.breakers.look("p", "m", OPEN_S) == CLOSED
    provider.send(OPEN_S)
    assert provider.gate(OPEN_S) == Gate(allow=0, until=math.inf)
    assert provider.breakers.look("p", "m", OPEN_S).probing
    provider.send(OPEN_S)  # whoever slips through besides takes nothing
    assert provider.status(OPEN_S).probing == "t6"


def test_its_answer_closes_the_breaker() -> None:
    provider = Provider()
    provider.open()
    assert provider.answer(OPEN_S)
    assert provider.gate(OPEN_S) is None
    assert provider.breakers.snapshot(OPEN_S) == []
    assert not provider.fail(Overloaded(), OPEN_S)


def test_each_failed_probe_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    provider = Provider()
    provider.open()
    now, spans = OPEN_S, []
    for _ in range(6):
        assert provider.fail(Stalled(), now)
        spans.append(provider.breakers.look("p", "m", now).until - now)
        now += spans[-1]
    assert spans == [120, 240, 480, 600, 600, 600]
    assert provider.answer(now)
    provider.open(now)
    assert provider.breakers.look("p", "m", now).until == now + OPEN_S


@pytest.mark.parametrize("how", ["gone", "harmless", "pinned"])
def test_a_probe_that_ends_without_a_verdict_leaves_the_place_to_the_next(how: str) -> None:
    provider = Provider()
    provider.open()
    probe = provider.send(OPEN_S)
    match how:
        case "gone":
            provider.breakers.gone(probe)
        case "harmless":
            assert not provider.breakers.failed(probe, WireMismatch(), OPEN_S, wall_offset=WALL)
        case "pinned":
            provider.fail(Overloaded(), OPEN_S, pinned=True)
            assert provider.gate(OPEN_S) == Gate(allow=0, until=math.inf)
            provider.breakers.gone(probe)
    assert provider.gate(OPEN_S) == Gate(allow=1, until=math.inf)


@pytest.mark.parametrize("error", [ContextTooLong, ContentFiltered, TurnRefused])
def test_a_provider_that_read_the_probe_and_refused_it_is_well(error: type[TurnError]) -> None:
    provider = Provider()
    provider.open()
    provider.fail(error(), OPEN_S)
    assert provider.gate(OPEN_S) is None


@pytest.mark.parametrize("error", [RateLimited, ModelNotFound, PermissionDenied, StreamBroken, GenerationFailed])
def test_a_probe_of_a_provider_that_fails_over_its_model_shows_that_the_provider_is_well(
    error: type[TurnError],
) -> None:
    provider = Provider()
    provider.open(error=ProviderUnavailable)
    provider.fail(error(), OPEN_S)
    assert provider.gate(OPEN_S, EVERY_MODEL) is None


def test_a_turn_that_was_sent_before_it_opened_says_nothing_of_the_time_since() -> None:
    provider = Provider()
    old, older = provider.send(0.0), provider.send(0.0)
    provider.open()
    assert not provider.breakers.done(old, 1.0)
    assert not provider.breakers.failed(older, Overloaded(), OPEN_S, wall_offset=WALL)
    assert provider.gate(OPEN_S) == Gate(allow=1, until=math.inf)


def test_a_pinned_turn_that_is_answered_closes_it() -> None:
    provider = Provider()
    provider.open()
    assert provider.answer(1.0, pinned=True)
    assert provider.gate(1.0) is None


def test_a_pinned_turn_does_not_take_the_place_of_the_probe() -> None:
    provider = Provider()
    provider.open()
    provider.send(OPEN_S, pinned=True)
    assert provider.gate(OPEN_S) == Gate(allow=1, until=math.inf)


def test_a_late_failure_of_an_old_turn_does_not_shut_a_half_open_breaker() -> None:
    provider = Provider()
    old = provider.send(0.0)
    provider.fail(QuotaExhausted(reset_at=WALL + 20), 0.0)
    provider.breakers.failed(old, QuotaExhausted(reset_at=WALL + 9000), 25.0, wall_offset=WALL)
    assert provider.gate(25.0, EVERY_MODEL) == Gate(allow=1, until=math.inf)


def test_an_answer_ends_the_wait_for_a_named_time_too() -> None:
    provider = Provider()
    for _ in range(5):
        provider.fail(RateLimited(retry_after_s=200.0), 0.0)
    assert provider.gate(100.0) == Gate(allow=0, until=200.0)
    provider.answer(100.0, pinned=True)
    assert provider.gate(100.0) is None


def test_one_turn_can_probe_a_provider_and_its_model_at_once() -> None:
    provider = Provider()
    turns = [provider.send(0.0) for _ in range(10)]
    for turn, error in zip(turns, [Overloaded(), ProviderUnavailable()] * 5, strict=True):
        provider.breakers.failed(turn, error, 0.0, wall_offset=WALL)
    assert set(provider.breakers.gates("p", 1.0)) == {EVERY_MODEL, "m"}
    provider.answer(OPEN_S)
    assert provider.breakers.gates("p", OPEN_S) == {}


# -- reload, status --------------------------------------------------------------------------------------------------


def test_a_reload_closes_what_it_names_and_forgets_what_is_in_flight_there() -> None:
    breakers = Breakers()
    for turn, name in (("1", "p"), ("2", "q"), ("3", "p")):
        breakers.sent(turn, name, "m", 1, 0.0)
    for turn in ("1", "2"):
        breakers.failed(turn, CredentialsRejected(), 0.0, wall_offset=WALL)
    breakers.reload({"p", "unknown"})
    assert breakers.look("p", "m", 1.0) == CLOSED
    assert breakers.look("q", "m", 1.0).until == OPEN_S
    assert not breakers.failed("3", CredentialsRejected(), 1.0, wall_offset=WALL)
    breakers.reload()
    assert breakers.snapshot(1.0) == []


def test_the_status_names_state_time_reason_and_the_turn_that_probes() -> None:
    provider = Provider()
    provider.fail(CredentialsRejected("p"), 0.0)
    row = provider.status(1.0)
    assert (row.provider, row.model, row.state, row.until, row.probing) == ("p", EVERY_MODEL, "open", OPEN_S, "")
    assert row.why.startswith("p: the provider rejected the API key")
    turn = provider.send(OPEN_S)
    row = provider.status(OPEN_S)
    assert (row.state, row.probing) == ("half open", turn)
    assert row.why


def test_the_status_of_a_closed_one_shows_what_was_counted_lately() -> None:
    provider = Provider()
    provider.fail(Overloaded(), 0.0)
    provider.fail(Overloaded(), 20.0)
    assert (provider.status(20.0).state, provider.status(20.0).failures) == ("closed", 2)
    assert provider.status(30.0).failures == 1
    assert provider.breakers.snapshot(50.0) == []


# -- no sequence leaks a probe ---------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "done", "gone", "fail", "fail", "wait", "reload"]),
        st.integers(0, 30),
        st.sampled_from(["m", "n"]),
        st.sampled_from(sorted(RULES, key=lambda cls: cls.__name__)),
        st.booleans(),
    ),
    max_size=80,
)


@given(steps=STEPS)
def test_a_half_open_breaker_always_has_its_probe_in_flight_or_lets_one_start(
    steps: list[tuple[str, int, str, type[TurnError], bool]],
) -> None:
    breakers, now, number = Breakers(), 0.0, 0
    flying: deque[str] = deque()
    for step, choice, model, error, pinned in steps:
        match step:
            case "send":
                gates = breakers.gates("p", now)
                if pinned or all(gates.get(name, Gate(1, 0)).allow for name in (EVERY_MODEL, model)):
                    number += 1
                    flying.append(f"t{number}")
                    breakers.sent(flying[-1], "p", model, number % 3, now, pinned=pinned)
            case "wait":
                now += choice * 5
            case "reload":
                breakers.reload()
            case _ if flying:
                flying.rotate(choice)
                turn = flying.popleft()
                if step == "done":
                    breakers.done(turn, now)
                elif step == "gone":
                    breakers.gone(turn)
                else:
                    breakers.failed(turn, error(retry_after_s=choice), now, wall_offset=WALL)
        for row in breakers.snapshot(now):
            assert not row.probing or row.probing in flying
            gate = breakers.gates("p", now).get(row.model)
            if row.state == "half open" and row.until <= now:
                assert gate is not None
                assert gate.allow == (0 if row.probing else 1)
            elif row.until > now:
                assert gate is not None
                assert gate.allow == 0
                assert now < gate.until < math.inf
    for turn in flying:
        breakers.gone(turn)
    assert not any(row.probing for row in breakers.snapshot(now))
    assert all(gate.allow for gate in breakers.gates("p", now + 1e9).values())

"""The retry brain: the rules that hold for every row of its table."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.drivers.errors import (
    ContextTooLong,
    CredentialsRejected,
    GenerationFailed,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    Stalled,
    StreamBroken,
    TurnError,
    TurnRefused,
    WireMismatch,
    WorkerLost,
)
from loopforge.drivers.turn import assistant
from loopforge.runtime.errors import DeadlineExceeded, ProviderDown
from loopforge.runtime.retry import (
    RULES,
    SHORT_WAIT_S,
    Failure,
    GiveUp,
    Option,
    ParkUntil,
    ResendSame,
    SendTo,
    Try,
    decide,
    leave_closed,
    rule_for,
)
from tests.runtime.retrying import BUSY_CLOUD, CLASSES, CLOUD, HOME, NOW, THIRD, failed, gave_up, tried

ROWS = sorted(cls.__name__ for cls in RULES)


# -- waiting, and for whom -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RateLimited, Overloaded])
@pytest.mark.parametrize("wait_s", [0.0, 0.1, 8259.0, None])
def test_a_turn_never_waits_while_a_healthy_candidate_is_idle(error: type[TurnError], wait_s: float | None) -> None:
    assert decide(failed(tried(HOME, error(retry_after_s=wait_s))), NOW) == SendTo(1, NOW)


@pytest.mark.parametrize("wait_s", [0.0, 0.25, SHORT_WAIT_S, 700.0, 1799.0])
def test_without_another_candidate_a_named_time_is_waited_for_exactly(wait_s: float) -> None:
    failure = failed(tried(HOME, RateLimited(retry_after_s=wait_s)), options=(HOME,))
    assert decide(failure, NOW) == ResendSame(at=NOW + wait_s)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_jitter_spreads_turns_behind_a_named_time_and_never_before_it(jitter: float) -> None:
    decision = decide(failed(tried(HOME, RateLimited(retry_after_s=4.0)), options=(HOME,)), NOW, jitter=jitter)
    assert isinstance(decision, ResendSame)
    assert decision.at == NOW + 4.0 + 0.4 * jitter


def test_jitter_takes_at_most_half_of_a_back_off() -> None:
    failure = failed(tried(HOME, ProviderUnavailable()), options=(HOME,))
    assert decide(failure, NOW, jitter=1.0) == ResendSame(at=NOW + 0.25)


def test_a_short_wait_is_spent_at_the_same_provider_rather_than_in_another_ones_queue() -> None:
    failure = failed(tried(HOME, RateLimited(retry_after_s=SHORT_WAIT_S)), options=(HOME, BUSY_CLOUD))
    assert decide(failure, NOW) == ResendSame(at=NOW + SHORT_WAIT_S)


def test_instead_of_a_long_wait_a_turn_joins_another_queue_at_once() -> None:
    failure = failed(tried(HOME, RateLimited(retry_after_s=SHORT_WAIT_S + 0.1)), options=(HOME, BUSY_CLOUD))
    assert decide(failure, NOW) == SendTo(1, NOW)


def test_a_wait_that_does_not_fit_the_deadline_is_not_begun() -> None:
    error = RateLimited("home", retry_after_s=30.0)
    failure = failed(tried(HOME, error), options=(HOME,), deadline=NOW + 30)
    assert decide(failure, NOW) == GiveUp(error=error)


def test_even_a_short_wait_is_not_begun_when_the_deadline_comes_first() -> None:
    failure = failed(tried(HOME, RateLimited(retry_after_s=3.0)), options=(HOME, BUSY_CLOUD), deadline=NOW + 2)
    assert decide(failure, NOW) == SendTo(1, NOW)


@pytest.mark.parametrize(("retry_after_s", "at"), [(50.0, NOW + 50), (10.0, NOW + 20)])
def test_a_named_time_and_an_open_breaker_are_both_waited_for(retry_after_s: float, at: float) -> None:
    closed = replace(HOME, closed_until=NOW + 20, closed_by=Overloaded("home"))
    error = RateLimited(retry_after_s=retry_after_s)
    assert decide(failed(tried(HOME, error), options=(closed,)), NOW) == ResendSame(at=at)


def test_an_open_breaker_is_waited_for_when_nobody_else_is_there() -> None:
    closed = replace(HOME, closed_until=NOW + 60, closed_by=ProviderUnavailable("home"))
    assert decide(failed(tried(HOME, ProviderUnavailable()), options=(closed,)), NOW) == ResendSame(at=NOW + 60)


def test_of_closed_candidates_the_first_to_open_is_waited_for() -> None:
    home = replace(HOME, closed_until=NOW + 60, closed_by=ProviderUnavailable())
    cloud = replace(CLOUD, closed_until=NOW + 20, closed_by=Overloaded())
    assert decide(failed(tried(HOME, ProviderUnavailable()), options=(home, cloud)), NOW) == SendTo(1, NOW + 20)


def test_an_idle_candidate_whose_breaker_is_open_is_not_healthy() -> None:
    cloud = replace(CLOUD, closed_until=NOW + 20, closed_by=Overloaded())
    assert decide(failed(tried(HOME, ProviderUnavailable()), options=(HOME, cloud)), NOW) == ResendSame(at=NOW + 0.5)


def test_nobody_waits_for_a_candidate_that_a_person_has_to_mend() -> None:
    cloud = replace(CLOUD, closed_until=NOW + 20, closed_by=CredentialsRejected("cloud"))
    error = gave_up(decide(failed(tried(HOME, ModelNotFound()), options=(HOME, cloud)), NOW))
    assert isinstance(error, ModelNotFound)
    assert error.retry_after_s is None
    assert "(home: ModelNotFound, cloud: not asked, CredentialsRejected before)" in str(error)


def test_a_provider_that_is_down_is_not_waited_for_and_its_time_is_told() -> None:
    down = ProviderDown("home", retry_after_s=42.0)
    failure = Failure(
        error=down,
        attempt=0,
        max_attempts=4,
        relayed=False,
        resend_safe=True,
        deadline=NOW + 1800,
        options=(replace(HOME, closed_until=NOW + 42, closed_by=down),),
    )
    assert decide(failure, NOW) == GiveUp(error=down)
    assert decide(replace(failure, options=(*failure.options, BUSY_CLOUD)), NOW) == SendTo(1, NOW)


def test_a_candidate_that_failed_before_is_tried_again_when_its_named_time_has_passed() -> None:
    tries = (tried(HOME, RateLimited(retry_after_s=5.0), at=NOW - 5), tried(CLOUD, WireMismatch()))
    assert decide(failed(*tries), NOW) == SendTo(0, NOW)
    early = replace(tries[0], at=NOW - 4)
    assert decide(failed(early, tries[1]), NOW) == SendTo(0, NOW + 1)


@pytest.mark.parametrize("error", [StreamBroken, Stalled, GenerationFailed])
def test_what_is_resent_once_is_resent_once_to_each_candidate(error: type[TurnError]) -> None:
    options = (HOME, CLOUD)
    tries: list[Try] = []
    places = []
    place = 0
    while True:
        tries.append(tried(options[place], error()))
        decision = decide(failed(*tries, options=options), NOW)
        places.append(place)
        if isinstance(decision, SendTo):
            place = decision.candidate
        elif not isinstance(decision, ResendSame):
            break
    assert places == [0, 0, 1, 1]


def test_a_candidate_that_lacks_a_feature_never_gets_the_turn() -> None:
    blind = replace(CLOUD, lacks=frozenset({"images"}))
    assert decide(failed(tried(HOME, WireMismatch()), options=(HOME, blind, THIRD)), NOW) == SendTo(2, NOW)
    error = gave_up(decide(failed(tried(HOME, WireMismatch()), options=(HOME, blind)), NOW))
    assert "cloud: cannot carry images" in str(error)


# -- scope -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [CredentialsRejected, PermissionDenied, QuotaExhausted, ModelNotFound, WireMismatch])
@pytest.mark.parametrize("scope", ["provider", "model"])
def test_a_failure_of_the_whole_provider_rules_out_its_other_models(error: type[TurnError], scope: str) -> None:
    other_model = Option(provider="home", model="n")
    decision = decide(failed(tried(HOME, error(scope=scope)), options=(HOME, other_model)), NOW)  # type: ignore[arg-type]  # parametrize knows only str
    assert isinstance(decision, SendTo if scope == "model" else GiveUp)


def test_a_refusal_that_is_about_the_model_may_be_overcome_by_another_model_of_the_provider() -> None:
    options = (HOME, Option(provider="home", model="n"))
    assert decide(failed(tried(HOME, TurnRefused(scope="model")), options=options), NOW) == SendTo(1, NOW)
    assert isinstance(decide(failed(tried(HOME, TurnRefused()), options=options), NOW), GiveUp)


# -- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed_window", "window", "size", "goes"),
    [
        (100, 101, 0, True),
        (100, 100, 0, False),
        (100, 0, 0, False),
        (0, 100, 0, True),
        (0, 100, 99, True),
        (0, 100, 100, False),
        (0, 0, 0, False),
        (100, 101, 5000, True),  # the estimate is rough; a window that is known to be larger is the better evidence
    ],
)
def test_a_turn_that_was_too_long_goes_only_to_a_larger_window(
    failed_window: int, window: int, size: int, goes: bool
) -> None:
    options = (replace(HOME, window=failed_window), replace(CLOUD, window=window))
    decision = decide(failed(tried(HOME, ContextTooLong()), options=options, size=size), NOW)
    assert isinstance(decision, SendTo if goes else GiveUp)


def test_a_window_has_to_be_larger_than_every_one_that_was_too_small() -> None:
    options = (replace(HOME, window=10), replace(CLOUD, window=30), replace(THIRD, window=20))
    tries = (tried(HOME, ContextTooLong()), tried(CLOUD, ContextTooLong()))
    assert isinstance(decide(failed(*tries, options=options), NOW), GiveUp)


def test_that_a_turn_was_too_long_is_not_forgotten_over_another_error() -> None:
    options = (replace(HOME, window=30), replace(CLOUD, window=40), replace(THIRD, window=20))
    tries = (tried(HOME, ContextTooLong()), tried(CLOUD, WireMismatch()))
    assert isinstance(decide(failed(*tries, options=options), NOW), GiveUp)


# -- quotas ----------------------------------------------------------------------------------------------------------


def test_an_exhausted_quota_is_waited_for_when_the_route_parks_and_everybody_else_failed() -> None:
    error = QuotaExhausted(reset_at=1_700_000_600.0)
    failure = failed(
        tried(HOME, error), options=(HOME,), wall_offset=1_700_000_000.0 - NOW, park_max_s=700, deadline=NOW + 1800
    )
    assert decide(failure, NOW) == ParkUntil(0, NOW + 601)
    assert decide(replace(failure, options=(HOME, BUSY_CLOUD)), NOW) == SendTo(1, NOW)


@pytest.mark.parametrize(
    ("park_max_s", "parked_s", "deadline"),
    [(0.0, 0.0, math.inf), (600.0, 0.0, math.inf), (700.0, 100.0, math.inf), (700.0, 0.0, NOW + 601)],
    ids=["does not park", "longer than the cap", "cap used up before", "past the deadline"],
)
def test_a_turn_that_may_not_park_fails_with_the_time_of_the_reset(
    park_max_s: float, parked_s: float, deadline: float
) -> None:
    failure = failed(
        tried(HOME, QuotaExhausted(reset_at=NOW + 600)),
        options=(HOME,),
        park_max_s=park_max_s,
        parked_s=parked_s,
        deadline=deadline,
    )
    error = gave_up(decide(failure, NOW))
    assert isinstance(error, QuotaExhausted)
    assert error.retry_after_s == 600


def test_a_wait_for_a_quota_is_parking_however_short() -> None:
    failure = failed(tried(HOME, QuotaExhausted(retry_after_s=1.0)), options=(HOME,), park_max_s=60)
    assert decide(failure, NOW) == ParkUntil(0, NOW + 2)


def test_a_quota_whose_reset_nobody_named_is_not_waited_for() -> None:
    error = QuotaExhausted()
    assert decide(failed(tried(HOME, error), options=(HOME,), park_max_s=1e6), NOW) == GiveUp(error=error)


def test_of_two_exhausted_quotas_the_first_to_reset_is_waited_for() -> None:
    tries = (tried(HOME, QuotaExhausted(reset_at=NOW + 900)), tried(CLOUD, QuotaExhausted(retry_after_s=300.0)))
    assert decide(failed(*tries, park_max_s=1000), NOW) == ParkUntil(1, NOW + 301)


def test_waiting_for_a_breaker_that_a_quota_opened_is_parking_too() -> None:
    cloud = replace(CLOUD, closed_until=NOW + 300, closed_by=QuotaExhausted("cloud"))
    failure = failed(tried(HOME, WireMismatch()), options=(HOME, cloud))
    assert isinstance(decide(failure, NOW), GiveUp)
    assert decide(replace(failure, park_max_s=300), NOW) == ParkUntil(1, NOW + 300)


# -- lost workers ----------------------------------------------------------------------------------------------------


def lost(times: int, *, alone: bool = False) -> tuple[Try, ...]:
    tries = [tried(HOME, WorkerLost(what="killed by SIGSEGV")) for _ in range(times)]
    tries[-1] = replace(tries[-1], alone=alone)
    return tuple(tries)


def test_a_turn_that_lost_its_worker_goes_there_again_at_once() -> None:
    assert decide(failed(*lost(1)), NOW) == ResendSame(at=NOW)
    assert decide(failed(*lost(1), relayed=True), NOW) == ResendSame(at=NOW, restarted=True)


def test_a_turn_alone_at_its_first_two_losses_is_only_a_suspect() -> None:
    assert decide(failed(*lost(1, alone=True)), NOW) == ResendSame(at=NOW)
    assert decide(failed(*lost(2, alone=True)), NOW) == ResendSame(at=NOW, alone=True)


def test_a_suspect_that_was_not_alone_at_a_third_loss_goes_alone_again() -> None:
    assert decide(failed(*lost(3)), NOW) == ResendSame(at=NOW, alone=True)


def test_a_turn_that_kills_its_worker_alone_is_poison_and_goes_nowhere_else() -> None:
    error = gave_up(decide(failed(*lost(3, alone=True)), NOW))
    assert isinstance(error, WorkerLost)
    assert error.retry_after_s is None
    assert "the worker died 3 times with this turn in flight, the last time with no other turn" in str(error)
    assert "killed by SIGSEGV" in str(error)
    assert "do not post it again as it is" in error.action


def test_a_suspect_never_moves_to_another_provider_even_when_its_own_is_down() -> None:
    closed = replace(HOME, closed_until=NOW + 60)
    assert decide(failed(*lost(2), options=(closed, CLOUD)), NOW) == ResendSame(at=NOW + 60, alone=True)
    assert isinstance(decide(failed(*lost(2), options=(closed, CLOUD), deadline=NOW + 60), NOW), GiveUp)
    later = (*lost(2), tried(HOME, GenerationFailed()), tried(HOME, GenerationFailed()))
    assert isinstance(decide(failed(*later), NOW), GiveUp)
    assert leave_closed(replace(failed(*lost(2)), options=(closed, CLOUD)), NOW) is None


def test_a_turn_lost_once_may_leave_a_provider_whose_worker_stays_down() -> None:
    closed = replace(HOME, closed_until=NOW + 60, closed_by=ProviderDown("home"))
    assert decide(failed(*lost(1), options=(closed, BUSY_CLOUD)), NOW) == SendTo(1, NOW)


def test_a_loss_that_must_not_be_resent_ends_the_turn_whatever_failed_before() -> None:
    tries = (tried(CLOUD, RateLimited(retry_after_s=1.0)), *lost(1))
    assert isinstance(gave_up(decide(failed(*tries, resend_safe=False), NOW)), WorkerLost)
    error = tries[-1].error
    assert decide(failed(tries[-1], options=(HOME,), resend_safe=False), NOW) == GiveUp(error=error)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "WorkerLost"])
def test_only_a_lost_worker_asks_whether_a_resend_is_safe(name: str) -> None:
    failure = failed(tried(replace(HOME, window=1), CLASSES[name]()), options=(HOME, replace(CLOUD, window=2)))
    assert decide(failure, NOW) == decide(replace(failure, resend_safe=False), NOW)


# -- restarted -------------------------------------------------------------------------------------------------------


def test_every_resend_after_relayed_events_says_that_they_are_withdrawn() -> None:
    for failure in (
        failed(tried(HOME, StreamBroken())),
        failed(tried(HOME, RateLimited())),
        failed(tried(HOME, RateLimited()), options=(HOME,)),
        failed(tried(HOME, WireMismatch()), options=(HOME, BUSY_CLOUD)),
        failed(tried(HOME, QuotaExhausted(retry_after_s=9.0)), options=(HOME,), park_max_s=99),
    ):
        silent, seen = decide(failure, NOW), decide(replace(failure, relayed=True), NOW)
        assert not isinstance(silent, GiveUp)
        assert not silent.restarted
        assert seen == replace(silent, restarted=True)


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_attempts_are_bounded() -> None:
    error = ProviderUnavailable("home")
    failure = failed(tried(HOME, error), attempt=4, max_attempts=4, options=(HOME,))
    assert decide(failure, NOW) == GiveUp(error=error)


OPTIONS = st.builds(
    Option,
    provider=st.sampled_from(["a", "b", "c"]),
    model=st.sampled_from(["m", "n"]),
    idle=st.booleans(),
    closed_until=st.sampled_from([-math.inf, NOW - 1, NOW, NOW + 3, NOW + 60, math.inf]),
    closed_by=st.one_of(st.none(), st.sampled_from([CLASSES[name]() for name in ROWS])),
    window=st.sampled_from([0, 10, 20]),
    lacks=st.sampled_from([frozenset[str](), frozenset({"images"})]),
)


@st.composite
def failures(draw: st.DrawFn) -> Failure:
    options = draw(st.lists(OPTIONS, min_size=1, max_size=4, unique_by=lambda option: (option.provider, option.model)))
    tries = []
    for _ in range(draw(st.integers(1, 5))):
        error = draw(st.sampled_from(sorted(CLASSES.values(), key=lambda cls: cls.__name__)))(
            retry_after_s=draw(st.sampled_from([None, 0.0, 2.0, 400.0])),
            reset_at=draw(st.sampled_from([None, NOW, NOW + 100])),
            scope=draw(st.sampled_from([None, "provider", "model", "turn"])),
        )
        alone = draw(st.booleans())
        tries.append(
            tried(draw(st.sampled_from(options)), error, at=draw(st.sampled_from([NOW - 9, NOW])), alone=alone)
        )
    tries[-1] = replace(tries[-1], at=NOW)
    return failed(
        *tries,
        options=tuple(options),
        max_attempts=draw(st.integers(1, 6)),
        deadline=NOW + draw(st.sampled_from([-1.0, 0.0, 1.0, 100.0, math.inf])),
        relayed=draw(st.booleans()),
        resend_safe=draw(st.booleans()),
        size=draw(st.sampled_from([0, 15])),
        park_max_s=draw(st.sampled_from([0.0, 200.0])),
        parked_s=draw(st.sampled_from([0.0, 150.0])),
    )


@given(failure=failures(), jitter=st.floats(0, 1))
def test_whatever_failed_no_decision_breaks_a_bound(failure: Failure, jitter: float) -> None:
    decision = decide(failure, NOW, jitter=jitter)
    if isinstance(decision, GiveUp):
        assert "\n" not in str(decision.error)
        return
    assert NOW <= decision.at < failure.deadline
    assert failure.attempt < failure.max_attempts
    assert decision.restarted == failure.relayed
    index = failure.current if isinstance(decision, ResendSame) else decision.candidate
    option = failure.options[index]
    assert not option.lacks
    assert decision.at >= option.closed_until
    last = [
        attempt for attempt in failure.tries if (attempt.provider, attempt.model) == (option.provider, option.model)
    ]
    if last and last[-1].error.retry_after_s is not None and last[-1].error.reset_at is None:
        rule = rule_for(last[-1].error)
        assert rule.same in {"at once", "suspect"} or decision.at >= last[-1].at + last[-1].error.retry_after_s
    losses = [attempt.provider for attempt in failure.tries if isinstance(attempt.error, WorkerLost)]
    assert all(losses.count(provider) < 2 or provider == option.provider for provider in losses)
    if isinstance(decision, ParkUntil):
        assert failure.parked_s + decision.at - NOW <= failure.park_max_s
    if decision.at > NOW:  # it waits: then nobody who could take it now is idle
        options = (Option(provider="gone", model="m", closed_until=math.inf), *failure.options)
        moved = leave_closed(replace(failure, options=options, current=0), NOW)
        assert moved is None or not options[moved.candidate].idle


# -- the error of the turn -------------------------------------------------------------------------------------------


def test_when_several_candidates_failed_one_line_names_each_and_how() -> None:
    tries = (
        tried(HOME, ProviderUnavailable(), at=NOW - 2),
        tried(HOME, ProviderUnavailable(), at=NOW - 1),
        tried(CLOUD, CredentialsRejected()),
    )
    error = gave_up(decide(failed(*tries, max_attempts=3), NOW))
    assert isinstance(error, ProviderUnavailable)  # a later resend may be enough, a key is not mended by one
    assert error.provider == "home"
    assert "(home: ProviderUnavailable 2 times, cloud: CredentialsRejected)" in str(error)


def test_the_error_is_that_of_whoever_can_take_the_turn_first_and_says_when() -> None:
    tries = (tried(HOME, RateLimited(retry_after_s=30.0), at=NOW - 20), tried(CLOUD, Overloaded(retry_after_s=60.0)))
    error = gave_up(decide(failed(*tries, deadline=NOW + 5), NOW))
    assert isinstance(error, RateLimited)
    assert (error.provider, error.retry_after_s) == ("home", 10.0)
    assert error.action == "resend this turn in 10 s"
    assert "(home: RateLimited, cloud: Overloaded)" in str(error)


def test_the_time_is_that_of_a_candidate_that_was_not_asked_when_that_one_is_first() -> None:
    cloud = replace(CLOUD, closed_until=NOW + 7, closed_by=Overloaded("cloud", retry_after_s=60.0))
    error = gave_up(decide(failed(tried(HOME, WireMismatch()), options=(HOME, cloud), deadline=NOW + 5), NOW))
    assert isinstance(error, Overloaded)
    assert (error.provider, error.retry_after_s) == ("cloud", 7.0)
    assert "(home: WireMismatch, cloud: not asked, Overloaded before)" in str(error)


def test_when_nobody_recovers_by_himself_the_error_is_the_routes_own() -> None:
    tries = (tried(HOME, ModelNotFound()), tried(CLOUD, CredentialsRejected()))
    error = gave_up(decide(failed(*tries), NOW))
    assert isinstance(error, ModelNotFound)
    assert "correct the model in config.toml" in str(error)


def test_an_action_that_names_no_time_stays_as_it_was_written() -> None:
    tries = (tried(HOME, RateLimited(retry_after_s=30.0, action="ask Ann"), at=NOW - 20), tried(CLOUD, Overloaded()))
    error = gave_up(decide(failed(*tries, max_attempts=2), NOW))
    assert (error.retry_after_s, error.action) == (10.0, "ask Ann")


def test_the_deadline_ends_the_turn_as_such_and_what_was_tried_is_told() -> None:
    tries = (tried(HOME, RateLimited(retry_after_s=3.0)), tried(CLOUD, DeadlineExceeded()))
    error = gave_up(decide(failed(*tries), NOW))
    assert isinstance(error, DeadlineExceeded)
    assert error.retry_after_s is None
    assert "(home: RateLimited, cloud: DeadlineExceeded)" in str(error)


def test_two_models_of_one_provider_are_told_apart() -> None:
    options = (HOME, Option(provider="home", model="n"))
    tries = (tried(options[0], ModelNotFound()), tried(options[1], PermissionDenied()))
    assert "(home/m: ModelNotFound, home/n: PermissionDenied)" in str(
        gave_up(decide(failed(*tries, options=options), NOW))
    )


def test_the_answer_that_had_come_stays_with_the_error() -> None:
    partial = assistant("half")
    tries = (tried(CLOUD, StreamBroken()), tried(HOME, StreamBroken(partial=partial)))
    assert gave_up(decide(failed(*tries, max_attempts=2), NOW)).partial is partial


# -- turns that wait for a candidate that closes ---------------------------------------------------------------------


def waiting(options: tuple[Option, ...], by: TurnError, deadline: float = math.inf) -> Failure:
    return Failure(
        error=by, attempt=0, max_attempts=4, relayed=False, resend_safe=True, deadline=deadline, options=options
    )


def test_a_turn_that_waits_for_a_candidate_that_closes_leaves_for_an_idle_one_or_else_a_busy_one() -> None:
    down = Overloaded("home")
    home = replace(HOME, closed_until=NOW + 60, closed_by=down)
    assert leave_closed(waiting((home, BUSY_CLOUD, THIRD), down), NOW) == SendTo(2, NOW)
    assert leave_closed(waiting((home, BUSY_CLOUD), down), NOW) == SendTo(1, NOW)
    assert leave_closed(waiting((home,), down), NOW) is None
    assert leave_closed(waiting((home, replace(CLOUD, closed_until=NOW + 1)), down), NOW) is None
    assert leave_closed(waiting((home, THIRD), down, deadline=NOW), NOW) is None


def test_a_turn_that_leaves_because_of_what_a_person_has_to_mend_carries_a_warning() -> None:
    by = CredentialsRejected("home")
    moved = leave_closed(waiting((replace(HOME, closed_until=NOW + 60, closed_by=by), THIRD), by), NOW)
    assert moved is not None
    assert "the provider rejected the API key" in moved.warning

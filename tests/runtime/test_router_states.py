"""Routes whose candidates have open breakers, exhausted quotas, used-up minutes, sessions that stay, small windows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from loopforge.drivers.errors import (
    CredentialsRejected,
    Overloaded,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    TurnError,
)
from loopforge.drivers.registry import ProviderSettings
from loopforge.runtime.breakers import Closed
from loopforge.runtime.config.values import Route, Target
from loopforge.runtime.errors import ProviderDown
from loopforge.runtime.router import Candidate, Plan, ProviderState, in_time, options, route

NOW = 1000.0
PROVIDERS = {
    name: ProviderSettings(name=name, kind="openai_compatible", default_model="m", context_window=window, max_queued=3)
    for name, window in (("home", 1000), ("cloud", 0), ("third", 8000))
}
HOME, CLOUD, THIRD = (Target(provider=name, model="m") for name in PROVIDERS)


def resolve(
    closed: dict[str, Closed] | None = None,
    *,
    provider: str = "",
    states: dict[str, ProviderState] | None = None,
    stick: Target | None = None,
    size: int = 0,
    features: tuple[str, ...] = (),
    spill: bool = False,
    park_max_s: float = 0.0,
) -> Plan:
    coding = Route(kind="coding", targets=(HOME, CLOUD, THIRD), spill=spill, park_max_s=park_max_s)
    return route(
        "coding",
        provider,
        "",
        features,
        {"coding": coding},
        PROVIDERS,
        states or {},
        NOW,
        look=look_of(closed or {}),
        stick=stick,
        size=size,
    )


def look_of(closed: dict[str, Closed]) -> Callable[[str, str], Closed]:
    return lambda provider, _: closed.get(provider, Closed())


def names(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.provider for candidate in candidates]


def for_s(seconds: float, by: type[TurnError] = Overloaded) -> Closed:
    return Closed(until=NOW + seconds, by=by())


# -- breakers --------------------------------------------------------------------------------------------------------


def test_a_candidate_whose_breaker_is_open_is_passed_over_and_kept_for_later() -> None:
    plan = resolve({"home": for_s(42)})
    assert names(plan.candidates) == ["cloud", "third"]
    assert names(plan.later) == ["home"]
    assert names(plan.everyone) == ["cloud", "third", "home"]
    assert plan.home == HOME
    assert plan.warnings == ("home was passed over: it is closed for 42 s more: the provider is overloaded",)


def test_a_candidate_that_is_down_is_kept_for_later_too() -> None:
    plan = resolve(states={"home": ProviderState(down_until=NOW + 5)})
    assert (names(plan.candidates), names(plan.later)) == (["cloud", "third"], ["home"])


def test_a_breaker_whose_time_has_come_takes_the_turn_as_its_probe() -> None:
    assert names(resolve({"home": Closed(until=NOW, by=Overloaded())}).candidates) == ["home", "cloud", "third"]


def test_a_candidate_that_another_turn_probes_comes_after_the_healthy_ones() -> None:
    plan = resolve({"home": Closed(probing=True)})
    assert names(plan.candidates) == ["cloud", "third", "home"]
    assert plan.warnings == ("home was passed over: it is being tried again by another turn",)


def test_when_all_are_open_the_turn_waits_for_the_first_that_opens() -> None:
    plan = resolve({"home": for_s(30), "cloud": for_s(10, ProviderUnavailable), "third": for_s(20)})
    assert names(plan.candidates) == ["cloud"]
    assert names(plan.later) == ["home", "third"]
    assert (plan.waits_until, type(plan.waits_for), plan.parks) == (NOW + 10, ProviderUnavailable, False)


def test_nobody_waits_for_what_a_person_has_to_mend() -> None:
    closed = dict.fromkeys(PROVIDERS, for_s(10, CredentialsRejected))
    with pytest.raises(CredentialsRejected) as caught:
        resolve(closed)
    assert caught.value.retry_after_s == 10
    assert "(closed for 10 s more" in str(caught.value)
    plan = resolve(closed | {"third": for_s(50)})
    assert (names(plan.candidates), plan.waits_until) == (["third"], NOW + 50)


def test_a_quota_is_waited_for_only_by_a_route_that_parks_so_long() -> None:
    closed = dict.fromkeys(PROVIDERS, for_s(600, QuotaExhausted))
    for park_max_s in (0.0, 599.0):
        with pytest.raises(QuotaExhausted) as caught:
            resolve(closed, park_max_s=park_max_s)
        assert caught.value.retry_after_s == 600
    plan = resolve(closed, park_max_s=600.0)
    assert (names(plan.candidates), plan.waits_until, plan.parks) == (["home"], NOW + 600, True)
    assert plan.park_max_s == 600.0


def test_a_route_whose_candidates_are_down_and_open_waits_for_the_open_one() -> None:
    states = {name: ProviderState(down_until=NOW + 5) for name in ("home", "cloud")}
    plan = resolve({"third": for_s(60)}, states=states)
    assert (names(plan.candidates), plan.waits_until) == (["third"], NOW + 60)
    with pytest.raises(ProviderDown) as caught:
        resolve({"third": for_s(60, CredentialsRejected)}, states=states)
    assert caught.value.retry_after_s == 5


def test_a_breaker_does_not_hold_up_a_turn_whose_client_chose_the_provider() -> None:
    plan = resolve({"home": for_s(60, CredentialsRejected)}, provider="home")
    assert (names(plan.candidates), plan.waits_until, plan.pinned) == (["home"], -math.inf, True)


# -- stickiness ------------------------------------------------------------------------------------------------------


def test_a_session_stays_with_whoever_served_it_and_that_is_no_warning() -> None:
    plan = resolve(stick=THIRD)
    assert names(plan.candidates) == ["third", "home", "cloud"]
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("stick", "closed", "first"),
    [
        (Target(provider="gone", model="m"), {}, "home"),
        (Target(provider="third", model="other"), {}, "home"),
        (THIRD, {"third": for_s(60)}, "home"),
        (THIRD, {"third": Closed(probing=True)}, "home"),
    ],
    ids=["no longer in the route", "another model", "closed", "being probed"],
)
def test_but_only_while_its_route_and_its_breakers_allow(stick: Target, closed: dict[str, Closed], first: str) -> None:
    assert names(resolve(closed, stick=stick).candidates)[0] == first


def test_a_full_queue_of_a_route_that_spills_goes_before_the_habit() -> None:
    states = {"third": ProviderState(queued=3)}
    assert names(resolve(stick=THIRD, states=states, spill=True).candidates) == ["home", "cloud", "third"]
    assert names(resolve(stick=THIRD, states=states).candidates)[0] == "third"


# -- windows ---------------------------------------------------------------------------------------------------------


def test_a_turn_that_is_far_larger_than_a_window_goes_to_another_first() -> None:
    plan = resolve(size=1300)
    assert names(plan.candidates) == ["cloud", "third", "home"]
    assert plan.warnings == ("home was passed over: the turn has about 1300 tokens, its window 1000",)
    assert [candidate.window for candidate in plan.candidates] == [0, 8000, 1000]


def test_an_estimate_is_not_trusted_to_the_last_token_nor_where_bytes_are_no_text() -> None:
    assert names(resolve(size=1250).candidates)[0] == "home"
    assert names(resolve(size=10_000, features=("images",)).candidates)[0] == "home"


# -- deadlines -------------------------------------------------------------------------------------------------------


def test_a_turn_whose_minute_is_used_up_beyond_its_deadline_is_refused_with_the_time() -> None:
    plan = resolve()
    starts = {"home": NOW + 50, "cloud": NOW + 42, "third": NOW + 60}
    in_time(plan, lambda candidate: starts[candidate.provider], NOW + 42.1, NOW)
    with pytest.raises(RateLimited) as caught:
        in_time(plan, lambda candidate: starts[candidate.provider], NOW + 42, NOW)
    assert (caught.value.provider, caught.value.retry_after_s) == ("cloud", 42)
    assert "no candidate of [router.coding] has a request or its tokens left before 42 s from now" in str(caught.value)
    assert "post it again in 42 s, or with a larger deadline_s" in str(caught.value)


def test_a_turn_that_would_wait_for_a_breaker_beyond_its_deadline_is_refused_with_what_opened_it() -> None:
    plan = resolve(dict.fromkeys(PROVIDERS, for_s(60)))
    in_time(plan, lambda _: NOW, NOW + 61, NOW)
    with pytest.raises(Overloaded) as caught:
        in_time(plan, lambda _: NOW, NOW + 60, NOW)
    assert caught.value.retry_after_s == 60
    assert "the provider is overloaded; it is tried again 60 s from now at the earliest, and the turn's" in str(
        caught.value
    )


# -- options ---------------------------------------------------------------------------------------------------------


def test_options_show_everyone_as_he_stands_now() -> None:
    plan = resolve({"home": for_s(60)}, states={"third": ProviderState()})
    error = CredentialsRejected("third")
    states = {"third": ProviderState(down_until=math.inf, down_error=error), "home": ProviderState(down_until=NOW + 5)}
    look = look_of({"home": for_s(60), "cloud": Closed(probing=True)})
    cloud, third, home = options(plan, states, look, lambda candidate: candidate.provider == "cloud", NOW)
    assert (cloud.provider, cloud.idle, cloud.closed_until) == ("cloud", False, -math.inf)
    assert (third.provider, third.closed_until, third.closed_by) == ("third", math.inf, error)
    assert (home.provider, home.closed_until, type(home.closed_by), home.window) == ("home", NOW + 60, Overloaded, 1000)


def test_options_say_who_would_start_the_turn_at_once() -> None:
    shown = options(resolve(), {}, look_of({}), lambda candidate: candidate.provider != "cloud", NOW)
    assert [option.idle for option in shown] == [True, False, True]


def test_a_worker_that_is_down_without_a_reason_closes_as_such() -> None:
    (home, *_) = options(resolve(), {"home": ProviderState(down_until=NOW + 5)}, look_of({}), lambda _: True, NOW)
    assert (home.idle, home.closed_until, type(home.closed_by)) == (False, NOW + 5, ProviderDown)


def test_of_a_pinned_turn_breakers_do_not_matter() -> None:
    plan = resolve(provider="home")
    (home,) = options(plan, {}, look_of({"home": for_s(60)}), lambda _: True, NOW)
    assert (home.idle, home.closed_until) == (True, -math.inf)

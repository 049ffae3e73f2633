from __future__ import annotations

from loopforge.runtime.config.values import Target
from loopforge.runtime.stickiness import STAY_S, Stickiness

HOME = Target(provider="ollama", model="m")
AWAY = Target(provider="cloud", model="m")
OTHER = Target(provider="cloud", model="n")


def test_a_session_that_was_served_elsewhere_stays_there_for_a_while_and_then_goes_home() -> None:
    sticky = Stickiness()
    sticky.served("s", "coding", AWAY, HOME, 100.0)
    sticky.served("s", "coding", AWAY, HOME, 400.0)
    assert sticky.target("s", "coding", 100.0 + STAY_S - 1) == AWAY
    assert sticky.target("s", "coding", 100.0 + STAY_S) is None


def test_its_time_begins_anew_when_it_moves_on() -> None:
    sticky = Stickiness()
    sticky.served("s", "coding", AWAY, HOME, 0.0)
    sticky.served("s", "coding", OTHER, HOME, 500.0)
    assert sticky.target("s", "coding", 500.0 + STAY_S - 1) == OTHER


def test_a_session_at_home_needs_no_entry() -> None:
    sticky = Stickiness()
    sticky.served("s", "coding", HOME, HOME, 0.0)
    assert len(sticky) == 0
    sticky.served("s", "coding", AWAY, HOME, 0.0)
    sticky.served("s", "coding", HOME, HOME, 1.0)
    assert sticky.target("s", "coding", 1.0) is None
    assert len(sticky) == 0


def test_kinds_and_sessions_are_apart_and_turns_without_a_session_are_nobodys() -> None:
    sticky = Stickiness()
    sticky.served("s", "coding", AWAY, HOME, 0.0)
    sticky.served("", "coding", AWAY, HOME, 0.0)
    assert sticky.target("s", "planning", 1.0) is None
    assert sticky.target("t", "coding", 1.0) is None
    assert sticky.target("", "coding", 1.0) is None


def test_the_session_noted_longest_ago_is_forgotten_first() -> None:
    sticky = Stickiness(max_sessions=2)
    for session in ("a", "b", "a", "c"):
        sticky.served(session, "coding", AWAY, HOME, 0.0)
    assert [session for session in "abc" if sticky.target(session, "coding", 0.0)] == ["a", "c"]
    assert len(sticky) == 2


def test_a_reload_sends_every_session_by_the_routes_again() -> None:
    sticky = Stickiness()
    sticky.served("s", "coding", AWAY, HOME, 0.0)
    sticky.reload()
    assert sticky.target("s", "coding", 0.0) is None

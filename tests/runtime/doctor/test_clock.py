"""How far the clock is off, by what servers say the time is."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopforge.runtime.doctor.clock import Reading, judge_clock, read_clock
from loopforge.runtime.doctor.dial import Contact
from tests.fakes.dial import answer

NOW = 1_700_000_000.0


def date(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)


def reading(ahead_s: float, *, provider: str = "acme", signs: bool = False) -> Reading:
    return Reading(provider=provider, ahead_s=ahead_s, within_s=0.5, signs=signs)


@given(st.floats(-1e6, 1e6), st.floats(0, 30), st.floats(0, 1))
def test_what_is_read_holds_the_truth_within_its_bounds(ahead_s: float, took_s: float, when: float) -> None:
    """The server stamps somewhere between sending and receiving, and leaves the fraction of the second out."""
    sent = NOW
    stamped = int(sent + took_s * when - ahead_s)
    contact = Contact(status=401, headers={"date": date(stamped)}, sent_at=sent, received_at=sent + took_s)
    found = read_clock(contact, "acme", signs=False)
    assert found is not None
    assert abs(found.ahead_s - ahead_s) <= found.within_s + 1e-3


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}, {"date": date(NOW), "age": "300"}])
def test_an_answer_without_a_date_of_its_own_says_nothing(headers: dict[str, str]) -> None:
    assert read_clock(Contact(status=200, headers=headers, sent_at=NOW, received_at=NOW), "acme", signs=False) is None


def test_a_date_in_the_answer_is_read() -> None:
    found = read_clock(answer(date=date(NOW - 60), at=NOW), "acme", signs=True)
    assert found is not None
    assert (round(found.ahead_s), found.signs) == (60, True)


@pytest.mark.parametrize(
    ("readings", "status", "what"),
    [
        ([reading(0.2)], "ok", "agrees with the clock of acme within 1 s"),
        ([reading(-200.0)], "ok", "agrees with the clock of acme within 200 s"),
        ([reading(-200.0, signs=True)], "error", "this machine's clock is 3 min behind that of acme; acme refuses"),
        ([reading(45.0, signs=True)], "warn", "this machine's clock is 45 s ahead of that of acme"),
        ([reading(90_000.0)], "warn", "this machine's clock is 25 h ahead of that of acme"),
        ([reading(90_000_000.0)], "warn", "this machine's clock is 1042 days ahead of that of acme"),
        ([], "ok", "not compared: no provider answered with a date"),
    ],
)
def test_what_a_difference_means_depends_on_who_signs(readings: list[Reading], status: str, what: str) -> None:
    (found,) = judge_clock(readings, expected=True)
    assert (found.status, found.what.startswith(what)) == (status, True), found.what
    assert (found.status == "ok") == (not found.next_step)


def test_one_server_that_is_off_alone_does_not_accuse_this_machine() -> None:
    off, fine = judge_clock([reading(3600.0, provider="odd", signs=True), reading(0.1)], expected=True)
    assert (off.status, off.subject, "agrees with other servers" in off.what) == ("warn", "odd", True)
    assert (fine.status, fine.what) == ("ok", "agrees with the clock of acme within 1 s")


def test_nothing_is_said_where_nobody_far_away_was_asked() -> None:
    assert list(judge_clock([], expected=False)) == []

"""run.py and an auth whose signature can wear out: signed anew once, and never twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from trio.testing import MockClock

from loopforge.drivers.errors import CredentialsRejected, DriverError, Overloaded, ProviderUnavailable, WireMismatch
from loopforge.drivers.run import Watchdogs, run_turn
from loopforge.drivers.turn import Delta, Reply, Turn
from loopforge.drivers.wire import HttpRequest, RenewableAuth
from tests.fakes.line_driver import TURN, LineDriver
from tests.fakes.transport import Canned, FakeTransport

ANSWER = Canned(pieces=(b"say hello\n", b"end done\n"))
NO = Canned(status=401, headers={"date": "then"}, pieces=(b"expired",))


class KeyedDriver(LineDriver):
    """A 401 is about the key."""

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        if status != 401:
            return LineDriver.explain(self, turn, status, headers, body)
        return CredentialsRejected(what=body.decode(), status=status)


@dataclass
class Numbered:
    """Signs with a number that grows with each rejection. `gives_up`: a new one would do no better."""

    gives_up: bool = False
    crashes: bool = False
    number: int = 0

    async def sign(self, request: HttpRequest) -> HttpRequest:
        return replace(request, headers={"key": str(self.number)})

    def rejected(self, error: CredentialsRejected, headers: Mapping[str, str]) -> bool:
        if self.crashes:
            raise LookupError("secret")
        self.number += 1
        error.what += f" at {headers['date']}"
        return not self.gives_up


async def run(transport: FakeTransport, auth: Numbered) -> Reply:
    async def emit(delta: Delta) -> None:
        del delta

    watchdogs = Watchdogs(first_event_s=30, event_gap_s=10)
    return await run_turn(KeyedDriver(), auth, TURN, transport, emit, watchdogs)


async def fails(transport: FakeTransport, auth: Numbered) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await run(transport, auth)
    return caught.value


def keys(transport: FakeTransport) -> list[str]:
    return [request.headers["key"] for request in transport.requests]


def test_an_auth_that_knows_of_rejections_is_told_from_one_that_does_not() -> None:
    assert isinstance(Numbered(), RenewableAuth)
    assert not isinstance(KeyedDriver(), RenewableAuth)


async def test_a_rejected_signature_is_made_anew_and_the_turn_sent_once_more() -> None:
    transport = FakeTransport(NO, ANSWER)
    assert (await run(transport, Numbered())).text == "hello"
    assert keys(transport) == ["0", "1"]
    assert transport.open_now == 0


async def test_a_second_rejection_is_the_outcome_with_what_the_auth_adds() -> None:
    transport = FakeTransport(NO, NO)
    error = await fails(transport, Numbered())
    assert type(error) is CredentialsRejected
    assert keys(transport) == ["0", "1"]
    assert str(error).startswith("acme: expired at then;")
    assert not error.started


async def test_an_auth_that_cannot_better_it_is_not_asked_again() -> None:
    transport = FakeTransport(NO)
    assert type(await fails(transport, Numbered(gives_up=True))) is CredentialsRejected
    assert keys(transport) == ["0"]


async def test_no_other_error_is_sent_again() -> None:
    transport = FakeTransport(Canned(status=529, pieces=(b"later",)))
    assert type(await fails(transport, Numbered())) is Overloaded
    assert keys(transport) == ["0"]


async def test_both_sendings_share_the_time_for_a_first_event(autojump_clock: MockClock) -> None:
    slow = replace(NO, head_after_s=20.0)
    error = await fails(FakeTransport(slow, replace(ANSWER, head_after_s=20.0)), Numbered())
    assert type(error) is ProviderUnavailable
    assert autojump_clock.current_time() == pytest.approx(30.0)


async def test_a_bug_in_the_auth_is_named_without_its_text() -> None:
    error = await fails(FakeTransport(NO), Numbered(crashes=True))
    assert type(error) is WireMismatch
    assert "secret" not in f"{error} {error.__cause__}"

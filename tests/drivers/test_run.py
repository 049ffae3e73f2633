"""run.py: the order of things, the watchdogs, and what errors carry. All in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from loopforge.drivers.errors import (
    CredentialsRejected,
    DriverError,
    GenerationFailed,
    Overloaded,
    ProviderUnavailable,
    Stalled,
    StreamBroken,
    TurnRefused,
    WireMismatch,
)
from loopforge.drivers.run import TAIL_S, Book, Watchdogs, run_turn
from loopforge.drivers.turn import (
    Delta,
    Finished,
    Notice,
    Reply,
    ResponseInfo,
    TextDelta,
    ThinkingDelta,
    Usage,
    UsageDelta,
    assistant,
)
from loopforge.drivers.wire import HttpRequest
from tests.fakes.line_driver import TURN, LineDriver
from tests.fakes.transport import SILENCE, Canned, FakeTransport, Piece

PATIENCE = Watchdogs(first_event_s=30, event_gap_s=10)
ANSWER = (b"think hm\n", b"say hello\n", b"say  world\n", b"end done\n", b"usage 3 2\n")


class NoAuth:
    async def sign(self, request: HttpRequest) -> HttpRequest:
        return request


class BadAuth:
    """Raises what it was given, as an auth does that has no key, or a bug."""

    def __init__(self, exc: Exception) -> None:
        self.exc = exc

    async def sign(self, request: HttpRequest) -> HttpRequest:  # noqa: ARG002 - wire.Auth's
        raise self.exc


class Listener:
    """Keeps what was emitted, and takes its time over it."""

    def __init__(self, *, takes_s: float = 0.0) -> None:
        self.deltas: list[Delta] = []
        self.takes_s = takes_s

    async def emit(self, delta: Delta) -> None:
        self.deltas.append(delta)
        await trio.sleep(self.takes_s)


async def run(
    transport: FakeTransport,
    *,
    driver: LineDriver | None = None,
    auth: NoAuth | BadAuth | None = None,
    listener: Listener | None = None,
    watchdogs: Watchdogs = PATIENCE,
    book: Book | None = None,
) -> Reply:
    emit = (listener or Listener()).emit
    return await run_turn(driver or LineDriver(), auth or NoAuth(), TURN, transport, emit, watchdogs, book=book)


async def fails(transport: FakeTransport, kind: type[DriverError], **how: object) -> DriverError:
    with pytest.raises(kind) as caught:
        await run(transport, **how)  # type: ignore[arg-type] # handed on as they are
    assert type(caught.value) is kind
    return caught.value


def answering(*pieces: Piece, hangs: bool = False) -> FakeTransport:
    return FakeTransport(Canned(pieces=pieces, hangs=hangs))


async def test_deltas_come_in_order_and_fold_to_the_reply() -> None:
    listener = Listener()
    reply = await run(answering(*ANSWER), listener=listener)
    assert listener.deltas == [
        ThinkingDelta("hm"),
        TextDelta("hello"),
        TextDelta(" world"),
        ResponseInfo(),
        Finished("stop", "done"),
        UsageDelta(Usage(input=3, output=2)),
    ]
    assert (reply.text, reply.message.thinking) == ("hello world", "hm")
    assert (reply.finish, reply.finish_raw, reply.usage) == ("stop", "done", Usage(input=3, output=2))
    assert (reply.id, reply.provider, reply.model) == ("turn-1", "acme", "m-1")


@given(cuts=st.lists(st.integers(1, 40)))
def test_the_reply_does_not_depend_on_where_the_bytes_were_cut(cuts: list[int]) -> None:
    whole, pieces, start = b"".join(ANSWER), [], 0
    for cut in cuts:
        pieces.append(whole[start : start + cut])
        start += cut
    pieces.append(whole[start:])
    reply = trio.run(run, answering(*pieces), clock=MockClock(autojump_threshold=0))
    assert (reply.text, reply.usage.output) == ("hello world", 2)


async def test_a_body_read_to_its_end_leaves_the_connection_for_the_next_turn() -> None:
    transport = answering(*ANSWER)
    await run(transport)
    assert (transport.whole, transport.left) == (1, 0)


async def test_notices_come_before_the_answer() -> None:
    listener = Listener()
    reply = await run(answering(*ANSWER), driver=LineDriver(says=("no images", "no seed")), listener=listener)
    assert listener.deltas[:3] == [Notice("no images"), Notice("no seed"), ThinkingDelta("hm")]
    assert reply.warnings == ("no images", "no seed")


async def test_notices_are_given_even_when_the_answer_is_empty() -> None:
    reply = await run(answering(b"end stop\n"), driver=LineDriver(says=("no images",)))
    assert reply.warnings == ("no images", "empty answer")
    reply = await run(answering(b"nothing\n"), driver=LineDriver(says=("no images",)))
    assert reply.warnings == ("no images",)


async def test_a_turn_that_never_met_its_provider_has_emitted_nothing() -> None:
    refused = FakeTransport(Canned(instead=ProviderUnavailable(what="refused")))
    listener = Listener()
    error = await fails(refused, ProviderUnavailable, driver=LineDriver(says=("no images",)), listener=listener)
    assert not error.started
    assert listener.deltas == []


@pytest.mark.parametrize("status", [204, 304, 404, 529])
async def test_another_status_is_explained_by_the_driver(status: int) -> None:
    error = await fails(FakeTransport(Canned(status=status, pieces=[b"too ", b"busy"])), Overloaded)
    assert (error.status, error.what) == (status, f"status {status}: too busy")
    assert (error.started, error.partial) == (False, None)


async def test_errors_name_provider_and_model_in_fields_and_text() -> None:
    error = await fails(FakeTransport(Canned(status=529)), Overloaded)
    assert (error.provider, error.model) == ("acme", "m-1")
    assert str(error).startswith("acme: status 529")


async def test_an_error_after_the_first_delta_carries_what_had_come() -> None:
    error = await fails(answering(b"think hm\nsay hello\n", b"fail oops\n"), GenerationFailed)
    assert error.started
    assert error.partial is not None
    assert (error.partial.text, error.partial.thinking) == ("hello", "hm")


async def test_a_body_that_ends_before_the_answer_is_a_broken_stream() -> None:
    error = await fails(answering(b"say hello\n"), StreamBroken)
    assert error.started


async def test_a_connection_lost_in_the_middle_is_a_broken_stream_with_what_had_come() -> None:
    error = await fails(answering(b"say hello\n", StreamBroken(what="reset")), StreamBroken)
    assert error.partial is not None
    assert error.partial.text == "hello"


async def test_a_connection_lost_after_the_end_sign_loses_nothing() -> None:
    reply = await run(answering(b"say hello\nend stop\n", StreamBroken(what="reset")))
    assert reply.text == "hello"


async def test_an_error_that_the_provider_sends_after_the_end_sign_counts() -> None:
    await fails(answering(b"say hello\nend stop\n", b"fail oops\n"), GenerationFailed)


async def test_usage_that_comes_after_the_end_sign_is_waited_for(autojump_clock: MockClock) -> None:
    reply = await run(answering(b"say hello\nend stop\n", TAIL_S * 0.9, b"usage 3 2\n"))
    assert reply.usage.output == 2


async def test_a_body_that_stays_open_after_the_end_sign_is_left_soon(autojump_clock: MockClock) -> None:
    transport = answering(*ANSWER, hangs=True)
    reply = await run(transport)
    assert reply.text == "hello world"
    assert trio.current_time() <= TAIL_S + 0.001
    assert (transport.left, transport.open_now) == (1, 0)


async def test_a_body_that_goes_on_talking_after_the_end_sign_is_left(autojump_clock: MockClock) -> None:
    chatter = [piece for _ in range(100_000) for piece in (0.5, b"usage 3 2\n")]
    reply = await run(answering(*ANSWER, *chatter))
    assert reply.text == "hello world"
    assert trio.current_time() < 100


async def test_no_event_in_time_is_an_unavailable_provider(autojump_clock: MockClock) -> None:
    transport = FakeTransport(SILENCE)
    error = await fails(transport, ProviderUnavailable)
    assert trio.current_time() == 30
    assert "30 s" in error.what
    assert not error.started
    assert transport.open_now == 0


async def test_a_head_without_an_event_is_no_event(autojump_clock: MockClock) -> None:
    await fails(answering(hangs=True), ProviderUnavailable)
    assert trio.current_time() == 30


async def test_keep_alive_comments_only_trip_the_watchdog(autojump_clock: MockClock) -> None:
    comments = [piece for _ in range(1000) for piece in (1.0, b": still here\n")]
    await fails(answering(*comments), ProviderUnavailable)
    assert trio.current_time() == 30


async def test_a_drip_of_bytes_is_no_event(autojump_clock: MockClock) -> None:
    drip = [piece for _ in range(1000) for piece in (1.0, b"x")]
    await fails(answering(*drip), ProviderUnavailable)
    assert trio.current_time() == 30


async def test_silence_after_events_is_a_stall_with_what_had_come(autojump_clock: MockClock) -> None:
    transport = answering(b"say hello\n", hangs=True)
    error = await fails(transport, Stalled)
    assert trio.current_time() == 10
    assert error.started
    assert error.partial is not None
    assert error.partial.text == "hello"
    assert (transport.left, transport.open_now) == (1, 0)


async def test_an_answer_that_is_whole_but_for_its_end_sign_is_not_lost_to_a_stall(autojump_clock: MockClock) -> None:
    transport = answering(b"say hello\nlast stop\n", hangs=True)
    reply = await run(transport)
    assert (reply.text, reply.finish) == ("hello", "stop")
    assert trio.current_time() == 10
    assert (transport.left, transport.open_now) == (1, 0)


async def test_an_error_that_was_read_before_a_stall_is_the_one_told(autojump_clock: MockClock) -> None:
    error = await fails(answering(b"say hello\ndoom oops\n", hangs=True), GenerationFailed)
    assert error.started


async def test_comments_after_events_do_not_hide_a_stall(autojump_clock: MockClock) -> None:
    comments = [piece for _ in range(1000) for piece in (1.0, b": still here\n")]
    await fails(answering(b"say hello\n", *comments), Stalled)
    assert trio.current_time() == 10


async def test_each_event_gives_the_next_one_its_full_time(autojump_clock: MockClock) -> None:
    words = [piece for _ in range(100) for piece in (9.0, b"say x\n")]
    reply = await run(answering(29.0, b"say x\n", *words, 9.0, b"end stop\n"))
    assert reply.text == "x" * 101


async def test_the_time_that_the_listener_takes_is_not_the_providers(autojump_clock: MockClock) -> None:
    reply = await run(answering(*ANSWER), listener=Listener(takes_s=500))
    assert (reply.text, reply.usage.output) == ("hello world", 2)


async def test_the_deadline_is_the_callers(autojump_clock: MockClock) -> None:
    transport = answering(b"say hello\n", hangs=True)
    with pytest.raises(trio.TooSlowError), trio.fail_after(5):
        await run(transport)
    assert (transport.left, transport.open_now) == (1, 0)


async def test_cancelling_closes_the_providers_connection(autojump_clock: MockClock) -> None:
    transport = FakeTransport(SILENCE)
    with trio.move_on_after(1):
        await run(transport)
    assert (transport.left, transport.open_now) == (1, 0)


# -- tokens of attempts without a reply ------------------------------------------------------------------------------

COUNTED = b"say hello\ncount 24 1\nsay  world\n"


@pytest.mark.parametrize(
    ("what_comes_next", "hangs", "kind"),
    [
        ((), False, StreamBroken),
        ((StreamBroken(what="reset"),), False, StreamBroken),
        ((b"fail oops\n",), False, GenerationFailed),
        ((b"gibberish\n",), False, WireMismatch),
        ((), True, Stalled),
    ],
)
async def test_tokens_that_no_delta_had_said_are_booked_when_an_answer_breaks(
    autojump_clock: MockClock, what_comes_next: tuple[Piece, ...], hangs: bool, kind: type[DriverError]
) -> None:
    booked: list[Usage] = []
    await fails(answering(COUNTED, *what_comes_next, hangs=hangs), kind, book=booked.append)
    assert booked == [Usage(input=24, output=1)]


@pytest.mark.parametrize("takes_s", [0, 500])
async def test_tokens_that_no_delta_had_said_are_booked_when_the_turn_is_cancelled(
    autojump_clock: MockClock, takes_s: float
) -> None:
    """Wherever that meets it: it waits for the provider, or for who takes the deltas."""
    booked: list[Usage] = []
    with trio.move_on_after(5):
        await run(answering(COUNTED, hangs=True), listener=Listener(takes_s=takes_s), book=booked.append)
    assert booked == [Usage(input=24, output=1)]


async def test_tokens_are_booked_when_the_listener_fails() -> None:
    booked: list[Usage] = []

    async def emit(delta: Delta) -> None:
        raise LookupError(delta)

    with pytest.raises(LookupError):
        await run_turn(LineDriver(), NoAuth(), TURN, answering(COUNTED), emit, PATIENCE, book=booked.append)
    assert booked == [Usage(input=24, output=1)]


async def test_tokens_that_a_delta_said_are_not_booked_again() -> None:
    booked: list[Usage] = []
    await fails(answering(b"say hello\nusage 24 1\n"), StreamBroken, book=booked.append)
    assert booked == []


async def test_a_later_count_than_the_one_that_a_delta_said_is_booked() -> None:
    booked: list[Usage] = []
    await fails(answering(b"say hello\nusage 24 1\ncount 24 7\n"), StreamBroken, book=booked.append)
    assert booked == [Usage(input=24, output=7)]


@pytest.mark.parametrize("body", [b"say hello\n", b"say hello\ncount 0 0\n"])
async def test_nothing_and_zeros_that_stand_in_for_a_count_are_not_booked(body: bytes) -> None:
    booked: list[Usage] = []
    await fails(answering(body), StreamBroken, book=booked.append)
    assert booked == []


async def test_an_answer_with_a_reply_books_nothing() -> None:
    booked: list[Usage] = []
    reply = await run(answering(b"say hello\ncount 24 1\nend stop\n"), book=booked.append)
    assert (reply.usage, booked) == (Usage(), [])


async def test_a_driver_that_cannot_tell_its_tokens_does_not_hide_the_error(autojump_clock: MockClock) -> None:
    driver = LineDriver(broken="known_usage")
    booked: list[Usage] = []
    await fails(answering(COUNTED), StreamBroken, driver=driver, book=booked.append)
    with trio.move_on_after(1) as scope:
        await run(answering(COUNTED, hangs=True), driver=driver, book=booked.append)
    assert (scope.cancelled_caught, booked) == (True, [])


async def test_timings_count_from_the_call(autojump_clock: MockClock) -> None:
    reply = await run(answering(2.0, b": hm\n", 1.0, b"say hello\n", 4.0, b"end stop\n"))
    assert reply.timings.first_token_s == 3
    assert reply.timings.total_s == 7


async def test_an_answer_without_content_has_no_first_token() -> None:
    reply = await run(answering(b"end stop\n"))
    assert reply.timings.first_token_s is None


@pytest.mark.parametrize("method", ["build_request", "notices", "new_reader", "explain", "close"])
async def test_a_bug_in_a_driver_is_a_wire_mismatch_that_names_it(method: str) -> None:
    status = 500 if method == "explain" else 200
    transport = FakeTransport(Canned(status=status, pieces=ANSWER))
    error = await fails(transport, WireMismatch, driver=LineDriver(broken=method))
    assert "LookupError" in error.what
    assert method in error.what
    assert isinstance(error.__cause__, LookupError)
    assert transport.open_now == 0


async def test_a_bug_in_a_reader_is_a_wire_mismatch_with_what_had_come() -> None:
    error = await fails(answering(b"say hello\n", b"crash\n"), WireMismatch)
    assert error.started
    assert error.partial is not None
    assert error.partial.text == "hello"
    assert error.action.startswith("report this")


async def test_what_the_driver_refuses_is_not_sent() -> None:
    transport = answering(*ANSWER)
    await fails(transport, TurnRefused, driver=LineDriver(refuses=True))
    assert transport.requests == []


async def test_a_missing_key_is_not_sent_for() -> None:
    transport = answering(*ANSWER)
    error = await fails(transport, CredentialsRejected, auth=BadAuth(CredentialsRejected(what="no key")))
    assert transport.requests == []
    assert error.provider == "acme"


async def test_a_bug_in_signing_does_not_show_what_it_was_given() -> None:
    error = await fails(answering(), WireMismatch, auth=BadAuth(ValueError("sk-secret")))
    assert "ValueError" in str(error)
    assert "secret" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


async def test_what_the_listener_raises_passes_through() -> None:
    async def emit(delta: Delta) -> None:
        raise LookupError("the listener's own")

    transport = answering(*ANSWER)
    with pytest.raises(LookupError, match="the listener's own"):
        await run_turn(LineDriver(), NoAuth(), TURN, transport, emit, PATIENCE)
    assert transport.open_now == 0


async def test_what_a_driver_had_read_of_a_whole_answer_stays_on_its_error() -> None:
    partial = assistant("half")
    failed = await fails(FakeTransport(Canned(instead=GenerationFailed(partial=partial))), GenerationFailed)
    assert failed.partial == partial


async def test_fields_that_the_driver_gave_stay() -> None:
    error = Overloaded("other", "busy", model="m-2")
    failed = await fails(FakeTransport(Canned(instead=error)), Overloaded)
    assert (failed.provider, failed.model) == ("other", "m-2")


async def test_request_ids_reach_the_reply() -> None:
    canned = Canned(headers={"x-request-id": "req-7"}, pieces=ANSWER)
    assert (await run(FakeTransport(canned))).request_id == "req-7"


async def test_turns_share_nothing(autojump_clock: MockClock) -> None:
    transport = answering(1.0, *ANSWER)
    replies: list[Reply] = []

    async def one(number: int) -> None:
        turn = replace(TURN, id=str(number))
        replies.append(await run_turn(LineDriver(), NoAuth(), turn, transport, Listener().emit, PATIENCE))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, number)
    assert {reply.id for reply in replies} == {str(number) for number in range(50)}
    assert all(reply.text == "hello world" for reply in replies)

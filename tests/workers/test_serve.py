"""workers/serve.py in virtual time over memory streams: the test is the supervisor, the provider plays scripts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from loopforge.drivers.errors import DriverMissing, StreamBroken, TurnError
from loopforge.drivers.registry import Price, ProviderSettings
from loopforge.drivers.turn import Message, TextDelta, Turn, user
from loopforge.runtime.errors import DeadlineExceeded
from loopforge.workers import serve as serve_module
from loopforge.workers.channel import FLUSH_AFTER_S, Channel
from loopforge.workers.framing import MAX_FRAME_BYTES, Frame, encode
from loopforge.workers.messages import (
    FrameType,
    pack,
    pack_turn,
    unpack_delta,
    unpack_header,
    unpack_message,
    unpack_reply,
)
from loopforge.workers.packing import to_plain
from loopforge.workers.serve import Equipment, ProtocolMismatch, serve
from tests.fakes.provider import FakeProvider
from tests.fakes.streams import WatchedStream, watched_stream_pair

OUTCOMES = {FrameType.DONE, FrameType.ERROR, FrameType.CANCELLED}
SETTINGS = ProviderSettings(
    name="cloud", kind="openai_compatible", prices={"m": Price(input=1.5)}, first_event_timeout_s=9
)


def welcome(protocol: int = 1, settings: ProviderSettings = SETTINGS) -> bytes:
    header = pack({"protocol": protocol, "version": "0.1.0", "pid": 1})
    return encode(FrameType.WELCOME, header=header, body=pack(to_plain(settings)))


@dataclass
class Supervisor:
    """The other half, as small as it can be."""

    channel: Channel
    stream: WatchedStream
    worker: Channel
    seen: list[Frame] = field(default_factory=list)
    returned: trio.Event = field(default_factory=trio.Event)

    def submit(self, number: int, text: str, **assigned: Any) -> None:
        turn = Turn(kind="coding", messages=(user(text),), **assigned.pop("turn", {}))
        self.submit_body(number, pack_turn(turn), **assigned)

    def submit_body(self, number: int, body: bytes, attempt: int = 1, **assigned: Any) -> None:
        header = {
            "id": f"turn-{number}",
            "model": "large",
            "remaining_ms": 60_000,
            "thinking": None,
            "first_event_timeout_s": 30.0,
            "event_gap_timeout_s": 10.0,
            **assigned,
        }
        self.channel.post(encode(FrameType.SUBMIT, number, attempt=attempt, header=pack(header), body=body))

    def cancel(self, number: int, why: str = "") -> None:
        self.channel.post(encode(FrameType.CANCEL, number, header=pack({"why": why}) if why else b""))

    async def read_until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            frames = await self.channel.receive()
            assert frames, "the worker ended early"
            self.seen += frames

    async def outcome(self, number: int) -> Frame:
        await self.read_until(lambda: bool(self.outcomes(number)))
        (frame,) = self.outcomes(number)
        return frame

    async def error(self, number: int) -> tuple[TurnError, Message | None]:
        frame = await self.outcome(number)
        assert frame.type == FrameType.ERROR
        partial = unpack_message(frame.body)
        return TurnError.from_fields(unpack_header(frame.header)["fields"], partial), partial

    async def read_to_the_end(self) -> None:
        while frames := await self.channel.receive():
            self.seen += frames

    def of(self, number: int) -> list[Frame]:
        return [frame for frame in self.seen if frame.turn == number]

    def outcomes(self, number: int) -> list[Frame]:
        return [frame for frame in self.of(number) if frame.type in OUTCOMES]


@asynccontextmanager
async def open_worker(
    open_everything: Callable[[ProviderSettings], AbstractAsyncContextManager[Equipment]],
    drain: trio.Event | None = None,
) -> AsyncIterator[Supervisor]:
    """A worker that has said READY."""
    theirs, ours = watched_stream_pair()
    supervisor = Supervisor(Channel(ours), theirs, Channel(theirs))

    async def work() -> None:
        await serve(supervisor.worker, open_everything=open_everything, drain=drain)
        supervisor.returned.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await nursery.start(supervisor.channel.run)
        supervisor.channel.post(welcome())
        await supervisor.read_until(lambda: bool(supervisor.seen))
        assert supervisor.seen.pop().type == FrameType.READY
        yield supervisor
        await supervisor.channel.aclose()
        with trio.fail_after(5):
            await supervisor.returned.wait()


def kinds(frames: list[Frame]) -> list[str]:
    return [FrameType(frame.type).name for frame in frames]


# -- a turn that is done ---------------------------------------------------------------------------------------------


async def test_a_turn_gives_started_its_deltas_and_done_numbered_in_order(autojump_clock: MockClock) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        supervisor.submit(7, "hi", attempt=3)
        await supervisor.outcome(7)
        frames = supervisor.of(7)
        assert kinds(frames) == ["STARTED", "DELTA", "DELTA", "DELTA", "DELTA", "DELTA", "DONE"]
        assert [(frame.attempt, frame.seq) for frame in frames] == [(3, seq) for seq in range(7)]
        assert unpack_header(frames[0].header) == {"provider": "cloud", "model": "large"}
        assert [unpack_delta(frame.body) for frame in frames[1:3]] == [TextDelta("hello"), TextDelta(" world")]


async def test_done_says_in_its_header_what_the_supervisor_keeps_books_on(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"hi": (1.0, "say a", 2.0, "call tool", "end")}, notices=("no thinking here",))
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "hi")
        done = await supervisor.outcome(1)
        header = unpack_header(done.header)
        assert header.pop("request_id") == "r" * 2000  # a provider's text is clipped to what a header bears
        assert header.pop("timings") == {"first_token_s": pytest.approx(1), "total_s": pytest.approx(3)}
        assert header == {
            "finish": "tool_calls",
            "usage": {"input": 7, "output": 3},
            "model_reported": "reported",
            "limits": {},
            "has_tool_calls": True,
        }
        reply = unpack_reply(done.body)
        assert (reply.id, reply.provider, reply.model, reply.text) == ("turn-1", "cloud", "large", "a")
        assert reply.warnings == ("no thinking here",)
        assert reply.tool_calls[0].name == "tool"


async def test_what_the_router_decided_is_in_the_turn_that_the_driver_sees(autojump_clock: MockClock) -> None:
    provider = FakeProvider()
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "a", turn={"provider": "asked", "model": "asked"}, model="routed", id="chosen")
        await supervisor.outcome(1)
        (turn,) = provider.requests
        assert (turn.provider, turn.model, turn.id) == ("cloud", "routed", "chosen")
        assert provider.settings == [SETTINGS]


@pytest.mark.parametrize(
    ("asked", "routed", "used"),
    [(None, "low", "low"), ("off", "high", "off"), (0, "high", 0), (2000, None, 2000), (None, None, None)],
)
async def test_the_routes_thinking_applies_when_the_turn_has_none(
    autojump_clock: MockClock, asked: object, routed: object, used: object
) -> None:
    provider = FakeProvider()
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "a", turn={"thinking": asked}, thinking=routed)
        await supervisor.outcome(1)
        assert provider.requests[0].thinking == used


async def test_all_of_a_short_turn_leaves_in_one_send(autojump_clock: MockClock) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        sends = len(supervisor.stream.sends)
        supervisor.submit(1, "hi")
        await supervisor.outcome(1)
        assert len(supervisor.stream.sends) == sends + 1


async def test_deltas_leave_when_their_window_ends(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"hi": (1.0, "say a", "say b", 1.0, "say c", FLUSH_AFTER_S / 2, "say d", 1.0, "end")})
    async with open_worker(provider.open_everything) as supervisor:
        sends = len(supervisor.stream.sends)
        start = trio.current_time()
        supervisor.submit(1, "hi")
        await supervisor.outcome(1)
        times = [at - start for at, _ in supervisor.stream.sends[sends:]]
        window = FLUSH_AFTER_S
        assert times == pytest.approx([window, 1 + window, 2 + window, 3 + window / 2])


async def test_turns_run_side_by_side(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"slow": (50.0, "say late", "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "slow", first_event_timeout_s=100.0)
        start = trio.current_time()
        for number in range(2, 40):
            supervisor.submit(number, "quick")
        for number in range(2, 40):
            assert (await supervisor.outcome(number)).type == FrameType.DONE
        assert trio.current_time() - start < 1
        assert provider.open_now == 1
        assert (await supervisor.outcome(1)).type == FrameType.DONE


# -- a turn that is not ----------------------------------------------------------------------------------------------


async def test_a_driver_error_crosses_with_its_fields_and_what_had_come(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"hi": ("say half", StreamBroken("", raw="cut"))})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "hi")
        error, partial = await supervisor.error(1)
        assert (type(error), error.provider, error.model, error.raw) == (StreamBroken, "cloud", "large", "cut")
        assert error.started
        assert partial is not None
        assert partial.text == "half"


async def test_an_error_before_the_first_event_says_that_nothing_had_started(autojump_clock: MockClock) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        supervisor.submit(1, "429 12.5")
        error, partial = await supervisor.error(1)
        assert (error.retry_after_s, error.started, partial) == (12.5, False, None)
        assert kinds(supervisor.of(1)) == ["STARTED", "ERROR"]


async def test_a_deadline_ends_the_turn_with_what_had_come_and_hangs_up_on_the_provider(
    autojump_clock: MockClock,
) -> None:
    provider = FakeProvider({"hi": ("say half", 9.0, "say never", "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "hi", remaining_ms=2500)
        start = trio.current_time()
        error, partial = await supervisor.error(1)
        assert trio.current_time() - start == pytest.approx(2.5)
        assert isinstance(error, DeadlineExceeded)
        assert (error.provider, error.model, error.started, error.scope) == ("cloud", "large", True, "turn")
        assert error.action == DeadlineExceeded.default_action
        assert partial is not None
        assert partial.text == "half"
        assert provider.hung_up == ["hi"]


@pytest.mark.parametrize(("script", "name"), [((40.0,), "ProviderUnavailable"), (("say a", 15.0), "Stalled")])
async def test_the_watchdogs_of_the_route_apply(autojump_clock: MockClock, script: tuple[Any, ...], name: str) -> None:
    async with open_worker(FakeProvider({"hi": script}).open_everything) as supervisor:
        supervisor.submit(1, "hi")
        error, _ = await supervisor.error(1)
        assert type(error).__name__ == name


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"\xc1", "not msgpack"),
        (pack([1]), "write an object here"),
        (pack({"kind": "coding"}), "the member 'messages' is missing"),
        (pack({"kind": "coding", "messages": [{"role": "usr"}]}), r"messages\[0\].role.*did you mean 'user'"),
    ],
)
async def test_a_malformed_turn_is_refused_naming_the_place(autojump_clock: MockClock, body: bytes, place: str) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        supervisor.submit_body(1, body)
        error, _ = await supervisor.error(1)
        assert type(error).__name__ == "TurnRefused"
        with pytest.raises(TurnError, match=place):
            raise error


@pytest.mark.parametrize("header", [b"", b"\xc1", pack({"id": "x"}), pack([])])
async def test_a_malformed_assignment_is_refused_too(autojump_clock: MockClock, header: bytes) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        supervisor.channel.post(encode(FrameType.SUBMIT, 1, attempt=1, header=header, body=b""))
        error, _ = await supervisor.error(1)
        assert type(error).__name__ == "TurnRefused"
        assert kinds(supervisor.of(1)) == ["ERROR"]


async def test_a_bug_of_ours_fails_its_turn_alone(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeProvider):
        def script(self, text: str) -> Any:
            return None if text == "hi" else super().script(text)

    provider = Broken({"bug": ("say a", "bug"), "late": ("say a", TypeError())})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "bug")  # in the driver
        supervisor.submit(2, "hi")  # in the transport
        supervisor.submit(3, "late")
        supervisor.submit(4, "fine")
        assert (await supervisor.outcome(4)).type == FrameType.DONE
        for number, come in ((1, "a"), (2, ""), (3, "a")):
            error, partial = await supervisor.error(number)
            assert type(error).__name__ == "WireMismatch"
            assert "report this as a bug" in error.action
            assert error.started is bool(come)
            assert (partial.text if partial else "") == come
        assert "ZeroDivisionError" in caplog.text
        assert "TypeError" in caplog.text


async def test_a_part_that_no_frame_can_carry_fails_the_turn_and_not_the_channel(autojump_clock: MockClock) -> None:
    provider = FakeProvider({
        "one": (f"huge {MAX_FRAME_BYTES}", "end"),
        "many": (*(f"huge {MAX_FRAME_BYTES // 3}",) * 4, "end"),
    })  # fmt: skip
    async with open_worker(provider.open_everything) as supervisor:
        for number, text in enumerate(("one", "many")):
            supervisor.submit(number, text)
            error, partial = await supervisor.error(number)
            assert type(error).__name__ == "WireMismatch"
            assert "more than a channel carries" in error.what
            assert partial is None
        supervisor.submit(3, "fine")
        assert (await supervisor.outcome(3)).type == FrameType.DONE


async def test_a_provider_without_a_driver_answers_each_turn_with_that_error(autojump_clock: MockClock) -> None:
    class Nothing(AbstractAsyncContextManager[Equipment]):
        async def __aenter__(self) -> Equipment:
            raise DriverMissing(SETTINGS.name, "there is no driver")

        async def __aexit__(self, *exc: object) -> None: ...

    async with open_worker(lambda _settings: Nothing()) as supervisor:
        for number in (1, 2):
            supervisor.submit(number, "hi")
            error, _ = await supervisor.error(number)
            assert (type(error), error.provider) == (DriverMissing, "cloud")


# -- cancel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["the client left", ""])
async def test_cancel_ends_the_turn_and_hangs_up_on_the_provider(autojump_clock: MockClock, why: str) -> None:
    provider = FakeProvider({"hi": ("say half", 9.0, "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "hi")
        await supervisor.read_until(lambda: len(supervisor.of(1)) == 2)
        supervisor.cancel(1, why)
        outcome = await supervisor.outcome(1)
        assert (outcome.type, outcome.attempt, outcome.seq) == (FrameType.CANCELLED, 1, 2)
        assert outcome.header == (pack({"why": why}) if why else b"")
        assert (provider.hung_up, provider.open_now) == (["hi"], 0)


async def test_cancel_in_the_same_batch_as_its_submit_is_not_missed(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"hi": (9.0, "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "hi")
        supervisor.cancel(1)
        assert (await supervisor.outcome(1)).type == FrameType.CANCELLED
        assert provider.open_now == 0


async def test_cancel_of_a_turn_nobody_knows_is_ignored(autojump_clock: MockClock) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        supervisor.cancel(99)
        supervisor.submit(1, "hi")
        await supervisor.outcome(1)
        supervisor.cancel(1)
        supervisor.channel.post(encode(FrameType.CANCEL, 1, header=b"\xc1"))
        supervisor.submit(1, "hi again", attempt=2)  # a number is free again once its outcome left
        await supervisor.read_until(lambda: len(supervisor.outcomes(1)) == 2)
        assert kinds(supervisor.outcomes(1)) == ["DONE", "DONE"]
        assert supervisor.of(99) == []


@pytest.mark.parametrize("ticks", range(40))
async def test_each_submit_has_one_outcome_wherever_a_cancel_falls(autojump_clock: MockClock, ticks: int) -> None:
    provider = FakeProvider({"hi": ("say a", "say b", "call c", "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "hi")
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        supervisor.cancel(1)
        supervisor.submit(2, "after")
        await supervisor.outcome(2)
        await supervisor.outcome(1)
        await trio.sleep(1)
        supervisor.channel.post(encode(FrameType.DRAIN))
        await supervisor.read_to_the_end()
        for number in (1, 2):
            frames = supervisor.of(number)
            assert [frame.seq for frame in frames] in (list(range(len(frames))), [1])
            assert [frame.type in OUTCOMES for frame in frames] == [False] * (len(frames) - 1) + [True]
        assert provider.open_now == 0


async def test_a_second_submit_of_a_running_number_does_not_end_the_first(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_worker(FakeProvider({"hi": (1.0, "end")}).open_everything) as supervisor:
        supervisor.submit(1, "hi")
        supervisor.submit(1, "other")
        await supervisor.outcome(1)
        await trio.sleep(1)
        assert "second SUBMIT of turn number 1" in caplog.text


# -- the process's own frames ----------------------------------------------------------------------------------------


async def test_a_ping_is_answered_at_once_with_what_the_worker_uses(autojump_clock: MockClock) -> None:
    async with open_worker(FakeProvider({"hi": (9.0, "end")}).open_everything) as supervisor:
        supervisor.submit(1, "hi")
        start = trio.current_time()
        supervisor.channel.post(encode(FrameType.PING, seq=42))
        await supervisor.read_until(lambda: any(frame.type == FrameType.PONG for frame in supervisor.seen))
        assert trio.current_time() == start
        (pong,) = [frame for frame in supervisor.seen if frame.type == FrameType.PONG]
        header = unpack_header(pong.header)
        assert pong.seq == 42
        assert (header["running"], header["lag_s"]) == (1, 0.0)
        assert header["rss_bytes"] > 5_000_000
        assert header["cpu_s"] > 0


async def test_a_pong_tells_the_longest_lag_since_the_last_one(mock_clock: MockClock) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        mock_clock.jump(10)  # as if something had blocked the loop
        await wait_all_tasks_blocked()
        lags = []
        for _ in range(2):
            supervisor.seen.clear()
            supervisor.channel.post(encode(FrameType.PING))
            await supervisor.read_until(lambda: bool(supervisor.seen))
            lags.append(unpack_header(supervisor.seen[0].header)["lag_s"])
        assert lags == pytest.approx([10 - serve_module.LAG_EVERY_S, 0])


async def test_frames_of_unknown_type_are_ignored_with_a_line_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with open_worker(FakeProvider().open_everything) as supervisor:
        supervisor.channel.post(encode(60, 5, body=b"from the future"))
        supervisor.channel.post(encode(FrameType.ATTACH, 5))
        supervisor.submit(1, "hi")
        assert (await supervisor.outcome(1)).type == FrameType.DONE
        assert "unknown type 60" in caplog.text
        assert "future" not in caplog.text


@pytest.mark.parametrize("by", ["frame", "event"])
async def test_drain_finishes_what_runs_and_then_the_worker_ends(autojump_clock: MockClock, by: str) -> None:
    drain = trio.Event()
    provider = FakeProvider({"slow": ("say a", 5.0, "end")})
    async with open_worker(provider.open_everything, drain) as supervisor:
        supervisor.submit(1, "slow")
        await supervisor.read_until(lambda: len(supervisor.of(1)) == 2)
        if by == "frame":
            supervisor.channel.post(encode(FrameType.DRAIN))
        else:
            drain.set()
        await wait_all_tasks_blocked()
        supervisor.submit(2, "too late")
        error, _ = await supervisor.error(2)
        assert (type(error).__name__, error.what) == ("WorkerLost", "the provider's worker is stopping")
        assert (await supervisor.outcome(1)).type == FrameType.DONE
        await supervisor.read_to_the_end()
        await supervisor.returned.wait()
        assert provider.closed


async def test_drain_of_an_idle_worker_ends_it_at_once(autojump_clock: MockClock) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        start = trio.current_time()
        supervisor.channel.post(encode(FrameType.DRAIN))
        await supervisor.read_to_the_end()
        assert trio.current_time() == start


async def test_the_end_of_the_channel_stops_everything_at_once(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"hi": ("say a", 900.0, "end")})
    async with open_worker(provider.open_everything) as supervisor:
        for number in range(5):
            supervisor.submit(number, "hi", remaining_ms=10_000_000, event_gap_timeout_s=1000.0)
        await supervisor.read_until(lambda: len(supervisor.seen) == 10)
        start = trio.current_time()
        await supervisor.channel.aclose()
        await supervisor.returned.wait()
        assert trio.current_time() == start
        assert provider.hung_up == ["hi"] * 5
        assert provider.closed


@pytest.mark.parametrize("ticks", range(40))
async def test_the_channel_may_end_at_any_moment_of_a_turn(autojump_clock: MockClock, ticks: int) -> None:
    provider = FakeProvider({"hi": ("say a", "say b", "call c", "end")})
    async with open_worker(provider.open_everything) as supervisor:
        for number in range(1, 4):
            supervisor.submit(number, "hi")
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        await supervisor.channel.aclose()
        await supervisor.returned.wait()
        assert provider.open_now == 0


@pytest.mark.parametrize("_", range(20))
async def test_a_turn_that_goes_on_in_the_very_tick_of_the_end_has_nobody_to_tell(
    autojump_clock: MockClock, _: int
) -> None:
    go_on = trio.Event()
    async with open_worker(FakeProvider({"hi": (go_on, "end")}).open_everything) as supervisor:
        supervisor.submit(1, "hi")
        await wait_all_tasks_blocked()
        go_on.set()
        await supervisor.channel.aclose()
        await supervisor.returned.wait()


async def test_bytes_that_are_no_frames_end_the_worker_with_a_line_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = watched_stream_pair()
    async with trio.open_nursery() as nursery:
        provider = FakeProvider()
        nursery.start_soon(lambda: serve(Channel(theirs), open_everything=provider.open_everything))
        await ours.send_all(welcome() + b"GET / HTTP/1.1\r\n\r\n")
    assert "this is HTTP" in caplog.text
    await ours.aclose()


# -- welcome ---------------------------------------------------------------------------------------------------------


async def serve_after(first_bytes: bytes) -> None:
    theirs, ours = watched_stream_pair()
    await ours.send_all(first_bytes)
    await ours.aclose()
    await serve(Channel(theirs), open_everything=FakeProvider().open_everything)


async def test_another_protocol_is_refused() -> None:
    with pytest.raises(ProtocolMismatch, match="speaks protocol 2, this worker 1"):
        await serve_after(welcome(protocol=2))


@pytest.mark.parametrize("body", [b"\xc1", pack({"name": "x"}), pack({"name": "x", "kind": "gemini", "new": 1})])
async def test_settings_that_this_version_cannot_read_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolMismatch, match="settings cannot be read"):
        await serve_after(encode(FrameType.WELCOME, header=pack({"protocol": 1}), body=body))


@pytest.mark.parametrize("first", [b"", welcome()[:30], encode(FrameType.PING), welcome()])
async def test_a_supervisor_that_goes_away_early_ends_the_worker_quietly(first: bytes) -> None:
    await serve_after(first)


async def test_what_comes_in_one_batch_with_welcome_is_not_lost(autojump_clock: MockClock) -> None:
    theirs, ours = watched_stream_pair()
    supervisor = Supervisor(Channel(ours), theirs, Channel(theirs))
    async with trio.open_nursery() as nursery:
        provider = FakeProvider()
        nursery.start_soon(lambda: serve(supervisor.worker, open_everything=provider.open_everything))
        await nursery.start(supervisor.channel.run)
        supervisor.channel.post(welcome())
        supervisor.submit(1, "hi")
        assert (await supervisor.outcome(1)).type == FrameType.DONE
        await supervisor.channel.aclose()


# -- a supervisor that does not read ---------------------------------------------------------------------------------


async def test_a_supervisor_that_does_not_read_stops_the_turns_instead_of_filling_memory(
    autojump_clock: MockClock,
) -> None:
    provider = FakeProvider({"hi": (*("flood 500",) * 20, "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.stream.block()
        for number in range(1, 6):
            supervisor.submit(number, "hi")
        await trio.sleep(5)
        assert serve_module.ROOM_BYTES < supervisor.worker.buffered_bytes < serve_module.ROOM_BYTES + 1000
        supervisor.channel.post(encode(FrameType.PING))  # is read, and its answer waits in line
        supervisor.stream.open.set()
        for number in range(1, 6):
            await supervisor.outcome(number)
            frames = supervisor.of(number)
            assert [frame.seq for frame in frames] == list(range(10_000 + 5))
            assert frames[-1].type == FrameType.DONE


async def test_outcomes_wait_for_room_too_one_by_one(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"hi": ("huge 100000", 100.0, "end")})
    turns = range(1, 41)
    async with open_worker(provider.open_everything) as supervisor:
        for number in turns:
            supervisor.submit(number, "hi", remaining_ms=5000, event_gap_timeout_s=200.0)
        await supervisor.read_until(lambda: all(len(supervisor.of(turn)) == 2 for turn in turns))
        supervisor.stream.block()
        await trio.sleep(10)  # all end at once, each with what had come
        assert serve_module.ROOM_BYTES < supervisor.worker.buffered_bytes < serve_module.ROOM_BYTES + 110_000
        supervisor.stream.open.set()
        for number in turns:
            error, partial = await supervisor.error(number)
            assert isinstance(error, DeadlineExceeded)
            assert partial is not None
            assert len(partial.text) == 100_000


async def test_a_turn_that_waits_for_room_can_still_be_cancelled(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"hi": (*("flood 500",) * 200, "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.stream.block()
        supervisor.submit(1, "hi")
        await trio.sleep(1)
        supervisor.cancel(1)
        await trio.sleep(1)
        assert provider.open_now == 0
        supervisor.stream.open.set()
        assert (await supervisor.outcome(1)).type == FrameType.CANCELLED

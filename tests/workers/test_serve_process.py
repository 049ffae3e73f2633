"""workers/serve.py: what a worker says of itself, how it ends, and how it greets; in virtual time."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from loopforge.runtime.errors import DeadlineExceeded
from loopforge.workers import serve as serve_module
from loopforge.workers.channel import Channel
from loopforge.workers.framing import encode
from loopforge.workers.messages import (
    FrameType,
    pack,
    unpack_header,
)
from loopforge.workers.serve import ProtocolMismatch, serve
from tests.fakes.provider import FakeProvider
from tests.fakes.streams import watched_stream_pair
from tests.workers.serving import Supervisor, open_worker, welcome

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

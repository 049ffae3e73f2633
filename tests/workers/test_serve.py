"""workers/serve.py in virtual time over memory streams: the test is the supervisor, the provider plays scripts."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import DriverMissing, StreamBroken, TurnError
from loopforge.drivers.turn import TextDelta
from loopforge.runtime.errors import DeadlineExceeded
from loopforge.workers.channel import FLUSH_AFTER_S
from loopforge.workers.framing import MAX_FRAME_BYTES, encode
from loopforge.workers.messages import (
    FrameType,
    pack,
    unpack_delta,
    unpack_header,
    unpack_reply,
)
from loopforge.workers.serve import Equipment
from tests.fakes.provider import FakeProvider
from tests.workers.serving import OUTCOMES, SETTINGS, kinds, open_worker

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
    ("step", "name"),
    [(StreamBroken(""), "StreamBroken"), (15.0, "Stalled"), ("bug", "WireMismatch"), (9.0, "Deadline")],
)
async def test_an_error_says_the_tokens_that_the_provider_had_counted_by_then(
    autojump_clock: MockClock, step: Any, name: str
) -> None:
    async with open_worker(FakeProvider({"hi": ("count 24 1", "say half", step)}).open_everything) as supervisor:
        supervisor.submit(1, "hi", remaining_ms=2500 if name == "Deadline" else 60_000)
        outcome = await supervisor.outcome(1)
        assert kinds(supervisor.of(1)) == ["STARTED", "DELTA", "ERROR"]
        header = unpack_header(outcome.header)
        assert header["fields"]["class"].startswith(name)
        assert header["usage"] == {"input": 24, "output": 1}


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


async def test_a_cancelled_turn_says_the_tokens_that_the_provider_had_counted_by_then(
    autojump_clock: MockClock,
) -> None:
    provider = FakeProvider({"hi": ("count 24 1", "say half", 9.0, "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "hi")
        await supervisor.read_until(lambda: len(supervisor.of(1)) == 2)
        supervisor.cancel(1)
        outcome = await supervisor.outcome(1)
        assert outcome.type == FrameType.CANCELLED
        assert unpack_header(outcome.header) == {"usage": {"input": 24, "output": 1}}


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

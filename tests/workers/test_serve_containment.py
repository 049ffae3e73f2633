"""What goes wrong with one turn, or with the machine, costs neither the worker nor the turns beside it."""

from __future__ import annotations

from trio.testing import MockClock

from loopforge.drivers.errors import GenerationFailed, WireMismatch
from loopforge.workers.framing import encode
from loopforge.workers.messages import FrameType, unpack_header
from tests.fakes.descriptors import no_free_descriptors
from tests.fakes.provider import FakeProvider
from tests.workers.serving import open_worker


async def test_a_ping_is_answered_when_no_descriptor_is_free(autojump_clock: MockClock) -> None:
    async with open_worker(FakeProvider().open_everything) as supervisor:
        with no_free_descriptors():
            supervisor.channel.post(encode(FrameType.PING, seq=3))
            await supervisor.read_until(lambda: bool(supervisor.seen))
        (pong,) = supervisor.seen
        assert (pong.type, pong.seq, unpack_header(pong.header)["rss_bytes"]) == (FrameType.PONG, 3, 0)


async def test_a_text_that_no_frame_can_hold_fails_its_turn_alone(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"odd": ("say good", "half", "end")})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "odd")
        supervisor.submit(2, "hi")
        error, partial = await supervisor.error(1)
        assert isinstance(error, WireMismatch)
        assert partial is not None
        assert partial.text == "good"
        assert (await supervisor.outcome(2)).type == FrameType.DONE


async def test_an_error_with_such_a_text_is_told_all_the_same(autojump_clock: MockClock) -> None:
    provider = FakeProvider({"odd": (GenerationFailed("cloud", "it said \ud800", raw="\udfff"),)})
    async with open_worker(provider.open_everything) as supervisor:
        supervisor.submit(1, "odd")
        error, _ = await supervisor.error(1)
        assert isinstance(error, GenerationFailed)
        assert error.what == "it said ?"

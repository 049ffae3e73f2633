"""When a worker asks its server for slots, and what its supervisor hears: in virtual time, over memory streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.auth import NoKey
from loopforge.drivers.errors import CredentialsRejected, DriverMissing, ProviderUnavailable, TurnError
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.slots import ASK_S
from loopforge.drivers.wire import HttpRequest
from loopforge.workers.framing import encode
from loopforge.workers.messages import FrameType, unpack_header
from loopforge.workers.serve import Equipment
from loopforge.workers.slots_watch import SlotsWatch
from tests.fakes.line_driver import LineDriver
from tests.fakes.transport import SILENCE, Canned, FakeTransport
from tests.workers.serving import SETTINGS, Supervisor, open_worker

LOCAL = replace(SETTINGS, base_url="http://127.0.0.1:8080/v1", vendor="llamacpp", adaptive=True)
AWAY = Canned(instead=ProviderUnavailable("cloud", "refuses the connection"))
TURN_DONE = Canned(pieces=(b"say hello\nend stop\n",))
LOADING = Canned(status=503)


def says(slots: int) -> Canned:
    return Canned(pieces=(b'{"total_slots": %d}' % slots,))


@dataclass
class Server:
    """What it answers now: to turns, and to the question for its slots. `asked`: how often that was put."""

    about_slots: Canned = field(default_factory=lambda: says(4))
    to_turns: Canned = TURN_DONE
    asked: int = 0

    def answer(self, request: HttpRequest) -> Canned:
        if request.method != "GET":
            return self.to_turns
        self.asked += 1
        return self.about_slots

    @asynccontextmanager
    async def open_everything(self, settings: ProviderSettings) -> AsyncIterator[Equipment]:
        assert settings == LOCAL
        yield Equipment(LineDriver(), NoKey(), FakeTransport(self.answer))


a_worker = partial(open_worker, settings=LOCAL)


async def pong(supervisor: Supervisor) -> dict[str, Any]:
    """What the worker tells of itself when it is asked."""
    supervisor.channel.post(encode(FrameType.PING, seq=77))
    await supervisor.read_until(lambda: any(frame.seq == 77 for frame in supervisor.seen))
    (frame,) = [frame for frame in supervisor.seen if frame.seq == 77]
    supervisor.seen.clear()
    return unpack_header(frame.header)


async def a_turn(supervisor: Supervisor, number: int) -> FrameType:
    supervisor.submit(number, "hi")
    return FrameType((await supervisor.outcome(number)).type)


async def test_the_supervisor_hears_of_the_slots_without_asking_and_in_every_pong(autojump_clock: MockClock) -> None:
    server = Server()
    async with a_worker(server.open_everything) as supervisor:
        await supervisor.read_until(lambda: bool(supervisor.seen))
        (news,) = supervisor.seen
        assert (news.type, unpack_header(news.header)["slots"]) == (FrameType.PONG, 4)
        supervisor.seen.clear()
        assert (await pong(supervisor))["slots"] == 4
        await a_turn(supervisor, 1)
        await trio.sleep(60)
        assert server.asked == 1


async def test_neither_ready_nor_the_first_turn_waits_for_the_answer(autojump_clock: MockClock) -> None:
    server, start = Server(about_slots=SILENCE), trio.current_time()
    async with a_worker(server.open_everything) as supervisor:  # it is READY here
        assert await a_turn(supervisor, 1) is FrameType.DONE
        assert trio.current_time() - start < ASK_S / 2
        assert "slots" not in await pong(supervisor)


async def test_a_server_that_was_loading_its_model_is_asked_once_more_when_a_turn_is_done(
    autojump_clock: MockClock,
) -> None:
    server = Server(about_slots=LOADING)
    async with a_worker(server.open_everything) as supervisor:
        await trio.sleep(60)
        assert server.asked == 1
        for number in (1, 2, 3):
            await a_turn(supervisor, number)
            await trio.sleep(1)
        assert server.asked == 2
        assert "slots" not in await pong(supervisor)


async def test_a_server_that_came_back_is_asked_again(autojump_clock: MockClock) -> None:
    server = Server()
    async with a_worker(server.open_everything) as supervisor:
        await trio.sleep(1)
        server.about_slots = server.to_turns = AWAY
        assert await a_turn(supervisor, 1) is FrameType.ERROR
        await trio.sleep(60)
        assert (server.asked, (await pong(supervisor))["slots"]) == (1, 4)
        server.about_slots, server.to_turns = says(2), TURN_DONE
        assert await a_turn(supervisor, 2) is FrameType.DONE
        await trio.sleep(1)
        assert (server.asked, (await pong(supervisor))["slots"]) == (2, 2)
        await a_turn(supervisor, 3)
        await trio.sleep(1)
        assert server.asked == 2


async def test_what_was_told_stays_when_the_server_tells_nothing_later(autojump_clock: MockClock) -> None:
    server = Server()
    async with a_worker(server.open_everything) as supervisor:
        await trio.sleep(1)
        server.about_slots, server.to_turns = LOADING, AWAY
        await a_turn(supervisor, 1)
        server.to_turns = TURN_DONE
        await a_turn(supervisor, 2)
        await trio.sleep(1)
        assert (server.asked, (await pong(supervisor))["slots"]) == (2, 4)


async def test_a_worker_without_equipment_asks_nobody(autojump_clock: MockClock) -> None:
    class Nothing:
        async def __aenter__(self) -> Equipment:
            raise DriverMissing(LOCAL.name, "there is no driver")

        async def __aexit__(self, *exc: object) -> None: ...

    async with a_worker(lambda _settings: Nothing()) as supervisor:
        assert await a_turn(supervisor, 1) is FrameType.ERROR
        assert "slots" not in await pong(supervisor)


@pytest.mark.parametrize(
    ("error", "times"), [(ProviderUnavailable("local", "gone"), 2), (CredentialsRejected("local", "wrong key"), 1)]
)
async def test_a_failure_during_the_first_question_is_not_forgotten(
    autojump_clock: MockClock, error: TurnError, times: int
) -> None:
    asked: list[float] = []

    async def ask() -> int:
        asked.append(trio.current_time())
        await trio.sleep(2)
        return 4

    watch = SlotsWatch(ask, lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(1)
        watch.turn_failed(error)
        await trio.sleep(5)
        watch.turn_done()
        await trio.sleep(5)
        assert len(asked) == times
        nursery.cancel_scope.cancel()

"""The suite of transports: the fake one of other tests, and the real one against the simulator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from loopforge.drivers.errors import ProviderUnavailable, StreamBroken
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from loopforge.drivers.transport import open_transport
from loopforge.drivers.wire import HttpRequest, Transport
from tests.fakes.transport import SILENCE, Canned, FakeTransport
from tests.suites.transport import TransportSuite, World

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
ANSWER = json.dumps({"choices": [{"message": {"content": "hello"}}]}).encode()
STREAM = (b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n")


def play(request: HttpRequest) -> Canned:
    asked = json.loads(request.body)
    headers = EVENTS if asked["stream"] else JSON
    half = (STREAM[0],) if asked["stream"] else (ANSWER[:10],)
    match asked["model"]:
        case "fault-429":
            return Canned(status=429, headers=JSON | {"retry-after": "1"}, pieces=[b'{"code":"rate_limit_exceeded"}'])
        case "fault-silence":
            return SILENCE
        case "fault-reset":
            return Canned(instead=ProviderUnavailable())
        case "fault-cut" | "fault-reset-midway":
            return Canned(headers=headers, pieces=[*half, StreamBroken()])
        case "fault-stall":
            return Canned(headers=headers, pieces=half, hangs=True)
        case "fault-huge":
            return Canned(headers=headers, pieces=[bytes(65536)] * 1000)
    return Canned(headers=headers, pieces=STREAM if asked["stream"] else [ANSWER])


class FakeWorld(World):
    def __init__(self) -> None:
        self.transport = self.fake = FakeTransport(play)

    async def wait_asked(self) -> None:
        while not self.fake.requests:
            await trio.lowlevel.checkpoint()

    async def wait_left(self) -> None:
        with trio.fail_after(5):
            while self.fake.open_now or not self.was_left():
                await trio.lowlevel.checkpoint()

    def was_left(self) -> bool:
        return self.fake.left > 0


class RealWorld(World):
    def __init__(self, transport: Transport, simulator: Simulator) -> None:
        self.transport = transport
        self.simulator = simulator
        self.url = simulator.base_url("acme")

    async def wait_asked(self) -> None:
        await self.simulator.stats.wait(lambda stats: stats.active == 1)

    async def wait_left(self) -> None:
        with trio.fail_after(5):
            await self.simulator.stats.wait(lambda stats: stats.cancelled == 1 and stats.open_connections == 0)

    def was_left(self) -> bool:
        return self.simulator.stats.cancelled > 0


class TestFakeTransport(TransportSuite):
    @asynccontextmanager
    async def open_world(self) -> AsyncIterator[World]:
        yield FakeWorld()


class TestHttpTransport(TransportSuite):
    @asynccontextmanager
    async def open_world(self) -> AsyncIterator[World]:
        quick = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=20, tokens_per_send=1)
        async with open_simulator({"acme": quick}) as simulator:
            settings = ProviderSettings(name="acme", kind="openai_compatible", base_url=simulator.base_url("acme"))
            async with open_transport(settings) as transport:
                yield RealWorld(transport, simulator)

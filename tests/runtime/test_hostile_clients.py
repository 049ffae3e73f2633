"""Clients of somebody else's making: whatever they send costs them an answer or their connection, and nobody else."""

from __future__ import annotations

import math
import socket
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from loopforge.runtime.client import Runtime
from loopforge.runtime.dispatch import Dispatcher
from loopforge.runtime.listener import serve_client
from loopforge.workers.channel import Channel
from loopforge.workers.framing import Frame, encode
from loopforge.workers.messages import PROTOCOL, FrameType, body_hash, pack, pack_turn, unpack_header
from tests.fakes.descriptors import no_free_descriptors
from tests.fakes.worker import Die, FakeWorkers, Finish, Say, Wait
from tests.runtime.core import Core, config, open_core, provider, turn

LONG = "\x00" * 60_000  # written out, each of these is four characters


def a_submit(**changes: Any) -> tuple[bytes, bytes]:
    body = pack_turn(turn("t1"))
    header: dict[str, Any] = {
        "id": "t1", "hash": body_hash(body), "kind": "planning", "session": "", "lane": "", "remaining_ms": None,
        "features": [], "size": 1, "provider": "", "model": "", "detached": False, "resend_safe": True,
    }  # fmt: skip
    return pack(header | changes), body


class Stranger:
    """A greeted connection that sends frames of its own making."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def ask(self, kind: int, header: bytes, body: bytes = b"", number: int = 1) -> Frame | None:
        """The first frame that comes back; None when the connection ends instead."""
        self.channel.post(encode(kind, number, header=header, body=body))
        frames = await self.channel.receive()
        return frames[0] if frames else None

    async def is_answered(self) -> None:
        """The connection still serves."""
        self.channel.post(encode(FrameType.PING, 2**40))
        while frames := await self.channel.receive():
            if any(frame.turn == 2**40 for frame in frames):
                return
        raise AssertionError("the service hung up")


async def a_stranger(core: Core, nursery: trio.Nursery) -> Stranger:
    ours, theirs = socket.socketpair()
    nursery.start_soon(serve_client, theirs, core.supervisor.dispatcher)
    channel = Channel(ours)
    nursery.start_soon(channel.run)
    hello = {"protocol": PROTOCOL, "version": "0", "pid": 1}
    channel.post(encode(FrameType.HELLO, header=pack(hello)))
    (welcome,) = await channel.receive()
    assert welcome.type == FrameType.WELCOME
    return Stranger(channel)


SUBMITS = {
    "a name as long as a header": {"model": LONG[:50_000]},
    "an unknown lane as long as a header": {"lane": LONG[:50_000]},
    "a deadline in a billion years": {"remaining_ms": 2**64 - 1},
    "a deadline long past": {"remaining_ms": -(2**63)},
    "a kind as long as a header": {"kind": LONG[:50_000]},
    "a provider as long as a header": {"provider": LONG[:50_000]},
}


@pytest.mark.parametrize("changes", SUBMITS.values(), ids=SUBMITS.keys())
async def test_a_turn_with_odd_words_is_answered_and_others_go_on(changes: dict[str, Any]) -> None:
    async with open_core() as core, trio.open_nursery() as nursery:
        stranger = await a_stranger(core, nursery)
        header, body = a_submit(**changes)
        assert await stranger.ask(FrameType.SUBMIT, header, body) is not None
        await _all_is_well(core, nursery, stranger)


async def test_a_turn_whose_model_fills_a_header_leaves_no_trace_when_its_worker_dies(
    autojump_clock: MockClock,
) -> None:
    workers = FakeWorkers(default=(Say("x"), Wait(0.1), Die()))
    async with open_core(config(provider("local")), workers) as core, trio.open_nursery() as nursery:
        stranger = await a_stranger(core, nursery)
        room = 65_535 - len(a_submit(provider="local")[0]) - 2  # a text this long has two more bytes of length
        header, body = a_submit(model="m" * room, provider="local")
        assert await stranger.ask(FrameType.SUBMIT, header, body) is not None
        await trio.sleep(1)
        workers.default = (Say("hello"), Finish())
        await _all_is_well(core, nursery, stranger)


QUESTIONS = {
    "cancel by an endless id": (FrameType.CANCEL, pack({"id": LONG})),
    "cancel for an endless reason": (FrameType.CANCEL, pack({"id": "running", "why": LONG.encode()})),
    "cancel for many reasons": (FrameType.CANCEL, pack({"id": "running", "why": [[LONG] * 1]})),
    "attach to an endless id": (FrameType.ATTACH, pack({"id": LONG})),
    "attach to no text": (FrameType.ATTACH, pack({"id": [LONG]})),
    "attach after infinity": (FrameType.ATTACH, pack({"id": "running", "after": [math.inf, 0]})),
    "attach after nothing": (FrameType.ATTACH, pack({"id": "running", "after": None})),
    "attach after much": (FrameType.ATTACH, pack({"id": "running", "after": [2**63, 2**63]})),
    "a frame of another end": (FrameType.DONE, pack({})),
}


@pytest.mark.parametrize(("kind", "header"), QUESTIONS.values(), ids=QUESTIONS.keys())
async def test_an_odd_question_is_answered_and_others_go_on(kind: FrameType, header: bytes) -> None:
    workers = FakeWorkers(scripts={"running": [(Say("x"), Wait(3600), Finish())]})
    async with open_core(workers=workers) as core, trio.open_nursery() as nursery:
        await core.runtime.post(turn("running"))
        stranger = await a_stranger(core, nursery)
        assert await stranger.ask(kind, header) is not None
        await _all_is_well(core, nursery, stranger)


async def test_a_greeting_that_fills_a_header_is_refused_by_name() -> None:
    async with open_core() as core, trio.open_nursery() as nursery:
        ours, theirs = socket.socketpair()
        nursery.start_soon(serve_client, theirs, core.supervisor.dispatcher)
        channel = Channel(ours)
        nursery.start_soon(channel.run)
        stranger = Stranger(channel)
        answer = await stranger.ask(FrameType.HELLO, pack({"protocol": LONG}), number=0)
        assert answer is not None
        assert unpack_header(answer.header)["fields"]["class"] == "VersionMismatch"
        await _all_is_well(core, nursery, stranger)


async def test_status_is_answered_when_no_descriptor_is_free() -> None:
    async with open_core() as core:
        await core.runtime.ask(turn())
        with no_free_descriptors():
            status = await core.runtime.status()
        assert status["turns"]["done"] == 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
MEMBERS = (
    "id", "hash", "kind", "session", "lane", "remaining_ms", "features", "size", "provider", "model", "detached",
    "resend_safe", "after", "why", "protocol",
)  # fmt: skip
FROM_A_CLIENT = st.tuples(
    st.sampled_from([FrameType.SUBMIT, FrameType.CANCEL, FrameType.ATTACH, FrameType.STATUS, FrameType.PING]),
    st.integers(0, 3),
    st.integers(0, 255),
    st.dictionaries(st.sampled_from(MEMBERS), PLAIN, max_size=4),
    st.booleans(),
)


@given(st.lists(FROM_A_CLIENT, min_size=1, max_size=12))
@settings(max_examples=60)
def test_no_frame_of_a_client_reaches_beyond_its_connection(
    program: list[tuple[FrameType, int, int, dict[str, Any], bool]],
) -> None:
    async def play() -> None:
        async with open_core() as core, trio.open_nursery() as nursery:
            stranger = await a_stranger(core, nursery)
            for kind, number, flags, members, complete in program:
                header, body = a_submit()
                plain = {**(unpack_header(header) if complete else {}), **members}
                packed = msgpack.packb(plain, use_bin_type=True)
                stranger.channel.post(encode(kind, number, flags=flags, header=packed, body=body))
            await stranger.is_answered()
            await _all_is_well(core, nursery, stranger)

    trio.run(play, clock=MockClock(autojump_threshold=0.01))


async def _all_is_well(core: Core, nursery: trio.Nursery, stranger: Stranger) -> None:
    """The service still serves; without the stranger nothing of its turns is left."""
    with trio.fail_after(60):
        assert (await core.runtime.ask(turn())).text == "hello"
        await stranger.channel.aclose()
        await core.runtime.cancel("running") if _is_live(core.supervisor.dispatcher, "running") else None
        await _nothing_left(core.supervisor.dispatcher, core.runtime)
    nursery.cancel_scope.cancel()


def _is_live(dispatcher: Dispatcher, turn_id: str) -> bool:
    return turn_id in dispatcher.ledger._by_id


async def _nothing_left(dispatcher: Dispatcher, runtime: Runtime) -> None:
    while dispatcher.ledger.live or dispatcher.clients > 1:
        await runtime.ping()
        await trio.sleep(0.01)
    assert dispatcher.ledger._by_id == {}
    assert dispatcher.ledger.budget.held_bytes == 0
    for desk in dispatcher.desks.values():
        assert (desk.running, len(desk.queue), desk.queue.free_slots) == ({}, 0, 4)

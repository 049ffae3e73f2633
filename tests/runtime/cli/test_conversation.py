"""Which runtime a turn gets, in virtual time. Whole conversations, with processes and terminals: test_ask.py."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import PermissionDenied
from loopforge.drivers.turn import Turn, user
from loopforge.runtime.cli.answer import Whole
from loopforge.runtime.cli.conversation import CONNECT_S, Conversation
from loopforge.runtime.cli.outlet import Outlet
from loopforge.runtime.config.values import RuntimeSettings
from loopforge.runtime.errors import ConnectionLost
from loopforge.runtime.listener import bound_socket, listen
from loopforge.workers.framing import encode
from loopforge.workers.messages import FrameType, pack
from tests.runtime.core import open_core


def conversation(path: Path) -> Conversation:
    turn = Turn(kind="planning", messages=(user("hello"),))
    made = Conversation(
        turn=turn,
        printer=Whole(show_thinking=False),
        socket=path,
        config=path.with_name("config.toml"),
        config_named=False,
    )
    made.outlet = Outlet({})
    return made


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


async def test_a_service_that_listens_is_used(tmp_path: Path) -> None:
    async with open_core() as core:
        with bound_socket(tmp_path / "s", RuntimeSettings()) as listener:
            await core.nursery.start(listen, listener, core.supervisor.dispatcher)
            made = conversation(tmp_path / "s")
            async with made._open() as runtime:
                assert (await runtime.status())["clients"] == 2  # the fixture's own, and this one
                assert (await runtime.ask(made.turn)).text == "hello"


async def test_a_service_that_hangs_is_named_and_not_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    with listening(tmp_path / "s"):
        began = trio.current_time()
        with pytest.raises(ConnectionLost, match="does not answer within 5 s; see its log"):
            async with conversation(tmp_path / "s")._open():
                raise AssertionError("it never said WELCOME")
        assert trio.current_time() - began == pytest.approx(CONNECT_S)


async def test_being_turned_away_is_an_error_and_no_reason_to_do_without_a_service(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn_away, listener)
            with pytest.raises(PermissionDenied, match="user eve may not"):
                async with conversation(tmp_path / "s")._open():
                    raise AssertionError("it was turned away")


async def turn_away(listener: socket.socket) -> None:
    listener.setblocking(False)
    await trio.lowlevel.wait_readable(listener)
    client, _ = listener.accept()
    error = PermissionDenied(what="user eve may not use this service", action="ask its owner")
    with client:
        client.sendall(encode(FrameType.ERROR, header=pack({"fields": error.to_fields(), "attempts": 0})))


async def test_an_error_of_the_turn_leaves_the_block_as_it_is(tmp_path: Path) -> None:
    """A ConnectionLost of the conversation itself must not start a second runtime."""
    async with open_core() as core:
        with bound_socket(tmp_path / "s", RuntimeSettings()) as listener:
            await core.nursery.start(listen, listener, core.supervisor.dispatcher)
            lost = ConnectionLost(what="in the middle")
            with pytest.raises(ConnectionLost) as caught:
                async with conversation(tmp_path / "s")._open():
                    raise lost
            assert caught.value is lost

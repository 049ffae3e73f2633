"""The blocking client against a real listener, and against everything else that may sit at a socket's path."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import loopforge
from loopforge.runtime.blocking import NoAnswer, ask_cancel, ask_status
from loopforge.runtime.config.values import RuntimeSettings
from loopforge.runtime.errors import TurnCancelled, UnknownTurn, VersionMismatch
from loopforge.runtime.listener import bound_socket, listen
from loopforge.workers.framing import encode
from loopforge.workers.messages import PROTOCOL, FrameType, pack
from tests.fakes.worker import FakeWorkers, Say, Wait
from tests.runtime.core import Core, open_core, turn

FOREVER = Wait(1e6)


@asynccontextmanager
async def open_service(path: Path) -> AsyncIterator[Core]:
    async with open_core(workers=FakeWorkers(default=(Say("half"), FOREVER))) as core:
        with bound_socket(path, RuntimeSettings()) as listener:
            await core.nursery.start(listen, listener, core.supervisor.dispatcher)
            yield core


async def test_status_is_what_the_service_tells_its_clients(tmp_path: Path) -> None:
    async with open_service(tmp_path / "s") as core, core.runtime.stream(turn("story")) as events:
        await anext(events)
        told = await trio.to_thread.run_sync(ask_status, tmp_path / "s")
        assert told.keys() == (await core.runtime.status()).keys()
        assert (told["pid"], told["version"]) == (os.getpid(), loopforge.__version__)
        assert [live["id"] for live in told["live"]] == ["story"]


async def test_cancel_ends_a_turn_that_another_client_posted(tmp_path: Path) -> None:
    async with open_service(tmp_path / "s") as core, core.runtime.stream(turn("story")) as events:
        await anext(events)
        cancel = partial(ask_cancel, tmp_path / "s", "story", why="by hand")
        assert await trio.to_thread.run_sync(cancel)
        with pytest.raises(TurnCancelled, match="by hand"):
            await events.reply()
        assert not await trio.to_thread.run_sync(cancel)  # it has ended


async def test_cancelling_a_strange_id_says_so(tmp_path: Path) -> None:
    async with open_service(tmp_path / "s"):
        with pytest.raises(UnknownTurn, match="nobody's"):
            await trio.to_thread.run_sync(partial(ask_cancel, tmp_path / "s", "nobody's", why=""))


@contextmanager
def answering(path: Path, answer: bytes, *, after_bytes: int = 1) -> Iterator[None]:
    """Something that reads `after_bytes`, sends `answer` and hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(after_bytes)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def frame(kind: FrameType, number: int = 0, **header: object) -> bytes:
    return encode(kind, number, header=pack(header))


WELCOME = frame(FrameType.WELCOME, protocol=PROTOCOL, version="x", pid=1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "hung up without an answer"),
        (WELCOME, "hung up without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no LoopForge service (this is HTTP"),
        (encode(FrameType.STATUS, 1, body=b"\xc1"), "makes no sense"),
        (encode(FrameType.STATUS, 1, body=pack([1])), "makes no sense"),
        (frame(FrameType.ERROR), "is no LoopForge service"),
    ],
)
@pytest.mark.parametrize("after_bytes", [1, 4096], ids=["reads a byte", "reads all"])
def test_whatever_else_answers_is_named_and_not_believed(
    tmp_path: Path, answer: bytes, said: str, after_bytes: int
) -> None:
    path = tmp_path / "s"
    with answering(path, answer, after_bytes=after_bytes), pytest.raises(NoAnswer) as caught:
        ask_status(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_answer_that_is_cut_is_not_believed(tmp_path: Path) -> None:
    with answering(tmp_path / "s", WELCOME[:-1], after_bytes=4096), pytest.raises(NoAnswer, match="inside a frame"):
        ask_status(tmp_path / "s")


def test_the_reason_for_being_turned_away_is_read_although_our_question_was_not(tmp_path: Path) -> None:
    error = VersionMismatch(what="the client speaks protocol 9, the service 1")
    last_words = frame(FrameType.ERROR, fields=error.to_fields(), attempts=0)
    with answering(tmp_path / "s", last_words), pytest.raises(VersionMismatch, match="protocol 9"):
        ask_status(tmp_path / "s")


def test_an_answer_in_small_pieces_is_put_together(tmp_path: Path) -> None:
    answer = (
        WELCOME + encode(FrameType.PONG, 7) + encode(FrameType.STATUS, 1, body=pack({"pid": 4242, "x": "y" * 200_000}))
    )
    with answering(tmp_path / "s", answer):
        assert ask_status(tmp_path / "s")["pid"] == 4242


def test_without_a_service_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match=r"there is no socket at .*; start one with 'loopforge serve'"):
        ask_status(tmp_path / "s")
    with pytest.raises(NoAnswer, match="there is no socket"):
        ask_status(tmp_path / "s" / "below")


def test_a_socket_that_nobody_holds_is_no_service(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(NoAnswer, match=r"nobody listens on .*; start one with 'loopforge serve'"):
        ask_status(tmp_path / "s")


def test_a_file_that_is_no_socket_is_no_service(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(NoAnswer, match="nobody listens"):
        ask_status(tmp_path / "s")


def test_a_service_that_hangs_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "s"))
        hung.listen()
        with pytest.raises(NoAnswer, match=r"did not answer within 0\.05 s; see its log"):
            ask_status(tmp_path / "s", answer_s=0.05)


def test_a_service_with_a_full_backlog_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as first:
        hung.bind(str(tmp_path / "s"))
        hung.listen(0)
        first.connect(str(tmp_path / "s"))
        with pytest.raises(NoAnswer, match="takes no connections"):
            ask_status(tmp_path / "s", answer_s=0.05)


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Root may connect to anything, so it becomes nobody for a while."""
    if os.getuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_socket_of_another_user_says_whom_to_ask(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(tmp_path / "s"))
        theirs.listen()
        (tmp_path / "s").chmod(0)
        with as_somebody_else(), pytest.raises(NoAnswer, match=r"you may not connect to .*allow_users"):
            ask_status(tmp_path / "s")

"""The Unix socket: who may connect, what a stranger is told, and what a slow client costs (nobody else anything)."""

from __future__ import annotations

import os
import resource
import socket
import stat
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from loopforge.drivers.errors import PermissionDenied
from loopforge.drivers.turn import TextDelta
from loopforge.runtime import client as client_module
from loopforge.runtime import listener as listener_module
from loopforge.runtime.client import Runtime, connect
from loopforge.runtime.config.values import RuntimeSettings
from loopforge.runtime.dispatch import Dispatcher
from loopforge.runtime.errors import BadTurn, ConnectionLost, SlowConsumer, VersionMismatch
from loopforge.runtime.listener import SocketBusy, bound_socket, listen, may_connect, serve_client
from loopforge.workers.framing import Frame, Framer, encode
from loopforge.workers.messages import FrameType, pack, unpack_header
from tests.fakes.worker import FakeWorkers, Finish, Say, Wait
from tests.runtime.core import config, open_core, provider, turn

SETTINGS = RuntimeSettings()


def the_file_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_socket_belong_to_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "loopforge.sock"
    with bound_socket(path, SETTINGS):
        assert (the_file_mode(path.parent), the_file_mode(path)) == (0o700, 0o600)
    assert not path.exists()


def test_with_allowed_users_others_get_as_far_as_the_check(tmp_path: Path) -> None:
    path = tmp_path / "run" / "loopforge.sock"
    with bound_socket(path, RuntimeSettings(allow_users=("nobody",))):
        assert (the_file_mode(path.parent), the_file_mode(path)) == (0o711, 0o666)


def test_a_second_service_is_told_who_holds_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "run" / "loopforge.sock"
    with (
        bound_socket(path, SETTINGS),
        pytest.raises(SocketBusy, match=f"pid {os.getpid()}"),
        bound_socket(path, SETTINGS),
    ):
        pass


def test_a_full_disk_keeps_no_service_from_its_socket(tmp_path: Path) -> None:
    """The lock holds without the number of who holds it, which is all that has to be written."""
    path = tmp_path / "run" / "loopforge.sock"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may have a byte: every write fails
    try:
        with (
            bound_socket(path, SETTINGS),
            pytest.raises(SocketBusy, match="pid unknown"),
            bound_socket(path, SETTINGS),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "loopforge.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bound_socket(path, SETTINGS), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_owner_root_and_the_allowed_may_connect_and_nobody_else() -> None:
    nobody = 65534
    assert may_connect(os.getuid(), os.getgid(), SETTINGS)
    assert may_connect(0, 0, SETTINGS)
    assert not may_connect(nobody, nobody, SETTINGS)
    assert may_connect(nobody, nobody, RuntimeSettings(allow_users=("nobody",)))
    assert may_connect(nobody, nobody, RuntimeSettings(allow_users=(str(nobody),)))
    assert may_connect(nobody, nobody, RuntimeSettings(allow_groups=("nogroup", "nobody")))
    assert not may_connect(nobody, nobody, RuntimeSettings(allow_groups=("wheel",)))
    assert not may_connect(4242, 4242, RuntimeSettings(allow_users=("nobody",)))


async def test_a_client_connects_through_the_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "loopforge.sock"
    async with open_core() as core:
        with bound_socket(path, SETTINGS) as sock:
            await core.nursery.start(listen, sock, core.supervisor.dispatcher)
            async with connect(path) as runtime:
                assert (await runtime.ask(turn())).text == "hello"


async def test_without_a_service_connect_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match="loopforge serve"):
        async with connect(tmp_path / "nothing.sock"):
            pass


class Stranger:
    """A client of its own making over a socketpair with a real `serve_client` behind it."""

    def __init__(self, nursery: trio.Nursery, dispatcher: Dispatcher) -> None:
        ours, theirs = socket.socketpair()
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        nursery.start_soon(serve_client, theirs, dispatcher)

    async def everything(self) -> list[Frame]:
        """All frames up to the end of the connection, which is then closed here, too."""
        framer = Framer()
        frames: list[Frame] = []
        async with self.stream:
            async for data in self.stream:
                frames += framer.feed(bytes(data))
        return frames


async def last_error_of(stranger: Stranger) -> dict[str, object]:
    frame = (await stranger.everything())[-1]
    assert frame.type == FrameType.ERROR
    fields = unpack_header(frame.header)["fields"]
    assert isinstance(fields, dict)
    return fields


async def test_a_web_browser_is_hung_up_on_and_the_log_says_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    async with open_core() as core:
        stranger = Stranger(core.nursery, core.supervisor.dispatcher)
        await stranger.stream.send_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await stranger.everything() == []
        assert "this is HTTP" in caplog.text


async def test_another_protocol_version_is_told_to_restart_the_service() -> None:
    async with open_core() as core:
        stranger = Stranger(core.nursery, core.supervisor.dispatcher)
        await stranger.stream.send_all(encode(FrameType.HELLO, header=pack({"protocol": 99, "version": "9", "pid": 1})))
        error = await last_error_of(stranger)
        assert (error["class"], error["action"]) == (VersionMismatch.__name__, "restart the service")


@pytest.mark.parametrize("frame", [encode(FrameType.READY), encode(FrameType.HELLO, header=b"\xc1"), encode(60)])
async def test_a_first_frame_that_is_no_hello_ends_the_connection_with_a_reason(frame: bytes) -> None:
    async with open_core() as core:
        stranger = Stranger(core.nursery, core.supervisor.dispatcher)
        await stranger.stream.send_all(frame)
        assert (await last_error_of(stranger))["class"] == "BadTurn"


async def test_a_malformed_submit_is_refused_and_the_connection_lives_on() -> None:
    async with open_core() as core, core.another_client() as runtime:
        with pytest.raises(BadTurn, match=r"SUBMIT\.id"):
            await runtime._request(FrameType.SUBMIT, header=pack({"id": 7}))
        assert (await runtime.ask(turn())).text == "hello"


async def test_a_client_that_does_not_read_loses_its_connection_and_others_lose_nothing() -> None:
    piece = "x" * 100_000
    script = tuple(step for _ in range(120) for step in (Say(piece), Wait(0.001)))
    workers = FakeWorkers(scripts={"flood": [(*script, Finish())]})
    async with open_core(config(provider("local")), workers) as core:
        stranger = Stranger(core.nursery, core.supervisor.dispatcher)
        await stranger.stream.send_all(encode(FrameType.HELLO, header=pack({"protocol": 1, "version": "0", "pid": 1})))
        async with core.another_client() as reader:
            await reader.post(turn("flood", detached=True))
            await stranger.stream.send_all(encode(FrameType.ATTACH, 1, header=pack({"id": "flood", "after": [0, 0]})))
            assert (await reader.wait("flood")).text == piece * 120
            assert (await reader.ask(turn())).text == "hello"
        errors = [frame for frame in await stranger.everything() if frame.type == FrameType.ERROR]
        assert [unpack_header(frame.header)["fields"]["class"] for frame in errors] == [SlowConsumer.__name__]


async def test_a_reply_larger_than_the_bound_does_not_make_its_reader_slow() -> None:
    large = "x" * (9 * 2**20)
    workers = FakeWorkers(scripts={"large": [(Say(large), Finish())]})
    async with open_core(config(provider("local")), workers) as core:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(core.runtime.ask, turn())
            assert (await core.runtime.ask(turn("large"))).text == large
        assert (await core.runtime.ask(turn())).text == "hello"


async def test_one_unread_stream_does_not_hold_up_another_of_the_same_client() -> None:
    piece = "x" * 100_000
    script = tuple(step for _ in range(120) for step in (Say(piece), Wait(0.001)))
    workers = FakeWorkers(scripts={"flood": [(*script, Finish())]})
    async with open_core(config(provider("local")), workers) as core, core.runtime.stream(turn("flood")) as unread:
        await core.runtime.ask(turn("other"))
        async with core.another_client() as other:
            await other.wait("flood")
        with pytest.raises(SlowConsumer):
            async for _ in unread:
                pass


async def test_a_refused_peer_is_told_why(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can connect as somebody else")
    path = tmp_path / "run" / "loopforge.sock"
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == 0 and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    async with open_core() as core:
        with bound_socket(path, RuntimeSettings(allow_users=("daemon",))) as sock:
            await core.nursery.start(listen, sock, core.supervisor.dispatcher)
            os.setegid(65534)
            os.seteuid(65534)
            try:
                client = socket.socket(socket.AF_UNIX)
                client.connect(str(path))
            finally:
                os.seteuid(0)
                os.setegid(0)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
            framer = Framer()
            frames = [frame async for data in stream for frame in framer.feed(bytes(data))]
            fields = unpack_header(frames[-1].header)["fields"]
            assert fields["class"] == PermissionDenied.__name__
            assert "allow_users" in fields["action"]
            await stream.aclose()


async def test_a_socket_that_nobody_serves_is_given_up_after_a_while(autojump_clock: MockClock) -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(ConnectionLost, match="does not answer"):
        async with client_module._over(ours):
            pass


async def test_a_lost_connection_leaves_each_stream_what_it_had() -> None:
    workers = FakeWorkers(scripts={name: [(Say(f"half of {name}"), Wait(60))] for name in ("one", "two")})
    async with open_core(workers=workers) as core:
        partials: dict[str, str] = {}
        ours, theirs = socket.socketpair()
        core.nursery.start_soon(serve_client, theirs, core.supervisor.dispatcher)

        async def follow(runtime: Runtime, name: str, begun: trio.Event) -> None:
            async with runtime.stream(turn(name)) as events:
                while not isinstance(await anext(events), TextDelta):
                    continue
                begun.set()
                with pytest.raises(ConnectionLost) as caught:
                    await anext(events)
            assert caught.value.partial is not None
            partials[name] = caught.value.partial.text

        async with client_module._over(ours) as runtime, trio.open_nursery() as nursery:
            for name in ("one", "two"):
                begun = trio.Event()
                nursery.start_soon(follow, runtime, name, begun)
                await begun.wait()
            theirs.shutdown(socket.SHUT_RDWR)
        assert partials == {"one": "half of one", "two": "half of two"}


async def test_a_turn_that_no_channel_can_carry_is_a_bad_turn() -> None:
    async with open_core() as core:
        for odd in (2**70, "\ud800"):
            with pytest.raises(BadTurn, match="cannot be sent"):
                await core.runtime.ask(turn(provider_options={"openai_compatible": {"x": odd}}))


def test_a_socket_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run" / ("x" * 120)
    with pytest.raises(OSError, match="x" * 120), bound_socket(path, SETTINGS):
        pass


def test_the_bound_of_a_slow_client_is_the_documented_one() -> None:
    assert listener_module.MAX_OUTBOUND_BYTES == 8 * 2**20

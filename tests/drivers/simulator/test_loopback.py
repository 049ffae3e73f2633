"""The simulator on real sockets, and as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from loopforge.drivers.simulator.__main__ import main
from loopforge.drivers.simulator.profile import Profile
from loopforge.drivers.simulator.server import Simulator, open_simulator
from tests.fakes.h11_client import Cut, H11Client

QUICK = Profile(first_token_s=0, tokens_per_s=2000, answer_tokens=20)
COMMAND = (sys.executable, "-m", "loopforge.drivers.simulator")
ENDS_WITHIN_S = 20  # of real time, for a process on a busy machine


@asynccontextmanager
async def connected(simulator: Simulator) -> AsyncIterator[H11Client]:
    async with await trio.open_tcp_stream("127.0.0.1", simulator.port) as stream:
        yield H11Client(stream)


async def test_streams_and_whole_answers_over_one_connection() -> None:
    async with open_simulator({"acme": QUICK}) as simulator, connected(simulator) as client:
        for stream in (True, False, True):
            assert (await client.chat(stream=stream)).status == 200
        assert simulator.stats.connections == 1
        assert simulator.base_url("acme") == f"http://127.0.0.1:{simulator.port}/acme/v1"


async def test_only_this_machine_is_served() -> None:
    async with open_simulator() as simulator:
        listening = (await trio.Path("/proc/net/tcp").read_text()).split()
        assert f"0100007F:{simulator.port:04X}" in listening
        assert f"00000000:{simulator.port:04X}" not in listening


async def test_a_reset_is_a_reset_and_a_cut_is_not() -> None:
    async with open_simulator({"acme": QUICK}) as simulator:
        async with connected(simulator) as client:
            await client.start("/acme/v1/chat/completions", _asking("fault-reset"))
            with pytest.raises(trio.BrokenResourceError):
                await client.stream.receive_some()
        async with connected(simulator) as client:
            with pytest.raises(Cut):
                await client.chat(model="fault-cut", stream=True)
            assert await client.stream.receive_some() == b""


async def test_a_connection_that_ends_lets_its_last_answer_be_read() -> None:
    body = _asking("m").encode()
    head = b"POST /acme/v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    came = b""
    async with open_simulator({"acme": QUICK}) as simulator, connected(simulator) as client:
        # What is sent behind the request is never read: closing over it would reset the connection.
        await client.stream.send_all(head % len(body) + body + bytes(150_000))
        while data := await client.stream.receive_some():
            came += data
    assert came.endswith(b"0\r\n\r\n")


async def test_a_client_that_reads_nothing_holds_nobody_up() -> None:
    flood = Profile(first_token_s=0, tokens_per_s=0, answer_tokens=10**9)
    paced = Profile(first_token_s=0, tokens_per_s=10**9, answer_tokens=10**9)
    async with open_simulator({"flood": flood, "paced": paced, "acme": QUICK}) as simulator:
        async with connected(simulator) as deaf, connected(simulator) as deafer, connected(simulator) as client:
            await deaf.start("/flood/v1/chat/completions", _asking("m"))
            await deafer.start("/paced/v1/chat/completions", _asking("m"))
            await simulator.stats.wait(lambda stats: stats.active == 2)
            for _ in range(20):
                assert (await client.chat(stream=True)).events[-1] == "[DONE]"
        with trio.fail_after(ENDS_WITHIN_S):
            await simulator.stats.wait(lambda stats: stats.active == 0)


async def test_a_stream_that_was_held_up_is_whole() -> None:
    profile = Profile(first_token_s=0, tokens_per_s=10**7, answer_tokens=60_000)
    async with open_simulator({"acme": profile}) as simulator, connected(simulator) as client:
        answer = await client.chat(stream=True)  # 13 MB: more than the sockets hold
    assert len(answer.text.split()) == 60_000


async def test_many_clients_that_come_and_go_leave_nothing_behind() -> None:
    async def come_and_go(number: int) -> None:
        async with connected(simulator) as client:
            with trio.move_on_after(0.001 * (number % 7)):
                await client.chat(stream=True)

    async with open_simulator({"acme": QUICK}) as simulator:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(come_and_go, number)
        with trio.fail_after(ENDS_WITHIN_S):
            await simulator.stats.wait(lambda stats: stats.open_connections == 0)
        stats = simulator.stats.of("acme")
        assert (stats.active, stats.whole + stats.cancelled) == (0, stats.requests)


async def test_leaving_the_block_closes_everything() -> None:
    async with open_simulator({"acme": Profile(first_token_s=1000)}) as simulator:
        stream = await trio.open_tcp_stream("127.0.0.1", simulator.port)
        await H11Client(stream).start("/acme/v1/chat/completions", _asking("m"))
        await simulator.stats.wait(lambda stats: stats.active == 1)
    async with stream:
        with trio.fail_after(ENDS_WITHIN_S):
            while await _receive(stream):  # the head of the stream
                pass
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", simulator.port)


async def _receive(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return b""


def _asking(model: str) -> str:
    return json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]})


# -- as a process -----------------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str, stdin: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [*COMMAND, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout, running.stderr):
            if pipe is not None:
                pipe.close()


def port_of(running: subprocess.Popen[str]) -> int:
    assert running.stdout is not None
    url = running.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    return int(url.rpartition(":")[2])


def status_of(port: int, provider: str) -> bytes:
    body = _asking("m").encode()
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = f"POST /{provider}/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        return client.recv(12)


def test_it_prints_its_address_and_ends_with_its_input() -> None:
    with process() as running:
        assert status_of(port_of(running), "any") == b"HTTP/1.1 200"
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(ENDS_WITHIN_S) == 0


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_it_plays_the_profiles_of_a_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"profiles.{suffix}"
    file.write_text('{"acme": {"fault": "503"}}' if suffix == "json" else '[acme]\nfault = "503"\n')
    with process("--profiles", str(file)) as running:
        port = port_of(running)
        assert status_of(port, "acme") == b"HTTP/1.1 503"
        assert status_of(port, "other") == b"HTTP/1.1 404"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to(number: signal.Signals) -> None:
    with process() as running:
        port_of(running)
        running.send_signal(number)
        assert running.wait(ENDS_WITHIN_S) == 0


def test_it_ends_with_its_parent_when_it_has_no_pipe_to_watch() -> None:
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({list(COMMAND)!r}, stdin=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        lines = sorted([running.stdout.readline().strip(), running.stdout.readline().strip()])
        child = os.pidfd_open(int(lines[0]))
        running.kill()
        assert _ends(child)
        os.close(child)
    finally:
        running.kill()
        running.communicate()


def _ends(pidfd: int) -> bool:
    async def wait() -> bool:
        with trio.move_on_after(ENDS_WITHIN_S):
            await trio.lowlevel.wait_readable(pidfd)
            return True
        return False

    return trio.run(wait)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"acme": {"tokens": 3}}', "acme.tokens"),
        ('{"acme": {"fault": "nonsense"}}', "acme.fault"),
        ('{"acme": {"jitter": 2}}', "between 0 and 1"),
        ("[", "Expecting"),
    ],
)
def test_profiles_that_are_wrong_are_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    file = tmp_path / "profiles.json"
    file.write_text(content)
    assert main(["--profiles", str(file)]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--profiles", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_as_such() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with process("--port", str(taken.getsockname()[1])) as running:
            assert running.wait(ENDS_WITHIN_S) == 2
            assert running.stderr is not None
            assert "choose another one" in running.stderr.read()

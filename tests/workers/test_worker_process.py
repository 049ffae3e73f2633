"""workers/__main__.py as a real process: it boots, answers, hides its key, and dies when it should."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import loopforge
from loopforge.drivers.turn import Turn, user
from loopforge.workers.__main__ import take_key
from loopforge.workers.messages import PROTOCOL, FrameType, unpack_header, unpack_reply
from tests.workers.real_worker import SETTINGS, open_real_worker, stop, wait_dead

SECRET = "sk-thief-proof-7f3a"

# -- boot ------------------------------------------------------------------------------------------------------------


def test_hello_comes_first_and_names_protocol_version_and_process(tmp_path: Path) -> None:
    with open_real_worker(tmp_path) as worker:
        hello = worker.read()
        assert hello.type == FrameType.HELLO
        assert unpack_header(hello.header) == {
            "protocol": PROTOCOL,
            "version": loopforge.__version__,
            "pid": worker.process.pid,
        }


def test_hello_is_said_before_anything_heavy_is_loaded() -> None:
    code = """
import socket, sys
from loopforge.workers.__main__ import _say_hello
ours, theirs = socket.socketpair()
assert _say_hello(theirs, "x")
assert ours.recv(1000)
heavy = {"trio", "httpx2", "pydantic", "ssl", "asyncio", "loopforge.drivers.turn"} & sys.modules.keys()
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_neither_http_nor_a_driver_is_loaded_before_welcome(tmp_path: Path) -> None:
    with open_real_worker(tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"}) as worker:
        assert worker.read().type == FrameType.HELLO
        worker.sock.shutdown(socket.SHUT_WR)
        assert worker.wait_exited() == 0
        loaded = worker.log.read_text()
        assert "loopforge.workers.serve" in loaded
        assert "httpx2" not in loaded
        assert "loopforge.drivers.openai_compatible" not in loaded


def test_another_protocol_ends_the_worker_with_78_and_one_line(tmp_path: Path) -> None:
    with open_real_worker(tmp_path) as worker:
        worker.read()
        worker.welcome(protocol=PROTOCOL + 1)
        assert worker.wait_exited() == 78
        (line,) = worker.log.read_text().splitlines()
        assert (
            line == f"worker local: the supervisor speaks protocol {PROTOCOL + 1}, this worker 1; restart the service"
        )


def test_msgpack_without_its_c_extension_is_refused_with_one_line(tmp_path: Path) -> None:
    with open_real_worker(tmp_path, env={"MSGPACK_PUREPYTHON": "1"}) as worker:
        assert worker.wait_exited() == 78
        (line,) = worker.log.read_text().splitlines()
        assert "msgpack lacks its C extension" in line
        with pytest.raises(EOFError):
            worker.read()


def test_a_worker_whose_supervisor_is_gone_before_it_looks_does_not_start(tmp_path: Path) -> None:
    with open_real_worker(tmp_path, parent=os.getppid()) as worker:
        with pytest.raises(EOFError):
            worker.read()
        assert worker.wait_exited() == 1


@pytest.mark.parametrize("argv", [[], ["x"], ["x", "--fd", "3"], ["x", "--fd", "three", "--parent", "1"], ["--what"]])
def test_a_person_who_starts_a_worker_is_told_the_usage(argv: list[str]) -> None:
    run = subprocess.run([sys.executable, "-m", "loopforge.workers", *argv], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("usage: python -m loopforge.workers NAME --fd FD")


# -- a turn, end to end ----------------------------------------------------------------------------------------------


class Provider(BaseHTTPRequestHandler):
    """Answers every POST with two chunks and keeps what was sent in `authorization`."""

    authorization: list[str | None] = []  # noqa: RUF012 - one server at a time

    def do_POST(self) -> None:
        self.authorization.append(self.headers["authorization"])
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for choice in (
            {"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        ):
            chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def open_provider() -> Iterator[str]:
    """Its base URL."""
    Provider.authorization.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("way", ["variable", "descriptor"])
def test_a_turn_goes_through_with_the_key_however_it_came(tmp_path: Path, way: str) -> None:
    with (
        open_provider() as base_url,
        open_real_worker(
            tmp_path,
            env={"LF_TEST_KEY": SECRET} if way == "variable" else {},
            key=f"{SECRET}\n".encode() if way == "descriptor" else None,
        ) as worker,
    ):
        worker.make_ready(replace(SETTINGS, base_url=base_url, api_key_env="LF_TEST_KEY"))
        worker.submit(5, Turn(kind="coding", messages=(user("hi"),)))
        frames = [worker.read()]
        while frames[-1].type not in {FrameType.DONE, FrameType.ERROR}:
            frames.append(worker.read())
        assert frames[-1].type == FrameType.DONE, unpack_header(frames[-1].header)
        assert unpack_reply(frames[-1].body).text == "hello"
        assert [frame.seq for frame in frames] == list(range(len(frames)))
        assert Provider.authorization == [f"Bearer {SECRET}"]
        assert SECRET not in worker.log.read_text()


# -- heartbeat and signals -------------------------------------------------------------------------------------------


def test_a_stopped_worker_shows_as_a_missing_pong_and_answers_when_it_goes_on(tmp_path: Path) -> None:
    with open_real_worker(tmp_path) as worker:
        worker.make_ready()
        assert worker.answers_ping()
        stop(worker.process.pid)
        worker.send(FrameType.PING, seq=3)
        assert not select.select([worker.sock], [], [], 0.2)[0]
        worker.process.send_signal(signal.SIGCONT)
        assert (frame := worker.read()).type == FrameType.PONG
        assert frame.seq == 3
        assert unpack_header(frame.header)["lag_s"] >= 0
        assert unpack_header(frame.header)["rss_bytes"] > 10_000_000


def test_ctrl_c_in_the_terminal_is_the_supervisors_business(tmp_path: Path) -> None:
    with open_real_worker(tmp_path) as worker:
        worker.make_ready()
        worker.process.send_signal(signal.SIGINT)
        assert worker.answers_ping()


def test_sigabrt_prints_the_line_that_blocks(tmp_path: Path) -> None:
    with open_real_worker(tmp_path) as worker:
        worker.make_ready()
        worker.process.send_signal(signal.SIGABRT)
        assert worker.wait_exited() == -signal.SIGABRT
        log = worker.log.read_text()
        assert "Fatal Python error: Aborted" in log
        assert "most recent call first" in log


@pytest.mark.parametrize("how", ["DRAIN", "SIGTERM"])
def test_an_idle_worker_that_drains_exits_with_0(tmp_path: Path, how: str) -> None:
    with open_real_worker(tmp_path) as worker:
        worker.make_ready()
        assert worker.answers_ping()
        if how == "DRAIN":
            worker.send(FrameType.DRAIN)
        else:
            worker.process.send_signal(signal.SIGTERM)
        assert worker.wait_exited() == 0
        assert worker.log.read_text() == ""


def test_the_end_of_the_channel_ends_the_worker_with_0(tmp_path: Path) -> None:
    with open_real_worker(tmp_path) as worker:
        worker.make_ready()
        worker.sock.close()
        assert worker.wait_exited() == 0


# -- the supervisor's death ------------------------------------------------------------------------------------------

SUPERVISOR = """
import os, signal, socket, subprocess, sys
ours, theirs = socket.socketpair()
argv = [sys.executable, "-m", "loopforge.workers", "x", "--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
theirs.close()
assert ours.recv(1000)
if sys.argv[1] == "blocked":
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
print(process.pid, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("state", ["running", "blocked"])
def test_a_killed_supervisor_takes_its_worker_along_even_a_blocked_one(state: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, state], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        worker = int(supervisor.stdout.readline())
        supervisor.kill()
        assert wait_dead(worker)


# -- the key ---------------------------------------------------------------------------------------------------------

GIVE_UP_POWERS = """
import ctypes, os, sys
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
prctl = ctypes.CDLL(None).prctl
for capability in range(64):
    if prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1 and prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
        sys.exit("cannot drop capabilities")
os.execv(sys.argv[1], sys.argv[1:])
"""

THIEF = """
import sys
for name in ("environ", "mem"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            print(name, "read", file.read() if name == "environ" else "", flush=True)
    except OSError as exc:
        print(name, "refused:", exc.strerror, flush=True)
"""


@pytest.fixture(scope="module")
def as_ordinary_user() -> list[str]:
    """What comes before a command line so that it runs without root's powers, with the uid kept: thief and victim."""
    if os.geteuid() != 0:
        return []
    prefix = [sys.executable, "-c", GIVE_UP_POWERS]
    if subprocess.run([*prefix, sys.executable, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip("this root may not drop its capabilities, and with them it reads every process")
    return prefix


def test_another_process_of_the_same_user_cannot_read_the_workers_environment_or_memory(
    tmp_path: Path, as_ordinary_user: list[str]
) -> None:
    def steal(pid: int) -> list[str]:
        thief = [*as_ordinary_user, sys.executable, "-c", THIEF, str(pid)]
        return subprocess.run(thief, capture_output=True, text=True, check=True).stdout.splitlines()

    unprotected = [*as_ordinary_user, sys.executable, "-c", "print(flush=True); input()"]
    env = {**os.environ, "LF_TEST_KEY": SECRET}
    pipe = subprocess.PIPE
    with subprocess.Popen(unprotected, env=env, stdin=pipe, stdout=pipe) as victim:
        assert victim.stdout is not None
        victim.stdout.readline()
        assert f"LF_TEST_KEY={SECRET}" in steal(victim.pid)[0]  # the thief can steal at all
        victim.communicate(b"\n")
    with open_real_worker(tmp_path, env={"LF_TEST_KEY": SECRET}, prefix=as_ordinary_user) as worker:
        worker.read()
        refused = "refused: Permission denied"
        assert steal(worker.process.pid) == [f"environ {refused}", f"mem {refused}"]


def test_a_key_file_is_closed_once_it_was_read(tmp_path: Path) -> None:
    with open_real_worker(tmp_path, key=SECRET.encode()) as worker:
        worker.make_ready(replace(SETTINGS, api_key_env="LF_TEST_KEY"))
        held = [str(link.readlink()) for link in Path(f"/proc/{worker.process.pid}/fd").iterdir()]
        assert len(held) > 3
        assert not [target for target in held if "memfd:key" in target]


def test_a_taken_key_is_in_the_environment_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LF_TEST_KEY", SECRET)
    assert take_key("LF_TEST_KEY", None) == SECRET
    assert "LF_TEST_KEY" not in os.environ
    assert take_key("LF_TEST_KEY", None) == ""
    assert take_key("", None) == ""


def test_a_variable_overrides_a_key_file_and_both_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LF_TEST_KEY", SECRET)
    fd = os.memfd_create("key")
    os.write(fd, b"from the file")
    os.lseek(fd, 0, os.SEEK_SET)
    assert take_key("LF_TEST_KEY", fd) == SECRET
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)

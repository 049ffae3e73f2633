"""A real worker process and a supervisor half on blocking sockets, as small as it can be."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Turn
from loopforge.workers.framing import Frame, Framer, encode
from loopforge.workers.messages import FrameType, pack, pack_turn
from loopforge.workers.packing import to_plain

PATIENCE_S = 30.0
"""Bound of every wait: generous, because it only decides how long a failing test takes."""

SETTINGS = ProviderSettings(name="local", kind="openai_compatible", base_url="http://127.0.0.1:9/v1")


@dataclass
class RealWorker:
    process: subprocess.Popen[bytes]
    sock: socket.socket
    log: Path
    framer: Framer = field(default_factory=Framer)
    unread: list[Frame] = field(default_factory=list)

    def send(self, kind: FrameType, turn: int = 0, **parts: Any) -> None:
        self.sock.sendall(encode(kind, turn, **parts))

    def welcome(self, settings: ProviderSettings = SETTINGS, protocol: int = 1) -> None:
        header = pack({"protocol": protocol, "version": "0.1.0", "pid": os.getpid()})
        self.send(FrameType.WELCOME, header=header, body=pack(to_plain(settings)))

    def make_ready(self, settings: ProviderSettings = SETTINGS) -> None:
        """From HELLO to READY."""
        assert self.read().type == FrameType.HELLO
        self.welcome(settings)
        assert self.read().type == FrameType.READY

    def submit(self, number: int, turn: Turn) -> None:
        header = {
            "id": f"turn-{number}",
            "model": "model",
            "remaining_ms": 60_000,
            "thinking": None,
            "first_event_timeout_s": 30.0,
            "event_gap_timeout_s": 30.0,
        }
        self.send(FrameType.SUBMIT, number, attempt=1, header=pack(header), body=pack_turn(turn))

    def read(self) -> Frame:
        """The next frame. Raises EOFError at the end of the channel."""
        while not self.unread:
            self.sock.settimeout(PATIENCE_S)
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError(self.log.read_text())
            self.unread = self.framer.feed(data)
        return self.unread.pop(0)

    def answers_ping(self) -> bool:
        self.send(FrameType.PING, seq=9)
        frame = self.read()
        return (frame.type, frame.seq) == (FrameType.PONG, 9)

    def wait_exited(self) -> int:
        return self.process.wait(PATIENCE_S)


@contextmanager
def open_real_worker(
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    key: bytes | None = None,
    parent: int | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[RealWorker]:
    """A spawned worker; it is dead when the block is left. `key`: what --key-fd gives it."""
    ours, theirs = socket.socketpair()
    log = folder / "worker.log"
    argv = [*prefix, sys.executable, "-P", "-m", "loopforge.workers", "local", "--fd", str(theirs.fileno())]
    argv += ["--parent", str(os.getpid() if parent is None else parent)]
    passed = [theirs.fileno()]
    key_fd = None if key is None else os.memfd_create("key")
    if key is not None and key_fd is not None:
        os.write(key_fd, key)
        os.lseek(key_fd, 0, os.SEEK_SET)
        argv += ["--key-fd", str(key_fd)]
        passed.append(key_fd)
    with log.open("wb") as stderr, ours:
        process = subprocess.Popen(
            argv, pass_fds=passed, stderr=stderr, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
        theirs.close()
        if key_fd is not None:
            os.close(key_fd)
        with process:
            try:
                yield RealWorker(process, ours, log)
            finally:
                process.kill()


def wait_dead(pid: int) -> bool:
    """Whether the process, no child of ours, is dead within the bound."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], PATIENCE_S)[0])
    finally:
        os.close(pidfd)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it holds."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)

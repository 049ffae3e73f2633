"""Real processes for tests of the command line: the simulated providers, `loopforge serve`, and commands that run on.

Everything is waited for by what it prints or tells, at most PATIENCE_S.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.runtime.cli.running import LOOPFORGE, environment, loopforge

PATIENCE_S = 30.0

PROFILES: dict[str, dict[str, Any]] = {
    "quick": {"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 20},
    "slow": {"first_token_s": 0, "tokens_per_s": 20, "answer_tokens": 100_000},
    "brief": {"first_token_s": 0, "tokens_per_s": 20, "answer_tokens": 20},  # for one second
    "thinker": {"first_token_s": 0, "tokens_per_s": 0, "answer_tokens": 5, "thinking_tokens": 5},
    "silent": {"fault": "silence"},
    "caller": {
        "first_token_s": 0,
        "tokens_per_s": 0,
        "tool_calls": [{"name": "search", "arguments": {"query": "cats"}}],
    },
}


class Process:
    """A running process and what it has printed so far."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], *, terminal: bool = False, leads_group: bool = False
    ) -> None:
        self._text = {"out": "", "err": ""}
        self._changed = threading.Condition()
        self._ended = 0
        self.master = -1
        if terminal:
            self.master, slave = os.openpty()
            argv = [sys.executable, "-c", _TAKE_TERMINAL, *argv]
            self.popen = subprocess.Popen(
                argv, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
            )
            os.close(slave)
            sources = {"out": os.dup(self.master)}
        else:
            pipe = subprocess.PIPE
            group = 0 if leads_group else None
            self.popen = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, process_group=group
            )
            assert self.popen.stdout is not None
            assert self.popen.stderr is not None
            sources = {"out": os.dup(self.popen.stdout.fileno()), "err": os.dup(self.popen.stderr.fileno())}
            self.popen.stdout.close()
            self.popen.stderr.close()
        self._readers = [threading.Thread(target=self._read, args=item, daemon=True) for item in sources.items()]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def out(self) -> str:
        """Standard output so far; of a terminal, everything."""
        return self._text["out"]

    @property
    def err(self) -> str:
        return self._text["err"]

    def type(self, keys: str) -> None:
        """Press keys at the terminal; "\\x03" is Ctrl-C."""
        os.write(self.master, keys.encode())

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Until it has printed `text` so many times. Fails when it ends before that."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: self._count(text) >= times or self._ended == len(self._readers), PATIENCE_S
            )
            assert found, f"not {text!r} within {PATIENCE_S} s: {self._text}"
            assert self._count(text) >= times, f"ended without {text!r}: {self._text}"

    def wait(self) -> int:
        """Its exit code."""
        code = self.popen.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()
        if self.master >= 0:
            os.close(self.master)

    def _count(self, text: str) -> int:
        return sum(stream.count(text) for stream in self._text.values())

    def _read(self, name: str, fd: int) -> None:
        while data := _read_or_end(fd):
            with self._changed:
                self._text[name] += data.decode("utf-8", "replace").replace("\r\n", "\n")
                self._changed.notify_all()
        os.close(fd)
        with self._changed:
            self._ended += 1
            self._changed.notify_all()


# Ctrl-C goes to the foreground group of the terminal that a session has taken for its own: tty_ioctl(4).
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def _read_or_end(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # EIO: the last process has left the terminal
        return b""


@dataclass(frozen=True)
class Simulator:
    url: str

    def stats(self, provider: str) -> dict[str, Any]:
        """What the simulated provider has counted; all zero before its first request."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))
        try:
            connection.request("GET", "/_simulator/stats")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        stats: dict[str, Any] = told["providers"].get(
            provider, {"requests": 0, "active": 0, "cancelled": 0, "steps": 0}
        )
        return stats


@contextmanager
def open_simulator(folder: Path, played: Mapping[str, Mapping[str, Any]] = PROFILES) -> Iterator[Simulator]:
    profiles = folder / "profiles.json"
    profiles.write_text(json.dumps(played))
    argv = [sys.executable, "-m", "loopforge.drivers.simulator", "--profiles", str(profiles)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Simulator(process.stdout.readline().strip())
    finally:
        process.stdin.close()  # its end
        process.wait(PATIENCE_S)
        process.stdout.close()


def write_config(home: Path, simulator: Simulator, extra: str = "") -> Path:
    """A configuration in which every simulated provider is one, and planning goes to the quick one."""
    providers = "".join(
        f'[providers.{name}]\nkind = "openai_compatible"\nbase_url = "{simulator.url}/{name}/v1"\n'
        f'api_key_env = ""\ndefault_model = "m"\n'
        for name in PROFILES
    )
    routes = "".join(
        f'[router.{kind}]\nprovider = "quick"\nmodel = "default"\n' for kind in ("planning", "coding", "summary")
    )
    path = home / "config.toml"
    path.write_text(providers + routes + extra)
    return path


@dataclass(frozen=True)
class Service:
    home: Path
    process: Process

    def status(self) -> dict[str, Any]:
        run = loopforge(self.home, "status", "--json")
        assert run.returncode == 0, run.stderr
        told: dict[str, Any] = json.loads(run.stdout)
        return told

    def provider(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = next(item for item in self.status()["providers"] if item["name"] == name)
        return told

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.popen.send_signal(number)


@contextmanager
def open_service(home: Path, *arguments: str, wait_for: str = " serves ") -> Iterator[Service]:
    """`loopforge serve`, ready, in a process group of its own; it is gone when the block is left."""
    process = Process([*LOOPFORGE, "serve", *arguments], environment(home), leads_group=True)
    try:
        process.wait_for(wait_for)
        yield Service(home, process)
    finally:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGINT)
            process.wait()
        process.close()


@contextmanager
def asking(
    home: Path, *arguments: str, terminal: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """`loopforge ask` while it runs."""
    process = Process([*LOOPFORGE, "ask", *arguments], environment(home, env), terminal=terminal)
    try:
        yield process
    finally:
        process.close()


def wait_until(true: Callable[[], Any], what: str) -> None:
    """Until it is true; looks every few milliseconds, because what is waited for cannot tell."""
    give_up = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < give_up, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.01)


def events_of(text: str) -> list[dict[str, Any]]:
    """The lines of --json."""
    return [json.loads(line) for line in text.splitlines()]

"""A worker process of a provider whose driver can be told to block, or to take much memory. For tests of supervisors.

`python -P blocked_worker.py NAME --fd FD --parent PID`, as `python -m loopforge.workers`. What a turn's model is called
decides: "spin" computes for ever, "sleep" waits in the kernel, both once: the turn's text names a file that is there
from then on. "greedy" and "glutton" hold so much more memory from then on. All others are answered as ever.
"""

from __future__ import annotations

import faulthandler
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from loopforge.drivers.errors import DriverError
from loopforge.drivers.registry import ProviderSettings
from loopforge.drivers.turn import Turn
from loopforge.drivers.wire import Driver, HttpRequest, Reader
from loopforge.workers import __main__ as process
from loopforge.workers.channel import Channel
from loopforge.workers.serve import Equipment, serve

HELD_BYTES = {"greedy": 60 * 2**20, "glutton": 300 * 2**20}
held: list[bytes] = []


@dataclass(frozen=True)
class BlockingDriver:
    well: Driver

    def build_request(self, turn: Turn) -> HttpRequest:
        if turn.model in {"spin", "sleep"}:
            block_once(turn.model, Path(turn.messages[-1].text))
        held.append(b"x" * HELD_BYTES.get(turn.model, 0))
        return self.well.build_request(turn)

    def notices(self, turn: Turn) -> tuple[str, ...]:
        return self.well.notices(turn)

    def new_reader(self, turn: Turn, headers: Mapping[str, str]) -> Reader:
        return self.well.new_reader(turn, headers)

    def explain(self, turn: Turn, status: int, headers: Mapping[str, str], body: bytes) -> DriverError:
        return self.well.explain(turn, status, headers, body)


def block_once(how: str, flag: Path) -> None:
    if flag.exists():
        return
    flag.touch()
    while how == "spin":
        pass
    time.sleep(10**6)


@asynccontextmanager
async def open_blocking(settings: ProviderSettings) -> AsyncIterator[Equipment]:
    async with process.open_everything(settings, key_fd=None) as equipment:
        yield replace(equipment, driver=BlockingDriver(equipment.driver))


def main(name: str, fd: int, parent: int) -> int:
    if not process._bind_to(parent):
        return 1
    faulthandler.enable()
    sock = socket.socket(fileno=fd)
    process._say_hello(sock, name)
    trio.run(lambda: serve(Channel(sock), open_everything=open_blocking))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[3]), int(sys.argv[5])))

"""Clients that die with kill -9, each at its own point of its turn's life. For tests of kill -9.

`python -P doomed_clients.py SOCKET`: one line of JSON a client on standard input, {"kind", "detached", "point"}. Each
is a process of its own; one line on standard output names its turn. A client whose point is "stream" kills itself at
the first text, the others are killed by the service (mortal_service.py), which their turn's id asks for it. Ends when
all are dead: 0 when each was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import trio

from loopforge.drivers.turn import TextDelta, Turn, user
from loopforge.runtime.client import connect


async def post(path: str, turn: Turn, *, dies_at_text: bool) -> None:
    async with connect(path, reconnect_s=0) as runtime, runtime.stream(turn) as events:
        async for event in events:
            if dies_at_text and isinstance(event, TextDelta):
                os.kill(os.getpid(), signal.SIGKILL)
    await trio.sleep_forever()  # the outcome has come: the kill follows


def begin(path: str, asked: dict[str, Any]) -> int:
    """The process id of a client that posts this turn."""
    if (pid := os.fork()) != 0:  # before any loop or thread: nothing of them is copied
        return pid
    turn_id = turn_of(os.getpid(), asked)
    turn = Turn(id=turn_id, kind=asked["kind"], messages=(user("hello"),), detached=asked["detached"])
    trio.run(lambda: post(path, turn, dies_at_text=asked["point"] == "stream"))
    os._exit(1)


def turn_of(pid: int, asked: dict[str, Any]) -> str:
    return f"{pid}:any:{asked['point']}"


def main() -> int:
    clients = []
    for line in sys.stdin:
        asked = json.loads(line)
        pid = begin(sys.argv[1], asked)
        sys.stdout.write(json.dumps({**asked, "id": turn_of(pid, asked)}) + "\n")
        sys.stdout.flush()
        clients.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in clients]
    return 0 if all(os.WIFSIGNALED(end) and os.WTERMSIG(end) == signal.SIGKILL for end in ends) else 1


if __name__ == "__main__":
    sys.exit(main())

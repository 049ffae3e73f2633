"""Plays a workload's loads in a process of its own, so that they cost the measuring one nothing.

    python -m bench.player FILE service PATH    through the service that listens on PATH
    python -m bench.player FILE here URLS       drivers and transports in this one process; JSON of {PROVIDER: URL}

Commands (see children.py):
    {"post": [LOAD, ...], "seconds": S, "seed": N}    starts to post these and answers at once
    {"measure": LOAD, "seconds": S, "seed": N}        answers with the milliseconds of each turn
    {"stop": true}                                    cancels what is in flight
    {"count": true}
and every answer but measure's holds what has come so far and how turns ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from bench.children import answer_commands, calm_collector
from bench.play import Player, ThroughService, Way, in_this_process
from bench.workload import Workload, read_workload
from loopforge.runtime.client import connect


async def main(*arguments: str) -> None:
    file, how, where = arguments
    workload = read_workload(Path(file))
    async with open_way(workload, how, where) as way, trio.open_nursery() as nursery:
        player = Player(workload=workload, way=way, nursery=nursery)
        calm_collector()

        async def answer(command: dict[str, Any]) -> Any:
            return await obey(player, command)

        await answer_commands(answer)
        nursery.cancel_scope.cancel()


def open_way(workload: Workload, how: str, where: str) -> AbstractAsyncContextManager[Way]:
    return in_this_process(workload, json.loads(where)) if how == "here" else through_service(where)


@asynccontextmanager
async def through_service(socket: str) -> AsyncIterator[Way]:
    async with connect(socket) as runtime:
        yield ThroughService(runtime)


async def obey(player: Player, command: dict[str, Any]) -> Any:
    match command:
        case {"measure": load, "seconds": seconds, "seed": seed}:
            return await player.measure(load, seconds, seed=seed)
        case {"post": loads, "seconds": seconds, "seed": seed}:
            player.post(loads, seconds, seed=seed)
        case {"stop": _}:
            await player.stop()
    return {"texts": player.texts, "ends": dict(player.ends)}


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])

"""python -m bench.provider: the simulator as a process whose providers can change while they are asked.

Commands (see children.py): {"play": {PROVIDER: {member of Profile: value}}} plays these from the next request on, and
is answered with the server's URL; {"stats": PROVIDER} is answered with the simulator's counts for it.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import trio

from bench.children import answer_commands, calm_collector
from loopforge.drivers.simulator.profile import read_profiles
from loopforge.drivers.simulator.server import Simulator

SEGMENT_BYTES = 1448
"""As on a network. With loopback's own 64 KB a window smaller than a segment opens only when a timer of 200 ms fires:
a body of 5 MB then takes seconds."""


async def main() -> None:
    simulator = Simulator()
    simulator.profiles.clear()  # any name is a provider there; here it must have been told
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        for listener in listeners:
            listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
            simulator.port = listener.socket.getsockname()[1]
        nursery.start_soon(simulator.pacer.run)
        nursery.start_soon(trio.serve_listeners, simulator.serve_connection, listeners)
        calm_collector()
        await answer_commands(partial(answer, simulator))
        nursery.cancel_scope.cancel()


async def answer(simulator: Simulator, command: dict[str, Any]) -> Any:
    if (profiles := command.get("play")) is not None:
        simulator.profiles.update(read_profiles(profiles))
        return simulator.url
    simulator.stats.of(command["stats"])
    return simulator.stats.to_plain()["providers"][command["stats"]]


if __name__ == "__main__":
    trio.run(main)

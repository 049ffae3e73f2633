"""python -m bench.provider: the simulator as a process whose providers can change while they are asked.

Commands (see children.py): {"play": {PROVIDER: {member of Profile: value}}} plays these from the next request on, and
is answered with the server's URL; {"stats": PROVIDER} is answered with the simulator's counts for it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from bench.children import answer_commands, calm_collector
from loopforge.drivers.simulator.profile import read_profiles
from loopforge.drivers.simulator.server import Simulator, open_simulator


async def main() -> None:
    async with open_simulator() as simulator:
        simulator.profiles.clear()  # any name is a provider there; here it must have been told
        calm_collector()
        await answer_commands(partial(answer, simulator))


async def answer(simulator: Simulator, command: dict[str, Any]) -> Any:
    if (profiles := command.get("play")) is not None:
        simulator.profiles.update(read_profiles(profiles))
        return simulator.url
    simulator.stats.of(command["stats"])
    return simulator.stats.to_plain()["providers"][command["stats"]]


if __name__ == "__main__":
    trio.run(main)

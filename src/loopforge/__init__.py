"""LoopForge runtime: keeps long-running agents running.

A turn travels `loopforge.runtime` (router, queues, supervisor) -> `loopforge.workers` (one process per provider)
-> `loopforge.drivers` (one wire format each). The names below are the public library; they load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loopforge.drivers.errors import TurnError
    from loopforge.drivers.turn import Message, Reply, Tool, Turn, Usage, assistant, system, user
    from loopforge.runtime.client import Runtime, connect, open_runtime

__all__ = [
    "Message",
    "Reply",
    "Runtime",
    "Tool",
    "Turn",
    "TurnError",
    "Usage",
    "assistant",
    "connect",
    "open_runtime",
    "system",
    "user",
]

_HOME = {
    "TurnError": "loopforge.drivers.errors",
    "Runtime": "loopforge.runtime.client",
    "connect": "loopforge.runtime.client",
    "open_runtime": "loopforge.runtime.client",
}


if not TYPE_CHECKING:  # to a type checker any name would be an attribute, misspelled ones too

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'loopforge' has no attribute {name!r}")
        return getattr(import_module(_HOME.get(name, "loopforge.drivers.turn")), name)

"""MiniMax's own wire, text/chatcompletion_v2: a turn in, deltas out.

Wire format: https://platform.minimax.io/docs/api-reference/text-post and .../errorcode; what was seen in traffic
decided the rest. Errors come inside HTTP 200, and streams end in five ways. Pure: no socket, clock, environment or log.

driver.py        one provider's settings, and what is done with them; open_driver
profiles.py      what each family of models takes, as data
capabilities.py  what a model can carry, told by its profile, in the shape of all kinds
request.py       a turn -> the body: thinking, sampling, tools, structured output
messages.py      the conversation: roles, parts, tool calls and results, earlier thinking
draft.py         the request while it is written, and this wire's opaque data
reader.py        response bytes -> deltas: a stream or one answer, and where it ends
answer.py        members of a frame or message -> deltas; finish reasons
thinking.py      reasoning in fields of its own
calls.py         the client's tool calls, apart from those that the vendor runs itself
usage.py         token counts
failures.py      base_resp and error bodies -> error classes
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopforge.drivers.minimax_native.driver import MinimaxNative, open_driver

__all__ = ["MinimaxNative", "open_driver"]

if not TYPE_CHECKING:  # who asks for capabilities alone does not load the driver

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.driver"), name)
